//! The thread that owns a partition's state: it takes work from the queue, decides, applies, and hands frames to the journal.
//!
//! Batches form by themselves: while a frame is being written, work collects for the next. Nothing here waits for the
//! disk, but for a repeat of an id that is still on its way to it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use ledger::codec::BodyWriter;
use ledger::{
    AccountId, AccountNumber, AccountRef, Command, Decision, Event, Movement, Record, Refusal, RefusalCode,
    Sequence, State, Timestamp, TransactionId, Transfer,
};
use storage::journal::{self, FrameDraft, Journal, ReadError, Reader, Term};
use storage::memory::prefetch;

use super::answer::{AccountView, BalancesAfter, CommandAnswer, StateView, TransferAnswer};
use super::away::{Away, Fetched, SentAway};
use super::commit::{Committed, Reply};
use super::id_index::{IdIndex, SealedWindow};
use super::metrics::Metrics;
use super::past::{self, PastError};
use super::{BatchBuffers, CommitListener, OnFatal};

/// A frame this large is written without waiting for more.
const FRAME_SIZE_BYTES_ENOUGH: usize = 256 << 10;
/// Below that size, work collects while this many frames are on their way to the disk.
const FRAMES_IN_FLIGHT_ENOUGH: usize = 1;
/// Transfers are prepared in steps of so many: what a step asked the memory for is there when the step after next needs it, and
/// nothing is pushed out of the innermost cache meanwhile.
const STEP: usize = 8;
/// How long the thread sleeps at most when no hold will lapse sooner.
const IDLE: Duration = Duration::from_secs(3600);

pub(super) type ReplyWith<Answer> = Box<dyn FnOnce(Answer) + Send>;

type TransfersDone = (Vec<TransferAnswer>, Vec<(usize, Transfer)>);

/// What the state thread is asked to do.
pub(super) enum Work {
    Transfers(Vec<Transfer>, ReplyWith<Vec<TransferAnswer>>),
    Command(Box<Command>, ReplyWith<CommandAnswer>),
    Account(AccountRef, ReplyWith<Option<AccountView>>),
    Transaction(TransactionId, ReplyWith<Vec<Sequence>>),
    Names(Vec<AccountNumber>, ReplyWith<Vec<Option<AccountId>>>),
    State(ReplyWith<StateView>),
    /// What the archive was asked for has come.
    Returned(Box<Away>, Fetched),
    /// Write a checkpoint of everything until now, soon.
    Checkpoint,
    /// A frame became durable: work that collected meanwhile can be written.
    FrameDurable,
    /// Write what is there, cut a last checkpoint, and end.
    Stop,
}

impl Work {
    /// How much of the queue's capacity the work takes.
    pub(super) fn weight(&self) -> u64 {
        match self {
            Work::Transfers(transfers, _) => transfers.len() as u64,
            Work::FrameDurable | Work::Stop | Work::Checkpoint | Work::Returned(..) => 0,
            _ => 1,
        }
    }
}

/// Why the state thread cannot go on.
#[derive(Debug)]
enum Halt {
    Failed(String),
    /// The journal reported its own failure already.
    JournalLost,
    /// No halt of the thread, only of one command: its past is in the archive, for which this thread must not wait.
    Away,
}

impl From<PastError> for Halt {
    fn from(error: PastError) -> Halt {
        Halt::Failed(error.to_string())
    }
}

pub(super) struct Engine {
    pub(super) state: State,
    pub(super) ids: IdIndex,
    pub(super) journal: Journal,
    /// Of what is held here: this thread never waits for the archive.
    pub(super) reader: Reader,
    pub(super) away: Sender<SentAway>,
    /// What the archive gave for the command being executed.
    pub(super) fetched: Fetched,
    pub(super) committed: Arc<Committed>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) listener: Arc<Mutex<Box<dyn CommitListener>>>,
    pub(super) checkpoints: Sender<Arc<SealedWindow>>,
    pub(super) work: Receiver<Work>,
    pub(super) wake: Sender<Work>,
    pub(super) run_events: usize,
    pub(super) term: Term,
    pub(super) batch: Batch,
    pub(super) buffers: Arc<BatchBuffers>,
    pub(super) on_fatal: OnFatal,
}

