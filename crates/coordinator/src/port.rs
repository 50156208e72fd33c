//! What a coordinator asks of a shard, and what a shard promises.
//!
//! A **transaction** is planned as one [`Branch`] for each shard that it touches. A shard executes a [`Step`] in one local transaction:
//! the money, the barrier and, on the shard of the payer, the phase status record change together or not at all.
//!
//! The **barrier** is the state of a branch ([`BranchState`]), stored with the money under (transaction_id): a repeated step is answered
//! from it, a cancel that comes before its try is remembered (the out-of-order flag), and a try that comes after is refused.
//!
//! **Unknown is never failure.** Whoever gets no answer repeats the same step until there is one.

use ledger::{AccountId, Amount, Command, Currency, Metadata, Refusal, Sequence, Timestamp, TransactionId};

/// The number of a shard, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardNumber(pub u32);

/// How the shards of a transaction are brought to one outcome. Numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// Try, then confirm or cancel: tries run in parallel, and money in flight is visible as such.
    Tcc = 1,
    /// One after the other: debits first, the last credit decides, what was taken is returned in reverse.
    Saga = 2,
    /// Prepare one after the other, then commit or roll back: nothing is visible before, and rows stay locked meanwhile.
    TwoPhaseCommit = 3,
}

/// What one leg of a transaction adds to (or takes from) one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posting {
    /// The index of the leg in the transaction: 0 but for groups.
    pub leg: u8,
    /// The id of the leg: the transaction's own but for groups.
    pub transaction_id: TransactionId,
    /// What is added to `available`, in minor units; negative for the payer.
    pub amount: i64,
    /// The other side.
    pub counterparty: AccountId,
    /// What its entry in the history tells.
    pub kind: EntryKind,
    /// The caller's notes.
    pub metadata: Metadata,
}

/// Everything that a transaction does to one account in one currency, in the order of its legs.
///
/// It happens in two phases. The first **takes** what the account must have ([`Change::take`]); the second **gives** what it receives
/// ([`Change::give`]). A cancelled transaction returns what was taken. For a payer `give` is 0, for a payee `take` is 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The account; `@external` exists on every shard, and alone may go below zero.
    pub account: AccountId,
    /// The currency.
    pub currency: Currency,
    /// Empty for an account that is only checked and pinned: the payee of a hold.
    pub postings: Vec<Posting>,
}

/// What a branch does besides moving money, on the shard where the thing is recorded. It is checked and locked in the first phase,
/// done in the second, and unlocked by a cancel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Closes an account whose every balance is zero.
    CloseAccount {
        /// Its name.
        account_id: AccountId,
    },
    /// Sets aside the payer's money: it leaves `available` in the first phase and is `held` after the second.
    PlaceHold(HoldTerms),
    /// Ends a pending hold: `confirm` of it goes to the payee by a posting on the payee's branch, the rest back to `available`.
    SettleHold {
        /// The hold, as it was placed.
        hold: HoldTerms,
        /// How much is paid out; `None` when the hold is cancelled.
        confirm: Option<Amount>,
    },
    /// Marks a transaction as reversed, once. Lives where that transaction's record is.
    MarkReversed {
        /// The transaction whose money goes back.
        original_id: TransactionId,
    },
}

/// What was agreed when money was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldTerms {
    /// The hold's id.
    pub hold_id: TransactionId,
    /// The payer.
    pub from: AccountId,
    /// The payee.
    pub to: AccountId,
    /// How much.
    pub amount: Amount,
    /// Of what.
    pub currency: Currency,
    /// Seconds until it lapses, from the time at which the shard recorded it; never without.
    pub expires_in_seconds: Option<u32>,
    /// The caller's notes.
    pub metadata: Metadata,
}

/// What a transaction does on one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// The shard.
    pub shard: ShardNumber,
    /// Accounts and money, in the order of the first leg that touches them; empty where only the record is kept.
    pub changes: Vec<Change>,
    /// What is done besides.
    pub task: Option<Task>,
}

