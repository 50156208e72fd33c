//! How a checkpoint and the permanent id index lie in the state store. `docs/formats.md` draws it.
//!
//! The store is dear per key and cheap per byte, so many small facts share a key: 256 accounts a page of balances, and the ids
//! of one run that share the upper bits of their hash a block. Of an id only its hash is kept: the journal has the id itself, and
//! whoever looks one up reads there what became of it anyway.

use std::ops::ControlFlow;

use ledger::{
    AccountDetails, AccountId, AccountNumber, Balance, Currency, Digest, Hold, Metadata, Sequence, State,
    StateHasher, Timestamp, TransactionId,
};
use storage::store::{Cursor, Entry, StateStore, StoreError};

use super::id_filter::IdFilter;
use super::id_index::IdSeed;

pub(super) const ACCOUNTS_PER_PAGE: u32 = 256;

const LAYOUT_VERSION: u8 = 1;
/// Of the position alone, and so of everything that has no version of its own.
const POSITION_VERSION: u8 = 2;
const ACCOUNT: u8 = b'A';
const BALANCES: u8 = b'B';
const HOLD: u8 = b'H';
const IDS: u8 = b'I';
const POSITION: u8 = b'P';
const ID_ENTRY_SIZE_BYTES: usize = 10;
/// Upper bits of a hash that its bucket stands for; those that follow are in the entry.
const BUCKET_BITS: u32 = 14;
const ENTRY_HASH_SIZE_BYTES: usize = 6;
/// Bits of a hash that bucket and entry have together. The others are zero.
pub(super) const HASH_BITS: u32 = BUCKET_BITS + 8 * ENTRY_HASH_SIZE_BYTES as u32;

/// Where a checkpoint stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CheckpointPosition {
    pub(super) sequence: Sequence,
    pub(super) timestamp: Timestamp,
    pub(super) seed: IdSeed,
    /// How many uses of ids the index holds.
    pub(super) ids: u64,
}

pub(super) fn position_key() -> Vec<u8> {
    vec![POSITION]
}

pub(super) fn encode_position(position: &CheckpointPosition) -> Vec<u8> {
    let mut bytes = vec![POSITION_VERSION];
    bytes.extend_from_slice(&position.sequence.0.to_le_bytes());
    bytes.extend_from_slice(&position.timestamp.as_micros().to_le_bytes());
    bytes.extend_from_slice(&position.seed.0.to_le_bytes());
    bytes.extend_from_slice(&position.ids.to_le_bytes());
    bytes
}

pub(super) fn account_key(account: AccountNumber) -> Vec<u8> {
    numbered_key(ACCOUNT, account.0)
}

pub(super) fn balances_key(page: u32) -> Vec<u8> {
    numbered_key(BALANCES, page)
}

fn numbered_key(kind: u8, number: u32) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

pub(super) fn hold_key(hold_id: TransactionId) -> Vec<u8> {
    let mut key = vec![HOLD];
    key.extend_from_slice(&hold_id.to_bytes());
    key
}

/// The bucket of an id: the upper bits of its hash, so that blocks are even however ids were made.
pub(super) fn id_bucket(hash: u64) -> u16 {
    (hash >> (u64::BITS - BUCKET_BITS)) as u16
}

pub(super) fn ids_key(bucket: u16, run_end: Sequence) -> Vec<u8> {
    let mut key = vec![IDS];
    key.extend_from_slice(&bucket.to_be_bytes());
    key.extend_from_slice(&run_end.0.to_be_bytes());
    key
}

