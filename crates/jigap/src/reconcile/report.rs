//! What was found, for people, for spreadsheets and for programs.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};

use ledger::{Currency, format_minor_units};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::Range;
use super::arguments::OutputChoice;
use super::file::Format;
use super::matcher::{By, LedgerEntry, Outcome, Pair};
use super::statement::{Statement, StatementEntry, StatementFile};
use crate::output::{print_json, print_line, print_table, table};

/// How much of a text is shown to people.
const SHOWN_LETTERS: usize = 40;
const COLUMNS: [&str; 19] = [
    "result",
    "by",
    "group",
    "currency",
    "statement_amount",
    "ledger_amount",
    "difference",
    "days",
    "statement_date",
    "statement_value_date",
    "statement_reference",
    "statement_text",
    "statement_place",
    "account",
    "type",
    "ledger_reference",
    "transaction_id",
    "timestamp",
    "sequence",
];

/// Everything there is to say.
pub(crate) struct Report<'report> {
    pub(crate) format: Format,
    pub(crate) file: &'report StatementFile,
    pub(crate) statement: &'report [StatementEntry],
    pub(crate) ledger: &'report [LedgerEntry],
    pub(crate) outcome: &'report Outcome,
    pub(crate) range: &'report Range,
}

/// One line of the report: an entry of either side, or one of each.
struct Line<'report> {
    result: &'static str,
    by: Option<By>,
    /// Lines of one ambiguous group have one number.
    group: Option<usize>,
    statement: Option<&'report StatementEntry>,
    ledger: Option<&'report LedgerEntry>,
}

fn name_of(by: By) -> &'static str {
    match by {
        By::TransactionId => "transaction_id",
        By::Reference => "reference",
        By::Amount => "amount",
    }
}

