//! Finding values in the store: of one account, of a page, of the pending holds.
//!
//! A look-up goes from the newest part that can matter back to the newest image of the page, so it reads a bounded number of
//! parts however long the history is.

use std::collections::BTreeMap;

use ledger::{AccountNumber, Hold, Sequence, TransactionId};
use storage::store::{Cursor, Entry, StateStore, StoreError};

use super::layout::{self, ACCOUNTS_PER_PAGE, HoldChange, PartKey, damaged, index_in_page, page_of};
use super::part::{Part, Row, Value, image_rows};
use super::series::Series;

/// The newest values of one account's series, each found once.
#[derive(Debug, Default)]
pub(super) struct AccountValues {
    values: Vec<(Series, Value)>,
}

impl AccountValues {
    /// Values come newest first: the first of a series is the one that counts.
    pub(super) fn note(&mut self, series: Series, value: Value) {
        if self.get(series).is_none() {
            self.values.push((series, value));
        }
    }

    pub(super) fn get(&self, series: Series) -> Option<Value> {
        self.values.iter().find(|(other, _)| *other == series).map(|(_, value)| *value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Series, Value)> + '_ {
        self.values.iter().copied()
    }

    fn clear(&mut self) {
        self.values.clear();
    }

    pub(super) fn sort(&mut self) {
        self.values.sort_unstable_by_key(|(series, _)| *series);
    }
}

/// The same for every account of a page.
#[derive(Debug)]
pub(super) struct PageValues {
    accounts: Vec<AccountValues>,
}

impl Default for PageValues {
    fn default() -> PageValues {
        PageValues { accounts: (0..ACCOUNTS_PER_PAGE).map(|_| AccountValues::default()).collect() }
    }
}

impl PageValues {
    pub(super) fn clear(&mut self) {
        self.accounts.iter_mut().for_each(AccountValues::clear);
    }

    pub(super) fn note(&mut self, row: Row) {
        self.accounts[usize::from(row.index)].note(row.series, row.last);
    }

    /// One account's values, ascending by series.
    pub(super) fn account(&mut self, index: u8) -> &AccountValues {
        let account = &mut self.accounts[usize::from(index)];
        account.sort();
        account
    }

    /// All rows, ascending by account and series.
    pub(super) fn rows(&mut self) -> impl Iterator<Item = Row> + '_ {
        self.accounts.iter_mut().for_each(AccountValues::sort);
        let accounts = self.accounts.iter().enumerate();
        accounts.flat_map(|(index, account)| {
            account.iter().map(move |(series, last)| Row { index: index as u8, series, last })
        })
    }
}

/// An image of a page, and the end of its run.
pub(super) type Image = (Sequence, Entry);

/// The image of a page that a run is known to have.
pub(super) fn image_of_run(
    store: &dyn StateStore,
    page: u32,
    run_end: Sequence,
) -> Result<Image, StoreError> {
    let key = layout::image_key(page, run_end);
    let value = store.get(&key)?.ok_or_else(|| damaged(&key))?;
    Ok((run_end, (key, value)))
}

/// The newest image of a page at or before this point.
pub(super) fn newest_image(
    store: &dyn StateStore,
    page: u32,
    until: Sequence,
) -> Result<Option<Image>, StoreError> {
    let (start, end) = (layout::image_key(page, Sequence(0)), layout::image_key(page, after(until)));
    let Some(entry) = store.scan_reverse(&start, &end).next() else { return Ok(None) };
    let (key, value) = entry?;
    let run_end = layout::run_end_of_image_key(&key).ok_or_else(|| damaged(&key))?;
    Ok(Some((run_end, (key, value))))
}

fn after(sequence: Sequence) -> Sequence {
    Sequence(sequence.0.saturating_add(1))
}

/// The last part whose key is between the two.
fn newest_part(
    store: &dyn StateStore,
    start: &PartKey,
    end: &PartKey,
) -> Result<Option<(PartKey, Entry)>, StoreError> {
    let Some(entry) = store.scan_reverse(&start.encode(), &end.encode()).next() else { return Ok(None) };
    let (key, value) = entry?;
    let part = PartKey::decode(&key).ok_or_else(|| damaged(&key))?;
    Ok(Some((part, (key, value))))
}

/// Notes an account's values until this point. `last_run` is the run that holds the point, or the last one there is.
pub(super) fn account_values(
    store: &dyn StateStore,
    account: AccountNumber,
    last_run: Sequence,
    until: Sequence,
    values: &mut AccountValues,
) -> Result<(), StoreError> {
    let (page, index) = (page_of(account), index_in_page(account));
    let image = newest_image(store, page, until)?;
    let image_end = image.as_ref().map_or(Sequence(0), |(run_end, _)| *run_end);
    let start = PartKey::start_of_run(page, after(image_end));
    let end_of_account =
        |run_end| PartKey { page, run_end, index, series: Series::MAX, sequence: Sequence(u64::MAX) };
    let mut run_end = last_run;
    let mut end = end_of_account(run_end);
    while run_end > image_end {
        let Some((first, entry)) = newest_part(store, &start, &end)? else { break };
        if first.run_end != run_end {
            // The page has no more parts in that run.
            run_end = first.run_end;
            end = end_of_account(run_end);
            if first.index > index {
                continue;
            }
        }
        note_of_account(&entry, &first, index, until, values)?;
        end = if first.index < index {
            PartKey::start_of_run(page, run_end)
        } else if first.sequence > until {
            PartKey { sequence: after(until), ..first }
        } else {
            // Older postings of the same series do not matter.
            PartKey { sequence: Sequence(0), ..first }
        };
    }
    if let Some((run_end, (key, value))) = image {
        for row in image_rows(&value, run_end) {
            let row = row.ok_or_else(|| damaged(&key))?;
            if row.index == index {
                values.note(row.series, row.last);
            }
        }
    }
    Ok(())
}

