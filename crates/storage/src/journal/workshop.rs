//! Work that the writer must not wait for: zero-filled segments ahead of need, side-cars behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use super::FrameIndex;
use super::disk::{Access, DiskFile};
use super::error::JournalError;
use super::layout::{Listing, Meta, spare_path, zeroed_path};
use super::shared::Shared;

/// Retired segments that are kept to be used again; what comes beyond is removed.
const RETIRED_KEPT_MAX: usize = 3;

/// How long a segment that is prepared ahead of need rests after each part. Without it the disk serves nobody else meanwhile: a frame
/// that was written at the same time waited for 64 ms.
const REST: Duration = Duration::from_millis(4);

/// A segment that is all zero and has no place in the journal yet.
pub(crate) struct Spare {
    pub(crate) number: u64,
    pub(crate) file: Box<dyn DiskFile>,
}

/// Makes spares and side-cars.
pub(crate) struct Workshop {
    shared: Arc<Shared>,
    meta: Meta,
    segment_size_bytes: u64,
    /// Numbers of spares with any content.
    retired: Vec<u64>,
    /// Numbers of spares that are all zero.
    zeroed: Vec<u64>,
    /// True while the writer waits for a spare. `None` where all is done when it is asked for.
    awaited: Option<Arc<AtomicBool>>,
}

impl Workshop {
    /// Takes over the spares that an earlier run left. Those of another size are removed.
    pub(crate) fn new(
        shared: Arc<Shared>,
        listing: &Listing,
        meta: Meta,
        segment_size_bytes: u64,
    ) -> Result<Workshop, JournalError> {
        let fits = |(number, size_bytes): &(u64, u64)| (*size_bytes == segment_size_bytes).then_some(*number);
        let workshop = Workshop {
            retired: listing.spares.iter().filter_map(fits).collect(),
            zeroed: listing.zeroed.iter().filter_map(fits).collect(),
            meta,
            segment_size_bytes,
            shared,
            awaited: None,
        };
        let directory = &workshop.shared.directory;
        let misfits = |entries: &[(u64, u64)]| -> Vec<u64> {
            entries.iter().filter(|entry| fits(entry).is_none()).map(|(number, _)| *number).collect()
        };
        let paths = misfits(&listing.spares).into_iter().map(|number| spare_path(directory, number));
        let paths =
            paths.chain(misfits(&listing.zeroed).into_iter().map(|number| zeroed_path(directory, number)));
        for path in paths {
            workshop.shared.disk.remove(&path).map_err(|source| JournalError::io("remove", &path, source))?;
        }
        Ok(workshop)
    }

    /// A spare that is all zero: an old one if there is one, else a new one.
    pub(crate) fn prepare(&mut self) -> Result<Spare, JournalError> {
        let Shared { directory, disk, next_spare, .. } = &*self.shared;
        if let Some(number) = self.zeroed.pop() {
            let path = zeroed_path(directory, number);
            let file =
                disk.open(&path, Access::Write).map_err(|source| JournalError::io("open", &path, source))?;
            return Ok(Spare { number, file });
        }
        let (number, file) = match self.retired.pop() {
            Some(number) => {
                let path = spare_path(directory, number);
                (
                    number,
                    disk.open(&path, Access::Write)
                        .map_err(|source| JournalError::io("open", &path, source))?,
                )
            }
            None => {
                let number = next_spare.fetch_add(1, Ordering::Relaxed);
                let path = spare_path(directory, number);
                let file = disk.create(&path, self.segment_size_bytes).inspect_err(|_| self.give_up(&path));
                (number, file.map_err(|source| JournalError::io("create", &path, source))?)
            }
        };
        let path = spare_path(directory, number);
        let mut rest = || {
            if self.awaited.as_ref().is_some_and(|awaited| !awaited.load(Ordering::Relaxed)) {
                std::thread::sleep(REST);
            }
        };
        let zeroed = file.zero_aside(0, self.segment_size_bytes, &mut rest);
        let zeroed = zeroed.inspect_err(|_| self.give_up(&path));
        zeroed.map_err(|source| JournalError::io("zero", &path, source))?;
        // Only a segment that is durably zero may bear a name that says so.
        disk.rename(&path, &zeroed_path(directory, number))
            .map_err(|source| JournalError::io("rename", &path, source))?;
        Ok(Spare { number, file })
    }

    /// Does one job.
    fn work(&mut self, job: Job) {
        match job {
            Job::Seal(first_index) => self.shared.store_side_car(first_index, self.meta.partition),
            Job::Retired { number, size_bytes } => self.take_back(number, size_bytes),
            Job::Release { before, done } => drop(done.send(self.release(before))),
            // Whoever asked has gone: then nobody waits.
            Job::Settle(done) => drop(done.send(())),
        }
    }

    /// A file that could not be filled would only take up room.
    fn give_up(&self, path: &std::path::Path) {
        drop(self.shared.disk.remove(path));
    }

