//! Putting items in the order of a run.

/// Few enough items to stay in the processor's cache while they are sorted.
const ITEMS_PER_CHUNK: usize = 1 << 17;

/// Items group by group, ascending by key, in their first order within a group.
///
/// Chunks that are sorted already are merged while they are read: no further memory, hardly an access that is not to the next place
/// of a chunk, and none of the jumps of a sort that spans hundreds of megabytes.
///
/// ```
/// use storage::store::Groups;
///
/// let mut words = ["to", "be", "or", "not", "to", "be"];
/// let groups = Groups::sort(&mut words, |word| word.len() as u32);
/// let sizes: Vec<(u32, Vec<&str>)> = groups.map(|(size, words)| (size, words.concat())).collect();
/// assert_eq!(sizes, [(2, vec!["to", "be", "or", "to", "be"]), (3, vec!["not"])]);
/// ```
pub struct Groups<'items, Item, KeyOf> {
    chunks: Vec<&'items [Item]>,
    key_of: KeyOf,
}

impl<'items, Item, KeyOf: Fn(&Item) -> u32> Groups<'items, Item, KeyOf> {
    /// Sorts the items in place, chunk by chunk.
    pub fn sort(items: &'items mut [Item], key_of: KeyOf) -> Groups<'items, Item, KeyOf> {
        items.chunks_mut(ITEMS_PER_CHUNK).for_each(|chunk| radsort::sort_by_key(chunk, &key_of));
        let items: &'items [Item] = items;
        Groups::merge(items.chunks(ITEMS_PER_CHUNK).collect(), key_of)
    }

    /// Takes chunks, each sorted by the key.
    pub fn merge(chunks: Vec<&'items [Item]>, key_of: KeyOf) -> Groups<'items, Item, KeyOf> {
        Groups { chunks, key_of }
    }
}

impl<'items, Item, KeyOf: Fn(&Item) -> u32> Iterator for Groups<'items, Item, KeyOf> {
    /// A key, and its items in the chunks that have some.
    type Item = (u32, Vec<&'items [Item]>);

    fn next(&mut self) -> Option<Self::Item> {
        let key_of = &self.key_of;
        let key = self.chunks.iter().filter_map(|chunk| chunk.first()).map(key_of).min()?;
        let take = |chunk: &mut &'items [Item]| {
            let count = chunk.iter().take_while(|item| key_of(item) == key).count();
            chunk.split_off(..count).expect("a chunk has what was counted in it")
        };
        let parts = self.chunks.iter_mut().map(take).filter(|part| !part.is_empty()).collect();
        Some((key, parts))
    }
}