/// The frame being built, and the answers that wait for it.
#[derive(Default)]
pub(super) struct Batch {
    body: BodyWriter,
    /// The time of every event of the frame.
    timestamp: Timestamp,
    replies: Vec<Reply>,
}

impl Engine {
    /// Works until it is told to stop.
    pub(super) fn run(mut self) {
        match self.serve() {
            Ok(()) => {}
            Err(Halt::JournalLost) => self.committed.stop(),
            Err(Halt::Away) => unreachable!("whoever executes a command sends it to the archive"),
            Err(Halt::Failed(why)) => {
                self.committed.stop();
                (self.on_fatal)(why);
            }
        }
    }

    fn serve(&mut self) -> Result<(), Halt> {
        loop {
            let Some(work) = self.next_work()? else { continue };
            self.metrics.queue_depth.fetch_sub(work.weight(), Ordering::Relaxed);
            if let Work::Stop = work {
                self.flush()?;
                if !self.committed.wait_for(self.state.sequence()) {
                    return Err(Halt::JournalLost);
                }
                return self.cut_window();
            }
            self.handle(work)?;
            if self.batch.body.size_bytes() >= FRAME_SIZE_BYTES_ENOUGH {
                self.flush()?;
            }
        }
    }

    /// The next work; `None` after something else was done instead (a frame written, holds expired).
    fn next_work(&mut self) -> Result<Option<Work>, Halt> {
        match self.work.try_recv() {
            Ok(work) => return Ok(Some(work)),
            Err(TryRecvError::Disconnected) => return Ok(Some(Work::Stop)),
            Err(TryRecvError::Empty) => {}
        }
        let pending = self.batch.body.command_count() > 0 || !self.batch.replies.is_empty();
        if pending && self.committed.frames_in_flight() < FRAMES_IN_FLIGHT_ENOUGH {
            self.flush()?;
            return Ok(None);
        }
        let patience = self.until_next_expiry();
        match self.work.recv_timeout(patience) {
            Ok(work) => Ok(Some(work)),
            Err(RecvTimeoutError::Timeout) => {
                self.start_frame()?;
                Ok(None)
            }
            Err(RecvTimeoutError::Disconnected) => Ok(Some(Work::Stop)),
        }
    }

    fn until_next_expiry(&self) -> Duration {
        let Some(expiry) = self.state.next_expiry() else { return IDLE };
        let micros = expiry.as_micros().saturating_sub(clock().as_micros()).max(0);
        Duration::from_micros(micros as u64).min(IDLE)
    }

    fn handle(&mut self, work: Work) -> Result<(), Halt> {
        let reply: Reply = match work {
            Work::Transfers(transfers, reply) => {
                let (answers, away) = self.execute_transfers(transfers)?;
                if !away.is_empty() {
                    return self.send_away(Away::Transfers { answers, away, reply });
                }
                Box::new(move || reply(answers))
            }
            Work::Command(mut command, reply) => match self.execute(&mut command) {
                Err(Halt::Away) => return self.send_away(Away::Command { command, reply }),
                answer => {
                    let answer = answer?;
                    Box::new(move || reply(answer))
                }
            },
            Work::Returned(away, fetched) => return self.resume(*away, fetched),
            Work::Account(account, reply) => {
                let view = self.account_view(&account);
                Box::new(move || reply(view))
            }
            Work::Transaction(transaction_id, reply) => {
                let sequences = self.find(transaction_id)?;
                Box::new(move || reply(sequences))
            }
            Work::Names(accounts, reply) => {
                let names =
                    accounts.into_iter().map(|account| self.state.account_id(account).cloned()).collect();
                Box::new(move || reply(names))
            }
            Work::State(reply) => {
                let view = self.state_view();
                Box::new(move || reply(view))
            }
            Work::Checkpoint => {
                self.flush()?;
                // With one on its way already, this one is not waited for: whoever asked takes what comes.
                return if self.checkpoints.is_empty() { self.cut_window() } else { Ok(()) };
            }
            Work::FrameDurable | Work::Stop => return Ok(()),
        };
        self.batch.replies.push(reply);
        Ok(())
    }

