//! Debian's part of the root: a tree composed by mkosi, from which the allowlist picks.
//!
//! mkosi itself comes from Debian's next release, because this one's is too old, and is only unpacked into the cache: it
//! is a Python package without dependencies, and installing it would upgrade the host's systemd. Of the host it takes
//! apt and dpkg. Debian's testing suite moves on, so the exact version is asked for first and whatever there is after.
//!
//! The tree is kept under the hash of its configuration. A mirror's point releases therefore do not change it; removing
//! the cache does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cache::{Cache, remove_tree};
use super::digest::Inputs;
use super::error::{BuildError, FileContext as _};
use super::progress::Outcome;
use super::step::Step;

/// Where mkosi is taken from, in the order of preference.
const MKOSI: &[(&str, &str)] = &[("forky", "mkosi=27.1-1"), ("forky", "mkosi"), ("trixie", "mkosi")];

/// Where both kinds of mirror lists find their keys.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Composes the tree, or finds it in the cache; returns its top folder.
pub(crate) fn tree(checkout: &Path, cache: &Cache, step: &mut Step<'_>) -> Result<(PathBuf, Outcome), BuildError> {
    let inputs = Inputs::new("debian", 1)
        .file("mkosi.conf", &checkout.join("mkosi.conf"))?
        .file("image/mkosi.conf", &checkout.join("image/mkosi.conf"))?
        .tree("image/mkosi.sandbox", &checkout.join("image/mkosi.sandbox"))?;
    let (place, outcome) = cache.result("debian", &inputs.finish(), |place| {
        let mkosi = mkosi(cache, step)?;
        let work = place.join("work");
        let folder = |name: &str| {
            let folder = work.join(name);
            fs::create_dir_all(&folder).at("make", &folder).map(|()| folder)
        };
        let mut build = Command::new("/usr/bin/python3");
        build
            .args(["-m", "mkosi", "--force", "--directory"])
            .arg(checkout)
            .arg("--output-directory")
            .arg(place)
            .arg("--workspace-directory")
            .arg(folder("workspace")?)
            .arg("--package-cache-directory")
            .arg(folder("packages")?)
            .arg("build")
            .env("PYTHONPATH", mkosi.join("usr/lib/python3/dist-packages"))
            // mkosi's caches of its own would go there.
            .env("XDG_CACHE_HOME", folder("cache")?);
        step.run(&mut build)?;
        remove_tree(&work)
    })?;
    Ok((place.join("debian"), outcome))
}

/// Unpacks mkosi into the cache; returns the folder that stands for `/`.
fn mkosi(cache: &Cache, step: &mut Step<'_>) -> Result<PathBuf, BuildError> {
    let inputs = Inputs::new("mkosi", 1).text("sources", &format!("{MKOSI:?}"));
    let (place, _) = cache.result("mkosi", &inputs.finish(), |place| {
        let mut last = Ok(());
        for (suite, package) in MKOSI {
            last = download(suite, package, place, step);
            if last.is_ok() {
                break;
            }
        }
        last
    })?;
    Ok(place)
}

/// Where systemd's boot loader and stub are taken from: of the release that the root is of.
const SYSTEMD_BOOT: (&str, &str) = ("trixie", "systemd-boot-efi");

/// Fetches systemd's EFI programs; returns their folder.
pub(crate) fn systemd_boot(cache: &Cache, step: &mut Step<'_>) -> Result<(PathBuf, Outcome), BuildError> {
    let (suite, package) = SYSTEMD_BOOT;
    let inputs = Inputs::new("systemd-boot", 1).text("source", &format!("{suite} {package}"));
    let (place, outcome) =
        cache.result("systemd-boot", &inputs.finish(), |place| download(suite, package, place, step))?;
    Ok((place.join("usr/lib/systemd/boot/efi"), outcome))
}

/// Fetches a package with apt and a state of apt's own, so that the host's lists and packages stay as they are.
fn download(suite: &str, package: &str, place: &Path, step: &mut Step<'_>) -> Result<(), BuildError> {
    let apt = place.join("apt");
    remove_tree(&apt)?;
    for folder in ["state/lists/partial", "cache/archives/partial", "download"] {
        fs::create_dir_all(apt.join(folder)).at("make", apt.join(folder))?;
    }
    let write = |name: &str, text: &str| fs::write(apt.join(name), text).at("write", apt.join(name));
    write("status", "")?;
    write("sources.list", &format!("deb [signed-by={KEYRING}] http://deb.debian.org/debian {suite} main\n"))?;

    let settings = [
        ("Dir::State", "state"),
        ("Dir::Cache", "cache"),
        ("Dir::Etc::SourceList", "sources.list"),
        ("Dir::State::Status", "status"),
    ];
    let apt_get = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        for (setting, file) in settings {
            command.arg("-o").arg(format!("{setting}={}", apt.join(file).display()));
        }
        // A mirror may serve a snapshot whose Release file has expired. The download runs as who we are: apt's own user
        // cannot enter the cache's folder.
        let fixed = ["Dir::Etc::SourceParts=/dev/null", "Acquire::Check-Valid-Until=false", "Acquire::Languages=none"];
        for setting in fixed.iter().chain(&["APT::Sandbox::User=root"]) {
            command.args(["-o", setting]);
        }
        command.args(arguments).current_dir(apt.join("download"));
        command
    };
    step.run(&mut apt_get(&["update"]))?;
    step.run(&mut apt_get(&["download", package]))?;

    let download = apt.join("download");
    for file in download.read_dir().at("list", &download)? {
        let file = file.at("list", &download)?.path();
        step.run(Command::new("dpkg").arg("--extract").arg(file).arg(place))?;
    }
    remove_tree(&apt)
}
