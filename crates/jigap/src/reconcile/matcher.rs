//! Which entries of a bank statement are which entries of the ledger.
//!
//! A pure function, whose result does not depend on the order of its input. It goes through [`PASSES`] in their order, and each
//! looks only at what the passes before it left. Within a pass, entries that could belong together form a *cluster*. A
//! cluster of one and one is a pair. A cluster of as many as as many, all with one reference and one amount, is paired in the order
//! of its dates: its members are interchangeable. Any other cluster is ambiguous, and is never guessed about.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::NaiveDate;

use super::statement::{Money, StatementEntry};

/// Words of a text that may make up one reference, as banks put spaces into it.
const WORDS_MAX: usize = 8;
/// Shorter references than this occur in texts by chance.
const TELLING_SIZE_MIN: usize = 4;

/// One deposit or withdrawal of the ledger, as its bank account should see it: a deposit is positive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LedgerEntry {
    pub(crate) transaction_id: u128,
    /// Of a reversal: the transaction whose money moved back.
    pub(crate) reversed_id: Option<u128>,
    pub(crate) account: String,
    pub(crate) kind: String,
    pub(crate) timestamp: String,
    pub(crate) date: NaiveDate,
    pub(crate) partition: u64,
    pub(crate) sequence: u64,
    pub(crate) money: Money,
    /// What its metadata has under the reference key.
    pub(crate) reference: Option<String>,
}

/// What a pair was found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum By {
    TransactionId,
    Reference,
    Amount,
}

/// One entry of each side, by their places in the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pair {
    pub(crate) statement: usize,
    pub(crate) ledger: usize,
    pub(crate) by: By,
}

/// Entries of which it cannot be told which belong together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cluster {
    pub(crate) statement: Vec<usize>,
    pub(crate) ledger: Vec<usize>,
    pub(crate) by: By,
}

/// What became of every entry: each is in exactly one of these lists, once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Outcome {
    pub(crate) matched: Vec<Pair>,
    /// The same reference, another amount.
    pub(crate) different: Vec<Pair>,
    pub(crate) ambiguous: Vec<Cluster>,
    pub(crate) missing_in_ledger: Vec<usize>,
    pub(crate) missing_in_statement: Vec<usize>,
}

/// What holds between the entries of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// The same amount, on about the same day.
    SameWithinWindow,
    /// The same amount, whenever.
    Same,
    /// Another amount in the same direction.
    OtherAmount,
    /// Money that went the other way. Reversals go the other way by their nature, so they are no part of this.
    OtherDirection,
}

const PASSES: [(By, Rule); 9] = [
    (By::TransactionId, Rule::SameWithinWindow),
    (By::TransactionId, Rule::Same),
    (By::Reference, Rule::SameWithinWindow),
    (By::Reference, Rule::Same),
    (By::TransactionId, Rule::OtherAmount),
    (By::Reference, Rule::OtherAmount),
    (By::TransactionId, Rule::OtherDirection),
    (By::Reference, Rule::OtherDirection),
    (By::Amount, Rule::SameWithinWindow),
];

/// What may be told by the caller.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// How many days may lie between two entries that are matched by their amount.
    pub(crate) date_window: u32,
    pub(crate) keys: Keys,
}

/// Which references count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    All,
    TransactionId,
    Reference,
}

impl Keys {
    fn count(self, by: By) -> bool {
        match by {
            By::TransactionId => self != Keys::Reference,
            By::Reference => self != Keys::TransactionId,
            By::Amount => true,
        }
    }
}

/// Matches the two sides, one to one.
pub(crate) fn reconcile(statement: &[StatementEntry], ledger: &[LedgerEntry], rules: Rules) -> Outcome {
    let mut matching = Matching::new(statement, ledger, rules.date_window.into());
    for (by, rule) in PASSES.into_iter().filter(|(by, _)| rules.keys.count(*by)) {
        matching.pass(by, rule);
    }
    matching.finish()
}

/// What an entry is called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Key {
    Id(u128),
    /// Letters and digits in upper case.
    Reference(String),
    /// Every entry has this one: only the amount counts.
    None,
}

impl Key {
    fn by(&self) -> By {
        match self {
            Key::Id(_) => By::TransactionId,
            Key::Reference(_) => By::Reference,
            Key::None => By::Amount,
        }
    }
}

