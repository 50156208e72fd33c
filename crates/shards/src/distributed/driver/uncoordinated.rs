//! The chapter's first design: the payer's node is updated, then the payee's, and nobody keeps the two together.
//!
//! It is fast, and a crash between the two loses half a transfer. What is lost is found by adding everything up, and given by whoever
//! repeats the transfer with the same id: each update is done once.

use std::time::Instant;

use coordinator::machine::Phase;
use coordinator::plan::{Planned, plan};
use coordinator::port::{Answer, Branch, Operation, Outcome, Plan, Protocol, Step};
use ledger::{Command, Party, Refusal, RefusalCode};

use super::{Driver, Executed, Finished, Permit, impossible, unanswered};
use crate::wallet::NotAnswered;

impl Driver {
    pub(super) async fn uncoordinated(
        &self,
        command: Command,
        permit: Permit,
    ) -> Result<Executed, NotAnswered> {
        if !matches!(command, Command::Transfer(_) | Command::OpenAccount { .. }) {
            let why = "architecture redis moves money from one account to another and knows nothing else; redis-tcc does";
            return Err(NotAnswered::NotSupported(why.to_owned()));
        }
        // The order of a Saga: the payer's branch is the first.
        match plan(&command, Protocol::Saga, self.inner.as_ref(), None) {
            Planned::Run(plan) => self.one_after_the_other(plan, permit).await,
            Planned::Refused(plan, refusal) => self.run(plan, Some(refusal), permit).await,
            Planned::Rejected(refusal) => Ok(Executed::Rejected(refusal)),
            Planned::Open(shard, step) => self.open_account(shard, step).await,
            Planned::Wait(_) => unreachable!("a transfer refers to no earlier one"),
        }
    }

    async fn one_after_the_other(&self, plan: Plan, permit: Permit) -> Result<Executed, NotAnswered> {
        let (own, others) = plan.branches.split_first().expect("a plan has an owner");
        let mut first = Plan { branches: vec![own.clone()], ..plan.clone() };
        let refusal = self.payee_refuses(others).await?;
        if refusal.is_some() {
            first.branches[0].changes.clear();
        }
        let executed = self.run(first, refusal, permit).await?;
        let Executed::Recorded(Finished { outcome, replayed, .. }) = executed else { return Ok(executed) };
        let Outcome { sequence, timestamp, result } = outcome;
        let result = match result {
            Err(refusal) => Err(refusal),
            Ok(mut balances) => {
                // From here on until the end of the loop, a crash loses what the payee was to get.
                for branch in others {
                    balances.extend(self.credit(&plan, branch).await?);
                }
                Ok(balances)
            }
        };
        let outcome = Outcome { sequence, timestamp, result };
        Ok(Executed::Recorded(Finished { plan: plan.into(), outcome, replayed }))
    }

    /// The only check of the payee: before the payer pays.
    async fn payee_refuses(&self, others: &[Branch]) -> Result<Option<Refusal>, NotAnswered> {
        for branch in others {
            let shard = self.inner.link(branch.shard).shard();
            for change in &branch.changes {
                let code = match shard.account(&change.account).await.map_err(unanswered)? {
                    None => RefusalCode::AccountNotFound,
                    Some(row) if row.closed => RefusalCode::AccountClosed,
                    Some(_) => continue,
                };
                return Ok(Some(Refusal::of(code, Party::To)));
            }
        }
        Ok(None)
    }

    async fn credit(
        &self,
        plan: &Plan,
        branch: &Branch,
    ) -> Result<Vec<coordinator::port::BalanceAfter>, NotAnswered> {
        let step = Step::Branch {
            transaction_id: plan.transaction_id,
            record: Vec::new(),
            operation: Some(Operation::Apply(branch.clone())),
            owner: plan.owner(),
        };
        let started = Instant::now();
        let answer = self.inner.link(branch.shard).insist(step, |_, _| {}).await;
        self.inner.metrics.phase(Phase::Second, started.elapsed());
        match answer {
            Answer::Done(done) => Ok(done.balances),
            other => Err(impossible(&other)),
        }
    }
}
