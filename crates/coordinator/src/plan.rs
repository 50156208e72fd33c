//! Planning: a command becomes one branch for each shard that it touches.
//!
//! What can be told without asking a shard is told here, in the words and the order of [`ledger`]'s `decide`: malformed commands leave
//! no trace, and an earlier transaction that is missing is a refusal to be recorded. One difference: an amount that cannot be one of the
//! hold's currency is malformed whatever became of the hold.

use blake3::Hasher;
use ledger::{
    AccountId, AccountNumber, AccountRef, Command, Currency, DecimalAmount, GROUP_LEGS_MAX, Group,
    HoldRequest, Metadata, Party, Refusal, RefusalCode, TransactionId, Transfer, TransferKind,
};

use crate::port::{
    BalanceAfter, Branch, Change, Claim, EntryKind, HoldTerms, PhaseStatus, Plan, Posting, Protocol,
    ShardNumber, Step, Task,
};

/// Where things live. Must never change for an account that has money, nor for a transaction_id that is claimed.
pub trait Placement {
    /// The shard of a user's account; never asked of `@external`, which exists on every shard.
    fn shard_of(&self, account: &AccountId) -> ShardNumber;

    /// The shard where a transaction_id is claimed.
    fn home_of(&self, transaction_id: TransactionId) -> ShardNumber;
}

/// What a command becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Planned {
    /// To be carried out.
    Run(Plan),
    /// To be recorded as refused, under its id: the plan has one branch, which does nothing.
    Refused(Plan, Refusal),
    /// Malformed: nothing is remembered.
    Rejected(Refusal),
    /// The earlier transaction is not finished: drive it to its end, then plan again.
    Wait(TransactionId),
    /// Opens an account: one step, without a transaction.
    Open(ShardNumber, Step),
}

/// Plans a command.
///
/// `referenced` is the record of [`Command::referenced_id`]: of the group, where that is a leg. `None` when there is none.
pub fn plan(
    command: &Command,
    protocol: Protocol,
    placement: &dyn Placement,
    referenced: Option<&PhaseStatus>,
) -> Planned {
    let draft = match command {
        Command::OpenAccount { account_id, metadata } => {
            let step = Step::OpenAccount { account_id: account_id.clone(), metadata: metadata.clone() };
            return Planned::Open(placement.shard_of(account_id), step);
        }
        Command::Transfer(transfer) => transfer_draft(transfer, placement),
        Command::Group(group) => group_draft(group, placement),
        Command::Hold(request) => hold_draft(request, placement),
        Command::ConfirmHold { transaction_id, hold_id, amount } => {
            confirm_draft(*transaction_id, *hold_id, *amount, placement, referenced)
        }
        Command::CancelHold { hold_id, .. } => pending_hold(*hold_id, referenced).map(|hold| {
            let mut draft = Draft::new(placement);
            draft.set_task(placement.shard_of(&hold.from), Task::SettleHold { hold, confirm: None });
            draft
        }),
        Command::Reverse { transaction_id, original_id, metadata } => {
            reverse_draft(*transaction_id, *original_id, metadata, placement, referenced)
        }
        Command::CloseAccount { account, .. } => close_draft(account, placement),
        Command::ExpireHolds => Err(Stop::Refuse(Refusal::new(RefusalCode::InvalidRequest))),
    };
    let Some(transaction_id) = command.transaction_id() else {
        return Planned::Rejected(Refusal::new(RefusalCode::InvalidRequest));
    };
    let plan = |branches| Plan { transaction_id, command: command.clone(), protocol, branches };
    match draft {
        Ok(draft) => Planned::Run(plan(draft.branches)),
        Err(Stop::Wait(earlier)) => Planned::Wait(earlier),
        Err(Stop::Refuse(refusal)) if refusal.is_recorded() => {
            let shard = placement.home_of(transaction_id);
            Planned::Refused(plan(vec![Branch { shard, changes: Vec::new(), task: None }]), refusal)
        }
        Err(Stop::Refuse(refusal)) => Planned::Rejected(refusal),
    }
}

impl Plan {
    /// The shard where the phase status record is.
    pub fn owner(&self) -> ShardNumber {
        self.branches.first().expect("a plan has an owner").shard
    }