/// What the entries of one cluster have in common.
type Bucket = (Key, Option<Money>, i64);

struct Matching<'input> {
    statement: &'input [StatementEntry],
    ledger: &'input [LedgerEntry],
    date_window: i64,
    statement_keys: Vec<BTreeSet<Key>>,
    ledger_keys: Vec<BTreeSet<Key>>,
    statement_open: Vec<bool>,
    ledger_open: Vec<bool>,
    outcome: Outcome,
}

impl<'input> Matching<'input> {
    fn new(statement: &'input [StatementEntry], ledger: &'input [LedgerEntry], date_window: i64) -> Self {
        let ledger_keys: Vec<BTreeSet<Key>> = ledger.iter().map(keys_of_ledger_entry).collect();
        let known = KnownKeys::new(&ledger_keys);
        Matching {
            statement,
            ledger,
            date_window,
            statement_keys: statement.iter().map(|entry| known.keys_in(entry)).collect(),
            ledger_keys,
            statement_open: vec![true; statement.len()],
            ledger_open: vec![true; ledger.len()],
            outcome: Outcome::default(),
        }
    }

    fn pass(&mut self, by: By, rule: Rule) {
        let buckets = self.buckets(by, rule);
        let mut union = Union::new(self.statement.len() + self.ledger.len());
        let mut bucket_counts: HashMap<usize, usize> = HashMap::new();
        for (statement, ledger) in buckets.values() {
            self.link(&mut union, statement, ledger, rule);
            for node in statement.iter().copied().chain(ledger.iter().map(|index| self.node(*index))) {
                *bucket_counts.entry(node).or_default() += 1;
            }
        }
        let mut clusters: BTreeMap<usize, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
        let mut nodes: Vec<usize> = bucket_counts.keys().copied().collect();
        nodes.sort_unstable();
        for node in nodes {
            let cluster = clusters.entry(union.root(node)).or_default();
            match node.checked_sub(self.statement.len()) {
                None => cluster.0.push(node),
                Some(index) => cluster.1.push(index),
            }
        }
        for (statement, ledger) in clusters.into_values() {
            if !statement.is_empty() && !ledger.is_empty() {
                let is_one_bucket = statement.iter().all(|index| bucket_counts[index] == 1)
                    && ledger.iter().all(|index| bucket_counts[&self.node(*index)] == 1);
                self.settle(by, rule, statement, ledger, is_one_bucket);
            }
        }
    }

    fn node(&self, ledger: usize) -> usize {
        self.statement.len() + ledger
    }

    /// Open entries by what this pass asks for, where both sides have some.
    fn buckets(&self, by: By, rule: Rule) -> BTreeMap<Bucket, (Vec<usize>, Vec<usize>)> {
        let mut buckets: BTreeMap<Bucket, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
        let is_of_pass = |key: &&Key| key.by() == by && (is_same(rule) || is_telling(key));
        for (index, entry) in
            self.statement.iter().enumerate().filter(|(index, _)| self.statement_open[*index])
        {
            let direction = entry.money.minor_units.signum();
            let value = match rule {
                Rule::SameWithinWindow | Rule::Same => (Some(entry.money), 0),
                Rule::OtherAmount => (None, direction),
                Rule::OtherDirection if entry.is_reversal => continue,
                Rule::OtherDirection => (None, -direction),
            };
            for key in self.statement_keys[index].iter().filter(is_of_pass) {
                buckets.entry((key.clone(), value.0, value.1)).or_default().0.push(index);
            }
        }
        for (index, entry) in self.ledger.iter().enumerate().filter(|(index, _)| self.ledger_open[*index]) {
            let value = match rule {
                Rule::SameWithinWindow | Rule::Same => (Some(entry.money), 0),
                Rule::OtherDirection if entry.reversed_id.is_some() => continue,
                Rule::OtherAmount | Rule::OtherDirection => (None, entry.money.minor_units.signum()),
            };
            for key in self.ledger_keys[index].iter().filter(is_of_pass) {
                if let Some(bucket) = buckets.get_mut(&(key.clone(), value.0, value.1)) {
                    bucket.1.push(index);
                }
            }
        }
        buckets.retain(|_, (_, ledger)| !ledger.is_empty());
        buckets
    }

