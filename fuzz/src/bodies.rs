//! What every fuzz target does with its bytes, and the inputs that it starts from.
//!
//! A panic is a finding. So is an answer that cannot be right: each body states what must hold whenever bytes are accepted.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use api::request::{self, Endpoint, FollowUp, Transfers};
use api::wire::{self, Batch, Message};
use ledger::codec::{Body, BodyWriter, Entry};
use ledger::{
    AccountId, AccountNumber, Command, Decision, Sequence, State, Timestamp, TransactionId, Transfer,
};
use storage::journal::faulty::FaultyDisk;
use storage::journal::{Appender, FrameDraft, FrameIndex, OpenError, Options, Reader, Term};

/// A target's name, what it does with bytes, and valid inputs to start from.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// Every target.
pub const TARGETS: [Target; 4] = [
    ("codec_body", codec_body, codec_body_seeds),
    ("journal_recovery", journal_recovery, journal_recovery_seeds),
    ("json_request", json_request, json_request_seeds),
    ("protobuf_batch", protobuf_batch, protobuf_batch_seeds),
];

const FIRST: Sequence = Sequence(1);
/// So many events are looked up alone; the rest of a large body would only be more of the same.
const LOOK_UPS_MAX: u64 = 100;

/// The body of a journal frame, read, looked into, written again, and applied.
pub fn codec_body(data: &[u8]) {
    let Ok(body) = Body::parse(data, FIRST) else { return };
    for ordinal in 0..LOOK_UPS_MAX.min(body.event_count().into()) {
        let sequence = Sequence(FIRST.0 + ordinal);
        if let Ok(entry) = body.entry_of(sequence) {
            assert!(entry.sequenced().any(|(found, _)| found == sequence));
        }
    }
    let Ok(entries) = body.entries().collect::<Result<Vec<Entry>, _>>() else { return };
    let mut writer = BodyWriter::new();
    entries.iter().for_each(|entry| writer.push(&entry.command, &entry.events));
    let mut again = Vec::new();
    writer.write(|part| again.extend_from_slice(part));
    let body = Body::parse(&again, FIRST).unwrap();
    let read_again: Vec<Entry> = body.entries().collect::<Result<_, _>>().unwrap();
    assert_eq!(read_again, entries, "what was read is not what is written");
    for entry in &entries {
        for (sequence, _) in entry.sequenced() {
            assert_eq!(body.entry_of(sequence).as_ref(), Ok(entry));
        }
    }
    apply(&entries);
}

/// Events that no leader decided are told, or keep the rules of money all the same.
fn apply(entries: &[Entry]) {
    let mut state = State::new();
    for event in entries.iter().flat_map(|entry| entry.events.iter()) {
        if state.try_apply(Timestamp::from_micros(0), event).is_err() {
            return;
        }
    }
    assert!(state.totals().iter().all(|totals| totals.sum == 0), "money came from nowhere");
    for number in (1..state.account_numbers()).map(AccountNumber) {
        let in_order = |(_, balance): &(_, ledger::Balance)| balance.available >= 0 && balance.held >= 0;
        assert!(state.balances(number).iter().all(in_order), "a balance is below zero");
    }
    state.digest();
}

