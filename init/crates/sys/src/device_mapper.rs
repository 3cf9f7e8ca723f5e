//! Device mapper: block devices made of others by a table. See linux/dm-ioctl.h and the kernel's device-mapper pages.
//!
//! A request is `struct dm_ioctl` followed by its data, in one buffer that the kernel reads and answers in. It is put together
//! byte by byte here, because the length of its end differs from request to request.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

/// The kernel's node, made by devtmpfs.
const CONTROL: &str = "/dev/mapper/control";
/// The oldest interface that has all that is used here; the kernel checks the first number only.
const VERSION: [u32; 3] = [4, 0, 0];

/// `struct dm_ioctl`: ten 32-bit words, the device's number, name and uuid, and seven bytes of padding.
const HEADER_BYTES: usize = 312;
const NAME_AT: usize = 48;
const NAME_BYTES: usize = 128;
const UUID_AT: usize = NAME_AT + NAME_BYTES;
const UUID_BYTES: usize = 129;
const DEVICE_AT: usize = 40;
/// `struct dm_target_spec`: start, length, status, next, type.
const TARGET_BYTES: usize = 40;
const TYPE_BYTES: usize = 16;

const READ_ONLY: u32 = 1;

/// One stretch of a device that a target serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// In sectors of 512 bytes, from the device's start.
    pub sectors: u64,
    /// `verity`, `crypt`, …
    pub kind: &'a str,
    /// The target's own words.
    pub parameters: &'a str,
}

/// Makes a read-only device of one target and returns its node. Its `uuid` is any text of up to 128 bytes that begins with its maker's
/// name; sysfs has it in `dm/uuid` for as long as the device is there. A device that cannot be finished is taken away again.
pub fn create_read_only(name: &str, uuid: &str, target: Target<'_>) -> io::Result<PathBuf> {
    let control = OpenOptions::new().read(true).write(true).open(CONTROL)?;
    let mut create = named(request(name, 0, &[])?, uuid)?;
    call(&control, Call::Create, &mut create)?;
    let device = device_number(&create).ok_or(io::ErrorKind::InvalidData)?;
    let made = load_and_resume(&control, name, target);
    if made.is_err() {
        // Nothing uses it yet.
        let _ = request(name, 0, &[]).and_then(|mut remove| call(&control, Call::Remove, &mut remove));
    }
    made.map(|()| PathBuf::from(format!("/dev/dm-{}", minor(device))))
}

fn load_and_resume(control: &File, name: &str, target: Target<'_>) -> io::Result<()> {
    let mut load = request(name, READ_ONLY, &[target])?;
    call(control, Call::Load, &mut load)?;
    // Without the flag that suspends, it resumes: the loaded table becomes the live one.
    let mut resume = request(name, 0, &[])?;
    call(control, Call::Suspend, &mut resume)
}

fn request(name: &str, flags: u32, targets: &[Target<'_>]) -> io::Result<Vec<u8>> {
    if name.is_empty() || name.len() >= NAME_BYTES || name.contains(['/', '\0']) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut data = Vec::new();
    for target in targets {
        data.extend_from_slice(&encode(target)?);
    }
    let size = u32::try_from(HEADER_BYTES + data.len()).map_err(io::Error::other)?;
    let start = u32::try_from(HEADER_BYTES).map_err(io::Error::other)?;
    let count = u32::try_from(targets.len()).map_err(io::Error::other)?;
    let [major, minor, patch] = VERSION;
    // The version, size, start of the data, number of targets, users, flags, event number, padding.
    let words = [major, minor, patch, size, start, count, 0, flags, 0, 0];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.resize(NAME_AT, 0);
    bytes.extend_from_slice(name.as_bytes());
    bytes.resize(HEADER_BYTES, 0);
    bytes.extend_from_slice(&data);
    Ok(bytes)
}

/// A request with the device's uuid, which only its creation says: the others find the device by its name, and the kernel takes one
/// or the other.
fn named(mut request: Vec<u8>, uuid: &str) -> io::Result<Vec<u8>> {
    let place = request.get_mut(UUID_AT..UUID_AT + uuid.len());
    match place {
        Some(place) if uuid.len() < UUID_BYTES && !uuid.contains('\0') => place.copy_from_slice(uuid.as_bytes()),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    }
    Ok(request)
}

fn encode(target: &Target<'_>) -> io::Result<Vec<u8>> {
    if target.kind.len() >= TYPE_BYTES || target.parameters.contains('\0') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // With its end mark, and up to the next multiple of eight.
    let length = (TARGET_BYTES + target.parameters.len() + 1).next_multiple_of(8);
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(&0_u64.to_ne_bytes());
    bytes.extend_from_slice(&target.sectors.to_ne_bytes());
    bytes.extend_from_slice(&0_u32.to_ne_bytes());
    bytes.extend_from_slice(&u32::try_from(length).map_err(io::Error::other)?.to_ne_bytes());
    bytes.extend_from_slice(target.kind.as_bytes());
    bytes.resize(TARGET_BYTES, 0);
    bytes.extend_from_slice(target.parameters.as_bytes());
    bytes.resize(length, 0);
    Ok(bytes)
}

fn device_number(answer: &[u8]) -> Option<u64> {
    answer.get(DEVICE_AT..)?.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))
}

