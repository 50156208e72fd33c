//! Reading a frame body. Every byte may be wrong: nothing here panics, and nothing is allocated by an announced size.

use super::{
    BODY_VERSION, CodecError, EVENTS_PER_COMMAND_MAX, HEADER_SIZE_BYTES, NEVER, NO_LEG,
    PLAIN_COMMAND_SIZE_BYTES, PLAIN_EVENT_SIZE_BYTES, RESTART_SIZE_BYTES, command_tag, event_tag,
};
use crate::{
    AccountId, AccountNumber, AccountRef, Amount, Command, Currency, DecimalAmount, Event, Events,
    GROUP_LEGS_MAX, Group, Hold, HoldRequest, METADATA_PAIRS_MAX, Metadata, Movement, Party, Refusal,
    RefusalCode, Sequence, Timestamp, TransactionId, Transfer, TransferKind,
};

/// A command of a frame with the events that it became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What was asked for.
    pub command: Command,
    /// The sequence of the first of the events; the others follow without a gap.
    pub first_sequence: Sequence,
    /// What happened.
    pub events: Events,
}

impl Entry {
    /// The events with their sequences.
    pub fn sequenced(&self) -> impl Iterator<Item = (Sequence, &Event)> {
        let first = self.first_sequence.0;
        self.events.iter().enumerate().map(move |(index, event)| (Sequence(first + index as u64), event))
    }
}

/// A frame body, its outer shape checked.
#[derive(Debug, Clone, Copy)]
pub struct Body<'bytes> {
    command_count: u32,
    event_count: u32,
    first_sequence: Sequence,
    commands: &'bytes [u8],
    events: &'bytes [u8],
    restarts: &'bytes [u8],
}

impl<'bytes> Body<'bytes> {
    /// Reads the outer shape. `first_sequence` is that of the frame's first event, which its header holds.
    pub fn parse(bytes: &'bytes [u8], first_sequence: Sequence) -> Result<Body<'bytes>, CodecError> {
        let mut cursor = Cursor { bytes };
        let [version, _, _, _] = cursor.take::<4>()?;
        if version != BODY_VERSION {
            return Err(CodecError::UnsupportedVersion { found: version });
        }
        let command_count = cursor.u32()?;
        let event_count = cursor.u32()?;
        let commands_size = cursor.u32()? as usize;
        let events_size = cursor.u32()? as usize;
        debug_assert_eq!(bytes.len() - cursor.bytes.len(), HEADER_SIZE_BYTES);
        let commands = cursor.slice(commands_size)?;
        let events = cursor.slice(events_size)?;
        let restarts = cursor.bytes;
        if !restarts.len().is_multiple_of(RESTART_SIZE_BYTES) {
            return Err(CodecError::Invalid("restart table"));
        }
        if first_sequence.0.checked_add(event_count.into()).is_none() {
            return Err(CodecError::Invalid("sequence"));
        }
        Ok(Body { command_count, event_count, first_sequence, commands, events, restarts })
    }

    /// How many commands the body holds.
    pub fn command_count(&self) -> u32 {
        self.command_count
    }

    /// How many events the body holds.
    pub fn event_count(&self) -> u32 {
        self.event_count
    }

    /// All commands with their events, in order. Ends after the first error.
    pub fn entries(&self) -> Entries<'bytes> {
        Entries {
            commands: Cursor { bytes: self.commands },
            events: Cursor { bytes: self.events },
            next_sequence: self.first_sequence,
            end_sequence: Sequence(self.first_sequence.0 + u64::from(self.event_count)),
            whole: true,
        }
    }

