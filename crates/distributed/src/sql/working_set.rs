//! The rows that some steps need, loaded from the database into a book, and stored again.
//!
//! Who may write a row, has locked another: claims, records and branches are written under the lock of the shard's position (a branch being
//! prepared writes its own row only); an account and its balances under the lock of the account's row; holds and fates under their own.

use std::collections::{BTreeMap, BTreeSet};

use coordinator::book::{Book, Changes, Counter, Key};
use coordinator::port::{Answer, NoAnswer, Step};
use ledger::{AccountId, Sequence, Timestamp, TransactionId};

use super::cell::{Cell, Row};
use super::connection::{Connection, Dialect, Load, Lock, Store, Table};
use super::failure::Failure;
use super::outbox::{self, Message};
use super::rows;
use super::schema::{ACCOUNTS, BALANCES, BRANCHES, CLAIMS, FATES, HISTORY, HOLDS, POSITION, TRANSACTIONS};

/// How often rows may lead to other rows. A step's record leads to its branch, and that to accounts.
const ROUNDS_MAX: usize = 8;

/// Rows of the database, as loaded and as changed since.
pub(super) struct WorkingSet {
    book: Book,
    lock: Lock,
    /// Accounts ever opened; `None` when the position is not locked.
    accounts: Option<i64>,
    /// What somebody else has locked.
    elsewhere: BTreeSet<Key>,
    /// Accounts that are locked, with all their balances, or do not exist.
    accounts_here: BTreeSet<AccountId>,
    messages: BTreeMap<u128, Message>,
}

/// What is locked before a row of [`Key`] is read.
enum Guard {
    Position,
    Row,
    Account(AccountId),
}

impl WorkingSet {
    /// Locks the position of the shard first: nobody else writes a batch meanwhile.
    pub(super) async fn of_batch(connection: &mut dyn Connection) -> Result<WorkingSet, Failure> {
        let found = connection
            .rows("SELECT sequence, moment, accounts FROM shard_position WHERE one = 1 FOR UPDATE", &[])
            .await?;
        let row = found.first().ok_or_else(|| Failure::refused("the row of the position is missing"))?;
        let mut set = WorkingSet::with(Lock::Skip);
        set.accounts = Some(row.integer(2)?);
        set.book.load_counter(Counter {
            sequence: Sequence(row.number(0)?),
            timestamp: Timestamp::from_micros(row.integer(1)?),
        });
        Ok(set)
    }

    /// The rows of a branch that is being prepared, whose barrier is certainly empty.
    pub(super) fn of_new_branch(transaction_id: TransactionId) -> WorkingSet {
        let mut set = WorkingSet::with(Lock::Wait);
        set.book.load_branch(transaction_id, None);
        set
    }

    /// The rows of a branch that is only asked about its barrier.
    pub(super) async fn of_known_branch(
        connection: &mut dyn Connection,
        transaction_id: TransactionId,
    ) -> Result<WorkingSet, Failure> {
        let mut set = WorkingSet::with(Lock::None);
        set.load(connection, &BTreeSet::from([Key::Branch(transaction_id)])).await?;
        Ok(set)
    }

    fn with(lock: Lock) -> WorkingSet {
        WorkingSet {
            book: Book::new(),
            lock,
            accounts: None,
            elsewhere: BTreeSet::new(),
            accounts_here: BTreeSet::new(),
            messages: BTreeMap::new(),
        }
    }

