//! RFC 3339 in UTC with microseconds, by the calendar algorithm of Howard Hinnant (`civil_from_days`).

use ledger::Timestamp;

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// A point in time such as `2026-01-02T03:04:05.678901Z`. Every answer has one: the digits are put down by hand.
pub fn format_timestamp(timestamp: Timestamp) -> String {
    let micros = timestamp.as_micros();
    let (year, month, day) = civil_from_days(micros.div_euclid(MICROS_PER_DAY));
    let of_day = micros.rem_euclid(MICROS_PER_DAY);
    let seconds = of_day / 1_000_000;
    if !(0..=9999).contains(&year) {
        return format!("{year:+05}-{month:02}-{day:02}T00:00:00.000000Z");
    }
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    let fields = [
        (0, 4, year),
        (5, 2, month),
        (8, 2, day),
        (11, 2, seconds / 3600),
        (14, 2, seconds / 60 % 60),
        (17, 2, seconds % 60),
        (20, 6, of_day % 1_000_000),
    ];
    for (start, digits, mut value) in fields {
        for at in (start..start + digits).rev() {
            text[at] = b'0' + (value % 10) as u8;
            value /= 10;
        }
    }
    String::from_utf8(text.to_vec()).expect("digits and punctuation are ASCII")
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let shifted_year = year - i64::from(month <= 2);
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Reads RFC 3339 in UTC (`…Z`), with up to six digits of a second.
pub fn parse_timestamp(text: &str) -> Option<Timestamp> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let bytes = text.as_bytes();
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators.iter().any(|(at, byte)| bytes.get(*at) != Some(byte)) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let fraction = text.get(19..)?.strip_suffix('Z')?;
    let micros = match fraction.strip_prefix('.') {
        None if fraction.is_empty() => 0,
        Some(digits)
            if (1..=6).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            format!("{digits:0<6}").parse::<i64>().ok()?
        }
        _ => return None,
    };
    let days = days_from_civil(year, month, day);
    if civil_from_days(days) != (year, month, day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Some(Timestamp::from_micros(
        days * MICROS_PER_DAY + ((hour * 60 + minute) * 60 + second) * 1_000_000 + micros,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read_back() {
        let rows = [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399_999_999, "2000-02-28T23:59:59.999999Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (1_767_323_045_678_901, "2026-01-02T03:04:05.678901Z"),
        ];
        for (micros, text) in rows {
            assert_eq!(format_timestamp(Timestamp::from_micros(micros)), text);
            assert_eq!(parse_timestamp(text), Some(Timestamp::from_micros(micros)));
        }
        assert_eq!(parse_timestamp("2026-01-02T03:04:05Z"), parse_timestamp("2026-01-02T03:04:05.0Z"));
        for wrong in
            ["2026-02-30T00:00:00Z", "2026-01-02", "2026-01-02T03:04:05+01:00", "2026-01-02T24:00:00Z", ""]
        {
            assert_eq!(parse_timestamp(wrong), None, "{wrong}");
        }
    }
}
