//! The hybrid initramfs: the packed root as a file, then the first stage.
//!
//! Two archives one after the other, which the kernel unpacks in turn: an uncompressed cpio with `/root.erofs`, its dm-verity
//! tree and the root hash, and a zstd-compressed one with `/init` and `/keelson-exec`. The root is compressed already and stays so in memory; unpacking
//! it as a compressed cpio of its files would take seconds of each boot. The uncompressed archive comes first: after a
//! compressed one the kernel would look for it at a position that is not aligned, and silently ignore it.

use std::fs::File;
use std::io::{self, BufWriter, Seek as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use super::Packed;
use super::archive::Cpio;
use super::error::{BuildError, FileContext as _};

/// Writes the initramfs, and the first stage by itself. `programs` is the folder with `init` and `keelson-exec`.
pub(crate) fn write(root: &Packed, programs: &Path, initramfs: &Path, first_stage: &Path) -> Result<(), BuildError> {
    let mut output = BufWriter::new(File::create(initramfs).at("make", initramfs)?);
    let mut first = Cpio::new(&mut output);
    for (name, path) in [("root.erofs", &root.root), ("root.hashes", &root.hashes), ("root.hash", &root.hash)] {
        add_file(&mut first, name, 0o400, path)?;
    }
    first.finish().at("write", initramfs)?;
    align(&mut output).at("write", initramfs)?;

    let mut second = Cpio::new(Vec::new());
    // The kernel opens the console before it starts /init, which has no output otherwise.
    second.folder("dev", 0o755).at("write", initramfs)?;
    second.character_device("dev/console", 0o600, 5, 1).at("write", initramfs)?;
    // Where the console is no device that opens, Rust's start code wants /dev/null in the place of the standard streams, and
    // gives up without it: PID 1's end.
    second.character_device("dev/null", 0o666, 1, 3).at("write", initramfs)?;
    for (name, program) in [("init", "init"), ("keelson-exec", "keelson-exec")] {
        add_file(&mut second, name, 0o755, &programs.join(program))?;
    }
    let second = second.finish().at("write", initramfs)?;
    let second = compressed(&second)?;
    std::fs::write(first_stage, &second).at("write", first_stage)?;
    output.write_all(&second).at("write", initramfs)?;
    output.flush().at("write", initramfs)
}

fn add_file<W: io::Write>(archive: &mut Cpio<W>, name: &str, mode: u32, path: &Path) -> Result<(), BuildError> {
    let file = File::open(path).at("open", path)?;
    let size = file.metadata().at("examine", path)?.len();
    archive.file(name, mode, size, file).at("pack", path)
}

/// Fills up to a block, as cpio(1) does.
fn align(output: &mut BufWriter<File>) -> io::Result<()> {
    const BLOCK: u64 = 512;
    let position = output.stream_position()?;
    let missing = position.next_multiple_of(BLOCK) - position;
    io::copy(&mut io::Read::take(io::repeat(0), missing), output).map(drop)
}

/// By zstd(1), which the kernel's build needs anyway. The input comes from a pipe, so the frame has no content size; one
/// thread, so that the bytes do not depend on the number of processors.
fn compressed(bytes: &[u8]) -> Result<Vec<u8>, BuildError> {
    let failed = |source| BuildError::Start { step: "initramfs".to_owned(), program: "zstd".to_owned(), source };
    let mut zstd = Command::new("zstd")
        .args(["-15", "--single-thread", "--quiet", "--stdout"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let input = zstd.stdin.take();
    let output = std::thread::scope(|scope| {
        let writer = scope.spawn(|| input.map_or(Ok(()), |mut input| input.write_all(bytes)));
        let output = zstd.wait_with_output()?;
        writer.join().map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))??;
        if output.status.success() { Ok(output.stdout) } else { Err(io::Error::other(output.status.to_string())) }
    });
    output.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_comes_first_with_what_it_is_judged_by_and_the_first_stage_is_apart() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let root =
            Packed { root: file("r", "the root"), hashes: file("h", "its hashes"), hash: file("d", "its hash\n") };
        file("init", "init");
        file("keelson-exec", "exec");
        let (initramfs, first_stage) = (folder.path().join("initramfs"), folder.path().join("first-stage"));
        write(&root, folder.path(), &initramfs, &first_stage).unwrap();

        let place = tempfile::tempdir().unwrap();
        let mut cpio = Command::new("cpio");
        cpio.args(["--extract", "--quiet", "--no-preserve-owner"]).current_dir(place.path());
        assert!(cpio.stdin(File::open(&initramfs).unwrap()).status().unwrap().success());
        for (name, content) in [("root.erofs", "the root"), ("root.hashes", "its hashes"), ("root.hash", "its hash\n")]
        {
            assert_eq!(std::fs::read_to_string(place.path().join(name)).unwrap(), content);
        }
        let (whole, small) = (std::fs::read(&initramfs).unwrap(), std::fs::read(&first_stage).unwrap());
        assert!(whole.ends_with(&small));
        assert_eq!((whole.len() - small.len()) % 512, 0);
    }
}
