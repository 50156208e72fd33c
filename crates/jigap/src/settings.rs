//! Configuration: one table of settings, each from a flag, the environment, `jigap.toml` or its default, in this order.

mod architecture;
mod file;
mod table;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use storage::store::Engine;
pub(crate) use table::{SETTINGS, Scope, Setting};

use crate::exit::{Exit, Failure};

/// The configuration file that is read when none is named and it exists.
const DEFAULT_FILE: &str = "jigap.toml";
const ENVIRONMENT_PREFIX: &str = "JIGAP_";
/// Names the configuration file; not itself a setting.
const FILE_VARIABLE: &str = "JIGAP_CONFIG";

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    Default,
    File { path: PathBuf, line: usize },
    Environment,
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => formatter.write_str("default"),
            Origin::File { path, line } => write!(formatter, "{}:{line}", path.display()),
            Origin::Environment => formatter.write_str("environment"),
            Origin::Flag => formatter.write_str("flag"),
        }
    }
}

/// What the command line says about settings.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flags {
    /// `--config`.
    pub(crate) file: Option<PathBuf>,
    /// By the setting's name.
    pub(crate) values: BTreeMap<&'static str, String>,
}

/// Every setting with the value in force. All values are checked.
#[derive(Debug)]
pub(crate) struct Settings {
    values: BTreeMap<&'static str, (String, Origin)>,
}

impl Settings {
    /// Collects and checks all values.
    pub(crate) fn load(flags: &Flags) -> Result<Settings, Failure> {
        let environment: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| {
                let name = name.into_string().ok().filter(|name| name.starts_with(ENVIRONMENT_PREFIX))?;
                Some((name, value.to_string_lossy().into_owned()))
            })
            .collect();
        Settings::resolve(flags, &environment).map_err(|message| Failure::new(Exit::Usage, message))
    }

    pub(crate) fn resolve(flags: &Flags, environment: &[(String, String)]) -> anyhow::Result<Settings> {
        let mut values: BTreeMap<&'static str, (String, Origin)> = SETTINGS
            .iter()
            .map(|setting| (setting.name, (setting.default.to_owned(), Origin::Default)))
            .collect();
        if let Some(path) = file_path(flags, environment) {
            for (setting, value, line) in file::read(&path)? {
                values.insert(setting.name, (value, Origin::File { path: path.clone(), line }));
            }
        }
        for (variable, value) in environment.iter().filter(|(variable, _)| variable != FILE_VARIABLE) {
            let setting =
                SETTINGS.iter().find(|setting| setting.variable() == *variable).ok_or_else(|| {
                    anyhow::anyhow!(
                        "environment: unknown variable `{variable}`{}; `jigap config` lists every setting",
                        nearest(variable, SETTINGS.iter().map(Setting::variable))
                    )
                })?;
            values.insert(setting.name, (value.clone(), Origin::Environment));
        }
        for (name, value) in &flags.values {
            values.insert(name, (value.clone(), Origin::Flag));
        }
        for setting in SETTINGS {
            let (value, origin) = &values[setting.name];
            setting.kind.check(value).map_err(|why| {
                let shown = setting.kind.shown(value);
                anyhow::anyhow!("{}: `{}` is {shown:?}, which {why}", place(setting, origin), setting.name)
            })?;
        }
        Ok(Settings { values })
    }

    /// The value of a setting and where it came from.
    pub(crate) fn entry(&self, setting: &Setting) -> (&str, &Origin) {
        let (value, origin) = &self.values[setting.name];
        (value, origin)
    }

    /// The value as text.
    pub(crate) fn text(&self, name: &str) -> &str {
        let (value, _) = self.values.get(name).expect("code asks only for settings of the table");
        value
    }

    /// The value as a path.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(self.text(name))
    }

    /// What keeps the state store's files.
    pub(crate) fn store_engine(&self) -> Engine {
        Engine::parse(self.text("state-store")).expect("every value was checked when it was loaded")
    }

    /// The value as a count, a size in bytes, or a time in milliseconds.
    pub(crate) fn number(&self, name: &str) -> u64 {
        let setting = SETTINGS.iter().find(|setting| setting.name == name);
        let kind = &setting.expect("code asks only for settings of the table").kind;
        kind.number(self.text(name)).expect("every value was checked when it was loaded")
    }
}

fn file_path(flags: &Flags, environment: &[(String, String)]) -> Option<PathBuf> {
    let named = flags.file.clone().or_else(|| {
        environment.iter().find(|(name, _)| name == FILE_VARIABLE).map(|(_, path)| PathBuf::from(path))
    });
    named.or_else(|| Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists()))
}

