//! What a node stores, and the script that changes it.

use std::collections::{BTreeMap, BTreeSet};

use coordinator::book::{AccountState, Balances, Book, Changes, Counter, Key};
use coordinator::port::{BranchState, Entry, ShardNumber};
use ledger::{AccountId, Currency, Sequence, Timestamp, TransactionId};
use serde_json::{Value, json};

use super::Position;
use super::node::Node;
use crate::cell::{Cell, Row};
use crate::failure::Failure;
use crate::{HistoryRange, ShardTotals, rows};

/// How often rows may lead to other rows.
const ROUNDS_MAX: usize = 8;

/// Stores what changed if the partition's version is still the one that was read. Each operation is a command with its number of words.
/// Answers 0 when somebody else was faster.
const STORE: &str = "\
local version = redis.call('HGET', KEYS[1], 'version') or '0'
if version ~= ARGV[1] then return 0 end
local at = 2
while at <= #ARGV do
  local words = tonumber(ARGV[at])
  redis.call(unpack(ARGV, at + 1, at + words))
  at = at + words + 1
end
return 1";

/// The keys of a partition.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    number: ShardNumber,
    prefix: String,
}

impl Keys {
    pub(super) fn of(number: ShardNumber) -> Keys {
        Keys { number, prefix: format!("{{jigap:{}}}:", number.0) }
    }

    pub(super) fn number(&self) -> ShardNumber {
        self.number
    }

    /// A hash: `version`, `sequence`, `moment`, `accounts`.
    pub(super) fn position(&self) -> String {
        self.key("position", "")
    }

    pub(super) fn claim(&self, id: TransactionId) -> String {
        self.key("claim:", &id.to_string())
    }

    /// A row of the phase status table.
    pub(super) fn record(&self, id: TransactionId) -> String {
        self.key("record:", &id.to_string())
    }

    /// A barrier.
    pub(super) fn branch(&self, id: TransactionId) -> String {
        self.key("branch:", &id.to_string())
    }

    pub(super) fn hold(&self, id: TransactionId) -> String {
        self.key("hold:", &id.to_string())
    }

    pub(super) fn fate(&self, id: TransactionId) -> String {
        self.key("fate:", &id.to_string())
    }

    pub(super) fn account(&self, account: &AccountId) -> String {
        self.key("account:", account.as_str())
    }

    /// A hash: the row of each currency.
    pub(super) fn balances(&self, account: &AccountId) -> String {
        self.key("balances:", account.as_str())
    }

    /// A sorted set: entries by sequence.
    pub(super) fn history(&self, account: &AccountId) -> String {
        self.key("history:", account.as_str())
    }

    /// A set: the currencies that the history tells of.
    pub(super) fn moved(&self, account: &AccountId) -> String {
        self.key("moved:", account.as_str())
    }

    /// A sorted set: unfinished transactions by when they began.
    pub(super) fn unfinished(&self) -> String {
        self.key("unfinished", "")
    }

    /// A sorted set: branches without a second phase by when they began.
    pub(super) fn taken(&self) -> String {
        self.key("taken", "")
    }

    /// A sorted set: pending holds by when they lapse.
    pub(super) fn expiring(&self) -> String {
        self.key("expiring", "")
    }

    /// A hash: for each currency the sum of balances, and with a `t` before it of what is taken.
    pub(super) fn totals(&self) -> String {
        self.key("totals", "")
    }

    fn key(&self, kind: &str, name: &str) -> String {
        format!("{}{kind}{name}", self.prefix)
    }
}

/// Rows as loaded, with the version at which they were.
pub(super) struct Loaded {
    pub(super) book: Book,
    position: Position,
    /// Of the accounts that are loaded, so that sums can be kept.
    before: BTreeMap<(AccountId, Currency), Balances>,
}

impl Loaded {
    pub(super) async fn begin(node: &Node, keys: &Keys) -> Result<Loaded, Failure> {
        let position = position(node, keys).await?;
        let mut book = Book::new();
        book.load_counter(Counter { sequence: position.sequence, timestamp: position.timestamp });
        Ok(Loaded { book, position, before: BTreeMap::new() })
    }

