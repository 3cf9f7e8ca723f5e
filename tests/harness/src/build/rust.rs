//! The checkout's own programs, by cargo.
//!
//! Cargo decides what is up to date. The flags are those of .cargo/config.toml and, on top, that no path of this
//! machine gets into a program (in panic messages of dependencies), so that any checkout gives the same bytes.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::BuildError;
use super::parallel_jobs;
use super::step::Step;

/// Named always: else the flags would reach build scripts and procedural macros, which cannot be static.
pub(super) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The packages whose programs are in the image.
pub(super) const PACKAGES: &[&str] = &[
    "keelson-init",
    "keelson-exec",
    "keelson-network",
    "keelson-log",
    "keelson-store",
    "keelson-cluster",
    "keelson-proxy",
];

/// Builds the programs; returns the folder that holds them.
pub(crate) fn build(checkout: &Path, target: &Path, step: &mut Step<'_>) -> Result<PathBuf, BuildError> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--target", TARGET, "--bins", "--jobs", &parallel_jobs().to_string()]);
    for package in PACKAGES {
        cargo.args(["--package", package]);
    }
    cargo.current_dir(checkout).env("CARGO_TARGET_DIR", target);
    use_image_flags(&mut cargo, checkout, target);
    step.run(&mut cargo)?;
    Ok(target.join(TARGET).join("release"))
}

/// Has cargo compile as for the image.
pub(crate) fn use_image_flags(cargo: &mut Command, checkout: &Path, target: &Path) {
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags(checkout, target)).env_remove("RUSTFLAGS");
}

/// The compiler's flags, in cargo's encoding: separated by the unit separator.
fn flags(checkout: &Path, target: &Path) -> String {
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    let home = |variable: &str, below: &str| {
        std::env::var_os(variable)
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(below)))
    };
    // The last one that matches wins, and target/ is mostly below the checkout.
    let known = [
        (home("CARGO_HOME", ".cargo"), "/cargo"),
        (Some(checkout.to_path_buf()), "/keelson"),
        (Some(target.to_path_buf()), "/target"),
    ];
    for (path, name) in known {
        if let Some(path) = path {
            flags.push(format!("--remap-path-prefix={}={name}", path.display()));
        }
    }
    flags.join("\u{1f}")
}
