//! What a bank says: statements with their entries and balances, whatever file they came in.

use std::collections::BTreeMap;
use std::fmt;

use chrono::NaiveDate;
use ledger::Currency;

/// Why a file is no statement, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {why}")]
pub(crate) struct StatementError {
    /// The line, and the entry where there is one.
    pub(crate) place: Place,
    /// What is wrong.
    pub(crate) why: String,
}

impl StatementError {
    pub(crate) fn new(place: Place, why: impl fmt::Display) -> StatementError {
        StatementError { place, why: why.to_string() }
    }
}

/// Where in the file something stands. Both count from 1; an entry of 0 is none yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub(crate) struct Place {
    pub(crate) entry: usize,
    pub(crate) line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.entry {
            0 => write!(formatter, "line {}", self.line),
            entry => write!(formatter, "entry {entry}, line {}", self.line),
        }
    }
}

/// Money with its direction. In an entry of a statement, what comes in is positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Money {
    pub(crate) currency: Currency,
    pub(crate) minor_units: i64,
}

impl fmt::Display for Money {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&ledger::format_minor_units(self.minor_units.into(), self.currency))
    }
}

/// One movement on the bank account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StatementEntry {
    pub(crate) place: Place,
    pub(crate) booked: NaiveDate,
    /// The value date, where it is another one.
    pub(crate) valued: Option<NaiveDate>,
    pub(crate) money: Money,
    /// What the file calls a reference: end-to-end id, bank's reference, ...
    pub(crate) references: Vec<String>,
    /// What the payer wrote, and whatever else is text.
    pub(crate) text: String,
    /// The bank takes an earlier entry back. The sign is that of the money all the same.
    pub(crate) is_reversal: bool,
}

/// A balance of the bank account at the end of a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Balance {
    pub(crate) date: NaiveDate,
    pub(crate) money: Money,
}

/// A statement of one bank account.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Statement {
    pub(crate) id: String,
    /// IBAN or number of the bank account; empty where the file does not say.
    pub(crate) account: String,
    /// The period, both days included, where the file says it.
    pub(crate) period: Option<(NaiveDate, NaiveDate)>,
    pub(crate) opening: Option<Balance>,
    pub(crate) closing: Option<Balance>,
    pub(crate) entries: Vec<StatementEntry>,
}

/// Everything in a file, and what is odd about it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct StatementFile {
    pub(crate) statements: Vec<Statement>,
    pub(crate) warnings: Vec<String>,
}

/// Whether a statement's balances and entries belong together: opening + sum of the entries = closing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BalanceCheck {
    pub(crate) currency: Currency,
    pub(crate) opening: i64,
    pub(crate) closing: i64,
    pub(crate) sum_of_entries: i128,
}

impl BalanceCheck {
    pub(crate) fn holds(&self) -> bool {
        self.missing() == 0
    }

    /// What the entries lack to lead from the opening to the closing balance.
    pub(crate) fn missing(&self) -> i128 {
        i128::from(self.closing) - i128::from(self.opening) - self.sum_of_entries
    }
}

impl Statement {
    /// `None` where the file does not tell both balances.
    pub(crate) fn check(&self) -> Option<BalanceCheck> {
        let (opening, closing) = (self.opening?.money, self.closing?.money);
        let of_currency = |entry: &&StatementEntry| entry.money.currency == closing.currency;
        let sum = self.entries.iter().filter(of_currency).map(|entry| i128::from(entry.money.minor_units));
        (opening.currency == closing.currency).then(|| BalanceCheck {
            currency: closing.currency,
            opening: opening.minor_units,
            closing: closing.minor_units,
            sum_of_entries: sum.sum(),
        })
    }

    /// First and last day that the statement speaks of.
    fn days(&self) -> Option<(NaiveDate, NaiveDate)> {
        let entries = self.entries.iter().map(|entry| entry.booked);
        let period = self.period.into_iter().flat_map(|(from, to)| [from, to]);
        let closing = self.closing.iter().map(|balance| balance.date);
        let days: Vec<NaiveDate> = entries.chain(period).chain(closing).collect();
        Some((*days.iter().min()?, *days.iter().max()?))
    }
}

impl StatementFile {
    /// First and last day of all statements.
    pub(crate) fn days(&self) -> Option<(NaiveDate, NaiveDate)> {
        let days: Vec<_> = self.statements.iter().filter_map(Statement::days).collect();
        Some((days.iter().map(|(from, _)| *from).min()?, days.iter().map(|(_, to)| *to).max()?))
    }

    /// Adds what only the whole file shows.
    pub(crate) fn note_oddities(&mut self) {
        let mut accounts: BTreeMap<&str, usize> = BTreeMap::new();
        for statement in self.statements.iter().filter(|statement| !statement.account.is_empty()) {
            *accounts.entry(&statement.account).or_default() += 1;
        }
        if accounts.len() > 1 {
            let names: Vec<&str> = accounts.into_keys().collect();
            let names = names.join(", ");
            self.warnings.push(format!("the file speaks of several bank accounts, all are taken: {names}"));
        }
        let unbalanced = self.statements.iter().filter_map(|statement| {
            let check = statement.check().filter(|check| !check.holds())?;
            let text = |minor_units: i128| ledger::format_minor_units(minor_units, check.currency);
            Some(format!(
                "statement {:?} is not whole: opening {} + entries {} is not closing {} {}, {} is missing",
                statement.id,
                text(check.opening.into()),
                text(check.sum_of_entries),
                text(check.closing.into()),
                check.currency,
                text(check.missing()),
            ))
        });
        let unbalanced: Vec<String> = unbalanced.collect();
        self.warnings.extend(unbalanced);
    }
}

/// Text as it can be shown: runs of white space are one space, and nothing else that controls a terminal is left.
pub(crate) fn clean(text: &str) -> String {
    let printable = |letter: &char| !letter.is_control() && !matches!(*letter, '\u{202a}'..='\u{202e}');
    let words = text.split_whitespace().map(|word| word.chars().filter(printable).collect::<String>());
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_control_a_terminal() {
        assert_eq!(clean(" a\n\t b\u{1b}[31mc \u{202e}d \u{7} "), "a b[31mc d");
    }
}