/// A transaction, planned. The first branch is the owner's: on the payer's shard, where the phase status record is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The client's id.
    pub transaction_id: TransactionId,
    /// What the client asked for, accounts by name.
    pub command: Command,
    /// How the shards are brought to one outcome. With one branch, all protocols are the same single local transaction.
    pub protocol: Protocol,
    /// One per shard, the owner's first.
    pub branches: Vec<Branch>,
}

/// How far a branch is. This is the barrier. Numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BranchState {
    /// The first phase is done: money taken, payees pinned, things locked.
    Taken = 1,
    /// Both phases are done.
    Given = 2,
    /// The first phase was undone.
    Returned = 3,
    /// The first phase was refused; nothing changed.
    Refused = 4,
    /// A cancel came before its try: whatever try comes now is refused. The chapter's out-of-order flag.
    CancelledBeforeTry = 5,
    /// Both phases were done within a prepared XA transaction, and its history is not written yet.
    Committed = 6,
}

/// What a shard does for a branch. All are idempotent by (transaction_id, branch): the [`BranchState`] answers a repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// The first phase: check every change and the task, then take. TC/C's try, Saga's debit.
    Take(Branch),
    /// The second phase: give, write the history, unpin. TC/C's confirm.
    Give,
    /// Undo the first phase. TC/C's cancel, Saga's compensation. Undoes nothing where there was no first phase, and nothing where the
    /// second is done: the state in the answer tells.
    Return,
    /// Both phases at once, or the second when the first is done. Saga's last step, and every transaction that one shard can do alone.
    Apply(Branch),
    /// Two-phase commit: both phases within an XA transaction that is left prepared. Needs a shard that can. Never in one step with a
    /// record change: what is prepared is invisible to whoever recovers, so records are committed by themselves.
    Prepare(Branch),
    /// Commit what is prepared, then write its history in a local transaction. Repeats find it committed.
    Commit,
    /// Roll back what is prepared. What is not there counts as rolled back, and a later [`Operation::Prepare`] of it is [`Answer::Late`].
    Rollback,
}

/// The name of the second phase. Numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SecondPhase {
    /// Confirm, or commit.
    Confirm = 1,
    /// Cancel, compensate, or roll back.
    Cancel = 2,
}

/// How far the first phase is on one shard. Numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TryState {
    /// Not sent yet.
    NotSent = 0,
    /// Sent; no answer is recorded.
    Sent = 1,
    /// Done.
    Accepted = 2,
    /// Refused.
    Refused = 3,
}

/// One row of the phase status table: everything that another instance needs to finish a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhaseStatus {
    /// The transaction's id and content.
    pub plan: Plan,
    /// How far the first phase is, by branch.
    pub tries: Vec<TryState>,
    /// The second phase, once it is decided. It never changes again.
    pub second_phase: Option<SecondPhase>,
    /// How many branches have finished the second phase, by branch.
    pub second_phase_done: Vec<bool>,
    /// A cancel reached a shard before its try did.
    pub out_of_order: bool,
    /// Why it is cancelled.
    pub refusal: Option<Refusal>,
    /// What the client is told, once nothing can change it any more.
    pub outcome: Option<Outcome>,
    /// How often a step of it was repeated for want of an answer.
    pub attempts: u32,
    /// The last error of a step; empty without.
    pub last_error: String,
    /// Which instance drives it, and until when nobody else should.
    pub lease: Option<Lease>,
    /// When it began.
    pub started_at: Timestamp,
}

/// Who drives a transaction. A hint that saves work: what keeps money safe are the barrier and the decision that is made once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The instance, a random number of its own.
    pub holder: u64,
    /// Until when.
    pub until: Timestamp,
}

