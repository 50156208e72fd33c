//! Writing a frame body.

use super::{
    BODY_VERSION, EVENTS_PER_COMMAND_MAX, HEADER_SIZE_BYTES, NEVER, NO_LEG, RESTART_INTERVAL_COMMANDS,
    RESTART_SIZE_BYTES, command_tag, event_tag,
};
use crate::{
    AccountId, AccountRef, Command, Event, Hold, HoldRequest, Metadata, Movement, Refusal, Transfer,
    TransferKind,
};

/// Collects the commands of a batch with their events; reused from batch to batch.
#[derive(Debug, Default)]
pub struct BodyWriter {
    commands: Vec<u8>,
    events: Vec<u8>,
    restarts: Vec<u8>,
    command_count: u32,
    event_count: u32,
}

impl BodyWriter {
    /// An empty writer.
    pub fn new() -> BodyWriter {
        BodyWriter::default()
    }

    /// Forgets everything written, and keeps the memory.
    pub fn clear(&mut self) {
        self.commands.clear();
        self.events.clear();
        self.restarts.clear();
        self.command_count = 0;
        self.event_count = 0;
    }

    /// How many events were written.
    pub fn event_count(&self) -> u32 {
        self.event_count
    }

    /// How many commands were written.
    pub fn command_count(&self) -> u32 {
        self.command_count
    }

    /// The size of the body as it stands.
    pub fn size_bytes(&self) -> usize {
        HEADER_SIZE_BYTES + self.commands.len() + self.events.len() + self.restarts.len()
    }

    /// Adds a command with its events, at least one.
    pub fn push(&mut self, command: &Command, events: &[Event]) {
        assert!(!events.is_empty(), "a recorded command has an event");
        assert!(events.len() <= EVENTS_PER_COMMAND_MAX, "a reader takes no more events of one command");
        self.start_command();
        put_command(&mut self.commands, command);
        let legs: &[Transfer] = match command {
            Command::Group(group) => &group.legs,
            Command::Transfer(transfer) => std::slice::from_ref(transfer),
            _ => &[],
        };
        let last = events.len() - 1;
        for (index, event) in events.iter().enumerate() {
            let more = if index < last { event_tag::MORE } else { 0 };
            put_event(&mut self.events, event, more, legs.get(index));
        }
        self.event_count += events.len() as u32;
    }

    /// The hot path of [`BodyWriter::push`]: a transfer and what became of it, without building an event.
    pub fn push_transfer(&mut self, transfer: &Transfer, outcome: &Result<Movement, Refusal>) {
        self.start_command();
        put_transfer(&mut self.commands, transfer, transfer_tag(transfer.kind));
        match outcome {
            Ok(movement) => put_transferred(&mut self.events, movement, 0, Some(transfer)),
            Err(refusal) => put_refused(&mut self.events, refusal, 0),
        }
        self.event_count += 1;
    }

    /// Hands out the body in pieces, to be written one after the other.
    pub fn write(&self, mut put: impl FnMut(&[u8])) {
        let mut header = [0; HEADER_SIZE_BYTES];
        header[0] = BODY_VERSION;
        let counts = [
            self.command_count,
            self.event_count,
            u32::try_from(self.commands.len()).expect("a body is far below 4 GiB"),
            u32::try_from(self.events.len()).expect("a body is far below 4 GiB"),
        ];
        for (index, count) in counts.into_iter().enumerate() {
            header[4 + 4 * index..8 + 4 * index].copy_from_slice(&count.to_le_bytes());
        }
        for part in [&header[..], &self.commands, &self.events, &self.restarts] {
            put(part);
        }
    }

    fn start_command(&mut self) {
        if self.command_count.is_multiple_of(RESTART_INTERVAL_COMMANDS) {
            let mut restart = [0; RESTART_SIZE_BYTES];
            restart[..4].copy_from_slice(&(self.commands.len() as u32).to_le_bytes());
            restart[4..8].copy_from_slice(&(self.events.len() as u32).to_le_bytes());
            restart[8..].copy_from_slice(&self.event_count.to_le_bytes());
            self.restarts.extend_from_slice(&restart);
        }
        self.command_count += 1;
    }
}

fn transfer_tag(kind: TransferKind) -> u8 {
    match kind {
        TransferKind::Transfer => command_tag::TRANSFER,
        TransferKind::Deposit => command_tag::DEPOSIT,
        TransferKind::Withdrawal => command_tag::WITHDRAWAL,
    }
}

