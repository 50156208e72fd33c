//! Shards in real databases, and the plainest of coordinators over them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use coordinator::plan::{Placement, Planned, plan};
use coordinator::port::{
    Answer, BalanceAfter, NoAnswer, Operation, PhaseStatus, Plan, Protocol, RecordChange, SecondPhase,
    ShardNumber, Step, TryState,
};
use distributed::Shard;
use distributed::sql::{SqlOptions, SqlShard, Timeouts, migrate};
use ledger::{
    AccountId, AccountNumber, Amount, Command, Currency, Metadata, Refusal, Timestamp, TransactionId,
    Transfer, TransferKind,
};

use testbed::Server;

use crate::servers::prepared_count;

/// How often a step without an answer is repeated before the test fails.
const REPEATS_MAX: usize = 1_000;
const REPEAT_AFTER: Duration = Duration::from_millis(10);

pub(crate) fn usd() -> Currency {
    Currency::parse("USD").unwrap()
}

pub(crate) fn options() -> SqlOptions {
    SqlOptions { connections: 16, timeouts: Timeouts { lock: Duration::from_secs(1), ..Timeouts::default() } }
}

/// Accounts named `<shard>-<anything>` live on that shard.
pub(crate) struct ByName;

impl Placement for ByName {
    fn shard_of(&self, account: &AccountId) -> ShardNumber {
        ShardNumber(account.as_str().split('-').next().unwrap().parse().unwrap())
    }

    fn home_of(&self, transaction_id: TransactionId) -> ShardNumber {
        ShardNumber((transaction_id.0 % 2) as u32)
    }
}

pub(crate) struct Scene {
    pub(crate) urls: Vec<String>,
    pub(crate) shards: Vec<Arc<SqlShard>>,
}

impl Scene {
    pub(crate) async fn open(urls: Vec<String>) -> Scene {
        for url in &urls {
            migrate(url, Timeouts::default()).await.unwrap();
        }
        let shards = open_shards(&urls).await;
        Scene { urls, shards }
    }

    /// Another instance over the same databases.
    pub(crate) async fn instance(&self) -> Scene {
        Scene { urls: self.urls.clone(), shards: open_shards(&self.urls).await }
    }

    /// Executes a step until it has an answer.
    pub(crate) async fn step(&self, shard: ShardNumber, step: Step) -> Answer {
        let mut told = String::new();
        for _ in 0..REPEATS_MAX {
            match self.shards[shard.0 as usize].execute(vec![step.clone()]).await.remove(0) {
                Ok(answer) => return answer,
                Err(NoAnswer::Busy(why) | NoAnswer::Unknown(why)) => told = why,
            }
            tokio::time::sleep(REPEAT_AFTER).await;
        }
        panic!("no answer to {step:?}: {told}");
    }

    pub(crate) async fn open_account(&self, name: &str, metadata: Metadata) {
        let account_id = AccountId::parse(name).unwrap();
        let shard = ByName.shard_of(&account_id);
        let answer = self.step(shard, Step::OpenAccount { account_id, metadata }).await;
        assert!(matches!(answer, Answer::Done(_) | Answer::Unchanged), "{answer:?}");
    }

    /// Brings money in from outside.
    pub(crate) async fn deposit(&self, to: &str, minor_units: u64) {
        let command = transfer(TransferKind::Deposit, "", to, minor_units, Metadata::default());
        let run = Run { scene: self, plan: planned(&command, Protocol::Tcc), faults: &mut Faults::default() };
        run.drive().await.unwrap();
    }

    pub(crate) async fn available(&self, name: &str) -> i64 {
        let account_id = AccountId::parse(name).unwrap();
        let shard = ByName.shard_of(&account_id);
        let row = self.shards[shard.0 as usize].account(&account_id).await.unwrap().unwrap();
        row.balances.iter().find(|(currency, _)| *currency == usd()).map_or(0, |(_, row)| row.available)
    }

