//! The state of one partition: accounts, balances, pending holds, and the position that they stand at.

use crate::account_index::AccountIndex;
use crate::holds::Holds;
use crate::{
    AccountId, AccountNumber, AccountRef, Currency, Event, Hold, Metadata, Movement, Sequence, Timestamp,
    TransactionId,
};

/// The money of one account in one currency, in minor units. Both parts are zero or more, but for `@external`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Balance {
    /// What can be spent.
    pub available: i64,
    /// What is set aside by pending holds.
    pub held: i64,
}

impl Balance {
    /// `available` and `held` together.
    pub fn total(self) -> i128 {
        i128::from(self.available) + i128::from(self.held)
    }
}

/// What does not change when money moves.
#[derive(Debug, Clone)]
pub struct AccountDetails {
    /// The account's name.
    pub account_id: AccountId,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// Its owner's notes.
    pub metadata: Metadata,
}

impl AccountDetails {
    /// Those of `@external`, which nobody opens.
    pub fn external() -> AccountDetails {
        AccountDetails {
            account_id: AccountId::external(),
            opened_at: Timestamp::default(),
            metadata: Metadata::default(),
        }
    }
}

/// One currency over all accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// The currency.
    pub currency: Currency,
    /// The sum of every account's total, `@external` included: always zero.
    pub sum: i128,
}

const INLINE_BALANCES: usize = 2;
const NO_CURRENCY: u16 = 0;

/// One cache line per account: two currencies inline, further ones in a spill list.
#[derive(Debug, Clone)]
#[repr(align(64))]
struct Slot {
    available: [i64; INLINE_BALANCES],
    held: [i64; INLINE_BALANCES],
    currency: [u16; INLINE_BALANCES],
    closed: bool,
    /// Index into `State::spills` plus one; 0 for none.
    spill: u32,
}

impl Slot {
    const EMPTY: Slot = Slot {
        available: [0; INLINE_BALANCES],
        held: [0; INLINE_BALANCES],
        currency: [NO_CURRENCY; INLINE_BALANCES],
        closed: false,
        spill: 0,
    };
}

/// A vector that grows by whole chunks: no element ever moves, and growth never copies.
#[derive(Debug)]
pub(crate) struct Chunked<T> {
    chunks: Vec<Vec<T>>,
    len: usize,
}

impl<T> Chunked<T> {
    /// 131,072 slots of 64 bytes make a chunk of 8 MiB, large enough to lie on huge pages.
    const CHUNK: usize = 1 << 17;

    fn new() -> Chunked<T> {
        Chunked { chunks: Vec::new(), len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        self.chunks.get(index / Self::CHUNK)?.get(index % Self::CHUNK)
    }

    fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.chunks.get_mut(index / Self::CHUNK)?.get_mut(index % Self::CHUNK)
    }

    fn push(&mut self, value: T) {
        if self.len.is_multiple_of(Self::CHUNK) {
            self.chunks.push(Vec::with_capacity(Self::CHUNK));
        }
        self.chunks.last_mut().expect("a chunk was just made").push(value);
        self.len += 1;
    }
}

/// The state of one partition.
#[derive(Debug)]
pub struct State {
    slots: Chunked<Slot>,
    details: Chunked<AccountDetails>,
    index: AccountIndex,
    spills: Vec<Vec<(Currency, Balance)>>,
    pub(crate) holds: Holds,
    sequence: Sequence,
    timestamp: Timestamp,
}

impl Default for State {
    fn default() -> State {
        State::new()
    }
}

impl State {
    /// The state before the first event: `@external` exists, and nothing else.
    pub fn new() -> State {
        let mut state = State {
            slots: Chunked::new(),
            details: Chunked::new(),
            index: AccountIndex::new(),
            spills: Vec::new(),
            holds: Holds::default(),
            sequence: Sequence(0),
            timestamp: Timestamp::default(),
        };
        state.restore_account(AccountDetails::external());
        state
    }

    /// The sequence of the last event applied.
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// The time of the last event applied.
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// How many accounts were ever opened, `@external` not counted.
    pub fn account_count(&self) -> u64 {
        self.slots.len() as u64 - 1
    }

    /// How many accounts have a number, `@external` included: numbers run from 0 to one below this.
    pub fn account_numbers(&self) -> u32 {
        self.slots.len() as u32
    }

