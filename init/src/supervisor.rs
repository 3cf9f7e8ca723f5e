//! Supervision: services started in order, kept running, stopped in order.
//!
//! [`core`] decides; it is a state machine without I/O or clock, and has the table of states. [`driver`] carries out: one
//! loop over everything that can happen. This module is the seam to the rest of PID 1: what supervision is given
//! ([`Setup`]), whom it talks through ([`Host`]), and how it ends ([`Verdict`]).
//!
//! A library rather than a part of the `init` program, so that tests can run it as an ordinary process with real
//! children. It knows nothing of boot, disks or Kubernetes.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use keelson_control::{BootDetails, ServiceName, ServiceSpec, ServiceStatus, ShutdownKind};
use thiserror::Error;

use crate::buttons::Buttons;
use crate::shutdown::Enforcer;

pub mod core;
mod driver;

pub use self::core::{SHUTDOWN_MAX, short};
pub use self::driver::{Cgroups, Containment, Usage};

/// The rest of PID 1, as seen from here. Nothing it does may wait.
pub trait Host {
    /// A line for a person.
    fn say(&mut self, severity: Severity, subject: &str, message: &dyn fmt::Display);

    /// Called about once a second for as long as the loop runs: a sign of life for the watchdog. `keeps_time`: the core does
    /// what is due when it is due.
    fn beat(&mut self, keeps_time: bool);

    /// Something for the boot history.
    fn note(&mut self, note: Note);

    /// Whether somebody may be looking at an overview now. Asked about once a second.
    fn is_watched(&mut self) -> bool;

    /// Shows how things are, if it is watched.
    fn show(&mut self, overview: &Overview<'_>);
}

/// How things are, for a person.
#[derive(Debug)]
pub struct Overview<'a> {
    pub services: Vec<ServiceStatus>,
    /// What services said of themselves last (`STATUS=`).
    pub words: BTreeMap<&'a ServiceName, &'a str>,
    /// What keelson-cluster has for the console, line by line.
    pub cluster: &'a str,
    pub ending: Option<ShutdownKind>,
}

/// What the boot history is told while the machine runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    MarkedGood,
    /// An end was asked for, and is under way.
    Ending {
        kind: ShutdownKind,
        reason: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
    Info,
}

/// Everything supervision needs to begin.
#[derive(Debug)]
pub struct Setup {
    /// PID 1's own services. All are wanted from the start.
    pub services: Vec<ServiceSpec>,
    /// The one that gets the other services' output.
    pub log_service: Option<ServiceName>,
    pub containment: Box<dyn Containment>,
    pub paths: Paths,
    /// /dev/kmsg, open for reading, to be handed to the log service.
    pub kernel_log: Option<OwnedFd>,
    /// Who may use the control socket: root.
    pub owner: u32,
    /// Whether the machine may be rebooted for a service that keeps failing. Not if that has been tried often enough.
    pub may_reboot: bool,
    /// Makes the jitter of restarts differ from machine to machine.
    pub seed: u64,
    /// The boot history, the present one last.
    pub boots: Vec<BootDetails>,
    /// Ends the machine if an ordered shutdown does not.
    pub enforcer: Option<Enforcer>,
    pub buttons: Buttons,
}

/// All below /run, which is memory.
#[derive(Debug, Clone)]
pub struct Paths {
    /// keelson-exec. Only children ever open it.
    pub exec: PathBuf,
    pub socket: PathBuf,
    pub notify: PathBuf,
    /// A copy of the applied set.
    pub set: PathBuf,
    /// Lines that keelson-cluster wants on the console.
    pub console: PathBuf,
}

/// The end of supervision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub kind: ShutdownKind,
    pub reason: String,
    /// The supervisor's own wish: a service kept failing.
    pub escalated: bool,
    /// Services that could not be stopped.
    pub left: Vec<ServiceName>,
}

/// Supervision could not begin, or lost its loop. There is no second way to supervise.
#[derive(Debug, Error)]
pub enum SupervisorError {
    #[error("cannot set up {what}")]
    SetUp { what: &'static str, source: io::Error },
    #[error("cannot wait for events")]
    Wait(#[source] io::Error),
}

/// Supervises until the machine is to end.
pub fn run(host: &mut dyn Host, setup: Setup) -> Result<Verdict, SupervisorError> {
    driver::Driver::new(host, setup)?.live()
}