    /// Nothing is lost, nothing is doubled, nothing is left.
    pub(crate) async fn assert_whole(&self, accounts: &[String]) {
        let mut sum = 0;
        for (index, shard) in self.shards.iter().enumerate() {
            assert_eq!(shard.in_flight(10).await.unwrap(), [], "shard {index} has unfinished transactions");
            assert_eq!(shard.in_doubt().await.unwrap(), [], "shard {index} has prepared branches");
            assert_eq!(shard.orphans(Timestamp::from_micros(i64::MAX), 10).await.unwrap(), []);
            for (_, total, taken) in shard.totals().await.unwrap().currencies {
                assert_eq!(taken, 0, "shard {index} has money in flight");
                sum += total;
            }
        }
        assert_eq!(sum, 0, "the sum of all money is zero, the world outside included");
        for url in &self.urls {
            assert_eq!(prepared_count(url).await, 0, "XA branches are left at {url}");
        }
        for name in accounts {
            self.assert_history_adds_up(name).await;
        }
    }

    async fn assert_history_adds_up(&self, name: &str) {
        let account_id = AccountId::parse(name).unwrap();
        let shard = &self.shards[ByName.shard_of(&account_id).0 as usize];
        let range = distributed::HistoryRange { limit: 100_000, ..Default::default() };
        let entries = shard.history(&account_id, &range).await.unwrap();
        let mut balance = 0;
        for entry in entries.iter().rev() {
            balance += entry.amount;
            assert_eq!(entry.balance_after, balance, "{name}: {entry:?}");
        }
        assert_eq!(balance, self.available(name).await, "{name}: its history adds up to its balance");
    }
}

async fn open_shards(urls: &[String]) -> Vec<Arc<SqlShard>> {
    let mut shards = Vec::new();
    for (number, url) in urls.iter().enumerate() {
        let shard = SqlShard::open(url, ShardNumber(number as u32), options()).await.unwrap();
        shards.push(Arc::new(shard));
    }
    shards
}

/// A transfer in dollars; no payer is the world outside.
pub(crate) fn transfer(
    kind: TransferKind,
    from: &str,
    to: &str,
    minor_units: u64,
    metadata: Metadata,
) -> Command {
    let account = |name: &str| match name {
        "" => AccountNumber::EXTERNAL.into(),
        name => AccountId::parse(name).unwrap().into(),
    };
    Command::Transfer(Transfer {
        transaction_id: TransactionId(fastrand::u128(..)),
        kind,
        from: account(from),
        to: account(to),
        amount: Amount::from_minor_units(minor_units).unwrap(),
        currency: usd(),
        metadata,
    })
}

pub(crate) fn planned(command: &Command, protocol: Protocol) -> Plan {
    match plan(command, protocol, &ByName, None) {
        Planned::Run(plan) => plan,
        other => panic!("{other:?}"),
    }
}

/// `kill -9` of the database that a step goes to, while the step is under way.
pub(crate) struct Kill {
    /// How many steps are sent before.
    pub(crate) after_steps: usize,
    /// By shard.
    pub(crate) servers: Vec<Arc<Mutex<Server>>>,
}

/// What goes wrong on the way.
#[derive(Default)]
pub(crate) struct Faults {
    pub(crate) kill: Option<Kill>,
}

/// One transaction on its way.
pub(crate) struct Run<'scene> {
    pub(crate) scene: &'scene Scene,
    pub(crate) plan: Plan,
    pub(crate) faults: &'scene mut Faults,
}

