//! Statements as CSV: every bank has its own columns, so the reader is told which column is what, and guesses nothing about numbers.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use csv::{ReaderBuilder, StringRecord};
use ledger::Currency;

use super::money::{DecimalMark, parse_amount};
use super::statement::{Money, Place, Statement, StatementEntry, StatementError, StatementFile, clean};

/// Lines in which the headings are looked for; banks put addresses and balances before them.
const HEADING_LINES_MAX: usize = 100;
const DELIMITERS: [u8; 4] = [b';', b',', b'\t', b'|'];
/// Dates that cannot be read in two ways.
const DATE_FORMATS: [&str; 4] = ["%Y-%m-%d", "%d.%m.%Y", "%d.%m.%y", "%Y/%m/%d"];

/// What a column is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Date,
    ValueDate,
    /// With its sign, unless there is a column `Sign`.
    Amount,
    /// What came in, or empty.
    Credit,
    /// What went out, or empty.
    Debit,
    /// `C` or `D`, `S` or `H`, ...
    Sign,
    Currency,
    Reference,
    Description,
}

const ROLES: [(&str, Role); 9] = [
    ("date", Role::Date),
    ("value-date", Role::ValueDate),
    ("amount", Role::Amount),
    ("credit", Role::Credit),
    ("debit", Role::Debit),
    ("sign", Role::Sign),
    ("currency", Role::Currency),
    ("reference", Role::Reference),
    ("description", Role::Description),
];

/// Words for money that comes in, and for money that goes out, in a column `sign`; compared without case.
const CREDIT_WORDS: [&str; 7] = ["C", "CR", "CRDT", "CREDIT", "H", "HABEN", "+"];
const DEBIT_WORDS: [&str; 9] = ["D", "DR", "DB", "DBIT", "DEBIT", "S", "SOLL", "-", "\u{2212}"];

/// Which columns are what. References and descriptions may be in several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Columns(Vec<Column>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Column {
    role: Role,
    /// Its heading, or `#3` for the third.
    heading: String,
    is_required: bool,
}

impl Columns {
    /// Reads `date=Buchungstag,amount=Betrag,...`.
    pub(crate) fn parse(text: &str) -> Result<Columns, String> {
        let mut columns: Vec<Column> = Vec::new();
        for pair in text.split(',') {
            let (name, heading) =
                pair.split_once('=').ok_or_else(|| format!("{pair:?} is not ROLE=COLUMN"))?;
            let (name, heading) = (name.trim(), heading.trim().to_owned());
            let known = || ROLES.map(|(name, _)| name).join(", ");
            let (_, role) = ROLES
                .into_iter()
                .find(|(other, _)| *other == name)
                .ok_or_else(|| format!("{name:?} is none of {}", known()))?;
            let repeats = matches!(role, Role::Reference | Role::Description);
            if !repeats && columns.iter().any(|column| column.role == role) {
                return Err(format!("{name} is given twice"));
            }
            if heading.is_empty() {
                return Err(format!("{name} names no column"));
            }
            columns.push(Column { role, heading, is_required: true });
        }
        let has = |role| columns.iter().any(|column| column.role == role);
        if !has(Role::Date) {
            return Err("date=COLUMN is missing".to_owned());
        }
        let split = has(Role::Credit) && has(Role::Debit);
        if has(Role::Amount) == split || has(Role::Credit) != has(Role::Debit) || (split && has(Role::Sign)) {
            return Err("amount=COLUMN is needed, or debit=COLUMN and credit=COLUMN".to_owned());
        }
        Ok(Columns(columns))
    }
}

impl Default for Columns {
    fn default() -> Columns {
        let columns = [
            (Role::Date, "date"),
            (Role::Amount, "amount"),
            (Role::Currency, "currency"),
            (Role::Reference, "reference"),
            (Role::Description, "description"),
        ];
        let column = |(role, heading): (Role, &str)| Column {
            role,
            heading: heading.to_owned(),
            is_required: matches!(role, Role::Date | Role::Amount),
        };
        Columns(columns.into_iter().map(column).collect())
    }
}

