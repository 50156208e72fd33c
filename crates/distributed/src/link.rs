//! The way to one shard: whatever has no answer is repeated, because unknown is never failure.

use std::sync::Arc;
use std::time::Duration;

use coordinator::port::{Answer, NoAnswer, ShardNumber, Step};

use super::{Metrics, Shard, spans};

/// The first pause before a step is repeated.
const PAUSE_FIRST: Duration = Duration::from_millis(2);
/// The longest pause before a step is repeated that was not executed, because something it needs was locked.
const BUSY_PAUSE_MAX: Duration = Duration::from_millis(250);
/// The longest pause before a step is repeated whose shard did not answer.
const UNKNOWN_PAUSE_MAX: Duration = Duration::from_secs(2);

/// The way to one shard.
#[derive(Clone)]
pub(super) struct Link {
    number: ShardNumber,
    shard: Arc<dyn Shard>,
    metrics: Arc<Metrics>,
}

impl Link {
    pub(super) fn new(number: ShardNumber, shard: Arc<dyn Shard>, metrics: Arc<Metrics>) -> Link {
        Link { number, shard, metrics }
    }

    /// The shard itself, for queries.
    pub(super) fn shard(&self) -> &dyn Shard {
        self.shard.as_ref()
    }

    /// Tries a step once.
    pub(super) async fn attempt(&self, step: Step) -> Result<Answer, NoAnswer> {
        let span = spans::step(self.number, &step);
        let executed = async {
            let mut answers = self.shard.execute(vec![step]).await;
            assert_eq!(answers.len(), 1, "a shard answers every step");
            answers.pop().expect("there is one answer")
        };
        self.metrics.step(self.number, span, executed).await
    }

    /// Repeats a step until it has an answer. `failed` hears of every attempt that had none.
    pub(super) async fn insist(&self, step: Step, failed: impl FnMut(u32, &NoAnswer)) -> Answer {
        until_answered(&self.metrics, self.number, || self.attempt(step.clone()), failed).await
    }
}

/// Repeats an attempt at a shard until it has an answer. `failed` hears of every one that had none.
pub(super) async fn until_answered<Attempt>(
    metrics: &Metrics,
    shard: ShardNumber,
    attempt: impl Fn() -> Attempt,
    mut failed: impl FnMut(u32, &NoAnswer),
) -> Answer
where
    Attempt: Future<Output = Result<Answer, NoAnswer>>,
{
    let mut attempts = 0;
    loop {
        match attempt().await {
            Ok(answer) => return answer,
            Err(no_answer) => {
                attempts += 1;
                failed(attempts, &no_answer);
                let longest = match no_answer {
                    NoAnswer::Busy(_) => BUSY_PAUSE_MAX,
                    NoAnswer::Unknown(_) => UNKNOWN_PAUSE_MAX,
                };
                tokio::time::sleep(pause(attempts, longest)).await;
                metrics.repeated(shard);
            }
        }
    }
}

/// Doubles from the first pause to the longest; half of it is random, so that those who collided once do not collide again.
pub(super) fn pause(attempts: u32, longest: Duration) -> Duration {
    let whole = PAUSE_FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(longest);
    whole.mul_f64(0.5 + fastrand::f64() / 2.0)
}
