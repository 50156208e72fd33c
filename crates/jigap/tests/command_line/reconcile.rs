//! `jigap reconcile`: a real wallet against statements in every format and several banks' dialects.

use std::fs;

use serde_json::Value;

use crate::harness::{Finished, Home, Wallet};

const DEPOSIT_ID: &str = "01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a11";
const WITHDRAWAL_ID: &str = "01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a12";

/// A day in UTC, in the ways that statements write it.
struct Day {
    /// `2026-01-31`
    iso: String,
    /// `31.01.2026`
    german: String,
    /// `260131`
    short: String,
}

impl Day {
    /// Of an answer of the wallet, so that no test depends on when it runs.
    fn of(answer: &Value) -> Day {
        let iso = answer["timestamp"].as_str().unwrap()[..10].to_owned();
        let (year, month, day) = (&iso[..4], &iso[5..7], &iso[8..]);
        Day {
            german: format!("{day}.{month}.{year}"),
            short: format!("{}{month}{day}", &year[2..]),
            iso: iso.clone(),
        }
    }
}

/// Two accounts with deposits and withdrawals as a bank would see them, and transfers that it never sees.
fn with_movements(home: &Home) -> (Wallet<'_>, Day) {
    let wallet = home.serve();
    let commands: [&[&str]; 8] = [
        &["account", "open", "alice"],
        &["account", "open", "bob"],
        // By its id.
        &["deposit", "alice", "1234.56", "EUR", "--id", DEPOSIT_ID],
        // By its reference.
        &["deposit", "bob", "50", "EUR", "--metadata", "reference=INV-2026-007"],
        // By its amount alone.
        &["deposit", "alice", "17.17", "EUR"],
        &["transfer", "alice", "bob", "5", "EUR"],
        // The bank paid another amount.
        &["withdraw", "alice", "100", "EUR", "--id", WITHDRAWAL_ID],
        // The bank knows nothing of it.
        &["deposit", "bob", "0.99", "EUR", "--metadata", "reference=lost"],
    ];
    let answers: Vec<Value> =
        commands.iter().map(|command| wallet.ask(command).expect_code(0).json()).collect();
    // What is missing in a statement must be of its days; the rest may be of the day before.
    let day = Day::of(answers.last().unwrap());
    (wallet, day)
}

fn write(home: &Home, name: &str, content: &[u8]) -> String {
    fs::write(home.path().join(name), content).unwrap();
    name.to_owned()
}

/// ISO-8859-1, as German banks write it.
fn latin_1(text: &str) -> Vec<u8> {
    text.chars().map(|letter| u8::try_from(u32::from(letter)).unwrap()).collect()
}

fn csv(home: &Home, Day { german: day, .. }: &Day) -> String {
    let compact = DEPOSIT_ID.replace('-', "").to_uppercase();
    let text = format!(
        "\"Kontonummer:\";\"DE12500105170648489890\"\r\n\
         \r\n\
         \"Buchungstag\";\"Wertstellung\";\"Zahlungspflichtige*r\";\"Verwendungszweck\";\"Betrag (€)\";\"Kundenreferenz\"\r\n\
         \"{day}\";\"{day}\";\"Müller GmbH\";\"EREF: {compact} Danke\";\"1.234,56\";\"\"\r\n\
         \"{day}\";\"{day}\";\"Söhne; Töchter\";\"Rechnung INV 2026 007\";\"50,00\";\"\"\r\n\
         \"{day}\";\"{day}\";\"\";\"ohne Angabe\";\"17,17\";\"NONREF\"\r\n\
         \"{day}\";\"{day}\";\"alice\";\"Auszahlung\";\"-99,50\";\"{WITHDRAWAL_ID}\"\r\n\
         \"{day}\";\"{day}\";\"Bank\";\"=Kontoführung\";\"-3,90\";\"\"\r\n"
    );
    write(home, "umsaetze.csv", &latin_1(&text.replace('€', "EUR")))
}

const CSV_FLAGS: [&str; 5] = [
    "--decimal-comma",
    "--currency",
    "EUR",
    "--columns",
    "date=Buchungstag,value-date=Wertstellung,amount=Betrag (EUR),reference=Kundenreferenz,description=Verwendungszweck",
];

