//! Anonymous files: how one program image of ours hands data to the next across `execve`.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::io::{FdFlags, fcntl_setfd};

/// An empty anonymous file, closed on exec.
pub fn create(name: &str) -> io::Result<File> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    Ok(File::from(fd))
}

/// An anonymous file with these contents, sealed against any change and rewound to its start.
pub fn sealed(name: &str, contents: &[u8]) -> io::Result<OwnedFd> {
    let mut file = create(name)?;
    file.write_all(contents)?;
    file.seek(SeekFrom::Start(0))?;
    fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(file.into())
}

/// Takes over a sealed anonymous file that the program image before this one left open across exec, by its number, and makes
/// it close on the next one. Anything else under that number, or nothing, is an error.
///
/// To be called once per number: the caller got it from whoever left it open, and is now its only owner.
pub fn adopt(number: RawFd) -> io::Result<File> {
    if number < 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: not -1, and used for two calls that fail on a number that is not open.
    // JUSTIFICATION: exec passes descriptors by number.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    if !fcntl_get_seals(borrowed)?.contains(SealFlags::SEAL) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    // SAFETY: the number is open, and by this function's contract nobody else in this process owns it.
    // JUSTIFICATION: as above.
    Ok(unsafe { File::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::IntoRawFd;

    use super::*;

    #[test]
    fn sealed_memfd_is_adopted_and_other_files_are_not() {
        let number = sealed("test", b"left open").unwrap().into_raw_fd();
        let mut text = String::new();
        adopt(number).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "left open");
        assert!(adopt(0).is_err());
        assert!(adopt(900).is_err());
        assert!(adopt(-1).is_err());
    }

    #[test]
    fn sealed_memfd_reads_back_and_refuses_writes() {
        let mut file = File::from(sealed("test", b"hello").unwrap());
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert!(file.write_all(b"x").is_err());
    }
}