    /// Loads until nothing is missing. What is read may be of several versions; then the version at the end is another one.
    pub(super) async fn load(
        &mut self,
        node: &Node,
        keys: &Keys,
        missing: impl Fn(&Book) -> BTreeSet<Key>,
    ) -> Result<(), Failure> {
        for _ in 0..ROUNDS_MAX {
            let wanted = missing(&self.book);
            if wanted.is_empty() {
                return Ok(());
            }
            self.round(node, keys, wanted).await?;
        }
        Err(Failure::refused("rows lead to ever more rows"))
    }

    async fn round(&mut self, node: &Node, keys: &Keys, wanted: BTreeSet<Key>) -> Result<(), Failure> {
        let mut names = BTreeSet::new();
        let mut singles = Vec::new();
        for key in wanted {
            match key {
                Key::Balance(account, _) | Key::AllBalances(account) => {
                    names.insert(account);
                }
                Key::Counter => {}
                single => singles.push(single),
            }
        }
        let at = |key: &Key| match key {
            Key::Claim(id) => keys.claim(*id),
            Key::Record(id) => keys.record(*id),
            Key::Branch(id) => keys.branch(*id),
            Key::Hold(id) => keys.hold(*id),
            Key::Fate(id) => keys.fate(*id),
            Key::Account(account) | Key::Balance(account, _) | Key::AllBalances(account) => {
                keys.account(account)
            }
            Key::Counter => keys.position(),
        };
        let found = node.rows(singles.iter().map(at).collect()).await?;
        for (key, row) in singles.into_iter().zip(found) {
            self.enter(key, row.as_ref())?;
        }
        if names.is_empty() {
            return Ok(());
        }
        let mut pipeline = redis::pipe();
        for account in &names {
            pipeline.cmd("HVALS").arg(keys.balances(account));
        }
        let found: Vec<Vec<String>> = node.query(&pipeline).await?;
        for (account, texts) in names.into_iter().zip(found) {
            let all = balances(&texts)?;
            self.before.extend(all.iter().map(|(currency, one)| ((account.clone(), *currency), *one)));
            self.book.load_all_balances(account, all);
        }
        Ok(())
    }

    fn enter(&mut self, key: Key, row: Option<&Row>) -> Result<(), Failure> {
        match key {
            Key::Claim(id) => self.book.load_claim(id, row.map(rows::claim).transpose()?.map(|(_, row)| row)),
            Key::Record(id) => self.book.load_record(id, row.map(rows::status).transpose()?),
            Key::Branch(id) => {
                self.book.load_branch(id, row.map(rows::branch).transpose()?.map(|(_, row)| row));
            }
            Key::Hold(id) => self.book.load_hold(id, row.map(rows::hold).transpose()?.map(|(_, row)| row)),
            Key::Fate(id) => self.book.load_fate(id, row.map(rows::fate).transpose()?.map(|(_, row)| row)),
            Key::Account(account) => {
                let state = row.map(rows::account).transpose()?.map(|(_, state)| state);
                self.book.load_account(account, state);
            }
            Key::Balance(..) | Key::AllBalances(_) | Key::Counter => {}
        }
        Ok(())
    }

    /// Stores what changed; false when somebody else was faster, and nothing was stored.
    pub(super) async fn store(mut self, node: &Node, keys: &Keys) -> Result<bool, Failure> {
        let changes = self.book.take_changes();
        let operations = self.operations(keys, &changes)?;
        let mut pipeline = redis::pipe();
        let command = pipeline.cmd("EVAL").arg(STORE).arg(1).arg(keys.position()).arg(self.position.version);
        for operation in &operations {
            command.arg(operation.len()).arg(operation);
        }
        let (stored,): (i64,) = node.query(&pipeline).await?;
        Ok(stored == 1)
    }

