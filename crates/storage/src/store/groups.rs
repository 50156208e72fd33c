//! Putting items in the order of a run.

/// Items group by group, in their first order within a group.
///
/// Counted first, then each put where it belongs: one pass over the items, however many groups there are. What is sorted by hundreds
/// of megabytes goes into memory that is used again from run to run.
///
/// ```
/// use storage::store::Groups;
///
/// let words = ["to", "be", "or", "not", "to", "be"];
/// let groups = Groups::of(&words, Vec::new(), |word| word.len() as u32, |word| *word);
/// let sizes: Vec<(u32, String)> = groups.iter().map(|(size, words)| (size, words.concat())).collect();
/// assert_eq!(sizes, [(2, "tobeortobe".to_owned()), (3, "not".to_owned())]);
/// ```
#[derive(Debug)]
pub struct Groups<Item> {
    items: Vec<Item>,
    /// By key: where the group ends.
    ends: Vec<u32>,
}

impl<Item: Copy> Groups<Item> {
    /// Groups what `item_of` makes of each source by `key_of` of the source. The memory is overwritten; keys are small numbers, a
    /// counter is kept for each.
    pub fn of<Source>(
        sources: &[Source],
        memory: Vec<Item>,
        key_of: impl Fn(&Source) -> u32,
        item_of: impl Fn(&Source) -> Item,
    ) -> Groups<Item> {
        assert!(u32::try_from(sources.len()).is_ok(), "a run is far below 2^32 events");
        let keys = sources.iter().map(&key_of).max().map_or(0, |last| last as usize + 1);
        let mut ends = vec![0u32; keys];
        sources.iter().for_each(|source| ends[key_of(source) as usize] += 1);
        let mut start = 0;
        for end in &mut ends {
            (*end, start) = (start, start + *end);
        }
        let mut items = memory;
        match sources.first() {
            Some(any) => items.resize(sources.len(), item_of(any)),
            None => items.clear(),
        }
        for source in sources {
            // Until its last item is there, the end of a group is where its next one belongs.
            let next = &mut ends[key_of(source) as usize];
            items[*next as usize] = item_of(source);
            *next += 1;
        }
        Groups { items, ends }
    }

    /// Each group that has items with its key, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &[Item])> {
        let mut start = 0;
        (0..).zip(&self.ends).filter_map(move |(key, end)| {
            let group = &self.items[start as usize..*end as usize];
            start = *end;
            (!group.is_empty()).then_some((key, group))
        })
    }

    /// The memory, to be used again.
    pub fn into_memory(self) -> Vec<Item> {
        self.items
    }
}
