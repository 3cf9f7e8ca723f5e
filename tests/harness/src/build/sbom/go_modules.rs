//! The modules in the image's Go programs: each program carries the list of its own (`go version -m`).
//!
//! Their licences are in Go's module cache, from which they were built; what is missing there, because the program came from
//! our own cache, is fetched the same way.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Part, licence};
use crate::build::error::{BuildError, FileContext as _};
use crate::build::go::MODULES;
use crate::build::step::Step;

/// Built for tests and for this host, and not in the image.
const ELSEWHERE: [&str; 2] = ["etcd", "workload"];

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Module {
    path: String,
    version: String,
}

pub(super) fn parts(
    checkout: &Path,
    go: &BTreeMap<&'static str, PathBuf>,
    step: &mut Step<'_>,
) -> Result<BTreeSet<Part>, BuildError> {
    let mut parts = BTreeSet::new();
    for module in MODULES.iter().filter(|module| !ELSEWHERE.contains(&module.name)) {
        let Some(programs) = go.get(module.name) else { continue };
        let folder = checkout.join(module.folder);
        let text = step.output(Command::new("go").args(["version", "-m"]).arg(programs).current_dir(&folder))?;
        let (toolchain, modules) = parse(&text);
        let cache = step.output(Command::new("go").args(["env", "GOMODCACHE"]).current_dir(&folder))?;
        fetch(&modules, Path::new(cache.trim()), &folder, step)?;
        for Module { path, version } in modules {
            let place = Path::new(cache.trim()).join(format!("{}@{}", escaped(&path), escaped(&version)));
            let licence = licence::of_folder(&place).at("read the licence in", &place)?;
            parts.insert(Part { kind: "golang", name: path, version, licence: licence.to_owned() });
        }
        parts.extend(toolchain.map(|version| Part {
            kind: "golang",
            name: "std".to_owned(),
            version,
            licence: "BSD-3-Clause".to_owned(),
        }));
    }
    Ok(parts)
}

fn fetch(modules: &BTreeSet<Module>, cache: &Path, folder: &Path, step: &mut Step<'_>) -> Result<(), BuildError> {
    let missing: Vec<String> = modules
        .iter()
        .filter(|module| !cache.join(format!("{}@{}", escaped(&module.path), escaped(&module.version))).is_dir())
        .map(|module| format!("{}@{}", module.path, module.version))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    step.run(Command::new("go").args(["mod", "download"]).args(missing).current_dir(folder))
}

/// The toolchain and the modules that are named, each line's fields behind tabs. A replaced module is what replaces it; what
/// has no version is of this checkout.
fn parse(text: &str) -> (Option<String>, BTreeSet<Module>) {
    let mut toolchain = None;
    let mut modules: Vec<Module> = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        match fields.as_slice() {
            ["", "mod" | "dep", path, version, ..] => {
                modules.push(Module { path: (*path).to_owned(), version: (*version).to_owned() });
            }
            ["", "=>", path, version, ..] => {
                modules.pop();
                modules.push(Module { path: (*path).to_owned(), version: (*version).to_owned() });
            }
            [first, ..] => {
                if let Some((_, version)) = first.rsplit_once(": go") {
                    toolchain = Some(version.to_owned());
                }
            }
            [] => {}
        }
    }
    (toolchain, modules.into_iter().filter(|module| module.version.starts_with('v')).collect())
}

/// As the module cache has names: a capital is its small letter behind an exclamation mark.
fn escaped(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for character in name.chars() {
        if character.is_ascii_uppercase() {
            escaped.push('!');
        }
        escaped.push(character.to_ascii_lowercase());
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_those_that_the_program_names() {
        let text = "/x/kubectl: go1.26.8\n\tpath\tkeelson/kubectl\n\tmod\tkeelson/kubectl\t(devel)\t\n\
            \tdep\tgithub.com/MakeNowJust/heredoc\tv1.0.0\th1:x=\n\
            \tdep\tk8s.io/api\tv0.0.0\n\t=>\tk8s.io/api\tv0.37.2\th1:y=\n\tbuild\t-trimpath=true\n";
        let (toolchain, modules) = parse(text);
        assert_eq!(toolchain.as_deref(), Some("1.26.8"));
        let found: Vec<String> = modules.iter().map(|module| format!("{}@{}", module.path, module.version)).collect();
        assert_eq!(found, ["github.com/MakeNowJust/heredoc@v1.0.0", "k8s.io/api@v0.37.2"]);
        assert_eq!(escaped("github.com/MakeNowJust/heredoc"), "github.com/!make!now!just/heredoc");
    }
}
