//! Block devices.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Makes the kernel read the partition table again. Fails with EBUSY while any partition of the disk is in use.
pub fn reread_partitions(disk: &File) -> io::Result<()> {
    // SAFETY: the request takes no argument and the descriptor is open.
    // JUSTIFICATION: neither nix nor rustix wraps BLKRRPART.
    unsafe { raw::reread_partitions(disk.as_raw_fd()) }?;
    Ok(())
}

/// The size of a logical sector, in bytes.
pub fn sector_size(disk: &File) -> io::Result<u32> {
    Ok(rustix::fs::ioctl_blksszget(disk.as_fd())?)
}

/// The size of the device, in bytes.
pub fn size(disk: &File) -> io::Result<u64> {
    let mut bytes = 0_u64;
    // SAFETY: the request writes one 64-bit integer, which `bytes` is for the length of the call.
    // JUSTIFICATION: neither nix nor rustix wraps BLKGETSIZE64.
    unsafe { raw::size(disk.as_raw_fd(), &raw mut bytes) }?;
    Ok(bytes)
}

mod raw {
    nix::ioctl_none!(reread_partitions, 0x12, 95);
    // The kernel encodes BLKGETSIZE64 with size_t and writes a u64.
    nix::ioctl_read!(size, 0x12, 114, u64);
}