    /// Joins the entries of a bucket that may belong together.
    fn link(&self, union: &mut Union, statement: &[usize], ledger: &[usize], rule: Rule) {
        if rule != Rule::SameWithinWindow {
            let nodes = statement.iter().copied().chain(ledger.iter().map(|index| self.node(*index)));
            nodes.reduce(|one, two| {
                union.join(one, two);
                two
            });
            return;
        }
        let mut by_date: Vec<(NaiveDate, usize)> =
            ledger.iter().map(|index| (self.ledger[*index].date, self.node(*index))).collect();
        by_date.sort_unstable();
        // Up to where each entry is joined with the next one already: a day with many entries is walked once.
        let mut joined = vec![false; by_date.len()];
        for index in statement {
            let entry = &self.statement[*index];
            for day in [Some(entry.booked), entry.valued].into_iter().flatten() {
                let days = |date: NaiveDate| (date - day).num_days();
                let first = by_date.partition_point(|(date, _)| days(*date) < -self.date_window);
                let end = by_date.partition_point(|(date, _)| days(*date) <= self.date_window);
                if first < end {
                    union.join(*index, by_date[first].1);
                }
                for at in first..end.saturating_sub(1).max(first) {
                    if !std::mem::replace(&mut joined[at], true) {
                        union.join(by_date[at].1, by_date[at + 1].1);
                    }
                }
            }
        }
    }

    fn settle(
        &mut self,
        by: By,
        rule: Rule,
        mut statement: Vec<usize>,
        mut ledger: Vec<usize>,
        is_one_bucket: bool,
    ) {
        let is_pair = statement.len() == 1 && ledger.len() == 1;
        let are_interchangeable =
            by != By::Amount && is_same(rule) && is_one_bucket && statement.len() == ledger.len();
        // Those that this leaves may still be told apart without the window.
        let may_wait = by != By::Amount && rule == Rule::SameWithinWindow;
        if !is_pair && !are_interchangeable && may_wait {
            return;
        }
        statement.sort_by_key(|index| order(&self.statement[*index]));
        ledger.sort_by_key(|index| {
            let entry = &self.ledger[*index];
            (entry.date, entry.partition, entry.sequence)
        });
        statement.iter().for_each(|index| self.statement_open[*index] = false);
        ledger.iter().for_each(|index| self.ledger_open[*index] = false);
        if !is_pair && !are_interchangeable {
            self.outcome.ambiguous.push(Cluster { statement, ledger, by });
            return;
        }
        let pairs = statement.into_iter().zip(ledger);
        let pairs = pairs.map(|(statement, ledger)| Pair { statement, ledger, by });
        let list = if is_same(rule) { &mut self.outcome.matched } else { &mut self.outcome.different };
        list.extend(pairs);
    }

    /// What is left is missing on the other side. Everything is put in the order of the statement, then of the ledger.
    fn finish(mut self) -> Outcome {
        let open = |open: &[bool]| (0..open.len()).filter(|index| open[*index]).collect::<Vec<_>>();
        self.outcome.missing_in_ledger = open(&self.statement_open);
        self.outcome.missing_in_statement = open(&self.ledger_open);
        let by_statement = |index: &usize| order(&self.statement[*index]);
        self.outcome.missing_in_ledger.sort_by_key(by_statement);
        self.outcome.matched.sort_by_key(|pair| by_statement(&pair.statement));
        self.outcome.different.sort_by_key(|pair| by_statement(&pair.statement));
        self.outcome.ambiguous.sort_by_key(|cluster| by_statement(&cluster.statement[0]));
        let by_ledger = |index: &usize| (self.ledger[*index].date, self.ledger[*index].sequence);
        self.outcome.missing_in_statement.sort_by_key(by_ledger);
        self.outcome
    }
}

fn is_same(rule: Rule) -> bool {
    matches!(rule, Rule::SameWithinWindow | Rule::Same)
}

/// Long enough that an entry of another amount is meant all the same.
fn is_telling(key: &Key) -> bool {
    match key {
        Key::Reference(text) => text.chars().count() >= TELLING_SIZE_MIN,
        Key::Id(_) | Key::None => true,
    }
}