impl Run<'_> {
    async fn send(
        &mut self,
        shard: ShardNumber,
        record: Vec<RecordChange>,
        operation: Option<Operation>,
    ) -> Answer {
        let step = Step::Branch {
            transaction_id: self.plan.transaction_id,
            record,
            operation,
            owner: self.plan.owner(),
        };
        self.perhaps_kill(shard, &step).await;
        self.scene.step(shard, step).await
    }

    async fn perhaps_kill(&mut self, shard: ShardNumber, step: &Step) {
        let Some(kill) = &mut self.faults.kill else { return };
        if kill.after_steps > 0 {
            kill.after_steps -= 1;
            return;
        }
        let number = shard.0 as usize;
        let executing = {
            let (shard, step) = (self.scene.shards[number].clone(), step.clone());
            tokio::spawn(async move { shard.execute(vec![step]).await })
        };
        let server = self.faults.kill.take().unwrap().servers[number].clone();
        server.lock().unwrap().kill();
        // It may have come so far, or not; the answer may have come, or not. What it was is told once the database is back.
        let before = executing.await.unwrap().remove(0);
        server.lock().unwrap().restart().unwrap();
        if let Ok(before) = before {
            let after = self.scene.step(shard, step.clone()).await;
            let is_begin = matches!(
                step, Step::Branch { record, .. } if matches!(record.first(), Some(RecordChange::Begin(_)))
            );
            let is_prepare = matches!(step, Step::Branch { operation: Some(Operation::Prepare(_)), .. });
            assert!(
                is_begin || is_prepare || before == after,
                "{before:?} was answered, and is now {after:?}"
            );
        }
    }

    pub(crate) fn status(&self) -> PhaseStatus {
        PhaseStatus {
            plan: self.plan.clone(),
            tries: vec![TryState::NotSent; self.plan.branches.len()],
            second_phase: None,
            second_phase_done: vec![false; self.plan.branches.len()],
            out_of_order: false,
            refusal: None,
            outcome: None,
            attempts: 0,
            last_error: String::new(),
            lease: None,
            started_at: Timestamp::from_micros(1),
        }
    }

    /// From the beginning to the outcome.
    pub(crate) async fn drive(mut self) -> Result<Vec<BalanceAfter>, Refusal> {
        let owner = self.plan.owner();
        if let [only] = &self.plan.branches[..] {
            let begin = RecordChange::Begin(Box::new(self.status()));
            let finish = RecordChange::Finish { balances: Vec::new(), refusal: None, out_of_order: false };
            let operation = Operation::Apply(only.clone());
            return match self.send(owner, vec![begin, finish], Some(operation)).await {
                Answer::Finished(outcome) => outcome.result,
                // A lost answer was repeated: the record has it.
                Answer::Known(status) => status.outcome.unwrap().result,
                other => panic!("{other:?}"),
            };
        }
        let (second_phase, refusal) = self.first_phase().await;
        self.second_phase(second_phase, refusal).await
    }

    /// Up to the decision.
    pub(crate) async fn first_phase(&mut self) -> (SecondPhase, Option<Refusal>) {
        let begin = RecordChange::Begin(Box::new(self.status()));
        match self.send(self.plan.owner(), vec![begin], None).await {
            Answer::Done(_) | Answer::Known(_) => {}
            other => panic!("{other:?}"),
        }
        let mut refusal = None;
        for branch in self.plan.branches.clone() {
            let shard = branch.shard;
            let operation = match self.plan.protocol {
                Protocol::TwoPhaseCommit => Operation::Prepare(branch),
                _ => Operation::Take(branch),
            };
            match self.send(shard, Vec::new(), Some(operation)).await {
                Answer::Done(_) => {}
                Answer::Refused(why) => {
                    refusal = Some(why);
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        let second_phase = if refusal.is_none() { SecondPhase::Confirm } else { SecondPhase::Cancel };
        self.decide(second_phase, refusal).await;
        (second_phase, refusal)
    }

    async fn decide(&mut self, second_phase: SecondPhase, refusal: Option<Refusal>) {
        let tries = vec![TryState::Accepted; self.plan.branches.len()];
        let decide = RecordChange::Decide { second_phase, refusal, tries };
        match self.send(self.plan.owner(), vec![decide], None).await {
            Answer::Done(_) => {}
            other => panic!("{other:?}"),
        }
    }

    /// From the decision on.
    pub(crate) async fn second_phase(
        &mut self,
        second_phase: SecondPhase,
        refusal: Option<Refusal>,
    ) -> Result<Vec<BalanceAfter>, Refusal> {
        let operation = match (self.plan.protocol, second_phase) {
            (Protocol::TwoPhaseCommit, SecondPhase::Confirm) => Operation::Commit,
            (Protocol::TwoPhaseCommit, SecondPhase::Cancel) => Operation::Rollback,
            (_, SecondPhase::Confirm) => Operation::Give,
            (_, SecondPhase::Cancel) => Operation::Return,
        };
        let owner = self.plan.owner();
        let mut balances = Vec::new();
        let others: Vec<ShardNumber> =
            self.plan.branches.iter().map(|branch| branch.shard).filter(|shard| *shard != owner).collect();
        for shard in others {
            match self.send(shard, Vec::new(), Some(operation.clone())).await {
                Answer::Done(done) => balances.extend(done.balances),
                other => panic!("{other:?}"),
            }
        }
        if second_phase == SecondPhase::Cancel {
            balances.clear();
        }
        let finish = RecordChange::Finish { balances, refusal, out_of_order: false };
        match self.send(owner, vec![finish], Some(operation)).await {
            Answer::Finished(outcome) => outcome.result,
            other => panic!("{other:?}"),
        }
    }
}
