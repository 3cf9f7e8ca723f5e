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

/// Lets the wall clock drift by `offset_nanoseconds`, which the kernel's phase-locked loop works off slowly, and declares
/// it synchronised, so that the kernel also keeps the hardware clock (adjtimex(2)). The loop takes at most half a second.
/// `time_constant` is its stiffness, 0 to 10; larger suits longer polling intervals. Needs `CAP_SYS_TIME`.
pub fn slew_wall(offset_nanoseconds: i64, time_constant: u8, error: Duration) -> io::Result<()> {
    let error_microseconds = i64::try_from(error.as_micros()).unwrap_or(i64::MAX);
    // SAFETY: timex is plain integers, for which zero is a value.
    // JUSTIFICATION: it has private padding, so it cannot be written out.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    timex.modes = libc::ADJ_STATUS
        | libc::ADJ_NANO
        | libc::ADJ_OFFSET
        | libc::ADJ_TIMECONST
        | libc::ADJ_MAXERROR
        | libc::ADJ_ESTERROR;
    timex.status = libc::STA_PLL;
    timex.offset = offset_nanoseconds;
    timex.constant = i64::from(time_constant);
    timex.maxerror = error_microseconds;
    timex.esterror = error_microseconds;
    // SAFETY: the pointer is to a whole timex that outlives the call, and nobody else has it.
    // JUSTIFICATION: neither nix nor rustix wraps adjtimex.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    if state < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
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
