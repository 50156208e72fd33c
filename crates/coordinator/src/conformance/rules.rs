//! Single rules, step by step, where the suite would meet them only by chance.
#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

use ledger::{
    AccountId, AccountNumber, Command, DecimalAmount, Group, HoldRequest, Metadata, Party, Refusal,
    RefusalCode, Timestamp, TransactionId, Transfer,
};

use super::oracle::{Expected, Oracle};
use super::scenarios::{ByName, movement, open};
use super::{Memory, World};
use crate::machine::{Effect, Machine, NotCancellable, Ticket};
use crate::plan::{Planned, fingerprint, plan};
use crate::port::{
    Answer, BranchState, Claim, Lease, NoAnswer, Operation, Outcome, Plan, Protocol, ShardNumber, Step,
};

const PLACEMENT: ByName = ByName { shard_count: 3 };
const MAX: u64 = i64::MAX as u64;

fn account(name: &str) -> AccountId {
    if name == "@external" { AccountId::external() } else { AccountId::parse(name).unwrap() }
}

fn transfer(id: u128, from: &str, to: &str, minor_units: u64) -> Transfer {
    movement(TransactionId(id), &account(from), &account(to), minor_units)
}

fn close(id: u128, name: &str) -> Command {
    Command::CloseAccount { transaction_id: TransactionId(id), account: account(name).into() }
}

fn hold(id: u128, from: &str, to: &str, minor_units: u64) -> Command {
    let transfer = transfer(id, from, to, minor_units);
    Command::Hold(Box::new(HoldRequest { transfer, expires_in_seconds: None }))
}

fn cancel_hold(id: u128, hold_id: u128) -> Command {
    Command::CancelHold { transaction_id: TransactionId(id), hold_id: TransactionId(hold_id) }
}

fn lease(holder: u64, until: i64) -> Lease {
    Lease { holder, until: Timestamp::from_micros(until) }
}

/// Three shards; accounts are opened as they are named.
struct Bench {
    memory: Memory,
    protocol: Protocol,
}

/// A transaction on its way, with the steps that are not answered yet.
struct OnItsWay {
    machine: Machine,
    effects: Vec<Effect>,
}

impl Bench {
    fn new(protocol: Protocol, funds: &[(&str, u64)]) -> Bench {
        let mut bench = Bench { memory: Memory::new(3, None), protocol };
        for (index, (name, minor_units)) in funds.iter().enumerate() {
            let Planned::Open(shard, step) = plan(&open(&account(name)), protocol, &PLACEMENT, None) else {
                panic!()
            };
            assert!(matches!(bench.memory.execute(shard, &step), Ok(Answer::Done(_))));
            assert_eq!(bench.memory.execute(shard, &step), Ok(Answer::Unchanged));
            if *minor_units > 0 {
                let deposit = transfer(1_000_000 + index as u128, "@external", name, *minor_units);
                bench.done(Command::Transfer(deposit));
            }
        }
        bench
    }

    fn plan(&mut self, command: &Command) -> Plan {
        let referenced = command
            .referenced_id()
            .and_then(|id| (0..3).find_map(|shard| self.memory.record(ShardNumber(shard), id)));
        match plan(command, self.protocol, &PLACEMENT, referenced.as_ref()) {
            Planned::Run(plan) => plan,
            other => panic!("{other:?}"),
        }
    }

    fn begin(&mut self, command: Command) -> OnItsWay {
        let plan = self.plan(&command);
        let (machine, effects) = Machine::begin(plan, lease(1, 0), Timestamp::from_micros(1));
        OnItsWay { machine, effects }
    }

    /// One step; the first of those that wait.
    fn step(&mut self, job: &mut OnItsWay) -> Result<(), NoAnswer> {
        let (ticket, shard, step) = job.next().expect("something is to be sent");
        let answer = self.memory.execute(shard, &step)?;
        job.effects.remove(0);
        job.effects.extend(job.machine.answered(ticket, answer));
        Ok(())
    }

    /// To the end.
    fn finish(&mut self, job: &mut OnItsWay) -> Outcome {
        let mut told = None;
        loop {
            match job.effects.first() {
                Some(Effect::Send { .. }) => self.step(job).unwrap(),
                Some(Effect::Finished(outcome)) => {
                    told = Some(outcome.clone());
                    job.effects.remove(0);
                }
                Some(Effect::Over) => return told.expect("an outcome is told before the end"),
                other => panic!("{other:?}"),
            }
        }
    }

    fn outcome(&mut self, command: Command) -> Outcome {
        let mut job = self.begin(command);
        self.finish(&mut job)
    }

    fn done(&mut self, command: Command) {
        let outcome = self.outcome(command);
        assert!(outcome.result.is_ok(), "{outcome:?}");
    }

