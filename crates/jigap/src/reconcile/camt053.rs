//! ISO 20022 camt.053 (`BkToCstmrStmt`), every version since 001.02: elements are found by name, whatever their namespace.
//!
//! The crate for it on crates.io refuses entries with several payments, which is how banks book salaries and direct debits.

use chrono::NaiveDate;
use ledger::Currency;

use super::money::{DecimalMark, parse_amount};
use super::statement::{
    Balance, Money, Place, Statement, StatementEntry, StatementError, StatementFile, clean,
};
use super::xml::{Element, Step, Walker};

/// What a bank writes where there is no reference.
const NO_REFERENCE: [&str; 2] = ["NOTPROVIDED", "NONREF"];
/// Where references of a payment stand, besides `Refs`.
const REFERENCES: [&str; 3] =
    ["RmtInf/Strd/CdtrRefInf/Ref", "RmtInf/Strd/CdtrRefInf/CdtrRef", "RmtInf/Strd/RfrdDocInf/Nb"];
/// Where the text of a payment stands.
const TEXTS: [&str; 6] = [
    "RmtInf/Ustrd",
    "RmtInf/Strd/AddtlRmtInf",
    "RltdPties/Dbtr/Nm",
    "RltdPties/Dbtr/Pty/Nm",
    "RltdPties/Cdtr/Nm",
    "RltdPties/Cdtr/Pty/Nm",
];
/// Messages that are alike and no statement of booked entries.
const OTHERS: [(&str, &str); 2] = [
    (
        "BkToCstmrAcctRpt",
        "this is an interim report (camt.052), whose entries may change; give the camt.053 of the day",
    ),
    (
        "BkToCstmrDbtCdtNtfctn",
        "this is a notification (camt.054), which has no balances; give the camt.053 of the day",
    ),
];

/// Reads every statement of a document.
pub(crate) fn parse(text: &str) -> Result<StatementFile, StatementError> {
    let mut walker = Walker::new(text);
    let mut reading = Reading::default();
    let mut between = String::new();
    let mut is_statement = false;
    loop {
        between.clear();
        match walker.step(&mut between)? {
            Step::Over => break,
            Step::Begin(name) => {
                let line = walker.line();
                if let Some((_, why)) = OTHERS.iter().find(|(other, _)| *other == name) {
                    return Err(StatementError::new(Place { entry: 0, line }, why));
                }
                is_statement |= name == "BkToCstmrStmt";
                if name == "Stmt" {
                    reading.statement = Some(Statement::default());
                    reading.balances.clear();
                } else if reading.statement.is_some() {
                    let tree = walker.tree(name)?;
                    reading.take(&tree, line)?;
                }
            }
            Step::End(name) if name == "Stmt" => reading.finish_statement(),
            Step::End(_) => {}
        }
    }
    if !is_statement {
        let why = "the XML is no camt.053: it has no element BkToCstmrStmt";
        return Err(StatementError::new(Place { entry: 0, line: 1 }, why));
    }
    reading.file.note_oddities();
    Ok(reading.file)
}

#[derive(Default)]
struct Reading {
    file: StatementFile,
    statement: Option<Statement>,
    /// With their kinds: `OPBD`, `CLBD`, ...
    balances: Vec<(String, Balance)>,
    entries: usize,
}

impl Reading {
    /// A part of a statement.
    fn take(&mut self, part: &Element, line: u64) -> Result<(), StatementError> {
        let Some(statement) = &mut self.statement else { return Ok(()) };
        let place = Place { entry: 0, line };
        match part.name.as_str() {
            "Id" => statement.id = clean(&part.text),
            "FrToDt" => {
                let day = |path| day_of(part.text_at(path));
                statement.period = day("FrDtTm").zip(day("ToDtTm"));
            }
            "Acct" => {
                let iban = part.text_at("Id/IBAN");
                let other = part.text_at("Id/Othr/Id");
                statement.account = clean(if iban.is_empty() { other } else { iban });
            }
            "Bal" => {
                let kind = part.text_at("Tp/CdOrPrtry/Cd").to_owned();
                let money = money(part, part, place)?;
                let date = date(part.first("Dt"), place)?;
                self.balances.push((kind, Balance { date, money }));
            }
            "Ntry" => {
                self.entries += 1;
                let place = Place { entry: self.entries, line };
                let status = part.first("Sts").map_or("BOOK", |status| match status.text_at("Cd") {
                    "" => status.text.trim(),
                    code => code,
                });
                if status != "BOOK" {
                    self.file.warnings.push(format!("{place}: left out, it is not booked (status {status})"));
                    return Ok(());
                }
                statement.entries.extend(entries(part, place, &mut self.file.warnings)?);
            }
            _ => {}
        }
        Ok(())
    }