/// What became of a transaction, as its record tells for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The position at the owner's shard: of the payer's posting, or of the refusal.
    pub sequence: Sequence,
    /// The time of that position.
    pub timestamp: Timestamp,
    /// What is left in the accounts, or why nothing moved.
    pub result: Result<Vec<BalanceAfter>, Refusal>,
}

/// What one posting left behind: the answer of a branch has one for each posting, in order of `leg`, payer before payee.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalanceAfter {
    /// The leg.
    pub leg: u8,
    /// The account.
    pub account: AccountId,
    /// The currency.
    pub currency: Currency,
    /// The available balance right afterwards, in minor units.
    pub available: i64,
    /// The held balance right afterwards, in minor units.
    pub held: i64,
}

/// What is recorded in the phase status table, in the same local transaction as the operation beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordChange {
    /// The transaction begins. If it has begun already, nothing is done and [`Answer::Known`] tells how it stands.
    Begin(Box<PhaseStatus>),
    /// The second phase is decided. If it was decided otherwise, nothing is done and [`Answer::Known`] tells how.
    Decide {
        /// Which second phase.
        second_phase: SecondPhase,
        /// Why, for a cancel.
        refusal: Option<Refusal>,
        /// What every try answered.
        tries: Vec<TryState>,
    },
    /// The transaction is over; its outcome stands for ever, and [`Answer::Finished`] tells it. It is a refusal when one is recorded, or
    /// named here, or answered by the operation of the same step; else a success.
    Finish {
        /// What the other shards' branches left behind; the owner's own come from its branch.
        balances: Vec<BalanceAfter>,
        /// Why nothing moved.
        refusal: Option<Refusal>,
        /// A cancel reached a shard before its try did.
        out_of_order: bool,
    },
    /// Another instance takes over, or tells what hinders it.
    Note {
        /// The new lease. Refused as [`Answer::Known`] while another holder's lease has not run out.
        lease: Lease,
        /// One more attempt, and why the last one failed.
        error: Option<String>,
    },
}

/// One local transaction on one shard: wholly done, or not at all. [`RecordChange::Finish`] sees what the operation of its step did; the
/// other record changes come before the operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// On the shard of the account: opens it. Idempotent by the account's id, without a transaction_id and a record:
    /// [`Answer::Done`] when it was opened now, [`Answer::Unchanged`] when it is there just so, [`Answer::Refused`] with other notes.
    OpenAccount {
        /// Its name.
        account_id: AccountId,
        /// Its owner's notes.
        metadata: Metadata,
    },
    /// On the home shard of a transaction_id: it belongs to this content from now on, whichever shards that touches.
    Claim {
        /// The id.
        transaction_id: TransactionId,
        /// Whose it is.
        claim: Claim,
    },
    /// On a shard of the plan. Without record changes and operation it reads the record: [`Answer::Known`].
    Branch {
        /// The transaction.
        transaction_id: TransactionId,
        /// What changes in its record; only on the owner's shard.
        record: Vec<RecordChange>,
        /// What is done.
        operation: Option<Operation>,
        /// The owner's shard, so that a branch without a record finds it.
        owner: ShardNumber,
    },
}

/// What a shard did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Done, now or before.
    Done(Done),
    /// The first phase is refused, now or before; nothing changed but the barrier.
    Refused(Refusal),
    /// A first phase that comes after its cancel: nothing is done.
    Late,
    /// The record stands otherwise than the step expected; nothing was done.
    Known(Box<PhaseStatus>),
    /// The transaction is over, now or before.
    Finished(Outcome),
    /// The id belongs to this content, now or before. The claim as it was granted first: its owner is where the record is or must be.
    Claimed(Claim),
    /// The id belongs to other content.
    ClaimedOtherwise,
    /// The account is there just so.
    Unchanged,
    /// The step contradicts what the shard knows, and nothing was done: a second phase without a first, a decision without a record.
    /// Only lost data or a defect leads here, and nobody may go on with the transaction.
    Contradiction(&'static str),
}