fn sample_transfers() -> Vec<Transfer> {
    let bodies: [(Endpoint, &[u8]); 3] = [
        (Endpoint::Deposit, br#"{"account":"alice","amount":"12.50","currency":"USD","transaction_id":"01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a11"}"#),
        (Endpoint::Transfer, br#"{"from_account":"alice","to_account":"bob","amount":"1","currency":"USD","transaction_id":"01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a12","metadata":{"order":"A-17"}}"#),
        (Endpoint::Transfer, br#"{"from_account":"bob","to_account":"alice","amount":"9","currency":"USD","transaction_id":"01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a13"}"#),
    ];
    bodies.iter().map(|(endpoint, body)| request::transfer(*endpoint, body).unwrap()).collect()
}

/// Every kind of command, most of them with their way into the state.
fn codec_body_seeds() -> Vec<Vec<u8>> {
    let follow_up = |about, id: u8, more: &str| {
        let body = format!(r#"{{"transaction_id":"00000000-0000-0000-0000-0000000000{id:02}"{more}}}"#);
        request::follow_up(Ok(about), body.as_bytes()).unwrap()
    };
    let hold_id = TransactionId::parse("01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9b00").unwrap();
    let mut commands: Vec<Command> = ["alice", "bob"]
        .map(|name| request::open_account(format!(r#"{{"account_id":"{name}"}}"#).as_bytes()).unwrap())
        .to_vec();
    commands.extend(sample_transfers().into_iter().map(Command::Transfer));
    commands.push(request::hold(br#"{"from_account":"alice","to_account":"bob","amount":"2","currency":"USD","transaction_id":"01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9b00","expires_in_seconds":9}"#).unwrap());
    commands.push(follow_up(FollowUp::Confirm(hold_id), 20, r#","amount":"1.5""#));
    commands.push(follow_up(FollowUp::Cancel(hold_id), 21, ""));
    commands.push(follow_up(FollowUp::Reverse(hold_id), 22, r#","metadata":{"a":"b"}"#));
    commands.push(follow_up(FollowUp::Close(AccountId::parse("carol").unwrap()), 23, ""));
    if let Ok(Transfers::Atomic(group)) = request::transfers(br#"{"mode":"atomic","transaction_id":"00000000-0000-0000-0000-000000000024","transfers":[{"from_account":"alice","to_account":"bob","amount":"1","currency":"USD","transaction_id":"00000000-0000-0000-0000-000000000025"}]}"#) {
        commands.push(group);
    }
    let (mut state, mut writer, mut seeds) = (State::new(), BodyWriter::new(), Vec::new());
    for mut command in commands {
        command.resolve(&state);
        let now = Timestamp::from_micros(0);
        let Decision::Accepted(events) = state.decide(&command, now, None) else { continue };
        state.apply_all(now, &events);
        writer.push(&command, &events);
        let mut seed = Vec::new();
        writer.write(|part| seed.extend_from_slice(part));
        seeds.push(seed);
    }
    seeds
}

const JOURNAL_DIRECTORY: &str = "/journal";
const JOURNAL_FRAMES: u64 = 12;

fn journal_options() -> Options {
    Options { segment_size_bytes: 16 << 10, genesis: Some([7; 32]), ..Options::default() }
}

fn draft(appender: &Appender, number: u64) -> FrameDraft {
    let mut body = appender.buffer();
    body.extend_from_slice(&vec![number as u8 + 1; 40 * number as usize]);
    let first_sequence = storage::journal::Sequence(1 + 3 * number);
    FrameDraft { term: Term(1), first_sequence, sequence_count: 3, timestamp_us: number as i64, body }
}

/// The files of a journal of a few frames in two segments or more; those out of use left aside.
fn sample_files() -> &'static [(PathBuf, Vec<u8>)] {
    static FILES: OnceLock<Vec<(PathBuf, Vec<u8>)>> = OnceLock::new();
    FILES.get_or_init(|| {
        let disk = FaultyDisk::new(0);
        let directory = Path::new(JOURNAL_DIRECTORY);
        let (mut appender, _) =
            Appender::open(directory, &journal_options(), Arc::new(disk.clone())).unwrap();
        for number in 0..JOURNAL_FRAMES {
            let draft = draft(&appender, number);
            appender.append(vec![draft]).unwrap();
        }
        let entries = storage::journal::Disk::list(&disk, directory).unwrap();
        let in_use = |name: &str| [".segment", ".index", ".meta"].iter().any(|end| name.ends_with(end));
        let mut names: Vec<String> =
            entries.into_iter().map(|entry| entry.name).filter(|name| in_use(name)).collect();
        names.sort_unstable();
        let file = |name: String| {
            let path = directory.join(name);
            (path.clone(), disk.read_file(&path).unwrap())
        };
        names.into_iter().map(file).collect()
    })
}

/// Opens a journal some of whose bytes are others. The first byte says how the rest is meant:
///
/// - even: one file (chosen by the second byte) has this content, filled up with zeros to whole blocks;
/// - odd: edits of a sound journal, five bytes each: file, offset (two bytes), how many bytes, which value.
///
/// What is found must be what was written, from the first frame on without a gap, or a clear error.
pub fn journal_recovery(data: &[u8]) {
    let [how, data @ ..] = data else { return };
    let disk = FaultyDisk::new(0);
    let files = sample_files();
    files.iter().for_each(|(path, content)| disk.write_file(path, content.clone()));
    if how % 2 == 0 {
        let [file, content @ ..] = data else { return };
        let mut content = content.to_vec();
        content.resize(content.len().next_multiple_of(4096).max(4096), 0);
        disk.write_file(&files[usize::from(*file) % files.len()].0, content);
    } else {
        for edit in data.chunks_exact(5).take(16) {
            let (path, _) = &files[usize::from(edit[0]) % files.len()];
            let mut content = disk.read_file(path).unwrap();
            let start = usize::from(u16::from_le_bytes([edit[1], edit[2]])) % content.len();
            let end = (start + 1 + usize::from(edit[3])).min(content.len());
            content[start..end].fill(edit[4]);
            disk.write_file(path, content);
        }
    }
    let Some(count) = read_journal(&disk) else { return };
    // A node would go on from here: what it appends is there the next time, behind all that was there before.
    let shared = Arc::new(disk.clone());
    let opened = Appender::open(Path::new(JOURNAL_DIRECTORY), &journal_options(), shared);
    let (mut appender, _) = match opened {
        Ok(opened) => opened,
        Err(OpenError::WrongPartition { .. }) => return,
        Err(error) => panic!("readable, and yet not writable: {error}"),
    };
    let draft = draft(&appender, count);
    appender.append(vec![draft]).unwrap();
    drop(appender);
    assert_eq!(read_journal(&disk), Some(count + 1));
}

/// How many frames are there; `None` when the journal is refused.
fn read_journal(disk: &FaultyDisk) -> Option<u64> {
    let (reader, recovered) =
        Reader::open_read_only_on(Path::new(JOURNAL_DIRECTORY), Arc::new(disk.clone())).ok()?;
    let mut count = 0;
    for frame in reader.frames_from(recovered.first_index) {
        // A body that decayed in a sealed segment is found only when it is read, and told then.
        let frame = frame.ok()?;
        assert_eq!(frame.index(), FrameIndex(recovered.first_index.0 + count), "a gap");
        assert!(frame.body().iter().all(|byte| *byte == count as u8 + 1), "a frame that was never written");
        assert_eq!(frame.body().len() as u64, 40 * count);
        count += 1;
    }
    assert_eq!(recovered.next_index.0, recovered.first_index.0 + count);
    Some(count)
}

fn journal_recovery_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![1], vec![1, 1, 0, 0, 0, 0], vec![1, 2, 0, 16, 200, 255, 0, 5, 0, 3, 1]];
    for (index, (_, content)) in sample_files().iter().enumerate() {
        seeds.push([&[0, index as u8], &content[..]].concat());
    }
    seeds
}

/// A JSON body, given to every route.
pub fn json_request(data: &[u8]) {
    let id = TransactionId(1);
    let account = AccountId::parse("alice").unwrap();
    for endpoint in [Endpoint::Transfer, Endpoint::Deposit, Endpoint::Withdraw] {
        let command = request::transfer(endpoint, data).map(Command::Transfer);
        check_request(command);
    }
    check_request(request::hold(data));
    check_request(request::open_account(data));
    for about in
        [FollowUp::Confirm(id), FollowUp::Cancel(id), FollowUp::Reverse(id), FollowUp::Close(account)]
    {
        check_request(request::follow_up(Ok(about), data));
    }
    match request::transfers(data) {
        Ok(Transfers::Atomic(command)) => check_request(Ok(command)),
        Ok(Transfers::Independent(transfers)) => {
            assert!((1..=request::TRANSFERS_MAX).contains(&transfers.len()));
            transfers.into_iter().for_each(|transfer| {
                check_request(transfer.map(Command::Transfer).map_err(|malformed| malformed.problem));
            });
        }
        Err(problem) => check_request(Err(problem)),
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ =
            (request::path_account(text), request::path_account_id(text), request::path_transaction(text));
        if let Some(time) = api::parse_timestamp(text) {
            assert_eq!(api::parse_timestamp(&api::format_timestamp(time)), Some(time));
        }
    }
}

/// A refused request is the client's fault and says so; an accepted one can be decided and kept.
fn check_request(request: Result<Command, api::Problem>) {
    match request {
        Err(problem) => {
            assert!(matches!(problem.code.status(), 400 | 413), "{problem:?}");
            assert_eq!(problem.to_json()["code"], problem.code.name());
        }
        Ok(command) => {
            let state = State::new();
            if let Decision::Accepted(events) = state.decide(&command, Timestamp::from_micros(0), None) {
                let mut writer = BodyWriter::new();
                writer.push(&command, &events);
                let mut bytes = Vec::new();
                writer.write(|part| bytes.extend_from_slice(part));
                let entry = Body::parse(&bytes, FIRST).unwrap().entry_of(FIRST).unwrap();
                assert_eq!((entry.command, entry.events), (command, events));
            }
        }
    }
}

fn json_request_seeds() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"from_account":"alice","to_account":"bob","amount":"12.50","currency":"USD","transaction_id":"01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a11","metadata":{"order":"A-17"}}"#,
        r#"{"from_account":"alice","to_account":"bob","amount":"1","currency":"JPY","transaction_id":"01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a11","expires_in_seconds":60}"#,
        r#"{"account":"alice","amount":"1.234","currency":"KWD","transaction_id":"01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a11"}"#,
        r#"{"account_id":"alice","metadata":{"a":"b","c":"\u00e9"}}"#,
        r#"{"transaction_id":"01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a11"}"#,
        r#"{"transaction_id":"01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a11","amount":"5.00"}"#,
        r#"{"transaction_id":"01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a11","metadata":{}}"#,
        r#"{"transfers":[{"from_account":"a","to_account":"b","amount":"1","currency":"EUR","transaction_id":"01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a11"},{}]}"#,
        r#"{"mode":"atomic","transaction_id":"01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a10","transfers":[{"from_account":"a","to_account":"b","amount":"1","currency":"EUR","transaction_id":"01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a11"}]}"#,
        "2026-01-02T03:04:05.678901Z",
        "01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a11",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// A message of the gRPC stream, in both directions.
pub fn protobuf_batch(data: &[u8]) {
    let message = Message(data.to_vec().into());
    let _ = wire::read_result(&message);
    let Ok(batch) = Batch::read(&message) else { return };
    if batch.count > request::TRANSFERS_MAX {
        assert!(batch.transfers.is_empty() && batch.malformed.is_empty());
        return;
    }
    assert_eq!(batch.count, batch.transfers.len() + batch.malformed.len());
    assert!(batch.malformed.iter().all(|(_, problem)| problem.code.status() == 400));
    let mut found = wire::Transfers::of(&message);
    let mut well_formed = batch.transfers.iter();
    for index in 0..batch.count {
        let is_malformed = batch.malformed.binary_search_by_key(&index, |(malformed, _)| *malformed).is_ok();
        assert_eq!(found.at(index).as_ref(), if is_malformed { None } else { well_formed.next() });
    }
    for transfer in &batch.transfers {
        assert!(transfer.from != transfer.to && !transfer.metadata.iter().any(|(key, _)| key.len() > 1024));
    }
    let again = Batch::read(&wire::encode_batch(batch.batch_id, &batch.transfers)).unwrap();
    assert_eq!((again.batch_id, &again.transfers), (batch.batch_id, &batch.transfers));
    assert!(again.malformed.is_empty());
}

fn protobuf_batch_seeds() -> Vec<Vec<u8>> {
    let transfers = &sample_transfers()[1..];
    let mut by_handle = transfers[0].clone();
    by_handle.from = AccountNumber(7).into();
    by_handle.to = AccountNumber(300).into();
    let mut seeds: Vec<Vec<u8>> = [&transfers[..0], &transfers[..1], transfers, &[by_handle]]
        .iter()
        .map(|transfers| wire::encode_batch(42, transfers).0.to_vec())
        .collect();
    let mut results = wire::ResultWriter::new(42, 0, 2);
    let success = wire::Success { from_balance: 5, to_balance: 7 };
    results.success(Sequence(9), Timestamp::from_micros(1), false, success);
    seeds.push(results.finish().0.to_vec());
    seeds.push(wire::ResultWriter::refused_batch(42, 0, "overloaded", "later").0.to_vec());
    seeds
}