    /// The claims of every id that the command uses, each to be granted on its home shard before anything else is done: the
    /// transaction's own last, so that a group whose leg belongs to others never holds its own id.
    pub fn claims(&self, placement: &dyn Placement) -> Vec<(ShardNumber, Step)> {
        let claim = Claim {
            fingerprint: fingerprint(&self.command),
            owner: self.owner(),
            recorded_under: self.transaction_id,
        };
        let legs = match &self.command {
            Command::Group(group) => &group.legs[..],
            _ => &[],
        };
        let ids = legs.iter().map(|leg| leg.transaction_id).chain([self.transaction_id]);
        ids.map(|transaction_id| (placement.home_of(transaction_id), Step::Claim { transaction_id, claim }))
            .collect()
    }

    /// The same plan with its record on another shard: the one that the claim was granted for. Whoever planned the same id at another
    /// moment may have seen another first branch, and there must be one record.
    pub fn owned_by(mut self, owner: ShardNumber) -> Plan {
        match self.branches.iter().position(|branch| branch.shard == owner) {
            Some(index) => self.branches[..=index].rotate_right(1),
            None if self.does_nothing() => self.branches[0].shard = owner,
            None => self.branches.insert(0, Branch { shard: owner, changes: Vec::new(), task: None }),
        }
        self
    }

    fn does_nothing(&self) -> bool {
        self.branches.iter().all(Branch::is_empty)
    }

    /// By leg, payer before payee.
    pub(crate) fn sort(&self, balances: &mut [BalanceAfter]) {
        balances
            .sort_by_key(|after| (after.leg, self.branches.iter().all(|branch| !branch.is_paid_from(after))));
    }
}

impl Branch {
    /// True where only the record is kept.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.task.is_none()
    }

    /// By leg, payer before payee.
    pub(crate) fn sort(&self, balances: &mut [BalanceAfter]) {
        balances.sort_by_key(|after| (after.leg, !self.is_paid_from(after)));
    }

    fn is_paid_from(&self, after: &BalanceAfter) -> bool {
        let by_task = match &self.task {
            Some(Task::PlaceHold(hold) | Task::SettleHold { hold, .. }) => hold.from == after.account,
            _ => false,
        };
        let change = self
            .changes
            .iter()
            .find(|change| change.account == after.account && change.currency == after.currency);
        by_task
            || change.is_some_and(|change| {
                change.postings.iter().any(|posting| posting.leg == after.leg && posting.amount < 0)
            })
    }
}

/// Why there is no plan.
enum Stop {
    Refuse(Refusal),
    Wait(TransactionId),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refuse(refusal)
    }
}

/// Branches as they grow, leg by leg.
struct Draft<'placement> {
    placement: &'placement dyn Placement,
    branches: Vec<Branch>,
}

/// One movement of money, by name.
struct Leg<'command> {
    index: usize,
    transaction_id: TransactionId,
    from: &'command AccountId,
    to: &'command AccountId,
    amount: i64,
    currency: Currency,
    kind: EntryKind,
    metadata: &'command Metadata,
}

impl<'placement> Draft<'placement> {
    fn new(placement: &'placement dyn Placement) -> Self {
        Draft { placement, branches: Vec::new() }
    }

    fn branch(&mut self, shard: ShardNumber) -> &mut Branch {
        let index = self.branches.iter().position(|branch| branch.shard == shard).unwrap_or_else(|| {
            self.branches.push(Branch { shard, changes: Vec::new(), task: None });
            self.branches.len() - 1
        });
        &mut self.branches[index]
    }

    fn change(&mut self, shard: ShardNumber, account: &AccountId, currency: Currency) -> &mut Change {
        let changes = &mut self.branch(shard).changes;
        let known =
            changes.iter().position(|change| change.account == *account && change.currency == currency);
        let index = known.unwrap_or_else(|| {
            changes.push(Change { account: account.clone(), currency, postings: Vec::new() });
            changes.len() - 1
        });
        &mut changes[index]
    }

    /// The payer's side first. `@external` is on the shard of the other side.
    fn add_leg(&mut self, leg: &Leg<'_>) {
        for (account, other, amount) in [(leg.from, leg.to, -leg.amount), (leg.to, leg.from, leg.amount)] {
            let user = if is_external(account) { other } else { account };
            let shard = self.placement.shard_of(user);
            self.change(shard, account, leg.currency).postings.push(Posting {
                leg: u8::try_from(leg.index).expect("a group has at most 64 legs"),
                transaction_id: leg.transaction_id,
                amount,
                counterparty: other.clone(),
                kind: leg.kind,
                metadata: leg.metadata.clone(),
            });
        }
    }