/// What a signed amount means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Sign {
    /// What comes in is positive
    CreditPositive,
    /// What goes out is positive, as in the statements of cards
    DebitPositive,
}

/// How a CSV is written.
#[derive(Debug, Clone)]
pub(crate) struct CsvOptions {
    pub(crate) columns: Columns,
    /// `None`: whichever the headings have.
    pub(crate) delimiter: Option<u8>,
    pub(crate) mark: DecimalMark,
    /// `None`: one of those that cannot be read in two ways.
    pub(crate) date_format: Option<String>,
    /// Where there is no column for it.
    pub(crate) currency: Option<Currency>,
    pub(crate) sign: Sign,
    /// Lines at the end that are no entries.
    pub(crate) footer_lines: usize,
}

/// Where each role stands in a row.
struct Layout {
    places: BTreeMap<Role, Vec<usize>>,
    width: usize,
}

/// Reads the file. The headings may come after other lines.
pub(crate) fn parse(text: &str, options: &CsvOptions) -> Result<StatementFile, StatementError> {
    let (delimiter, heading) = find_heading(text, options)?;
    let body = &text[heading.end..];
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        .from_reader(body.as_bytes());
    let mut rows = Vec::new();
    for row in reader.records() {
        let row = row.map_err(|error| {
            let line = error.position().map_or(0, |position| position.line());
            StatementError::new(Place { entry: 0, line: heading.lines + line }, format!("no CSV: {error}"))
        })?;
        if row.iter().any(|field| !field.trim().is_empty()) {
            rows.push(row);
        }
    }
    rows.truncate(rows.len().saturating_sub(options.footer_lines));
    let mut statement = Statement::default();
    for (index, row) in rows.iter().enumerate() {
        let line = heading.lines + row.position().map_or(0, |position| line_of(position, body));
        statement.entries.push(entry(row, Place { entry: index + 1, line }, &heading.layout, options)?);
    }
    Ok(StatementFile { statements: vec![statement], warnings: Vec::new() })
}

/// The line of a row: the reader's position is before the empty lines that it passed over.
fn line_of(position: &csv::Position, body: &str) -> u64 {
    let start = usize::try_from(position.byte()).unwrap_or(usize::MAX);
    let rest = body.as_bytes().get(start..).unwrap_or_default();
    let empty = rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n'));
    position.line() + empty.filter(|byte| **byte == b'\n').count() as u64
}

struct Heading {
    layout: Layout,
    /// Bytes and lines up to the first entry.
    end: usize,
    lines: u64,
}

/// The first line that has every column, with the delimiter by which it has them.
fn find_heading(text: &str, options: &CsvOptions) -> Result<(u8, Heading), StatementError> {
    let delimiters = options.delimiter.map_or(DELIMITERS.to_vec(), |delimiter| vec![delimiter]);
    let Columns(columns) = &options.columns;
    if columns.iter().all(|column| number_of(&column.heading).is_some()) {
        return Ok(without_heading(text, &delimiters, columns));
    }
    let mut end = 0;
    let mut nearest: Option<(usize, u64, Vec<&str>)> = None;
    for (index, line) in text.split_inclusive('\n').take(HEADING_LINES_MAX).enumerate() {
        end += line.len();
        for delimiter in &delimiters {
            let names = split_heading(line, *delimiter);
            let (places, missing) = places_of(columns, &names);
            if missing.is_empty() {
                let layout = Layout { places, width: names.len() };
                return Ok((*delimiter, Heading { layout, end, lines: index as u64 + 1 }));
            }
            if nearest.as_ref().is_none_or(|(fewest, ..)| missing.len() < *fewest) {
                nearest = Some((missing.len(), index as u64 + 1, missing));
            }
        }
    }
    let (_, line, missing) = nearest.unwrap_or_default();
    let why = format!(
        "no line has all columns; here the column {missing:?} is missing. Say which column is what with --columns \
         date=...,amount=...,currency=...,reference=...,description=..."
    );
    Err(StatementError::new(Place { entry: 0, line }, why))
}

