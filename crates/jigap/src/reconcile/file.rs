//! From the bytes of a file to a statement: which encoding, which format.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, anyhow};
use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};

use super::csv_file::{self, CsvOptions};
use super::statement::{Place, StatementError, StatementFile};
use super::{camt053, mt940};
use crate::exit::{Exit, Failure, OrExit};

/// The largest file: some million entries. It is read as a whole, since entries are matched as a whole.
const SIZE_BYTES_MAX: u64 = 256 << 20;
/// How far into an XML document its encoding is declared.
const DECLARATION_SIZE_MAX: usize = 200;

/// The kinds of statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Csv,
    Camt053,
    Mt940,
}

impl Format {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Format::Csv => "csv",
            Format::Camt053 => "camt053",
            Format::Mt940 => "mt940",
        }
    }

    /// By the beginning: no kind can be taken for another.
    fn of(text: &str) -> Format {
        if text.trim_start().starts_with('<') {
            Format::Camt053
        } else if mt940::is_mt940(text) {
            Format::Mt940
        } else {
            Format::Csv
        }
    }
}

/// Reads a statement.
pub(crate) fn read(
    path: &Path,
    format: Option<Format>,
    encoding: Option<&str>,
    csv: &CsvOptions,
) -> Result<(Format, StatementFile), Failure> {
    let shown = path.display();
    let bytes = read_bytes(path).with_context(|| format!("cannot read {shown}")).or_exit(Exit::Usage)?;
    let text = decode(&bytes, encoding).with_context(|| shown.to_string()).or_exit(Exit::Usage)?;
    let format = format.unwrap_or_else(|| Format::of(&text));
    let parsed = match format {
        Format::Csv => csv_file::parse(&text, csv),
        Format::Camt053 => camt053::parse(&text),
        Format::Mt940 => mt940::parse(&text),
    };
    let statement = parsed.with_context(|| format!("{shown} as {}", format.name())).or_exit(Exit::Usage)?;
    Ok((format, statement))
}

fn read_bytes(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(SIZE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SIZE_BYTES_MAX {
        return Err(anyhow!("it has more than {} MiB; give it in parts", SIZE_BYTES_MAX >> 20));
    }
    Ok(bytes)
}

fn decode(bytes: &[u8], name: Option<&str>) -> anyhow::Result<String> {
    let encoding = match name {
        Some(name) => named(name).with_context(|| format!("--encoding {name:?} is unknown"))?,
        None => declared(bytes),
    };
    // A mark at the beginning of the file tells the encoding better than anything else.
    let (text, used, has_errors) = encoding.decode(bytes);
    if has_errors {
        let line = 1 + text.split('\u{fffd}').next().unwrap_or("").matches('\n').count() as u64;
        let why = format!("not {}; name the right one with --encoding", used.name());
        return Err(StatementError::new(Place { entry: 0, line }, why).into());
    }
    Ok(text.into_owned())
}

fn named(name: &str) -> Option<&'static Encoding> {
    let usual = match name.to_ascii_lowercase().as_str() {
        "latin-1" => "latin1".to_owned(),
        other => other.to_owned(),
    };
    Encoding::for_label(usual.as_bytes())
}

/// What an XML document declares, else UTF-8 where the file is that, else what is left in the west.
fn declared(bytes: &[u8]) -> &'static Encoding {
    let beginning = String::from_utf8_lossy(&bytes[..bytes.len().min(DECLARATION_SIZE_MAX)]);
    let declaration = beginning.trim_start_matches('\u{feff}').strip_prefix("<?xml");
    let label = declaration.and_then(|rest| {
        let (declaration, _) = rest.split_once("?>")?;
        let (_, value) = declaration.split_once("encoding")?;
        value.trim_start().strip_prefix('=')?.trim_start().get(1..)?.split(['"', '\'']).next()
    });
    match label.and_then(named) {
        Some(encoding) => encoding,
        None if std::str::from_utf8(bytes).is_ok() => UTF_8,
        None => WINDOWS_1252,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_found_or_told() {
        let rows: [(&[u8], Option<&str>, Option<&str>); 8] = [
            ("Geb\u{fc}hr".as_bytes(), None, Some("Geb\u{fc}hr")),
            (b"\xef\xbb\xbfGeb\xc3\xbchr", None, Some("Geb\u{fc}hr")),
            (b"Geb\xfchr \x80", None, Some("Geb\u{fc}hr \u{20ac}")),
            (b"Geb\xfchr", Some("latin-1"), Some("Geb\u{fc}hr")),
            (
                b"<?xml version='1.0' encoding='ISO-8859-1'?><a>\xfc</a>",
                None,
                Some("<?xml version='1.0' encoding='ISO-8859-1'?><a>\u{fc}</a>"),
            ),
            (b"\xff\xfea\0b\0", None, Some("ab")),
            (b"Geb\xfchr", Some("utf-8"), None),
            (b"a", Some("klingon"), None),
        ];
        for (bytes, name, expected) in rows {
            let read = decode(bytes, name);
            assert_eq!(read.as_deref().ok(), expected, "{name:?}: {read:?}");
        }
        let error = decode(b"a\nb\n\xfc", Some("utf-8")).expect_err("it is latin 1").to_string();
        assert!(error.contains("line 3: not UTF-8"), "{error}");
    }

    #[test]
    fn formats_are_told_apart() {
        let rows = [
            ("\n<?xml version=\"1.0\"?><Document/>", Format::Camt053),
            ("<Document/>", Format::Camt053),
            ("\r\n:20:STARTUMS\r\n:25:1/2\r\n", Format::Mt940),
            ("{1:F01BANKDEFFXXXX0000000000}{4:\r\n:20:X", Format::Mt940),
            ("0000 01INGBNL2AXXXX00001\n940 00\n:20:X\n", Format::Mt940),
            ("date;amount\n2026-01-01;5\n", Format::Csv),
            ("", Format::Csv),
        ];
        for (text, expected) in rows {
            assert_eq!(Format::of(text), expected, "{text:?}");
        }
    }
}
