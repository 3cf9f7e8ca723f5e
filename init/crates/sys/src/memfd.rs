//! Anonymous files: how one program image of ours hands data to the next across `execve`.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

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

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn sealed_memfd_reads_back_and_refuses_writes() {
        let mut file = File::from(sealed("test", b"hello").unwrap());
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert!(file.write_all(b"x").is_err());
    }
}
