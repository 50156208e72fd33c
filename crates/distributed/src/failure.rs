//! What went wrong with a database, and what may be concluded from it.

use std::fmt;

use coordinator::port::NoAnswer;

/// What may be concluded from a failed statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conclusion {
    /// Another transaction is in the way. This one did nothing; the same again may succeed at once.
    Busy,
    /// The connection is gone, or too slow. The last statement may have been executed.
    Lost,
    /// The database refuses for a reason that stays until somebody removes it. This transaction did nothing.
    Refused,
}

/// A statement that failed, or a connection that could not be made.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) conclusion: Conclusion,
    /// The database's own code (SQLSTATE, or MariaDB's number); empty when it said nothing.
    pub(super) code: String,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn busy(message: impl Into<String>) -> Failure {
        Failure { conclusion: Conclusion::Busy, code: String::new(), message: message.into() }
    }

    pub(super) fn lost(message: impl Into<String>) -> Failure {
        Failure { conclusion: Conclusion::Lost, code: String::new(), message: message.into() }
    }

    pub(super) fn refused(message: impl Into<String>) -> Failure {
        Failure { conclusion: Conclusion::Refused, code: String::new(), message: message.into() }
    }

    /// True when a row with this primary key is there already.
    pub(super) fn is_duplicate(&self) -> bool {
        matches!(self.code.as_str(), "23505" | "1062")
    }

    /// Of a statement whose transaction was certainly not committed: whatever happened, nothing was done.
    pub(super) fn before_commit(&self) -> NoAnswer {
        NoAnswer::Busy(self.to_string())
    }

    /// Of a statement that commits: only the database's own word is certain.
    pub(super) fn at_commit(&self) -> NoAnswer {
        match self.conclusion {
            Conclusion::Busy => NoAnswer::Busy(self.to_string()),
            Conclusion::Lost | Conclusion::Refused => NoAnswer::Unknown(self.to_string()),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)?;
        if self.code.is_empty() { Ok(()) } else { write!(formatter, " ({})", self.code) }
    }
}

/// What a SQLSTATE of PostgreSQL means for us.
pub(super) fn of_sqlstate(code: &str, message: String) -> Failure {
    let conclusion = match code {
        // Serialization failure, deadlock, lock time-out, statement time-out, too many connections, and a gid that is being prepared.
        "40001" | "40P01" | "55P03" | "57014" | "53300" => Conclusion::Busy,
        // Administrator's shutdown, crash shutdown, not up yet, idle in a transaction for too long.
        "57P01" | "57P02" | "57P03" | "25P03" => Conclusion::Lost,
        code if code.starts_with("08") => Conclusion::Lost,
        _ => Conclusion::Refused,
    };
    let message = match code {
        "53100" => format!("the disk of the database is full: {message}"),
        "42501" => format!("the database user lacks a permission: {message}"),
        "42P01" | "42703" => {
            format!("the schema is not the expected one (run `jigap sql migrate`): {message}")
        }
        "25006" => format!("the database is read-only: {message}"),
        _ => message,
    };
    Failure { conclusion, code: code.to_owned(), message }
}

/// What an error number of MariaDB means for us.
pub(super) fn of_mariadb(number: u16, message: String) -> Failure {
    let conclusion = match number {
        // Lock wait time-out, deadlock (also as an XA branch sees them), statement time-out, too many connections.
        1205 | 1213 | 1614 | 1613 | 1969 | 1040 | 1203 => Conclusion::Busy,
        // Shutting down, killed, connection aborted, idle for too long.
        1053 | 1927 | 1152 | 1184 | 1317 | 4031 => Conclusion::Lost,
        _ => Conclusion::Refused,
    };
    let message = match number {
        1021 | 1114 => format!("the disk of the database is full: {message}"),
        1044 | 1045 | 1142 | 1143 | 1227 => format!("the database user lacks a permission: {message}"),
        1146 | 1054 => format!("the schema is not the expected one (run `jigap sql migrate`): {message}"),
        1290 | 1792 => format!("the database is read-only: {message}"),
        _ => message,
    };
    Failure { conclusion, code: number.to_string(), message }
}
