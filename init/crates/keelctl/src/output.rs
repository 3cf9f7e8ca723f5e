//! What is printed: tables, JSON, YAML, errors.
//!
//! Text from a node may hold anything; control characters are taken out of it, so that a node cannot steer the terminal.

use std::{
    error::Error as StdError,
    io::{self, Write},
};

use serde::Serialize;

use crate::{
    cli::{Format, OutputFormat},
    error::Error,
};

/// Between columns, as kubectl has it.
const GAP: usize = 3;

/// Rows below headings. Columns are as wide as their widest cell; the last one is not padded.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(headings: [&str; N]) -> Self {
        Self { rows: vec![headings.map(str::to_owned).to_vec()] }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| clean(&cell)).to_vec());
    }

    fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or_default()
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let padding = width + GAP - cell.chars().count();
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', padding));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Prints a value in the form that was asked for.
pub(crate) fn print<T: Serialize>(format: Format, value: &T, table: impl FnOnce() -> Table) -> Result<(), Error> {
    match format.output {
        OutputFormat::Table => text(&table().render()),
        _ => structured(format, value),
    }
}

/// Prints a value as JSON or YAML.
pub(crate) fn structured<T: Serialize>(format: Format, value: &T) -> Result<(), Error> {
    let rendered = match format.output {
        OutputFormat::Yaml => serde_saphyr::to_string(value).map_err(|error| Error::Format(error.to_string()))?,
        _ => serde_json::to_string_pretty(value).map_err(|error| Error::Format(error.to_string()))? + "\n",
    };
    text(&rendered)
}

/// Prints a table whatever was asked for.
pub(crate) fn table(table: &Table) -> Result<(), Error> {
    text(&table.render())
}

pub(crate) fn line(line: &str) -> Result<(), Error> {
    text(&format!("{line}\n"))
}

pub(crate) fn text(text: &str) -> Result<(), Error> {
    bytes(text.as_bytes())
}

pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Error> {
    let mut output = io::stdout().lock();
    output.write_all(bytes).and_then(|()| output.flush()).map_err(Error::Output)
}

/// A word on the progress, beside the output.
pub(crate) fn note(text: &str) {
    // If nobody listens on standard error, there is nobody to tell.
    let _ = writeln!(io::stderr(), "{}", clean(text));
}

/// An error with its causes, on one line, and on one each what is wrong with a document.
pub(crate) fn error(error: &Error) {
    if !error.is_broken_pipe() {
        note(&format!("keelctl: {}", with_causes(error)));
    }
    for fault in error.faults() {
        let allowed = if fault.allowed.is_empty() { String::new() } else { format!("; allowed: {}", fault.allowed) };
        note(&format!("  {}: {}{allowed}", fault.field, fault.problem));
    }
}

/// Joins the levels of an error; a cause that its error has repeated already is left out.
pub(crate) fn with_causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let level = error.to_string();
        if !text.ends_with(&level) {
            text = format!("{text}: {level}");
        }
        cause = error.source();
    }
    text
}

/// Without characters that a terminal would obey.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["NAME", "STATE", "REASON"]);
        table.row(["kubelet".to_owned(), "ready".to_owned(), String::new()]);
        table.row(["ä".to_owned(), "waiting".to_owned(), "waits for a file\x1b[2J".to_owned()]);
        let expected = "NAME      STATE     REASON\nkubelet   ready\nä         waiting   waits for a file\u{fffd}[2J\n";
        assert_eq!(table.render(), expected);
    }

    #[test]
    fn causes_are_told_once() {
        let error = Error::Runtime(io::Error::other("no threads"));
        assert_eq!(with_causes(&error), "cannot start: no threads");
    }
}