    /// All events in order, without their commands: plain transfers are decoded as movements, and what their commands say besides is
    /// passed over. Ends after the first error.
    pub fn outcomes(&self) -> Outcomes<'bytes> {
        Outcomes { entries: self.entries(), rest: Vec::new().into_iter(), next_sequence: self.first_sequence }
    }

    /// All commands with their events, in order, as [`Body::entries`]; plain transfers in a form that is quick to decode. Ends after
    /// the first error.
    pub fn steps(&self) -> Steps<'bytes> {
        Steps { entries: self.entries() }
    }

    /// The command whose events include this sequence, with them.
    pub fn entry_of(&self, sequence: Sequence) -> Result<Entry, CodecError> {
        Ok(self.locate(sequence)?.entry)
    }

    /// As [`Body::entry_of`], with the bytes of the body that say so.
    pub fn locate(&self, sequence: Sequence) -> Result<Located, CodecError> {
        self.locate_from(self.restart_before(sequence)?, sequence)
    }

    /// As [`Body::locate`], given the restart that it answers: reads no byte outside the ranges that it answers.
    pub fn locate_from(&self, restart: u32, sequence: Sequence) -> Result<Located, CodecError> {
        let ordinal = self.ordinal(sequence)?;
        let place = restart as usize * RESTART_SIZE_BYTES;
        let mut cursor = Cursor { bytes: self.restarts.get(place..).ok_or(CodecError::Truncated)? };
        let [command_offset, event_offset, event_ordinal] = [cursor.u32()?, cursor.u32()?, cursor.u32()?];
        let is_last = cursor.bytes.is_empty();
        let next_ordinal =
            if is_last { u64::MAX } else { Cursor { bytes: cursor.slice(RESTART_SIZE_BYTES)? }.ordinal()? };
        if u64::from(event_ordinal) > ordinal || next_ordinal <= ordinal {
            return Err(CodecError::Invalid("restart table"));
        }
        let mut entries = self.entries_from([command_offset, event_offset, event_ordinal])?;
        loop {
            let entry = entries.next().ok_or(CodecError::Truncated)??;
            if sequence.0 >= entry.first_sequence.0 + entry.events.len() as u64 {
                continue;
            }
            let events_start = HEADER_SIZE_BYTES + self.commands.len();
            let restarts_start = events_start + self.events.len();
            let restarts = if is_last { 1 } else { 2 };
            let ranges = [
                0..HEADER_SIZE_BYTES,
                HEADER_SIZE_BYTES + command_offset as usize..events_start - entries.commands.bytes.len(),
                events_start + event_offset as usize..restarts_start - entries.events.bytes.len(),
                restarts_start + place..restarts_start + place + restarts * RESTART_SIZE_BYTES,
            ];
            return Ok(Located { entry, restart, ranges });
        }
    }

    /// The commands from a little before this sequence on: those before are not decoded.
    pub fn entries_near(&self, sequence: Sequence) -> Result<Entries<'bytes>, CodecError> {
        let place = self.restart_before(sequence)? as usize * RESTART_SIZE_BYTES;
        let mut cursor = Cursor { bytes: self.restarts.get(place..).ok_or(CodecError::Truncated)? };
        let restart = [cursor.u32()?, cursor.u32()?, cursor.u32()?];
        if u64::from(restart[2]) > self.ordinal(sequence)? {
            return Err(CodecError::Invalid("restart table"));
        }
        self.entries_from(restart)
    }

    fn entries_from(
        &self,
        [command_offset, event_offset, event_ordinal]: [u32; 3],
    ) -> Result<Entries<'bytes>, CodecError> {
        let mut entries = self.entries();
        entries.commands.bytes = self.commands.get(command_offset as usize..).ok_or(CodecError::Truncated)?;
        entries.events.bytes = self.events.get(event_offset as usize..).ok_or(CodecError::Truncated)?;
        entries.next_sequence = Sequence(self.first_sequence.0 + u64::from(event_ordinal));
        entries.whole = false;
        Ok(entries)
    }

    fn ordinal(&self, sequence: Sequence) -> Result<u64, CodecError> {
        let ordinal = sequence.0.checked_sub(self.first_sequence.0);
        ordinal
            .filter(|ordinal| *ordinal < u64::from(self.event_count))
            .ok_or(CodecError::Invalid("sequence"))
    }

    /// The last restart at or before the event.
    fn restart_before(&self, sequence: Sequence) -> Result<u32, CodecError> {
        let ordinal = self.ordinal(sequence)?;
        let restarts = self.restarts.len() / RESTART_SIZE_BYTES;
        let (mut low, mut high) = (0, restarts);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let event_ordinal = Cursor { bytes: &self.restarts[middle * RESTART_SIZE_BYTES..] }.ordinal()?;
            if event_ordinal <= ordinal { low = middle } else { high = middle }
        }
        u32::try_from(low).map_err(|_| CodecError::Invalid("restart table"))
    }
}