    /// Lets another thread read from the archive what these commands need, and goes on with others.
    fn send_away(&mut self, away: Away) -> Result<(), Halt> {
        self.metrics.archive_lookups.fetch_add(away.len() as u64, Ordering::Relaxed);
        let ids = away.ids();
        let mut wanted = Vec::with_capacity(ids.len());
        for id in ids {
            wanted.push((id, self.find(id)?));
        }
        self.away.send((away, wanted)).map_err(|_| Halt::JournalLost)
    }

    /// Goes on with commands whose past was read from the archive.
    fn resume(&mut self, away: Away, fetched: Fetched) -> Result<(), Halt> {
        self.fetched = fetched;
        let resumed = match away {
            Away::Command { command, reply } => self.handle(Work::Command(command, reply)),
            Away::Transfers { mut answers, away, reply } => {
                self.resume_transfers(&mut answers, away).and_then(|away| {
                    if !away.is_empty() {
                        return self.send_away(Away::Transfers { answers, away, reply });
                    }
                    self.batch.replies.push(Box::new(move || reply(answers)));
                    Ok(())
                })
            }
        };
        self.fetched = Fetched::default();
        resumed
    }

    /// Puts the first answers of repeated transfers into their places; returns those whose past has grown meanwhile.
    fn resume_transfers(
        &mut self,
        answers: &mut [TransferAnswer],
        away: Vec<(usize, Transfer)>,
    ) -> Result<Vec<(usize, Transfer)>, Halt> {
        let (mut still_away, mut answer) = (Vec::new(), Vec::new());
        for (place, transfer) in away {
            self.start_frame()?;
            let hash = self.ids.hash(transfer.transaction_id);
            match self.execute_transfer(&transfer, hash, &mut answer) {
                Err(Halt::Away) => still_away.push((place, transfer)),
                executed => {
                    executed?;
                    answers[place] = answer.pop().expect("what was executed has an answer");
                }
            }
        }
        Ok(still_away)
    }

    /// Stamps the frame with its time when it is empty, and expires the holds that lapsed by then.
    fn start_frame(&mut self) -> Result<(), Halt> {
        if self.batch.body.command_count() > 0 {
            return Ok(());
        }
        self.batch.timestamp = clock().max(self.state.timestamp());
        while self.state.next_expiry().is_some_and(|expiry| expiry <= self.batch.timestamp) {
            let command = Command::ExpireHolds;
            let Decision::Accepted(events) = self.state.decide(&command, self.batch.timestamp, None) else {
                return Err(Halt::Failed("a lapsed hold could not be expired".into()));
            };
            self.record(&command, &events);
        }
        Ok(())
    }

    // Transfers: the hot path.

    /// Each step of transfers is executed two steps after the cache lines that it will need were asked for: almost nothing here waits
    /// for the memory, although nearly every access misses the cache. Also answered, with their places: those transfers whose answers
    /// must come from the archive.
    fn execute_transfers(&mut self, mut transfers: Vec<Transfer>) -> Result<TransfersDone, Halt> {
        let mut answers = self.buffers.answers.take();
        answers.reserve(transfers.len());
        let mut away = Vec::new();
        let hashes: Vec<u64> =
            transfers.iter().map(|transfer| self.ids.hash(transfer.transaction_id)).collect();
        let step_at = |start: usize| start.min(hashes.len())..(start + STEP).min(hashes.len());
        for start in (0..hashes.len() + 2 * STEP).step_by(STEP) {
            for index in step_at(start) {
                self.prefetch(&transfers[index], hashes[index]);
            }
            if let Some(start) = start.checked_sub(STEP) {
                transfers[step_at(start)].iter().for_each(|transfer| self.prefetch_named(transfer));
            }
            if let Some(start) = start.checked_sub(2 * STEP) {
                for index in step_at(start) {
                    self.start_frame()?;
                    transfers[index].resolve(&self.state);
                    match self.execute_transfer(&transfers[index], hashes[index], &mut answers) {
                        Err(Halt::Away) => {
                            away.push((index, transfers[index].clone()));
                            answers.push(TransferAnswer::unrecorded(self.batch.timestamp, reused(None)));
                        }
                        executed => executed?,
                    }
                }
            }
        }
        self.buffers.transfers.give_back(transfers);
        Ok((answers, away))
    }

    fn prefetch(&self, transfer: &Transfer, hash: u64) {
        self.ids.prefetch(hash);
        prefetch(self.state.address(&transfer.from));
        prefetch(self.state.address(&transfer.to));
    }

