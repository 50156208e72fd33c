//! What was, at any moment of the past: an account, the whole state, and which event was the last by a given time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use ledger::{
    AccountDetails, AccountNumber, Balance, Currency, Digest, Sequence, StateHasher, Timestamp, Totals,
};
use storage::store::StateStore;

use super::builder::row_of;
use super::layout::{self, ACCOUNTS_PER_PAGE, AccountRow, FrameEnd, damaged, index_in_page, page_of};
use super::lookup::{self, AccountValues, PageValues};
use super::part::Value;
use super::series::{OPEN, Packed, PageOrder, Posting, Series};
use super::tail::{Chunk, Rows, Snapshot, Spare};
use super::{History, HistoryError, Shared};

const EXTERNAL: AccountNumber = AccountNumber::EXTERNAL;

/// A moment: after this event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The last event at or before it; 0 is before the first event.
    pub sequence: Sequence,
    /// The event's time.
    pub timestamp: Timestamp,
}

/// An account as it stood after an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastAccount {
    /// True once it was closed.
    pub closed: bool,
    /// Every currency that it had had money in, ascending by numeric code.
    pub balances: Vec<(Currency, Balance)>,
}

/// The whole state as it stood after an event, summed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastState {
    /// When.
    pub moment: Moment,
    /// Accounts ever opened by then.
    pub accounts: u64,
    /// Holds that were pending.
    pub holds: u64,
    /// Every currency's sum.
    pub totals: Vec<Totals>,
    /// What [`ledger::State::digest`] answered then.
    pub digest: Digest,
}

impl History {
    /// The moment after this event; `None` when it has not happened yet.
    pub fn moment_of(&self, sequence: Sequence) -> Result<Option<Moment>, HistoryError> {
        if sequence == Sequence(0) {
            return Ok(Some(Moment { sequence, timestamp: Timestamp::default() }));
        }
        let snapshot = self.shared.lock().snapshot(frames_of);
        if sequence > snapshot.end.last {
            return Ok(None);
        }
        let timestamp = self.shared.frame_of(&snapshot, sequence)?.timestamp;
        Ok(Some(Moment { sequence, timestamp }))
    }

    /// The moment after the last event at or before this time.
    pub fn moment_at(&self, time: Timestamp) -> Result<Moment, HistoryError> {
        let snapshot = self.shared.lock().snapshot(frames_of);
        let FrameEnd { last: sequence, timestamp } = self.shared.last_frame_by(&snapshot, time)?;
        Ok(Moment { sequence, timestamp })
    }

    /// The account as it stood after this event, which must have happened; `None` before it was opened. Blocks on the disk. Its cost
    /// does not depend on the length of the history.
    pub fn account_at(
        &self,
        account: AccountNumber,
        at: Sequence,
    ) -> Result<Option<PastAccount>, HistoryError> {
        let snapshot = self.shared.snapshot_of(account);
        let mut values = self.shared.account_values(&snapshot, account, at)?;
        values.sort();
        let life = values.get(Series::LIFE);
        if life.is_none() && account != EXTERNAL {
            return Ok(None);
        }
        let closed = life.is_some_and(|life| life.value != OPEN);
        Ok(Some(PastAccount { closed, balances: balances(&values) }))
    }