/// By content first: the place in the file counts only between entries that are alike.
fn order(entry: &StatementEntry) -> impl Ord + use<> {
    let StatementEntry { place, booked, valued, money, references, text, is_reversal } = entry;
    (*booked, *valued, *money, references.clone(), text.clone(), *is_reversal, *place)
}

fn keys_of_ledger_entry(entry: &LedgerEntry) -> BTreeSet<Key> {
    let ids = [Some(entry.transaction_id), entry.reversed_id].into_iter().flatten().map(Key::Id);
    let reference =
        entry.reference.as_deref().map(normal).filter(|text| !text.is_empty()).map(Key::Reference);
    ids.chain(reference).chain([Key::None]).collect()
}

/// Letters and digits alone, in upper case: banks change the rest.
fn normal(text: &str) -> String {
    text.chars().filter(|letter| letter.is_alphanumeric()).flat_map(char::to_uppercase).collect()
}

/// The ids and references that the ledger has, to be found in what banks write.
struct KnownKeys {
    ids: HashSet<u128>,
    references: HashSet<String>,
    longest_reference: usize,
}

impl KnownKeys {
    fn new(ledger_keys: &[BTreeSet<Key>]) -> KnownKeys {
        let mut known = KnownKeys { ids: HashSet::new(), references: HashSet::new(), longest_reference: 0 };
        for key in ledger_keys.iter().flatten() {
            match key {
                Key::Id(id) => drop(known.ids.insert(*id)),
                Key::Reference(text) => {
                    known.longest_reference = known.longest_reference.max(text.len());
                    known.references.insert(text.clone());
                }
                Key::None => {}
            }
        }
        known
    }

    fn keys_in(&self, entry: &StatementEntry) -> BTreeSet<Key> {
        let mut keys = BTreeSet::from([Key::None]);
        for reference in &entry.references {
            let whole = normal(reference);
            if self.references.contains(&whole) {
                keys.insert(Key::Reference(whole));
            }
        }
        for text in entry.references.iter().chain([&entry.text]) {
            self.add_ids_in(text, &mut keys);
            self.add_references_in(text, &mut keys);
        }
        keys
    }

    /// Ids with hyphens or without, in any case, broken by spaces wherever a line of the bank's ended.
    fn add_ids_in(&self, text: &str, keys: &mut BTreeSet<Key>) {
        let (mut digits, mut value) = (0, 0u128);
        for letter in text.chars().filter(|letter| *letter != '-' && !letter.is_whitespace()) {
            match letter.to_digit(16) {
                Some(digit) => {
                    digits += 1;
                    value = value << 4 | u128::from(digit);
                    if digits >= 32 && self.ids.contains(&value) {
                        keys.insert(Key::Id(value));
                    }
                }
                None => (digits, value) = (0, 0),
            }
        }
    }

    /// References as whole words, or as several words in a row.
    fn add_references_in(&self, text: &str, keys: &mut BTreeSet<Key>) {
        let words: Vec<String> = text
            .split(|letter: char| !letter.is_alphanumeric())
            .map(normal)
            .filter(|word| !word.is_empty())
            .collect();
        for first in 0..words.len() {
            let mut joined = String::new();
            for word in words[first..].iter().take(WORDS_MAX) {
                joined.push_str(word);
                if joined.len() > self.longest_reference {
                    break;
                }
                if joined.chars().count() >= TELLING_SIZE_MIN && self.references.contains(&joined) {
                    keys.insert(Key::Reference(joined.clone()));
                }
            }
        }
    }
}

/// Which nodes are joined, however indirectly.
struct Union {
    parents: Vec<usize>,
}

impl Union {
    fn new(nodes: usize) -> Union {
        Union { parents: (0..nodes).collect() }
    }

    fn root(&mut self, mut node: usize) -> usize {
        while self.parents[node] != node {
            // Every second step is saved for whoever comes next.
            self.parents[node] = self.parents[self.parents[node]];
            node = self.parents[node];
        }
        node
    }

    fn join(&mut self, one: usize, two: usize) {
        let (one, two) = (self.root(one), self.root(two));
        self.parents[one.max(two)] = one.min(two);
    }
}