/// Deutsche Kreditwirtschaft, camt.053.001.02, with the deposits as one batch.
fn camt_2(home: &Home, Day { iso: day, .. }: &Day) -> String {
    let compact = DEPOSIT_ID.replace('-', "");
    let entry = |amount: &str, direction: &str, details: &str, text: &str| {
        format!(
            "<Ntry><Amt Ccy=\"EUR\">{amount}</Amt><CdtDbtInd>{direction}</CdtDbtInd><Sts>BOOK</Sts><BookgDt><Dt>{day}</Dt></BookgDt>\
             <ValDt><Dt>{day}</Dt></ValDt><NtryDtls>{details}</NtryDtls><AddtlNtryInf>{text}</AddtlNtryInf></Ntry>\n"
        )
    };
    let part = |amount: &str, reference: &str, text: &str| {
        format!(
            "<TxDtls><Refs><EndToEndId>{reference}</EndToEndId></Refs><AmtDtls><TxAmt><Amt Ccy=\"EUR\">{amount}</Amt></TxAmt></AmtDtls>\
             <RmtInf><Ustrd>{text}</Ustrd></RmtInf></TxDtls>"
        )
    };
    let batch = [
        part("1234.56", &compact, "Müller &amp; Söhne"),
        part("50.00", "NOTPROVIDED", "Rechnung INV-2026-007"),
        part("17.17", "NOTPROVIDED", "ohne"),
    ];
    let entries = [
        entry("1301.73", "CRDT", &format!("<Btch><NbOfTxs>3</NbOfTxs></Btch>{}", batch.concat()), "SAMMLER"),
        entry("99.50", "DBIT", &part("99.50", &WITHDRAWAL_ID.replace('-', ""), "Auszahlung"), "UEBERWEISUNG"),
        entry("3.90", "DBIT", "", "=Kontoführung"),
    ];
    let balance = |kind: &str, amount: &str| {
        format!(
            "<Bal><Tp><CdOrPrtry><Cd>{kind}</Cd></CdOrPrtry></Tp><Amt Ccy=\"EUR\">{amount}</Amt><CdtDbtInd>CRDT</CdtDbtInd>\
             <Dt><Dt>{day}</Dt></Dt></Bal>\n"
        )
    };
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Document xmlns=\"urn:iso:std:iso:20022:tech:xsd:camt.053.001.02\">\
         <BkToCstmrStmt><GrpHdr><MsgId>1</MsgId></GrpHdr><Stmt><Id>S-1</Id><Acct><Id><IBAN>DE12500105170648489890</IBAN></Id></Acct>\n\
         {}{}{}</Stmt></BkToCstmrStmt></Document>\n",
        balance("PRCD", "1000.00"),
        balance("CLBD", "2198.33"),
        entries.concat()
    );
    write(home, "kontoauszug.xml", text.as_bytes())
}

/// A German bank's MT940: references in fields of 27 letters, ISO-8859-1.
fn mt940(home: &Home, Day { short: day, .. }: &Day) -> String {
    let compact = DEPOSIT_ID.replace('-', "");
    let (one, two) = compact.split_at(22);
    let (three, four) = WITHDRAWAL_ID.split_at(20);
    let text = format!(
        "\r\n:20:STARTUMSE\r\n:25:50010517/0648489890\r\n:28C:00001/001\r\n:60F:C{day}EUR1000,00\r\n\
         :61:{day}{month_day}CR1234,56N166NONREF\r\n\
         :86:166?00GUTSCHRIFT?109310?20EREF+{one}?21{two}?22SVWZ+Danke?30GENODEF1?32Müller GmbH\r\n\
         :61:{day}{month_day}CR50,N166NONREF\r\n:86:166?00GUTSCHRIFT?20SVWZ+Rechnung INV-2026-0?2107\r\n\
         :61:{day}{month_day}CR17,17N166NONREF\r\n:86:166?00GUTSCHRIFT?20SVWZ+ohne Angabe\r\n\
         :61:{day}{month_day}DR99,50N177NONREF\r\n:86:177?00UEBERWEISUNG?20EREF+{three}?21{four}?22SVWZ+Auszahlung\r\n\
         :61:{day}{month_day}DR3,90N808NONREF//778\r\n:86:808?00=Kontoführung\r\n\
         :62F:C{day}EUR2198,33\r\n-\r\n",
        month_day = &day[2..],
    );
    write(home, "umsaetze.sta", &latin_1(&text))
}

