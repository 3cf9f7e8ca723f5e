//! The kernel: Debian's source package, our patches, and a configuration that starts from nothing.
//!
//! `allnoconfig` with the fragments of kernel-config/ as its answers: what no fragment asks for is off, and there are no
//! modules. Kconfig silently drops an answer whose dependencies are not met, so [`lost_lines`] compares afterwards, and
//! a lost line fails the build.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cache::{Cache, remove_tree};
use super::digest::{self, Inputs};
use super::error::{BuildError, FileContext as _};
use super::progress::Outcome;
use super::step::Step;
use super::{SOURCE_DATE_EPOCH, parallel_jobs};

/// Debian's package, which is also the name of the folder in its archive.
const SOURCE_PACKAGE: &str = "linux-source-6.12";

/// A built kernel.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) image: PathBuf,
    pub(crate) config: PathBuf,
}

/// Builds the kernel, or finds it in the cache.
pub(crate) fn build(checkout: &Path, cache: &Cache, step: &mut Step<'_>) -> Result<(Kernel, Outcome), BuildError> {
    let folder = checkout.join("kernel-config");
    let fragments = sorted_files(&folder, "config")?;
    let patches = sorted_files(&folder.join("patches"), "patch")?;
    let config = merged(&fragments)?;
    let version =
        step.output(Command::new("dpkg-query").args(["--show", "--showformat=${Version}", SOURCE_PACKAGE]))?;

    let mut inputs = Inputs::new("kernel", 1).text("source", &version).text("config", &config);
    for patch in &patches {
        inputs = inputs.file("patch", patch)?;
    }
    let (place, outcome) = cache.result("kernel", &inputs.finish(), |place| {
        // The source and the objects take 2.5 GB, which nobody needs afterwards.
        let work = place.join("work");
        let source = unpack(&work, &patches, step)?;
        compile(&work, &source, &config, step)?;
        let objects = work.join("objects");
        fs::copy(objects.join("arch/x86/boot/bzImage"), place.join("bzImage")).at("copy the kernel to", place)?;
        fs::copy(objects.join(".config"), place.join("config")).at("copy the configuration to", place)?;
        remove_tree(&work)
    })?;
    Ok((Kernel { image: place.join("bzImage"), config: place.join("config") }, outcome))
}

fn unpack(work: &Path, patches: &[PathBuf], step: &mut Step<'_>) -> Result<PathBuf, BuildError> {
    fs::create_dir_all(work).at("make", work)?;
    let archive = format!("/usr/src/{SOURCE_PACKAGE}.tar.xz");
    step.run(Command::new("tar").args(["--extract", "--file", &archive, "--directory"]).arg(work))?;
    let source = work.join(SOURCE_PACKAGE);
    for patch in patches {
        step.run(
            Command::new("patch").args(["--strip=1", "--fuzz=0", "--input"]).arg(patch).arg("--directory").arg(&source),
        )?;
    }
    Ok(source)
}

fn compile(work: &Path, source: &Path, config: &str, step: &mut Step<'_>) -> Result<(), BuildError> {
    let answers = work.join("answers.config");
    fs::write(&answers, config).at("write", &answers)?;
    let objects = work.join("objects");
    fs::create_dir_all(&objects).at("make", &objects)?;
    let epoch = format!("--date=@{SOURCE_DATE_EPOCH}");
    let date = step.output(Command::new("date").args(["--utc", &epoch]).env("LC_ALL", "C"))?;
    let make = |target: &str| {
        let mut make = Command::new("make");
        make.arg("--directory").arg(source).arg(format!("O={}", objects.display())).arg(target);
        // Else the banner would tell who built it, where and when.
        make.env("KBUILD_BUILD_USER", "keelson")
            .env("KBUILD_BUILD_HOST", "keelson")
            .env("KBUILD_BUILD_VERSION", "1")
            .env("KBUILD_BUILD_TIMESTAMP", date.trim())
            .env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH.to_string())
            .env("KCONFIG_ALLCONFIG", &answers)
            .env("LC_ALL", "C");
        make
    };
    step.run(&mut make("allnoconfig"))?;
    let built = objects.join(".config");
    let lost = lost_lines(config, &fs::read_to_string(&built).at("read", &built)?);
    if !lost.is_empty() {
        let problem = format!("the configuration lost lines of the fragments: {}", lost.join(", "));
        return Err(BuildError::Malformed { path: built, problem });
    }
    step.run(make("bzImage").arg(format!("--jobs={}", parallel_jobs())))
}

/// All fragments, one after the other in the order of their names.
pub fn merged(fragments: &[PathBuf]) -> Result<String, BuildError> {
    let mut text = String::new();
    for fragment in fragments {
        text.push_str(&fs::read_to_string(fragment).at("read", fragment)?);
    }
    Ok(text)
}

/// The fragments of a checkout.
pub fn fragments(checkout: &Path) -> Result<Vec<PathBuf>, BuildError> {
    sorted_files(&checkout.join("kernel-config"), "config")
}

/// The lines of `wanted` that `built` does not have: an option with another value, one that is absent, or one that was
/// to be off and is on. A line that a later fragment overrides does not count.
pub fn lost_lines(wanted: &str, built: &str) -> Vec<String> {
    let built: HashMap<&str, &str> = settings(built).collect();
    let mut wanted: Vec<(&str, &str)> = settings(wanted).collect::<HashMap<_, _>>().into_iter().collect();
    wanted.sort_unstable();
    wanted
        .into_iter()
        .filter(|(option, value)| built.get(option).unwrap_or(&"n") != value)
        .map(|(option, value)| format!("{option}={value}"))
        .collect()
}

fn settings(config: &str) -> impl Iterator<Item = (&str, &str)> {
    config.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.trim_end().split_once('='))
}

fn sorted_files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, BuildError> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut files = digest::files_below(folder)?;
    files.retain(|path| path.parent() == Some(folder) && path.extension().is_some_and(|found| found == extension));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_line_is_found_in_each_form() {
        let wanted = "# a comment\nCONFIG_A=y\nCONFIG_B=n\nCONFIG_C=64\nCONFIG_D=y\nCONFIG_E=n\n";
        assert!(lost_lines(wanted, "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=64\nCONFIG_D=y\n").is_empty());
        assert_eq!(
            lost_lines(wanted, "CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=32\n"),
            ["CONFIG_B=n", "CONFIG_C=64", "CONFIG_D=y"]
        );
    }

    #[test]
    fn later_fragment_overrides_an_earlier_one() {
        assert!(lost_lines("CONFIG_A=n\nCONFIG_A=y\n", "CONFIG_A=y\n").is_empty());
    }
}
