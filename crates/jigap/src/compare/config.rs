//! The file that lists the wallets.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};

use super::chapter::{self, CHAPTER, Chapter};
use crate::bench::resolve;
use crate::exit::{Exit, Failure, OrExit};

/// Where nobody serves: gRPC only makes opening accounts faster.
const NO_GRPC: &str = "http://127.0.0.1:1";

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    /// The command that made the comparison, where it is another than this one.
    made_with: Option<String>,
    #[serde(default)]
    architecture: Vec<Listed>,
    #[serde(default)]
    reference: Vec<Reference>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Listed {
    name: String,
    server: String,
    grpc_server: Option<String>,
    label: Option<String>,
    note: Option<String>,
    kill: Option<String>,
    start: Option<String>,
}

/// Something else that was measured.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all(deserialize = "kebab-case"))]
pub(super) struct Reference {
    pub(super) name: String,
    pub(super) transfers_per_second: f64,
    pub(super) p50_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
    pub(super) note: Option<String>,
}

/// A wallet to be measured.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) chapter: &'static Chapter,
    pub(super) label: String,
    pub(super) note: Option<String>,
    pub(super) http: SocketAddr,
    pub(super) grpc: SocketAddr,
    /// Whether the file says where gRPC is served.
    pub(super) has_grpc: bool,
    pub(super) kill: Option<String>,
    pub(super) start: Option<String>,
}

/// All of the file.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) made_with: Option<String>,
    pub(super) entries: Vec<Entry>,
    pub(super) references: Vec<Reference>,
}

impl Config {
    /// Reads it, and finds what is wrong with it.
    pub(super) fn read(path: &Path) -> Result<Config, Failure> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))
            .or_exit(Exit::Usage)?;
        Config::parse(&text).map_err(|failure| Failure {
            error: failure.error.context(path.display().to_string()),
            ..failure
        })
    }

    fn parse(text: &str) -> Result<Config, Failure> {
        let file: File = toml::from_str(text)
            .map_err(|error| anyhow!("{}", error.to_string().trim_end()))
            .or_exit(Exit::Usage)?;
        if file.architecture.is_empty() {
            return Err(Failure::usage(
                "lists no wallet: it needs [[architecture]]; see `jigap compare --help`",
            ));
        }
        let entries: Vec<Entry> = file.architecture.into_iter().map(Entry::new).collect::<Result<_, _>>()?;
        let mut labels = HashSet::new();
        match entries.iter().find(|entry| !labels.insert(&entry.label)) {
            Some(twice) => Err(Failure::usage(format!(
                "two wallets are called {:?}: give one another `label`",
                twice.label
            ))),
            None => Ok(Config { made_with: file.made_with, entries, references: file.reference }),
        }
    }
}

impl Entry {
    fn new(listed: Listed) -> Result<Entry, Failure> {
        let Listed { name, server, grpc_server, label, note, kill, start } = listed;
        let Some(chapter) = chapter::of(&name) else {
            let known: Vec<&str> = CHAPTER.iter().map(|chapter| chapter.name).collect();
            return Err(Failure::usage(format!(
                "there is no architecture {name:?}; it must be one of {}",
                known.join(", ")
            )));
        };
        if start.is_some() && kill.is_none() {
            return Err(Failure::usage(format!("{name}: `start` is of no use without `kill`")));
        }
        Ok(Entry {
            chapter,
            label: label.unwrap_or(name),
            note,
            http: resolve("server", &server)?,
            has_grpc: grpc_server.is_some(),
            grpc: resolve("grpc-server", grpc_server.as_deref().unwrap_or(NO_GRPC))?,
            kill,
            start,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_or_refused_with_the_reason() {
        let right = "[[architecture]]\nname = \"tcc\"\nserver = \"http://127.0.0.1:9080\"\nkill = \"true\"\n\
                     [[reference]]\nname = \"pgbench\"\ntransfers-per-second = 5600.0\n";
        let config = Config::parse(right).map_err(|failure| failure.error).expect("it is right");
        assert_eq!((config.entries[0].label.as_str(), config.references.len()), ("tcc", 1));
        let wrong = [
            ("", "lists no wallet"),
            ("[[architecture]]\nname = \"tcc\"", "missing field `server`"),
            ("[[architecture]]\nname = \"tcc\"\nserver = \"a:1\"\nkil = \"x\"", "unknown field `kil`"),
            (
                "[[architecture]]\nname = \"sage\"\nserver = \"127.0.0.1:1\"",
                "must be one of redis, redis-tcc",
            ),
            (
                "[[architecture]]\nname = \"saga\"\nserver = \"127.0.0.1:1\"\nstart = \"x\"",
                "no use without `kill`",
            ),
            (&right.repeat(2), "two wallets are called \"tcc\""),
            ("[[architecture]]\nname = \"saga\"\nserver = \"127.0.0.1:x\"", "--server 127.0.0.1:x"),
        ];
        for (text, expected) in wrong {
            let failure = Config::parse(text).expect_err(expected);
            assert_eq!(failure.exit, Exit::Usage);
            let told = format!("{:#}", failure.error);
            assert!(told.contains(expected), "{told:?} should say {expected:?}");
        }
    }
}