    /// The whole state as it stood after this event, rebuilt from the view; `None` when it has not happened yet. Walks all accounts;
    /// its cost does not depend on the length of the history. Gives up at the deadline.
    pub fn state_at(&self, at: Sequence, deadline: Instant) -> Result<Option<PastState>, HistoryError> {
        let Some(moment) = self.moment_of(at)? else { return Ok(None) };
        let snapshot = self.shared.lock().snapshot(Rows::clone);
        let last_run = snapshot.last_run_until(at);
        let mut holds = lookup::pending_holds(self.shared.store.as_ref(), last_run, at)?;
        for chunk in &snapshot.chunks {
            let changes = chunk.holds.iter().filter(|change| change.sequence <= at);
            changes.for_each(|change| lookup::apply_hold_change(&mut holds, change));
        }
        let accounts = self.shared.accounts_at(&snapshot, at)?;
        let mut walk = StateWalk {
            writer: StateHasher::new(moment.sequence, moment.timestamp, accounts),
            sums: BTreeMap::new(),
            values: PageValues::default(),
        };
        let spare = &self.shared.spare;
        let mut memory: Vec<MemoryChunk> =
            snapshot.chunks_until(at).map(|chunk| MemoryChunk::new(chunk, spare)).collect();
        let mut order = PageOrder::default();
        let mut details = self.shared.details(&snapshot);
        for page in 0..accounts.div_ceil(ACCOUNTS_PER_PAGE) {
            if Instant::now() > deadline {
                return Err(HistoryError::TooLong { accounts: page * ACCOUNTS_PER_PAGE, of: accounts });
            }
            walk.values.clear();
            memory.iter_mut().for_each(|chunk| chunk.note_page(page, at, &mut order, &mut walk.values));
            if last_run > Sequence(0) {
                let store = self.shared.store.as_ref();
                let image = lookup::newest_image(store, page, at)?;
                lookup::page_values(store, page, image, last_run, at, &mut walk.values)?;
            }
            let first = page * ACCOUNTS_PER_PAGE;
            for number in first..accounts.min(first + ACCOUNTS_PER_PAGE) {
                walk.account(AccountNumber(number), &mut details)?;
            }
        }
        let totals = walk.sums.into_iter().map(|(currency, sum)| Totals { currency, sum }).collect();
        walk.writer.holds(holds.len() as u64);
        holds.iter().for_each(|(hold_id, hold)| walk.writer.hold(*hold_id, hold));
        let digest = walk.writer.finish();
        let (accounts, holds) = (u64::from(accounts) - 1, holds.len() as u64);
        Ok(Some(PastState { moment, accounts, holds, totals, digest }))
    }
}

/// The balances among an account's values, which are sorted.
fn balances(values: &AccountValues) -> Vec<(Currency, Balance)> {
    let mut balances: Vec<(Currency, Balance)> = Vec::new();
    for (series, Value { value, .. }) in values.iter() {
        let Some(currency) = series.currency() else { continue };
        if balances.last().is_none_or(|(last, _)| *last != currency) {
            balances.push((currency, Balance::default()));
        }
        let (_, balance) = balances.last_mut().expect("one was just pushed");
        if series.is_held() { balance.held = value } else { balance.available = value }
    }
    balances
}

/// Of the chunk that fills, only its frames.
pub(super) fn frames_of(rows: &Rows) -> Rows {
    Rows { frames: rows.frames.clone(), ..Rows::default() }
}

struct StateWalk {
    writer: StateHasher,
    sums: BTreeMap<Currency, i128>,
    values: PageValues,
}

impl StateWalk {
    fn account(
        &mut self,
        number: AccountNumber,
        details: &mut impl Iterator<Item = Result<AccountRow, HistoryError>>,
    ) -> Result<(), HistoryError> {
        let values = self.values.account(index_in_page(number));
        let balances = balances(values);
        for (currency, balance) in &balances {
            *self.sums.entry(*currency).or_insert(0) += balance.total();
        }
        let closed = values.get(Series::LIFE).is_some_and(|life| life.value != OPEN);
        if number == EXTERNAL {
            self.writer.account(&AccountDetails::external(), closed, &balances);
            return Ok(());
        }
        let missing = HistoryError::Mismatch { account: number.0, sequence: 0 };
        let row = details.next().ok_or(missing)??;
        if row.number != number {
            return Err(HistoryError::Mismatch { account: number.0, sequence: row.opened.0 });
        }
        self.writer.account(&row.details, closed, &balances);
        Ok(())
    }
}

