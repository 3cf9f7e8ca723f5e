//! Hardware watchdogs by their device file. See linux/watchdog.h and the kernel's watchdog-api.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

/// An armed watchdog. Opening it starts it. Dropping it leaves it armed: the character that would disarm it is never written.
#[derive(Debug)]
pub struct Watchdog {
    device: File,
}

impl Watchdog {
    pub fn arm(path: &Path) -> io::Result<Self> {
        let device = OpenOptions::new().write(true).open(path)?;
        Ok(Self { device })
    }

    /// Sets the time after which the machine is reset unless fed, and returns what the hardware made of it.
    pub fn set_timeout(&self, timeout: Duration) -> io::Result<Duration> {
        let mut seconds = libc::c_int::try_from(timeout.as_secs()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the request takes a pointer to one int, which `seconds` is for the length of the call.
        // JUSTIFICATION: neither nix nor rustix wraps watchdog requests.
        unsafe { raw::set_timeout(self.device.as_raw_fd(), &raw mut seconds) }?;
        Ok(Duration::from_secs(u64::try_from(seconds).unwrap_or_default()))
    }

    /// Whether the last reset was this watchdog's doing. Not every driver can tell; then it is `false`.
    pub fn has_reset_the_machine(&self) -> io::Result<bool> {
        let mut status: libc::c_int = 0;
        // SAFETY: the request writes one int, which `status` is for the length of the call.
        // JUSTIFICATION: neither nix nor rustix wraps watchdog requests.
        unsafe { raw::boot_status(self.device.as_raw_fd(), &raw mut status) }?;
        Ok(status & WDIOF_CARDRESET != 0)
    }

    /// Starts the countdown anew.
    pub fn feed(&mut self) -> io::Result<()> {
        self.device.write_all(b"\0")
    }
}

/// linux/watchdog.h
const WDIOF_CARDRESET: libc::c_int = 0x20;

mod raw {
    nix::ioctl_read!(boot_status, b'W', 2, libc::c_int);
    nix::ioctl_readwrite!(set_timeout, b'W', 6, libc::c_int);
}
