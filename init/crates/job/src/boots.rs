//! The boot history's records, as they stand in `/state/boots/`.
//!
//! A record is begun as soon as STATE is mounted, brought up to date while the machine runs, and completed by an ordered end.
//! What a boot that ended otherwise can no longer say is told by the next one: [`Death`] is in the record after it.
//!
//! The records are JSON in files that carry their version (keelson-exec, `durable`). A field that later releases add has a
//! default and unknown ones are passed over, so that a history can be read by the release before.

use serde::{Deserialize, Serialize};

/// One boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootRecord {
    /// From 1, one more each boot of this STATE.
    pub number: u64,
    /// The image's version.
    pub version: String,
    /// Wall clock at the boot, seconds since the epoch.
    pub booted_at: u64,
    /// `/proc/sys/kernel/random/boot_id`
    #[serde(default)]
    pub boot_id: String,
    /// The root hash by which the image was verified; empty where nothing was.
    #[serde(default)]
    pub image: String,
    /// What this boot found out about the end of the one before it.
    #[serde(default)]
    pub before: Death,
    /// How far it has come, as it was last written.
    #[serde(default)]
    pub progress: Progress,
    /// Absent when the machine ended without an ordered shutdown: a crash, a power cut, or a boot that still runs.
    pub end: Option<BootEnd>,
}

/// What is known of a boot that runs. Written as a whole each time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Wall clock, seconds since the epoch.
    pub at: u64,
    /// Time since the kernel started.
    pub up_milliseconds: u64,
    /// The last phase that was reached.
    pub phase: String,
    /// Name, start and length in milliseconds of each phase.
    pub phases: Vec<(String, u64, u64)>,
    /// The node was found to be well (`mark-boot-good`).
    pub good: bool,
    /// An end that was asked for and is under way. Without an [`BootEnd`] it did not come about in order.
    pub ending: Option<String>,
    /// What the watchdog says of the boot before this one.
    pub watchdog: Option<String>,
}

/// How a boot ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootEnd {
    /// Wall clock, seconds since the epoch.
    pub at: u64,
    /// "reboot", "power off" or "hold".
    pub action: String,
    pub reason: String,
    #[serde(default)]
    pub cause: Cause,
}

/// Whose wish an end was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// A person's or a program's.
    #[default]
    Asked,
    /// The supervisor's, because a service kept failing.
    Ladder,
    /// PID 1's own, because it could not go on.
    Failure,
}

/// What a boot left behind that ended without a word.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    /// The kernel's last lines, the last one last, if it could still save them (pstore). All that it saved is in
    /// `/state/boots/<number>.pstore/`.
    pub last_messages: Vec<String>,
}

/// Boots that ended by themselves within this time from their start count as failed.
const QUICK_MILLISECONDS: u64 = 60 * 60 * 1000;

impl BootRecord {
    /// Whether it ended by a failure of its own, soon after it began.
    fn has_failed(&self) -> bool {
        let own = |end: &BootEnd| end.cause != Cause::Asked && end.action == "reboot";
        self.end.as_ref().is_some_and(own) && self.progress.up_milliseconds < QUICK_MILLISECONDS
    }

    /// How many of the latest boots failed, one after the other.
    pub fn failed_in_a_row(history: &[Self]) -> u32 {
        let failed = history.iter().rev().take_while(|record| record.has_failed()).count();
        u32::try_from(failed).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(cause: Option<Cause>, minutes: u64) -> BootRecord {
        let end = |cause| BootEnd { at: 1, action: "reboot".to_owned(), reason: String::new(), cause };
        let progress = Progress { up_milliseconds: minutes * 60_000, ..Progress::default() };
        BootRecord { end: cause.map(end), progress, ..BootRecord::default() }
    }

    #[test]
    fn only_failures_of_ones_own_in_a_row_are_counted() {
        let failed = || boot(Some(Cause::Ladder), 9);
        assert_eq!(BootRecord::failed_in_a_row(&[]), 0);
        assert_eq!(BootRecord::failed_in_a_row(&[failed(), boot(Some(Cause::Failure), 1)]), 2);
        assert_eq!(BootRecord::failed_in_a_row(&[failed(), boot(Some(Cause::Asked), 9), failed()]), 1);
        // A power cut, and a boot that was of use for hours.
        assert_eq!(BootRecord::failed_in_a_row(&[failed(), boot(None, 1)]), 0);
        assert_eq!(BootRecord::failed_in_a_row(&[failed(), boot(Some(Cause::Ladder), 61)]), 0);
    }

    #[test]
    fn record_of_the_first_release_is_still_read() {
        let old = r#"{"number":3,"version":"0.1.0","booted_at":5,"end":{"at":9,"action":"reboot","reason":"asked","phase":"memory","phases":[["disks",1,2]]}}"#;
        let record: BootRecord = serde_json::from_str(old).unwrap();
        assert_eq!((record.number, record.end.unwrap().cause), (3, Cause::Asked));
        assert_eq!(record.progress, Progress::default());
    }
}
