//! SWIFT MT940 customer statements, in the dialects that banks send: bare or in SWIFT blocks, `:86:` with the fields of German
//! banks (`?20EREF+...`) or with those of others (`/EREF/.../REMI/...`), lines wrapped anywhere.
//!
//! The parsers on crates.io refuse a whole file for one letter outside of SWIFT's alphabet, and know no lines to name in an error.

use chrono::{Datelike, NaiveDate};
use ledger::Currency;

use super::money::{DecimalMark, parse_amount};
use super::statement::{
    Balance, Money, Place, Statement, StatementEntry, StatementError, StatementFile, clean,
};

/// What a bank writes where there is no reference.
const NO_REFERENCE: [&str; 3] = ["NONREF", "NOTPROVIDED", "KEINE REFERENZ"];
/// Parts of the purpose, as German banks mark them within `?20` to `?29` and `?60` to `?63`.
const PURPOSE_CODES: [&str; 12] = [
    "EREF+", "KREF+", "MREF+", "CRED+", "DEBT+", "COAM+", "OAMT+", "SVWZ+", "ABWA+", "ABWE+", "IBAN+", "BIC+",
];
const PURPOSE_REFERENCES: [&str; 3] = ["EREF+", "KREF+", "MREF+"];
/// Parts that other banks mark with slashes and that are references.
const SLASH_REFERENCES: [&str; 5] = ["/EREF/", "/PREF/", "/IREF/", "/MARF/", "/KREF/"];
/// Years of two digits from here on are of the century before.
const CENTURY_TURNS_AT: i32 = 80;

/// True for what begins like a message of this kind.
pub(crate) fn is_mt940(text: &str) -> bool {
    let mut tags = text.lines().take(50).filter_map(tag_of).map(|(tag, _)| tag);
    text.trim_start().starts_with("{1:") || tags.any(|tag| tag == "20")
}

/// Reads every message of a file.
pub(crate) fn parse(text: &str) -> Result<StatementFile, StatementError> {
    let mut reader = Reader::default();
    for field in fields(text) {
        reader.take(&field)?;
    }
    reader.finish_message()?;
    let mut file = StatementFile { statements: reader.statements, warnings: Vec::new() };
    if file.statements.is_empty() {
        return Err(StatementError::new(
            Place { entry: 0, line: 1 },
            "the file has no MT940 message (:20: ... :62F:)",
        ));
    }
    file.note_oddities();
    Ok(file)
}

/// A field with the lines that continue it.
#[derive(Debug)]
struct Field<'text> {
    tag: &'text str,
    lines: Vec<&'text str>,
    line: u64,
}

/// `:61:rest` is tag `61` and `rest`.
fn tag_of(line: &str) -> Option<(&str, &str)> {
    let (tag, rest) = line.strip_prefix(':')?.split_once(':')?;
    let bytes = tag.as_bytes();
    let digits = bytes.len() >= 2 && bytes[..2].iter().all(u8::is_ascii_digit);
    let letter = match bytes.len() {
        2 => true,
        3 => bytes[2].is_ascii_uppercase(),
        _ => false,
    };
    (digits && letter).then_some((tag, rest))
}

/// Cuts the text into fields. What stands between messages (SWIFT's blocks, headings of banks) belongs to none.
fn fields(text: &str) -> Vec<Field<'_>> {
    let mut fields: Vec<Field> = Vec::new();
    let mut within = false;
    for (index, line) in text.lines().enumerate() {
        // `{4:` may stand before the first field on its line.
        let line = line.trim_end_matches('\r').rsplit("{4:").next().unwrap_or(line);
        let ends = line.starts_with('-') && matches!(line.trim_end(), "-" | "-}")
            || line.starts_with("-}")
            || line.starts_with("{1:");
        if let Some((tag, rest)) = tag_of(line) {
            fields.push(Field { tag, lines: vec![rest], line: index as u64 + 1 });
            within = true;
        } else if ends {
            within = false;
        } else if let (true, Some(field)) = (within, fields.last_mut()) {
            field.lines.push(line);
        }
    }
    fields
}

/// The message that is being read.
#[derive(Default)]
struct Reader {
    statements: Vec<Statement>,
    message: Option<Message>,
    entries: usize,
}

#[derive(Default)]
struct Message {
    statement: Statement,
    line: u64,
    /// The next `:86:` tells more about the last entry.
    entry_is_open: bool,
}

