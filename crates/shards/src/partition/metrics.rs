//! Counters that the partition's threads keep and anyone may read.

use std::sync::atomic::{AtomicU64, Ordering};

use ledger::RefusalCode;

/// A histogram with one bucket per power of two, readable while it is written.
#[derive(Debug)]
pub struct Histogram {
    /// Bucket `n` counts values below `2^n`, and at or above `2^(n-1)`.
    buckets: [AtomicU64; 40],
    sum: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: [const { AtomicU64::new(0) }; 40], sum: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts a value.
    pub fn record(&self, value: u64) {
        let bucket = (64 - value.leading_zeros() as usize).min(self.buckets.len() - 1);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// `(upper bound, count below it)` for each bucket, cumulative, then the sum of all values.
    pub fn snapshot(&self) -> (Vec<(u64, u64)>, u64) {
        let mut count = 0;
        let buckets = self.buckets.iter().enumerate().map(|(power, bucket)| {
            count += bucket.load(Ordering::Relaxed);
            (1u64 << power, count)
        });
        (buckets.collect(), self.sum.load(Ordering::Relaxed))
    }
}

/// What a partition has done and is doing.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Commands executed, refusals included, repeats not.
    pub commands: AtomicU64,
    /// Commands answered from their first event.
    pub replayed: AtomicU64,
    /// Recorded and unrecorded refusals, by [`RefusalCode::number`] less one.
    pub refusals: [AtomicU64; RefusalCode::ALL.len()],
    /// Submissions refused because the queue was full.
    pub overloaded: AtomicU64,
    /// Commands that wait in the queue.
    pub queue_depth: AtomicU64,
    /// Commands per frame.
    pub batch_commands: Histogram,
    /// From handing a frame to the journal until it is durable, in microseconds.
    pub sync_us: Histogram,
    /// Bytes of frames written.
    pub journal_bytes: AtomicU64,
    /// The last event decided.
    pub decided_sequence: AtomicU64,
    /// The last event durable.
    pub committed_sequence: AtomicU64,
    /// The last event in a checkpoint; the difference to `committed_sequence` is what a restart replays.
    pub checkpoint_sequence: AtomicU64,
    /// Accounts ever opened.
    pub accounts: AtomicU64,
    /// Pending holds.
    pub holds: AtomicU64,
    /// Bytes of the filters that remember every transaction_id.
    pub id_filter_bytes: AtomicU64,
    /// Look-ups of an id that had to ask the store.
    pub id_store_lookups: AtomicU64,
    /// Commands that waited for the archive, because they repeat or refer to one whose frame was released.
    pub archive_lookups: AtomicU64,
    /// The longest time that the state thread took to hand a window over to the checkpoint's builder, in microseconds.
    pub checkpoint_pause_us_max: AtomicU64,
    /// The last event that the shadow verifier has proven.
    pub verifier_sequence: AtomicU64,
    /// How often it has caught up with what was durable.
    pub verifier_rounds: AtomicU64,
    /// What it found that is not as it must be: an alarm. It stops at the first.
    pub verifier_differences: AtomicU64,
    /// The last snapshot's sequence.
    pub snapshot_sequence: AtomicU64,
    /// How long it took, in microseconds.
    pub snapshot_us: AtomicU64,
    /// Its size.
    pub snapshot_bytes: AtomicU64,
}

impl Metrics {
    pub(super) fn count_refusal(&self, code: RefusalCode) {
        self.refusals[usize::from(code.number()) - 1].fetch_add(1, Ordering::Relaxed);
    }
}
