//! When each batch is due, and what became of it. Knows no transport.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::arguments::{AccountRefs, BenchArguments, Distribution, IdVersion, Transport};
use super::unix_time_ms;
use super::workload::{Transfer, Workload};
use crate::exit::Failure;

/// The longest latency that is told apart from longer ones.
const LATENCY_US_MAX: u64 = 3_600_000_000;
/// How long answers are waited for after the last request.
pub(super) const DRAIN: Duration = Duration::from_secs(15);
/// Marks a batch whose every transfer was answered.
const ACKNOWLEDGED: u32 = 1 << 31;

/// What is to be done.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) transport: Transport,
    pub(super) batch: u32,
    pub(super) connections: u32,
    pub(super) in_flight: u32,
    pub(super) accounts: u32,
    pub(super) distribution: Distribution,
    pub(super) ids: IdVersion,
    pub(super) account_refs: AccountRefs,
    pub(super) rate: Option<u64>,
    pub(super) warm_up: Duration,
    pub(super) duration: Duration,
    pub(super) seed: u64,
}

impl Plan {
    pub(super) fn new(arguments: &BenchArguments) -> Result<Plan, Failure> {
        let (batch, connections) = match arguments.transport {
            Transport::GrpcStream => (8190, 1),
            Transport::Http => (1, 256),
            Transport::HttpBatch => (1000, 4),
        };
        if arguments.transport == Transport::Http && arguments.batch.is_some_and(|batch| batch != 1) {
            return Err(Failure::usage("--batch: --transport http sends one transfer a request"));
        }
        if arguments.duration == 0 {
            return Err(Failure::usage("--duration must be above 0"));
        }
        Ok(Plan {
            transport: arguments.transport,
            batch: arguments.batch.unwrap_or(batch),
            connections: arguments.connections.unwrap_or(connections),
            in_flight: arguments.in_flight,
            accounts: arguments.accounts,
            distribution: arguments.distribution,
            ids: arguments.ids,
            account_refs: arguments.account_refs,
            rate: arguments.rate,
            warm_up: Duration::from_millis(arguments.warm_up),
            duration: Duration::from_millis(arguments.duration),
            seed: arguments.seed.unwrap_or_else(random_seed),
        })
    }

    pub(super) fn workload(&self) -> Workload {
        Workload::new(self.seed, self.accounts, self.batch, self.ids, self.distribution)
    }
}

fn random_seed() -> u64 {
    // Random bytes of the operating system, by way of a random UUID.
    uuid::Uuid::new_v4().as_u128() as u64
}

/// A batch that is to be sent now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    pub(super) batch: u64,
    /// From when on its latency counts.
    pub(super) since: Instant,
    /// The time in its ids.
    pub(super) unix_time_ms: u64,
}

/// Whether there is something to send.
#[derive(Debug, Clone, Copy)]
pub(super) enum Next {
    Now(Due),
    At(Instant),
    Over,
}

/// The load while it runs.
pub(super) struct Load {
    workload: Workload,
    clock: Clock,
    /// For each batch that was sent: milliseconds after the start, and [`ACKNOWLEDGED`].
    batches: Vec<u32>,
    latency_us: Histogram<u64>,
    transfers: u64,
    refused: u64,
    errors: u64,
    first_error: Option<String>,
}

/// When things are due.
#[derive(Debug)]
struct Clock {
    start: Instant,
    start_unix_ms: u64,
    /// Processor time of this process at the start.
    start_processor: Duration,
    measured_from: Instant,
    measured_until: Instant,
    /// Between two batches of an open loop.
    interval: Option<Duration>,
}

/// What was measured.
pub(super) struct Measured {
    pub(super) workload: Workload,
    pub(super) start_unix_ms: u64,
    pub(super) batches: Vec<u32>,
    pub(super) latency_us: Histogram<u64>,
    /// Answered within the time that was measured, refused ones included.
    pub(super) transfers: u64,
    pub(super) seconds: f64,
    /// Of all answers.
    pub(super) refused: u64,
    /// Transfers without an answer, or with one that is neither success nor refusal.
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    /// Processor time of the generator for a transfer, while load ran.
    pub(super) generator_ns: f64,
}

impl Load {
    /// The clock starts now.
    pub(super) fn new(plan: &Plan) -> Load {
        let workload = plan.workload();
        let start = Instant::now();
        let interval =
            plan.rate.map(|rate| Duration::from_secs(1).mul_f64(f64::from(plan.batch) / rate as f64));
        let clock = Clock {
            start,
            start_unix_ms: unix_time_ms(),
            start_processor: processor_time(),
            measured_from: start + plan.warm_up,
            measured_until: start + plan.warm_up + plan.duration,
            interval,
        };
        let latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are right");
        Load {
            workload,
            clock,
            batches: Vec::new(),
            latency_us,
            transfers: 0,
            refused: 0,
            errors: 0,
            first_error: None,
        }
    }

    /// Connecting took a while: the clock starts now.
    pub(super) fn restart_clock(&mut self) {
        assert!(self.batches.is_empty(), "the clock stands still while load runs");
        let late = self.clock.start.elapsed();
        self.clock.start += late;
        self.clock.measured_from += late;
        self.clock.measured_until += late;
        self.clock.start_unix_ms = unix_time_ms();
        self.clock.start_processor = processor_time();
    }

    /// What the batches consist of.
    pub(super) fn workload(&self) -> &Workload {
        &self.workload
    }

    /// When answers stop to be waited for.
    pub(super) fn deadline(&self) -> Instant {
        self.clock.measured_until + DRAIN
    }