/// What every one of those statements comes to.
fn assert_report(finished: &Finished, matched: usize) {
    let report = finished.json();
    let counts = &report["counts"];
    let count = |name: &str| counts[name].as_u64().unwrap() as usize;
    assert_eq!((count("matched"), count("matched_by_amount")), (matched, 1), "{finished:?}");
    assert_eq!(report["reconciled"], false);
    let by = |index: usize| report["matched"][index]["by"].as_str().unwrap().to_owned();
    let mut found: Vec<String> = (0..matched).map(by).collect();
    found.sort();
    assert_eq!(found, ["amount", "reference", "transaction_id"]);
    let [different] = report["different"].as_array().unwrap().as_slice() else { panic!("{finished:?}") };
    assert_eq!(different["ledger"]["transaction_id"], WITHDRAWAL_ID);
    assert_eq!(
        (&different["statement"]["amount"], &different["difference"]),
        (&"-99.50".into(), &"0.50".into())
    );
    let [fee] = report["missing_in_ledger"].as_array().unwrap().as_slice() else { panic!("{finished:?}") };
    assert_eq!(fee["statement"]["amount"], "-3.90");
    assert!(fee["statement"]["text"].as_str().unwrap().contains("Kontoführung"), "{fee}");
    let [lost] = report["missing_in_statement"].as_array().unwrap().as_slice() else {
        panic!("{finished:?}")
    };
    assert_eq!((&lost["ledger"]["reference"], &lost["ledger"]["account"]), (&"lost".into(), &"bob".into()));
    assert_eq!(report["sums"][0]["statement"], "1198.33");
    assert_eq!(report["sums"][0]["ledger"], "1202.72");
}

#[test]
fn every_format_says_the_same() {
    let home = Home::new();
    let (wallet, day) = with_movements(&home);
    let reconcile = |file: &str, flags: &[&str]| {
        let arguments = [&["reconcile", "--statement", file][..], flags].concat();
        wallet.ask(&arguments).expect_code(9)
    };
    let csv = csv(&home, &day);
    assert_report(&reconcile(&csv, &CSV_FLAGS), 3);
    for file in [camt_2(&home, &day), mt940(&home, &day)] {
        let finished = reconcile(&file, &["--account", "@external"]);
        assert_report(&finished, 3);
        let statement = &finished.json()["statements"][0];
        assert_eq!((&statement["adds_up"], &statement["closing"]), (&true.into(), &"2198.33".into()));
        assert_eq!(finished.json()["warnings"].as_array().unwrap().len(), 0);
    }

    // Only what is alice's: what is bob's is not in her ledger.
    let alice = reconcile("umsaetze.sta", &["--account", "alice"]).json();
    assert_eq!(alice["counts"]["matched"], 2);
    assert_eq!(
        (&alice["counts"]["missing_in_ledger"], &alice["counts"]["missing_in_statement"]),
        (&2.into(), &0.into())
    );
    let both = reconcile("umsaetze.sta", &["--account", "alice", "--account", "bob"]);
    assert_report(&both, 3);
    let by_id = reconcile("umsaetze.sta", &["--reference-key", "transaction_id"]).json();
    assert_eq!(by_id["counts"]["matched_by_amount"], 2);

    // For spreadsheets: a row an entry, and no text is a formula.
    let rows =
        reconcile("umsaetze.csv", &[&CSV_FLAGS[..], &["--output", "csv", "--differences-only"]].concat());
    let lines: Vec<&str> = rows.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{rows:?}");
    assert!(lines[0].starts_with("result,by,group,currency,statement_amount,ledger_amount,difference"));
    assert!(lines[1].starts_with("different,transaction_id,,EUR,-99.50,-100.00,0.50,"), "{rows:?}");
    assert!(rows.stdout.contains(",'=Kontoführung,"), "{rows:?}");
    let shown = reconcile("kontoauszug.xml", &["--output", "table"]);
    for text in
        ["different", "missing in ledger", "matched by amount", "3 matched (1 by amount alone)", "adds up"]
    {
        assert!(shown.stdout.contains(text), "{text}: {shown:?}");
    }
    assert!(shown.stderr.contains("3 differences between kontoauszug.xml and the ledger"), "{shown:?}");
    wallet.stop();
}