/// A command found in a body, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The command with its events.
    pub entry: Entry,
    /// The restart from which it is found.
    pub restart: u32,
    /// The bytes of the body that say so: its header, the commands and the events from the restart on, and the restart.
    pub ranges: [std::ops::Range<usize>; 4],
}

/// Iterates over the commands of a body with their events.
#[derive(Debug, Clone)]
pub struct Entries<'bytes> {
    commands: Cursor<'bytes>,
    events: Cursor<'bytes>,
    next_sequence: Sequence,
    end_sequence: Sequence,
    /// True when iteration began at the first command, so that nothing may be left over at the end.
    whole: bool,
}

impl Entries<'_> {
    fn next_entry(&mut self) -> Result<Entry, CodecError> {
        let command = self.commands.command()?;
        let first_sequence = self.next_sequence;
        let (event, more) = self.events.event(&command, 0)?;
        let events = if more { self.many(event, &command)? } else { Events::One(event) };
        if events.len() as u64 > self.end_sequence.0 - first_sequence.0 {
            return Err(CodecError::Invalid("event count"));
        }
        self.next_sequence = Sequence(first_sequence.0 + events.len() as u64);
        Ok(Entry { command, first_sequence, events })
    }

    fn many(&mut self, first: Event, command: &Command) -> Result<Events, CodecError> {
        let mut events = vec![first];
        loop {
            let (event, more) = self.events.event(command, events.len())?;
            events.push(event);
            if !more {
                return Ok(Events::Many(events));
            }
            if events.len() == EVENTS_PER_COMMAND_MAX {
                return Err(CodecError::Invalid("event count"));
            }
        }
    }

    fn fail(&mut self, error: CodecError) -> Option<Result<Entry, CodecError>> {
        self.commands.bytes = &[];
        self.events.bytes = &[];
        self.next_sequence = self.end_sequence;
        Some(Err(error))
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, CodecError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next_sequence == self.end_sequence {
            let left_over = !self.commands.bytes.is_empty() || !self.events.bytes.is_empty();
            return if left_over && self.whole { self.fail(CodecError::Invalid("size")) } else { None };
        }
        match self.next_entry() {
            Ok(entry) => Some(Ok(entry)),
            Err(error) => self.fail(error),
        }
    }
}

/// What happened, as [`Body::outcomes`] tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A transfer, deposit or withdrawal by account numbers and without metadata: nearly every event.
    Moved(Movement),
    /// Any event.
    Event(Event),
}

/// Iterates over the events of a body.
#[derive(Debug, Clone)]
pub struct Outcomes<'bytes> {
    entries: Entries<'bytes>,
    /// Further events of the command that was decoded last.
    rest: std::vec::IntoIter<Event>,
    next_sequence: Sequence,
}

impl Outcomes<'_> {
    fn next_outcome(&mut self) -> Option<Result<Outcome, CodecError>> {
        if let Some(event) = self.rest.next() {
            return Some(Ok(Outcome::Event(event)));
        }
        if let Some(transfer) = self.entries.plain_transfer() {
            return Some(Ok(Outcome::Moved(transfer.movement)));
        }
        Some(self.entries.next()?.map(|entry| match entry.events {
            Events::One(event) => Outcome::Event(event),
            Events::Many(events) => {
                self.rest = events.into_iter();
                Outcome::Event(self.rest.next().expect("many events are at least two"))
            }
        }))
    }
}

impl Iterator for Outcomes<'_> {
    type Item = Result<(Sequence, Outcome), CodecError>;

    fn next(&mut self) -> Option<Self::Item> {
        let sequence = self.next_sequence;
        let outcome = self.next_outcome()?;
        self.next_sequence = sequence.next();
        Some(outcome.map(|outcome| (sequence, outcome)))
    }
}