    /// Loads what these steps need.
    pub(super) async fn prepare<'step>(
        &mut self,
        connection: &mut dyn Connection,
        steps: impl Iterator<Item = &'step Step> + Clone,
    ) -> Result<(), Failure> {
        self.rounds(connection, |book| steps.clone().flat_map(|step| book.missing(step)).collect()).await
    }

    /// Sends a message, once what causes it is stored.
    pub(super) fn send(&mut self, message: Message) {
        self.messages.insert(message.id, message);
    }

    /// Executes a step. What it needs is loaded, unless a step before it changed what it needs.
    pub(super) async fn execute(
        &mut self,
        connection: &mut dyn Connection,
        step: &Step,
        now: Timestamp,
    ) -> Result<Result<Answer, NoAnswer>, Failure> {
        if !self.book.missing(step).is_empty() {
            self.rounds(connection, |book| book.missing(step)).await?;
        }
        if !self.book.missing(step).is_empty() {
            return Ok(Err(NoAnswer::Busy("a two-phase commit has locked what this needs".to_owned())));
        }
        Ok(self.book.execute(step, now))
    }

    /// What the barrier of a branch answers, before any other row is looked at.
    pub(super) fn execute_known(&mut self, step: &Step, now: Timestamp) -> Result<Answer, NoAnswer> {
        let missing = self.book.missing(step);
        missing.into_iter().for_each(|key| load_nothing(&mut self.book, key));
        self.book.execute(step, now)
    }

    /// Releases holds that have lapsed; how many.
    pub(super) async fn expire(
        &mut self,
        connection: &mut dyn Connection,
        hold_ids: &[TransactionId],
        now: Timestamp,
    ) -> Result<usize, Failure> {
        self.rounds(connection, |book| {
            hold_ids.iter().flat_map(|hold_id| book.missing_to_expire(*hold_id)).collect()
        })
        .await?;
        let mut released = 0;
        for hold_id in hold_ids {
            if self.book.missing_to_expire(*hold_id).is_empty() && self.book.expire_hold(*hold_id, now) {
                released += 1;
            }
        }
        Ok(released)
    }

    /// Loads until nothing is missing but what others have locked.
    async fn rounds(
        &mut self,
        connection: &mut dyn Connection,
        missing: impl Fn(&Book) -> BTreeSet<Key>,
    ) -> Result<(), Failure> {
        for _ in 0..ROUNDS_MAX {
            let mut keys = missing(&self.book);
            keys.retain(|key| !self.elsewhere.contains(key));
            if keys.is_empty() {
                return Ok(());
            }
            self.load(connection, &keys).await?;
        }
        Err(Failure::refused("rows lead to ever more rows"))
    }

    async fn load(&mut self, connection: &mut dyn Connection, keys: &BTreeSet<Key>) -> Result<(), Failure> {
        let mut ids: BTreeMap<&'static str, BTreeSet<TransactionId>> = BTreeMap::new();
        let mut names = BTreeSet::new();
        for key in keys {
            match guard(key) {
                Guard::Account(account) => {
                    if !self.accounts_here.contains(&account) {
                        names.insert(account);
                    }
                }
                Guard::Position | Guard::Row => {
                    let (table, id) = table_of(key).expect("every other key is an id of a table");
                    ids.entry(table.name).or_default().insert(id);
                }
            }
        }
        let of = |table: &'static Table, lock| Load {
            table,
            by: 0,
            values: ids.get(table.name).into_iter().flatten().map(|id| Cell::Id(*id)).collect(),
            lock,
        };
        let named = |table: &'static Table, lock| Load {
            table,
            by: 0,
            values: names.iter().map(|name| Cell::Text(name.as_str().to_owned())).collect(),
            lock,
        };
        // Locks first, each table in ascending order; then what they guard; and who is there at all, to tell a row that is locked by
        // somebody else from one that does not exist.
        let loads = [
            of(&HOLDS, self.lock),
            of(&FATES, self.lock),
            named(&ACCOUNTS, self.lock),
            named(&BALANCES, Lock::None),
            of(&HOLDS, Lock::None),
            of(&FATES, Lock::None),
            named(&ACCOUNTS, Lock::None),
            of(&CLAIMS, Lock::None),
            of(&TRANSACTIONS, Lock::None),
            of(&BRANCHES, Lock::None),
        ];
        let tables = connection.load(&loads).await?;
        let [holds, fates, accounts, balances, all_holds, all_fates, all_accounts, claims, records, branches] =
            tables.try_into().map_err(|_| Failure::refused("as many tables are answered as are asked"))?;
        self.enter_accounts(&names, &accounts, &balances, &all_accounts)?;
        let locked_holds = others(&holds, &all_holds)?;
        let locked_fates = others(&fates, &all_fates)?;
        let none = BTreeSet::new();
        let wanted = |table: &Table| ids.get(table.name).unwrap_or(&none).iter().copied();
        enter(wanted(&HOLDS), &holds, rows::hold, |id, row| {
            if locked_holds.contains(&id) {
                self.elsewhere.insert(Key::Hold(id));
            } else {
                self.book.load_hold(id, row);
            }
        })?;
        enter(wanted(&FATES), &fates, rows::fate, |id, row| {
            if locked_fates.contains(&id) {
                self.elsewhere.insert(Key::Fate(id));
            } else {
                self.book.load_fate(id, row);
            }
        })?;
        enter(wanted(&CLAIMS), &claims, rows::claim, |id, row| self.book.load_claim(id, row))?;
        let record = |row: &Row| Ok((row.id(0)?, rows::status(row)?));
        enter(wanted(&TRANSACTIONS), &records, record, |id, row| self.book.load_record(id, row))?;
        enter(wanted(&BRANCHES), &branches, rows::branch, |id, row| self.book.load_branch(id, row))?;
        // An account that somebody else has keeps all of its balances from us.
        let is_elsewhere = |key: &&Key| match guard(key) {
            Guard::Account(account) => !self.accounts_here.contains(&account),
            Guard::Position | Guard::Row => false,
        };
        let missed: Vec<Key> = keys.iter().filter(is_elsewhere).cloned().collect();
        self.elsewhere.extend(missed);
        Ok(())
    }

    fn enter_accounts(
        &mut self,
        names: &BTreeSet<AccountId>,
        locked: &[Row],
        balances: &[Row],
        all: &[Row],
    ) -> Result<(), Failure> {
        let mut of_account: BTreeMap<AccountId, Vec<_>> = BTreeMap::new();
        for row in balances {
            let (account, currency, balances) = rows::balances(row)?;
            of_account.entry(account).or_default().push((currency, balances));
        }
        let mut states: BTreeMap<AccountId, _> = BTreeMap::new();
        for row in locked {
            let (account, state) = rows::account(row)?;
            states.insert(account, state);
        }
        let mut existing = BTreeSet::new();
        for row in all {
            existing.insert(rows::account_id(row, 0)?);
        }
        for name in names {
            let state = states.remove(name);
            if state.is_none() && existing.contains(name) {
                continue;
            }
            let balances = match state {
                Some(_) => of_account.remove(name).unwrap_or_default(),
                None => Vec::new(),
            };
            self.book.load_all_balances(name.clone(), balances);
            self.book.load_account(name.clone(), state);
            self.accounts_here.insert(name.clone());
        }
        Ok(())
    }

    /// Writes what the steps changed.
    pub(super) async fn store(&mut self, connection: &mut dyn Connection) -> Result<(), Failure> {
        let changes = self.book.take_changes();
        let opened = changes.accounts.iter().filter(|account| account.is_new).count();
        let position = match (changes.counter, self.accounts) {
            (Some(counter), Some(accounts)) => vec![vec![
                Cell::Integer(1),
                Cell::Integer(rows::clamp(counter.sequence.0)),
                Cell::Integer(counter.timestamp.as_micros()),
                Cell::Integer(accounts + rows::clamp(opened as u64)),
            ]],
            _ => Vec::new(),
        };
        let mut stores = stores(&changes);
        stores.push(outbox::store(&self.messages));
        stores.push(Store { table: &POSITION, rows: position });
        connection.store(&stores).await
    }
}