    fn refused(&mut self, command: Command) -> Refusal {
        self.outcome(command).result.expect_err("it is refused")
    }
}

impl OnItsWay {
    fn next(&self) -> Option<(Ticket, ShardNumber, Step)> {
        match self.effects.first() {
            Some(Effect::Send { ticket, shard, step }) => Some((*ticket, *shard, step.clone())),
            _ => None,
        }
    }
}

#[test]
fn a_payee_keeps_room_for_what_is_on_its_way() {
    for protocol in [Protocol::Tcc, Protocol::Saga] {
        let mut bench = Bench::new(protocol, &[("0.a", 50), ("0.c", 50), ("1.b", MAX - 60)]);
        let mut first = bench.begin(Command::Transfer(transfer(1, "0.a", "1.b", 50)));
        bench.step(&mut first).unwrap();
        bench.step(&mut first).unwrap();
        let second = bench.refused(Command::Transfer(transfer(2, "0.c", "1.b", 50)));
        assert_eq!(second, Refusal::of(RefusalCode::BalanceOverflow, Party::To));
        assert!(bench.finish(&mut first).result.is_ok());
    }
}

#[test]
fn what_was_taken_keeps_its_room_to_come_back() {
    let mut bench = Bench::new(Protocol::Tcc, &[("0.a", MAX), ("1.c", 5)]);
    let mut to_nobody = bench.begin(Command::Transfer(transfer(1, "0.a", "1.nobody", 50)));
    bench.step(&mut to_nobody).unwrap();
    let into_the_gap = bench.refused(Command::Transfer(transfer(2, "1.c", "0.a", 5)));
    assert_eq!(into_the_gap, Refusal::of(RefusalCode::BalanceOverflow, Party::To));
    let refusal = bench.finish(&mut to_nobody).result.unwrap_err();
    assert_eq!(refusal, Refusal::of(RefusalCode::AccountNotFound, Party::To));
}

#[test]
fn an_account_with_money_in_flight_is_not_closed_before_that_is_settled() {
    let rows: [(&str, Command); 3] = [
        ("0.a", Command::Transfer(transfer(1, "0.a", "1.b", 50))),
        ("1.b", Command::Transfer(transfer(1, "0.a", "1.b", 50))),
        ("1.b", hold(1, "0.a", "1.b", 50)),
    ];
    for (name, command) in rows {
        let mut bench = Bench::new(Protocol::Tcc, &[("0.a", 50), ("1.b", 0)]);
        let mut first = bench.begin(command);
        bench.step(&mut first).unwrap();
        bench.step(&mut first).unwrap();
        let mut closing = bench.begin(close(2, name));
        assert!(matches!(bench.step(&mut closing), Err(NoAnswer::Busy(_))), "{name}");
        bench.finish(&mut first);
        assert!(bench.step(&mut closing).is_ok(), "{name}");
    }
    let mut bench = Bench::new(Protocol::Tcc, &[("0.a", 50)]);
    assert_eq!(bench.refused(close(1, "0.a")), Refusal::of(RefusalCode::AccountNotEmpty, Party::From));
}

#[test]
fn a_hold_is_settled_by_one_at_a_time_and_the_other_waits() {
    let mut bench = Bench::new(Protocol::Saga, &[("0.a", 50), ("1.b", 0)]);
    bench.done(hold(1, "0.a", "1.b", 50));
    let amount = Some(DecimalAmount::parse("0.2").unwrap());
    let (transaction_id, hold_id) = (TransactionId(2), TransactionId(1));
    let mut confirming = bench.begin(Command::ConfirmHold { transaction_id, hold_id, amount });
    bench.step(&mut confirming).unwrap();
    let mut cancelling = bench.begin(cancel_hold(3, 1));
    assert!(matches!(bench.step(&mut cancelling), Err(NoAnswer::Busy(_))));
    assert!(bench.finish(&mut confirming).result.is_ok());
    assert_eq!(bench.finish(&mut cancelling).result.unwrap_err(), Refusal::new(RefusalCode::HoldNotPending));
}

#[test]
fn a_lease_that_runs_keeps_others_away_and_one_that_ran_out_does_not() {
    let mut bench = Bench::new(Protocol::Tcc, &[("0.a", 50), ("1.b", 0)]);
    for (id, until, is_kept_away) in [(1, i64::MAX, true), (2, 0, false)] {
        let plan = bench.plan(&Command::Transfer(transfer(id, "0.a", "1.b", 5)));
        let (machine, effects) = Machine::begin(plan, lease(1, until), Timestamp::from_micros(1));
        let mut first = OnItsWay { machine, effects };
        bench.step(&mut first).unwrap();
        let status = bench.memory.record(ShardNumber(0), TransactionId(id)).unwrap();
        let (machine, effects) = Machine::resume(status, lease(2, until));
        let mut second = OnItsWay { machine, effects };
        bench.step(&mut second).unwrap();
        let kept_away = second.effects.contains(&Effect::Elsewhere(lease(1, until)));
        assert_eq!(kept_away, is_kept_away);
        assert!(bench.finish(&mut first).result.is_ok());
        let record = bench.memory.record(ShardNumber(0), TransactionId(id)).unwrap();
        assert_eq!((record.lease, record.second_phase_done), (None, vec![true, true]));
    }
}