/// What a branch left behind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Done {
    /// How far the branch is now; `None` for a step without an operation.
    pub state: Option<BranchState>,
    /// The position of the shard's last event for the branch; 0 while there is none.
    pub sequence: Sequence,
    /// The time of it.
    pub timestamp: Timestamp,
    /// What each posting left behind, payer before payee; empty before the second phase.
    pub balances: Vec<BalanceAfter>,
}

/// Why a step has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoAnswer {
    /// It was certainly not executed: a lock, a deadlock, a full queue. Repeat it soon.
    Busy(String),
    /// It may have been executed. Repeat it until there is an answer.
    Unknown(String),
}

/// What an entry of a history tells. Numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// A transfer.
    Transfer = 0,
    /// Money from outside.
    Deposit = 1,
    /// Money to the outside.
    Withdrawal = 2,
    /// Money was set aside.
    Held = 3,
    /// A hold was paid out.
    HoldConfirmed = 4,
    /// A hold was cancelled or lapsed.
    HoldReleased = 5,
    /// An earlier transaction was reversed.
    Reversed = 6,
}

/// One entry of an account's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The id of the transaction, or of its leg; `None` when a hold lapsed.
    pub transaction_id: Option<TransactionId>,
    /// What it was.
    pub kind: EntryKind,
    /// The other side, where there is one.
    pub counterparty: Option<AccountId>,
    /// What was added to `available`, in minor units.
    pub amount: i64,
    /// Of what.
    pub currency: Currency,
    /// The available balance as the history adds up: money that other transactions have in flight counts as still there, until their
    /// own entries are written.
    pub balance_after: i64,
    /// Its position on the shard.
    pub sequence: Sequence,
    /// The time of it.
    pub timestamp: Timestamp,
    /// The caller's notes.
    pub metadata: Metadata,
}

/// Whom a transaction_id belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// A hash of the content.
    pub fingerprint: [u8; 32],
    /// Where its record is.
    pub owner: ShardNumber,
    /// The transaction whose record tells of this id.
    pub recorded_under: TransactionId,
}

/// A later transaction that changed the fate of an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    /// The later one; `None` when a hold lapsed by itself.
    pub transaction_id: Option<TransactionId>,
    /// What it did.
    pub kind: ReferenceKind,
    /// Its position on this shard.
    pub sequence: Sequence,
    /// The time of it.
    pub timestamp: Timestamp,
}

/// What a later transaction did to an earlier one. Numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ReferenceKind {
    /// It paid the hold out.
    HoldConfirmed = 1,
    /// It released the hold.
    HoldReleased = 2,
    /// It moved the money back.
    Reversed = 3,
}

impl Step {
    /// The transaction that it is of; none opens an account.
    pub fn transaction_id(&self) -> Option<TransactionId> {
        match self {
            Step::OpenAccount { .. } => None,
            Step::Claim { transaction_id, .. } | Step::Branch { transaction_id, .. } => Some(*transaction_id),
        }
    }

    /// True for the steps of a two-phase commit that need a shard that can prepare.
    pub fn is_two_phase(&self) -> bool {
        matches!(
            self,
            Step::Branch {
                operation: Some(Operation::Prepare(_) | Operation::Commit | Operation::Rollback),
                ..
            }
        )
    }
}

impl Change {
    /// What the account must have before anything is received: minus the lowest running sum of the postings, at least 0. At most 2^63-1.
    pub fn take(&self) -> u64 {
        let (mut sum, mut lowest) = (0i128, 0i128);
        for posting in &self.postings {
            sum += i128::from(posting.amount);
            lowest = lowest.min(sum);
        }
        u64::try_from(-lowest).unwrap_or(u64::MAX)
    }

    /// What is added in the second phase, after `take` was taken in the first.
    pub fn give(&self) -> i128 {
        self.postings.iter().map(|posting| i128::from(posting.amount)).sum::<i128>() + i128::from(self.take())
    }
}
