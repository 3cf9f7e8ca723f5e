//! What is chosen from a list, or by a number with a meaning of its own.

use std::time::Duration;

use super::SettingsError;
use super::take::{Take, parse_duration};
use crate::member;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    Off,
    /// Keep the history of this time.
    Periodic(Duration),
    /// Keep this many revisions.
    Revisions(i64),
}

impl Take<'_> {
    pub(super) fn connections(&self) -> Result<usize, SettingsError> {
        let number = self.number("max-connections", 65_536, 1..=i64::from(u32::MAX), "1 to 4294967295")?;
        Ok(usize::try_from(number).unwrap_or(usize::MAX))
    }

    pub(super) fn streams(&self) -> Result<u32, SettingsError> {
        let number =
            self.number("max-concurrent-streams", i64::from(u32::MAX), 1..=i64::from(u32::MAX), "1 to 4294967295")?;
        Ok(u32::try_from(number).unwrap_or(u32::MAX))
    }

    /// As many as the members' changes take in any case, those that are to vote and learn first among them. etcd's default is 1.
    pub(super) fn learners(&self) -> Result<usize, SettingsError> {
        let most = i64::from(member::MOST_LEARNERS);
        let number = self.number("max-learners", most, 1..=most, "1 to 16")?;
        Ok(usize::try_from(number).unwrap_or(1))
    }

    pub(super) fn extensive_metrics(&self) -> Result<bool, SettingsError> {
        let Some(word) = self.word("metrics") else { return Ok(false) };
        match word.value.as_str() {
            "basic" => Ok(false),
            "extensive" => Ok(true),
            _ => Err(Self::wrong(word, "level of detail: basic or extensive")),
        }
    }

    /// etcd's list of features that are turned on or off; those without a meaning here are taken all the same.
    pub(super) fn lease_checkpoints(&self) -> Result<bool, SettingsError> {
        const KNOWN: [&str; 11] = [
            "AllAlpha",
            "AllBeta",
            "CompactHashCheck",
            "FastLeaseKeepAlive",
            "InitialCorruptCheck",
            "LeaseCheckpoint",
            "LeaseCheckpointPersist",
            "PriorityRequest",
            "SetMemberLocalAddr",
            "StopGRPCServiceOnDefrag",
            "TxnModeWriteWithSharedBuffer",
        ];
        let Some(word) = self.word("feature-gates") else { return Ok(false) };
        let mut on = false;
        for gate in word.value.split(',').map(str::trim).filter(|gate| !gate.is_empty()) {
            let (name, truth) = gate.split_once('=').unwrap_or((gate, ""));
            if !KNOWN.contains(&name) || !matches!(truth, "true" | "false") {
                return Err(Self::wrong(word, "list of etcd's features such as LeaseCheckpoint=true"));
            }
            on |= truth == "true" && matches!(name, "LeaseCheckpoint" | "LeaseCheckpointPersist" | "AllAlpha");
        }
        Ok(on)
    }

    pub(super) fn auto_compaction(&self) -> Result<AutoCompaction, SettingsError> {
        let Some(retention) = self.word("auto-compaction-retention") else { return Ok(AutoCompaction::Off) };
        let number = retention.value.parse::<u32>().ok();
        if number == Some(0) {
            return Ok(AutoCompaction::Off);
        }
        match (self.text("auto-compaction-mode").unwrap_or("periodic"), number) {
            ("revision", Some(revisions)) => Ok(AutoCompaction::Revisions(i64::from(revisions))),
            ("revision", None) => Err(Self::wrong(retention, "number of revisions")),
            ("periodic", Some(hours)) => Ok(AutoCompaction::Periodic(Duration::from_secs(u64::from(hours) * 3600))),
            ("periodic", None) => match parse_duration(&retention.value) {
                Some(Duration::ZERO) => Ok(AutoCompaction::Off),
                Some(time) => Ok(AutoCompaction::Periodic(time)),
                None => Err(Self::wrong(retention, "number of hours or duration such as 5m")),
            },
            _ => match self.word("auto-compaction-mode") {
                Some(mode) => Err(Self::wrong(mode, "mode of compaction: periodic or revision")),
                None => Ok(AutoCompaction::Off),
            },
        }
    }

    pub(super) fn log_level(&self) -> Result<tracing::Level, SettingsError> {
        let Some(word) = self.word("log-level") else { return Ok(tracing::Level::INFO) };
        match word.value.as_str() {
            "debug" => Ok(tracing::Level::DEBUG),
            "info" => Ok(tracing::Level::INFO),
            "warn" => Ok(tracing::Level::WARN),
            // zap's levels above error differ in what they do, not in what passes.
            "error" | "dpanic" | "panic" | "fatal" => Ok(tracing::Level::ERROR),
            _ => Err(Self::wrong(word, "log level: debug, info, warn, error")),
        }
    }
}