fn put_command(out: &mut Vec<u8>, command: &Command) {
    match command {
        Command::Transfer(transfer) => put_transfer(out, transfer, transfer_tag(transfer.kind)),
        Command::OpenAccount { account_id, metadata } => {
            out.push(command_tag::OPEN_ACCOUNT | metadata_flag(metadata));
            put_name(out, account_id);
            put_metadata(out, metadata);
        }
        Command::Group(group) => {
            out.push(command_tag::GROUP);
            out.extend_from_slice(&group.transaction_id.to_bytes());
            out.push(u8::try_from(group.legs.len()).expect("at most 64 legs"));
            for leg in &group.legs {
                put_transfer(out, leg, transfer_tag(leg.kind));
            }
        }
        Command::Hold(request) => put_hold_request(out, request),
        Command::ConfirmHold { transaction_id, hold_id, amount } => {
            let option = if amount.is_some() { command_tag::OPTION } else { 0 };
            out.push(command_tag::CONFIRM_HOLD | option);
            out.extend_from_slice(&transaction_id.to_bytes());
            out.extend_from_slice(&hold_id.to_bytes());
            if let Some(amount) = amount {
                let (digits, scale) = amount.parts();
                out.extend_from_slice(&digits.to_le_bytes());
                out.push(scale);
            }
        }
        Command::CancelHold { transaction_id, hold_id } => {
            out.push(command_tag::CANCEL_HOLD);
            out.extend_from_slice(&transaction_id.to_bytes());
            out.extend_from_slice(&hold_id.to_bytes());
        }
        Command::Reverse { transaction_id, original_id, metadata } => {
            out.push(command_tag::REVERSE | metadata_flag(metadata));
            out.extend_from_slice(&transaction_id.to_bytes());
            out.extend_from_slice(&original_id.to_bytes());
            put_metadata(out, metadata);
        }
        Command::CloseAccount { transaction_id, account } => {
            out.push(command_tag::CLOSE_ACCOUNT | named_flag(account, command_tag::FROM_NAMED));
            out.extend_from_slice(&transaction_id.to_bytes());
            put_account(out, account);
        }
        Command::ExpireHolds => out.push(command_tag::EXPIRE_HOLDS),
    }
}

fn put_hold_request(out: &mut Vec<u8>, request: &HoldRequest) {
    let option = if request.expires_in_seconds.is_some() { command_tag::OPTION } else { 0 };
    put_transfer(out, &request.transfer, command_tag::HOLD | option);
    if let Some(seconds) = request.expires_in_seconds {
        out.extend_from_slice(&seconds.to_le_bytes());
    }
}

/// `tag, transaction_id, from, to, amount, currency, metadata`: 35 bytes with numbered accounts and no metadata.
fn put_transfer(out: &mut Vec<u8>, transfer: &Transfer, tag: u8) {
    if let (AccountRef::Number(from), AccountRef::Number(to), true) =
        (&transfer.from, &transfer.to, transfer.metadata.is_empty())
    {
        let mut bytes = [0; 35];
        bytes[0] = tag;
        bytes[1..17].copy_from_slice(&transfer.transaction_id.to_bytes());
        bytes[17..21].copy_from_slice(&from.0.to_le_bytes());
        bytes[21..25].copy_from_slice(&to.0.to_le_bytes());
        bytes[25..33].copy_from_slice(&transfer.amount.minor_units().to_le_bytes());
        bytes[33..].copy_from_slice(&transfer.currency.numeric().to_le_bytes());
        out.extend_from_slice(&bytes);
        return;
    }
    let flags = named_flag(&transfer.from, command_tag::FROM_NAMED)
        | named_flag(&transfer.to, command_tag::TO_NAMED)
        | metadata_flag(&transfer.metadata);
    out.push(tag | flags);
    out.extend_from_slice(&transfer.transaction_id.to_bytes());
    put_account(out, &transfer.from);
    put_account(out, &transfer.to);
    out.extend_from_slice(&transfer.amount.minor_units().to_le_bytes());
    out.extend_from_slice(&transfer.currency.numeric().to_le_bytes());
    put_metadata(out, &transfer.metadata);
}

fn named_flag(account: &AccountRef, flag: u8) -> u8 {
    if matches!(account, AccountRef::Named(_)) { flag } else { 0 }
}

fn metadata_flag(metadata: &Metadata) -> u8 {
    if metadata.is_empty() { 0 } else { command_tag::METADATA }
}

fn put_account(out: &mut Vec<u8>, account: &AccountRef) {
    match account {
        AccountRef::Number(number) => out.extend_from_slice(&number.0.to_le_bytes()),
        AccountRef::Named(name) => put_name(out, name),
    }
}

fn put_name(out: &mut Vec<u8>, name: &AccountId) {
    out.push(u8::try_from(name.as_str().len()).expect("an account id has at most 64 bytes"));
    out.extend_from_slice(name.as_str().as_bytes());
}