#[test]
fn a_cancel_before_its_try_is_flagged_in_the_record() {
    for protocol in [Protocol::Tcc, Protocol::Saga] {
        let mut bench = Bench::new(protocol, &[("0.a", 50), ("1.b", 0)]);
        let mut job = bench.begin(Command::Transfer(transfer(1, "0.a", "1.b", 50)));
        bench.step(&mut job).unwrap();
        let (_, shard, late) = job.next().unwrap();
        job.effects = job.machine.cancel().unwrap();
        let outcome = bench.finish(&mut job);
        assert_eq!(outcome.result.unwrap_err(), Refusal::new(RefusalCode::TransactionCancelled));
        assert_eq!(bench.memory.execute(shard, &late), Ok(Answer::Late));
        assert!(bench.memory.record(ShardNumber(0), TransactionId(1)).unwrap().out_of_order);
        assert_eq!(job.machine.cancel(), Err(NotCancellable));
    }
}

#[test]
fn a_second_phase_without_a_first_is_a_contradiction_and_changes_nothing() {
    let mut bench = Bench::new(Protocol::Tcc, &[("0.a", 50)]);
    for operation in [Operation::Give, Operation::Commit] {
        let operation = Some(operation);
        let (transaction_id, owner) = (TransactionId(7), ShardNumber(0));
        let step = Step::Branch { transaction_id, record: Vec::new(), operation, owner };
        assert!(matches!(bench.memory.execute(ShardNumber(0), &step), Ok(Answer::Contradiction(_))));
    }
    let plan = bench.plan(&Command::Transfer(transfer(1, "0.a", "1.b", 5)));
    let (mut machine, effects) = Machine::begin(plan, lease(1, 0), Timestamp::from_micros(1));
    let [Effect::Send { ticket, .. }] = &effects[..] else { panic!("{effects:?}") };
    let effects = machine.answered(*ticket, Answer::Contradiction("told by a test"));
    assert!(matches!(&effects[..], [Effect::Broken(_)]), "{effects:?}");
}

/// Two instances plan one id at different moments: the first saw no hold, and claimed the id for a refusal at its home.
#[test]
fn the_record_is_where_the_first_claim_says() {
    let mut bench = Bench::new(Protocol::Tcc, &[("0.a", 50), ("1.b", 0)]);
    let (transaction_id, hold_id) = (TransactionId(5), TransactionId(1));
    let confirm = Command::ConfirmHold { transaction_id, hold_id, amount: None };
    let early = plan(&confirm, Protocol::Tcc, &PLACEMENT, None);
    let Planned::Refused(early, refusal) = early else { panic!("{early:?}") };
    assert_eq!(refusal, Refusal::new(RefusalCode::TransactionNotFound));
    bench.done(hold(1, "0.a", "1.b", 50));
    let late = bench.plan(&confirm);
    assert_eq!((early.owner(), late.owner()), (ShardNumber(2), ShardNumber(0)));
    for plan in [&early, &late] {
        for (shard, step) in plan.claims(&PLACEMENT) {
            let claim = Claim {
                fingerprint: fingerprint(&confirm),
                owner: ShardNumber(2),
                recorded_under: transaction_id,
            };
            assert_eq!(bench.memory.execute(shard, &step), Ok(Answer::Claimed(claim)));
        }
    }
    let late = late.owned_by(ShardNumber(2));
    let (machine, effects) = Machine::begin(late, lease(1, 0), Timestamp::from_micros(1));
    let outcome = bench.finish(&mut OnItsWay { machine, effects });
    assert!(outcome.result.is_ok() && outcome.sequence.0 > 0, "{outcome:?}");
    let (machine, effects) = Machine::begin_refused(early, refusal, lease(2, 0), Timestamp::from_micros(1));
    assert_eq!(bench.finish(&mut OnItsWay { machine, effects }), outcome);
}