    fn set_task(&mut self, shard: ShardNumber, task: Task) {
        let branch = self.branch(shard);
        assert!(branch.task.is_none(), "a command has one task at most");
        branch.task = Some(task);
    }
}

fn is_external(account: &AccountId) -> bool {
    account.as_str() == AccountId::EXTERNAL
}

/// The name of an account; handles are numbers within a partition and mean nothing here.
fn named(account: &AccountRef, party: Party) -> Result<AccountId, Refusal> {
    match account {
        AccountRef::Named(name) => Ok(name.clone()),
        AccountRef::Number(AccountNumber::EXTERNAL) => Ok(AccountId::external()),
        AccountRef::Number(_) => Err(Refusal::of(RefusalCode::InvalidAccountId, party)),
    }
}

/// Both accounts of a transfer between two that its kind allows.
fn well_formed(transfer: &Transfer) -> Result<(AccountId, AccountId), Refusal> {
    let from = named(&transfer.from, Party::From)?;
    let to = named(&transfer.to, Party::To)?;
    if from == to {
        return Err(Refusal::new(RefusalCode::SameAccount));
    }
    if is_external(&from) != (transfer.kind == TransferKind::Deposit) {
        return Err(Refusal::of(RefusalCode::InvalidAccountId, Party::From));
    }
    if is_external(&to) != (transfer.kind == TransferKind::Withdrawal) {
        return Err(Refusal::of(RefusalCode::InvalidAccountId, Party::To));
    }
    Ok((from, to))
}

fn add_transfer(
    draft: &mut Draft<'_>,
    index: usize,
    transfer: &Transfer,
    (from, to): &(AccountId, AccountId),
) {
    draft.add_leg(&Leg {
        index,
        transaction_id: transfer.transaction_id,
        from,
        to,
        amount: transfer.amount.signed(),
        currency: transfer.currency,
        kind: match transfer.kind {
            TransferKind::Transfer => EntryKind::Transfer,
            TransferKind::Deposit => EntryKind::Deposit,
            TransferKind::Withdrawal => EntryKind::Withdrawal,
        },
        metadata: &transfer.metadata,
    });
}

fn transfer_draft<'placement>(
    transfer: &Transfer,
    placement: &'placement dyn Placement,
) -> Result<Draft<'placement>, Stop> {
    let parties = well_formed(transfer)?;
    let mut draft = Draft::new(placement);
    add_transfer(&mut draft, 0, transfer, &parties);
    Ok(draft)
}

fn group_draft<'placement>(
    group: &Group,
    placement: &'placement dyn Placement,
) -> Result<Draft<'placement>, Stop> {
    let ids = group.legs.iter().map(|leg| leg.transaction_id).chain([group.transaction_id]);
    let mut sorted: Vec<TransactionId> = ids.collect();
    sorted.sort_unstable();
    let repeated = sorted.windows(2).any(|pair| pair[0] == pair[1]);
    if repeated || group.legs.is_empty() || group.legs.len() > GROUP_LEGS_MAX {
        return Err(Refusal::new(RefusalCode::InvalidRequest).into());
    }
    let mut draft = Draft::new(placement);
    for (index, leg) in group.legs.iter().enumerate() {
        let of_leg = |refusal| Refusal { leg: Some(index as u8), ..refusal };
        let parties = well_formed(leg).map_err(of_leg)?;
        add_transfer(&mut draft, index, leg, &parties);
    }
    Ok(draft)
}

fn hold_draft<'placement>(
    request: &HoldRequest,
    placement: &'placement dyn Placement,
) -> Result<Draft<'placement>, Stop> {
    let transfer = &request.transfer;
    if transfer.kind != TransferKind::Transfer {
        return Err(Refusal::new(RefusalCode::InvalidRequest).into());
    }
    let (from, to) = well_formed(transfer)?;
    let mut draft = Draft::new(placement);
    let terms = HoldTerms {
        hold_id: transfer.transaction_id,
        from: from.clone(),
        to: to.clone(),
        amount: transfer.amount,
        currency: transfer.currency,
        expires_in_seconds: request.expires_in_seconds,
        metadata: transfer.metadata.clone(),
    };
    draft.set_task(placement.shard_of(&from), Task::PlaceHold(terms));
    draft.change(placement.shard_of(&to), &to, transfer.currency);
    Ok(draft)
}