/// A chunk read page by page.
struct MemoryChunk {
    after: Sequence,
    postings: Arc<Vec<Packed>>,
    next: usize,
}

impl MemoryChunk {
    fn new(chunk: &Arc<Chunk>, spare: &Spare) -> MemoryChunk {
        MemoryChunk { after: chunk.after, postings: chunk.grouped(spare), next: 0 }
    }

    fn note_page(&mut self, page: u32, until: Sequence, order: &mut PageOrder, values: &mut PageValues) {
        let rest = &self.postings[self.next..];
        let count = rest.iter().take_while(|row| page_of(row.account()) <= page).count();
        self.next += count;
        for series in order.order(&[(self.after, &rest[..count])]).chunk_by(Posting::same_series) {
            let until = series.partition_point(|posting| posting.sequence <= until);
            if until > 0 {
                values.note(row_of(&series[..until]));
            }
        }
    }
}

impl Snapshot {
    /// The end of the run that holds this point, or of the last one; 0 when there is none.
    pub(super) fn last_run_until(&self, until: Sequence) -> Sequence {
        self.runs_until(until).checked_sub(1).map_or(Sequence(0), |last| self.runs[last].end)
    }
}

impl Shared {
    /// All that concerns an account; its postings are looked for while nothing changes.
    pub(super) fn snapshot_of(&self, account: AccountNumber) -> Snapshot {
        self.lock().snapshot(|rows| {
            let own = rows.postings.iter().filter(|row| row.account() == account);
            Rows { postings: own.copied().collect(), ..Rows::default() }
        })
    }

    /// The account's values after this event.
    pub(super) fn account_values(
        &self,
        snapshot: &Snapshot,
        account: AccountNumber,
        at: Sequence,
    ) -> Result<AccountValues, HistoryError> {
        let mut values = AccountValues::default();
        for chunk in snapshot.chunks_until(at) {
            for series in chunk.of_account(account).chunk_by(Posting::same_series) {
                let until = series.partition_point(|posting| posting.sequence <= at);
                if until > 0 {
                    let row = row_of(&series[..until]);
                    values.note(row.series, row.last);
                }
            }
        }
        let last_run = snapshot.last_run_until(at);
        if last_run > Sequence(0) {
            lookup::account_values(self.store.as_ref(), account, last_run, at, &mut values)?;
        }
        Ok(values)
    }

    /// How many accounts had a number after this event, `@external` included. Numbers and openings ascend together.
    fn accounts_at(&self, snapshot: &Snapshot, at: Sequence) -> Result<u32, HistoryError> {
        let mut rows = snapshot.chunks.iter().flat_map(|chunk| &chunk.accounts);
        if let Some(first) = rows.clone().next().filter(|first| first.opened <= at) {
            return Ok(first.number.0 + rows.by_ref().take_while(|row| row.opened <= at).count() as u32);
        }
        let stored =
            snapshot.runs_until(at).checked_sub(1).map_or(1, |last| snapshot.runs[last].account_numbers);
        let (mut low, mut high) = (1, stored);
        while low < high {
            let middle = low + (high - low) / 2;
            let (start, end) =
                (layout::accounts_key(AccountNumber(0)), layout::accounts_key(AccountNumber(middle + 1)));
            let entry = self.store.scan_reverse(&start, &end).next();
            let (key, value) = entry.ok_or_else(|| damaged(&end))??;
            let rows = AccountRow::decode_all(&key, &value).ok_or_else(|| damaged(&key))?;
            let first = rows.first().ok_or_else(|| damaged(&key))?.number.0;
            match rows.iter().take_while(|row| row.opened <= at).count() as u32 {
                0 => high = first,
                opened if opened == rows.len() as u32 => low = first + opened,
                opened => return Ok(first + opened),
            }
        }
        Ok(low)
    }