pub(super) fn encode_account(details: &AccountDetails, closed: bool) -> Vec<u8> {
    let mut bytes = vec![LAYOUT_VERSION, u8::from(closed)];
    bytes.extend_from_slice(&details.opened_at.as_micros().to_le_bytes());
    bytes.push(details.account_id.as_str().len() as u8);
    bytes.extend_from_slice(details.account_id.as_str().as_bytes());
    for text in details.metadata.iter().flat_map(|(key, value)| [key, value]) {
        bytes.extend_from_slice(&(text.len() as u16).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

fn decode_account(bytes: &[u8]) -> Option<(AccountDetails, bool)> {
    let mut cursor = Cursor(bytes);
    let [LAYOUT_VERSION, closed] = cursor.take::<2>()? else { return None };
    let opened_at = Timestamp::from_micros(i64::from_le_bytes(cursor.take()?));
    let [size] = cursor.take()?;
    let account_id = AccountId::parse(std::str::from_utf8(cursor.slice(size.into())?).ok()?).ok()?;
    let mut texts = Vec::new();
    while !cursor.0.is_empty() {
        let size = u16::from_le_bytes(cursor.take()?);
        texts.push(std::str::from_utf8(cursor.slice(size.into())?).ok()?);
    }
    let (pairs, rest) = texts.as_chunks::<2>();
    let metadata = Metadata::new(pairs.iter().map(|[key, value]| (*key, *value))).ok()?;
    rest.is_empty().then_some((AccountDetails { account_id, opened_at, metadata }, closed != 0))
}

pub(super) fn encode_hold(hold: &Hold) -> Vec<u8> {
    [&[LAYOUT_VERSION], hold.to_bytes().as_slice()].concat()
}

fn decode_hold(bytes: &[u8]) -> Option<Hold> {
    let mut cursor = Cursor(bytes);
    let [LAYOUT_VERSION] = cursor.take()? else { return None };
    Hold::from_bytes(&cursor.take()?)
}

/// The balances of 256 accounts with neighbouring numbers.
#[derive(Debug)]
pub(super) struct BalancePage {
    balances: Vec<(Currency, Balance)>,
    /// Account `n` has `balances[starts[n]..starts[n + 1]]`.
    starts: [u16; ACCOUNTS_PER_PAGE as usize + 1],
}

impl Default for BalancePage {
    fn default() -> BalancePage {
        BalancePage { balances: Vec::new(), starts: [0; ACCOUNTS_PER_PAGE as usize + 1] }
    }
}

impl BalancePage {
    pub(super) fn decode(bytes: &[u8]) -> Option<BalancePage> {
        let mut page = BalancePage::default();
        let mut cursor = Cursor(bytes);
        let mut accounts = 0;
        while !cursor.0.is_empty() {
            let [index, count] = cursor.take()?;
            if usize::from(index) < accounts {
                return None;
            }
            page.starts[accounts..=usize::from(index)].fill(page.balances.len() as u16);
            accounts = usize::from(index) + 1;
            for _ in 0..count {
                let currency = Currency::from_numeric(u16::from_le_bytes(cursor.take()?))?;
                let available = i64::from_le_bytes(cursor.take()?);
                let held = i64::from_le_bytes(cursor.take()?);
                page.balances.push((currency, Balance { available, held }));
            }
        }
        page.starts[accounts..].fill(page.balances.len() as u16);
        Some(page)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.balances.len() * 20);
        for (index, balances) in self.accounts().filter(|(_, balances)| !balances.is_empty()) {
            bytes.push(index);
            bytes.push(
                u8::try_from(balances.len())
                    .expect("ISO 4217 has fewer than 256 currencies with minor units"),
            );
            for (currency, balance) in balances {
                bytes.extend_from_slice(&currency.numeric().to_le_bytes());
                bytes.extend_from_slice(&balance.available.to_le_bytes());
                bytes.extend_from_slice(&balance.held.to_le_bytes());
            }
        }
        bytes
    }

    /// The balances of every account of the page.
    fn accounts(&self) -> impl Iterator<Item = (u8, &[(Currency, Balance)])> {
        let ranges = self.starts.windows(2).map(|pair| usize::from(pair[0])..usize::from(pair[1]));
        (0..=u8::MAX).zip(ranges.map(|range| &self.balances[range]))
    }

    fn balances_of(&self, index: u8) -> &[(Currency, Balance)] {
        let index = usize::from(index);
        &self.balances[usize::from(self.starts[index])..usize::from(self.starts[index + 1])]
    }

    pub(super) fn balance_mut(&mut self, index: u8, currency: Currency) -> &mut Balance {
        let index = usize::from(index);
        let (start, end) = (usize::from(self.starts[index]), usize::from(self.starts[index + 1]));
        let found = self.balances[start..end].iter().position(|(other, _)| *other == currency);
        let at = found.map_or(end, |at| start + at);
        if found.is_none() {
            self.balances.insert(end, (currency, Balance::default()));
            self.starts[index + 1..].iter_mut().for_each(|start| *start += 1);
        }
        &mut self.balances[at].1
    }
}

/// The hash of an id of a run, and how far before the run's end its event stands.
pub(super) type PackedId = [u8; ID_ENTRY_SIZE_BYTES];

pub(super) fn pack_id(hash: u64, sequence: u64, run_end: Sequence) -> PackedId {
    let distance = u32::try_from(run_end.0 - sequence).expect("a run is far below 2^32 events");
    let in_entry = (hash << BUCKET_BITS).to_be_bytes();
    let mut packed = [0; ID_ENTRY_SIZE_BYTES];
    packed[..ENTRY_HASH_SIZE_BYTES].copy_from_slice(&in_entry[..ENTRY_HASH_SIZE_BYTES]);
    packed[ENTRY_HASH_SIZE_BYTES..].copy_from_slice(&distance.to_le_bytes());
    packed
}

/// The hash of a packed id.
pub(super) fn packed_hash(bucket: u16, packed: &PackedId) -> u64 {
    let mut in_entry = [0; 8];
    in_entry[..ENTRY_HASH_SIZE_BYTES].copy_from_slice(&packed[..ENTRY_HASH_SIZE_BYTES]);
    u64::from(bucket) << (u64::BITS - BUCKET_BITS) | u64::from_be_bytes(in_entry) >> BUCKET_BITS
}

/// One block of the id index: the sequence that the run ends with, then each id and how far before it its event stands.
pub(super) fn id_block(run_end: Sequence, ids: &[PackedId]) -> Vec<u8> {
    [&run_end.0.to_le_bytes(), ids.as_flattened()].concat()
}

/// The hashes of the ids of a block with their sequences.
fn block_entries<'block>(
    key: &[u8],
    block: &'block [u8],
) -> Result<impl Iterator<Item = (u64, Sequence)> + use<'block>, StoreError> {
    let mut cursor = Cursor(block);
    let run_end = cursor.take().map(u64::from_le_bytes);
    let bucket = key.get(1..3).and_then(|bucket| bucket.try_into().ok()).map(u16::from_be_bytes);
    let (entries, rest) = cursor.0.as_chunks::<ID_ENTRY_SIZE_BYTES>();
    let (run_end, bucket) = run_end.zip(bucket).filter(|_| rest.is_empty()).ok_or_else(|| damaged(key))?;
    Ok(entries.iter().map(move |entry| {
        let distance = *entry.last_chunk().expect("an entry ends with 4 bytes");
        (packed_hash(bucket, entry), Sequence(run_end - u64::from(u32::from_le_bytes(distance))))
    }))
}