impl Reader {
    fn take(&mut self, field: &Field) -> Result<(), StatementError> {
        let at = Place { entry: 0, line: field.line };
        if field.tag == "20" {
            self.finish_message()?;
            let id = clean(field.lines[0]);
            let statement = Statement { id, ..Statement::default() };
            self.message = Some(Message { statement, line: field.line, entry_is_open: false });
            return Ok(());
        }
        let Some(message) = &mut self.message else {
            return Err(StatementError::new(at, format!(":{}: stands before the first :20:", field.tag)));
        };
        match field.tag {
            "25" | "25P" => message.statement.account = clean(field.lines[0]),
            "28" | "28C" => {
                let number = clean(field.lines[0]);
                message.statement.id = format!("{} {number}", message.statement.id).trim().to_owned();
            }
            "60F" | "60M" => message.statement.opening = Some(balance(field, at)?),
            "61" => {
                self.entries += 1;
                let place = Place { entry: self.entries, line: field.line };
                let Some(opening) = message.statement.opening else {
                    return Err(StatementError::new(
                        place,
                        ":61: stands before :60F:, which tells the currency",
                    ));
                };
                message.statement.entries.push(entry(field, place, opening.money.currency)?);
            }
            "86" if message.entry_is_open => {
                let entry = message.statement.entries.last_mut().expect("an entry was just read");
                add_information(entry, &field.lines);
            }
            "62F" | "62M" => message.statement.closing = Some(balance(field, at)?),
            "34F" | "90D" | "90C" => {
                let why =
                    "this is an interim report (MT942), whose entries may change; give the MT940 of the day";
                return Err(StatementError::new(at, why));
            }
            _ => {}
        }
        message.entry_is_open = field.tag == "61";
        Ok(())
    }

    fn finish_message(&mut self) -> Result<(), StatementError> {
        let Some(Message { statement, line, .. }) = self.message.take() else { return Ok(()) };
        for (balance, tag) in [(statement.opening, ":60F:"), (statement.closing, ":62F:")] {
            if balance.is_none() {
                let why = format!("the message that begins here has no balance {tag}: is the file cut off?");
                return Err(StatementError::new(Place { entry: 0, line }, why));
            }
        }
        self.statements.push(statement);
        Ok(())
    }
}

/// `C260131EUR1234,56`
fn balance(field: &Field, at: Place) -> Result<Balance, StatementError> {
    let wrong = |why: String| StatementError::new(at, format!(":{}: {why}", field.tag));
    let text = field.lines[0].trim();
    let example = || wrong(format!("must be like C260131EUR1234,56, it is {text:?}"));
    let (mark, rest) = text.split_at_checked(1).ok_or_else(example)?;
    let (date, rest) = rest.split_at_checked(6).ok_or_else(example)?;
    let (currency, amount) = rest.split_at_checked(3).ok_or_else(example)?;
    let date = short_date(date).ok_or_else(example)?;
    let currency =
        Currency::parse(currency).ok_or_else(|| wrong(format!("knows no currency {currency:?}")))?;
    let amount = unsigned_amount(amount, currency).map_err(wrong)?;
    let minor_units = match mark {
        "C" => amount,
        "D" => -amount,
        _ => return Err(example()),
    };
    Ok(Balance { date, money: Money { currency, minor_units } })
}

fn unsigned_amount(text: &str, currency: Currency) -> Result<i64, String> {
    if !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b',') {
        return Err(format!("amount {text:?} must be digits with a comma"));
    }
    parse_amount(text, DecimalMark::Comma, currency)
}

/// `YYMMDD`
fn short_date(text: &str) -> Option<NaiveDate> {
    if text.len() != 6 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = |at: usize| text[at..at + 2].parse::<u32>().ok();
    let year = i32::try_from(number(0)?).ok()?;
    let century = if year < CENTURY_TURNS_AT { 2000 } else { 1900 };
    NaiveDate::from_ymd_opt(century + year, number(2)?, number(4)?)
}

/// `MMDD` in the year that brings it closest to another date: statements cross the end of a year.
fn entry_date(text: &str, near: NaiveDate) -> Option<NaiveDate> {
    let (month, day) = (text[..2].parse().ok()?, text[2..].parse().ok()?);
    let candidates =
        (near.year() - 1..=near.year() + 1).filter_map(|year| NaiveDate::from_ymd_opt(year, month, day));
    candidates.min_by_key(|date| (*date - near).num_days().abs())
}