#[test]
fn malformed_commands_are_rejected_in_the_ledgers_words() {
    let group =
        |legs: Vec<Transfer>| Command::Group(Box::new(Group { transaction_id: TransactionId(1), legs }));
    let of_kind = |kind, transfer: Transfer| Transfer { kind, ..transfer };
    let rows = vec![
        Command::Transfer(transfer(1, "0.a", "0.a", 1)),
        Command::Transfer(of_kind(ledger::TransferKind::Transfer, transfer(1, "@external", "0.a", 1))),
        Command::Transfer(of_kind(ledger::TransferKind::Deposit, transfer(1, "0.a", "1.b", 1))),
        Command::Transfer(of_kind(ledger::TransferKind::Withdrawal, transfer(1, "0.a", "1.b", 1))),
        group(vec![]),
        group(vec![transfer(1, "0.a", "1.b", 1)]),
        group(vec![transfer(2, "0.a", "1.b", 1), transfer(2, "0.a", "1.b", 1)]),
        group((0..65).map(|leg| transfer(10 + leg, "0.a", "1.b", 1)).collect()),
        group(vec![transfer(2, "0.nobody", "1.b", 1), transfer(3, "1.b", "1.b", 1)]),
        Command::Hold(Box::new(HoldRequest {
            transfer: transfer(1, "@external", "0.a", 1),
            expires_in_seconds: None,
        })),
        Command::CloseAccount { transaction_id: TransactionId(1), account: AccountNumber::EXTERNAL.into() },
    ];
    let mut oracle = Oracle::new();
    for name in ["0.a", "1.b"] {
        oracle.execute(&open(&account(name)));
    }
    for command in rows {
        let Planned::Rejected(refusal) = plan(&command, Protocol::Tcc, &PLACEMENT, None) else {
            panic!("{command:?} is not rejected")
        };
        assert_eq!(oracle.execute(&command), Expected::Rejected(refusal), "{command:?}");
    }
}

#[test]
fn an_earlier_transaction_must_be_over_before_a_later_one_is_planned() {
    let mut bench = Bench::new(Protocol::Tcc, &[("0.a", 50), ("1.b", 0)]);
    let mut holding = bench.begin(hold(1, "0.a", "1.b", 50));
    bench.step(&mut holding).unwrap();
    let status = bench.memory.record(ShardNumber(0), TransactionId(1));
    let planned = plan(&cancel_hold(2, 1), Protocol::Tcc, &PLACEMENT, status.as_ref());
    assert_eq!(planned, Planned::Wait(TransactionId(1)));
}

#[test]
fn a_fingerprint_is_equal_for_equal_content_only() {
    let confirm = |amount: Option<&str>| Command::ConfirmHold {
        transaction_id: TransactionId(1),
        hold_id: TransactionId(2),
        amount: amount.map(|text| DecimalAmount::parse(text).unwrap()),
    };
    assert_eq!(fingerprint(&confirm(Some("5.00"))), fingerprint(&confirm(Some("5"))));
    let plain = transfer(1, "0.a", "1.b", 5);
    let metadata = Metadata::new([("of", "another")]).unwrap();
    let contents = [
        confirm(Some("5")),
        confirm(Some("50")),
        confirm(None),
        cancel_hold(1, 2),
        Command::Transfer(Transfer { metadata, ..plain.clone() }),
        Command::Transfer(transfer(1, "0.a", "1.b", 6)),
        Command::Transfer(transfer(1, "0.a", "1.c", 5)),
        hold(1, "0.a", "1.b", 5),
        close(1, "0.a"),
        Command::Transfer(plain),
    ];
    let mut fingerprints: Vec<_> = contents.iter().map(fingerprint).collect();
    // Claims keep it for ever: it must never come out otherwise.
    let hexadecimal: String = fingerprints[9].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hexadecimal, FINGERPRINT);
    fingerprints.sort_unstable();
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), contents.len());
}

const FINGERPRINT: &str = "c5ee0b41fff23b42c3b275a6747145eff80ae495a1594873e6680df2ad75ebd0";

#[test]
fn what_stays_taken_is_told_by_the_barrier_word_for_word() {
    let mut bench = Bench::new(Protocol::Tcc, &[("0.a", 50), ("1.b", 0)]);
    let job = bench.begin(Command::Transfer(transfer(1, "0.a", "1.b", 50)));
    let take = Operation::Take(job.machine.plan().branches[1].clone());
    let (transaction_id, owner) = (TransactionId(1), ShardNumber(0));
    let step =
        |operation| Step::Branch { transaction_id, record: Vec::new(), operation: Some(operation), owner };
    let first = bench.memory.execute(ShardNumber(1), &step(take.clone())).unwrap();
    assert!(matches!(&first, Answer::Done(done) if done.state == Some(BranchState::Taken)));
    assert_eq!(bench.memory.execute(ShardNumber(1), &step(take)).unwrap(), first);
    let given = bench.memory.execute(ShardNumber(1), &step(Operation::Give)).unwrap();
    for operation in [Operation::Give, Operation::Return] {
        assert_eq!(bench.memory.execute(ShardNumber(1), &step(operation)).unwrap(), given);
    }
}