/// The sequences of all events about ids with this hash that the store knows, ascending. Two ids practically never share one, but
/// they may.
pub(super) fn find_hash(store: &dyn StateStore, hash: u64) -> Result<Vec<Sequence>, StoreError> {
    let bucket = id_bucket(hash);
    let mut sequences = Vec::new();
    for entry in store.scan(&ids_key(bucket, Sequence(0)), &ids_key(bucket, Sequence(u64::MAX))) {
        let (key, block) = entry?;
        let entries = block_entries(&key, &block)?;
        sequences.extend(entries.filter(|(other, _)| *other == hash).map(|(_, sequence)| sequence));
    }
    Ok(sequences)
}

/// Reads the checkpoint's position; `None` for an empty store.
pub(super) fn load_position(store: &dyn StateStore) -> Result<Option<CheckpointPosition>, StoreError> {
    let Some(bytes) = store.get(&position_key())? else { return Ok(None) };
    decode_position(&bytes).map(Some).ok_or_else(|| damaged(&position_key()))
}

pub(super) fn decode_position(bytes: &[u8]) -> Option<CheckpointPosition> {
    let mut cursor = Cursor(bytes);
    let [POSITION_VERSION] = cursor.take()? else { return None };
    Some(CheckpointPosition {
        sequence: Sequence(u64::from_le_bytes(cursor.take()?)),
        timestamp: Timestamp::from_micros(i64::from_le_bytes(cursor.take()?)),
        seed: IdSeed(u64::from_le_bytes(cursor.take()?)),
        ids: u64::from_le_bytes(cursor.take()?),
    })
}