/// The kernel's `huge_encode_dev`: the minor number in the lowest eight bits and from bit 20 on.
fn minor(device: u64) -> u64 {
    device & 0xff | (device >> 12) & 0xfff_ff00
}

#[derive(Debug, Clone, Copy)]
enum Call {
    Create,
    Remove,
    Suspend,
    Load,
}

type Operation = unsafe fn(libc::c_int, *mut [u8; HEADER_BYTES]) -> nix::Result<libc::c_int>;

fn call(control: &File, call: Call, request: &mut [u8]) -> io::Result<()> {
    if request.len() < HEADER_BYTES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // The whole buffer and not its first part: the kernel goes on behind the header.
    let buffer = request.as_mut_ptr().cast();
    let operation: Operation = match call {
        Call::Create => raw::create,
        Call::Remove => raw::remove,
        Call::Suspend => raw::suspend,
        Call::Load => raw::load,
    };
    // SAFETY: the buffer is as long as its header says (`request` puts both together), lives through the call, and nobody
    // else has it; the kernel reads and writes no further.
    // JUSTIFICATION: neither nix nor rustix wraps the device mapper's requests.
    unsafe { operation(control.as_raw_fd(), buffer) }?;
    Ok(())
}

mod raw {
    use super::HEADER_BYTES;

    nix::ioctl_readwrite!(create, 0xfd, 3, [u8; HEADER_BYTES]);
    nix::ioctl_readwrite!(remove, 0xfd, 4, [u8; HEADER_BYTES]);
    nix::ioctl_readwrite!(suspend, 0xfd, 6, [u8; HEADER_BYTES]);
    nix::ioctl_readwrite!(load, 0xfd, 9, [u8; HEADER_BYTES]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn request_has_the_kernels_layout() {
        let target = Target { sectors: 80, kind: "verity", parameters: "1 /dev/vda2" };
        let bytes = request("root", READ_ONLY, &[target]).unwrap();
        assert_eq!(word(&bytes, 12) as usize, bytes.len());
        assert_eq!((word(&bytes, 16), word(&bytes, 20), word(&bytes, 28)), (312, 1, READ_ONLY));
        assert_eq!(&bytes[NAME_AT..NAME_AT + 5], b"root\0");
        let target = &bytes[HEADER_BYTES..];
        assert_eq!(u64::from_ne_bytes(target[8..16].try_into().unwrap()), 80);
        assert_eq!(word(target, 20) as usize, target.len());
        assert_eq!((&target[24..31], &target[40..]), (&b"verity\0"[..], &b"1 /dev/vda2\0\0\0\0\0"[..]));
    }

    #[test]
    fn a_uuid_has_its_place_behind_the_name() {
        let bytes = named(request("root", 0, &[]).unwrap(), "keelson-ab").unwrap();
        assert_eq!(bytes.len(), HEADER_BYTES);
        assert_eq!(&bytes[176..187], b"keelson-ab\0");
        let longest = named(request("root", 0, &[]).unwrap(), &"x".repeat(UUID_BYTES - 1)).unwrap();
        assert_eq!(longest[UUID_AT + UUID_BYTES - 1], 0, "its end mark");
        for wrong in ["a\0b", &"x".repeat(UUID_BYTES)] {
            assert!(named(request("root", 0, &[]).unwrap(), wrong).is_err());
        }
    }

    #[test]
    fn names_and_words_that_do_not_fit_are_refused() {
        assert!(request("", 0, &[]).is_err() && request("a/b", 0, &[]).is_err());
        assert!(request(&"x".repeat(NAME_BYTES), 0, &[]).is_err());
        assert!(encode(&Target { sectors: 1, kind: "a-type-of-16-byt", parameters: "" }).is_err());
        assert!(encode(&Target { sectors: 1, kind: "verity", parameters: "a\0b" }).is_err());
    }

    #[test]
    fn minor_numbers_are_found_in_both_of_their_places() {
        // Device 253:3, and 253:300.
        assert_eq!(minor(0xfd03), 3);
        assert_eq!(minor(0x0010_fd2c), 300);
    }
}
