//! The flags of `jigap reconcile`, and what they mean together.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use ledger::{Currency, Timestamp};

use super::csv_file::{Columns, CsvOptions, Sign};
use super::file::Format;
use super::money::DecimalMark;
use crate::cli::ClientSettings;

pub(crate) const HELP: &str = "\
A bank account of the business usually stands for the whole world outside: without --account, all \
deposits and withdrawals of the wallet are matched. A deposit must be a credit of the statement, a \
withdrawal a debit.

How entries are matched, one to one, each step with what the steps before it left:
  1. the transaction_id stands in a reference or in the text (with hyphens or without, broken over
     lines), amount and currency are the same
  2. the metadata `reference` is a reference or stands in the text (compared without spaces,
     punctuation and case), amount and currency are the same
  3. as 1 and 2 with another amount: DIFFERENT
  4. amount and currency are the same within --date-window days, and no other entry of either
     side could be meant: matched BY AMOUNT
What could be matched in several ways is AMBIGUOUS, and never guessed. The rest is MISSING on the \
other side. Ledger entries of the days around the statement may be matched but are not missing: \
they belong to another statement.

Entries of camt.053 that hold several payments are taken apart. Opening balance + entries must give \
the closing balance (camt.053, MT940).

Exit codes: 0 all matched; 9 anything different, ambiguous or missing, or balances that do not add \
up; 2 a wrong flag, or a file that is no statement; 3 no answer from the wallet.

Examples:
  jigap reconcile --statement january.xml
  jigap reconcile --statement umsaetze.sta --account alice --account bob --date-window 5
  jigap reconcile --statement umsaetze.csv --decimal-comma --output csv --columns \\
    date=Buchungstag,amount=Betrag,currency=W\u{e4}hrung,description=Verwendungszweck

For CSV, --columns maps date, value-date, amount, currency, reference and description (the last two \
also several times) to headings, or to #1, #2, ... where there are none. Lines before the headings \
are passed over. Signs: one signed amount (--sign says which way); or debit=Soll,credit=Haben in two \
columns; or sign=S/H, a column of C or D, CRDT or DBIT, H or S, + or -.";

/// `jigap reconcile`
#[derive(Debug, Args)]
pub(crate) struct ReconcileArguments {
    /// The bank's statement: CSV, ISO 20022 camt.053, SWIFT MT940
    #[arg(long, value_name = "FILE")]
    pub(crate) statement: PathBuf,
    /// Only the deposits and withdrawals of this account; may be given several times. Without it, or as @external: all of them
    #[arg(long = "account", value_name = "ACCOUNT")]
    pub(crate) accounts: Vec<String>,
    /// The kind of statement
    #[arg(long, value_enum, default_value_t = FormatChoice::Auto)]
    format: FormatChoice,
    /// How the file is encoded: utf-8, latin-1, ... [default: what the file says, else UTF-8 where it is, else windows-1252]
    #[arg(long, value_name = "NAME")]
    pub(crate) encoding: Option<String>,
    /// CSV: which column is what [default: date, amount, currency, reference, description by these names]
    #[arg(long, value_name = "ROLE=COLUMN,...", value_parser = Columns::parse)]
    columns: Option<Columns>,
    /// CSV: what stands between columns; \t for a tab [default: whichever of ; , tab | the headings have]
    #[arg(long, value_name = "LETTER", value_parser = delimiter)]
    delimiter: Option<u8>,
    /// CSV: amounts are written 1.234,56
    #[arg(long)]
    decimal_comma: bool,
    /// CSV: how dates are written, as for strftime: %d/%m/%Y [default: 2026-01-31, 31.01.2026, 31.01.26, 2026/01/31]
    #[arg(long, value_name = "FORMAT")]
    date_format: Option<String>,
    /// CSV: the currency where no column has it
    #[arg(long, value_parser = currency)]
    currency: Option<Currency>,
    /// CSV: what a positive amount is
    #[arg(long, value_enum, default_value_t = Sign::CreditPositive)]
    sign: Sign,
    /// CSV: how many lines at the end are no entries
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    footer_lines: usize,
    /// Match only by this metadata key, or only by transaction_id [default: transaction_id, then the key `reference`]
    #[arg(long, value_name = "KEY")]
    pub(crate) reference_key: Option<String>,
    /// How many days may lie between the ledger's day (UTC) and the bank's booking or value date
    #[arg(long, value_name = "DAYS", default_value_t = 3, value_parser = clap::value_parser!(u32).range(..=366))]
    pub(crate) date_window: u32,
    /// The ledger's entries from this time on, all of which must be in the statement [default: the statement's first day]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) since: Option<Timestamp>,
    /// The ledger's entries before this time [default: the end of the statement's last day]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) until: Option<Timestamp>,
    /// Leave the entries out that match
    #[arg(long)]
    pub(crate) differences_only: bool,
    /// How to print [default: table on a terminal, json elsewhere]
    #[arg(long, value_enum)]
    output: Option<OutputChoice>,
    #[command(flatten)]
    pub(crate) settings: ClientSettings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatChoice {
    /// By what is in the file
    Auto,
    Csv,
    Camt053,
    Mt940,
}

/// How a report is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputChoice {
    Table,
    Csv,
    Json,
}

impl ReconcileArguments {
    /// `None`: by what is in the file.
    pub(crate) fn format(&self) -> Option<Format> {
        match self.format {
            FormatChoice::Auto => None,
            FormatChoice::Csv => Some(Format::Csv),
            FormatChoice::Camt053 => Some(Format::Camt053),
            FormatChoice::Mt940 => Some(Format::Mt940),
        }
    }

    pub(crate) fn csv_options(&self) -> CsvOptions {
        CsvOptions {
            columns: self.columns.clone().unwrap_or_default(),
            delimiter: self.delimiter,
            mark: if self.decimal_comma { DecimalMark::Comma } else { DecimalMark::Point },
            date_format: self.date_format.clone(),
            currency: self.currency,
            sign: self.sign,
            footer_lines: self.footer_lines,
        }
    }

    pub(crate) fn output(&self) -> OutputChoice {
        use std::io::IsTerminal;
        let is_terminal = || std::io::stdout().is_terminal();
        let usual = || if is_terminal() { OutputChoice::Table } else { OutputChoice::Json };
        self.output.unwrap_or_else(usual)
    }
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"\\t" | b"tab" => Ok(b'\t'),
        [byte] if byte.is_ascii_graphic() || *byte == b'\t' => Ok(*byte),
        _ => Err("must be one letter, or \\t".to_owned()),
    }
}

fn currency(text: &str) -> Result<Currency, String> {
    Currency::parse(text).ok_or_else(|| "must be an ISO 4217 code such as EUR".to_owned())
}

fn time(text: &str) -> Result<Timestamp, String> {
    // A day is its beginning.
    let day = || api::parse_timestamp(&format!("{text}T00:00:00Z"));
    api::parse_timestamp(text)
        .or_else(day)
        .ok_or_else(|| "must be a time such as 2026-01-02T03:04:05Z, or a day".to_owned())
}
