//! The ext4 file system's own requests.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Grows the mounted file system that `inside` is in to so many blocks. It stays in use meanwhile.
pub fn resize(inside: &File, blocks: u64) -> io::Result<()> {
    // SAFETY: the request reads one 64-bit number, which `blocks` is for the length of the call.
    // JUSTIFICATION: neither nix nor rustix wraps EXT4_IOC_RESIZE_FS.
    unsafe { raw::resize(inside.as_raw_fd(), &raw const blocks) }?;
    Ok(())
}

mod raw {
    nix::ioctl_write_ptr!(resize, b'f', 16, u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_file_systems_refuse() {
        assert!(resize(&File::open("/proc").unwrap(), 1).is_err());
    }
}