/// `2601310131CR1234,56NTRFcustomer reference//bank reference`, and details on the next line.
fn entry(field: &Field, place: Place, currency: Currency) -> Result<StatementEntry, StatementError> {
    let wrong = |why: String| StatementError::new(place, format!(":61: {why}"));
    let text = field.lines[0].trim_end();
    let example =
        || wrong(format!("must be like 2601310131C1234,56NTRFreference//bank reference, it is {text:?}"));
    let (date, rest) = text.split_at_checked(6).ok_or_else(example)?;
    let value_date = short_date(date).ok_or_else(example)?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (booked, rest) = match (digits, rest.split_at_checked(4)) {
        (0, _) => (value_date, rest),
        (4, Some((day, rest))) => (entry_date(day, value_date).ok_or_else(example)?, rest),
        _ => return Err(example()),
    };
    let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
    let (mark, rest) = rest.split_at(letters);
    // After the mark, the third letter of the currency may stand.
    let (is_credit, is_reversal) = match mark {
        "C" => (true, false),
        "D" => (false, false),
        // Taking back a credit takes money away, taking back a debit brings it.
        _ if mark.starts_with("RC") && mark.len() <= 3 => (false, true),
        _ if mark.starts_with("RD") && mark.len() <= 3 => (true, true),
        _ if mark.starts_with('C') && mark.len() == 2 => (true, false),
        _ if mark.starts_with('D') && mark.len() == 2 => (false, false),
        _ => return Err(wrong(format!("the mark {mark:?} is none of C, D, RC, RD"))),
    };
    let amount_size = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b',').count();
    let (amount, rest) = rest.split_at(amount_size);
    let amount = unsigned_amount(amount, currency).map_err(wrong)?;
    // The kind of transaction, which says nothing that is needed here.
    let is_kind = |kind: &str| {
        kind.starts_with(['N', 'F', 'S']) && kind.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    let (_, references) = rest.split_at_checked(4).filter(|(kind, _)| is_kind(kind)).ok_or_else(example)?;
    let mut entry = StatementEntry {
        place,
        booked,
        valued: (value_date != booked).then_some(value_date),
        money: Money { currency, minor_units: if is_credit { amount } else { -amount } },
        references: Vec::new(),
        text: clean(&field.lines[1..].join(" ")),
        is_reversal,
    };
    let (customer, bank) = references.split_once("//").unwrap_or((references, ""));
    add_reference(&mut entry, customer);
    add_reference(&mut entry, bank);
    Ok(entry)
}

fn add_reference(entry: &mut StatementEntry, reference: &str) {
    let reference = clean(reference);
    let is_none = reference.is_empty() || NO_REFERENCE.contains(&reference.as_str());
    if !is_none && !entry.references.contains(&reference) {
        entry.references.push(reference);
    }
}

fn add_text(entry: &mut StatementEntry, text: &str) {
    let text = clean(text);
    if !text.is_empty() {
        entry.text = if entry.text.is_empty() { text } else { format!("{} {text}", entry.text) };
    }
}

/// What `:86:` tells about an entry.
fn add_information(entry: &mut StatementEntry, lines: &[&str]) {
    let Some(subfields) = subfields(lines) else {
        // A reference may be broken over lines, of which none says whether a space was there.
        let joined = lines.concat();
        for code in SLASH_REFERENCES {
            if let Some((_, rest)) = joined.split_once(code) {
                add_reference(entry, rest.split('/').next().unwrap_or(rest));
            }
        }
        let parts = purpose_parts(lines.iter().copied());
        parts.iter().for_each(|(code, text)| add_purpose_reference(entry, code, text));
        return add_text(entry, &lines.join(" "));
    };
    let purpose = subfields.iter().filter(|(code, _)| matches!(code, 20..=29 | 60..=63));
    for (code, text) in purpose_parts(purpose.map(|(_, text)| text.as_str())) {
        add_purpose_reference(entry, code, &text);
        if matches!(code, "SVWZ+" | "") {
            add_text(entry, &text);
        }
    }
    let others = subfields.iter().filter(|(code, _)| matches!(code, 0 | 32 | 33));
    others.for_each(|(_, text)| add_text(entry, text));
}

fn add_purpose_reference(entry: &mut StatementEntry, code: &str, text: &str) {
    if PURPOSE_REFERENCES.contains(&code) {
        add_reference(entry, text);
    }
}