fn note_of_account(
    (key, value): &Entry,
    first: &PartKey,
    index: u8,
    until: Sequence,
    values: &mut AccountValues,
) -> Result<(), StoreError> {
    let part = Part::parse(value, first.run_end).ok_or_else(|| damaged(key))?;
    for series in part.series() {
        let series = series.ok_or_else(|| damaged(key))?;
        if series.index == index
            && let Some(value) = series.postings.last_until(until).ok_or_else(|| damaged(key))?
        {
            values.note(series.series, value);
        }
    }
    Ok(())
}

/// Notes the values of every account of a page until this point; `image` is the newest one of the page there.
pub(super) fn page_values(
    store: &dyn StateStore,
    page: u32,
    image: Option<Image>,
    last_run: Sequence,
    until: Sequence,
    values: &mut PageValues,
) -> Result<(), StoreError> {
    let image_end = image.as_ref().map_or(Sequence(0), |(run_end, _)| *run_end);
    let start = PartKey::start_of_run(page, after(image_end)).encode();
    let mut end = PartKey::start_of_run(page, after(last_run)).encode();
    'seek: loop {
        for entry in store.scan_reverse(&start, &end) {
            let (key, value) = entry?;
            let first = PartKey::decode(&key).ok_or_else(|| damaged(&key))?;
            let part = Part::parse(&value, first.run_end).ok_or_else(|| damaged(&key))?;
            for series in part.series() {
                let series = series.ok_or_else(|| damaged(&key))?;
                if let Some(last) = series.postings.last_until(until).ok_or_else(|| damaged(&key))? {
                    values.note(Row { index: series.index, series: series.series, last });
                }
            }
            if part.continues {
                // A hot series fills many parts, of which one matters.
                let next = if first.sequence > until { after(until) } else { Sequence(0) };
                end = PartKey { sequence: next, ..first }.encode();
                continue 'seek;
            }
        }
        break;
    }
    if let Some((run_end, (key, value))) = image {
        for row in image_rows(&value, run_end) {
            values.note(row.ok_or_else(|| damaged(&key))?);
        }
    }
    Ok(())
}

/// Postings of a series in one run, before this point, newest first: at least one if the run has any.
pub(super) fn postings_before(
    store: &dyn StateStore,
    account: AccountNumber,
    series: Series,
    run_end: Sequence,
    before: Sequence,
) -> Result<Vec<Value>, StoreError> {
    let (page, index) = (page_of(account), index_in_page(account));
    let start = PartKey::start_of_run(page, run_end);
    let end = PartKey { page, run_end, index, series, sequence: before };
    let Some((first, (key, value))) = newest_part(store, &start, &end)? else { return Ok(Vec::new()) };
    let part = Part::parse(&value, first.run_end).ok_or_else(|| damaged(&key))?;
    let mut found = Vec::new();
    for own in part.series() {
        let own = own.ok_or_else(|| damaged(&key))?;
        if (own.index, own.series) != (index, series) {
            continue;
        }
        for posting in own.postings {
            let posting = posting.ok_or_else(|| damaged(&key))?;
            if posting.sequence < before {
                found.push(posting);
            }
        }
    }
    Ok(found)
}

/// The holds that were pending after this event. `last_run` is the run that holds it, or the last one there is.
pub(super) fn pending_holds(
    store: &dyn StateStore,
    last_run: Sequence,
    until: Sequence,
) -> Result<BTreeMap<TransactionId, Hold>, StoreError> {
    let (start, end) = (layout::pending_key(Sequence(0), 0), layout::pending_key(after(until), 0));
    let image_end = match store.scan_reverse(&start, &end).next() {
        None => Sequence(0),
        Some(entry) => {
            let (key, _) = entry?;
            layout::run_end_of(&key).ok_or_else(|| damaged(&key))?
        }
    };
    let mut pending = BTreeMap::new();
    let image = store.scan(&layout::pending_key(image_end, 0), &layout::pending_key(after(image_end), 0));
    let changes = store
        .scan(&layout::hold_changes_key(after(image_end), 0), &layout::hold_changes_key(after(last_run), 0));
    for entry in image.chain(changes) {
        let (key, value) = entry?;
        let mut cursor = Cursor(&value);
        while !cursor.0.is_empty() {
            let change = HoldChange::decode(&mut cursor).ok_or_else(|| damaged(&key))?;
            if change.sequence <= until {
                apply_hold_change(&mut pending, &change);
            }
        }
    }
    Ok(pending)
}

pub(super) fn apply_hold_change(pending: &mut BTreeMap<TransactionId, Hold>, change: &HoldChange) {
    match change.hold {
        Some(hold) => pending.insert(change.hold_id, hold),
        None => pending.remove(&change.hold_id),
    };
}