fn stores(changes: &Changes) -> Vec<Store> {
    let mut history = Vec::with_capacity(changes.entries.len());
    let mut ordinals: BTreeMap<(&AccountId, Sequence), usize> = BTreeMap::new();
    for (account, entry) in &changes.entries {
        let ordinal = ordinals.entry((account, entry.sequence)).or_default();
        history.push(rows::entry_cells(account, *ordinal, entry));
        *ordinal += 1;
    }
    vec![
        Store {
            table: &CLAIMS,
            rows: changes.claims.iter().map(|one| rows::claim_cells(one.key, &one.row)).collect(),
        },
        Store {
            table: &TRANSACTIONS,
            rows: changes.records.iter().map(|one| rows::status_cells(&one.row)).collect(),
        },
        Store {
            table: &BRANCHES,
            rows: changes.branches.iter().map(|one| rows::branch_cells(one.key, &one.row)).collect(),
        },
        Store {
            table: &HOLDS,
            rows: changes.holds.iter().map(|one| rows::hold_cells(one.key, &one.row)).collect(),
        },
        Store {
            table: &FATES,
            rows: changes.fates.iter().map(|one| rows::fate_cells(one.key, &one.row)).collect(),
        },
        Store {
            table: &ACCOUNTS,
            rows: changes.accounts.iter().map(|one| rows::account_cells(&one.key, &one.row)).collect(),
        },
        Store {
            table: &BALANCES,
            rows: changes
                .balances
                .iter()
                .map(|one| rows::balances_cells(&one.key.0, one.key.1, &one.row))
                .collect(),
        },
        Store { table: &HISTORY, rows: history },
    ]
}