#[test]
fn what_is_whole_exits_with_0_and_a_return_finds_its_reversal() {
    let home = Home::new();
    let wallet = home.serve();
    wallet.ask(&["account", "open", "alice"]).expect_code(0);
    wallet.ask(&["deposit", "alice", "10", "EUR", "--id", DEPOSIT_ID]).expect_code(0);
    let reversal = wallet.ask(&["reverse", DEPOSIT_ID]).expect_code(0).json();
    wallet.ask(&["deposit", "alice", "500", "JPY"]).expect_code(0);
    let day = Day::of(&reversal).iso;
    // camt.053.001.08: the bank takes the payment back under the reference of the payment, and UETR holds a UUID as it is.
    let entry = |amount: &str, direction: &str, reversal: &str| {
        format!(
            "<n:Ntry><n:Amt Ccy=\"EUR\">{amount}</n:Amt><n:CdtDbtInd>{direction}</n:CdtDbtInd>{reversal}<n:Sts><n:Cd>BOOK</n:Cd></n:Sts>\
             <n:BookgDt><n:DtTm>{day}T10:00:00+01:00</n:DtTm></n:BookgDt><n:NtryDtls><n:TxDtls><n:Refs><n:UETR>{DEPOSIT_ID}</n:UETR></n:Refs>\
             </n:TxDtls></n:NtryDtls></n:Ntry>"
        )
    };
    let document = |entries: &str| {
        format!(
            "<n:Document xmlns:n=\"urn:iso:std:iso:20022:tech:xsd:camt.053.001.08\"><n:BkToCstmrStmt><n:Stmt><n:Id>8</n:Id>{entries}\
             </n:Stmt></n:BkToCstmrStmt></n:Document>"
        )
    };
    let yen = format!(
        "<n:Ntry><n:Amt Ccy=\"JPY\">500</n:Amt><n:CdtDbtInd>CRDT</n:CdtDbtInd><n:Sts><n:Cd>BOOK</n:Cd></n:Sts><n:BookgDt><n:Dt>{day}</n:Dt></n:BookgDt></n:Ntry>"
    );
    let (paid, back) = (entry("10.00", "CRDT", ""), entry("10", "DBIT", "<n:RvslInd>true</n:RvslInd>"));
    write(&home, "whole.xml", document(&format!("{back}{paid}{yen}")).as_bytes());
    let whole = wallet.ask(&["reconcile", "--statement", "whole.xml"]).expect_code(0).json();
    assert_eq!((&whole["reconciled"], &whole["counts"]["matched"]), (&true.into(), &3.into()));
    let returned: Vec<&Value> = whole["matched"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|pair| pair["ledger"]["reversed_transaction_id"] == DEPOSIT_ID)
        .collect();
    assert_eq!(returned.len(), 1);
    assert_eq!(
        (&returned[0]["by"], &returned[0]["statement"]["reversal"]),
        (&"transaction_id".into(), &true.into())
    );

    // Without its return, the statement misses the reversal, and only that.
    write(&home, "part.xml", document(&format!("{paid}{yen}")).as_bytes());
    let part = wallet.ask(&["reconcile", "--statement", "part.xml"]).expect_code(9).json();
    assert_eq!(part["missing_in_statement"][0]["ledger"]["type"], "reversal");
    // Entries of days around the statement are another statement's, unless the time is told.
    let old = "date,amount,currency\n2020-01-01,5.00,EUR\n";
    write(&home, "old.csv", old.as_bytes());
    let old = wallet.ask(&["reconcile", "--statement", "old.csv"]).expect_code(9).json();
    assert_eq!(
        (&old["counts"]["missing_in_ledger"], &old["counts"]["missing_in_statement"]),
        (&1.into(), &0.into())
    );
    let arguments = ["reconcile", "--statement", "old.csv", "--until", "2999-01-01", "--since", "2020-01-01"];
    let told = wallet.ask(&arguments).expect_code(9).json();
    assert_eq!(told["counts"]["missing_in_statement"], 3);
    wallet.stop();
}