    fn prefetch_named(&self, transfer: &Transfer) {
        for party in [&transfer.from, &transfer.to] {
            if let AccountRef::Named(name) = party {
                self.state.addresses_of_name(name).into_iter().flatten().for_each(prefetch);
            }
        }
    }

    /// Executes a transfer and adds its answer. Handed back as a value, the answer would be put together from bytes that were just written
    /// in other pieces: for such bytes a processor waits until all that was written before has left for the cache.
    fn execute_transfer(
        &mut self,
        transfer: &Transfer,
        hash: u64,
        answers: &mut Vec<TransferAnswer>,
    ) -> Result<(), Halt> {
        if self.ids.may_contain(hash)
            && let Some(answer) = self.repeated_transfer(transfer)?
        {
            answers.push(answer);
            return Ok(());
        }
        let outcome = self.state.decide_transfer(transfer);
        let timestamp = self.batch.timestamp;
        if let Err(refusal) = &outcome {
            self.metrics.count_refusal(refusal.code);
            if !refusal.is_recorded() {
                answers.push(TransferAnswer::unrecorded(timestamp, *refusal));
                return Ok(());
            }
        }
        self.state.apply_transfer(timestamp, outcome.as_ref().ok());
        self.batch.body.push_transfer(transfer, &outcome);
        let sequence = self.state.sequence();
        self.ids.insert(transfer.transaction_id, hash, sequence);
        let answer = |outcome| TransferAnswer { sequence, timestamp, replayed: false, outcome };
        match outcome {
            Ok(movement) => {
                self.ids.current.record_movement(&movement);
                answers.push(answer(Ok(BalancesAfter { from: movement.from_after, to: movement.to_after })));
            }
            Err(refusal) => answers.push(answer(Err(refusal))),
        }
        Ok(())
    }

    /// The first answer again, if the id was used; `None` for a false alarm of the filter.
    fn repeated_transfer(&mut self, transfer: &Transfer) -> Result<Option<TransferAnswer>, Halt> {
        let command = Command::Transfer(transfer.clone());
        let Some(answer) = self.repeated(&command)? else { return Ok(None) };
        let refused = |refusal| TransferAnswer::unrecorded(self.batch.timestamp, refusal);
        Ok(Some(match answer {
            CommandAnswer::Executed { records, replayed } => match records.first() {
                Some(Record { sequence, timestamp, event }) => {
                    let outcome = match event {
                        Event::Refused { refusal, .. } => Err(*refusal),
                        event => event.movement().map_or(
                            Err(Refusal::new(RefusalCode::TransactionIdReused)),
                            |Movement { from_after, to_after, .. }| {
                                Ok(BalancesAfter { from: *from_after, to: *to_after })
                            },
                        ),
                    };
                    TransferAnswer { sequence: *sequence, timestamp: *timestamp, replayed, outcome }
                }
                None => {
                    return Err(Halt::Failed(format!(
                        "transaction {} has no events",
                        transfer.transaction_id
                    )));
                }
            },
            CommandAnswer::Rejected(refusal) => refused(refusal),
            CommandAnswer::AlreadyOpen(_) => refused(Refusal::new(RefusalCode::TransactionIdReused)),
        }))
    }

    // Every other command.

    /// Resolves the command's names on the way, which changes nothing if it has to be executed again.
    fn execute(&mut self, command: &mut Command) -> Result<CommandAnswer, Halt> {
        self.start_frame()?;
        command.resolve(&self.state);
        if let Some(answer) = self.repeated(command)? {
            return Ok(answer);
        }
        let referenced = match command.referenced_id() {
            // A pending hold is in the state; only a settled one must be read back.
            Some(id) if self.state.hold(id).is_none() => self.past(id)?.map(|past| past.transaction),
            _ => None,
        };
        // Reading the past may have written the frame: stamp the next one.
        self.start_frame()?;
        match self.state.decide(command, self.batch.timestamp, referenced.as_ref()) {
            Decision::Accepted(events) => {
                if let [Event::Refused { refusal, .. }] = events.as_slice() {
                    self.metrics.count_refusal(refusal.code);
                }
                let records = self.record(command, &events);
                Ok(CommandAnswer::Executed { records, replayed: false })
            }
            Decision::Rejected(refusal) => Ok(self.rejected(refusal)),
            Decision::Unchanged => match &*command {
                Command::OpenAccount { account_id, .. } => {
                    let view = self.account_view(&AccountRef::Named(account_id.clone()));
                    Ok(CommandAnswer::AlreadyOpen(view.expect("an account that is open exists")))
                }
                other => Err(Halt::Failed(format!("nothing became of {other:?}"))),
            },
        }
    }