/// Reads the whole state of the checkpoint.
pub(super) fn load_state(store: &dyn StateStore, position: &CheckpointPosition) -> Result<State, StoreError> {
    let mut state = State::new();
    for entry in store.scan(&[ACCOUNT], &[ACCOUNT + 1]) {
        let (key, value) = entry?;
        let (details, closed) = decode_account(&value).ok_or_else(|| damaged(&key))?;
        if key != account_key(AccountNumber(state.account_numbers())) {
            return Err(damaged(&key));
        }
        let number = state.restore_account(details);
        if closed {
            state.restore_closed(number);
        }
    }
    for entry in store.scan(&[BALANCES], &[BALANCES + 1]) {
        let (key, value) = entry?;
        let number = key.get(1..).and_then(|page| page.try_into().ok()).map(u32::from_be_bytes);
        let (page, number) = BalancePage::decode(&value).zip(number).ok_or_else(|| damaged(&key))?;
        for (index, balances) in page.accounts() {
            let account = AccountNumber(number * ACCOUNTS_PER_PAGE + u32::from(index));
            if !balances.is_empty() && account.0 >= state.account_numbers() {
                return Err(damaged(&key));
            }
            for (currency, balance) in balances {
                state.restore_balance(account, *currency, *balance);
            }
        }
    }
    for entry in store.scan(&[HOLD], &[HOLD + 1]) {
        let (key, value) = entry?;
        let hold_id = key.get(1..).and_then(|id| id.try_into().ok()).map(TransactionId::from_bytes);
        let (hold, hold_id) = decode_hold(&value).zip(hold_id).ok_or_else(|| damaged(&key))?;
        state.restore_hold(hold_id, hold);
    }
    state.restore_position(position.sequence, position.timestamp);
    Ok(state)
}

/// All keys of a checkpoint, those of the store's own excepted.
pub(super) const ALL: (&[u8], &[u8]) = (&[1], &[u8::MAX]);
/// The keys of accounts.
pub(super) const ACCOUNTS: (&[u8], &[u8]) = (&[ACCOUNT], &[ACCOUNT + 1]);
/// The keys of pages of balances.
pub(super) const PAGES: (&[u8], &[u8]) = (&[BALANCES], &[BALANCES + 1]);
/// The keys of pending holds.
pub(super) const HOLDS: (&[u8], &[u8]) = (&[HOLD], &[HOLD + 1]);

/// How many accounts a checkpoint has, `@external` included.
pub(super) fn count_accounts(store: &dyn StateStore) -> Result<u32, StoreError> {
    let Some(last) = store.scan_reverse(ACCOUNTS.0, ACCOUNTS.1).next() else { return Ok(1) };
    let (key, _) = last?;
    let number = key.get(1..).and_then(|number| number.try_into().ok()).map(u32::from_be_bytes);
    number.map(|number| number + 1).ok_or_else(|| damaged(&key))
}