    /// The number of the account with this name.
    pub fn resolve(&self, name: &str) -> Option<AccountNumber> {
        self.index.get(name, &self.details)
    }

    /// The name of an account.
    pub fn account_id(&self, account: AccountNumber) -> Option<&AccountId> {
        self.details(account).map(|details| &details.account_id)
    }

    /// What does not change when money moves.
    pub fn details(&self, account: AccountNumber) -> Option<&AccountDetails> {
        self.details.get(account.index())
    }

    /// True once the account was closed.
    pub fn is_closed(&self, account: AccountNumber) -> bool {
        self.slot(account).closed
    }

    /// The account's money in one currency; zero where it never had any. The account must exist.
    pub fn balance(&self, account: AccountNumber, currency: Currency) -> Balance {
        let slot = self.slot(account);
        let numeric = currency.numeric();
        for inline in 0..INLINE_BALANCES {
            if slot.currency[inline] == numeric {
                return Balance { available: slot.available[inline], held: slot.held[inline] };
            }
        }
        let spilled = self.spilled(slot).iter().find(|(other, _)| *other == currency);
        spilled.map_or(Balance::default(), |(_, balance)| *balance)
    }

    /// Every currency that the account ever had money in, ascending by numeric code.
    pub fn balances(&self, account: AccountNumber) -> Vec<(Currency, Balance)> {
        let mut balances = Vec::new();
        self.balances_into(account, &mut balances);
        balances
    }

    pub(crate) fn balances_into(&self, account: AccountNumber, balances: &mut Vec<(Currency, Balance)>) {
        let slot = self.slot(account);
        balances.clear();
        for inline in 0..INLINE_BALANCES {
            if let Some(currency) = Currency::from_numeric(slot.currency[inline]) {
                balances
                    .push((currency, Balance { available: slot.available[inline], held: slot.held[inline] }));
            }
        }
        balances.extend_from_slice(self.spilled(slot));
        balances.sort_unstable_by_key(|(currency, _)| *currency);
    }

    /// The pending hold with this id.
    pub fn hold(&self, hold_id: TransactionId) -> Option<&Hold> {
        self.holds.get(hold_id)
    }

    /// Every pending hold, ascending by id.
    pub fn holds(&self) -> impl ExactSizeIterator<Item = (TransactionId, &Hold)> {
        self.holds.iter()
    }

