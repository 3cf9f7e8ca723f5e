//! Arguments of the tools: flags in Go's forms, and a known number of others.

use std::collections::BTreeMap;

#[derive(Debug, thiserror::Error)]
pub(super) enum ArgumentsError {
    #[error("{0}: this is no flag of this command")]
    Unknown(String),
    #[error("--{0}: a value is missing")]
    NoValue(String),
    #[error("--{name}: {value:?} is no {expected}")]
    Value { name: String, value: String, expected: &'static str },
    #[error("--{0} must be given")]
    Missing(&'static str),
    #[error("this command takes {expected} argument(s) that are no flags, and was given {given}")]
    Count { expected: usize, given: usize },
}

#[derive(Debug, Default)]
pub(super) struct Arguments {
    values: BTreeMap<String, String>,
    switches: BTreeMap<String, bool>,
    positions: Vec<String>,
    expected: usize,
    pub(super) help: bool,
}

impl Arguments {
    pub(super) fn read(
        mut arguments: impl Iterator<Item = String>,
        values: &[&str],
        switches: &[&str],
        expected: usize,
    ) -> Result<Self, ArgumentsError> {
        let mut read = Self { expected, ..Self::default() };
        while let Some(argument) = arguments.next() {
            let Some(body) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
                read.positions.push(argument);
                continue;
            };
            let (name, value) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (body, None),
            };
            let name = if name == "w" { "write-out" } else { name };
            if matches!(name, "h" | "help") {
                read.help = true;
                return Ok(read);
            } else if switches.contains(&name) {
                let truth = match value.as_deref() {
                    None | Some("true" | "1" | "t") => true,
                    Some("false" | "0" | "f") => false,
                    Some(other) => {
                        let (name, value) = (name.to_owned(), other.to_owned());
                        return Err(ArgumentsError::Value { name, value, expected: "truth value" });
                    }
                };
                read.switches.insert(name.to_owned(), truth);
            } else if values.contains(&name) {
                let value = value.or_else(|| arguments.next());
                let value = value.ok_or_else(|| ArgumentsError::NoValue(name.to_owned()))?;
                read.values.insert(name.to_owned(), value);
            } else {
                return Err(ArgumentsError::Unknown(argument));
            }
        }
        if read.positions.len() == expected {
            return Ok(read);
        }
        Err(ArgumentsError::Count { expected, given: read.positions.len() })
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    pub(super) fn required(&self, name: &'static str) -> Result<&str, ArgumentsError> {
        self.text(name).ok_or(ArgumentsError::Missing(name))
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, ArgumentsError> {
        let number = |value: &str| {
            let wrong =
                |_| ArgumentsError::Value { name: name.to_owned(), value: value.to_owned(), expected: "whole number" };
            value.parse().map_err(wrong)
        };
        self.text(name).map(number).transpose()
    }

    pub(super) fn switch(&self, name: &str) -> bool {
        self.switches.get(name).copied().unwrap_or(false)
    }

    pub(super) fn position(&self, index: usize) -> Result<&str, ArgumentsError> {
        let missing = ArgumentsError::Count { expected: self.expected, given: self.positions.len() };
        self.positions.get(index).map(String::as_str).ok_or(missing)
    }
}
