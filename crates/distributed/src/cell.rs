//! Values on their way between our rows and a database's, the same for every database.

use ledger::TransactionId;

use super::failure::Failure;

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cell {
    Null,
    Integer(i64),
    Flag(bool),
    Text(String),
    Bytes(Vec<u8>),
    Id(TransactionId),
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Integer,
    Flag,
    Text,
    Bytes,
    /// A UUID: `uuid` in PostgreSQL, `BINARY(16)` in MariaDB.
    Id,
}

/// One row as it came from a database. Getters check what is there: rows may have been changed by hand.
#[derive(Debug, Clone)]
pub(super) struct Row(pub(super) Vec<Cell>);

impl Row {
    fn unexpected(&self, index: usize, wanted: &str) -> Failure {
        Failure::refused(format!("column {index} of a row holds {:?} and not {wanted}", self.0.get(index)))
    }

    pub(super) fn integer(&self, index: usize) -> Result<i64, Failure> {
        match self.0.get(index) {
            Some(Cell::Integer(value)) => Ok(*value),
            Some(Cell::Flag(value)) => Ok(i64::from(*value)),
            _ => Err(self.unexpected(index, "an integer")),
        }
    }

    pub(super) fn number<Number: TryFrom<i64>>(&self, index: usize) -> Result<Number, Failure> {
        Number::try_from(self.integer(index)?).map_err(|_| self.unexpected(index, "a number in range"))
    }

    pub(super) fn flag(&self, index: usize) -> Result<bool, Failure> {
        Ok(self.integer(index)? != 0)
    }

    pub(super) fn text(&self, index: usize) -> Result<&str, Failure> {
        let text = match self.0.get(index) {
            Some(Cell::Text(text)) => Some(text.as_str()),
            Some(Cell::Bytes(bytes)) => std::str::from_utf8(bytes).ok(),
            _ => None,
        };
        text.ok_or_else(|| self.unexpected(index, "text"))
    }

    pub(super) fn bytes(&self, index: usize) -> Result<&[u8], Failure> {
        match self.0.get(index) {
            Some(Cell::Bytes(bytes)) => Ok(bytes),
            _ => Err(self.unexpected(index, "bytes")),
        }
    }

    pub(super) fn id(&self, index: usize) -> Result<TransactionId, Failure> {
        match self.0.get(index) {
            Some(Cell::Id(id)) => Ok(*id),
            Some(Cell::Bytes(bytes)) => <[u8; 16]>::try_from(bytes.as_slice())
                .map(TransactionId::from_bytes)
                .map_err(|_| self.unexpected(index, "a UUID")),
            _ => Err(self.unexpected(index, "a UUID")),
        }
    }

    /// The value of a column that may be empty.
    pub(super) fn optional<'row, Value>(
        &'row self,
        index: usize,
        get: impl FnOnce(&'row Row, usize) -> Result<Value, Failure>,
    ) -> Result<Option<Value>, Failure> {
        match self.0.get(index) {
            Some(Cell::Null) => Ok(None),
            _ => get(self, index).map(Some),
        }
    }
}