/// The digest of the state that entries of a checkpoint hold, without the state in memory: of [`ACCOUNTS`], [`PAGES`] and
/// [`HOLDS`], each in order.
pub(super) fn digest<Failure: From<StoreError>>(
    position: &CheckpointPosition,
    accounts: u32,
    mut account_entries: impl Iterator<Item = Result<Entry, Failure>>,
    page_entries: impl Iterator<Item = Result<Entry, Failure>>,
    hold_entries: impl Iterator<Item = Result<Entry, Failure>>,
) -> Result<Digest, Failure> {
    let mut hasher = StateHasher::new(position.sequence, position.timestamp, accounts);
    let mut page_entries = page_entries.peekable();
    let mut page = BalancePage::default();
    for number in (0..accounts).map(AccountNumber) {
        if number.0.is_multiple_of(ACCOUNTS_PER_PAGE) {
            let wanted = balances_key(number.0 / ACCOUNTS_PER_PAGE);
            let is_it =
                |entry: &Result<Entry, Failure>| entry.as_ref().map_or(true, |(key, _)| *key == wanted);
            page = match page_entries.next_if(is_it).transpose()? {
                Some((key, value)) => BalancePage::decode(&value).ok_or_else(|| damaged(&key))?,
                None => BalancePage::default(),
            };
        }
        let mut balances = page.balances_of((number.0 % ACCOUNTS_PER_PAGE) as u8).to_vec();
        balances.sort_unstable_by_key(|(currency, _)| *currency);
        if number == AccountNumber::EXTERNAL {
            let start = State::new();
            let external = start.details(number).expect("every state has it");
            hasher.account(external, false, &balances);
            continue;
        }
        let wanted = account_key(number);
        let (key, value) = account_entries.next().ok_or_else(|| damaged(&wanted))??;
        let (details, closed) =
            decode_account(&value).filter(|_| key == wanted).ok_or_else(|| damaged(&key))?;
        hasher.account(&details, closed, &balances);
    }
    if let Some(beyond) = account_entries.next().or_else(|| page_entries.next()) {
        return Err(damaged(&beyond?.0).into());
    }
    let holds = hold_entries.collect::<Result<Vec<_>, Failure>>()?;
    hasher.holds(holds.len() as u64);
    for (key, value) in holds {
        let hold_id = key.get(1..).and_then(|id| id.try_into().ok()).map(TransactionId::from_bytes);
        let (hold, hold_id) = decode_hold(&value).zip(hold_id).ok_or_else(|| damaged(&key))?;
        hasher.hold(hold_id, &hold);
    }
    Ok(hasher.finish())
}

/// [`digest`] of a store that nobody writes to.
pub(super) fn digest_of_store(
    store: &dyn StateStore,
    position: &CheckpointPosition,
) -> Result<Digest, StoreError> {
    let scan = |(start, end): (&[u8], &[u8])| store.scan(start, end);
    digest(position, count_accounts(store)?, scan(ACCOUNTS), scan(PAGES), scan(HOLDS))
}

/// The newest checkpoint of a store that somebody writes to, with its digest; `None` when another one came while its parts were
/// looked for.
pub(super) fn digest_of_latest(
    store: &dyn StateStore,
) -> Result<Option<(CheckpointPosition, Digest)>, StoreError> {
    let Some(position) = load_position(store)? else { return Ok(None) };
    let scan = |(start, end): (&[u8], &[u8])| store.scan(start, end);
    let accounts = count_accounts(store)?;
    // An iterator sees the store as it was when it was made, however long it takes.
    let parts = [scan(ACCOUNTS), scan(PAGES), scan(HOLDS)];
    if load_position(store)? != Some(position) {
        return Ok(None);
    }
    let [account_entries, page_entries, hold_entries] = parts;
    let digest = digest(&position, accounts, account_entries, page_entries, hold_entries)?;
    Ok(Some((position, digest)))
}

/// The hash of every id of the permanent index with the sequence of each event about it, in no order that means anything, until told
/// to stop.
pub(super) fn for_each_id(
    store: &dyn StateStore,
    mut each: impl FnMut(u64, Sequence) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    for entry in store.scan(&[IDS], &[IDS + 1]) {
        let (key, block) = entry?;
        let mut entries = block_entries(&key, &block)?;
        if entries.try_for_each(|(hash, sequence)| each(hash, sequence)).is_break() {
            break;
        }
    }
    Ok(())
}

/// Builds the filter anew from the permanent index.
pub(super) fn load_filter(
    store: &dyn StateStore,
    position: &CheckpointPosition,
) -> Result<IdFilter, StoreError> {
    let filter = IdFilter::of_ledger(position.ids);
    for_each_id(store, |hash, _| {
        filter.insert(hash);
        ControlFlow::Continue(())
    })?;
    Ok(filter)
}

pub(super) fn damaged(key: &[u8]) -> StoreError {
    StoreError::Engine(format!(
        "the value of key {key:02x?} is damaged, or of another version of jigap; stop the node, move its state directory away and start it: it is built again \
         from the journal"
    ))
}