    fn rejected(&self, refusal: Refusal) -> CommandAnswer {
        self.metrics.count_refusal(refusal.code);
        CommandAnswer::Rejected(refusal)
    }

    /// The first answer again when the command's id was used for the same content; `None` when it is new.
    fn repeated(&mut self, command: &Command) -> Result<Option<CommandAnswer>, Halt> {
        let Some(id) = command.transaction_id() else { return Ok(None) };
        if let Some(past) = self.past(id)? {
            if !past.transaction.command.same_content(command, &self.state) {
                return Ok(Some(self.rejected(reused(None))));
            }
            self.metrics.replayed.fetch_add(1, Ordering::Relaxed);
            return Ok(Some(CommandAnswer::Executed { records: past.own_records, replayed: true }));
        }
        let Command::Group(group) = command else { return Ok(None) };
        for (index, leg) in group.legs.iter().enumerate() {
            if self.past(leg.transaction_id)?.is_some() {
                return Ok(Some(self.rejected(reused(Some(index as u8)))));
            }
        }
        Ok(None)
    }

    /// Applies an event that the journal holds already.
    pub(super) fn replay(
        &mut self,
        sequence: Sequence,
        timestamp: Timestamp,
        event: &Event,
    ) -> Result<(), &'static str> {
        if sequence != self.state.sequence().next() {
            return Err("the sequence has a gap");
        }
        self.state.try_apply(timestamp, event)?;
        self.note(event, sequence);
        Ok(())
    }

    /// All events of a frame were replayed.
    pub(super) fn frame_replayed(&mut self, timestamp: Timestamp) {
        self.ids.current.last_sequence = self.state.sequence();
        self.ids.current.timestamp = timestamp;
        if self.ids.current.is_full(self.run_events) {
            // Without its builder the partition is stopping: the next start replays the same tail again.
            let _ = self.cut_window();
        }
    }

    /// Puts down for the next checkpoint what an applied event changed, and which ids it is about.
    fn note(&mut self, event: &Event, sequence: Sequence) {
        self.ids.current.record(event, &self.state);
        for id in [event.transaction_id(), event.referenced_id()].into_iter().flatten() {
            self.ids.insert(id, self.ids.hash(id), sequence);
        }
    }

    /// Applies and encodes what was decided.
    fn record(&mut self, command: &Command, events: &[Event]) -> Vec<Record> {
        let timestamp = self.batch.timestamp;
        let mut records = Vec::with_capacity(events.len());
        for event in events {
            self.state.apply(timestamp, event);
            let sequence = self.state.sequence();
            self.note(event, sequence);
            records.push(Record { sequence, timestamp, event: event.clone() });
        }
        self.batch.body.push(command, events);
        records
    }

    // The past.

    fn find(&self, id: TransactionId) -> Result<Vec<Sequence>, Halt> {
        if self.ids.may_contain(self.ids.hash(id)) {
            self.metrics.id_store_lookups.fetch_add(1, Ordering::Relaxed);
        }
        self.ids.find(id).map_err(|error| Halt::Failed(error.to_string()))
    }

    /// What is recorded of an id. Waits for the disk when its last event is still on the way there.
    fn past(&mut self, id: TransactionId) -> Result<Option<past::Past>, Halt> {
        let sequences = self.find(id)?;
        let Some(last) = sequences.last() else { return Ok(None) };
        if *last > self.committed.sequence() {
            self.flush()?;
            if !self.committed.wait_for(*last) {
                return Err(Halt::JournalLost);
            }
        }
        if let Some(past) = self.fetched.take(id, &sequences) {
            return Ok(past);
        }
        match past::read(&self.reader, id, &sequences) {
            Err(PastError::Journal(ReadError::Released { .. })) => Err(Halt::Away),
            past => Ok(past?),
        }
    }

    // Queries.

    fn account_view(&self, account: &AccountRef) -> Option<AccountView> {
        let number = match account {
            AccountRef::Number(number) => *number,
            AccountRef::Named(name) => self.state.resolve(name.as_str())?,
        };
        let details = self.state.details(number)?;
        Some(AccountView {
            account_id: details.account_id.clone(),
            number,
            opened_at: details.opened_at,
            metadata: details.metadata.clone(),
            closed: self.state.is_closed(number),
            balances: self.state.balances(number),
            sequence: self.state.sequence(),
            timestamp: self.state.timestamp(),
        })
    }

    fn state_view(&self) -> StateView {
        StateView {
            sequence: self.state.sequence(),
            timestamp: self.state.timestamp(),
            accounts: self.state.account_count(),
            holds: self.state.holds().len() as u64,
            totals: self.state.totals(),
            digest: self.state.digest(),
        }
    }

    // Frames and windows.

    /// Hands the frame to the journal, and the answers to whoever waits for it.
    fn flush(&mut self) -> Result<(), Halt> {
        let sequence = self.state.sequence();
        let replies = std::mem::take(&mut self.batch.replies);
        if self.batch.body.event_count() > 0 {
            self.append(sequence)?;
        }
        self.committed.reply_after(sequence, replies);
        self.publish_metrics();
        self.ids.settle();
        if self.ids.current.is_full(self.run_events) { self.cut_window() } else { Ok(()) }
    }

    fn append(&mut self, last: Sequence) -> Result<(), Halt> {
        let body = &mut self.batch.body;
        let mut buffer = self.journal.buffer();
        body.write(|part| buffer.extend_from_slice(part));
        let draft = FrameDraft {
            term: self.term,
            first_sequence: journal::Sequence(last.0 + 1 - u64::from(body.event_count())),
            sequence_count: body.event_count(),
            timestamp_us: self.batch.timestamp.as_micros(),
            body: buffer,
        };
        let size_bytes = body.size_bytes() as u64;
        self.metrics.batch_commands.record(body.command_count().into());
        self.metrics.commands.fetch_add(body.command_count().into(), Ordering::Relaxed);
        body.clear();
        self.ids.current.last_sequence = last;
        self.ids.current.timestamp = self.batch.timestamp;

        self.committed.frame_started();
        let started = Instant::now();
        let (committed, metrics) = (Arc::clone(&self.committed), Arc::clone(&self.metrics));
        let (listener, wake) = (Arc::clone(&self.listener), self.wake.clone());
        self.journal
            .append(
                draft,
                Box::new(move |frame| {
                    metrics.journal_bytes.fetch_add(size_bytes, Ordering::Relaxed);
                    metrics.sync_us.record(started.elapsed().as_micros() as u64);
                    metrics.committed_sequence.store(last.0, Ordering::Relaxed);
                    // The read side first: whoever is answered may query at once.
                    listener.lock().unwrap_or_else(PoisonError::into_inner).committed(&frame);
                    committed.advance(last);
                    // The state thread may be gone at the very end; then nobody needs to be woken.
                    let _ = wake.send(Work::FrameDurable);
                }),
            )
            .map(drop)
            .map_err(|_| Halt::JournalLost)
    }

    /// Hands a full window to the checkpoint's builder. Waits while it is more than a window behind: its lag is bounded.
    fn cut_window(&mut self) -> Result<(), Halt> {
        if self.ids.current.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let sealed = self.ids.cut(self.run_events);
        let pause_us = started.elapsed().as_micros() as u64;
        self.metrics.checkpoint_pause_us_max.fetch_max(pause_us, Ordering::Relaxed);
        self.checkpoints.send(sealed).map_err(|_| Halt::JournalLost)
    }

    fn publish_metrics(&self) {
        let set = |gauge: &AtomicU64, value: u64| gauge.store(value, Ordering::Relaxed);
        set(&self.metrics.decided_sequence, self.state.sequence().0);
        set(&self.metrics.accounts, self.state.account_count());
        set(&self.metrics.holds, self.state.holds().len() as u64);
        set(&self.metrics.id_filter_bytes, self.ids.filter_size_bytes() as u64);
    }
}

fn reused(leg: Option<u8>) -> Refusal {
    Refusal { leg, ..Refusal::new(RefusalCode::TransactionIdReused) }
}

/// The leader's clock: the only one in the partition. Times of events never go backwards, whatever it does.
fn clock() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
}