    /// What does not change of every account but `@external`, ascending by number.
    fn details<'view>(
        &'view self,
        snapshot: &'view Snapshot,
    ) -> impl Iterator<Item = Result<AccountRow, HistoryError>> + 'view {
        let stored = snapshot.runs.last().map_or(1, |run| run.account_numbers);
        let (start, end) =
            (layout::accounts_key(AccountNumber(0)), layout::accounts_key(AccountNumber(stored)));
        let stored = self.store.scan(&start, &end).flat_map(|entry| {
            let rows = entry.map_err(HistoryError::from).and_then(|(key, value)| {
                Ok(AccountRow::decode_all(&key, &value).ok_or_else(|| damaged(&key))?)
            });
            match rows {
                Ok(rows) => rows.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            }
        });
        stored.chain(snapshot.chunks.iter().flat_map(|chunk| &chunk.accounts).cloned().map(Ok))
    }

    /// The frame of this event, which has been taken in.
    fn frame_of(&self, snapshot: &Snapshot, sequence: Sequence) -> Result<FrameEnd, HistoryError> {
        let first_of =
            |frames: &[FrameEnd]| frames.get(frames.partition_point(|frame| frame.last < sequence)).copied();
        for chunk in snapshot.chunks_until(sequence) {
            if let Some(frame) = first_of(&chunk.frames) {
                return Ok(frame);
            }
        }
        let missing = HistoryError::Mismatch { account: EXTERNAL.0, sequence: sequence.0 };
        let end = layout::frames_key(Sequence(u64::MAX));
        let Some(entry) = self.store.scan(&layout::frames_key(sequence), &end).next() else {
            return Err(missing);
        };
        let (key, value) = entry?;
        let (_, frames) = layout::decode_frames(&value).ok_or_else(|| damaged(&key))?;
        first_of(&frames).ok_or(missing)
    }

    /// The last frame at or before this time; the one before the first when there is none.
    pub(super) fn last_frame_by(
        &self,
        snapshot: &Snapshot,
        time: Timestamp,
    ) -> Result<FrameEnd, HistoryError> {
        let last_of = |frames: &[FrameEnd]| {
            let count = frames.partition_point(|frame| frame.timestamp <= time);
            count.checked_sub(1).map(|last| frames[last])
        };
        for chunk in snapshot.chunks.iter().rev() {
            if let Some(frame) = last_of(&chunk.frames) {
                return Ok(frame);
            }
        }
        // The row with the first later frame has the answer: a frame of its own, or the one before it.
        let later = Timestamp::from_micros(time.as_micros().saturating_add(1));
        let (start, end) = (
            layout::time_key(later, Sequence(0)),
            layout::time_key(Timestamp::from_micros(i64::MAX), Sequence(u64::MAX)),
        );
        let Some(entry) = self.store.scan(&start, &end).next() else { return Ok(self.last_stored_frame()?) };
        let (key, _) = entry?;
        let row = layout::sequence_of_time_key(&key).ok_or_else(|| damaged(&key))?;
        let key = layout::frames_key(row);
        let value = self.store.get(&key)?.ok_or_else(|| damaged(&key))?;
        let (before, frames) = layout::decode_frames(&value).ok_or_else(|| damaged(&key))?;
        Ok(last_of(&frames).unwrap_or(before))
    }

    fn last_stored_frame(&self) -> Result<FrameEnd, storage::store::StoreError> {
        stored_end(self.store.as_ref())
    }
}

/// The last frame in the store.
pub(super) fn stored_end(store: &dyn StateStore) -> Result<FrameEnd, storage::store::StoreError> {
    let (start, end) = (layout::frames_key(Sequence(0)), layout::frames_key(Sequence(u64::MAX)));
    let Some(entry) = store.scan_reverse(&start, &end).next() else {
        return Ok(FrameEnd { last: Sequence(0), timestamp: Timestamp::default() });
    };
    let (key, value) = entry?;
    let (before, frames) = layout::decode_frames(&value).ok_or_else(|| damaged(&key))?;
    Ok(frames.last().copied().unwrap_or(before))
}