fn guard(key: &Key) -> Guard {
    match key {
        Key::Claim(_) | Key::Record(_) | Key::Branch(_) | Key::Counter => Guard::Position,
        Key::Hold(_) | Key::Fate(_) => Guard::Row,
        Key::Account(account) | Key::Balance(account, _) | Key::AllBalances(account) => {
            Guard::Account(account.clone())
        }
    }
}

fn table_of(key: &Key) -> Option<(&'static Table, TransactionId)> {
    match key {
        Key::Claim(id) => Some((&CLAIMS, *id)),
        Key::Record(id) => Some((&TRANSACTIONS, *id)),
        Key::Branch(id) => Some((&BRANCHES, *id)),
        Key::Hold(id) => Some((&HOLDS, *id)),
        Key::Fate(id) => Some((&FATES, *id)),
        Key::Account(_) | Key::Balance(..) | Key::AllBalances(_) | Key::Counter => None,
    }
}

/// The ids of rows that are there, and were not locked for us.
fn others(locked: &[Row], all: &[Row]) -> Result<BTreeSet<TransactionId>, Failure> {
    let mut ids = all.iter().map(|row| row.id(0)).collect::<Result<BTreeSet<_>, _>>()?;
    for row in locked {
        ids.remove(&row.id(0)?);
    }
    Ok(ids)
}

/// Hands over each wanted row, or that there is none.
fn enter<Content>(
    wanted: impl Iterator<Item = TransactionId>,
    found: &[Row],
    read: impl Fn(&Row) -> Result<(TransactionId, Content), Failure>,
    mut take: impl FnMut(TransactionId, Option<Content>),
) -> Result<(), Failure> {
    let mut by_id = found.iter().map(read).collect::<Result<BTreeMap<_, _>, _>>()?;
    for id in wanted {
        take(id, by_id.remove(&id));
    }
    Ok(())
}

fn load_nothing(book: &mut Book, key: Key) {
    match key {
        Key::Claim(id) => book.load_claim(id, None),
        Key::Record(id) => book.load_record(id, None),
        Key::Branch(id) => book.load_branch(id, None),
        Key::Hold(id) => book.load_hold(id, None),
        Key::Fate(id) => book.load_fate(id, None),
        Key::Account(account) => book.load_account(account, None),
        Key::Balance(account, currency) => book.load_balance(account, currency, None),
        Key::AllBalances(account) => book.load_all_balances(account, Vec::new()),
        Key::Counter => book.load_counter(Counter::default()),
    }
}

/// Holds whose time is over, the oldest first.
pub(super) async fn lapsed_holds(
    connection: &mut dyn Connection,
    dialect: Dialect,
    now: Timestamp,
    limit: usize,
) -> Result<Vec<TransactionId>, Failure> {
    let statement = dialect.statement(
        "SELECT hold_id FROM holds WHERE pending = TRUE AND expires_at <= ? ORDER BY expires_at LIMIT ?",
    );
    let parameters = [Cell::Integer(now.as_micros()), Cell::Integer(rows::clamp(limit as u64))];
    connection.rows(&statement, &parameters).await?.iter().map(|row| row.id(0)).collect()
}

/// The fates that a branch will lock, which must have rows before that: a row that another transaction inserts cannot be skipped.
pub(super) fn fates_to_make(step: &Step) -> Vec<TransactionId> {
    let missing = Book::new().missing(step);
    let fate = |key| match key {
        Key::Fate(id) => Some(id),
        _ => None,
    };
    missing.into_iter().filter_map(fate).collect()
}
