//! One of each kind of command, done and refused, over one, two and three shards.

use ledger::{
    AccountId, Amount, Command, Currency, DecimalAmount, Group, HoldRequest, Metadata, TransactionId,
    Transfer, TransferKind,
};

use super::{Fault, Options};
use crate::plan::Placement;
use crate::port::{Protocol, ShardNumber};

/// One command under test and one thing that goes wrong with it.
#[derive(Debug, Clone)]
pub(super) struct Case<'run> {
    pub(super) index: usize,
    pub(super) protocol: Protocol,
    /// At which step of the command, and what.
    pub(super) fault: Option<(usize, Fault)>,
    pub(super) options: &'run Options,
    /// Unique on these shards: names and ids are made from it.
    pub(super) number: u64,
}

/// What happens in a case.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    /// Nothing goes wrong with these.
    pub(super) before: Vec<Command>,
    pub(super) command: Command,
    /// So that the shards can be used again.
    pub(super) after: Vec<Command>,
}

/// How many scenarios there are.
pub(super) const COUNT: usize = 31;

/// An account's name tells its shard, and the last digits of an id its home.
#[derive(Debug, Clone, Copy)]
pub(super) struct ByName {
    pub(super) shard_count: u32,
}

impl Placement for ByName {
    fn shard_of(&self, account: &AccountId) -> ShardNumber {
        let (number, _) = account.as_str().split_once('.').expect("names begin with their shard");
        ShardNumber(number.parse().expect("names begin with their shard"))
    }

    fn home_of(&self, transaction_id: TransactionId) -> ShardNumber {
        ShardNumber((transaction_id.0 % u128::from(self.shard_count)) as u32)
    }
}

pub(super) fn usd() -> Currency {
    Currency::parse("USD").expect("USD is a currency")
}

fn amount(minor_units: u64) -> Amount {
    Amount::from_minor_units(minor_units).expect("amounts of scenarios are in range")
}

pub(super) fn open(account: &AccountId) -> Command {
    Command::OpenAccount { account_id: account.clone(), metadata: Metadata::default() }
}

pub(super) fn movement(
    transaction_id: TransactionId,
    from: &AccountId,
    to: &AccountId,
    minor_units: u64,
) -> Transfer {
    let external = AccountId::external();
    let kind = match (*from == external, *to == external) {
        (true, _) => TransferKind::Deposit,
        (_, true) => TransferKind::Withdrawal,
        _ => TransferKind::Transfer,
    };
    let metadata = Metadata::new([("of", "a test")]).expect("it is small");
    let (from, to) = (from.clone().into(), to.clone().into());
    Transfer { transaction_id, kind, from, to, amount: amount(minor_units), currency: usd(), metadata }
}

/// The accounts and ids of one case.
struct Names(u64);

impl Names {
    fn account(&self, shard: u32, name: &str) -> AccountId {
        AccountId::parse(&format!("{shard}.{name}.{}", self.0)).expect("the name is short")
    }

    fn id(&self, number: u128) -> TransactionId {
        TransactionId((u128::from(self.0) << 64) | number)
    }

    fn transfer(&self, id: u128, from: &AccountId, to: &AccountId, minor_units: u64) -> Command {
        Command::Transfer(movement(self.id(id), from, to, minor_units))
    }

    fn group(&self, id: u128, legs: &[(&AccountId, &AccountId, u64)]) -> Command {
        let legs = legs
            .iter()
            .zip(1..)
            .map(|((from, to, amount), leg)| movement(self.id(id + leg), from, to, *amount));
        Command::Group(Box::new(Group { transaction_id: self.id(id), legs: legs.collect() }))
    }

    fn hold(&self, id: u128, from: &AccountId, to: &AccountId, minor_units: u64) -> Command {
        self.hold_until(id, from, to, minor_units, Some(3600))
    }

    fn hold_until(
        &self,
        id: u128,
        from: &AccountId,
        to: &AccountId,
        minor_units: u64,
        expires_in_seconds: Option<u32>,
    ) -> Command {
        let transfer = movement(self.id(id), from, to, minor_units);
        Command::Hold(Box::new(HoldRequest { transfer, expires_in_seconds }))
    }

    fn confirm(&self, id: u128, hold: u128, amount: Option<&str>) -> Command {
        let amount = amount.map(|text| DecimalAmount::parse(text).expect("it is a decimal number"));
        Command::ConfirmHold { transaction_id: self.id(id), hold_id: self.id(hold), amount }
    }

    fn cancel(&self, id: u128, hold: u128) -> Command {
        Command::CancelHold { transaction_id: self.id(id), hold_id: self.id(hold) }
    }

    fn reverse(&self, id: u128, original: u128) -> Command {
        let metadata = Metadata::default();
        Command::Reverse { transaction_id: self.id(id), original_id: self.id(original), metadata }
    }

    fn close(&self, id: u128, account: &AccountId) -> Command {
        Command::CloseAccount { transaction_id: self.id(id), account: account.clone().into() }
    }
}

