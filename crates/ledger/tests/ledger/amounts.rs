//! Money as the contract writes it: what is read, what is refused and why, and what is answered.

use ledger::{Amount, AmountError, Currency, DecimalAmount, format_minor_units};

fn currency(code: &str) -> Currency {
    Currency::parse(code).unwrap()
}

#[test]
fn amounts_are_read_in_minor_units() {
    let rows = [
        ("10", "USD", 1000),
        ("10.5", "USD", 1050),
        ("10.50", "USD", 1050),
        ("0.01", "USD", 1),
        ("0012.50", "USD", 1250),
        ("10", "JPY", 10),
        ("1.234", "KWD", 1234),
        ("1.2", "KWD", 1200),
        ("0.0001", "CLF", 1),
        ("92233720368547758.07", "USD", i64::MAX as u64),
        ("9223372036854775807", "JPY", i64::MAX as u64),
        ("9223372036854775.807", "KWD", i64::MAX as u64),
    ];
    for (text, code, minor_units) in rows {
        let amount = Amount::parse(text, currency(code));
        assert_eq!(amount.map(Amount::minor_units), Ok(minor_units), "{text} {code}");
    }
}

#[test]
fn every_refusal_of_an_amount() {
    use AmountError::{NotDecimal, TooLarge, TooManyDigits, Zero};
    let rows = [
        // Zero, however it is written.
        ("0", "USD", Zero),
        ("0.00", "USD", Zero),
        ("000", "JPY", Zero),
        // A sign.
        ("-1", "USD", NotDecimal),
        ("+1", "USD", NotDecimal),
        ("-0.00", "USD", NotDecimal),
        // An exponent.
        ("1e3", "USD", NotDecimal),
        ("1E3", "USD", NotDecimal),
        ("1.0e0", "USD", NotDecimal),
        // White space.
        ("", "USD", NotDecimal),
        (" ", "USD", NotDecimal),
        (" 1", "USD", NotDecimal),
        ("1 ", "USD", NotDecimal),
        ("1\n", "USD", NotDecimal),
        ("1 000", "USD", NotDecimal),
        ("1\u{a0}000", "USD", NotDecimal),
        // Thousands separators.
        ("1,000", "USD", NotDecimal),
        ("1_000", "USD", NotDecimal),
        ("1'000", "USD", NotDecimal),
        ("1.000.000", "USD", NotDecimal),
        // A point without digits on both sides.
        (".5", "USD", NotDecimal),
        ("5.", "USD", NotDecimal),
        (".", "USD", NotDecimal),
        ("1..5", "USD", NotDecimal),
        // Other notations.
        ("0x10", "USD", NotDecimal),
        ("1,5", "USD", NotDecimal),
        ("$1", "USD", NotDecimal),
        ("NaN", "USD", NotDecimal),
        ("Infinity", "USD", NotDecimal),
        ("١٢", "USD", NotDecimal),
        ("１２", "USD", NotDecimal),
        ("1\0", "USD", NotDecimal),
        // Too many digits, even when those too many are zeros.
        ("10.500", "USD", TooManyDigits),
        ("10.001", "USD", TooManyDigits),
        ("10.0", "JPY", TooManyDigits),
        ("1.2345", "KWD", TooManyDigits),
        ("1.00000", "CLF", TooManyDigits),
        ("1.0000000000000000000000", "USD", TooManyDigits),
        // More than 2^63-1 minor units.
        ("92233720368547758.08", "USD", TooLarge),
        ("9223372036854775808", "JPY", TooLarge),
        ("18446744073709551615", "JPY", TooLarge),
        ("18446744073709551616", "JPY", TooLarge),
        ("184467440737095516.16", "USD", TooLarge),
        ("99999999999999999999999999999999999999999", "JPY", TooLarge),
    ];
    for (text, code, why) in rows {
        assert_eq!(Amount::parse(text, currency(code)), Err(why), "{text:?} {code}");
    }
}

