//! Currencies and amounts. Money is an integer count of minor units; there is no float.

use std::fmt;
use std::sync::LazyLock;

/// An ISO 4217 currency that has minor units, by its numeric code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency(u16);

const NUMERIC_CODES: usize = 1000;
const LETTERS: usize = 26;

struct Tables {
    /// Numeric code -> (alphabetic code, exponent); `None` where no usable currency has the code.
    by_numeric: Vec<Option<(&'static str, u8)>>,
    /// Three letters in base 26 -> numeric code; 0 where no usable currency has the letters.
    by_letters: Vec<u16>,
}

/// The library's look-ups walk a long `match`; these tables make the hot path one indexed load.
static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let mut tables = Tables { by_numeric: vec![None; NUMERIC_CODES], by_letters: vec![0; LETTERS.pow(3)] };
    for numeric in 1..NUMERIC_CODES as u16 {
        let Some(currency) = iso_currency::Currency::from_numeric(numeric) else { continue };
        let Some(exponent) = currency.exponent() else { continue };
        let Ok(exponent) = u8::try_from(exponent) else { continue };
        let code = currency.code();
        let Some(index) = letters_index(code.as_bytes()) else { continue };
        tables.by_numeric[usize::from(numeric)] = Some((code, exponent));
        tables.by_letters[index] = numeric;
    }
    tables
});

fn letters_index(code: &[u8]) -> Option<usize> {
    let [a, b, c] = code else { return None };
    let digit = |letter: &u8| letter.is_ascii_uppercase().then(|| usize::from(letter - b'A'));
    Some((digit(a)? * LETTERS + digit(b)?) * LETTERS + digit(c)?)
}

impl Currency {
    /// The currency with this alphabetic code (`"USD"`, upper case). Codes without minor units (`XAU`) are not currencies here.
    pub fn parse(code: &str) -> Option<Currency> {
        match TABLES.by_letters[letters_index(code.as_bytes())?] {
            0 => None,
            numeric => Some(Currency(numeric)),
        }
    }

    /// The currency with this ISO 4217 numeric code.
    pub fn from_numeric(numeric: u16) -> Option<Currency> {
        TABLES.by_numeric.get(usize::from(numeric))?.map(|_| Currency(numeric))
    }

    /// The ISO 4217 numeric code.
    pub fn numeric(self) -> u16 {
        self.0
    }

    /// The alphabetic code.
    pub fn code(self) -> &'static str {
        self.entry().0
    }

    /// How many digits stand after the decimal point.
    pub fn exponent(self) -> u8 {
        self.entry().1
    }

    fn entry(self) -> (&'static str, u8) {
        TABLES.by_numeric[usize::from(self.0)].expect("a Currency is only made from a known code")
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.code())
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.code())
    }
}

/// An amount of money to move: 1 to 2^63-1 minor units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(u64);

/// Why a text is no amount of a currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AmountError {
    /// Not digits with at most one decimal point between them.
    NotDecimal,
    /// Zero moves nothing.
    Zero,
    /// More digits after the point than the currency has.
    TooManyDigits,
    /// Above 2^63-1 minor units.
    TooLarge,
}

impl fmt::Display for AmountError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            AmountError::NotDecimal => {
                "must be a plain decimal number such as \"12.50\", without sign, exponent, spaces or separators"
            }
            AmountError::Zero => "must be greater than zero",
            AmountError::TooManyDigits => "has more digits after the decimal point than its currency",
            AmountError::TooLarge => "is above 2^63-1 minor units",
        })
    }
}

impl std::error::Error for AmountError {}

impl Amount {
    /// The largest amount.
    pub const MAX: Amount = Amount(i64::MAX as u64);

    /// An amount of so many minor units; `None` for zero and above 2^63-1.
    pub fn from_minor_units(minor_units: u64) -> Option<Amount> {
        (1..=Amount::MAX.0).contains(&minor_units).then_some(Amount(minor_units))
    }