/// What a hold was placed with, when its record says that it was.
fn pending_hold(hold_id: TransactionId, referenced: Option<&PhaseStatus>) -> Result<HoldTerms, Stop> {
    let original = succeeded(referenced)?;
    let tasks = original.plan.branches.iter().filter_map(|branch| branch.task.as_ref());
    let mut placed = tasks.filter_map(|task| match task {
        Task::PlaceHold(terms) if terms.hold_id == hold_id => Some(terms.clone()),
        _ => None,
    });
    placed.next().ok_or(Refusal::new(RefusalCode::TransactionNotFound).into())
}

/// The earlier transaction, when it moved money or set some aside.
fn succeeded(referenced: Option<&PhaseStatus>) -> Result<&PhaseStatus, Stop> {
    let missing = Stop::Refuse(Refusal::new(RefusalCode::TransactionNotFound));
    let Some(status) = referenced else { return Err(missing) };
    match &status.outcome {
        None => Err(Stop::Wait(status.plan.transaction_id)),
        Some(outcome) if outcome.result.is_err() => Err(missing),
        Some(_) => Ok(status),
    }
}

fn confirm_draft<'placement>(
    transaction_id: TransactionId,
    hold_id: TransactionId,
    amount: Option<DecimalAmount>,
    placement: &'placement dyn Placement,
    referenced: Option<&PhaseStatus>,
) -> Result<Draft<'placement>, Stop> {
    let hold = pending_hold(hold_id, referenced)?;
    let amount = match amount {
        None => hold.amount,
        Some(decimal) => {
            decimal.in_currency(hold.currency).map_err(|_| Refusal::new(RefusalCode::InvalidAmount))?
        }
    };
    let mut draft = Draft::new(placement);
    let (from, to, currency) = (hold.from.clone(), hold.to.clone(), hold.currency);
    // An amount above the hold's is refused by the shard that has the hold, after what it knows of the hold.
    draft.set_task(placement.shard_of(&from), Task::SettleHold { hold, confirm: Some(amount) });
    draft.change(placement.shard_of(&to), &to, currency).postings.push(Posting {
        leg: 0,
        transaction_id,
        amount: amount.signed(),
        counterparty: from,
        kind: EntryKind::HoldConfirmed,
        metadata: Metadata::default(),
    });
    Ok(draft)
}

fn reverse_draft<'placement>(
    transaction_id: TransactionId,
    original_id: TransactionId,
    metadata: &Metadata,
    placement: &'placement dyn Placement,
    referenced: Option<&PhaseStatus>,
) -> Result<Draft<'placement>, Stop> {
    let original = succeeded(referenced)?;
    let changes = original.plan.branches.iter().flat_map(|branch| &branch.changes);
    let mut credits = changes.flat_map(|change| change.postings.iter().map(move |posting| (change, posting)));
    let credit = credits.find(|(_, posting)| posting.transaction_id == original_id && posting.amount > 0);
    let (change, posting) = credit.ok_or(Refusal::new(RefusalCode::TransactionNotFound))?;
    let mut draft = Draft::new(placement);
    draft.add_leg(&Leg {
        index: 0,
        transaction_id,
        from: &change.account,
        to: &posting.counterparty,
        amount: posting.amount,
        currency: change.currency,
        kind: EntryKind::Reversed,
        metadata,
    });
    draft.set_task(original.plan.owner(), Task::MarkReversed { original_id });
    Ok(draft)
}

fn close_draft<'placement>(
    account: &AccountRef,
    placement: &'placement dyn Placement,
) -> Result<Draft<'placement>, Stop> {
    let account_id = named(account, Party::From)?;
    if is_external(&account_id) {
        return Err(Refusal::of(RefusalCode::InvalidAccountId, Party::From).into());
    }
    let mut draft = Draft::new(placement);
    draft.set_task(placement.shard_of(&account_id), Task::CloseAccount { account_id });
    Ok(draft)
}

/// Of two refusals of one transaction, the one that `ledger` would have found first is told: by leg, then by its order of checks.
pub fn first_of(one: Refusal, other: Refusal) -> Refusal {
    if rank(&other) < rank(&one) { other } else { one }
}

