//! Descriptors that a program was started with, by their agreed numbers.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Takes over an open descriptor. `EBADF`: there is none of this number.
///
/// To be called once for each number, by the program that was started with it, before it opens anything itself.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: asks about a number; the answer for one that is not open is EBADF.
    // JUSTIFICATION: a number becomes a descriptor only by unsafe code.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and it was opened by whoever started this program, so nothing here owns it yet.
    // JUSTIFICATION: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes `source` known under a number that stays open on exec.
pub fn place(source: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    if source.as_raw_fd() == number {
        return Ok(rustix::io::fcntl_setfd(source, rustix::io::FdFlags::empty())?);
    }
    // SAFETY: a plain system call on numbers; the caller names one that no owner in this program has.
    // JUSTIFICATION: safe wrappers insist on an owner of the target.
    if unsafe { libc::dup2(source.as_raw_fd(), number) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_that_is_not_open_is_refused() {
        assert_eq!(inherited(9_999).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