    /// Reads major units, such as `"12.5"` or `"12.50"` for USD.
    pub fn parse(text: &str, currency: Currency) -> Result<Amount, AmountError> {
        DecimalAmount::parse(text)?.in_currency(currency)
    }

    /// The count of minor units, 1 to 2^63-1.
    pub fn minor_units(self) -> u64 {
        self.0
    }

    /// The same count as a signed number, always positive.
    pub fn signed(self) -> i64 {
        self.0 as i64
    }
}

/// A decimal number as it was written, whose currency is not known yet (the amount of a confirmation).
#[derive(Debug, Clone, Copy)]
pub struct DecimalAmount {
    digits: u64,
    /// How many of the digits stand after the point.
    scale: u8,
}

impl DecimalAmount {
    const SCALE_MAX: usize = 18;

    /// Reads a plain decimal number: digits, and at most one point with digits on both sides.
    pub fn parse(text: &str) -> Result<DecimalAmount, AmountError> {
        let (whole, fraction) = match text.split_once('.') {
            Some((_, "")) => return Err(AmountError::NotDecimal),
            Some(parts) => parts,
            None => (text, ""),
        };
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) {
            return Err(AmountError::NotDecimal);
        }
        if fraction.len() > Self::SCALE_MAX {
            return Err(AmountError::TooManyDigits);
        }
        let mut digits: u64 = 0;
        for byte in whole.bytes().chain(fraction.bytes()) {
            let digit = u64::from(byte - b'0');
            digits = digits
                .checked_mul(10)
                .and_then(|tens| tens.checked_add(digit))
                .ok_or(AmountError::TooLarge)?;
        }
        if digits == 0 {
            return Err(AmountError::Zero);
        }
        Ok(DecimalAmount { digits, scale: fraction.len() as u8 })
    }

    /// Rebuilds a number from [`DecimalAmount::parts`].
    pub fn from_parts(digits: u64, scale: u8) -> Option<DecimalAmount> {
        (digits > 0 && usize::from(scale) <= Self::SCALE_MAX).then_some(DecimalAmount { digits, scale })
    }

    /// The digits as an integer, and how many of them stand after the point.
    pub fn parts(self) -> (u64, u8) {
        (self.digits, self.scale)
    }

    /// The amount in minor units of `currency`.
    pub fn in_currency(self, currency: Currency) -> Result<Amount, AmountError> {
        let missing_digits = currency.exponent().checked_sub(self.scale).ok_or(AmountError::TooManyDigits)?;
        let factor = 10u64.checked_pow(u32::from(missing_digits)).ok_or(AmountError::TooLarge)?;
        let minor_units = self.digits.checked_mul(factor).ok_or(AmountError::TooLarge)?;
        Amount::from_minor_units(minor_units).ok_or(AmountError::TooLarge)
    }
}

/// `"5.0"` and `"5.00"` are the same content.
impl PartialEq for DecimalAmount {
    fn eq(&self, other: &DecimalAmount) -> bool {
        let scaled = |number: &DecimalAmount, to: u8| {
            u128::from(number.digits) * 10u128.pow((to - number.scale).into())
        };
        let scale = self.scale.max(other.scale);
        scaled(self, scale) == scaled(other, scale)
    }
}

impl Eq for DecimalAmount {}

/// Minor units as text in major units with all digits of the currency: `1250` USD is `"12.50"`.
pub fn format_minor_units(minor_units: i128, currency: Currency) -> String {
    let exponent = usize::from(currency.exponent());
    let sign = if minor_units < 0 { "-" } else { "" };
    let magnitude = minor_units.unsigned_abs();
    if exponent == 0 {
        return format!("{sign}{magnitude}");
    }
    let unit = 10u128.pow(currency.exponent().into());
    format!("{sign}{}.{:0exponent$}", magnitude / unit, magnitude % unit)
}
