//! What goes on in the background: transactions that lost their instance are finished, and lapsed holds are released.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::{Inner, unanswered};

/// How many transactions of one shard are taken over at a time.
const TAKEN_OVER_PER_ROUND_MAX: usize = 256;
/// How many holds of one shard are released at a time.
const RELEASED_PER_ROUND_MAX: usize = 256;
/// How often lapsed holds are looked for.
const RELEASE_INTERVAL: Duration = Duration::from_millis(500);

/// Starts the tasks, which end with the wallet.
pub(super) fn start(inner: &Arc<Inner>) {
    for shard in 0..inner.links.len() {
        tokio::spawn(take_over(Arc::downgrade(inner), shard));
        tokio::spawn(release_holds(Arc::downgrade(inner), shard));
    }
}

async fn take_over(inner: Weak<Inner>, shard: usize) {
    while let Some(inner) = inner.upgrade() {
        match inner.links[shard].shard().unfinished(TAKEN_OVER_PER_ROUND_MAX).await {
            Ok(abandoned) => {
                for status in abandoned {
                    let Ok(permit) = Arc::clone(&inner.under_way).try_acquire_owned() else { break };
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