/// `#3` is the third column.
fn number_of(heading: &str) -> Option<usize> {
    heading.strip_prefix('#')?.parse::<usize>().ok()?.checked_sub(1)
}

/// All columns are numbers: the first line is an entry already, and has the delimiter that occurs most.
fn without_heading(text: &str, delimiters: &[u8], columns: &[Column]) -> (u8, Heading) {
    let first = text.lines().next().unwrap_or("");
    let count = |delimiter: &&u8| first.bytes().filter(|byte| byte == *delimiter).count();
    // Of several that occur as often, the first.
    let delimiter = *delimiters.iter().rev().max_by_key(count).expect("there is one at least");
    let (places, _) = places_of(columns, &[]);
    let width = places.values().flatten().max().map_or(0, |last| last + 1);
    (delimiter, Heading { layout: Layout { places, width }, end: 0, lines: 0 })
}

fn split_heading(line: &str, delimiter: u8) -> Vec<String> {
    let mut reader =
        ReaderBuilder::new().delimiter(delimiter).has_headers(false).from_reader(line.as_bytes());
    let row = reader.records().next().and_then(Result::ok).unwrap_or_default();
    row.iter().map(|name| name.trim().to_owned()).collect()
}

/// Where the columns are, and which are not.
fn places_of<'columns>(
    columns: &'columns [Column],
    names: &[String],
) -> (BTreeMap<Role, Vec<usize>>, Vec<&'columns str>) {
    let mut places: BTreeMap<Role, Vec<usize>> = BTreeMap::new();
    let mut missing = Vec::new();
    for Column { role, heading, is_required } in columns {
        let named = || names.iter().position(|name| name.to_lowercase() == heading.to_lowercase());
        match number_of(heading).or_else(named) {
            Some(place) => places.entry(*role).or_default().push(place),
            None if *is_required => missing.push(heading.as_str()),
            None => {}
        }
    }
    (places, missing)
}

/// A row by what its columns are.
struct Row<'row> {
    record: &'row StringRecord,
    layout: &'row Layout,
}

impl<'row> Row<'row> {
    fn all(&self, role: Role) -> impl Iterator<Item = &'row str> {
        let places = self.layout.places.get(&role).map_or(&[][..], Vec::as_slice);
        places
            .iter()
            .map(|place| self.record.get(*place).unwrap_or("").trim())
            .filter(|text| !text.is_empty())
    }

    fn text(&self, role: Role) -> &'row str {
        self.all(role).next().unwrap_or("")
    }
}

fn entry(
    record: &StringRecord,
    place: Place,
    layout: &Layout,
    options: &CsvOptions,
) -> Result<StatementEntry, StatementError> {
    let wrong = |why: String| StatementError::new(place, why);
    if record.len() < layout.width {
        let why = format!(
            "{} columns in place of {}; lines at the end that are no entries are left out with --footer-lines",
            record.len(),
            layout.width
        );
        return Err(wrong(why));
    }
    let row = Row { record, layout };
    let booked = parse_date(row.text(Role::Date), options).map_err(wrong)?;
    let valued = match row.text(Role::ValueDate) {
        "" => None,
        text => Some(parse_date(text, options).map_err(wrong)?),
    };
    let currency = match row.text(Role::Currency) {
        "" => options
            .currency
            .ok_or_else(|| wrong("no currency; name its column, or say --currency EUR".to_owned()))?,
        code => Currency::parse(&code.to_ascii_uppercase())
            .ok_or_else(|| wrong(format!("currency {code:?} is none of ISO 4217")))?,
    };
    let minor_units = signed_amount(&row, currency, options).map_err(wrong)?;
    Ok(StatementEntry {
        place,
        booked,
        valued: valued.filter(|valued| *valued != booked),
        money: Money { currency, minor_units },
        references: row.all(Role::Reference).map(clean).collect(),
        text: row.all(Role::Description).map(clean).collect::<Vec<_>>().join(" "),
        is_reversal: false,
    })
}

