//! Rows in the binary form of PostgreSQL's COPY.
//!
//! ```text
//! file: "PGCOPY\n" ff 0d 0a 00, flags u32 = 0, extension u32 = 0, row …, ff ff
//! row:  number of fields i16, field …
//! field: size i32 (-1: NULL), bytes
//! ```
//!
//! All numbers are big-endian. <https://www.postgresql.org/docs/current/sql-copy.html>. The driver's own writer crosses into its runtime for
//! every row, which costs more than the row.

use crate::sql_view::rows::Id;

const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();
/// From 1970 to 2000, where PostgreSQL's time begins.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
/// The version of jsonb's binary form.
const JSONB_VERSION: u8 = 1;

/// Collects rows. Every row has the fields that it announces, in the order of the columns.
#[derive(Default)]
pub(super) struct CopyBuffer(Vec<u8>);

impl CopyBuffer {
    pub(super) fn begin(&mut self) {
        self.0.clear();
        self.0.extend_from_slice(HEADER);
    }

    pub(super) fn finish(&mut self) -> &[u8] {
        self.0.extend_from_slice(&TRAILER);
        &self.0
    }

    pub(super) fn row(&mut self, fields: i16) {
        self.0.extend_from_slice(&fields.to_be_bytes());
    }

    fn field(&mut self, bytes: &[u8]) {
        let size = i32::try_from(bytes.len()).expect("a text of an event is far below 2 GiB");
        self.0.extend_from_slice(&size.to_be_bytes());
        self.0.extend_from_slice(bytes);
    }

    fn null(&mut self) {
        self.0.extend_from_slice(&(-1_i32).to_be_bytes());
    }

    pub(super) fn text(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.field(text.as_bytes()),
            None => self.null(),
        }
    }

    pub(super) fn bigint(&mut self, number: Option<i64>) {
        match number {
            Some(number) => self.field(&number.to_be_bytes()),
            None => self.null(),
        }
    }

    /// Microseconds since 1970, as `timestamptz`.
    pub(super) fn timestamp(&mut self, micros: Option<i64>) {
        self.bigint(micros.map(|micros| micros.saturating_sub(EPOCH_MICROS)));
    }

    pub(super) fn uuid(&mut self, id: Option<Id>) {
        match id {
            Some(id) => self.field(&id),
            None => self.null(),
        }
    }

    pub(super) fn jsonb(&mut self, json: &str) {
        let size = i32::try_from(json.len() + 1).expect("the notes of an event are far below 2 GiB");
        self.0.extend_from_slice(&size.to_be_bytes());
        self.0.push(JSONB_VERSION);
        self.0.extend_from_slice(json.as_bytes());
    }
}
