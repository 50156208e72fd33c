//! Frames that were decoded lately, for subscribers that read the same part of the journal. After a restart or a burst all of them do,
//! and each of ten thousand would decode every event to find the few about its account.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use ledger::codec::CodecError;
use ledger::{AccountNumber, Sequence};
use storage::journal::Frame;

use super::block::{StreamEvent, events_after, last_of};

/// What is kept at most.
const SIZE_BYTES_MAX: usize = 32 << 20;

/// A frame's events, and which are about which account.
pub(super) struct DecodedFrame {
    first: Sequence,
    pub(super) last: Sequence,
    events: Vec<StreamEvent>,
    /// Accounts with the places of their events, sorted.
    places: Vec<(AccountNumber, u32)>,
    /// What it takes in memory, about.
    size_bytes: usize,
}

impl DecodedFrame {
    /// Of a frame that has events.
    pub(super) fn decode(frame: &Frame) -> Result<DecodedFrame, CodecError> {
        let events = events_after(frame, Sequence(0))?.collect::<Result<Vec<StreamEvent>, CodecError>>()?;
        let mut places = Vec::with_capacity(events.len() * 2);
        for (place, event) in (0u32..).zip(&events) {
            places.extend(event.accounts().map(|account| (account, place)));
        }
        places.sort_unstable();
        places.dedup();
        // What events point to is not larger than their frame.
        let size_bytes =
            events.len() * size_of::<StreamEvent>() + size_of_val(&places[..]) + frame.body().len();
        let (first, last) = (Sequence(frame.first_sequence().0), last_of(frame));
        Ok(DecodedFrame { first, last, events, places, size_bytes })
    }

    /// The events after this sequence, of this account or of all.
    pub(super) fn wanted(
        &self,
        after: Sequence,
        account: Option<AccountNumber>,
    ) -> impl Iterator<Item = &StreamEvent> {
        let (all, of_account) = match account {
            None => (&self.events[..], &[][..]),
            Some(account) => {
                let start = self.places.partition_point(|(other, _)| *other < account);
                let count = self.places[start..].partition_point(|(other, _)| *other == account);
                (&[][..], &self.places[start..start + count])
            }
        };
        let of_account = of_account.iter().map(|(_, place)| &self.events[*place as usize]);
        all.iter().chain(of_account).filter(move |event| event.record.sequence > after)
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct RecentFrames {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// By the last sequence of each.
    frames: BTreeMap<Sequence, Arc<DecodedFrame>>,
    /// The oldest first.
    kept: VecDeque<Sequence>,
    size_bytes: usize,
}

impl RecentFrames {
    /// The frame that has this sequence, if it is kept.
    pub(super) fn containing(&self, sequence: Sequence) -> Option<Arc<DecodedFrame>> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, frame) = inner.frames.range(sequence..).next()?;
        (frame.first <= sequence).then(|| Arc::clone(frame))
    }

    /// Keeps a frame, and drops those that were kept longest.
    pub(super) fn keep(&self, frame: &Arc<DecodedFrame>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        // Two may have decoded it at the same time.
        if inner.frames.contains_key(&frame.last) {
            return;
        }
        inner.frames.insert(frame.last, Arc::clone(frame));
        inner.kept.push_back(frame.last);
        inner.size_bytes += frame.size_bytes;
        while inner.size_bytes > SIZE_BYTES_MAX
            && let Some(oldest) = inner.kept.pop_front()
        {
            let dropped = inner.frames.remove(&oldest).map_or(0, |frame| frame.size_bytes);
            inner.size_bytes -= dropped;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u64, last: u64, size_bytes: usize) -> Arc<DecodedFrame> {
        let (events, places) = (Vec::new(), Vec::new());
        Arc::new(DecodedFrame { first: Sequence(first), last: Sequence(last), events, places, size_bytes })
    }

    #[test]
    fn a_frame_is_found_by_any_of_its_sequences_until_newer_ones_need_the_room() {
        let recent = RecentFrames::default();
        let found = |sequence| recent.containing(Sequence(sequence)).map(|frame| frame.first.0);
        let (small, large) = (SIZE_BYTES_MAX / 4, SIZE_BYTES_MAX / 2);
        recent.keep(&frame(5, 9, small));
        recent.keep(&frame(20, 20, large));
        assert_eq!(
            [4, 5, 9, 10, 19, 20, 21].map(found),
            [None, Some(5), Some(5), None, None, Some(20), None]
        );
        // Who decoded it as well does not make it count twice.
        recent.keep(&frame(5, 9, small));
        recent.keep(&frame(1, 4, small));
        assert_eq!([1, 5, 20].map(found), [Some(1), Some(5), Some(20)]);
        // The one that was kept longest goes, not the first of the journal.
        recent.keep(&frame(10, 19, small));
        assert_eq!([1, 5, 10, 20].map(found), [Some(1), None, Some(10), Some(20)]);
        recent.keep(&frame(21, 30, SIZE_BYTES_MAX + 1));
        assert_eq!([1, 10, 20, 21].map(found), [None; 4]);
    }
}
