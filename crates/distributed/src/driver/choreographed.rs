//! A transaction that travels by itself: begun here, and waited for.

use std::sync::Arc;
use std::time::Duration;

use coordinator::machine::{Onward, Travelling};
use coordinator::port::Outcome;
use tokio::sync::watch;

use super::super::choreography::Choreography;
use super::{Ended, Finished, Inner, unanswered};
use crate::wallet::NotAnswered;

/// How often the record is looked at, should nobody tell of its end.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Begins a transaction, or lets one travel again whose record is there, and waits until it is over.
pub(super) async fn accompany(
    inner: &Arc<Inner>,
    choreography: &Choreography,
    travelling: Travelling,
    is_new: bool,
    tell: &watch::Sender<Ended>,
) {
    let plan = Arc::new(travelling.status.plan.clone());
    let transaction_id = plan.transaction_id;
    let over = choreography.wait_for(transaction_id);
    let mut replayed = !is_new;
    match choreography.step(&travelling).await {
        Onward::To(_) => {}
        Onward::Begun(record) => replayed |= !inner.began(&record, travelling.status.started_at),
        Onward::Over(outcome) => {
            choreography.forget(transaction_id);
            if !is_new {
                inner.metrics.ended(&outcome);
            }
            tell.send_replace(Some(Ok(Finished { plan, outcome, replayed: true })));
            return;
        }
        Onward::Broken(why) => {
            choreography.forget(transaction_id);
            tell.send_replace(Some(Err(NotAnswered::Unavailable(why))));
            return;
        }
    }
    let outcome = tokio::select! {
        Ok(outcome) = over => outcome,
        outcome = look(inner, choreography, &travelling) => outcome,
    };
    choreography.forget(transaction_id);
    if !is_new || !replayed {
        inner.metrics.ended(&outcome);
    }
    tell.send_replace(Some(Ok(Finished { plan, outcome, replayed })));
}

/// Looks at the record until that has an outcome. What does not get on travels again: the broker may have lost it.
async fn look(inner: &Arc<Inner>, choreography: &Choreography, travelling: &Travelling) -> Outcome {
    let plan = &travelling.status.plan;
    let mut sent_at = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        match inner.link(plan.owner()).shard().transaction(plan.transaction_id, plan.transaction_id).await {
            Ok(Some(row)) => match row.status.outcome {
                Some(outcome) => return outcome,
                None if sent_at.elapsed() >= inner.lease => {
                    choreography.step(&Travelling::again(row.status)).await;
                    sent_at = tokio::time::Instant::now();
                }
                None => {}
            },
            Ok(None) => {}
            Err(no_answer) => {
                tracing::debug!(error = %unanswered(no_answer), "a record cannot be read yet");
            }
        }
    }
}
