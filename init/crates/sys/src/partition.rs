//! Telling the kernel of single partitions, while others of the same disk are in use. See linux/blkpg.h.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// A stretch of a disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub start: u64,
    pub length: u64,
}

/// Makes the kernel know a partition. EBUSY: it knows one of that number, or one that overlaps.
pub fn add(disk: &File, number: usize, extent: Extent) -> io::Result<()> {
    change(disk, ADD, number, extent)
}

/// Makes the kernel see a partition's new length. It may be in use.
pub fn resize(disk: &File, number: usize, extent: Extent) -> io::Result<()> {
    change(disk, RESIZE, number, extent)
}

fn change(disk: &File, operation: libc::c_int, number: usize, extent: Extent) -> io::Result<()> {
    let signed = |bytes: u64| i64::try_from(bytes).map_err(io::Error::other);
    let mut partition = Partition {
        start: signed(extent.start)?,
        length: signed(extent.length)?,
        number: libc::c_int::try_from(number).map_err(io::Error::other)?,
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let length = libc::c_int::try_from(size_of::<Partition>()).map_err(io::Error::other)?;
    let request = Request { operation, flags: 0, length, partition: &raw mut partition };
    // SAFETY: `request` has the layout of struct blkpg_ioctl_arg and points at a whole struct blkpg_partition; both live
    // through the call, and the kernel only reads them.
    // JUSTIFICATION: neither nix nor rustix wraps BLKPG.
    unsafe { raw::change(disk.as_raw_fd(), &raw const request) }?;
    Ok(())
}

const ADD: libc::c_int = 1;
const RESIZE: libc::c_int = 3;

/// `struct blkpg_partition`
#[repr(C)]
#[derive(Debug)]
struct Partition {
    start: i64,
    length: i64,
    number: libc::c_int,
    device_name: [u8; 64],
    volume_name: [u8; 64],
}

/// `struct blkpg_ioctl_arg`
#[repr(C)]
#[derive(Debug)]
pub struct Request {
    operation: libc::c_int,
    flags: libc::c_int,
    length: libc::c_int,
    partition: *mut Partition,
}

mod raw {
    nix::ioctl_write_ptr_bad!(change, 0x1269, super::Request);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_kernels_size() {
        assert_eq!((size_of::<Partition>(), size_of::<Request>()), (152, 24));
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        let file = tempfile::tempfile().unwrap();
        let extent = Extent { start: 0, length: 1 << 20 };
        assert!(add(&file, 1, extent).is_err() && resize(&file, 1, extent).is_err());
    }
}
