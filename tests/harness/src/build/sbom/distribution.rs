//! What comes from Debian: the packages whose files the allowlist names, the C library that our own programs are linked with,
//! and the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Content, Extracted, Part, licence};
use crate::build::allowlist::{Entry, LIBRARIES, What};
use crate::build::error::{BuildError, FileContext as _};
use crate::build::step::Step;

/// Packages of the host that are linked into static programs of the image.
const LINKED: [&str; 2] = ["libc6-dev", "libseccomp-dev"];

pub(super) fn parts(
    content: &Content<'_>,
    extracted: &mut Extracted,
    step: &mut Step<'_>,
) -> Result<BTreeSet<Part>, BuildError> {
    let mut parts = BTreeSet::new();
    let owners = owners(&content.debian.join("var/lib/dpkg/info"))?;
    let status = content.debian.join("var/lib/dpkg/status");
    let versions = versions(&fs::read_to_string(&status).at("read", &status)?);
    for entry in content.entries {
        let Some(path) = source(entry) else { continue };
        // What a package's scripts made belongs to none of its files: the bundle of authorities.
        let owner = owners.get(&merged(&path)).map_or_else(|| maker(&path), |owner| Some(owner.as_str()));
        let name = owner.ok_or_else(|| unowned(&path, &status))?;
        let version = versions.get(name).cloned().ok_or_else(|| unowned(&path, &status))?;
        let licence = of_package(name, &content.debian.join("usr/share/doc"), extracted)?;
        parts.insert(Part { kind: "deb", name: name.to_owned(), version, licence });
    }
    for name in LINKED {
        let mut query = Command::new("dpkg-query");
        query.args(["--show", "--showformat=${Version}", name]);
        let version = step.output(&mut query)?;
        let licence = of_package(name, Path::new("/usr/share/doc"), extracted)?;
        parts.insert(Part { kind: "deb", name: name.to_owned(), version, licence });
    }
    parts.insert(kernel(content.kernel_config)?);
    Ok(parts)
}

fn unowned(path: &str, status: &Path) -> BuildError {
    BuildError::Malformed { path: status.to_owned(), problem: format!("no package is known to have brought {path}") }
}

/// Where a file of the root comes from in Debian's tree.
fn source(entry: &Entry) -> Option<String> {
    match &entry.what {
        What::Debian { source } => Some(source.clone()),
        What::Library => Some(format!("{LIBRARIES}/{}", entry.path.rsplit('/').next().unwrap_or_default())),
        _ => None,
    }
}

/// Files that a package makes when it is installed.
fn maker(path: &str) -> Option<&'static str> {
    (path == "/etc/ssl/certs/ca-certificates.crt").then_some("ca-certificates")
}

/// A file's name whichever of both folders it is said to be in: some packages still name those that were merged into /usr.
fn merged(path: &str) -> String {
    path.strip_prefix("/usr").unwrap_or(path).to_owned()
}

/// The package of each file, by dpkg's lists.
fn owners(info: &Path) -> Result<BTreeMap<String, String>, BuildError> {
    let mut owners = BTreeMap::new();
    for file in info.read_dir().at("list", info)? {
        let path = file.at("list", info)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".list")) else { continue };
        let package = name.split(':').next().unwrap_or(name).to_owned();
        for line in fs::read_to_string(&path).at("read", &path)?.lines() {
            owners.insert(merged(line), package.clone());
        }
    }
    Ok(owners)
}

/// Each package's version, from dpkg's status.
fn versions(status: &str) -> BTreeMap<String, String> {
    let field = |paragraph: &str, name: &str| {
        paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned)
    };
    status.split("\n\n").filter_map(|text| Some((field(text, "Package")?, field(text, "Version")?))).collect()
}

/// All licences that a package names, in its machine-readable form or as the whole text of another.
fn of_package(name: &str, documents: &Path, extracted: &mut Extracted) -> Result<String, BuildError> {
    let path = documents.join(name).join("copyright");
    let text = String::from_utf8_lossy(&fs::read(&path).at("read", &path)?).into_owned();
    Ok(expression(name, &text, extracted))
}

fn expression(name: &str, text: &str, extracted: &mut Extracted) -> String {
    let names: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("License:"))
        .flat_map(|names| names.split([',', ' ']).map(str::to_owned).collect::<Vec<_>>())
        .filter(|word| !word.is_empty() && !["and", "or", "with"].contains(&word.as_str()))
        .collect();
    let refer = |what: &str| {
        let clean: String = what.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
        format!("LicenseRef-debian-{clean}")
    };
    if names.is_empty() {
        let reference = refer(name);
        extracted.insert(reference.clone(), text.to_owned());
        return reference;
    }
    let mut unknown = |short: &str| {
        let reference = refer(&format!("{name}-{short}"));
        extracted.entry(reference.clone()).or_insert_with(|| text.to_owned());
        reference
    };
    let known = names.iter().map(|short| licence::of_debian(short).map_or_else(|| unknown(short), str::to_owned));
    known.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" AND ")
}

/// The configuration begins with the kernel's own version.
fn kernel(configuration: &Path) -> Result<Part, BuildError> {
    let text = fs::read_to_string(configuration).at("read", configuration)?;
    let version = text.lines().find_map(|line| line.strip_prefix("# Linux/x86 ")?.split(' ').next());
    let problem =
        || BuildError::Malformed { path: configuration.to_owned(), problem: "it names no version".to_owned() };
    Ok(Part {
        kind: "generic",
        name: "linux".to_owned(),
        version: version.ok_or_else(problem)?.to_owned(),
        licence: "GPL-2.0-only WITH Linux-syscall-note".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_found_by_their_files_wherever_their_lists_say_those_are() {
        let info = tempfile::tempdir().unwrap();
        fs::write(info.path().join("libc6:amd64.list"), "/.\n/usr/lib/x86_64-linux-gnu/libc.so.6\n").unwrap();
        fs::write(info.path().join("mount.list"), "/bin/mount\n").unwrap();
        fs::write(info.path().join("mount.md5sums"), "x").unwrap();
        let owners = owners(info.path()).unwrap();
        let owner = |path: &str| owners.get(&merged(path)).cloned().unwrap_or_default();
        assert_eq!(owner("/usr/lib/x86_64-linux-gnu/libc.so.6"), "libc6");
        assert_eq!(owner("/usr/bin/mount"), "mount");
        assert_eq!(owner("/usr/bin/other"), "");
        let status = "Package: libc6\nStatus: x\nVersion: 2.41-12\n\nPackage: mount\nVersion: 2.41\n";
        assert_eq!(versions(status).get("libc6").unwrap(), "2.41-12");
    }

    #[test]
    fn licences_are_all_that_a_package_names() {
        let mut extracted = Extracted::new();
        let text = "License: GPL-2+ and Expat\nLicense: public-domain\n no text\n";
        assert_eq!(
            expression("x", text, &mut extracted),
            "GPL-2.0-or-later AND LicenseRef-debian-x-public-domain AND MIT"
        );
        assert_eq!(expression("y", "in the public domain", &mut extracted), "LicenseRef-debian-y");
        assert_eq!(extracted.keys().collect::<Vec<_>>(), ["LicenseRef-debian-x-public-domain", "LicenseRef-debian-y"]);
    }
}