fn rank(refusal: &Refusal) -> (u8, u8) {
    let order = match (refusal.code, refusal.party) {
        (RefusalCode::AccountNotFound, Party::From) => 1,
        (RefusalCode::AccountNotFound, _) => 2,
        (RefusalCode::AccountClosed, Party::From) => 3,
        (RefusalCode::AccountClosed, _) => 4,
        (RefusalCode::InsufficientFunds, _) => 5,
        (RefusalCode::BalanceOverflow, Party::From) => 6,
        (RefusalCode::BalanceOverflow, _) => 7,
        (RefusalCode::AccountNotEmpty, _) => 8,
        (RefusalCode::TransactionCancelled, _) => 9,
        // About the earlier transaction: before any account.
        _ => 0,
    };
    (refusal.leg.unwrap_or(0), order)
}

/// A hash of what a command asks for: equal exactly for equal content, in every version of this program, since claims keep it for ever.
pub fn fingerprint(command: &Command) -> [u8; 32] {
    let mut content = Content(Hasher::new());
    match command {
        Command::OpenAccount { account_id, metadata } => {
            content.tag(1).text(account_id.as_str()).metadata(metadata);
        }
        Command::Transfer(transfer) => {
            content.tag(2).transfer(transfer);
        }
        Command::Group(group) => {
            content.tag(3).id(group.transaction_id).number(group.legs.len() as u64);
            group.legs.iter().for_each(|leg| {
                content.transfer(leg);
            });
        }
        Command::Hold(request) => {
            content.tag(4).transfer(&request.transfer).optional(request.expires_in_seconds.map(u64::from));
        }
        Command::ConfirmHold { transaction_id, hold_id, amount } => {
            content.tag(5).id(*transaction_id).id(*hold_id).decimal(*amount);
        }
        Command::CancelHold { transaction_id, hold_id } => {
            content.tag(6).id(*transaction_id).id(*hold_id);
        }
        Command::Reverse { transaction_id, original_id, metadata } => {
            content.tag(7).id(*transaction_id).id(*original_id).metadata(metadata);
        }
        Command::CloseAccount { transaction_id, account } => {
            content.tag(8).id(*transaction_id).account(account);
        }
        Command::ExpireHolds => {
            content.tag(9);
        }
    }
    *content.0.finalize().as_bytes()
}

/// Every part has a fixed size or says its own, so that no two contents are the same bytes.
struct Content(Hasher);

impl Content {
    fn tag(&mut self, tag: u8) -> &mut Content {
        self.0.update(&[tag]);
        self
    }

    fn number(&mut self, number: u64) -> &mut Content {
        self.0.update(&number.to_le_bytes());
        self
    }

    fn id(&mut self, transaction_id: TransactionId) -> &mut Content {
        self.0.update(&transaction_id.to_bytes());
        self
    }

    fn text(&mut self, text: &str) -> &mut Content {
        self.number(text.len() as u64).0.update(text.as_bytes());
        self
    }

    fn optional(&mut self, number: Option<u64>) -> &mut Content {
        match number {
            None => self.tag(0),
            Some(number) => self.tag(1).number(number),
        }
    }

    /// `"5.0"` and `"5.00"` are the same content, so that zeros at the end do not count.
    fn decimal(&mut self, amount: Option<DecimalAmount>) -> &mut Content {
        let Some((mut digits, mut scale)) = amount.map(DecimalAmount::parts) else { return self.tag(0) };
        while scale > 0 && digits.is_multiple_of(10) {
            digits /= 10;
            scale -= 1;
        }
        self.tag(1).number(digits).tag(scale)
    }

    fn metadata(&mut self, metadata: &Metadata) -> &mut Content {
        self.number(metadata.iter().len() as u64);
        for (key, value) in metadata.iter() {
            self.text(key).text(value);
        }
        self
    }

    fn account(&mut self, account: &AccountRef) -> &mut Content {
        match account {
            AccountRef::Number(AccountNumber::EXTERNAL) => self.text(AccountId::EXTERNAL),
            AccountRef::Named(name) => self.text(name.as_str()),
            AccountRef::Number(number) => self.text("").number(number.0.into()),
        }
    }

    fn transfer(&mut self, transfer: &Transfer) -> &mut Content {
        self.id(transfer.transaction_id)
            .tag(transfer.kind as u8)
            .account(&transfer.from)
            .account(&transfer.to)
            .number(transfer.amount.minor_units())
            .number(transfer.currency.numeric().into())
            .metadata(&transfer.metadata)
    }
}
