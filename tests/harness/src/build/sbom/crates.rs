//! The crates that the image's Rust programs are made of, by cargo's own word.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use super::Part;
use crate::build::error::BuildError;
use crate::build::rust::{PACKAGES, TARGET};
use crate::build::step::Step;

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    targets: Vec<CrateTarget>,
}

#[derive(Debug, Deserialize)]
struct CrateTarget {
    kind: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Debug, Deserialize)]
struct DependencyKind {
    /// None is a dependency of the program itself; others are for building and testing it.
    kind: Option<String>,
}

pub(super) fn parts(checkout: &Path, step: &mut Step<'_>) -> Result<BTreeSet<Part>, BuildError> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["metadata", "--format-version=1", "--locked", "--filter-platform", TARGET]).current_dir(checkout);
    let text = step.output(&mut cargo)?;
    let problem = |error: serde_json::Error| BuildError::Malformed {
        path: "the output of cargo metadata".into(),
        problem: error.to_string(),
    };
    let metadata: Metadata = serde_json::from_str(&text).map_err(problem)?;
    let mut parts = contained(&metadata, PACKAGES);
    let rust = step.output(Command::new("rustc").arg("--version").current_dir(checkout))?;
    parts.insert(Part {
        kind: "generic",
        name: "rust-std".to_owned(),
        version: rust.split_whitespace().nth(1).unwrap_or_default().to_owned(),
        licence: "MIT OR Apache-2.0".to_owned(),
    });
    Ok(parts)
}

/// The named packages and what is linked into their programs. A procedural macro is not: only what it wrote.
fn contained(metadata: &Metadata, roots: &[&str]) -> BTreeSet<Part> {
    let packages: BTreeMap<&str, &Package> =
        metadata.packages.iter().map(|package| (package.id.as_str(), package)).collect();
    let nodes: BTreeMap<&str, &Node> = metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let is_root = |package: &&Package| roots.contains(&package.name.as_str());
    let mut open: Vec<&str> = metadata.packages.iter().filter(is_root).map(|package| package.id.as_str()).collect();
    let mut seen = BTreeSet::new();
    let mut parts = BTreeSet::new();
    while let Some(id) = open.pop() {
        let (Some(package), true) = (packages.get(id), seen.insert(id)) else { continue };
        if package.targets.iter().any(|target| target.kind.iter().any(|kind| kind == "proc-macro")) {
            continue;
        }
        parts.insert(Part {
            kind: "cargo",
            name: package.name.clone(),
            version: package.version.clone(),
            // The form before SPDX expressions.
            licence: package.license.as_deref().unwrap_or("NOASSERTION").replace('/', " OR "),
        });
        let normal = |dependency: &&Dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none());
        let dependencies = nodes.get(id).into_iter().flat_map(|node| &node.deps).filter(normal);
        open.extend(dependencies.map(|dependency| dependency.pkg.as_str()));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_builds_or_tests_a_program_is_not_in_it() {
        let package = |id: &str, kind: &str| {
            format!(
                r#"{{"id":"{id}","name":"{id}","version":"1.0.0","license":"MIT/Apache-2.0","targets":[{{"kind":["{kind}"]}}]}}"#
            )
        };
        let packages =
            [package("init", "bin"), package("used", "lib"), package("test", "lib"), package("macro", "proc-macro")];
        let text = format!(
            r#"{{"packages":[{}],"resolve":{{"nodes":[{{"id":"init","deps":[
                {{"pkg":"used","dep_kinds":[{{"kind":"dev"}},{{"kind":null}}]}},
                {{"pkg":"test","dep_kinds":[{{"kind":"dev"}}]}},
                {{"pkg":"macro","dep_kinds":[{{"kind":null}}]}}]}}]}}}}"#,
            packages.join(",")
        );
        let metadata: Metadata = serde_json::from_str(&text).unwrap();
        let parts = contained(&metadata, &["init"]);
        let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
        assert_eq!(names, ["init", "used"]);
        assert!(parts.iter().all(|part| part.licence == "MIT OR Apache-2.0"));
    }
}