impl Entries<'_> {
    /// The next command, when it is a transfer by numbers without metadata that was made; `None` leaves everything as it is, for
    /// [`Entries::next_entry`] to decode or to refuse.
    #[inline]
    fn plain_transfer(&mut self) -> Option<PlainTransfer> {
        // Of fixed size, so that whether the bytes suffice is asked once.
        let (command, commands) = self.commands.bytes.split_first_chunk::<PLAIN_COMMAND_SIZE_BYTES>()?;
        let (event, events) = self.events.bytes.split_first_chunk::<PLAIN_EVENT_SIZE_BYTES>()?;
        let kind = match (command[0], event[0]) {
            (command_tag::TRANSFER, event_tag::TRANSFERRED) => TransferKind::Transfer,
            (command_tag::DEPOSIT, event_tag::TRANSFERRED) => TransferKind::Deposit,
            (command_tag::WITHDRAWAL, event_tag::TRANSFERRED) => TransferKind::Withdrawal,
            _ => return None,
        };
        if self.next_sequence == self.end_sequence {
            return None;
        }
        let mut command = Cursor { bytes: &command[1..] };
        let mut event = Cursor { bytes: &event[1..] };
        let transaction_id = command.transaction_id().ok()?;
        let movement = Movement {
            from: command.number().ok()?,
            to: command.number().ok()?,
            amount: command.amount().ok()?,
            currency: command.currency().ok()?,
            from_after: event.i64().ok()?,
            to_after: event.i64().ok()?,
        };
        self.commands.bytes = commands;
        self.events.bytes = events;
        let sequence = self.next_sequence;
        self.next_sequence = sequence.next();
        Some(PlainTransfer { transaction_id, sequence, kind, movement })
    }
}

/// A transfer, deposit or withdrawal by account numbers and without metadata, which was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainTransfer {
    /// The caller's id.
    pub transaction_id: TransactionId,
    /// The sequence of its one event.
    pub sequence: Sequence,
    /// Which way.
    pub kind: TransferKind,
    /// What happened.
    pub movement: Movement,
}

impl PlainTransfer {
    /// What was asked for.
    pub fn command(&self) -> Transfer {
        Transfer {
            transaction_id: self.transaction_id,
            kind: self.kind,
            from: AccountRef::Number(self.movement.from),
            to: AccountRef::Number(self.movement.to),
            amount: self.movement.amount,
            currency: self.movement.currency,
            metadata: Metadata::default(),
        }
    }

    /// As any other command with its events.
    pub fn into_entry(self) -> Entry {
        let event = Event::Transferred {
            transaction_id: self.transaction_id,
            kind: self.kind,
            movement: self.movement,
            metadata: Metadata::default(),
        };
        Entry {
            command: Command::Transfer(self.command()),
            first_sequence: self.sequence,
            events: Events::One(event),
        }
    }
}

/// A command with its events, as [`Body::steps`] tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nearly every command.
    Plain(PlainTransfer),
    /// Any command.
    Entry(Box<Entry>),
}

/// Iterates over the commands of a body with their events.
#[derive(Debug, Clone)]
pub struct Steps<'bytes> {
    entries: Entries<'bytes>,
}

impl Iterator for Steps<'_> {
    type Item = Result<Step, CodecError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if let Some(transfer) = self.entries.plain_transfer() {
            return Some(Ok(Step::Plain(transfer)));
        }
        Some(self.entries.next()?.map(|entry| Step::Entry(Box::new(entry))))
    }
}

#[derive(Debug, Clone, Copy)]
struct Cursor<'bytes> {
    bytes: &'bytes [u8],
}

