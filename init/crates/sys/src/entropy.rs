//! The kernel's random pool: reading it, and crediting a saved seed. See random(4), random(7).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use rustix::rand::{GetRandomFlags, getrandom};

/// Bytes of a seed: the kernel's pool holds 256 bits, and twice that is what random(4) suggests to carry over.
pub const SEED_BYTES: usize = 64;

/// Random bytes that may have been drawn before the pool was ready ([`is_ready`]): for a seed or a name, never for keys.
pub fn seed_material() -> io::Result<[u8; SEED_BYTES]> {
    let mut bytes = [0; SEED_BYTES];
    getrandom(&mut bytes[..], GetRandomFlags::INSECURE)?;
    Ok(bytes)
}

/// Whether the pool is ready, so that a read for a key would not wait.
pub fn is_ready() -> bool {
    let mut byte = [0; 1];
    getrandom(&mut byte[..], GetRandomFlags::NONBLOCK).is_ok()
}

/// Adds a seed to the pool and credits all its bits. The caller vouches that this seed is used once and was secret.
pub fn credit(random: &File, seed: &[u8; SEED_BYTES]) -> io::Result<()> {
    let info = RandPoolInfo {
        entropy_count: i32::try_from(SEED_BYTES * 8).map_err(io::Error::other)?,
        buf_size: i32::try_from(SEED_BYTES).map_err(io::Error::other)?,
        buf: *seed,
    };
    // SAFETY: `info` has the layout of struct rand_pool_info with SEED_BYTES of data, which buf_size states; the kernel only
    // reads it, and it lives until the call returns.
    // JUSTIFICATION: neither nix nor rustix wraps RNDADDENTROPY.
    unsafe { rnd_add_entropy(random.as_raw_fd(), &raw const info) }?;
    Ok(())
}

/// `struct rand_pool_info` of linux/random.h.
#[repr(C)]
#[derive(Debug)]
pub struct RandPoolInfo {
    entropy_count: i32,
    buf_size: i32,
    buf: [u8; SEED_BYTES],
}

mod raw {
    // The kernel encodes RNDADDENTROPY with the size of int[2], whatever follows.
    nix::ioctl_write_ptr_bad!(
        rnd_add_entropy,
        nix::request_code_write!(b'R', 0x03, size_of::<[i32; 2]>()),
        super::RandPoolInfo
    );
}
use raw::rnd_add_entropy;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_material_differs_from_draw_to_draw() {
        assert_ne!(seed_material().unwrap(), seed_material().unwrap());
    }
}