/// Amounts are cents. Alice has 100.00 on shard 0, Bob 50.00 on shard 1, Carol nothing on shard 2, Dave 10.00 on shard 0; Nobody was never opened, and
/// Gone is closed.
pub(super) fn scenario(case: &Case<'_>) -> Scenario {
    let names = Names(case.number);
    let external = AccountId::external();
    let [alice, dave, bob] =
        [(0, "alice"), (0, "dave"), (1, "bob")].map(|(shard, name)| names.account(shard, name));
    let [carol, nobody, gone] =
        [(2, "carol"), (1, "nobody"), (1, "gone")].map(|(shard, name)| names.account(shard, name));
    let mut before: Vec<Command> = [&alice, &dave, &bob, &carol, &gone].map(open).into();
    before.extend(
        [(1, &alice, 10000), (2, &bob, 5000), (3, &dave, 1000)]
            .map(|(id, to, amount)| names.transfer(id, &external, to, amount)),
    );
    before.push(names.close(4, &gone));
    let mut after = Vec::new();
    let n = &names;
    let (name, more, command): (&'static str, Vec<Command>, Command) = match case.index {
        0 => ("transfer", vec![], n.transfer(90, &alice, &bob, 3000)),
        1 => ("transfer on one shard", vec![], n.transfer(90, &alice, &dave, 3000)),
        2 => ("transfer to a lower shard", vec![], n.transfer(91, &bob, &alice, 5000)),
        3 => ("transfer without money", vec![], n.transfer(90, &alice, &bob, 10001)),
        4 => ("transfer to nobody", vec![], n.transfer(92, &alice, &nobody, 1)),
        5 => ("transfer to a closed account", vec![], n.transfer(90, &alice, &gone, 1)),
        6 => (
            "transfer from nobody to nobody",
            vec![],
            n.transfer(90, &nobody, &names.account(2, "nobody"), 1),
        ),
        7 => ("transfer without money to nobody", vec![], n.transfer(91, &carol, &nobody, 1)),
        8 => ("deposit", vec![], n.transfer(92, &external, &carol, 500)),
        9 => ("withdrawal", vec![], n.transfer(90, &bob, &external, 5000)),
        10 => ("withdrawal without money", vec![], n.transfer(90, &carol, &external, 1)),
        11 => (
            "group in which the money of one leg pays the next",
            vec![],
            n.group(90, &[(&alice, &bob, 4000), (&bob, &carol, 8500), (&carol, &alice, 500)]),
        ),
        12 => (
            "group whose second leg is refused",
            vec![],
            n.group(91, &[(&alice, &bob, 4000), (&carol, &bob, 1), (&alice, &nobody, 1)]),
        ),
        13 => (
            "group with the world outside",
            vec![],
            n.group(92, &[(&external, &carol, 700), (&carol, &alice, 700), (&bob, &external, 5000)]),
        ),
        14 => (
            "group on one shard",
            vec![],
            n.group(90, &[(&alice, &dave, 100), (&dave, &alice, 1100), (&alice, &dave, 200)]),
        ),
        15 => ("hold", vec![], n.hold(90, &alice, &bob, 6000)),
        16 => ("hold without money", vec![], n.hold(91, &carol, &bob, 1)),
        17 => ("hold for nobody", vec![], n.hold(92, &alice, &nobody, 1)),
        18 => ("confirmation", vec![n.hold(10, &alice, &bob, 6000)], n.confirm(90, 10, None)),
        19 => {
            ("confirmation of a part", vec![n.hold(10, &alice, &dave, 6000)], n.confirm(91, 10, Some("20.5")))
        }
        20 => (
            "confirmation of too much",
            vec![n.hold(10, &alice, &bob, 6000)],
            n.confirm(92, 10, Some("60.01")),
        ),
        21 => (
            "confirmation of what is settled",
            vec![n.hold(10, &alice, &bob, 6000), n.cancel(11, 10)],
            n.confirm(90, 10, None),
        ),
        22 => ("confirmation of nothing", vec![], n.confirm(91, 10, None)),
        23 => (
            "confirmation too late",
            vec![n.hold_until(10, &alice, &bob, 6000, Some(0))],
            n.confirm(92, 10, None),
        ),
        24 => ("cancelled hold", vec![n.hold(10, &alice, &bob, 6000)], n.cancel(90, 10)),
        25 => ("reversal", vec![n.transfer(10, &alice, &bob, 3000)], n.reverse(91, 10)),
        26 => (
            "second reversal",
            vec![n.transfer(10, &alice, &bob, 3000), n.reverse(11, 10)],
            n.reverse(92, 10),
        ),
        27 => (
            "reversal of a leg whose record is on a third shard",
            vec![n.group(10, &[(&alice, &dave, 100), (&bob, &carol, 2000)])],
            n.reverse(90, 12),
        ),
        28 => ("reversal of a deposit", vec![], n.reverse(91, 2)),
        29 => ("closing", vec![n.transfer(10, &dave, &bob, 1000)], n.close(92, &dave)),
        30 => {
            let full = u64::try_from(i64::MAX).expect("it is positive") - 3000;
            after.push(n.transfer(95, &carol, &external, full));
            (
                "transfer to a full account",
                vec![n.transfer(10, &external, &carol, full)],
                n.transfer(90, &alice, &carol, 3001),
            )
        }
        other => unreachable!("there is no scenario {other}"),
    };
    before.extend(more);
    Scenario { name, before, command, after }
}
