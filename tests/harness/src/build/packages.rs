//! Debian packages that the host must have.
//!
//! Installed when we are root and may, since a fresh CI machine has none of them; otherwise the error is the one line to
//! type. Nothing is asked of the network as long as all are there.

use std::fs;
use std::process::Command;

use super::error::BuildError;
use super::progress::Outcome;
use super::step::Step;

/// For building the image.
pub const BUILD: &[&str] = &[
    // The kernel and its build.
    "linux-source-6.12",
    "bc",
    "bison",
    "flex",
    "gcc",
    "libelf-dev",
    "libssl-dev",
    "make",
    "patch",
    "xz-utils",
    "zstd",
    // runc.
    "libc6-dev",
    "libseccomp-dev",
    "pkg-config",
    // mkosi.
    "apt",
    "debian-archive-keyring",
    "dpkg",
    "python3",
];

/// For running it in a virtual machine, and for the tests: e2fsprogs makes a disk of images, cpio reads an archive, and busybox
/// is the shell of the boot benchmark's baseline.
pub const RUN: &[&str] = &["qemu-system-x86", "ovmf", "e2fsprogs", "cpio", "busybox-static"];

/// For disk images on top: qemu-img, and mtools to read the EFI system partition in tests.
pub const DISK_IMAGE: &[&str] = &["qemu-utils", "mtools"];

/// For the proxy's benchmark.
pub const PROXY_BENCH: &[&str] = &["haproxy"];

/// For Secure Boot's keys and signatures.
pub const SIGNING: &[&str] = &["openssl", "sbsigntool"];

/// Makes sure that the packages are there.
pub(crate) fn ensure(names: &[&str], install: bool, step: &mut Step<'_>) -> Result<Outcome, BuildError> {
    let missing = missing(names, step);
    if missing.is_empty() {
        return Ok(Outcome::Cached);
    }
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    if missing.iter().any(|name| name.starts_with("qemu")) && has_backports() {
        // Debian 12's own QEMU is 7.2, which lacks `migrate file:` and the igb network card.
        arguments.extend(["-t", "bookworm-backports"]);
    }
    arguments.extend(&missing);
    if !install || !is_root() {
        return Err(BuildError::PackagesMissing { command: format!("sudo apt-get {}", arguments.join(" ")) });
    }
    step.run(Command::new("apt-get").args(["update", "--quiet"]))?;
    step.run(Command::new("apt-get").args(&arguments).env("DEBIAN_FRONTEND", "noninteractive"))?;
    Ok(Outcome::Built)
}

fn missing<'a>(names: &[&'a str], step: &mut Step<'_>) -> Vec<&'a str> {
    let is_installed = |name: &str, step: &mut Step<'_>| {
        let mut query = Command::new("dpkg-query");
        query.args(["--show", "--showformat=${db:Status-Status}\n", name]);
        // A name that dpkg has never heard of makes the query fail.
        step.output(&mut query).is_ok_and(|states| states.lines().any(|state| state == "installed"))
    };
    names.iter().copied().filter(|name| !is_installed(name, step)).collect()
}

fn has_backports() -> bool {
    let folder = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
    let files = folder.chain(["/etc/apt/sources.list".into()]);
    files.filter_map(|path| fs::read_to_string(path).ok()).any(|text| text.contains("bookworm-backports"))
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
