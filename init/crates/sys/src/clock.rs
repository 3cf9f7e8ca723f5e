//! Clocks: time since the kernel started, and the wall clock that boot may have to move.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

/// Time since the kernel started, suspension included (`CLOCK_BOOTTIME`). It is what printk's timestamps show, so lines
/// of PID 1 and of the kernel can be laid side by side.
pub fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// The wall clock, in time since the epoch. A clock before 1970 counts as the epoch.
pub fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Sets the wall clock. Needs `CAP_SYS_TIME`.
pub fn set_wall(since_epoch: Duration) -> io::Result<()> {
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(since_epoch))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_since_boot_moves_forward() {
        let before = since_boot();
        assert!(before > Duration::ZERO);
        assert!(since_boot() >= before);
    }
}