impl Report<'_> {
    /// How many things need somebody's attention.
    pub(crate) fn differences(&self) -> usize {
        let Outcome { different, ambiguous, missing_in_ledger, missing_in_statement, .. } = self.outcome;
        let unbalanced =
            self.file.statements.iter().filter_map(Statement::check).filter(|check| !check.holds());
        different.len()
            + ambiguous.len()
            + missing_in_ledger.len()
            + missing_in_statement.len()
            + unbalanced.count()
    }

    /// Prints it. Warnings go to the standard error output, unless the report has a place for them.
    pub(crate) fn print(&self, output: OutputChoice, differences_only: bool) -> io::Result<()> {
        if output != OutputChoice::Json {
            self.file.warnings.iter().for_each(|warning| eprintln!("jigap: warning: {warning}"));
        }
        match output {
            OutputChoice::Table => self.print_table(differences_only),
            OutputChoice::Csv => self.print_csv(differences_only),
            OutputChoice::Json => print_json(&self.json(differences_only)),
        }
    }

    /// What needs attention first, what matches last.
    fn lines(&self, differences_only: bool) -> Vec<Line<'_>> {
        let outcome = self.outcome;
        let pair = |result: &'static str, pair: &Pair| Line {
            result,
            by: Some(pair.by),
            group: None,
            statement: Some(&self.statement[pair.statement]),
            ledger: Some(&self.ledger[pair.ledger]),
        };
        let one = |result, statement, ledger| Line { result, by: None, group: None, statement, ledger };
        let mut lines: Vec<Line> = outcome.different.iter().map(|found| pair("different", found)).collect();
        let missing = outcome.missing_in_ledger.iter();
        lines.extend(missing.map(|index| one("missing_in_ledger", Some(&self.statement[*index]), None)));
        let missing = outcome.missing_in_statement.iter();
        lines.extend(missing.map(|index| one("missing_in_statement", None, Some(&self.ledger[*index]))));
        for (number, cluster) in outcome.ambiguous.iter().enumerate() {
            let (by, group) = (Some(cluster.by), Some(number + 1));
            let of_statement = cluster.statement.iter().map(|index| (Some(&self.statement[*index]), None));
            let of_ledger = cluster.ledger.iter().map(|index| (None, Some(&self.ledger[*index])));
            let both = of_statement.chain(of_ledger);
            lines.extend(both.map(|(statement, ledger)| Line {
                result: "ambiguous",
                by,
                group,
                statement,
                ledger,
            }));
        }
        if !differences_only {
            lines.extend(outcome.matched.iter().map(|found| pair("matched", found)));
        }
        lines
    }

    fn print_table(&self, differences_only: bool) -> io::Result<()> {
        let lines = self.lines(differences_only);
        if !lines.is_empty() {
            let headings = [
                "result",
                "date",
                "statement",
                "ledger",
                "currency",
                "account",
                "reference or text",
                "transaction_id",
            ];
            let mut rendered = table(&headings);
            rendered.add_rows(lines.iter().map(Line::shown));
            print_table(&rendered)?;
        }
        let mut sums = table(&["currency", "statement", "ledger", "difference"]);
        for (currency, [statement, ledger]) in self.sums() {
            let text = |minor_units| format_minor_units(minor_units, currency);
            sums.add_row([
                currency.code().to_owned(),
                text(statement),
                text(ledger),
                text(statement - ledger),
            ]);
        }
        print_table(&sums)?;
        for statement in &self.file.statements {
            if let Some(check) = statement.check() {
                let text = |minor_units: i128| format_minor_units(minor_units, check.currency);
                let verdict = if check.holds() { "adds up" } else { "DOES NOT ADD UP" };
                print_line(&format!(
                    "statement {:?}: opening {} + entries {} = closing {} {}: {verdict}",
                    statement.id,
                    text(check.opening.into()),
                    text(check.sum_of_entries),
                    text(check.closing.into()),
                    check.currency
                ))?;
            }
        }
        let outcome = self.outcome;
        print_line(&format!(
            "{} matched ({} by amount alone), {} different, {} missing in the ledger, {} missing in the statement, {} ambiguous",
            outcome.matched.len(),
            outcome.matched.iter().filter(|pair| pair.by == By::Amount).count(),
            outcome.different.len(),
            outcome.missing_in_ledger.len(),
            outcome.missing_in_statement.len(),
            outcome.ambiguous.len()
        ))
    }

    fn print_csv(&self, differences_only: bool) -> io::Result<()> {
        let mut writer = csv::Writer::from_writer(io::stdout().lock());
        let mut write = || -> io::Result<()> {
            writer.write_record(COLUMNS)?;
            for line in self.lines(differences_only) {
                writer.write_record(line.record())?;
            }
            writer.flush()
        };
        match write() {
            // Whoever reads has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }

    fn json(&self, differences_only: bool) -> Value {
        let lines = self.lines(differences_only);
        let of = |result: &str| -> Value {
            lines.iter().filter(|line| line.result == result).map(Line::json).collect()
        };
        let side = |group: usize, side: fn(&Line) -> Option<Value>| -> Vec<Value> {
            lines.iter().filter(|line| line.group == Some(group)).filter_map(side).collect()
        };
        let clusters = self.outcome.ambiguous.iter().enumerate().map(|(number, cluster)| {
            json!({
                "by": name_of(cluster.by),
                "statement": side(number + 1, |line| line.statement.map(statement_json)),
                "ledger": side(number + 1, |line| line.ledger.map(ledger_json)),
            })
        });
        let sums = self.sums().into_iter().map(|(currency, [statement, ledger])| {
            let text = |minor_units| format_minor_units(minor_units, currency);
            json!({
                "currency": currency.code(),
                "statement": text(statement),
                "ledger": text(ledger),
                "difference": text(statement - ledger),
            })
        });
        let outcome = self.outcome;
        let mut body = json!({
            "reconciled": self.differences() == 0,
            "format": self.format.name(),
            "since": api::format_timestamp(self.range.since),
            "until": api::format_timestamp(self.range.until),
            "statements": self.file.statements.iter().map(balance_json).collect::<Value>(),
            "counts": {
                "matched": outcome.matched.len(),
                "matched_by_amount": outcome.matched.iter().filter(|pair| pair.by == By::Amount).count(),
                "different": outcome.different.len(),
                "missing_in_ledger": outcome.missing_in_ledger.len(),
                "missing_in_statement": outcome.missing_in_statement.len(),
                "ambiguous": outcome.ambiguous.len(),
            },
            "sums": sums.collect::<Value>(),
            "different": of("different"),
            "missing_in_ledger": of("missing_in_ledger"),
            "missing_in_statement": of("missing_in_statement"),
            "ambiguous": clusters.collect::<Value>(),
            "warnings": self.file.warnings,
        });
        if !differences_only {
            body["matched"] = of("matched");
        }
        body
    }

    /// Of each currency: all entries of the statement, and all of the ledger that were matched or must be in it.
    fn sums(&self) -> BTreeMap<Currency, [i128; 2]> {
        let mut sums: BTreeMap<Currency, [i128; 2]> = BTreeMap::new();
        for line in self.lines(false) {
            let sides = [line.statement.map(|entry| entry.money), line.ledger.map(|entry| entry.money)];
            for (side, money) in
                sides.into_iter().enumerate().filter_map(|(side, money)| Some((side, money?)))
            {
                sums.entry(money.currency).or_default()[side] += i128::from(money.minor_units);
            }
        }
        sums
    }
}

fn balance_json(statement: &Statement) -> Value {
    let mut body =
        json!({ "id": statement.id, "account": statement.account, "entries": statement.entries.len() });
    if let Some(check) = statement.check() {
        let text = |minor_units: i128| json!(format_minor_units(minor_units, check.currency));
        body["currency"] = json!(check.currency.code());
        body["opening"] = text(check.opening.into());
        body["sum_of_entries"] = text(check.sum_of_entries);
        body["closing"] = text(check.closing.into());
        body["adds_up"] = json!(check.holds());
    }
    body
}

fn statement_json(entry: &StatementEntry) -> Value {
    let mut body = json!({
        "date": entry.booked.to_string(),
        "amount": entry.money.to_string(),
        "currency": entry.money.currency.code(),
        "references": entry.references,
        "text": entry.text,
        "entry": entry.place.entry,
        "line": entry.place.line,
    });
    if let Some(valued) = entry.valued {
        body["value_date"] = json!(valued.to_string());
    }
    if entry.is_reversal {
        body["reversal"] = json!(true);
    }
    body
}

fn ledger_json(entry: &LedgerEntry) -> Value {
    let id = |id: u128| json!(Uuid::from_u128(id).to_string());
    let mut body = Map::new();
    body.insert("transaction_id".into(), id(entry.transaction_id));
    body.insert("account".into(), json!(entry.account));
    body.insert("type".into(), json!(entry.kind));
    body.insert("amount".into(), json!(entry.money.to_string()));
    body.insert("currency".into(), json!(entry.money.currency.code()));
    body.insert("timestamp".into(), json!(entry.timestamp));
    body.insert("partition".into(), json!(entry.partition));
    body.insert("sequence".into(), json!(entry.sequence));
    if let Some(reversed) = entry.reversed_id {
        body.insert("reversed_transaction_id".into(), id(reversed));
    }
    if let Some(reference) = &entry.reference {
        body.insert("reference".into(), json!(reference));
    }
    Value::Object(body)
}

impl Line<'_> {
    /// What the statement has more than the ledger; only of pairs in one currency.
    fn difference(&self) -> Option<String> {
        let (statement, ledger) = (self.statement?.money, self.ledger?.money);
        let difference = i128::from(statement.minor_units) - i128::from(ledger.minor_units);
        (statement.currency == ledger.currency).then(|| format_minor_units(difference, statement.currency))
    }

    /// How many days the bank booked later.
    fn days(&self) -> Option<i64> {
        Some((self.statement?.booked - self.ledger?.date).num_days())
    }

    fn json(&self) -> Value {
        let mut body = Map::new();
        if let Some(by) = self.by {
            body.insert("by".into(), json!(name_of(by)));
        }
        if let Some(difference) = self.difference().filter(|_| self.result == "different") {
            body.insert("difference".into(), json!(difference));
        }
        if let Some(days) = self.days() {
            body.insert("days".into(), json!(days));
        }
        if let Some(entry) = self.statement {
            body.insert("statement".into(), statement_json(entry));
        }
        if let Some(entry) = self.ledger {
            body.insert("ledger".into(), ledger_json(entry));
        }
        Value::Object(body)
    }

    fn currency(&self) -> &'static str {
        let of_ledger = self.ledger.map(|entry| entry.money);
        self.statement.map(|entry| entry.money).or(of_ledger).map_or("", |money| money.currency.code())
    }

    fn id(&self) -> String {
        self.ledger.map_or_else(String::new, |entry| Uuid::from_u128(entry.transaction_id).to_string())
    }

    /// As people read it.
    fn shown(&self) -> [String; 8] {
        let result = match (self.result, self.by, self.group) {
            ("matched", Some(By::Amount), _) => "matched by amount".to_owned(),
            (result, _, Some(group)) => format!("{result} {group}"),
            (result, ..) => result.replace('_', " "),
        };
        let ledger = self.ledger;
        // Two currencies are a difference that the amounts alone would hide.
        let amount = |money: super::statement::Money| match money.currency.code() == self.currency() {
            true => money.to_string(),
            false => format!("{money} {}", money.currency),
        };
        let date = self.statement.map(|entry| entry.booked).or(ledger.map(|entry| entry.date));
        let text = match self.statement {
            Some(entry) if entry.text.is_empty() => entry.references.first().cloned().unwrap_or_default(),
            Some(entry) => entry.text.clone(),
            None => ledger.and_then(|entry| entry.reference.clone()).unwrap_or_default(),
        };
        [
            result,
            date.map(|date| date.to_string()).unwrap_or_default(),
            self.statement.map(|entry| amount(entry.money)).unwrap_or_default(),
            ledger.map(|entry| amount(entry.money)).unwrap_or_default(),
            self.currency().to_owned(),
            ledger.map(|entry| entry.account.clone()).unwrap_or_default(),
            super::statement::clean(&text).chars().take(SHOWN_LETTERS).collect(),
            self.id(),
        ]
    }

    /// In the order of [`COLUMNS`].
    fn record(&self) -> Vec<String> {
        let (statement, ledger) = (self.statement, self.ledger);
        let or_empty = Option::unwrap_or_default;
        let references = statement.map(|entry| entry.references.join(" "));
        vec![
            self.result.to_owned(),
            or_empty(self.by.map(|by| name_of(by).to_owned())),
            or_empty(self.group.map(|group| group.to_string())),
            self.currency().to_owned(),
            or_empty(statement.map(|entry| entry.money.to_string())),
            or_empty(ledger.map(|entry| entry.money.to_string())),
            or_empty(self.difference()),
            or_empty(self.days().map(|days| days.to_string())),
            or_empty(statement.map(|entry| entry.booked.to_string())),
            or_empty(statement.and_then(|entry| entry.valued).map(|date| date.to_string())),
            harmless(or_empty(references)),
            harmless(or_empty(statement.map(|entry| entry.text.clone()))),
            or_empty(statement.map(|entry| entry.place.to_string())),
            harmless(or_empty(ledger.map(|entry| entry.account.clone()))),
            or_empty(ledger.map(|entry| entry.kind.clone())),
            harmless(or_empty(ledger.and_then(|entry| entry.reference.clone()))),
            self.id(),
            or_empty(ledger.map(|entry| entry.timestamp.clone())),
            or_empty(ledger.map(|entry| entry.sequence.to_string())),
        ]
    }
}

/// Payers write these texts: a spreadsheet must not take one for a formula.
fn harmless(text: String) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_no_formulas() {
        assert_eq!(harmless("=HYPERLINK(\"x\")".to_owned()), "'=HYPERLINK(\"x\")");
        assert_eq!(harmless("RE-1".to_owned()), "RE-1");
    }
}