    fn finish_statement(&mut self) {
        let Some(mut statement) = self.statement.take() else { return };
        // German banks give the closing balance of the day before in place of the opening one; pages have interim ones.
        let first = |kinds: [&str; 3]| {
            kinds.iter().find_map(|kind| self.balances.iter().find(|(other, _)| other == kind))
        };
        let last = |kinds: [&str; 2]| {
            kinds.iter().find_map(|kind| self.balances.iter().rfind(|(other, _)| other == kind))
        };
        statement.opening = first(["OPBD", "PRCD", "ITBD"]).map(|(_, balance)| *balance);
        statement.closing = last(["CLBD", "ITBD"]).map(|(_, balance)| *balance);
        self.file.statements.push(statement);
    }
}

/// An amount of `at`, with the direction that `of` tells.
fn money(at: &Element, of: &Element, place: Place) -> Result<Money, StatementError> {
    let wrong = |why: String| StatementError::new(place, why);
    let amount = at.first("Amt").ok_or_else(|| wrong(format!("{} has no Amt", at.name)))?;
    let code = amount.currency.as_deref().unwrap_or("");
    let currency =
        Currency::parse(code).ok_or_else(|| wrong(format!("Amt has no known currency: {code:?}")))?;
    let text = amount.text.trim();
    if !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(wrong(format!(
            "Amt {text:?} is no amount such as 1234.56: CdtDbtInd tells the direction"
        )));
    }
    let minor_units = parse_amount(text, DecimalMark::Point, currency).map_err(wrong)?;
    match of.text_at("CdtDbtInd") {
        "CRDT" => Ok(Money { currency, minor_units }),
        "DBIT" => Ok(Money { currency, minor_units: -minor_units }),
        other => Err(wrong(format!("CdtDbtInd is neither CRDT nor DBIT: {other:?}"))),
    }
}

/// `<Dt>2026-01-31</Dt>` or `<DtTm>2026-01-31T10:00:00+01:00</DtTm>`
fn date(element: Option<&Element>, place: Place) -> Result<NaiveDate, StatementError> {
    let text = element.map_or("", |element| match element.text_at("Dt") {
        "" => element.text_at("DtTm"),
        date => date,
    });
    day_of(text)
        .ok_or_else(|| StatementError::new(place, format!("the date {text:?} is not like 2026-01-31")))
}

/// The day of a date or a time, as the bank names it.
fn day_of(text: &str) -> Option<NaiveDate> {
    let (day, rest) = text.split_at_checked(10)?;
    let is_day = rest.is_empty() || rest.starts_with(['T', 'Z', '+', '-']);
    is_day.then(|| NaiveDate::parse_from_str(day, "%Y-%m-%d").ok())?
}

/// An entry, taken apart into its payments where they add up to it.
fn entries(
    entry: &Element,
    place: Place,
    warnings: &mut Vec<String>,
) -> Result<Vec<StatementEntry>, StatementError> {
    let whole = whole_entry(entry, place)?;
    let payments = entry.all("NtryDtls/TxDtls");
    if let [] | [_] = payments[..] {
        let mut whole = whole;
        payments.into_iter().for_each(|payment| add_details(&mut whole, payment));
        return Ok(vec![whole]);
    }
    let parts: Vec<Option<Money>> = payments.iter().map(|payment| part(payment, entry, place)).collect();
    let sum: Option<i128> = parts
        .iter()
        .map(|part| {
            part.filter(|money| money.currency == whole.money.currency)
                .map(|money| i128::from(money.minor_units))
        })
        .sum();
    if sum != Some(whole.money.minor_units.into()) {
        let count = payments.len();
        warnings.push(format!(
            "{place}: taken as one, its {count} payments do not add up to {} {}",
            whole.money, whole.money.currency
        ));
        let mut whole = whole;
        payments.into_iter().for_each(|payment| add_details(&mut whole, payment));
        return Ok(vec![whole]);
    }
    let taken_apart = payments.into_iter().zip(parts).map(|(payment, money)| {
        let mut part = whole.clone();
        part.money = money.unwrap_or(part.money);
        add_details(&mut part, payment);
        part
    });
    Ok(taken_apart.collect())
}