    fn operations(&self, keys: &Keys, changes: &Changes) -> Result<Vec<Vec<String>>, Failure> {
        let mut all: Vec<Vec<String>> = Vec::new();
        let mut run = |words: &[&str]| all.push(words.iter().map(|&word| word.to_owned()).collect());
        let indexed =
            |run: &mut dyn FnMut(&[&str]), index: &str, id: TransactionId, score: Option<i64>| match score {
                Some(score) => run(&["ZADD", index, &score.to_string(), &id.to_string()]),
                None => run(&["ZREM", index, &id.to_string()]),
            };
        for one in &changes.claims {
            run(&["SET", &keys.claim(one.key), &to_text(rows::claim_cells(one.key, &one.row))]);
        }
        for one in &changes.records {
            run(&["SET", &keys.record(one.key), &to_text(rows::status_cells(&one.row))]);
            let began = one.row.outcome.is_none().then_some(one.row.started_at.as_micros());
            indexed(&mut run, &keys.unfinished(), one.key, began);
        }
        for one in &changes.branches {
            run(&["SET", &keys.branch(one.key), &to_text(rows::branch_cells(one.key, &one.row))]);
            let taken = one.row.state == BranchState::Taken;
            indexed(&mut run, &keys.taken(), one.key, taken.then_some(one.row.started_at.as_micros()));
        }
        for one in &changes.holds {
            run(&["SET", &keys.hold(one.key), &to_text(rows::hold_cells(one.key, &one.row))]);
            let lapses = one.row.expires_at.filter(|_| one.row.pending).map(Timestamp::as_micros);
            indexed(&mut run, &keys.expiring(), one.key, lapses);
        }
        for one in &changes.fates {
            run(&["SET", &keys.fate(one.key), &to_text(rows::fate_cells(one.key, &one.row))]);
        }
        for one in &changes.accounts {
            run(&["SET", &keys.account(&one.key), &to_text(rows::account_cells(&one.key, &one.row))]);
        }
        let mut sums: BTreeMap<Currency, (i128, i128)> = BTreeMap::new();
        for one in &changes.balances {
            let (account, currency) = &one.key;
            let row = to_text(rows::balances_cells(account, *currency, &one.row));
            run(&["HSET", &keys.balances(account), &currency.numeric().to_string(), &row]);
            let before = self.before.get(&one.key).copied().unwrap_or_default();
            let (sum, taken) = sums.entry(*currency).or_default();
            *sum += total(&one.row) - total(&before);
            *taken += i128::from(one.row.taken) - i128::from(before.taken);
        }
        for (currency, (sum, taken)) in sums {
            for (field, change) in [(String::new(), sum), ("t".to_owned(), taken)] {
                let field = format!("{field}{}", currency.numeric());
                let change = i64::try_from(change).map_err(|_| Failure::refused("a sum leaves its range"))?;
                run(&["HINCRBY", &keys.totals(), &field, &change.to_string()]);
            }
        }
        let mut ordinals: BTreeMap<(&AccountId, Sequence), usize> = BTreeMap::new();
        for (account, entry) in &changes.entries {
            let ordinal = ordinals.entry((account, entry.sequence)).or_default();
            let row = to_text(rows::entry_cells(account, *ordinal, entry));
            *ordinal += 1;
            run(&["ZADD", &keys.history(account), &entry.sequence.0.to_string(), &row]);
            run(&["SADD", &keys.moved(account), &entry.currency.numeric().to_string()]);
        }
        if !all.is_empty() {
            let counter = changes
                .counter
                .unwrap_or(Counter { sequence: self.position.sequence, timestamp: self.position.timestamp });
            let opened = changes.accounts.iter().filter(|account| account.is_new).count();
            let accounts = self.position.accounts + i64::try_from(opened).unwrap_or(i64::MAX);
            all.push(position_words(keys, self.position.version + 1, counter, accounts));
        }
        Ok(all)
    }
}