    /// When the next pending hold lapses.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.holds.next_expiry()
    }

    /// Every currency's sum over all accounts, ascending by numeric code. Walks all accounts.
    pub fn totals(&self) -> Vec<Totals> {
        let mut sums = std::collections::BTreeMap::new();
        let mut balances = Vec::new();
        for number in 0..self.account_numbers() {
            self.balances_into(AccountNumber(number), &mut balances);
            for (currency, balance) in &balances {
                *sums.entry(*currency).or_insert(0i128) += balance.total();
            }
        }
        sums.into_iter().map(|(currency, sum)| Totals { currency, sum }).collect()
    }

    /// Where in memory the look-up of an account starts, so that a batch's cache misses can be made to overlap: its slot, or its name's
    /// place in the index.
    #[inline]
    pub fn address(&self, account: &AccountRef) -> *const u8 {
        match account {
            AccountRef::Number(number) => self
                .slots
                .get(number.index())
                .map_or(std::ptr::null(), |slot| std::ptr::from_ref(slot).cast()),
            AccountRef::Named(name) => self.index.address(name.as_str()).cast(),
        }
    }

    /// As [`State::address`], one step on: what a name is compared with, and the slot of the account that most likely has it.
    #[inline]
    pub fn addresses_of_name(&self, name: &AccountId) -> Option<[*const u8; 2]> {
        let guess = self.index.guess(name.as_str())?;
        let details = self.details.get(guess.index()).map(std::ptr::from_ref)?;
        Some([details.cast(), self.address(&AccountRef::Number(guess))])
    }

    /// Applies the events of one command, all stamped with the same time.
    pub fn apply_all(&mut self, timestamp: Timestamp, events: &[Event]) {
        for event in events {
            self.apply(timestamp, event);
        }
    }

    /// Applies the next event. Panics when the event cannot follow this state: it is better to stop than to be wrong.
    pub fn apply(&mut self, timestamp: Timestamp, event: &Event) {
        if let Err(why) = self.try_apply(timestamp, event) {
            panic!("event {} does not follow the state: {why}: {event:?}", self.sequence.0 + 1);
        }
    }

    /// Applies the next event, or says why it cannot follow this state, which is then unusable.
    pub fn try_apply(&mut self, timestamp: Timestamp, event: &Event) -> Result<(), &'static str> {
        if timestamp < self.timestamp {
            return Err("time goes backwards");
        }
        match event {
            Event::Transferred { movement, .. } | Event::Reversed { movement, .. } => {
                self.move_money(movement)?
            }
            Event::Refused { .. } => {}
            _ => self.apply_rare(timestamp, event)?,
        }
        self.timestamp = timestamp;
        self.sequence = self.sequence.next();
        Ok(())
    }

    /// As [`State::try_apply`], for an event that is nothing but a movement.
    #[inline]
    pub fn try_apply_movement(
        &mut self,
        timestamp: Timestamp,
        movement: &Movement,
    ) -> Result<(), &'static str> {
        if timestamp < self.timestamp {
            return Err("time goes backwards");
        }
        self.move_money(movement)?;
        self.timestamp = timestamp;
        self.sequence = self.sequence.next();
        Ok(())
    }

    /// The hot path of [`State::apply`]: a transfer that was just decided on this state; `None` for a refused one.
    pub fn apply_transfer(&mut self, timestamp: Timestamp, movement: Option<&Movement>) {
        assert!(timestamp >= self.timestamp, "time goes backwards");
        if let Some(movement) = movement
            && let Err(why) = self.move_money(movement)
        {
            panic!("a movement does not follow the state that decided it: {why}: {movement:?}");
        }
        self.timestamp = timestamp;
        self.sequence = self.sequence.next();
    }

    fn apply_rare(&mut self, timestamp: Timestamp, event: &Event) -> Result<(), &'static str> {
        match event {
            Event::AccountOpened { account, account_id, metadata } => {
                if account.index() != self.slots.len() || self.resolve(account_id.as_str()).is_some() {
                    return Err("the account's number or name is taken");
                }
                self.restore_account(AccountDetails {
                    account_id: account_id.clone(),
                    opened_at: timestamp,
                    metadata: metadata.clone(),
                });
            }
            Event::AccountClosed { account, .. } => {
                self.existing(*account)?;
                self.restore_closed(*account);
            }
            Event::Held { hold_id, hold, available_after, held_after, .. } => {
                let amount = hold.amount.signed();
                self.existing(hold.to)?;
                self.change(hold.from, hold.currency, -amount, amount, *available_after)?;
                self.expect_held(hold.from, hold.currency, *held_after)?;
                if !self.holds.insert(*hold_id, *hold) {
                    return Err("the hold exists");
                }
            }
            Event::HoldConfirmed { hold_id, movement, held_after, released, .. } => {
                let hold = self.holds.remove(*hold_id).ok_or("no such hold")?;
                let Movement { from, to, amount, currency, .. } = *movement;
                if (hold.from, hold.to, hold.currency) != (from, to, currency) {
                    return Err("the hold is another than the one paid out");
                }
                if hold.amount.minor_units().checked_sub(*released) != Some(amount.minor_units()) {
                    return Err("the hold is not what was paid out and released");
                }
                let released = *released as i64;
                self.change(hold.from, hold.currency, released, -hold.amount.signed(), movement.from_after)?;
                self.expect_held(hold.from, hold.currency, *held_after)?;
                self.change(movement.to, movement.currency, movement.amount.signed(), 0, movement.to_after)?;
            }
            Event::HoldReleased {
                hold_id, account, amount, currency, available_after, held_after, ..
            } => {
                let hold = self.holds.remove(*hold_id).ok_or("no such hold")?;
                if (hold.from, hold.amount, hold.currency) != (*account, *amount, *currency) {
                    return Err("the hold is another than the one released");
                }
                self.change(*account, *currency, amount.signed(), -amount.signed(), *available_after)?;
                self.expect_held(*account, *currency, *held_after)?;
            }
            Event::GroupCommitted { .. }
            | Event::Transferred { .. }
            | Event::Reversed { .. }
            | Event::Refused { .. } => {}
        }
        Ok(())
    }

    fn move_money(&mut self, movement: &Movement) -> Result<(), &'static str> {
        let amount = movement.amount.signed();
        self.change(movement.from, movement.currency, -amount, 0, movement.from_after)?;
        self.change(movement.to, movement.currency, amount, 0, movement.to_after)
    }

    /// Adds to a balance and checks it against what the event says that it left behind.
    fn change(
        &mut self,
        account: AccountNumber,
        currency: Currency,
        available_change: i64,
        held_change: i64,
        available_after: i64,
    ) -> Result<(), &'static str> {
        let (available, held) = self.balance_mut(account, currency).ok_or("no such account")?;
        *available = available.checked_add(available_change).ok_or("the balance overflows")?;
        *held = held.checked_add(held_change).ok_or("the held balance overflows")?;
        if *available != available_after {
            return Err("the balance differs from what the event left behind");
        }
        if *held < 0 || (*available < 0 && account != AccountNumber::EXTERNAL) {
            return Err("a balance below zero");
        }
        Ok(())
    }

    fn expect_held(
        &self,
        account: AccountNumber,
        currency: Currency,
        held_after: i64,
    ) -> Result<(), &'static str> {
        if self.balance(account, currency).held != held_after {
            return Err("the held balance differs from what the event left behind");
        }
        Ok(())
    }

    fn existing(&self, account: AccountNumber) -> Result<(), &'static str> {
        self.slots.get(account.index()).map(|_| ()).ok_or("no such account")
    }

    /// Puts back the next account, as a checkpoint holds it. Numbers follow the order of the calls.
    pub fn restore_account(&mut self, details: AccountDetails) -> AccountNumber {
        let number =
            AccountNumber(u32::try_from(self.slots.len()).expect("fewer than 2^32 accounts in a partition"));
        self.index.insert(details.account_id.as_str(), number);
        self.slots.push(Slot::EMPTY);
        self.details.push(details);
        number
    }

    /// Puts back that an account is closed.
    pub fn restore_closed(&mut self, account: AccountNumber) {
        self.slots.get_mut(account.index()).expect("a closed account exists").closed = true;
    }

    /// Puts back a balance. The account must have been restored.
    pub fn restore_balance(&mut self, account: AccountNumber, currency: Currency, balance: Balance) {
        let (available, held) = self.balance_mut(account, currency).expect("a balance belongs to an account");
        *available = balance.available;
        *held = balance.held;
    }

    /// Puts back a pending hold.
    pub fn restore_hold(&mut self, hold_id: TransactionId, hold: Hold) {
        assert!(self.holds.insert(hold_id, hold), "a hold is restored once");
    }

    /// Puts back the position, once everything else is restored.
    pub fn restore_position(&mut self, sequence: Sequence, timestamp: Timestamp) {
        self.sequence = sequence;
        self.timestamp = timestamp;
    }

    fn slot(&self, account: AccountNumber) -> &Slot {
        self.slots.get(account.index()).expect("an account number is only made by opening an account")
    }

    fn spilled(&self, slot: &Slot) -> &[(Currency, Balance)] {
        match slot.spill {
            0 => &[],
            spill => &self.spills[spill as usize - 1],
        }
    }

    fn balance_mut(&mut self, account: AccountNumber, currency: Currency) -> Option<(&mut i64, &mut i64)> {
        let slot = self.slots.get_mut(account.index())?;
        let numeric = currency.numeric();
        for inline in 0..INLINE_BALANCES {
            if slot.currency[inline] == NO_CURRENCY {
                slot.currency[inline] = numeric;
            }
            if slot.currency[inline] == numeric {
                return Some((&mut slot.available[inline], &mut slot.held[inline]));
            }
        }
        if slot.spill == 0 {
            self.spills.push(Vec::new());
            slot.spill = u32::try_from(self.spills.len()).expect("fewer spills than accounts");
        }
        let spilled = &mut self.spills[slot.spill as usize - 1];
        let at = match spilled.iter().position(|(other, _)| *other == currency) {
            Some(at) => at,
            None => {
                spilled.push((currency, Balance::default()));
                spilled.len() - 1
            }
        };
        let balance = &mut spilled[at].1;
        Some((&mut balance.available, &mut balance.held))
    }
}
