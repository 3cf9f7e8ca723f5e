//! Keeping PID 1 in memory.

use std::io;

use nix::sys::mman::{MlockAllFlags, mlockall};

/// Locks everything that is mapped now into memory and whatever is mapped later as soon as it is touched.
///
/// PID 1's text is read from the root disk: without this a hung disk would stop the very thread that must end the machine.
/// Later mappings are locked on fault only, so that the unused part of a thread's stack costs nothing. See mlockall(2): the
/// second call leaves what the first one did alone, because it does not name `MCL_CURRENT`.
pub fn lock_all() -> io::Result<()> {
    mlockall(MlockAllFlags::MCL_CURRENT)?;
    // MCL_ONFAULT (4) is not named by nix.
    mlockall(MlockAllFlags::MCL_FUTURE | MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT))?;
    Ok(())
}
