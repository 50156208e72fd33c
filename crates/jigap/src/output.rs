//! Printing: tables for people, JSON for programs.

use std::io::{self, ErrorKind, Write};

use comfy_table::{Attribute, Cell, Table, presets};
use serde_json::Value;

/// A table with these columns.
pub(crate) fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
    table.set_header(columns.iter().map(|column| Cell::new(column).add_attribute(Attribute::Bold)));
    table
}

/// Prints a table.
pub(crate) fn print_table(table: &Table) -> io::Result<()> {
    print_line(&table.to_string())
}

/// Prints one JSON value on one line.
pub(crate) fn print_json(value: &Value) -> io::Result<()> {
    print_line(&value.to_string())
}

/// Prints a line. Whoever reads may have seen enough and gone (`jigap ... | head`): that is no error.
pub(crate) fn print_line(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(line.as_bytes()).and_then(|()| stdout.write_all(b"\n")) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
