//! How a command ends: every exit code has one meaning, which `--help` lists.

use std::fmt;

/// The exit codes. Scripts may rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// It was done.
    Done = 0,
    /// The wallet refused: a business refusal, or a request that it finds malformed. Or what was asked is not so: a receipt that proves
    /// nothing, history that this program decides otherwise.
    Refused = 1,
    /// The command line, the environment or the configuration file is wrong.
    Usage = 2,
    /// No answer: whether it happened is unknown. Repeat with the same id.
    Unavailable = 3,
    /// Data on disk is damaged, or differs from what its history gives.
    Damaged = 4,
    /// The disk failed while serving. The process ended rather than answer what it could not keep.
    DiskFailed = 5,
    /// Another process has the data directory.
    Locked = 6,
    /// The data directory, or the database of a view, cannot be used: no permission, or written by another version.
    Directory = 7,
    /// Anything else that the operating system refused.
    Failed = 8,
    /// `reconcile`: the statement and the ledger do not say the same.
    Different = 9,
}

/// The list for `--help`.
pub(crate) const EXIT_CODES_HELP: &str = "\
Exit codes:
  0  done
  1  refused by the wallet (insufficient funds, no such account, ...), or not as it should be (receipt verify, upgrade-check)
  2  wrong command line, environment or configuration file
  3  unavailable: no answer in time; repeat with the same --id
  4  damaged data: the journal or the store is not what it must be
  5  the disk failed while serving; start again once it is mended
  6  another process has the data directory
  7  the data directory, or the database of a view, cannot be used (permission, version, another ledger)
  8  anything else
  9  reconcile: statement and ledger do not say the same";

/// Why a command did not end well.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) error: anyhow::Error,
}

impl Failure {
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Failure {
        Failure { exit, error: error.into() }
    }

    pub(crate) fn usage(message: impl fmt::Display) -> Failure {
        Failure { exit: Exit::Usage, error: anyhow::anyhow!("{message}") }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure { exit: Exit::Failed, error }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure { exit: Exit::Failed, error: error.into() }
    }
}

/// Gives an error the exit code that fits where it happened.
pub(crate) trait OrExit<Value> {
    fn or_exit(self, exit: Exit) -> Result<Value, Failure>;
}

impl<Value, Error: Into<anyhow::Error>> OrExit<Value> for Result<Value, Error> {
    fn or_exit(self, exit: Exit) -> Result<Value, Failure> {
        self.map_err(|error| Failure::new(exit, error))
    }
}
