//! What shards store of plans, branches and outcomes, as JSON: readable for an operator, the same in every database.
//!
//! The types here are the stored form and nothing else; the domain's own know no serde. A field that is added later must be optional,
//! because old rows lack it. Money is in minor units, accounts are names, currencies are alphabetic codes.

use coordinator::machine::Travelling;
use coordinator::port::{
    BalanceAfter, Branch, BranchState, Change, Done, EntryKind, HoldTerms, Lease, Outcome, PhaseStatus, Plan,
    Posting, Protocol, ReferenceKind, SecondPhase, ShardNumber, Task, TryState,
};
use ledger::{
    AccountId, AccountNumber, AccountRef, Amount, Command, Currency, DecimalAmount, Group, HoldRequest,
    Metadata, Party, Refusal, RefusalCode, Sequence, Timestamp, TransactionId, Transfer, TransferKind,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Stored content that is none: changed by hand, or written by a later version.
#[derive(Debug, Clone, thiserror::Error)]
#[error("stored content cannot be read: {0}")]
pub(crate) struct Unreadable(pub(crate) String);

/// A value that has a stored form.
pub(crate) trait Stored: Sized {
    /// The stored form.
    type Form: Serialize + DeserializeOwned;

    fn form(&self) -> Self::Form;

    fn from_form(form: Self::Form) -> Option<Self>;

    /// The text to be stored. It holds no control characters: JSON escapes them.
    fn to_text(&self) -> String {
        serde_json::to_string(&self.form()).expect("the stored forms are plain data with text keys")
    }

    fn from_text(text: &str) -> Result<Self, Unreadable> {
        let form = serde_json::from_str(text).map_err(|error| Unreadable(error.to_string()))?;
        Self::from_form(form).ok_or_else(|| Unreadable(format!("a value is out of range in {text}")))
    }
}

impl<Item: Stored> Stored for Vec<Item> {
    type Form = Vec<Item::Form>;

    fn form(&self) -> Self::Form {
        self.iter().map(Item::form).collect()
    }

    fn from_form(form: Self::Form) -> Option<Self> {
        form.into_iter().map(Item::from_form).collect()
    }
}

impl<Item: Stored> Stored for Option<Item> {
    type Form = Option<Item::Form>;

    fn form(&self) -> Self::Form {
        self.as_ref().map(Item::form)
    }

    fn from_form(form: Self::Form) -> Option<Self> {
        match form {
            None => Some(None),
            Some(form) => Item::from_form(form).map(Some),
        }
    }
}

/// Reads a name, the system's own included.
pub(crate) fn account_id(text: &str) -> Option<AccountId> {
    if text == AccountId::EXTERNAL { Some(AccountId::external()) } else { AccountId::parse(text).ok() }
}

impl Stored for AccountId {
    type Form = String;

    fn form(&self) -> String {
        self.as_str().to_owned()
    }

    fn from_form(form: String) -> Option<AccountId> {
        account_id(&form)
    }
}

impl Stored for TransactionId {
    type Form = String;

    fn form(&self) -> String {
        self.to_string()
    }

    fn from_form(form: String) -> Option<TransactionId> {
        TransactionId::parse(&form).ok()
    }
}

impl Stored for Metadata {
    type Form = Vec<(String, String)>;

    fn form(&self) -> Self::Form {
        self.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    fn from_form(form: Self::Form) -> Option<Metadata> {
        Metadata::new(form.iter().map(|(key, value)| (key.as_str(), value.as_str()))).ok()
    }
}

impl Stored for Currency {
    type Form = String;

    fn form(&self) -> String {
        self.code().to_owned()
    }

    fn from_form(form: String) -> Option<Currency> {
        Currency::parse(&form)
    }
}

/// Numbers that the domain fixes, each by the list of all of them.
macro_rules! numbered {
    ($type:ident: $($variant:ident),+) => {
        impl Stored for $type {
            type Form = u8;

            fn form(&self) -> u8 {
                *self as u8
            }

            fn from_form(form: u8) -> Option<$type> {
                [$($type::$variant),+].into_iter().find(|one| *one as u8 == form)
            }
        }
    };
}

numbered!(TransferKind: Transfer, Deposit, Withdrawal);
numbered!(EntryKind: Transfer, Deposit, Withdrawal, Held, HoldConfirmed, HoldReleased, Reversed);
numbered!(ReferenceKind: HoldConfirmed, HoldReleased, Reversed);
numbered!(Protocol: Tcc, Saga, TwoPhaseCommit);
numbered!(SecondPhase: Confirm, Cancel);
numbered!(TryState: NotSent, Sent, Accepted, Refused);
numbered!(BranchState: Taken, Given, Returned, Refused, CancelledBeforeTry, Committed);
numbered!(Party: None, From, To);

#[derive(Serialize, Deserialize)]
pub(crate) struct RefusalForm {
    code: u8,
    /// For people; not read.
    #[serde(default)]
    name: String,
    party: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leg: Option<u8>,
    available: i64,
}

impl Stored for Refusal {
    type Form = RefusalForm;

    fn form(&self) -> RefusalForm {
        RefusalForm {
            code: self.code.number(),
            name: self.code.name().to_owned(),
            party: self.party.form(),
            leg: self.leg,
            available: self.available,
        }
    }

    fn from_form(form: RefusalForm) -> Option<Refusal> {
        Some(Refusal {
            code: RefusalCode::from_number(form.code)?,
            party: Party::from_form(form.party)?,
            leg: form.leg,
            available: form.available,
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct BalanceForm {
    leg: u8,
    account: String,
    currency: String,
    available: i64,
    held: i64,
}

impl Stored for BalanceAfter {
    type Form = BalanceForm;

    fn form(&self) -> BalanceForm {
        BalanceForm {
            leg: self.leg,
            account: self.account.form(),
            currency: self.currency.form(),
            available: self.available,
            held: self.held,
        }
    }

    fn from_form(form: BalanceForm) -> Option<BalanceAfter> {
        Some(BalanceAfter {
            leg: form.leg,
            account: AccountId::from_form(form.account)?,
            currency: Currency::from_form(form.currency)?,
            available: form.available,
            held: form.held,
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct DoneForm {
    state: Option<u8>,
    sequence: u64,
    timestamp: i64,
    balances: Vec<BalanceForm>,
}

impl Stored for Done {
    type Form = DoneForm;

    fn form(&self) -> DoneForm {
        DoneForm {
            state: self.state.form(),
            sequence: self.sequence.0,
            timestamp: self.timestamp.as_micros(),
            balances: self.balances.form(),
        }
    }

    fn from_form(form: DoneForm) -> Option<Done> {
        Some(Done {
            state: Option::from_form(form.state)?,
            sequence: Sequence(form.sequence),
            timestamp: Timestamp::from_micros(form.timestamp),
            balances: Vec::from_form(form.balances)?,
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct OutcomeForm {
    sequence: u64,
    timestamp: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    balances: Option<Vec<BalanceForm>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refusal: Option<RefusalForm>,
}

impl Stored for Outcome {
    type Form = OutcomeForm;

    fn form(&self) -> OutcomeForm {
        OutcomeForm {
            sequence: self.sequence.0,
            timestamp: self.timestamp.as_micros(),
            balances: self.result.as_ref().ok().map(Vec::form),
            refusal: self.result.as_ref().err().map(Refusal::form),
        }
    }

    fn from_form(form: OutcomeForm) -> Option<Outcome> {
        let result = match (form.balances, form.refusal) {
            (Some(balances), None) => Ok(Vec::from_form(balances)?),
            (None, Some(refusal)) => Err(Refusal::from_form(refusal)?),
            _ => return None,
        };
        Some(Outcome {
            sequence: Sequence(form.sequence),
            timestamp: Timestamp::from_micros(form.timestamp),
            result,
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct PostingForm {
    leg: u8,
    transaction_id: String,
    amount: i64,
    counterparty: String,
    kind: u8,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    metadata: Vec<(String, String)>,
}

impl Stored for Posting {
    type Form = PostingForm;

    fn form(&self) -> PostingForm {
        PostingForm {
            leg: self.leg,
            transaction_id: self.transaction_id.form(),
            amount: self.amount,
            counterparty: self.counterparty.form(),
            kind: self.kind.form(),
            metadata: self.metadata.form(),
        }
    }

    fn from_form(form: PostingForm) -> Option<Posting> {
        Some(Posting {
            leg: form.leg,
            transaction_id: TransactionId::from_form(form.transaction_id)?,
            amount: form.amount,
            counterparty: AccountId::from_form(form.counterparty)?,
            kind: EntryKind::from_form(form.kind)?,
            metadata: Metadata::from_form(form.metadata)?,
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct ChangeForm {
    account: String,
    currency: String,
    postings: Vec<PostingForm>,
}

impl Stored for Change {
    type Form = ChangeForm;

    fn form(&self) -> ChangeForm {
        ChangeForm {
            account: self.account.form(),
            currency: self.currency.form(),
            postings: self.postings.form(),
        }
    }

    fn from_form(form: ChangeForm) -> Option<Change> {
        Some(Change {
            account: AccountId::from_form(form.account)?,
            currency: Currency::from_form(form.currency)?,
            postings: Vec::from_form(form.postings)?,
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct HoldForm {
    hold_id: String,
    from: String,
    to: String,
    amount: u64,
    currency: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_in_seconds: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    metadata: Vec<(String, String)>,
}

impl Stored for HoldTerms {
    type Form = HoldForm;

    fn form(&self) -> HoldForm {
        HoldForm {
            hold_id: self.hold_id.form(),
            from: self.from.form(),
            to: self.to.form(),
            amount: self.amount.minor_units(),
            currency: self.currency.form(),
            expires_in_seconds: self.expires_in_seconds,
            metadata: self.metadata.form(),
        }
    }

    fn from_form(form: HoldForm) -> Option<HoldTerms> {
        Some(HoldTerms {
            hold_id: TransactionId::from_form(form.hold_id)?,
            from: AccountId::from_form(form.from)?,
            to: AccountId::from_form(form.to)?,
            amount: Amount::from_minor_units(form.amount)?,
            currency: Currency::from_form(form.currency)?,
            expires_in_seconds: form.expires_in_seconds,
            metadata: Metadata::from_form(form.metadata)?,
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TaskForm {
    CloseAccount { account_id: String },
    PlaceHold(HoldForm),
    SettleHold { hold: HoldForm, confirm: Option<u64> },
    MarkReversed { original_id: String },
}

impl Stored for Task {
    type Form = TaskForm;

    fn form(&self) -> TaskForm {
        match self {
            Task::CloseAccount { account_id } => TaskForm::CloseAccount { account_id: account_id.form() },
            Task::PlaceHold(hold) => TaskForm::PlaceHold(hold.form()),
            Task::SettleHold { hold, confirm } => {
                TaskForm::SettleHold { hold: hold.form(), confirm: confirm.map(Amount::minor_units) }
            }
            Task::MarkReversed { original_id } => TaskForm::MarkReversed { original_id: original_id.form() },
        }
    }

    fn from_form(form: TaskForm) -> Option<Task> {
        Some(match form {
            TaskForm::CloseAccount { account_id } => {
                Task::CloseAccount { account_id: AccountId::from_form(account_id)? }
            }
            TaskForm::PlaceHold(hold) => Task::PlaceHold(HoldTerms::from_form(hold)?),
            TaskForm::SettleHold { hold, confirm } => Task::SettleHold {
                hold: HoldTerms::from_form(hold)?,
                confirm: match confirm {
                    None => None,
                    Some(amount) => Some(Amount::from_minor_units(amount)?),
                },
            },
            TaskForm::MarkReversed { original_id } => {
                Task::MarkReversed { original_id: TransactionId::from_form(original_id)? }
            }
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct BranchForm {
    shard: u32,
    changes: Vec<ChangeForm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    task: Option<TaskForm>,
}

impl Stored for Branch {
    type Form = BranchForm;

    fn form(&self) -> BranchForm {
        BranchForm { shard: self.shard.0, changes: self.changes.form(), task: self.task.form() }
    }

    fn from_form(form: BranchForm) -> Option<Branch> {
        Some(Branch {
            shard: ShardNumber(form.shard),
            changes: Vec::from_form(form.changes)?,
            task: Option::from_form(form.task)?,
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct PlanForm {
    transaction_id: String,
    command: CommandForm,
    protocol: u8,
    branches: Vec<BranchForm>,
}

impl Stored for Plan {
    type Form = PlanForm;

    fn form(&self) -> PlanForm {
        PlanForm {
            transaction_id: self.transaction_id.form(),
            command: self.command.form(),
            protocol: self.protocol.form(),
            branches: self.branches.form(),
        }
    }

    fn from_form(form: PlanForm) -> Option<Plan> {
        Some(Plan {
            transaction_id: TransactionId::from_form(form.transaction_id)?,
            command: Command::from_form(form.command)?,
            protocol: Protocol::from_form(form.protocol)?,
            branches: Vec::from_form(form.branches)?,
        })
    }
}

/// What is on its way between two shards.
#[derive(Serialize, Deserialize)]
pub(crate) struct TravellingForm {
    plan: PlanForm,
    tries: Vec<u8>,
    second_phase: Option<u8>,
    second_phase_done: Vec<bool>,
    out_of_order: bool,
    refusal: Option<RefusalForm>,
    balances: Vec<BalanceForm>,
    is_to_be_cancelled: bool,
    /// Where it began, and when.
    instance: u64,
    started_at: i64,
}

impl Stored for Travelling {
    type Form = TravellingForm;

    fn form(&self) -> TravellingForm {
        let status = &self.status;
        TravellingForm {
            plan: status.plan.form(),
            tries: status.tries.form(),
            second_phase: status.second_phase.form(),
            second_phase_done: status.second_phase_done.clone(),
            out_of_order: status.out_of_order,
            refusal: status.refusal.form(),
            balances: self.balances.form(),
            is_to_be_cancelled: self.is_to_be_cancelled,
            instance: status.lease.as_ref().map_or(0, |lease| lease.holder),
            started_at: status.started_at.as_micros(),
        }
    }

    fn from_form(form: TravellingForm) -> Option<Travelling> {
        let started_at = Timestamp::from_micros(form.started_at);
        let status = PhaseStatus {
            plan: Plan::from_form(form.plan)?,
            tries: Vec::from_form(form.tries)?,
            second_phase: Option::from_form(form.second_phase)?,
            second_phase_done: form.second_phase_done,
            out_of_order: form.out_of_order,
            refusal: Option::from_form(form.refusal)?,
            outcome: None,
            attempts: 0,
            last_error: String::new(),
            lease: Some(Lease { holder: form.instance, until: started_at }),
            started_at,
        };
        let is_of_the_plan = [status.tries.len(), status.second_phase_done.len()]
            .iter()
            .all(|count| *count == status.plan.branches.len() && *count > 1);
        let balances = Vec::from_form(form.balances)?;
        let is_to_be_cancelled = form.is_to_be_cancelled;
        is_of_the_plan.then_some(Travelling { status, balances, is_to_be_cancelled })
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct TransferForm {
    transaction_id: String,
    kind: u8,
    from: String,
    to: String,
    amount: u64,
    currency: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    metadata: Vec<(String, String)>,
}

/// The name of an account; shards know no other numbers than that of the world outside.
fn name(account: &AccountRef) -> String {
    match account {
        AccountRef::Named(account_id) => account_id.form(),
        AccountRef::Number(number) => {
            assert_eq!(*number, AccountNumber::EXTERNAL, "a plan names its accounts");
            AccountId::EXTERNAL.to_owned()
        }
    }
}

fn named(text: &str) -> Option<AccountRef> {
    account_id(text).map(AccountRef::Named)
}

impl Stored for Transfer {
    type Form = TransferForm;

    fn form(&self) -> TransferForm {
        TransferForm {
            transaction_id: self.transaction_id.form(),
            kind: self.kind.form(),
            from: name(&self.from),
            to: name(&self.to),
            amount: self.amount.minor_units(),
            currency: self.currency.form(),
            metadata: self.metadata.form(),
        }
    }

    fn from_form(form: TransferForm) -> Option<Transfer> {
        Some(Transfer {
            transaction_id: TransactionId::from_form(form.transaction_id)?,
            kind: TransferKind::from_form(form.kind)?,
            from: named(&form.from)?,
            to: named(&form.to)?,
            amount: Amount::from_minor_units(form.amount)?,
            currency: Currency::from_form(form.currency)?,
            metadata: Metadata::from_form(form.metadata)?,
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CommandForm {
    OpenAccount {
        account_id: String,
        metadata: Vec<(String, String)>,
    },
    Transfer(TransferForm),
    Group {
        transaction_id: String,
        legs: Vec<TransferForm>,
    },
    Hold {
        transfer: TransferForm,
        expires_in_seconds: Option<u32>,
    },
    /// The amount as digits and how many of them stand after the point.
    ConfirmHold {
        transaction_id: String,
        hold_id: String,
        amount: Option<(u64, u8)>,
    },
    CancelHold {
        transaction_id: String,
        hold_id: String,
    },
    Reverse {
        transaction_id: String,
        original_id: String,
        metadata: Vec<(String, String)>,
    },
    CloseAccount {
        transaction_id: String,
        account: String,
    },
    ExpireHolds,
}

impl Stored for Command {
    type Form = CommandForm;

    fn form(&self) -> CommandForm {
        match self {
            Command::OpenAccount { account_id, metadata } => {
                CommandForm::OpenAccount { account_id: account_id.form(), metadata: metadata.form() }
            }
            Command::Transfer(transfer) => CommandForm::Transfer(transfer.form()),
            Command::Group(group) => {
                CommandForm::Group { transaction_id: group.transaction_id.form(), legs: group.legs.form() }
            }
            Command::Hold(hold) => CommandForm::Hold {
                transfer: hold.transfer.form(),
                expires_in_seconds: hold.expires_in_seconds,
            },
            Command::ConfirmHold { transaction_id, hold_id, amount } => CommandForm::ConfirmHold {
                transaction_id: transaction_id.form(),
                hold_id: hold_id.form(),
                amount: amount.map(DecimalAmount::parts),
            },
            Command::CancelHold { transaction_id, hold_id } => {
                CommandForm::CancelHold { transaction_id: transaction_id.form(), hold_id: hold_id.form() }
            }
            Command::Reverse { transaction_id, original_id, metadata } => CommandForm::Reverse {
                transaction_id: transaction_id.form(),
                original_id: original_id.form(),
                metadata: metadata.form(),
            },
            Command::CloseAccount { transaction_id, account } => {
                CommandForm::CloseAccount { transaction_id: transaction_id.form(), account: name(account) }
            }
            Command::ExpireHolds => CommandForm::ExpireHolds,
        }
    }

    fn from_form(form: CommandForm) -> Option<Command> {
        Some(match form {
            CommandForm::OpenAccount { account_id, metadata } => Command::OpenAccount {
                account_id: AccountId::from_form(account_id)?,
                metadata: Metadata::from_form(metadata)?,
            },
            CommandForm::Transfer(transfer) => Command::Transfer(Transfer::from_form(transfer)?),
            CommandForm::Group { transaction_id, legs } => Command::Group(Box::new(Group {
                transaction_id: TransactionId::from_form(transaction_id)?,
                legs: Vec::from_form(legs)?,
            })),
            CommandForm::Hold { transfer, expires_in_seconds } => Command::Hold(Box::new(HoldRequest {
                transfer: Transfer::from_form(transfer)?,
                expires_in_seconds,
            })),
            CommandForm::ConfirmHold { transaction_id, hold_id, amount } => Command::ConfirmHold {
                transaction_id: TransactionId::from_form(transaction_id)?,
                hold_id: TransactionId::from_form(hold_id)?,
                amount: match amount {
                    None => None,
                    Some((digits, scale)) => Some(DecimalAmount::from_parts(digits, scale)?),
                },
            },
            CommandForm::CancelHold { transaction_id, hold_id } => Command::CancelHold {
                transaction_id: TransactionId::from_form(transaction_id)?,
                hold_id: TransactionId::from_form(hold_id)?,
            },
            CommandForm::Reverse { transaction_id, original_id, metadata } => Command::Reverse {
                transaction_id: TransactionId::from_form(transaction_id)?,
                original_id: TransactionId::from_form(original_id)?,
                metadata: Metadata::from_form(metadata)?,
            },
            CommandForm::CloseAccount { transaction_id, account } => Command::CloseAccount {
                transaction_id: TransactionId::from_form(transaction_id)?,
                account: named(&account)?,
            },
            CommandForm::ExpireHolds => Command::ExpireHolds,
        })
    }
}
