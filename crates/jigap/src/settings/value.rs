//! The kinds of values that settings have, and what a right one looks like.

use distributed::redacted;
use storage::store::Engine;
use tracing_subscriber::filter::Targets;

/// What a setting's text must be.
#[derive(Debug)]
pub(crate) enum Kind {
    Path,
    /// HOST:PORT.
    Address,
    /// `http://HOST:PORT`.
    Url,
    Count {
        from: u64,
        to: u64,
    },
    /// Bytes, or with one of the suffixes KiB, MiB, GiB, TiB.
    Size {
        from: u64,
        to: u64,
    },
    /// Milliseconds, or with one of the suffixes ms, s, min.
    Time {
        from_ms: u64,
        to_ms: u64,
    },
    /// From 0 to 1.
    Ratio,
    Choice(&'static [&'static str]),
    /// An engine of the state store that this program has.
    Engine,
    LogFilter,
    /// `local`, `off`, or the address of an object store.
    Archive,
    /// Addresses with a scheme each, separated by commas (an array in the file), or nothing. They may hold passwords.
    Addresses,
    /// One address with this scheme, or nothing.
    Service(&'static str),
}

const SIZE_SUFFIXES: [(&str, u64); 5] =
    [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40), ("B", 1)];
const TIME_SUFFIXES: [(&str, u64); 3] = [("ms", 1), ("s", 1_000), ("min", 60_000)];

impl Kind {
    /// Says what is wrong with a text, to be read after "which".
    pub(crate) fn check(&self, text: &str) -> Result<(), String> {
        match self {
            Kind::Path => (!text.is_empty()).then_some(()).ok_or_else(|| "must be a path".to_owned()),
            Kind::Address => is_address(text).then_some(()).ok_or_else(|| "must be HOST:PORT".to_owned()),
            Kind::Url => {
                let address = text.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
                let right = address.is_some_and(|address| !address.is_empty() && !address.contains('/'));
                right.then_some(()).ok_or_else(|| "must be http://HOST:PORT".to_owned())
            }
            Kind::Choice(choices) => choices
                .contains(&text)
                .then_some(())
                .ok_or_else(|| format!("must be one of {}", choices.join(", "))),
            Kind::Ratio => {
                let right = text.parse::<f64>().is_ok_and(|ratio| (0.0..=1.0).contains(&ratio));
                right.then_some(()).ok_or_else(|| "must be a number from 0 to 1".to_owned())
            }
            Kind::Engine => check_engine(text),
            Kind::LogFilter => check_log_filter(text),
            Kind::Archive => {
                let right = ["local", "off"].contains(&text)
                    || ["file:///", "s3://", "hdfs://"]
                        .iter()
                        .any(|scheme| text.len() > scheme.len() && text.starts_with(scheme));
                let must = "must be local, off, file:///DIR, s3://BUCKET/PREFIX or hdfs://HOST:PORT/DIR";
                right.then_some(()).ok_or_else(|| must.to_owned())
            }
            Kind::Addresses => {
                let has_scheme = |address: &&str| {
                    address
                        .split_once("://")
                        .is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty())
                };
                let right = addresses(text).all(|address| has_scheme(&address));
                right
                    .then_some(())
                    .ok_or_else(|| "must be SCHEME://… addresses, separated by commas".to_owned())
            }
            Kind::Service(scheme) => {
                let rest = text.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://"));
                let right = text.is_empty() || rest.is_some_and(|rest| !rest.is_empty());
                right.then_some(()).ok_or_else(|| format!("must be {scheme}://HOST:PORT"))
            }
            Kind::Count { .. } | Kind::Size { .. } | Kind::Time { .. } => self.number(text).map(|_| ()),
        }
    }

    /// The text without the passwords in it.
    pub(crate) fn shown(&self, text: &str) -> String {
        match self {
            Kind::Addresses => addresses(text).map(redacted).collect::<Vec<_>>().join(","),
            Kind::Service(_) => redacted(text),
            _ => text.to_owned(),
        }
    }

    /// The number that a text stands for, in the setting's unit.
    pub(crate) fn number(&self, text: &str) -> Result<u64, String> {
        let (suffixes, from, to, what): (&[(&str, u64)], _, _, _) = match self {
            Kind::Count { from, to } => (&[], from, to, "a whole number"),
            Kind::Size { from, to } => (&SIZE_SUFFIXES, from, to, "a size such as 67108864 or 64MiB"),
            Kind::Time { from_ms, to_ms } => (&TIME_SUFFIXES, from_ms, to_ms, "a time such as 250ms or 10s"),
            _ => return Err("is not a number".to_owned()),
        };
        let number = scaled(text, suffixes).ok_or_else(|| format!("must be {what}"))?;
        if !(*from..=*to).contains(&number) {
            return Err(format!("must be from {from} to {to}"));
        }
        Ok(number)
    }
}

/// The addresses of a list; none of an empty one.
pub(crate) fn addresses(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(move |address| !(address.is_empty() && text.trim().is_empty()))
}

fn scaled(text: &str, suffixes: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let factor = match suffix {
        "" => 1,
        _ => suffixes.iter().find(|(name, _)| *name == suffix)?.1,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

fn check_engine(text: &str) -> Result<(), String> {
    match Engine::parse(text) {
        Some(engine) if engine.is_built_in() => Ok(()),
        Some(engine) => Err(format!("this jigap was built without; build it with `--features {engine}`")),
        None => Err(format!("must be one of {}", Engine::ALL.map(Engine::name).join(", "))),
    }
}

fn check_log_filter(text: &str) -> Result<(), String> {
    text.parse::<Targets>().map(|_| ()).map_err(|error| format!("is no log filter: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_addresses_may_be_empty_and_shows_no_password() {
        let list = "postgres://a:secret@h/x, mysql://h/y";
        assert_eq!(Kind::Addresses.shown(list), "postgres://a:***@h/x,mysql://h/y");
        assert_eq!(addresses(list).count(), 2);
        assert_eq!(addresses(" ").count(), 0);
        for (text, right) in [("", true), (list, true), ("postgres://a,,mysql://b", false), ("h:1", false)] {
            assert_eq!(Kind::Addresses.check(text).is_ok(), right, "{text}");
        }
    }

    #[test]
    fn a_ratio_is_from_nothing_to_all() {
        for (text, right) in [
            ("0", true),
            ("0.01", true),
            ("1", true),
            ("1.1", false),
            ("-1", false),
            ("NaN", false),
            ("", false),
        ] {
            assert_eq!(Kind::Ratio.check(text).is_ok(), right, "{text}");
        }
    }

    #[test]
    fn numbers_take_the_suffixes_of_their_unit() {
        let size = Kind::Size { from: 0, to: 1 << 40 };
        let time = Kind::Time { from_ms: 1, to_ms: 100_000 };
        assert_eq!(size.number("64MiB"), Ok(64 << 20));
        assert_eq!(size.number("4096"), Ok(4096));
        assert_eq!(time.number("10s"), Ok(10_000));
        assert_eq!(time.number("250ms"), Ok(250));
        for wrong in ["", "MiB", "64MB", "-1", "1.5GiB", "99999999999999999999", "2TiB"] {
            assert!(size.number(wrong).is_err(), "{wrong}");
        }
        assert!(time.number("0").is_err());
    }
}
