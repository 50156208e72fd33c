//! The chapter's first design: the payer's node is updated, then the payee's, and nobody keeps the two together.
//!
//! It is fast, and a crash between the two loses half a transfer. What is lost is found by adding everything up, and given by whoever
//! repeats the transfer with the same id: each update is done once.

use std::time::Instant;

use coordinator::machine::Phase;
use coordinator::plan::{Planned, first_of, plan};
use coordinator::port::{Answer, Branch, Operation, Outcome, Plan, Protocol, Step};
use ledger::{Balance, Command, Party, Refusal, RefusalCode};
use tracing::Instrument;

use super::{Driver, Executed, Finished, Permit, impossible, spans, unanswered};
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
            Planned::Run(plan) => {
                let span = self.inner.span_of(&plan);
                self.one_after_the_other(plan, permit).instrument(span).await
            }
            Planned::Refused(plan, refusal) => self.run(plan, Some(refusal), permit).await,
            Planned::Rejected(refusal) => Ok(Executed::Rejected(refusal)),
            Planned::Open(shard, step) => self.open_account(shard, step).await,
            Planned::Wait(_) => unreachable!("a transfer refers to no earlier one"),
        }
    }

    async fn one_after_the_other(&self, plan: Plan, permit: Permit) -> Result<Executed, NotAnswered> {
        let (own, others) = plan.branches.split_first().expect("a plan has an owner");
        let mut first = Plan { branches: vec![own.clone()], ..plan.clone() };
        let refusal = self.payee_refuses(own, others).await?;
        if refusal.is_some() {
            first.branches[0].changes.clear();
        }
        let executed = self.run_within(first, refusal, permit).await?;
        let Executed::Recorded(Finished { outcome, replayed, .. }) = executed else { return Ok(executed) };
        let Outcome { sequence, timestamp, result } = outcome;
        let result = match result {
            Err(refusal) => Err(refusal),
            Ok(mut balances) => {
                // From here on until the end of the loop, a crash loses what the payee was to get.
                for branch in others {
                    let crediting = spans::phase(Phase::Second.name());
                    balances.extend(self.credit(&plan, branch).instrument(crediting).await?);
                }
                Ok(balances)
            }
        };
        let outcome = Outcome { sequence, timestamp, result };
        Ok(Executed::Recorded(Finished { plan: plan.into(), outcome, replayed }))
    }

    /// The only check of the payee: before the payer pays. Where a payer cannot pay either, that may come first in the ledger's order.
    async fn payee_refuses(&self, own: &Branch, others: &[Branch]) -> Result<Option<Refusal>, NotAnswered> {
        for branch in others {
            let Some(of_payee) = self.objection(branch).await? else { continue };
            let of_payer = self.objection(own).await?;
            return Ok(Some(of_payer.map_or(of_payee, |of_payer| first_of(of_payer, of_payee))));
        }
        Ok(None)
    }

    /// What stands against a branch as its accounts are now.
    async fn objection(&self, branch: &Branch) -> Result<Option<Refusal>, NotAnswered> {
        let shard = self.inner.link(branch.shard).shard();
        for change in &branch.changes {
            let amount: i128 = change.postings.iter().map(|posting| i128::from(posting.amount)).sum();
            let party = if amount < 0 { Party::From } else { Party::To };
            let code = match shard.account(&change.account).await.map_err(unanswered)? {
                None => RefusalCode::AccountNotFound,
                Some(row) if row.closed => RefusalCode::AccountClosed,
                Some(row) => {
                    let of_currency = row.balances.iter().find(|(currency, _)| *currency == change.currency);
                    let balance = of_currency.map_or_else(Balance::default, |(_, balance)| *balance);
                    let after = i128::from(balance.available) + amount;
                    if after < 0 && amount < 0 {
                        let refusal = Refusal::of(RefusalCode::InsufficientFunds, party);
                        return Ok(Some(Refusal { available: balance.available, ..refusal }));
                    }
                    if after + i128::from(balance.held) <= i128::from(i64::MAX) {
                        continue;
                    }
                    RefusalCode::BalanceOverflow
                }
            };
            return Ok(Some(Refusal::of(code, party)));
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
            Answer::Refused(refusal) => Err(half_done(plan, &refusal)),
            other => Err(impossible(&other)),
        }
    }
}

/// Something happened to the payee's account after it was looked at, and the payer has paid. Its barrier says so for ever.
fn half_done(plan: &Plan, refusal: &Refusal) -> NotAnswered {
    let (transaction_id, why) = (plan.transaction_id, refusal.code.name());
    tracing::error!(
        %transaction_id,
        why,
        "half of a transfer is lost: the payer has paid, and the payee's account has refused it; give the money back by another transfer"
    );
    NotAnswered::Unavailable(format!(
        "the payer has paid, and the payee's account has refused the money ({why}): architecture redis has lost half of this transfer"
    ))
}
