//! What goes on in the background: transactions that lost their instance are finished, and lapsed holds are released.

use std::sync::{Arc, Weak};
use std::time::Duration;

use coordinator::port::{Operation, ShardNumber, Step};
use ledger::TransactionId;

use super::super::link::pause;
use super::{Driver, Inner, unanswered};
use crate::wallet::NotAnswered;

/// How many transactions of one shard are taken over at a time.
const TAKEN_OVER_PER_ROUND_MAX: usize = 256;
/// How many holds of one shard are released at a time.
const RELEASED_PER_ROUND_MAX: usize = 256;
/// How often lapsed holds are looked for.
const RELEASE_INTERVAL: Duration = Duration::from_millis(500);

/// The longest pause before prepared branches are looked for again.
const SETTLE_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Starts the tasks, which end with the wallet.
pub(super) fn start(inner: &Arc<Inner>) {
    for (shard, number) in (0..inner.links.len()).zip((0..).map(ShardNumber)) {
        tokio::spawn(settle_at_start(Arc::downgrade(inner), number));
        tokio::spawn(take_over(Arc::downgrade(inner), shard));
        tokio::spawn(release_holds(Arc::downgrade(inner), shard));
    }
}

/// Settles what is prepared on a shard, whoever prepared it: its record decides. Most of it is found by its unfinished record as well.
async fn settle_prepared(driver: &Driver, shard: ShardNumber) -> Result<(), NotAnswered> {
    let link = driver.inner.link(shard);
    for transaction_id in link.shard().in_doubt().await.map_err(unanswered)? {
        settle(driver, shard, transaction_id).await?;
    }
    Ok(())
}

async fn settle(
    driver: &Driver,
    shard: ShardNumber,
    transaction_id: TransactionId,
) -> Result<(), NotAnswered> {
    let Some((owner, row)) = driver.transaction(transaction_id).await? else {
        tracing::error!(
            %transaction_id,
            shard = shard.0,
            "a branch is prepared whose record is lost; it keeps its locks until somebody looks what became of the record"
        );
        return Ok(());
    };
    let Some(outcome) = &row.status.outcome else { return driver.take_over(row.status) };
    let operation = if outcome.result.is_ok() { Operation::Commit } else { Operation::Rollback };
    let step = Step::Branch { transaction_id, record: Vec::new(), operation: Some(operation), owner };
    driver.inner.link(shard).insist(step, |_, _| {}).await;
    Ok(())
}

async fn settle_at_start(inner: Weak<Inner>, shard: ShardNumber) {
    let mut attempts = 0;
    while let Some(inner) = inner.upgrade() {
        let settled = settle_prepared(&Driver { inner }, shard).await;
        let Err(error) = settled else { return };
        attempts += 1;
        tracing::debug!(shard = shard.0, %error, "prepared branches cannot be settled yet");
        tokio::time::sleep(pause(attempts, SETTLE_PAUSE_MAX)).await;
    }
}

async fn take_over(inner: Weak<Inner>, shard: usize) {
    while let Some(inner) = inner.upgrade() {
        match inner.links[shard].shard().unfinished(TAKEN_OVER_PER_ROUND_MAX).await {
            Ok(abandoned) => {
                for status in abandoned {
                    let Some(permit) = inner.room() else { break };
                    tracing::debug!(transaction_id = %status.plan.transaction_id, shard, "taking a transaction over");
                    inner.resume_or_join(status, permit);
                }
            }
            Err(no_answer) => {
                tracing::debug!(shard, error = %unanswered(no_answer), "unfinished transactions cannot be read");
            }
        }
        let interval = inner.lease / 2;
        drop(inner);
        tokio::time::sleep(interval).await;
    }
}

async fn release_holds(inner: Weak<Inner>, shard: usize) {
    while let Some(inner) = inner.upgrade() {
        let released = inner.links[shard].shard().expire_holds(RELEASED_PER_ROUND_MAX).await;
        drop(inner);
        match released {
            Ok(released) if released == RELEASED_PER_ROUND_MAX => continue,
            Ok(_) => {}
            Err(no_answer) => {
                tracing::debug!(shard, error = %unanswered(no_answer), "lapsed holds cannot be released");
            }
        }
        tokio::time::sleep(RELEASE_INTERVAL).await;
    }
}