fn place(setting: &Setting, origin: &Origin) -> String {
    match origin {
        Origin::Flag => format!("--{}", setting.name),
        Origin::Environment => setting.variable(),
        Origin::Default | Origin::File { .. } => origin.to_string(),
    }
}

/// Reads a time as settings are written: `250ms`, `10s`, `2min`.
pub(crate) fn parse_milliseconds(text: &str) -> Result<u64, String> {
    value::Kind::Time { from_ms: 0, to_ms: 24 * 3_600_000 }.number(text)
}

/// `; did you mean ...?` when a known name is close.
fn nearest(wrong: &str, known: impl Iterator<Item = String>) -> String {
    let best = known.map(|name| (edit_distance(wrong, &name), name)).min();
    match best {
        Some((distance, name)) if distance <= wrong.len().div_ceil(3) => {
            format!("; did you mean `{name}`?")
        }
        _ => String::new(),
    }
}

/// The number of characters to insert, remove or replace (Levenshtein).
fn edit_distance(one: &str, two: &str) -> usize {
    let two: Vec<char> = two.chars().collect();
    let mut row: Vec<usize> = (0..=two.len()).collect();
    for (index, left) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, right) in two.iter().enumerate() {
            let replaced = diagonal + usize::from(left != *right);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[two.len()]
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn variable(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    fn flags(file: Option<&std::path::Path>, values: &[(&'static str, &str)]) -> Flags {
        let values = values.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Flags { file: file.map(ToOwned::to_owned), values }
    }

    fn file(content: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(content.as_bytes()).expect("it is written");
        file
    }

    #[test]
    fn flags_win_over_environment_over_file_over_default() {
        let file =
            file("listen = \"127.0.0.1:1\"\ngrpc-listen = \"127.0.0.1:2\"\nqueue-commands-max = 1000\n");
        let environment =
            [variable("JIGAP_LISTEN", "127.0.0.1:3"), variable("JIGAP_GRPC_LISTEN", "127.0.0.1:4")];
        let flags = flags(Some(file.path()), &[("listen", "127.0.0.1:5")]);
        let settings = Settings::resolve(&flags, &environment).expect("all of it is right");
        assert_eq!(settings.text("listen"), "127.0.0.1:5");
        assert_eq!(settings.text("grpc-listen"), "127.0.0.1:4");
        assert_eq!(settings.number("queue-commands-max"), 1000);
        assert_eq!(settings.text("data-dir"), "jigap-data");
        let queue = SETTINGS.iter().find(|setting| setting.name == "queue-commands-max").expect("known");
        assert_eq!(settings.entry(queue).1, &Origin::File { path: file.path().to_owned(), line: 3 });
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let in_file = [
            ("\nlissten = \"x\"\n", ":2: unknown setting `lissten`; did you mean `listen`?"),
            ("listen = [1]\n", ":1: `listen` must be a string, a number or a boolean"),
            ("listen = \"here\"\n", ":1: `listen` is \"here\", which must be HOST:PORT"),
            ("listen = \n", ":1: "),
        ];
        for (content, expected) in in_file {
            let file = file(content);
            assert_mistake(&flags(Some(file.path()), &[]), &[], expected);
        }
        let in_environment = [
            ("JIGAP_LISTN", "unknown variable `JIGAP_LISTN`; did you mean `JIGAP_LISTEN`?"),
            ("JIGAP_LISTEN", "JIGAP_LISTEN: `listen` is \"x\", which must be HOST:PORT"),
        ];
        for (name, expected) in in_environment {
            assert_mistake(&Flags::default(), &[variable(name, "x")], expected);
        }
        let in_flags = [
            ("store-cache-size", "64 MB", "--store-cache-size: `store-cache-size` is \"64 MB\""),
            ("journal-disk", "tape", "which must be one of direct, mmap"),
        ];
        for (name, value, expected) in in_flags {
            assert_mistake(&flags(None, &[(name, value)]), &[], expected);
        }
    }

    fn assert_mistake(flags: &Flags, environment: &[(String, String)], expected: &str) {
        let error = Settings::resolve(flags, environment).expect_err("it is a mistake").to_string();
        assert!(error.contains(expected), "{error:?} should say {expected:?}");
    }

    #[test]
    fn a_named_file_must_exist() {
        let missing = std::path::Path::new("/nonexistent/jigap.toml");
        let error = Settings::resolve(&flags(Some(missing), &[]), &[]).expect_err("there is no file");
        assert!(error.to_string().contains("cannot read /nonexistent/jigap.toml"), "{error}");
    }

    #[test]
    fn edit_distance_counts_changes() {
        assert_eq!(edit_distance("listen", "listen"), 0);
        assert_eq!(edit_distance("lissten", "listen"), 1);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
    }
}
