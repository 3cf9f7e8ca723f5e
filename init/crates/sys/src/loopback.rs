//! Loop devices: a file as a block device. See loop(4).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

/// How often a free device is asked for: between asking and configuring, somebody else may take it. At boot nobody does.
const ATTEMPTS: usize = 8;

/// A configured loop device. The device lives on after this is dropped only if something has it open, such as a mount.
#[derive(Debug)]
pub struct LoopDevice {
    pub path: PathBuf,
    /// Kept open until mounted: with autoclear the last close unbinds the device.
    pub device: File,
}

/// Binds `backing` read-only to a free loop device, which unbinds itself after its last user.
pub fn attach_read_only(backing: &File) -> io::Result<LoopDevice> {
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
    let mut last = io::Error::from_raw_os_error(libc::EBUSY);
    for _ in 0..ATTEMPTS {
        // SAFETY: the request takes no argument and the descriptor is open.
        // JUSTIFICATION: neither nix nor rustix wraps the loop driver's requests.
        let number = unsafe { raw::get_free(control.as_raw_fd()) }?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = OpenOptions::new().read(true).open(&path)?;
        match configure(&device, backing) {
            Ok(()) => return Ok(LoopDevice { path, device }),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

fn configure(device: &File, backing: &File) -> io::Result<()> {
    let config = LoopConfig {
        fd: u32::try_from(backing.as_raw_fd()).map_err(io::Error::other)?,
        block_size: 0,
        info: LoopInfo64 { flags: LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR, ..LoopInfo64::default() },
        reserved: [0; 8],
    };
    // SAFETY: `config` has the layout of struct loop_config and names an open descriptor; the kernel only reads it during
    // the call.
    // JUSTIFICATION: neither nix nor rustix wraps the loop driver's requests.
    unsafe { raw::configure(device.as_raw_fd(), &raw const config) }?;
    Ok(())
}

const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
#[derive(Debug)]
pub struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
#[derive(Debug)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

impl Default for LoopInfo64 {
    fn default() -> Self {
        Self {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: 0,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        }
    }
}

mod raw {
    nix::ioctl_none_bad!(get_free, 0x4C82);
    nix::ioctl_write_ptr_bad!(configure, 0x4C0A, super::LoopConfig);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_has_the_kernels_size() {
        assert_eq!(size_of::<LoopInfo64>(), 232);
        assert_eq!(size_of::<LoopConfig>(), 304);
    }
}
