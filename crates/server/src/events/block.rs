//! Events that belong together on their way, decoded once and encoded once, whoever gets them.

use std::sync::{Arc, OnceLock};

use axum::body::Bytes;
use ledger::codec::{Body, CodecError};
use ledger::{AccountNumber, Command, Event, Record, Sequence, Timestamp};
use storage::journal::Frame;

use super::names::NameCache;

/// An event, and what was asked for where that alone tells what was refused.
#[derive(Clone)]
pub(crate) struct StreamEvent {
    pub(crate) record: Record,
    pub(crate) command: Option<Command>,
}

impl StreamEvent {
    pub(super) fn accounts(&self) -> impl Iterator<Item = AccountNumber> {
        api::event::accounts(&self.record.event, self.command.as_ref()).into_iter().flatten()
    }
}

/// The events of a frame after this sequence, in order.
pub(super) fn events_after(
    frame: &Frame,
    after: Sequence,
) -> Result<impl Iterator<Item = Result<StreamEvent, CodecError>> + '_, CodecError> {
    let first = Sequence(frame.first_sequence().0);
    let timestamp = Timestamp::from_micros(frame.timestamp_us());
    let body = Body::parse(frame.body(), first)?;
    let entries = if after < first { body.entries() } else { body.entries_near(after.next())? };
    Ok(entries.flat_map(move |entry| match entry {
        Ok(entry) => wanted(entry, timestamp, after),
        Err(error) => vec![Err(error)],
    }))
}

fn wanted(
    entry: ledger::codec::Entry,
    timestamp: Timestamp,
    after: Sequence,
) -> Vec<Result<StreamEvent, CodecError>> {
    let event = |(sequence, event): (Sequence, &Event)| {
        let record = Record { sequence, timestamp, event: event.clone() };
        let refused = matches!(event, Event::Refused { .. });
        Ok(StreamEvent { record, command: refused.then(|| entry.command.clone()) })
    };
    entry.sequenced().filter(|(sequence, _)| *sequence > after).map(event).collect()
}

/// The last sequence of a frame.
pub(super) fn last_of(frame: &Frame) -> Sequence {
    Sequence(frame.header().last_sequence().0)
}

/// Events in order, shared by all who get them.
pub(crate) struct Block {
    partition: u32,
    pub(crate) events: Vec<StreamEvent>,
    /// The size of all that had been handed out before.
    pub(super) offset_bytes: u64,
    sse: OnceLock<Encoded>,
}

struct Encoded {
    text: Bytes,
    /// Where each event's text ends.
    ends: Vec<usize>,
}

impl Block {
    pub(super) fn new(partition: u32, events: Vec<StreamEvent>, offset_bytes: u64) -> Block {
        Block { partition, events, offset_bytes, sse: OnceLock::new() }
    }

    fn encoded(&self, names: &NameCache) -> &Encoded {
        self.sse.get_or_init(|| {
            let mut text = Vec::with_capacity(self.events.len() * 512);
            let mut ends = Vec::with_capacity(self.events.len());
            for StreamEvent { record, command } in &self.events {
                let kind = api::event::type_of(&record.event);
                let head = format!("id: {}:{}\nevent: {kind}\ndata: ", self.partition, record.sequence.0);
                text.extend_from_slice(head.as_bytes());
                api::event::write(&mut text, self.partition, record, command.as_ref(), names);
                text.extend_from_slice(b"\n\n");
                ends.push(text.len());
            }
            Encoded { text: text.into(), ends }
        })
    }

    /// Encodes now what live subscribers would encode later, on threads that have other things to do.
    pub(super) fn encode(&self, names: &NameCache) {
        self.encoded(names);
    }

    /// What it takes in memory once it is encoded, about: what events point to is not larger than their text.
    pub(super) fn size_bytes(&self) -> u64 {
        let text = self.sse.get().map_or(0, |encoded| encoded.text.len());
        (self.events.len() * size_of::<StreamEvent>() + 2 * text) as u64
    }
}

/// What of a block one subscriber gets.
pub(crate) struct Delivery {
    pub(super) block: Arc<Block>,
    /// `None` for all of it; else the places of the events, ascending.
    pub(super) places: Option<Vec<u32>>,
}

impl Delivery {
    pub(crate) fn count(&self) -> usize {
        self.places.as_ref().map_or(self.block.events.len(), Vec::len)
    }

    pub(crate) fn events(&self) -> impl Iterator<Item = &StreamEvent> {
        (0..self.count()).map(|index| &self.block.events[self.place(index)])
    }

    pub(super) fn last(&self) -> Option<Sequence> {
        let index = self.count().checked_sub(1)?;
        Some(self.block.events[self.place(index)].record.sequence)
    }

    fn place(&self, index: usize) -> usize {
        self.places.as_ref().map_or(index, |places| places[index] as usize)
    }

    /// As server-sent events: the next of them, from this one on, that stand together in the block's text, which they share, up to about
    /// this size. `next` then tells what comes after; `None` at the end.
    pub(super) fn sse(&self, names: &NameCache, next: &mut usize, size_bytes: usize) -> Option<Bytes> {
        let encoded = self.block.encoded(names);
        let first = (*next < self.count()).then(|| self.place(*next))?;
        let start = if first == 0 { 0 } else { encoded.ends[first - 1] };
        let mut end = encoded.ends[first];
        *next += 1;
        for place in first + 1.. {
            let is_wanted = *next < self.count() && self.place(*next) == place;
            if !is_wanted || encoded.ends[place] - start > size_bytes {
                break;
            }
            end = encoded.ends[place];
            *next += 1;
        }
        Some(encoded.text.slice(start..end))
    }
}