/// Nothing for no pairs: the tag's flag says whether any follow.
fn put_metadata(out: &mut Vec<u8>, metadata: &Metadata) {
    if metadata.is_empty() {
        return;
    }
    out.push(u8::try_from(metadata.iter().len()).expect("at most 16 pairs"));
    for text in metadata.iter().flat_map(|(key, value)| [key, value]) {
        out.extend_from_slice(&u16::try_from(text.len()).expect("at most 1 KiB").to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    }
}

fn put_event(out: &mut Vec<u8>, event: &Event, more: u8, transfer: Option<&Transfer>) {
    match event {
        Event::Transferred { movement, .. } => put_transferred(out, movement, more, transfer),
        Event::Refused { refusal, .. } => put_refused(out, refusal, more),
        Event::AccountOpened { account, .. } => {
            out.push(event_tag::ACCOUNT_OPENED | more);
            out.extend_from_slice(&account.0.to_le_bytes());
        }
        Event::Held { hold, available_after, held_after, .. } => {
            out.push(event_tag::HELD | more);
            put_hold(out, hold);
            out.extend_from_slice(&available_after.to_le_bytes());
            out.extend_from_slice(&held_after.to_le_bytes());
        }
        Event::HoldConfirmed { movement, held_after, released, .. } => {
            out.push(event_tag::HOLD_CONFIRMED | more);
            put_movement(out, movement);
            out.extend_from_slice(&held_after.to_le_bytes());
            out.extend_from_slice(&released.to_le_bytes());
        }
        Event::HoldReleased { hold_id, account, amount, currency, available_after, held_after, .. } => {
            out.push(event_tag::HOLD_RELEASED | more);
            out.extend_from_slice(&hold_id.to_bytes());
            out.extend_from_slice(&account.0.to_le_bytes());
            out.extend_from_slice(&amount.minor_units().to_le_bytes());
            out.extend_from_slice(&currency.numeric().to_le_bytes());
            out.extend_from_slice(&available_after.to_le_bytes());
            out.extend_from_slice(&held_after.to_le_bytes());
        }
        Event::Reversed { movement, .. } => {
            out.push(event_tag::REVERSED | more);
            put_movement(out, movement);
        }
        Event::AccountClosed { account, .. } => {
            out.push(event_tag::ACCOUNT_CLOSED | more);
            out.extend_from_slice(&account.0.to_le_bytes());
        }
        Event::GroupCommitted { legs, .. } => {
            out.extend_from_slice(&[event_tag::GROUP_COMMITTED | more, *legs])
        }
    }
}

/// 17 bytes when the command says by number whose money moved.
fn put_transferred(out: &mut Vec<u8>, movement: &Movement, more: u8, transfer: Option<&Transfer>) {
    let numbered = transfer.is_some_and(|transfer| {
        matches!((&transfer.from, &transfer.to), (AccountRef::Number(_), AccountRef::Number(_)))
    });
    let mut bytes = [0; 17];
    bytes[0] = more | if numbered { event_tag::TRANSFERRED } else { event_tag::TRANSFERRED_RESOLVED };
    bytes[1..9].copy_from_slice(&movement.from_after.to_le_bytes());
    bytes[9..].copy_from_slice(&movement.to_after.to_le_bytes());
    out.extend_from_slice(&bytes);
    if !numbered {
        out.extend_from_slice(&movement.from.0.to_le_bytes());
        out.extend_from_slice(&movement.to.0.to_le_bytes());
    }
}

fn put_refused(out: &mut Vec<u8>, refusal: &Refusal, more: u8) {
    let leg = refusal.leg.unwrap_or(NO_LEG);
    out.extend_from_slice(&[event_tag::REFUSED | more, refusal.code.number(), refusal.party as u8, leg]);
    out.extend_from_slice(&refusal.available.to_le_bytes());
}

fn put_hold(out: &mut Vec<u8>, hold: &Hold) {
    out.extend_from_slice(&hold.from.0.to_le_bytes());
    out.extend_from_slice(&hold.to.0.to_le_bytes());
    out.extend_from_slice(&hold.amount.minor_units().to_le_bytes());
    out.extend_from_slice(&hold.currency.numeric().to_le_bytes());
    out.extend_from_slice(&hold.expires_at.map_or(NEVER, |time| time.as_micros()).to_le_bytes());
}

fn put_movement(out: &mut Vec<u8>, movement: &Movement) {
    out.extend_from_slice(&movement.from.0.to_le_bytes());
    out.extend_from_slice(&movement.to.0.to_le_bytes());
    out.extend_from_slice(&movement.amount.minor_units().to_le_bytes());
    out.extend_from_slice(&movement.currency.numeric().to_le_bytes());
    out.extend_from_slice(&movement.from_after.to_le_bytes());
    out.extend_from_slice(&movement.to_after.to_le_bytes());
}