fn parse_date(text: &str, options: &CsvOptions) -> Result<NaiveDate, String> {
    if let Some(format) = &options.date_format {
        return NaiveDate::parse_from_str(text, format)
            .map_err(|_| format!("date {text:?} is not like --date-format {format}"));
    }
    // A time of the day may follow.
    let day = text.split([' ', 'T']).next().unwrap_or("");
    // `%Y` alone would take a year of two digits as one of the first century.
    let year_of_four = |format: &&&str| !format.contains("%Y") || day.len() == 10;
    let date = DATE_FORMATS
        .iter()
        .filter(year_of_four)
        .find_map(|format| NaiveDate::parse_from_str(day, format).ok());
    date.ok_or_else(|| {
        format!("date {text:?} is not like 2026-01-31 or 31.01.2026; say how it is written: --date-format %d/%m/%Y")
    })
}

fn signed_amount(row: &Row, currency: Currency, options: &CsvOptions) -> Result<i64, String> {
    let read = |text: &str| parse_amount(text, options.mark, currency);
    let amount = match (row.text(Role::Amount), row.text(Role::Credit), row.text(Role::Debit)) {
        ("", "", "") => return Err("no amount".to_owned()),
        ("", credit, "") => read(credit)?,
        // Some banks write what goes out with a minus in its own column too.
        ("", "", debit) => -read(debit)?.abs(),
        ("", credit, debit) => match (read(credit)?, read(debit)?) {
            (credit, 0) => credit,
            (0, debit) => -debit.abs(),
            _ => return Err(format!("both a credit {credit:?} and a debit {debit:?}")),
        },
        (amount, ..) if row.layout.places.contains_key(&Role::Sign) => {
            let word = row.text(Role::Sign).to_uppercase();
            let amount = read(amount)?;
            match word.as_str() {
                _ if amount < 0 => {
                    return Err(format!(
                        "the amount has a sign although there is a column for it ({word:?})"
                    ));
                }
                word if CREDIT_WORDS.contains(&word) => amount,
                word if DEBIT_WORDS.contains(&word) => -amount,
                _ => return Err(format!("sign {word:?} is none of {CREDIT_WORDS:?} or {DEBIT_WORDS:?}")),
            }
        }
        (amount, ..) => read(amount)?,
    };
    Ok(match options.sign {
        Sign::CreditPositive => amount,
        Sign::DebitPositive => -amount,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(columns: &str) -> CsvOptions {
        CsvOptions {
            columns: Columns::parse(columns).expect("they are right"),
            delimiter: None,
            mark: DecimalMark::Comma,
            date_format: None,
            currency: None,
            sign: Sign::CreditPositive,
            footer_lines: 0,
        }
    }

    const GERMAN: &str = "date=Buchungstag,value-date=Wertstellung,amount=Betrag,currency=Währung,\
                          reference=Kundenreferenz,description=Verwendungszweck,description=Auftraggeber";
    const BANK: &str = "\
Konto;DE12500105170648489890
Kontostand vom 31.01.2026;1.234,56 EUR

\"Buchungstag\";\"Wertstellung\";\"Auftraggeber\";\"Verwendungszweck\";\"Kundenreferenz\";\"Betrag\";\"Währung\"
02.01.2026;03.01.2026;Müller;\"Rechnung; Teil 1
und 2\";RE-1;1.100,00;EUR

05.01.26;05.01.2026;;Gebühr;;-0,50;eur
";

    #[test]
    fn a_german_bank() {
        let file = parse(BANK, &options(GERMAN)).expect("it is read");
        let entries = &file.statements[0].entries;
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].booked.to_string(), "2026-01-02");
        assert_eq!(entries[0].valued.map(|date| date.to_string()).as_deref(), Some("2026-01-03"));
        assert_eq!((entries[0].money.minor_units, entries[1].money.minor_units), (110_000, -50));
        assert_eq!(entries[0].references, ["RE-1"]);
        assert_eq!(entries[0].text, "Rechnung; Teil 1 und 2 Müller");
        assert_eq!(entries[1].place, Place { entry: 2, line: 8 });
    }

    #[test]
    fn conventions_for_signs() {
        let rows = [
            ("date=#1,amount=#2", Sign::CreditPositive, "2026-01-02;5,00", 500),
            ("date=#1,amount=#2", Sign::DebitPositive, "2026-01-02;5,00", -500),
            ("date=#1,amount=#2,sign=#3", Sign::CreditPositive, "2026-01-02;5,00;S", -500),
            ("date=#1,amount=#2,sign=#3", Sign::CreditPositive, "2026-01-02;5,00;haben", 500),
            ("date=#1,amount=#2,sign=#3", Sign::CreditPositive, "2026-01-02;5,00;DBIT", -500),
            ("date=#1,debit=#2,credit=#3", Sign::CreditPositive, "2026-01-02;5,00;", -500),
            ("date=#1,debit=#2,credit=#3", Sign::CreditPositive, "2026-01-02;-5,00;", -500),
            ("date=#1,debit=#2,credit=#3", Sign::CreditPositive, "2026-01-02;0,00;5,00", 500),
        ];
        for (columns, sign, line, expected) in rows {
            let euro = Currency::parse("EUR");
            let options = CsvOptions { sign, currency: euro, ..options(columns) };
            let file = parse(line, &options).expect(line);
            assert_eq!(file.statements[0].entries[0].money.minor_units, expected, "{columns} {line}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let rows = [
            ("1.100,00", "1.100.00", "entry 1, line 5: amount \"1.100.00\" is no number"),
            ("02.01.2026;03", "01/02/2026;03", "entry 1, line 5: date \"01/02/2026\" is not like"),
            ("02.01.2026;03", "31.02.2026;03", "entry 1, line 5: date \"31.02.2026\" is not like"),
            (";eur", ";eux", "entry 2, line 8: currency \"eux\" is none of ISO 4217"),
            (";eur", ";", "entry 2, line 8: no currency"),
            ("-0,50;eur", "-0,50", "entry 2, line 8: 6 columns in place of 7"),
            ("-0,50", "", "entry 2, line 8: no amount"),
            ("Betrag", "Umsatz", "line 4: no line has all columns; here the column [\"Betrag\"] is missing"),
        ];
        for (from, to, expected) in rows {
            assert!(BANK.contains(from), "{from}");
            let error = parse(&BANK.replacen(from, to, 1), &options(GERMAN)).expect_err(expected).to_string();
            assert!(error.starts_with(expected), "{from} -> {to}: {error}");
        }
    }

    #[test]
    fn a_footer_is_left_out_when_told() {
        let text = format!("{BANK}Kontostand;31.01.2026;1.234,56\n");
        let error = parse(&text, &options(GERMAN)).expect_err("a footer").to_string();
        assert!(error.contains("--footer-lines"), "{error}");
        let file = parse(&text, &CsvOptions { footer_lines: 1, ..options(GERMAN) }).expect("it is read");
        assert_eq!(file.statements[0].entries.len(), 2);
    }

    #[test]
    fn column_maps_that_make_no_sense_are_refused() {
        for (columns, why) in [
            ("date", "not ROLE=COLUMN"),
            ("date=a,amount=b,colour=c", "\"colour\" is none of date, value-date"),
            ("date=a,date=b,amount=c", "given twice"),
            ("amount=b", "date=COLUMN is missing"),
            ("date=a", "amount=COLUMN is needed"),
            ("date=a,credit=b", "amount=COLUMN is needed"),
            ("date=a,amount=b,credit=c,debit=d", "amount=COLUMN is needed"),
            ("date=,amount=b", "names no column"),
        ] {
            let error = Columns::parse(columns).expect_err(columns);
            assert!(error.contains(why), "{columns}: {error}");
        }
    }

    #[test]
    fn no_damage_makes_it_panic() {
        for seed in 0..1_500 {
            let mut random = fastrand::Rng::with_seed(seed);
            let text = crate::reconcile::damage::damaged(BANK, &mut random);
            let caught = std::panic::catch_unwind(|| drop(parse(&text, &options(GERMAN))));
            assert!(caught.is_ok(), "seed {seed}: {text:?}");
        }
    }
}