fn position_words(keys: &Keys, version: i64, counter: Counter, accounts: i64) -> Vec<String> {
    let mut words = vec!["HSET".to_owned(), keys.position()];
    let fields = [
        ("version", version.to_string()),
        ("sequence", counter.sequence.0.to_string()),
        ("moment", counter.timestamp.as_micros().to_string()),
        ("accounts", accounts.to_string()),
    ];
    words.extend(fields.into_iter().flat_map(|(field, value)| [field.to_owned(), value]));
    words
}

fn total(balances: &Balances) -> i128 {
    i128::from(balances.available) + i128::from(balances.held)
}

async fn position(node: &Node, keys: &Keys) -> Result<Position, Failure> {
    let mut pipeline = redis::pipe();
    pipeline.cmd("HMGET").arg(keys.position()).arg(&["version", "sequence", "moment", "accounts"]);
    let (found,): (Vec<Option<i64>>,) = node.query(&pipeline).await?;
    let [version, sequence, moment, accounts] = found[..] else {
        return Err(Failure::refused("the position of the partition cannot be read"));
    };
    Ok(Position {
        version: version.unwrap_or(0),
        sequence: Sequence(u64::try_from(sequence.unwrap_or(0)).unwrap_or(0)),
        timestamp: Timestamp::from_micros(moment.unwrap_or(0)),
        accounts: accounts.unwrap_or(0),
    })
}

/// An account with its balances and the partition's last event, as of one moment. A currency in which nothing ever moved has no balance,
/// though a refused transaction may have left a row of zeros.
pub(super) async fn account(
    node: &Node,
    keys: &Keys,
    account: &AccountId,
) -> Result<Option<(AccountState, Vec<(Currency, Balances)>, Counter)>, Failure> {
    let mut pipeline = redis::pipe();
    pipeline.atomic();
    pipeline.cmd("GET").arg(keys.account(account));
    pipeline.cmd("HVALS").arg(keys.balances(account));
    pipeline.cmd("SMEMBERS").arg(keys.moved(account));
    pipeline.cmd("HMGET").arg(keys.position()).arg(&["sequence", "moment"]);
    type Found = (Option<String>, Vec<String>, BTreeSet<u16>, Vec<Option<i64>>);
    let (state, texts, moved, position): Found = node.query(&pipeline).await?;
    let is_external = *account == AccountId::external();
    let state = match state {
        Some(text) => rows::account(&from_text(&text)?)?.1,
        None if is_external => AccountState {
            opened_at: Timestamp::default(),
            metadata: ledger::Metadata::default(),
            closed: false,
            pins: 0,
        },
        None => return Ok(None),
    };
    let mut balances = balances(&texts)?;
    balances
        .retain(|(currency, one)| one.available != 0 || one.held != 0 || moved.contains(&currency.numeric()));
    balances.sort_by_key(|(currency, _)| currency.numeric());
    let number = |index: usize| position.get(index).copied().flatten().unwrap_or(0);
    let sequence = Sequence(u64::try_from(number(0)).unwrap_or(0));
    Ok(Some((state, balances, Counter { sequence, timestamp: Timestamp::from_micros(number(1)) })))
}

fn balances(texts: &[String]) -> Result<Vec<(Currency, Balances)>, Failure> {
    let read = |text: &String| rows::balances(&from_text(text)?).map(|(_, currency, row)| (currency, row));
    texts.iter().map(read).collect()
}