    /// The next batch, if it is due.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        let batch = self.batches.len() as u64;
        let since = match self.clock.interval {
            None => now,
            Some(interval) => self.clock.start + nanoseconds_times(interval, batch),
        };
        if since >= self.clock.measured_until || now >= self.clock.measured_until {
            return Next::Over;
        }
        if since > now {
            return Next::At(since);
        }
        let after_start_ms = (now - self.clock.start).as_millis() as u32;
        assert!(after_start_ms < ACKNOWLEDGED, "a run lasts at most 24 days");
        self.batches.push(after_start_ms);
        Next::Now(Due { batch, since, unix_time_ms: self.clock.start_unix_ms + u64::from(after_start_ms) })
    }

    /// Every transfer of the batch was answered, so many of them with a refusal.
    pub(super) fn acknowledged(&mut self, due: &Due, now: Instant, refused: u32) {
        let slot = &mut self.batches[due.batch as usize];
        assert!(*slot & ACKNOWLEDGED == 0, "a batch was answered twice");
        *slot |= ACKNOWLEDGED;
        self.refused += u64::from(refused);
        if now >= self.clock.measured_from && now < self.clock.measured_until {
            self.transfers += u64::from(self.workload.batch());
            self.latency_us.saturating_record(((now - due.since).as_micros() as u64).max(1));
        }
    }

    /// The batch was not answered, or not with what counts as an answer.
    pub(super) fn failed(&mut self, why: impl FnOnce() -> String) {
        self.errors += u64::from(self.workload.batch());
        if self.first_error.is_none() {
            self.first_error = Some(why());
        }
    }

    /// The result.
    pub(super) fn finish(self) -> Measured {
        let processor = processor_time().saturating_sub(self.clock.start_processor);
        let sent = self.batches.len() as f64 * f64::from(self.workload.batch());
        Measured {
            workload: self.workload,
            start_unix_ms: self.clock.start_unix_ms,
            batches: self.batches,
            latency_us: self.latency_us,
            transfers: self.transfers,
            seconds: (self.clock.measured_until - self.clock.measured_from).as_secs_f64(),
            refused: self.refused,
            errors: self.errors,
            first_error: self.first_error,
            generator_ns: processor.as_nanos() as f64 / sent.max(1.0),
        }
    }
}

/// What this process has used of the processors so far.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

fn nanoseconds_times(interval: Duration, count: u64) -> Duration {
    let nanoseconds = interval.as_nanos().saturating_mul(u128::from(count));
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

impl Measured {
    /// Transfers answered in a second.
    pub(super) fn per_second(&self) -> f64 {
        self.transfers as f64 / self.seconds
    }

    /// What so many of all latencies are at most.
    pub(super) fn latency_ms(&self, quantile: f64) -> f64 {
        self.latency_us.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// The batches whose every transfer was answered.
    pub(super) fn acknowledged(&self) -> impl Iterator<Item = u64> {
        let numbered = self.batches.iter().enumerate();
        numbered.filter(|(_, slot)| **slot & ACKNOWLEDGED != 0).map(|(batch, _)| batch as u64)
    }

    /// The batches without an answer to every transfer.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = u64> {
        let numbered = self.batches.iter().enumerate();
        numbered.filter(|(_, slot)| **slot & ACKNOWLEDGED == 0).map(|(batch, _)| batch as u64)
    }

    /// Makes the transfers of a batch again.
    pub(super) fn generate(&self, batch: u64, each: impl FnMut(Transfer)) {
        self.workload.generate(batch, self.unix_time_ms(batch), each);
    }

    /// The time in the ids of a batch.
    pub(super) fn unix_time_ms(&self, batch: u64) -> u64 {
        self.start_unix_ms + u64::from(self.batches[batch as usize] & !ACKNOWLEDGED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(rate: Option<u64>) -> Plan {
        Plan {
            transport: Transport::HttpBatch,
            batch: 100,
            connections: 1,
            in_flight: 1,
            accounts: 10,
            distribution: Distribution::Uniform,
            ids: IdVersion::V4,
            account_refs: AccountRefs::Names,
            rate,
            warm_up: Duration::ZERO,
            duration: Duration::from_secs(10),
            seed: 1,
        }
    }

    #[test]
    fn open_loop_latency_counts_from_when_a_batch_was_due() {
        let mut load = Load::new(&plan(Some(1000)));
        let start = load.clock.start;
        // A stall of a second: ten batches were due meanwhile, and each waited for as long as it did.
        let late = start + Duration::from_secs(1);
        for number in 0..10 {
            let Next::Now(due) = load.next(late) else { panic!("batch {number} is due") };
            assert_eq!(due.since, start + Duration::from_millis(100 * number));
            load.acknowledged(&due, late, 0);
        }
        let Next::Now(last) = load.next(late) else { panic!("due right now") };
        assert_eq!(last.since, late);
        assert!(matches!(load.next(late), Next::At(next) if next == late + Duration::from_millis(100)));
        let measured = load.finish();
        assert_eq!(measured.transfers, 1000);
        assert!((999_000..=1_001_000).contains(&measured.latency_us.max()));
        assert!((99_000..=101_000).contains(&measured.latency_us.min()));
    }

    #[test]
    fn closed_loop_sends_at_once_until_the_time_is_over() {
        let mut load = Load::new(&plan(None));
        let start = load.clock.start;
        let Next::Now(due) = load.next(start) else { panic!("always") };
        load.acknowledged(&due, start + Duration::from_millis(3), 7);
        assert!(matches!(load.next(start + Duration::from_secs(10)), Next::Over));
        load.failed(|| "no answer".to_owned());
        let measured = load.finish();
        assert_eq!((measured.transfers, measured.refused, measured.errors), (100, 7, 100));
        assert_eq!(measured.acknowledged().collect::<Vec<_>>(), [0]);
    }
}