    /// Lets go of the segments that hold nothing but frames before this one. That they are void is written down first, so
    /// that a crash leaves no hole: the next start takes away what was left.
    fn release(&mut self, before: FrameIndex) -> Result<(), JournalError> {
        let frames = self.shared.catalogue.read();
        let count =
            frames.segments.iter().skip(1).take_while(|segment| segment.first_index <= before).count();
        let first_kept = &frames.segments[count];
        let (first_index, previous_hash) = (first_kept.first_index, first_kept.previous_hash);
        drop(frames);
        if count == 0 {
            return Ok(());
        }
        self.meta.first_index = first_index;
        self.meta.previous_hash = previous_hash;
        self.meta.store(&*self.shared.disk, &self.shared.directory)?;
        let released: Vec<_> = self.shared.catalogue.write().segments.drain(..count).collect();
        self.shared.forget_cached();
        for segment in released {
            if let Some(number) = self.shared.retire_segment(segment.first_index)? {
                self.take_back(number, segment.size_bytes);
            }
        }
        self.shared.sync_directory()
    }

    pub(crate) fn take_back(&mut self, number: u64, size_bytes: u64) {
        if size_bytes == self.segment_size_bytes && self.retired.len() < RETIRED_KEPT_MAX {
            self.retired.push(number);
            return;
        }
        let path = spare_path(&self.shared.directory, number);
        if let Err(error) = self.shared.disk.remove(&path) {
            tracing::warn!(path = %path.display(), %error, "a segment out of use was not removed; the next start tries again");
        }
    }

    /// Until the other end hangs up: a spare is always ready, and jobs are done as they come.
    fn run(mut self, jobs: &Receiver<Job>, ready: &Sender<Result<Spare, JournalError>>) {
        let mut prepared = self.prepare();
        loop {
            // The spare stays here until the writer comes for it.
            let mut operation = crossbeam_channel::Select::new();
            let job_came = operation.recv(jobs);
            operation.send(ready);
            let operation = operation.select();
            if operation.index() != job_came {
                if operation.send(ready, prepared).is_err() {
                    return;
                }
                prepared = self.prepare();
                continue;
            }
            let Ok(job) = operation.recv(jobs) else { return };
            let frees_space = matches!(job, Job::Release { .. });
            self.work(job);
            // Nobody has seen the failure yet, and there may be room now.
            if frees_space && prepared.is_err() {
                prepared = self.prepare();
            }
        }
    }
}

/// What the writer hands over.
pub(crate) enum Job {
    /// The segment gets no more frames: write its side-car.
    Seal(FrameIndex),
    /// The segment is out of use and may be used again.
    Retired { number: u64, size_bytes: u64 },
    /// Let go of whole segments before this frame.
    Release { before: FrameIndex, done: Sender<Result<(), JournalError>> },
    /// Answer when every job before is done.
    Settle(Sender<()>),
}

/// The workshop as the writer sees it.
pub(crate) enum Helper {
    /// Everything is done when it is asked for, in the caller's thread: for simulation.
    Inline(Workshop),
    /// A thread of its own.
    Thread {
        jobs: Option<Sender<Job>>,
        ready: Receiver<Result<Spare, JournalError>>,
        /// Set while the writer waits: then there is no more time for rests.
        awaited: Arc<AtomicBool>,
        thread: Option<JoinHandle<()>>,
    },
}

impl Helper {
    pub(crate) fn start(mut workshop: Workshop) -> Result<Helper, JournalError> {
        let awaited = Arc::new(AtomicBool::new(false));
        workshop.awaited = Some(Arc::clone(&awaited));
        let (jobs, jobs_receiver) = crossbeam_channel::unbounded();
        let (ready_sender, ready) = crossbeam_channel::bounded(0);
        let directory = workshop.shared.directory.clone();
        let thread = std::thread::Builder::new()
            .name("journal-spares".into())
            .spawn(move || workshop.run(&jobs_receiver, &ready_sender))
            .map_err(|source| JournalError::io("start a thread for", &directory, source))?;
        Ok(Helper::Thread { jobs: Some(jobs), ready, awaited, thread: Some(thread) })
    }

    pub(crate) fn spare(&mut self) -> Result<Spare, JournalError> {
        match self {
            Helper::Inline(workshop) => workshop.prepare(),
            Helper::Thread { ready, awaited, .. } => {
                awaited.store(true, Ordering::Relaxed);
                let spare = ready.recv().unwrap_or(Err(JournalError::Panicked));
                awaited.store(false, Ordering::Relaxed);
                spare
            }
        }
    }

    pub(crate) fn give(&mut self, job: Job) {
        match self {
            Helper::Inline(workshop) => workshop.work(job),
            // After a failure the thread has ended, and the journal stops at its next need of a segment.
            Helper::Thread { jobs, .. } => drop(jobs.as_ref().map(|jobs| jobs.send(job))),
        }
    }

    /// Waits until every job given before is done.
    pub(crate) fn settle(&mut self) {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        self.give(Job::Settle(sender));
        // An error says that the thread has ended, and so that no job is under way.
        let _ = receiver.recv();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Helper::Thread { jobs, thread, awaited, .. } = self {
            awaited.store(true, Ordering::Relaxed);
            drop(jobs.take());
            if let Some(thread) = thread.take() {
                // A panic there was reported by the panic hook, and the writer sees the missing spare.
                drop(thread.join());
            }
        }
    }
}