/// A part of a history, newest first.
pub(super) async fn history(
    node: &Node,
    keys: &Keys,
    account: &AccountId,
    range: &HistoryRange,
) -> Result<Vec<Entry>, Failure> {
    let mut found = Vec::new();
    let mut before = range.before;
    // What is not wanted is passed over a page at a time.
    while found.len() < range.limit {
        let highest = before.map_or_else(|| "+inf".to_owned(), |before| format!("({}", before.0));
        let mut pipeline = redis::pipe();
        let command = pipeline.cmd("ZRANGE").arg(keys.history(account)).arg(highest).arg("-inf");
        command.arg("BYSCORE").arg("REV").arg("LIMIT").arg(0).arg(range.limit);
        let (texts,): (Vec<String>,) = node.query(&pipeline).await?;
        let mut page = Vec::with_capacity(texts.len());
        for text in &texts {
            let row = from_text(text)?;
            page.push((row.integer(2)?, rows::entry(&row)?));
        }
        // Of one event, the later posting is the newer one, whatever order their texts have.
        page.sort_by_key(|(ordinal, entry)| (std::cmp::Reverse(entry.sequence), std::cmp::Reverse(*ordinal)));
        let is_last = page.len() < range.limit;
        before = page.last().map(|(_, entry)| entry.sequence);
        let wanted = |entry: &Entry| {
            range.currency.is_none_or(|currency| entry.currency == currency)
                && range.since.is_none_or(|since| entry.timestamp >= since)
                && range.until.is_none_or(|until| entry.timestamp < until)
        };
        let too_old = range.since.zip(page.last()).is_some_and(|(since, (_, last))| last.timestamp < since);
        found.extend(page.into_iter().map(|(_, entry)| entry).filter(wanted));
        if is_last || too_old {
            break;
        }
    }
    found.truncate(range.limit);
    Ok(found)
}

/// Every currency's sums.
pub(super) async fn totals(node: &Node, keys: &Keys) -> Result<ShardTotals, Failure> {
    let mut pipeline = redis::pipe();
    pipeline.atomic();
    pipeline.cmd("HGETALL").arg(keys.totals());
    pipeline.cmd("HMGET").arg(keys.position()).arg(&["sequence", "accounts"]);
    let (sums, position): (BTreeMap<String, i64>, Vec<Option<i64>>) = node.query(&pipeline).await?;
    let mut currencies = Vec::new();
    for (field, sum) in &sums {
        let Ok(numeric) = field.parse() else { continue };
        let currency = Currency::from_numeric(numeric)
            .ok_or_else(|| Failure::refused(format!("{numeric} is no currency")))?;
        let taken = sums.get(&format!("t{numeric}")).copied().unwrap_or(0);
        currencies.push((currency, i128::from(*sum), i128::from(taken)));
    }
    currencies.sort_by_key(|(currency, ..)| currency.numeric());
    let number =
        |index: usize| u64::try_from(position.get(index).copied().flatten().unwrap_or(0)).unwrap_or(0);
    Ok(ShardTotals { sequence: Sequence(number(0)), accounts: number(1), currencies })
}

/// A row as text: a JSON array of its cells.
fn to_text(cells: Vec<Cell>) -> String {
    let value = |cell: Cell| match cell {
        Cell::Null => Value::Null,
        Cell::Integer(number) => json!(number),
        Cell::Flag(flag) => json!(flag),
        Cell::Text(text) => json!(text),
        Cell::Bytes(bytes) => json!({ "bytes": hex::encode(bytes) }),
        Cell::Id(id) => json!({ "id": id.to_string() }),
    };
    Value::Array(cells.into_iter().map(value).collect()).to_string()
}

pub(super) fn from_text(text: &str) -> Result<Row, Failure> {
    let unreadable = || Failure::refused(format!("a row cannot be read: {text}"));
    let cells: Vec<Value> = serde_json::from_str(text).map_err(|_| unreadable())?;
    let cell = |value: Value| match value {
        Value::Null => Some(Cell::Null),
        Value::Bool(flag) => Some(Cell::Flag(flag)),
        Value::Number(number) => number.as_i64().map(Cell::Integer),
        Value::String(text) => Some(Cell::Text(text)),
        Value::Array(_) => None,
        Value::Object(fields) => match (fields.get("bytes"), fields.get("id")) {
            (Some(bytes), _) => hex::decode(bytes.as_str()?).ok().map(Cell::Bytes),
            (_, Some(id)) => TransactionId::parse(id.as_str()?).ok().map(Cell::Id),
            _ => None,
        },
    };
    cells.into_iter().map(cell).collect::<Option<Vec<Cell>>>().map(Row).ok_or_else(unreadable)
}