fn whole_entry(entry: &Element, place: Place) -> Result<StatementEntry, StatementError> {
    let valued = entry.first("ValDt").map(|element| date(Some(element), place)).transpose()?;
    let booked = match (entry.first("BookgDt"), valued) {
        (None, Some(valued)) => valued,
        (booked, _) => date(booked, place)?,
    };
    let is_reversal = match entry.text_at("RvslInd") {
        "true" | "1" => true,
        "" | "false" | "0" => false,
        other => {
            return Err(StatementError::new(place, format!("RvslInd is neither true nor false: {other:?}")));
        }
    };
    let mut read = StatementEntry {
        place,
        booked,
        valued: valued.filter(|valued| *valued != booked),
        // Of a reversal too, the direction is that of this entry's money: the standard says so.
        money: money(entry, entry, place)?,
        references: Vec::new(),
        text: clean(entry.text_at("AddtlNtryInf")),
        is_reversal,
    };
    add_reference(&mut read, entry.text_at("NtryRef"));
    add_reference(&mut read, entry.text_at("AcctSvcrRef"));
    Ok(read)
}

/// The amount of one payment of an entry, in the newer and in the older place.
fn part(payment: &Element, entry: &Element, place: Place) -> Option<Money> {
    let direction = if payment.first("CdtDbtInd").is_some() { payment } else { entry };
    let holders = [Some(payment), payment.first("AmtDtls/TxAmt"), payment.first("AmtDtls/InstdAmt")];
    let holder = holders.into_iter().flatten().find(|holder| holder.first("Amt").is_some())?;
    money(holder, direction, place).ok()
}

fn add_details(entry: &mut StatementEntry, payment: &Element) {
    let references = payment.all("Refs").into_iter().flat_map(Element::leaves);
    // `Tp` tells what kind of reference stands beside it.
    let references = references.filter(|leaf| leaf.name != "Tp").map(|leaf| leaf.text.as_str());
    // The end-to-end id comes first: it is the one that the payer chose.
    let chosen = [payment.text_at("Refs/EndToEndId")];
    let elsewhere = REFERENCES.iter().flat_map(|path| payment.all(path)).map(|element| element.text.as_str());
    let found: Vec<&str> = chosen.into_iter().chain(references).chain(elsewhere).collect();
    let of_the_entry = std::mem::take(&mut entry.references);
    found.into_iter().for_each(|reference| add_reference(entry, reference));
    of_the_entry.iter().for_each(|reference| add_reference(entry, reference));
    let texts = TEXTS.iter().flat_map(|path| payment.all(path)).map(|element| clean(&element.text));
    let own = clean(payment.text_at("AddtlTxInf"));
    let all: Vec<String> = texts.chain([own]).filter(|text| !text.is_empty()).collect();
    let parts = all.iter().map(String::as_str).chain([entry.text.as_str()]).filter(|text| !text.is_empty());
    entry.text = parts.collect::<Vec<_>>().join(" ");
}

