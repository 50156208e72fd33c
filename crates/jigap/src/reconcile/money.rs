//! Amounts as statements write them, read exactly: digits become a count of minor units, and no float is anywhere.

use ledger::Currency;

/// How many digits stand before and after the point at most; more is no amount of money.
const DIGITS_MAX: usize = 36;

/// What separates the whole units from the fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DecimalMark {
    /// `1,234.56`
    Point,
    /// `1.234,56`
    Comma,
}

/// A decimal number, sign and all, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Decimal {
    negative: bool,
    whole: String,
    fraction: String,
}

/// Reads a signed amount: a sign before or after it, and thousands in groups of three (`1.234,56`, `1'234.56`, `-12,50`, `12,50-`).
pub(crate) fn parse_amount(text: &str, mark: DecimalMark, currency: Currency) -> Result<i64, String> {
    let decimal = parse_decimal(text, mark).ok_or_else(|| not_decimal(text, mark))?;
    minor_units(&decimal, currency).map_err(|why| format!("amount {text:?} {why}"))
}

fn not_decimal(text: &str, mark: DecimalMark) -> String {
    let (example, other) = match mark {
        DecimalMark::Point => ("1,234.56", "; for 1.234,56 say --decimal-comma"),
        DecimalMark::Comma => ("1.234,56", "; for 1,234.56 leave --decimal-comma out"),
    };
    format!("amount {text:?} is no number such as {example}{other}")
}

fn parse_decimal(text: &str, mark: DecimalMark) -> Option<Decimal> {
    let text = text.trim();
    let is_minus = |letter: char| matches!(letter, '-' | '\u{2212}');
    let is_sign = |letter: char| letter == '+' || is_minus(letter);
    let (negative, digits) = if let Some(rest) = text.strip_prefix(is_sign) {
        (text.starts_with(is_minus), rest)
    } else if let Some(rest) = text.strip_suffix(is_sign) {
        (text.ends_with(is_minus), rest)
    } else {
        (false, text)
    };
    let (point, group) = match mark {
        DecimalMark::Point => ('.', ','),
        DecimalMark::Comma => (',', '.'),
    };
    let (whole, fraction) = digits.trim().split_once(point).unwrap_or((digits.trim(), ""));
    let whole = without_groups(whole, group)?;
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let size = whole.len() + fraction.len();
    (all_digits(&whole) && all_digits(fraction) && (1..=DIGITS_MAX).contains(&size)).then(|| Decimal {
        negative,
        whole,
        fraction: fraction.to_owned(),
    })
}

/// Takes thousands' separators out; `None` where they do not stand before groups of three.
fn without_groups(whole: &str, group: char) -> Option<String> {
    let is_separator = |letter: char| {
        letter == group || matches!(letter, '\'' | '\u{2019}' | ' ' | '\u{a0}' | '\u{202f}' | '\u{2009}')
    };
    if !whole.contains(is_separator) {
        return Some(whole.to_owned());
    }
    let groups: Vec<&str> = whole.split(is_separator).collect();
    let right = (1..=3).contains(&groups[0].len()) && groups[1..].iter().all(|group| group.len() == 3);
    right.then(|| groups.concat())
}

/// Digits beyond those of the currency may only be zeros: nothing is rounded.
fn minor_units(decimal: &Decimal, currency: Currency) -> Result<i64, String> {
    let exponent = usize::from(currency.exponent());
    let (kept, rest) = decimal.fraction.split_at(decimal.fraction.len().min(exponent));
    if rest.bytes().any(|byte| byte != b'0') {
        return Err(format!("has more digits after the decimal mark than {currency}"));
    }
    let digits = format!("{}{kept:0<exponent$}", decimal.whole);
    let too_large = || "is too large".to_owned();
    let magnitude: i64 = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| too_large())? };
    Ok(if decimal.negative { -magnitude } else { magnitude })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_exactly_or_not_at_all() {
        use DecimalMark::{Comma, Point};
        let rows = [
            ("12.50", Point, "EUR", Some(1250)),
            ("12.5", Point, "EUR", Some(1250)),
            ("-0.01", Point, "EUR", Some(-1)),
            ("+3", Point, "EUR", Some(300)),
            ("1,234.56", Point, "EUR", Some(123_456)),
            ("1'234'567.89", Point, "CHF", Some(123_456_789)),
            ("1.234,56", Comma, "EUR", Some(123_456)),
            ("1 234,56", Comma, "EUR", Some(123_456)),
            ("1\u{a0}234,56", Comma, "EUR", Some(123_456)),
            ("12,50-", Comma, "EUR", Some(-1250)),
            ("\u{2212}12,50", Comma, "EUR", Some(-1250)),
            ("12,", Comma, "EUR", Some(1200)),
            (",50", Comma, "EUR", Some(50)),
            ("1000,", Comma, "JPY", Some(1000)),
            ("100.00", Point, "JPY", Some(100)),
            ("12.500", Point, "EUR", Some(1250)),
            ("1.234", Point, "KWD", Some(1234)),
            ("92233720368547758.07", Point, "EUR", Some(i64::MAX)),
            ("0", Point, "EUR", Some(0)),
            ("92233720368547758.08", Point, "EUR", None),
            ("12,50", Point, "EUR", None),
            ("12.50", Comma, "EUR", None),
            ("12.345", Point, "EUR", None),
            ("1,23,456.00", Point, "EUR", None),
            ("1234,567.00", Point, "EUR", None),
            ("1e3", Point, "EUR", None),
            ("--1", Point, "EUR", None),
            ("-1-", Point, "EUR", None),
            ("", Point, "EUR", None),
            (".", Point, "EUR", None),
            ("-", Point, "EUR", None),
            ("12.50 EUR", Point, "EUR", None),
            ("1.2.3", Point, "EUR", None),
        ];
        for (text, mark, currency, expected) in rows {
            let currency = Currency::parse(currency).expect("a currency");
            let read = parse_amount(text, mark, currency);
            assert_eq!(read.as_ref().ok().copied(), expected, "{text:?}: {read:?}");
        }
        let euro = Currency::parse("EUR").expect("a currency");
        let why = parse_amount("12,50", Point, euro).expect_err("a comma");
        assert!(why.contains("--decimal-comma"), "{why}");
    }
}
