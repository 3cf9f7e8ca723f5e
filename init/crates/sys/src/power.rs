//! The machine's end, and the keys that ask for it.

use std::io;

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

/// Makes ctrl-alt-del send SIGINT to PID 1 instead of rebooting without a sync.
pub fn ctrl_alt_del_signals() -> io::Result<()> {
    Ok(reboot(RebootCommand::CadOff)?)
}

/// Makes ctrl-alt-del restart the machine at once, by the kernel's own hand: for when nobody in userspace may be left who
/// could.
pub fn ctrl_alt_del_restarts() -> io::Result<()> {
    Ok(reboot(RebootCommand::CadOn)?)
}