impl<'bytes> Cursor<'bytes> {
    #[inline]
    fn slice(&mut self, size: usize) -> Result<&'bytes [u8], CodecError> {
        let (taken, rest) = self.bytes.split_at_checked(size).ok_or(CodecError::Truncated)?;
        self.bytes = rest;
        Ok(taken)
    }

    #[inline]
    fn take<const SIZE: usize>(&mut self) -> Result<[u8; SIZE], CodecError> {
        let (taken, rest) = self.bytes.split_first_chunk::<SIZE>().ok_or(CodecError::Truncated)?;
        self.bytes = rest;
        Ok(*taken)
    }

    /// The event's ordinal in a restart.
    fn ordinal(&mut self) -> Result<u64, CodecError> {
        self.slice(RESTART_SIZE_BYTES - 4)?;
        Ok(self.u32()?.into())
    }

    #[inline]
    fn u8(&mut self) -> Result<u8, CodecError> {
        Ok(u8::from_le_bytes(self.take()?))
    }

    #[inline]
    fn u16(&mut self) -> Result<u16, CodecError> {
        Ok(u16::from_le_bytes(self.take()?))
    }

    #[inline]
    fn u32(&mut self) -> Result<u32, CodecError> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    #[inline]
    fn u64(&mut self) -> Result<u64, CodecError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    #[inline]
    fn i64(&mut self) -> Result<i64, CodecError> {
        Ok(i64::from_le_bytes(self.take()?))
    }

    #[inline]
    fn transaction_id(&mut self) -> Result<TransactionId, CodecError> {
        Ok(TransactionId::from_bytes(self.take()?))
    }

    #[inline]
    fn number(&mut self) -> Result<AccountNumber, CodecError> {
        Ok(AccountNumber(self.u32()?))
    }

    #[inline]
    fn amount(&mut self) -> Result<Amount, CodecError> {
        Amount::from_minor_units(self.u64()?).ok_or(CodecError::Invalid("amount"))
    }

    #[inline]
    fn currency(&mut self) -> Result<Currency, CodecError> {
        Currency::from_numeric(self.u16()?).ok_or(CodecError::Invalid("currency"))
    }

    fn text(&mut self, size: usize) -> Result<&'bytes str, CodecError> {
        std::str::from_utf8(self.slice(size)?).map_err(|_| CodecError::Invalid("text"))
    }

    fn name(&mut self) -> Result<AccountId, CodecError> {
        let size = usize::from(self.u8()?);
        AccountId::parse(self.text(size)?).map_err(|_| CodecError::Invalid("account id"))
    }

    fn account(&mut self, named: bool) -> Result<AccountRef, CodecError> {
        Ok(if named { AccountRef::Named(self.name()?) } else { AccountRef::Number(self.number()?) })
    }

    fn metadata(&mut self, tag: u8) -> Result<Metadata, CodecError> {
        if tag & command_tag::METADATA == 0 {
            return Ok(Metadata::default());
        }
        let count = usize::from(self.u8()?);
        if count > METADATA_PAIRS_MAX {
            return Err(CodecError::Invalid("metadata"));
        }
        let mut pairs = Vec::with_capacity(count);
        for _ in 0..count {
            let key_size = usize::from(self.u16()?);
            let key = self.text(key_size)?;
            let value_size = usize::from(self.u16()?);
            pairs.push((key, self.text(value_size)?));
        }
        Metadata::new(pairs).map_err(|_| CodecError::Invalid("metadata"))
    }

    fn command(&mut self) -> Result<Command, CodecError> {
        let tag = self.u8()?;
        Ok(match tag & command_tag::KIND_MASK {
            command_tag::TRANSFER => Command::Transfer(self.transfer(tag, TransferKind::Transfer)?),
            command_tag::DEPOSIT => Command::Transfer(self.transfer(tag, TransferKind::Deposit)?),
            command_tag::WITHDRAWAL => Command::Transfer(self.transfer(tag, TransferKind::Withdrawal)?),
            command_tag::OPEN_ACCOUNT => {
                Command::OpenAccount { account_id: self.name()?, metadata: self.metadata(tag)? }
            }
            command_tag::GROUP => self.group()?,
            command_tag::HOLD => {
                let transfer = self.transfer(tag, TransferKind::Transfer)?;
                let expires_in_seconds =
                    if tag & command_tag::OPTION != 0 { Some(self.u32()?) } else { None };
                Command::Hold(Box::new(HoldRequest { transfer, expires_in_seconds }))
            }
            command_tag::CONFIRM_HOLD => Command::ConfirmHold {
                transaction_id: self.transaction_id()?,
                hold_id: self.transaction_id()?,
                amount: if tag & command_tag::OPTION != 0 { Some(self.decimal()?) } else { None },
            },
            command_tag::CANCEL_HOLD => Command::CancelHold {
                transaction_id: self.transaction_id()?,
                hold_id: self.transaction_id()?,
            },
            command_tag::REVERSE => Command::Reverse {
                transaction_id: self.transaction_id()?,
                original_id: self.transaction_id()?,
                metadata: self.metadata(tag)?,
            },
            command_tag::CLOSE_ACCOUNT => Command::CloseAccount {
                transaction_id: self.transaction_id()?,
                account: self.account(tag & command_tag::FROM_NAMED != 0)?,
            },
            command_tag::EXPIRE_HOLDS => Command::ExpireHolds,
            _ => return Err(CodecError::Invalid("command")),
        })
    }

    fn decimal(&mut self) -> Result<DecimalAmount, CodecError> {
        DecimalAmount::from_parts(self.u64()?, self.u8()?).ok_or(CodecError::Invalid("amount"))
    }

    fn group(&mut self) -> Result<Command, CodecError> {
        let transaction_id = self.transaction_id()?;
        let count = usize::from(self.u8()?);
        if count == 0 || count > GROUP_LEGS_MAX {
            return Err(CodecError::Invalid("leg count"));
        }
        let mut legs = Vec::with_capacity(count);
        for _ in 0..count {
            let tag = self.u8()?;
            let kind = match tag & command_tag::KIND_MASK {
                command_tag::TRANSFER => TransferKind::Transfer,
                command_tag::DEPOSIT => TransferKind::Deposit,
                command_tag::WITHDRAWAL => TransferKind::Withdrawal,
                _ => return Err(CodecError::Invalid("leg")),
            };
            legs.push(self.transfer(tag, kind)?);
        }
        Ok(Command::Group(Box::new(Group { transaction_id, legs })))
    }

    fn transfer(&mut self, tag: u8, kind: TransferKind) -> Result<Transfer, CodecError> {
        Ok(Transfer {
            transaction_id: self.transaction_id()?,
            kind,
            from: self.account(tag & command_tag::FROM_NAMED != 0)?,
            to: self.account(tag & command_tag::TO_NAMED != 0)?,
            amount: self.amount()?,
            currency: self.currency()?,
            metadata: self.metadata(tag)?,
        })
    }

    /// The `index`th event of `command`, and whether another follows.
    fn event(&mut self, command: &Command, index: usize) -> Result<(Event, bool), CodecError> {
        let tag = self.u8()?;
        let kind = tag & event_tag::KIND_MASK;
        let event = match kind {
            event_tag::TRANSFERRED | event_tag::TRANSFERRED_RESOLVED => {
                self.transferred(command, index, kind)?
            }
            event_tag::REFUSED => {
                let transaction_id = command.transaction_id().ok_or(CodecError::Invalid("refusal"))?;
                Event::Refused { transaction_id, refusal: self.refusal()? }
            }
            _ => self.rare_event(kind, command)?,
        };
        Ok((event, tag & event_tag::MORE != 0))
    }

    fn transferred(&mut self, command: &Command, index: usize, kind: u8) -> Result<Event, CodecError> {
        let transfer = match command {
            Command::Transfer(transfer) if index == 0 => transfer,
            Command::Group(group) => group.legs.get(index).ok_or(CodecError::Invalid("leg"))?,
            _ => return Err(CodecError::Invalid("event for its command")),
        };
        let from_after = self.i64()?;
        let to_after = self.i64()?;
        let (from, to) = if kind == event_tag::TRANSFERRED_RESOLVED {
            (self.number()?, self.number()?)
        } else {
            match (&transfer.from, &transfer.to) {
                (AccountRef::Number(from), AccountRef::Number(to)) => (*from, *to),
                _ => return Err(CodecError::Invalid("account")),
            }
        };
        Ok(Event::Transferred {
            transaction_id: transfer.transaction_id,
            kind: transfer.kind,
            movement: Movement {
                from,
                to,
                amount: transfer.amount,
                currency: transfer.currency,
                from_after,
                to_after,
            },
            metadata: transfer.metadata.clone(),
        })
    }

    fn refusal(&mut self) -> Result<Refusal, CodecError> {
        let code = RefusalCode::from_number(self.u8()?).ok_or(CodecError::Invalid("refusal code"))?;
        let party = match self.u8()? {
            0 => Party::None,
            1 => Party::From,
            2 => Party::To,
            _ => return Err(CodecError::Invalid("party")),
        };
        let leg = Some(self.u8()?).filter(|leg| *leg != NO_LEG);
        Ok(Refusal { code, party, leg, available: self.i64()? })
    }

    fn rare_event(&mut self, kind: u8, command: &Command) -> Result<Event, CodecError> {
        match (kind, command) {
            (event_tag::ACCOUNT_OPENED, Command::OpenAccount { account_id, metadata }) => {
                Ok(Event::AccountOpened {
                    account: self.number()?,
                    account_id: account_id.clone(),
                    metadata: metadata.clone(),
                })
            }
            (event_tag::HELD, Command::Hold(request)) => Ok(Event::Held {
                hold_id: request.transfer.transaction_id,
                hold: self.hold()?,
                available_after: self.i64()?,
                held_after: self.i64()?,
                metadata: request.transfer.metadata.clone(),
            }),
            (event_tag::HOLD_CONFIRMED, Command::ConfirmHold { transaction_id, hold_id, .. }) => {
                Ok(Event::HoldConfirmed {
                    transaction_id: *transaction_id,
                    hold_id: *hold_id,
                    movement: self.movement()?,
                    held_after: self.i64()?,
                    released: self.u64()?,
                })
            }
            (event_tag::HOLD_RELEASED, Command::CancelHold { transaction_id, .. }) => {
                self.hold_released(Some(*transaction_id))
            }
            (event_tag::HOLD_RELEASED, Command::ExpireHolds) => self.hold_released(None),
            (event_tag::REVERSED, Command::Reverse { transaction_id, original_id, metadata }) => {
                Ok(Event::Reversed {
                    transaction_id: *transaction_id,
                    original_id: *original_id,
                    movement: self.movement()?,
                    metadata: metadata.clone(),
                })
            }
            (event_tag::ACCOUNT_CLOSED, Command::CloseAccount { transaction_id, .. }) => {
                Ok(Event::AccountClosed { transaction_id: *transaction_id, account: self.number()? })
            }
            (event_tag::GROUP_COMMITTED, Command::Group(group)) => {
                Ok(Event::GroupCommitted { transaction_id: group.transaction_id, legs: self.u8()? })
            }
            _ => Err(CodecError::Invalid("event for its command")),
        }
    }

    fn hold(&mut self) -> Result<Hold, CodecError> {
        Ok(Hold {
            from: self.number()?,
            to: self.number()?,
            amount: self.amount()?,
            currency: self.currency()?,
            expires_at: Some(self.i64()?).filter(|micros| *micros != NEVER).map(Timestamp::from_micros),
        })
    }

    fn hold_released(&mut self, transaction_id: Option<TransactionId>) -> Result<Event, CodecError> {
        Ok(Event::HoldReleased {
            transaction_id,
            hold_id: self.transaction_id()?,
            account: self.number()?,
            amount: self.amount()?,
            currency: self.currency()?,
            available_after: self.i64()?,
            held_after: self.i64()?,
        })
    }

    fn movement(&mut self) -> Result<Movement, CodecError> {
        Ok(Movement {
            from: self.number()?,
            to: self.number()?,
            amount: self.amount()?,
            currency: self.currency()?,
            from_after: self.i64()?,
            to_after: self.i64()?,
        })
    }
}