fn add_reference(entry: &mut StatementEntry, reference: &str) {
    let reference = clean(reference);
    let is_none = reference.is_empty() || NO_REFERENCE.contains(&reference.as_str());
    if !is_none && !entry.references.contains(&reference) {
        entry.references.push(reference);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As German banks send it: version 001.02, the closing balance of the day before, a batch of direct debits, a return.
    const OLD: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.02">
<BkToCstmrStmt><GrpHdr><MsgId>M1</MsgId></GrpHdr>
<Stmt><Id>2026-01</Id><CreDtTm>2026-02-01T04:00:00+01:00</CreDtTm>
<Acct><Id><IBAN>DE12500105170648489890</IBAN></Id><Ccy>EUR</Ccy></Acct>
<Bal><Tp><CdOrPrtry><Cd>PRCD</Cd></CdOrPrtry></Tp><Amt Ccy="EUR">100.00</Amt><CdtDbtInd>CRDT</CdtDbtInd><Dt><Dt>2025-12-31</Dt></Dt></Bal>
<Bal><Tp><CdOrPrtry><Cd>CLBD</Cd></CdOrPrtry></Tp><Amt Ccy="EUR">115.50</Amt><CdtDbtInd>CRDT</CdtDbtInd><Dt><Dt>2026-01-31</Dt></Dt></Bal>
<Ntry><Amt Ccy="EUR">30.00</Amt><CdtDbtInd>CRDT</CdtDbtInd><Sts>BOOK</Sts><BookgDt><Dt>2026-01-02</Dt></BookgDt><ValDt><Dt>2026-01-03</Dt></ValDt>
<AcctSvcrRef>BANK-1</AcctSvcrRef><NtryDtls><Btch><NbOfTxs>2</NbOfTxs></Btch>
<TxDtls><Refs><EndToEndId>RE-1</EndToEndId></Refs><AmtDtls><TxAmt><Amt Ccy="EUR">10.00</Amt></TxAmt></AmtDtls><RmtInf><Ustrd>M&#252;ller &amp; S&#xF6;hne</Ustrd><Ustrd>Teil 2</Ustrd></RmtInf></TxDtls>
<TxDtls><Refs><EndToEndId>NOTPROVIDED</EndToEndId><MndtId>MANDATE</MndtId></Refs><AmtDtls><TxAmt><Amt Ccy="EUR">20.00</Amt></TxAmt></AmtDtls></TxDtls>
</NtryDtls><AddtlNtryInf>Sammler</AddtlNtryInf></Ntry>
<Ntry><Amt Ccy="EUR">10.00</Amt><CdtDbtInd>DBIT</CdtDbtInd><RvslInd>true</RvslInd><Sts>BOOK</Sts><BookgDt><Dt>2026-01-05</Dt></BookgDt>
<NtryDtls><TxDtls><Refs><EndToEndId>RE-1</EndToEndId></Refs><RtrInf><Rsn><Cd>AC04</Cd></Rsn></RtrInf></TxDtls></NtryDtls></Ntry>
<Ntry><Amt Ccy="EUR">4.50</Amt><CdtDbtInd>DBIT</CdtDbtInd><Sts>BOOK</Sts><BookgDt><DtTm>2026-01-31T23:59:59+01:00</DtTm></BookgDt></Ntry>
<Ntry><Amt Ccy="EUR">9.00</Amt><CdtDbtInd>CRDT</CdtDbtInd><Sts>PDNG</Sts><BookgDt><Dt>2026-01-31</Dt></BookgDt></Ntry>
</Stmt></BkToCstmrStmt></Document>"#;
    /// Version 001.08 with a prefix, the period, status and names of the new kind, and amounts of payments in a new place.
    const NEW: &str = r#"<n:Document xmlns:n="urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"><n:BkToCstmrStmt><n:Stmt><n:Id>S-8</n:Id>
<n:FrToDt><n:FrDtTm>2026-01-01T00:00:00</n:FrDtTm><n:ToDtTm>2026-01-31T00:00:00</n:ToDtTm></n:FrToDt>
<n:Acct><n:Id><n:Othr><n:Id>123-456</n:Id></n:Othr></n:Id></n:Acct>
<n:Bal><n:Tp><n:CdOrPrtry><n:Cd>OPBD</n:Cd></n:CdOrPrtry></n:Tp><n:Amt Ccy="JPY">0</n:Amt><n:CdtDbtInd>CRDT</n:CdtDbtInd><n:Dt><n:Dt>2026-01-01</n:Dt></n:Dt></n:Bal>
<n:Bal><n:Tp><n:CdOrPrtry><n:Cd>CLBD</n:Cd></n:CdOrPrtry></n:Tp><n:Amt Ccy="JPY">0</n:Amt><n:CdtDbtInd>DBIT</n:CdtDbtInd><n:Dt><n:Dt>2026-01-31</n:Dt></n:Dt></n:Bal>
<n:Ntry><n:NtryRef>1</n:NtryRef><n:Amt Ccy="JPY">500</n:Amt><n:CdtDbtInd>DBIT</n:CdtDbtInd><n:Sts><n:Cd>BOOK</n:Cd></n:Sts><n:BookgDt><n:Dt>2026-01-02</n:Dt></n:BookgDt>
<n:NtryDtls><n:TxDtls><n:Refs><n:UETR>01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a11</n:UETR></n:Refs><n:Amt Ccy="JPY">700</n:Amt><n:CdtDbtInd>DBIT</n:CdtDbtInd></n:TxDtls></n:NtryDtls>
<n:NtryDtls><n:TxDtls><n:Amt Ccy="JPY">200</n:Amt><n:CdtDbtInd>CRDT</n:CdtDbtInd><n:RltdPties><n:Dbtr><n:Pty><n:Nm>ACME</n:Nm></n:Pty></n:Dbtr></n:RltdPties></n:TxDtls></n:NtryDtls></n:Ntry>
</n:Stmt></n:BkToCstmrStmt></n:Document>"#;

    fn amounts(statement: &Statement) -> Vec<i64> {
        statement.entries.iter().map(|entry| entry.money.minor_units).collect()
    }

    #[test]
    fn version_2_with_a_batch_and_a_return() {
        let file = parse(OLD).expect("it is read");
        let [statement] = &file.statements[..] else { panic!("{file:?}") };
        assert_eq!(
            (statement.id.as_str(), statement.account.as_str()),
            ("2026-01", "DE12500105170648489890")
        );
        assert_eq!(amounts(statement), [1000, 2000, -1000, -450]);
        let [first, second, returned, fee] = &statement.entries[..] else { panic!("{statement:?}") };
        assert_eq!(first.references, ["RE-1", "BANK-1"]);
        assert_eq!(first.text, "Müller & Söhne Teil 2 Sammler");
        assert_eq!(first.valued.map(|date| date.to_string()).as_deref(), Some("2026-01-03"));
        assert_eq!(second.references, ["MANDATE", "BANK-1"]);
        assert_eq!((second.place, returned.place.entry), (Place { entry: 1, line: 8 }, 2));
        assert!(returned.is_reversal && !first.is_reversal);
        assert_eq!(fee.booked.to_string(), "2026-01-31");
        assert!(statement.check().expect("both balances").holds());
        assert_eq!(file.warnings.len(), 1);
        assert!(
            file.warnings[0].contains("entry 4") && file.warnings[0].contains("PDNG"),
            "{:?}",
            file.warnings
        );
    }

    #[test]
    fn version_8_with_payments_in_both_directions() {
        let file = parse(NEW).expect("it is read");
        let [statement] = &file.statements[..] else { panic!("{file:?}") };
        assert_eq!(amounts(statement), [-700, 200]);
        assert_eq!(statement.entries[0].references, ["01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a11", "1"]);
        assert_eq!(statement.entries[1].text, "ACME");
        assert_eq!(statement.account, "123-456");
        let days = file.days().map(|(from, to)| (from.to_string(), to.to_string()));
        assert_eq!(days, Some(("2026-01-01".to_owned(), "2026-01-31".to_owned())));
        assert!(file.warnings[0].contains("is not whole"), "the balances say 0: {:?}", file.warnings);
    }

    #[test]
    fn payments_that_do_not_add_up_stay_one_entry() {
        let file = parse(&OLD.replace(">20.00<", ">21.00<")).expect("it is read");
        assert_eq!(amounts(&file.statements[0]), [3000, -1000, -450]);
        assert!(file.statements[0].entries[0].references.contains(&"RE-1".to_owned()));
        assert!(file.warnings[0].contains("do not add up to 30.00 EUR"), "{:?}", file.warnings);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let rows = [
            (r#"<Amt Ccy="EUR">4.50"#, r#"<Amt Ccy="EUR">4,50"#, "entry 3, line 15: Amt \"4,50\""),
            (r#"<Amt Ccy="EUR">4.50"#, r#"<Amt Ccy="EUR">-4.50"#, "entry 3, line 15: Amt \"-4.50\""),
            (r#"<Amt Ccy="EUR">4.50"#, r#"<Amt Ccy="EUR">4.505"#, "entry 3, line 15: amount \"4.505\""),
            (r#"<Amt Ccy="EUR">4.50"#, r#"<Amt>4.50"#, "entry 3, line 15: Amt has no known currency"),
            ("2026-01-31T23", "2026-01-32T23", "entry 3, line 15: the date \"2026-01-32T23"),
            ("<RvslInd>true", "<RvslInd>maybe", "entry 2, line 13: RvslInd"),
            ("DBIT</CdtDbtInd><Sts>", "X</CdtDbtInd><Sts>", "entry 3, line 15: CdtDbtInd"),
            ("</Ntry>\n</Stmt>", "</Stmt>", "line 16: no XML"),
            ("</BkToCstmrStmt></Document>", "", "line 17: the document ends within an element"),
            ("&amp;", "&bomb;", "line 10: &bomb; is unknown"),
            (
                "BkToCstmrStmt><GrpHdr>",
                "BkToCstmrAcctRpt><GrpHdr>",
                "line 3: this is an interim report (camt.052)",
            ),
        ];
        for (from, to, expected) in rows {
            assert!(OLD.contains(from), "{from}");
            let error = parse(&OLD.replacen(from, to, 1)).expect_err(expected).to_string();
            assert!(error.starts_with(expected), "{from} -> {to}: {error}");
        }
        assert!(parse("<html/>").expect_err("another document").to_string().contains("no camt.053"));
        let deep = format!("<BkToCstmrStmt>{}", "<a>".repeat(100));
        assert!(parse(&deep).expect_err("too deep").to_string().contains("more than 64 elements"));
    }

    #[test]
    fn no_damage_makes_it_panic() {
        for seed in 0..6_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let whole = if seed % 2 == 0 { OLD } else { NEW };
            let text = crate::reconcile::damage::damaged(whole, &mut random);
            let caught = std::panic::catch_unwind(|| drop(parse(&text)));
            assert!(caught.is_ok(), "seed {seed}: {text:?}");
        }
    }
}
