//! The machine's end, and the keys that ask for it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};

use rustix::system::{RebootCommand, reboot};

/// How the kernel is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Reboot,
    PowerOff,
}

/// Ends the machine at once: no sync, no unmount. Returns only on failure. See reboot(2).
pub fn end(how: End) -> io::Error {
    let command = match how {
        End::Reboot => RebootCommand::Restart,
        End::PowerOff => RebootCommand::PowerOff,
    };
    match reboot(command) {
        Ok(()) => io::Error::other("the reboot call returned"),
        Err(error) => error.into(),
    }
}

/// What is left when reboot(2) hangs in a driver: a restart that asks no driver, waits for no lock of the kernel's own, and stops at
/// nothing (sysrq's `b`, Documentation/admin-guide/sysrq.rst). Opened while all is well.
#[derive(Debug)]
pub struct EmergencyRestart {
    trigger: File,
}

impl EmergencyRestart {
    pub fn prepare() -> io::Result<Self> {
        Ok(Self { trigger: OpenOptions::new().write(true).open("/proc/sysrq-trigger")? })
    }

    /// Returns only on failure.
    pub fn restart(&self) -> io::Error {
        match (&self.trigger).write_all(b"b") {
            Ok(()) => io::Error::other("the emergency restart returned"),
            Err(error) => error,
        }
    }
}

/// Makes ctrl-alt-del send SIGINT to PID 1 instead of rebooting without a sync.
pub fn ctrl_alt_del_signals() -> io::Result<()> {
    Ok(reboot(RebootCommand::CadOff)?)
}

/// Makes ctrl-alt-del restart the machine at once, by the kernel's own hand: for when nobody in userspace may be left who
/// could.
pub fn ctrl_alt_del_restarts() -> io::Result<()> {
    Ok(reboot(RebootCommand::CadOn)?)
}