#[test]
fn the_bounds_of_minor_units() {
    assert_eq!(Amount::from_minor_units(0), None);
    assert_eq!(Amount::from_minor_units(1).map(Amount::signed), Some(1));
    assert_eq!(Amount::from_minor_units(i64::MAX as u64), Some(Amount::MAX));
    assert_eq!(Amount::MAX.signed(), i64::MAX);
    assert_eq!(Amount::from_minor_units(1 << 63), None);
    assert_eq!(Amount::from_minor_units(u64::MAX), None);
}

#[test]
fn answers_carry_all_digits() {
    let rows = [
        (1050, "USD", "10.50"),
        (0, "USD", "0.00"),
        (5, "USD", "0.05"),
        (-5, "USD", "-0.05"),
        (-1234, "KWD", "-1.234"),
        (10, "JPY", "10"),
        (0, "JPY", "0"),
        (1, "CLF", "0.0001"),
        (i128::from(i64::MAX), "USD", "92233720368547758.07"),
        (i128::from(i64::MIN), "USD", "-92233720368547758.08"),
        (i128::from(i64::MIN), "JPY", "-9223372036854775808"),
    ];
    for (minor_units, code, text) in rows {
        assert_eq!(format_minor_units(minor_units, currency(code)), text);
    }
}

#[test]
fn what_is_answered_reads_back_in_every_currency() {
    let mut currencies = 0;
    for currency in (0..=u16::MAX).filter_map(Currency::from_numeric) {
        currencies += 1;
        assert_eq!(Currency::parse(currency.code()), Some(currency));
        assert_eq!(Currency::from_numeric(currency.numeric()), Some(currency));
        for minor_units in [1, 9, 10, 99, 100, 12_345, i64::MAX as u64 - 1, i64::MAX as u64] {
            let text = format_minor_units(minor_units.into(), currency);
            let read = Amount::parse(&text, currency);
            assert_eq!(read.map(Amount::minor_units), Ok(minor_units), "{text} {currency}");
        }
    }
    assert!(currencies > 150, "only {currencies} currencies");
}

#[test]
fn currencies_by_code() {
    for (code, numeric, exponent) in
        [("USD", 840, 2), ("JPY", 392, 0), ("KWD", 414, 3), ("CLF", 990, 4), ("EUR", 978, 2)]
    {
        let currency = currency(code);
        assert_eq!((currency.numeric(), currency.exponent(), currency.code()), (numeric, exponent, code));
    }
    // Lower case, unknown, too short, too long, without minor units, and not letters.
    for code in ["usd", "Usd", "ZZZ", "US", "USDX", "", "XAU", "XXX", "U$D", "ÜSD", "840", "US\0"] {
        assert_eq!(Currency::parse(code), None, "{code:?}");
    }
}

#[test]
fn an_amount_whose_currency_is_not_known_yet() {
    let read = |text: &str| DecimalAmount::parse(text).unwrap();
    assert_eq!(read("5.0"), read("5.00"));
    assert_eq!(read("5"), read("5.000000000000000000"));
    assert_ne!(read("5.0"), read("5.01"));
    assert_ne!(read("50"), read("5.0"));
    assert_eq!(read("10.50").parts(), (1050, 2));
    // Equal contents, and yet one of them has more digits than the currency.
    assert_eq!(read("10.5").in_currency(currency("USD")), Amount::parse("10.50", currency("USD")));
    assert_eq!(read("10.500").in_currency(currency("USD")), Err(AmountError::TooManyDigits));

    for (digits, scale) in [(1, 0), (1050, 2), (u64::MAX, 18)] {
        assert_eq!(DecimalAmount::from_parts(digits, scale).map(DecimalAmount::parts), Some((digits, scale)));
    }
    assert_eq!(DecimalAmount::from_parts(0, 0), None);
    assert_eq!(DecimalAmount::from_parts(1, 19), None);
    assert_eq!(DecimalAmount::from_parts(1, u8::MAX), None);
}