/// `166?00GUTSCHRIFT?20EREF+...`: a code of three digits, then subfields, whose mark is whatever letter comes first.
fn subfields(lines: &[&str]) -> Option<Vec<(u8, String)>> {
    let joined: String = lines.concat();
    let code = joined.bytes().take_while(u8::is_ascii_digit).count();
    let mut rest = joined.get(3..).filter(|_| code == 3)?;
    let mark = rest.chars().next().filter(|mark| mark.is_ascii_punctuation())?;
    let begins = |text: &str| -> Option<u8> {
        let digits = text.strip_prefix(mark)?.get(..2)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let mut subfields = Vec::new();
    while let Some(code) = begins(rest) {
        let text = &rest[mark.len_utf8() + 2..];
        let end = text.match_indices(mark).map(|(at, _)| at).find(|at| begins(&text[*at..]).is_some());
        let (text, after) = text.split_at(end.unwrap_or(text.len()));
        subfields.push((code, text.to_owned()));
        rest = after;
    }
    (!subfields.is_empty()).then_some(subfields)
}

/// Puts the purpose together and cuts it at its marks, which stand at the beginning of a chunk or after a space. What comes before
/// the first has none. A chunk without a mark goes on with what was before it, without a space.
fn purpose_parts<'text>(chunks: impl Iterator<Item = &'text str>) -> Vec<(&'static str, String)> {
    let mut parts: Vec<(&'static str, String)> = vec![("", String::new())];
    for chunk in chunks {
        let mut marks: Vec<(usize, &'static str)> = PURPOSE_CODES
            .iter()
            .flat_map(|code| chunk.match_indices(code).map(move |(at, _)| (at, *code)))
            .filter(|(at, _)| *at == 0 || chunk[..*at].ends_with(' '))
            .collect();
        marks.sort_unstable();
        let first = marks.first().map_or(chunk.len(), |(at, _)| *at);
        parts.last_mut().expect("one is there from the start").1.push_str(&chunk[..first]);
        for (index, (at, code)) in marks.iter().enumerate() {
            let end = marks.get(index + 1).map_or(chunk.len(), |(next, _)| *next);
            parts.push((code, chunk[at + code.len()..end].to_owned()));
        }
    }
    parts.retain(|(_, text)| !text.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPARKASSE: &str = "\
:20:STARTUMSE\r
:25:50010517/0648489890\r
:28C:00001/001\r
:60F:C251231EUR1000,00\r
:61:2601020102CR100,00N062NONREF\r
:86:166?00SEPA-UEBERWEISUNG?109310?20EREF+01890d9e3c1b7c5f9d6e0b?\r
216f0f0c9a11?22SVWZ+Einzahlung f?23uer Müller & Söhne?30GENODEF1\r
?31DE123?32MUELLER GMBH\r
:61:2512311231RC20,5NRTI1234//BANK77\r
/OCMT/EUR20,50/\r
:61:2601031231DR0,01NMSCRE-17\r
:86:Gebuehr ohne Struktur\r
:62F:C260103EUR1079,49\r
:64:C260103EUR1079,49\r
:86:Text zum Auszug\r
-\r
";
    /// As SWIFT transmits it, with headings of a bank between two messages and slashes in `:86:`.
    const SWIFT: &str = "\
{1:F01INGBNL2AXXXX0000000000}{2:O9400000000000INGBNL2AXXXX00000000000000000000N}{4:
:20:P260102000000001
:25:NL69INGB0123456789EUR
:28C:00000
:60F:D260101EUR10,00
:61:2601020102C5,00NTRFEREF//26002123456789
/TRCD/00100/
:86:/EREF/ORDER-2026/0001 X//CNTP/NL32INGB0000012345/INGBNL2A/ING BANK//REMI/USTD//SAVING
S/
:62F:D260102EUR5,00
-}
0000 01INGBNL2AXXXX00001
:20:P260103000000001
:25:NL69INGB0123456789EUR
:28C:00000
:60M:D260102EUR5,00
:61:260103RD1,NTRFNONREF
:62M:D260103EUR4,00
-}{5:}
";

    fn shown(entry: &StatementEntry) -> (String, i64, bool, &[String], &str) {
        let money = entry.money.minor_units;
        (entry.booked.to_string(), money, entry.is_reversal, &entry.references, &entry.text)
    }

    #[test]
    fn a_german_bank() {
        let file = parse(SPARKASSE).expect("it is read");
        let [statement] = &file.statements[..] else { panic!("{file:?}") };
        assert_eq!(
            (statement.id.as_str(), statement.account.as_str()),
            ("STARTUMSE 00001/001", "50010517/0648489890")
        );
        let rows: Vec<_> = statement.entries.iter().map(shown).collect();
        let references = ["01890d9e3c1b7c5f9d6e0b6f0f0c9a11".to_owned()];
        let returned = ["1234".to_owned(), "BANK77".to_owned()];
        let fee = ["RE-17".to_owned()];
        let text = "Einzahlung fuer Müller & Söhne SEPA-UEBERWEISUNG MUELLER GMBH";
        assert_eq!(rows[0], ("2026-01-02".into(), 10_000, false, &references[..], text));
        assert_eq!(rows[1], ("2025-12-31".into(), -2050, true, &returned[..], "/OCMT/EUR20,50/"));
        // The booking date is in the year before the value date.
        assert_eq!(rows[2], ("2025-12-31".into(), -1, false, &fee[..], "Gebuehr ohne Struktur"));
        assert_eq!(statement.entries[2].place, Place { entry: 3, line: 11 });
        assert!(statement.check().expect("both balances").holds());
        assert_eq!(file.warnings, Vec::<String>::new());
    }

    #[test]
    fn swift_blocks_and_two_messages() {
        let file = parse(SWIFT).expect("it is read");
        let [first, second] = &file.statements[..] else { panic!("{file:?}") };
        let entry = &first.entries[0];
        assert_eq!(entry.references, ["EREF", "26002123456789", "ORDER-2026"]);
        assert!(entry.text.contains("SAVING S/"), "{}", entry.text);
        assert_eq!(shown(&second.entries[0]), ("2026-01-03".into(), 100, true, &[][..], ""));
        for statement in [first, second] {
            assert!(statement.check().expect("both balances").holds());
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let rows = [
            ("C251231EUR1000,00", "X251231EUR1000,00", "line 4: :60F: must be like"),
            ("C251231EUR1000,00", "C251331EUR1000,00", "line 4: :60F: must be like"),
            ("C251231EUR1000,00", "C251231EUX1000,00", "line 4: :60F: knows no currency \"EUX\""),
            ("CR100,00N062", "CR100.00N062", "entry 1, line 5: :61:"),
            ("CR100,00N062", "X100,00N062", "entry 1, line 5: :61: the mark \"X\""),
            ("CR100,00N062", "CR100,005N062", "entry 1, line 5: :61: amount \"100,005\" has more digits"),
            ("2601020102CR", "2601320102CR", "entry 1, line 5: :61: must be like"),
            ("2601020102CR", "2601021302CR", "entry 1, line 5: :61: must be like"),
            (":62F:C260103EUR1079,49", "", "line 1: the message that begins here has no balance :62F:"),
            (":60F:C251231EUR1000,00", "", "entry 1, line 5: :61: stands before :60F:"),
            (":20:STARTUMSE", "", "line 2: :25: stands before the first :20:"),
            (":28C:", ":34F:", "line 3: this is an interim report (MT942)"),
        ];
        for (from, to, expected) in rows {
            assert!(SPARKASSE.contains(from), "{from}");
            let error = parse(&SPARKASSE.replacen(from, to, 1)).expect_err(expected).to_string();
            assert!(error.starts_with(expected), "{from} -> {to}: {error}");
        }
        assert!(parse("").is_err());
    }

    #[test]
    fn a_statement_that_lacks_an_entry_says_so() {
        let file = parse(&SPARKASSE.replace("EUR1079,49", "EUR1080,49")).expect("it is read");
        assert!(file.warnings[0].contains("1.00 is missing"), "{:?}", file.warnings);
    }

    #[test]
    fn no_damage_makes_it_panic_or_lose_an_entry_in_silence() {
        for seed in 0..20_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let whole = if seed % 2 == 0 { SPARKASSE } else { SWIFT };
            let text = crate::reconcile::damage::damaged(whole, &mut random);
            // What is read at all has as many entries as fields that begin one.
            if let Ok(file) = parse(&text) {
                let read: usize = file.statements.iter().map(|statement| statement.entries.len()).sum();
                let told = fields(&text).iter().filter(|field| field.tag == "61").count();
                assert_eq!(read, told, "seed {seed}: {text:?}");
            }
        }
    }
}
