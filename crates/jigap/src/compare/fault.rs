//! The fault: the wallet is killed under load, and comes back.

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, anyhow};
use chrono::{DateTime, TimeDelta, Utc};

use super::wallet::Wallet;
use crate::bench::{Acknowledged, LoadShape, Session};
use crate::exit::{Exit, Failure, OrExit};

/// How long after the kill command the wallet may still answer.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How often a wallet that comes back is asked.
const POLL: Duration = Duration::from_millis(10);

/// What is done to a wallet.
pub(super) struct Fault<'run> {
    pub(super) wallet: &'run Wallet,
    pub(super) kill: &'run str,
    pub(super) start: Option<&'run str>,
    pub(super) load: LoadShape,
    pub(super) kill_after: Duration,
    pub(super) settle_patience: Duration,
}

/// What became of it.
#[derive(Debug, Clone)]
pub(super) struct Kill {
    /// Transfers without an answer, and those of them that were in flight when the wallet served again.
    pub(super) unanswered: u64,
    pub(super) in_flight: u64,
    /// From the kill until it served again.
    pub(super) serving_after: Duration,
    /// From the kill until nothing was in flight; `None` when the patience ended before.
    pub(super) settled_after: Option<Duration>,
    /// The longest time from the begin of a transaction that the kill caught to its end; `None` when it caught none.
    pub(super) in_doubt: Option<Duration>,
    /// What all money summed to before the kill, after it, and once clients had repeated what had no answer.
    difference_before: i64,
    difference: i64,
    pub(super) difference_after_repeats: i64,
    pub(super) acknowledged: Acknowledged,
}

impl Kill {
    /// Money that was missing after the kill, in minor units.
    pub(super) fn lost(&self) -> u64 {
        (self.difference - self.difference_before).min(0).unsigned_abs()
    }

    /// Money that was too much after it.
    pub(super) fn doubled(&self) -> u64 {
        (self.difference - self.difference_before).max(0).unsigned_abs()
    }

    /// Money that was missing or too much still when every client had repeated what had no answer.
    pub(super) fn different_after_repeats(&self) -> u64 {
        (self.difference_after_repeats - self.difference_before).unsigned_abs()
    }
}

impl Fault<'_> {
    /// Kills, waits, counts.
    pub(super) fn inflict(&self, session: &mut Session, difference_before: i64) -> Result<Kill, Failure> {
        let load = LoadShape { duration: self.kill_after + KILL_PATIENCE, ..self.load };
        let (interrupted, killed_at) = std::thread::scope(|scope| {
            let killer = scope.spawn(|| {
                std::thread::sleep(self.kill_after);
                let killed_at = Instant::now();
                shell("kill", self.kill).map(|()| killed_at)
            });
            let interrupted = session.load_until_lost(&load);
            (interrupted, killer.join().expect("the thread that kills does not panic"))
        });
        let killed_at = killed_at?;
        let not_ended = || anyhow!("{:?} did not end the wallet: it still answers", self.kill);
        let interrupted = interrupted?.ok_or_else(not_ended).or_exit(Exit::Usage)?;
        if let Some(start) = self.start {
            shell("start", start)?;
        }
        let back = self.wait_until_settled(killed_at)?;
        let difference = self.wallet.check()?.difference;
        let acknowledged = session.find_acknowledged(&interrupted)?;
        let unanswered = interrupted.unanswered();
        session.repeat_unanswered(interrupted)?;
        Ok(Kill {
            unanswered,
            in_flight: back.in_flight,
            serving_after: back.serving_after,
            settled_after: back.settled_after,
            in_doubt: back.in_doubt,
            difference_before,
            difference,
            difference_after_repeats: self.wallet.check()?.difference,
            acknowledged,
        })
    }

    fn wait_until_settled(&self, killed_at: Instant) -> Result<Back, Failure> {
        let deadline = killed_at + self.settle_patience;
        let mut back: Option<Back> = None;
        let mut in_doubt = InDoubt::default();
        loop {
            let settled = self.observe(&mut in_doubt);
            let now = Instant::now();
            if settled.is_ok() && back.is_none() {
                back = Some(Back {
                    in_flight: in_doubt.since.len() as u64,
                    serving_after: now - killed_at,
                    settled_after: None,
                    in_doubt: None,
                });
            }
            match (settled, back.take()) {
                (Ok(true), Some(back)) => {
                    return Ok(Back {
                        settled_after: Some(now - killed_at),
                        in_doubt: in_doubt.longest,
                        ..back
                    });
                }
                (Err(error), None) if now >= deadline => {
                    return Err(error.context("the wallet does not serve after the kill"))
                        .or_exit(Exit::Unavailable);
                }
                (_, Some(back)) if now >= deadline => return Ok(back),
                (_, unfinished) => back = unfinished,
            }
            std::thread::sleep(POLL);
        }
    }

    /// Whether nothing is in flight; an error while it does not serve.
    fn observe(&self, in_doubt: &mut InDoubt) -> anyhow::Result<bool> {
        self.wallet.ready()?;
        let under_way = self.wallet.in_flight()?;
        in_doubt.take(under_way.into_iter().map(|found| (found.transaction_id, found.started_at)).collect());
        Ok(in_doubt.since.is_empty() && self.wallet.try_check()?.nothing_in_flight)
    }
}

/// A wallet that serves again.
struct Back {
    in_flight: u64,
    serving_after: Duration,
    settled_after: Option<Duration>,
    in_doubt: Option<Duration>,
}

/// When each transaction that is under way began, by the clock of its wallet.
#[derive(Default)]
struct InDoubt {
    since: HashMap<String, DateTime<Utc>>,
    longest: Option<Duration>,
}

impl InDoubt {
    /// Takes what is under way now; what is not any more has just ended.
    fn take(&mut self, under_way: HashMap<String, DateTime<Utc>>) {
        let now = DateTime::<Utc>::from(SystemTime::now());
        for (id, began) in &self.since {
            if !under_way.contains_key(id) {
                let took = (now - *began).max(TimeDelta::zero()).to_std().unwrap_or_default();
                self.longest = self.longest.max(Some(took));
            }
        }
        self.since = under_way;
    }
}

/// Runs a command of the configuration.
fn shell(what: &str, command: &str) -> Result<(), Failure> {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = shell.status().context("cannot run sh").or_exit(Exit::Failed)?;
    match status.success() {
        true => Ok(()),
        false => Err(Failure::usage(format!("`{what}` failed with {status}: {command}"))),
    }
}
