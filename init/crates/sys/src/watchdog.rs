//! Hardware watchdogs by their device file. See linux/watchdog.h and the kernel's watchdog-api.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

/// For a device whose timeout is not known: hardly any has less than some seconds.
const INTERVAL_UNKNOWN: Duration = Duration::from_secs(1);

/// An armed watchdog. Opening it starts it. Dropping it leaves it armed: the character that would disarm it is never written.
#[derive(Debug)]
pub struct Watchdog {
    device: File,
    timeout: Option<Duration>,
}

impl Watchdog {
    pub fn arm(path: &Path) -> io::Result<Self> {
        let device = OpenOptions::new().write(true).open(path)?;
        let timeout = timeout_of(&device).ok();
        Ok(Self { device, timeout })
    }

    /// After how long without being fed the machine is reset, if the device tells.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Asks for another timeout. The hardware may make another one of it.
    pub fn set_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        let mut seconds = libc::c_int::try_from(timeout.as_secs()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the request takes a pointer to one int, which `seconds` is for the length of the call.
        // JUSTIFICATION: neither nix nor rustix wraps watchdog requests.
        unsafe { raw::set_timeout(self.device.as_raw_fd(), &raw mut seconds) }?;
        self.timeout = Some(whole_seconds(seconds));
        Ok(())
    }

    /// How often it is to be fed: several chances within its timeout, whatever that is.
    pub fn interval(&self) -> Duration {
        self.timeout.map_or(INTERVAL_UNKNOWN, |timeout| timeout / 4)
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

fn timeout_of(device: &File) -> io::Result<Duration> {
    let mut seconds: libc::c_int = 0;
    // SAFETY: the request writes one int, which `seconds` is for the length of the call.
    // JUSTIFICATION: neither nix nor rustix wraps watchdog requests.
    unsafe { raw::timeout(device.as_raw_fd(), &raw mut seconds) }?;
    Ok(whole_seconds(seconds))
}

fn whole_seconds(seconds: libc::c_int) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

/// linux/watchdog.h
const WDIOF_CARDRESET: libc::c_int = 0x20;

mod raw {
    nix::ioctl_read!(boot_status, b'W', 2, libc::c_int);
    nix::ioctl_readwrite!(set_timeout, b'W', 6, libc::c_int);
    nix::ioctl_read!(timeout, b'W', 7, libc::c_int);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_fed_well_within_its_timeout_and_each_second_if_that_is_unknown() {
        let device = tempfile::NamedTempFile::new().unwrap();
        let mut watchdog = Watchdog::arm(device.path()).unwrap();
        assert_eq!((watchdog.timeout(), watchdog.interval()), (None, INTERVAL_UNKNOWN));
        for seconds in [10, 60] {
            watchdog.timeout = Some(Duration::from_secs(seconds));
            assert!(watchdog.interval() * 3 < Duration::from_secs(seconds), "{seconds}");
        }
    }
}