#[test]
fn amounts_alike_are_ambiguous() {
    let home = Home::new();
    let wallet = home.serve();
    wallet.ask(&["account", "open", "alice"]).expect_code(0);
    wallet.ask(&["deposit", "alice", "5", "EUR"]).expect_code(0);
    let day = Day::of(&wallet.ask(&["deposit", "alice", "5", "EUR"]).expect_code(0).json()).iso;
    write(&home, "one.csv", format!("date,amount,currency\n{day},5.00,EUR\n").as_bytes());
    let report = wallet.ask(&["reconcile", "--statement", "one.csv"]).expect_code(9).json();
    assert_eq!(report["counts"]["ambiguous"], 1);
    assert_eq!(report["ambiguous"][0]["statement"].as_array().unwrap().len(), 1);
    assert_eq!(report["ambiguous"][0]["ledger"].as_array().unwrap().len(), 2);
    wallet.stop();
}

#[test]
fn more_entries_than_the_wallet_gives_at_once() {
    const COUNT: usize = 1234;
    let home = Home::new();
    let wallet = home.serve();
    wallet.ask(&["account", "open", "alice"]).expect_code(0);
    let agent = ureq::agent();
    let mut statement = "date,amount,currency,description\n".to_owned();
    for index in 1..=COUNT {
        let (id, amount) = (uuid::Uuid::now_v7(), format!("0.{:02}", 1 + index % 99));
        let body = serde_json::json!({
            "account": "alice", "amount": amount, "currency": "EUR", "transaction_id": id.to_string()
        });
        let url = format!("http://{}/v1/wallet/deposit", wallet.http);
        let answer: Value = agent.post(url).send_json(body).unwrap().body_mut().read_json().unwrap();
        statement.push_str(&format!("{},{amount},EUR,for {}\n", Day::of(&answer).iso, id.simple()));
    }
    write(&home, "many.csv", statement.as_bytes());
    for account in ["alice", "@external"] {
        let arguments = ["reconcile", "--statement", "many.csv", "--account", account];
        let report = wallet.ask(&arguments).expect_code(0).json();
        assert_eq!(
            (&report["counts"]["matched"], &report["counts"]["matched_by_amount"]),
            (&COUNT.into(), &0.into())
        );
    }
    wallet.stop();
}

#[test]
fn mistakes_are_told_before_the_wallet_is_asked() {
    let home = Home::new();
    let run = |arguments: &[&str], code: i32| {
        home.run(&[&["reconcile", "--statement"], arguments].concat()).expect_code(code)
    };
    write(&home, "x.csv", b"date;amount;currency\n2026-01-02;12,50;EUR\n");
    write(&home, "empty.csv", b"date;amount;currency\n");
    write(&home, "cut.sta", b":20:X\n:25:1/2\n:28C:1\n:60F:C260101EUR1,00\n");
    let rows: [(&[&str], &str); 8] = [
        (&["missing.csv"], "cannot read missing.csv"),
        (
            &["x.csv"],
            "x.csv as csv: entry 1, line 2: amount \"12,50\" is no number such as 1,234.56; for 1.234,56 say --decimal-comma",
        ),
        (&["x.csv", "--format", "mt940"], "no MT940 message"),
        (
            &["x.csv", "--columns", "date=Tag,amount=Betrag"],
            "here the column [\"Tag\", \"Betrag\"] is missing",
        ),
        (&["x.csv", "--columns", "tag=date"], "\"tag\" is none of date"),
        (&["empty.csv"], "say --since and --until"),
        (&["cut.sta"], "no balance :62F:: is the file cut off?"),
        (
            &["x.csv", "--decimal-comma", "--since", "2026-01-02", "--until", "2026-01-02"],
            "is not after --since",
        ),
    ];
    for (arguments, expected) in rows {
        let finished = run(arguments, 2);
        assert!(finished.stderr.contains(expected), "{arguments:?}: {finished:?}");
    }
    let silent =
        run(&["x.csv", "--decimal-comma", "--server", "http://127.0.0.1:1", "--timeout", "200ms"], 3);
    assert!(silent.stderr.contains("no answer"), "{silent:?}");
    let help = home.run(&["reconcile", "--help"]).expect_code(0);
    for text in
        ["jigap reconcile --statement january.xml", "date=Buchungstag", "Exit codes: 0 all matched; 9"]
    {
        assert!(help.stdout.contains(text), "{text}");
    }
}
