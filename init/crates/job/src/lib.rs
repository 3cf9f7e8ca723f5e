//! What PID 1 asks of keelson-exec, and what it gets back.
//!
//! A job is work that PID 1 must not do itself: parsing bytes that strangers wrote, and anything that touches a disk and so
//! may never return. PID 1 starts `keelson-exec JOB` with the [`Request`] as JSON in a sealed memfd ([`REQUEST_FD`]) and an
//! empty one for the answer ([`RESULT_FD`]), and waits with the request's own deadline. The answer is `Result<T, Fault>` as
//! JSON, where `T` is the request's report. It is whole when the last descriptor is closed that the job got ([`ANSWERED_FD`]).
//!
//! Both sides come from one image, so the form has no version.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use keelson_config::{NodeConfig, Remembered, StateSelection};
use serde::{Deserialize, Serialize};

mod boots;

pub use boots::{BootEnd, BootRecord, Cause, Death, Progress};

/// The program that does the jobs, in the initramfs.
pub const PROGRAM_OF_FIRST_STAGE: &str = "/keelson-exec";
/// The program that does the jobs.
pub const PROGRAM: &str = "/usr/bin/keelson-exec";
/// Where the job writes its answer.
pub const RESULT_FD: i32 = 3;
/// Where the job reads its request.
pub const REQUEST_FD: i32 = 4;
/// The end of a pipe that the job closes behind its answer. Its own end may come later, or never: one of its threads may sleep in the
/// kernel for a disk that does not answer.
pub const ANSWERED_FD: i32 = 5;

/// STATE is mounted here.
pub const STATE: &str = "/state";
/// DATA is mounted here.
pub const DATA: &str = "/var";
/// The user's disk of OCI archives is mounted here.
pub const USER_IMAGES: &str = "/run/keelson/user-images";

/// One job.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// In the first stage: finds the root that the kernel command line names by its hash, and has the kernel verify it.
    /// Answered by [`Root`].
    Root { command_line: CommandLine },
    /// Reads the sources for the one question that they answer before STATE can: where it is to be. Answered by [`Selection`].
    Selection { command_line: CommandLine },
    /// Finds or makes STATE and DATA, checks and mounts them, and lays out what services expect there. Answered by [`Disks`].
    Disks { command_line: CommandLine, selection: Selection },
    /// Reads what STATE remembers, credits the seed, begins this boot's record with what is known of the boot by then. Answered by
    /// [`State`].
    OpenState { booted_at: u64, progress: Progress },
    /// Reads the kernel command line, SMBIOS and `fw_cfg`, and what operators have told the node's cluster; what STATE
    /// remembers goes before them. Answered by [`Configuration`].
    Configuration { command_line: CommandLine, remembered: Remembered },
    /// Saves the clock and brings this boot's record up to date. Sent every few minutes, and when there is news. Answered by
    /// `()`.
    KeepState { progress: Progress },
    /// The same for the last time, with how the boot ended and the kernel's last messages. Answered by `()`.
    CloseState { progress: Progress, end: BootEnd },
    /// Finds and mounts the user's disk of images. Answered by [`UserImages`].
    UserImages,
    /// Reads files whole, so that whoever needs them finds them in memory. Answered by `()`.
    ReadAhead { files: Vec<PathBuf> },
}

/// The kernel's command line as PID 1 sees it. Everybody else, the jobs included, is shown one without its secrets (a patch in
/// kernel-config/patches), so it travels with the request.
#[derive(Clone, Serialize, Deserialize)]
pub struct CommandLine(pub Vec<u8>);

impl fmt::Debug for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Request {
    /// The job's name: its first argument, and what messages call it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Root { .. } => "root",
            Self::Selection { .. } => "selection",
            Self::Disks { .. } => "disks",
            Self::OpenState { .. } => "open-state",
            Self::Configuration { .. } => "configuration",
            Self::KeepState { .. } => "keep-state",
            Self::CloseState { .. } => "close-state",
            Self::UserImages => "user-images",
            Self::ReadAhead { .. } => "read-ahead",
        }
    }

    /// How long PID 1 waits. Generous, because an emulated or busy machine is slow and giving up means that the node does not
    /// come up; bounded, because a dead disk answers never.
    pub fn deadline(&self) -> Duration {
        Duration::from_secs(match self {
            Self::Selection { .. }
            | Self::Configuration { .. }
            | Self::UserImages
            | Self::OpenState { .. }
            | Self::ReadAhead { .. } => 60,
            // e2fsck of a large DATA after a crash is what takes time.
            Self::Disks { .. } => 1800,
            // A disk that spins up is waited for a minute.
            Self::Root { .. } => 90,
            Self::KeepState { .. } | Self::CloseState { .. } => 10,
        })
    }
}

/// Why a job did not do what it was asked. The message is for a person: a line per cause, what to do about it in the last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub message: String,
}

/// What the sources say.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Configuration {
    pub node: Box<NodeConfig>,
    /// The join token in clear: this answer is a memfd that only PID 1 can read, and goes to one file.
    pub token: Option<String>,
    /// User name and password by registry host, in clear like the token.
    pub registry_credentials: BTreeMap<String, (String, String)>,
    /// Why the node goes without what operators have told its cluster.
    pub note: Option<String>,
}

/// The verified root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// The mapped device, to be mounted.
    pub device: PathBuf,
    /// The partition behind it.
    pub found_on: PathBuf,
}

/// Where STATE is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    pub state: StateSelection,
    /// What is wrong with the sources else. A node that is told nonsense must not take a disk; one that has its disk hears it later, when
    /// STATE has had its say.
    pub fault: Option<String>,
}

/// Where STATE and DATA are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disks {
    /// A sentence for the console.
    pub summary: String,
    /// They live in memory and are gone after this boot.
    pub in_memory: bool,
    /// What e2fsck repaired, and the like.
    pub notes: Vec<String>,
}

/// What STATE remembers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// 32 lower-case hexadecimal digits, as machine-id(5) has them.
    pub machine_id: String,
    /// The wall clock when it was last saved, in seconds since the epoch.
    pub clock: Option<u64>,
    /// The boots before this one, the last one last; as many as are kept.
    pub history: Vec<BootRecord>,
    /// This boot's own, as it was begun.
    pub present: BootRecord,
    pub remembered: Remembered,
    pub notes: Vec<String>,
}

/// What became of the user's disk of images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserImages {
    /// The device that is mounted at [`USER_IMAGES`], if there is one.
    pub device: Option<String>,
}
