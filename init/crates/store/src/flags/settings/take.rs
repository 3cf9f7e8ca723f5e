//! Values of all kinds, taken from what was said.

use std::time::Duration;

use super::SettingsError;
use crate::flags::words::{Word, Words};

pub(super) struct Take<'a> {
    pub(super) words: &'a Words,
}

impl Take<'_> {
    /// An empty value means that none was given, as in etcd.
    pub(super) fn word(&self, name: &str) -> Option<&Word> {
        self.words.get(name).filter(|word| !word.value.is_empty())
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.word(name).map(|word| word.value.as_str())
    }

    pub(super) fn list(&self, name: &str) -> Option<Vec<String>> {
        let text = self.text(name)?;
        Some(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect())
    }

    pub(super) fn wrong(word: &Word, expected: &'static str) -> SettingsError {
        SettingsError::Value { source_name: word.source.clone(), value: word.value.clone(), expected }
    }

    /// Of a value that is not of its flag's type.
    pub(super) fn malformed(word: &Word, expected: &'static str) -> SettingsError {
        SettingsError::Malformed { source_name: word.source.clone(), value: word.value.clone(), expected }
    }

    pub(super) fn number(
        &self,
        name: &str,
        default: i64,
        range: std::ops::RangeInclusive<i64>,
        range_text: &'static str,
    ) -> Result<i64, SettingsError> {
        let Some(word) = self.word(name) else { return Ok(default) };
        let number: i64 = word.value.parse().map_err(|_| Self::malformed(word, "whole number"))?;
        if range.contains(&number) {
            return Ok(number);
        }
        let (source_name, value) = (word.source.clone(), word.value.clone());
        Err(SettingsError::Range { source_name, value, range: range_text })
    }

    pub(super) fn bounded(&self, name: &str, default: usize, largest: usize) -> Result<usize, SettingsError> {
        let largest = i64::try_from(largest).unwrap_or(i64::MAX);
        let default = i64::try_from(default).unwrap_or(i64::MAX);
        let range_text = "from 1 to what the log takes (16 MiB for a request)";
        let number = self.number(name, default, 1..=largest, range_text)?;
        Ok(usize::try_from(number).unwrap_or(usize::MAX))
    }

    pub(super) fn millis(&self, name: &str, default: i64) -> Result<Duration, SettingsError> {
        let number = self.number(name, default, 1..=50_000, "1 to 50000 milliseconds")?;
        Ok(Duration::from_millis(u64::try_from(number).unwrap_or(0)))
    }

    pub(super) fn duration(&self, name: &str, default: Duration) -> Result<Duration, SettingsError> {
        let Some(word) = self.word(name) else { return Ok(default) };
        // In its file etcd wants nanoseconds.
        let nanoseconds = word.value.parse().ok().map(Duration::from_nanos);
        nanoseconds
            .or_else(|| parse_duration(&word.value))
            .ok_or_else(|| Self::malformed(word, "duration such as 10m0s"))
    }

    pub(super) fn switch(&self, name: &str) -> Result<bool, SettingsError> {
        self.switch_or(name, false)
    }

    pub(super) fn switch_or(&self, name: &str, default: bool) -> Result<bool, SettingsError> {
        let Some(word) = self.word(name) else { return Ok(default) };
        // What Go's flags take.
        match word.value.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            _ => Err(Self::malformed(word, "truth value")),
        }
    }
}

/// Go's durations: numbers with units from hours to nanoseconds.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest == "0" {
        return Some(total);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(digits);
        let unit_len = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let (unit, after) = behind.split_at(unit_len);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}
