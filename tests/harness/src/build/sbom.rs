//! The bill of materials: what is in the image, in which version and under which licence, as SPDX 2.3 in JSON.
//!
//! Each list comes from whoever knows: cargo for crates, the Go programs themselves for their modules, dpkg for Debian's
//! packages, and the files for kernel and boot loader. Its time and name follow from the content, so the same image has the
//! same bill.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::allowlist::Entry;
use super::digest::Inputs;
use super::error::{BuildError, FileContext as _};
use super::progress::Outcome;
use super::step::Step;
use super::{Cache, SOURCE_DATE};

mod crates;
mod distribution;
mod go_modules;
pub(crate) mod licence;

/// One thing in the image that somebody gave a version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Part {
    /// `cargo`, `golang`, `deb` or `generic`, as package URLs call them.
    pub(crate) kind: &'static str,
    pub(crate) name: String,
    pub(crate) version: String,
    /// An SPDX licence expression.
    pub(crate) licence: String,
}

/// Licences that SPDX has no name for: their names here, and what they say.
pub(crate) type Extracted = BTreeMap<String, String>;

/// What the bill is made of.
#[derive(Debug)]
pub(crate) struct Content<'a> {
    pub(crate) checkout: &'a Path,
    /// The folder of each Go module's programs.
    pub(crate) go: &'a BTreeMap<&'static str, PathBuf>,
    pub(crate) debian: &'a Path,
    pub(crate) entries: &'a [Entry],
    pub(crate) kernel_config: &'a Path,
    /// The root's packed bytes, which stand for everything in it.
    pub(crate) root: &'a Path,
}

/// Writes the bill, or finds it written; returns its path.
pub(crate) fn build(
    content: &Content<'_>,
    output: &Cache,
    step: &mut Step<'_>,
) -> Result<(PathBuf, Outcome), BuildError> {
    let inputs = Inputs::new("sbom", 1)
        .file("root", content.root)?
        .file("kernel", content.kernel_config)?
        .file("crates", &content.checkout.join("Cargo.lock"))?
        .finish();
    let (place, outcome) = output.result("sbom", &inputs, |place| {
        let (mut extracted, mut parts) = (Extracted::new(), BTreeSet::new());
        parts.extend(crates::parts(content.checkout, step)?);
        parts.extend(go_modules::parts(content.checkout, content.go, step)?);
        parts.extend(distribution::parts(content, &mut extracted, step)?);
        let text = serde_json::to_vec_pretty(&document(&parts, &extracted, &inputs)).unwrap_or_default();
        let path = place.join("keelson.spdx.json");
        fs::write(&path, text).at("write", &path)
    })?;
    Ok((place.join("keelson.spdx.json"), outcome))
}

/// The document (spdx.github.io/spdx-spec/v2.3).
fn document(parts: &BTreeSet<Part>, extracted: &Extracted, identity: &str) -> Value {
    const IMAGE: &str = "SPDXRef-keelson";
    let version = env!("CARGO_PKG_VERSION");
    let image = json!({
        "SPDXID": IMAGE, "name": "keelson", "versionInfo": version, "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false, "licenseConcluded": "NOASSERTION", "licenseDeclared": "Apache-2.0",
        "copyrightText": "NOASSERTION", "primaryPackagePurpose": "OPERATING-SYSTEM",
    });
    let packages = std::iter::once(image).chain(parts.iter().enumerate().map(|(number, part)| package(number, part)));
    let relationship = |from: &str, kind: &str, to: &str| json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to});
    let contains = (0..parts.len()).map(|number| relationship(IMAGE, "CONTAINS", &reference(number)));
    let relationships = std::iter::once(relationship("SPDXRef-DOCUMENT", "DESCRIBES", IMAGE)).chain(contains);
    let licences = extracted.iter().map(|(name, text)| json!({"licenseId": name, "extractedText": text}));
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("keelson-{version}"),
        "documentNamespace": format!("https://keelson.dev/spdx/{version}/{identity}"),
        "creationInfo": {"created": SOURCE_DATE, "creators": [format!("Tool: cargo-vm-{version}")]},
        "packages": packages.collect::<Vec<_>>(),
        "relationships": relationships.collect::<Vec<_>>(),
        "hasExtractedLicensingInfos": licences.collect::<Vec<_>>(),
    })
}

fn reference(number: usize) -> String {
    format!("SPDXRef-part-{number}")
}

fn package(number: usize, part: &Part) -> Value {
    let Part { kind, name, version, licence } = part;
    let namespace = if *kind == "deb" { "debian/" } else { "" };
    json!({
        "SPDXID": reference(number), "name": name, "versionInfo": version, "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false, "licenseConcluded": "NOASSERTION", "licenseDeclared": licence,
        "copyrightText": "NOASSERTION",
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl",
            "referenceLocator": format!("pkg:{kind}/{namespace}{name}@{}", version.replace('+', "%2B")),
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_names_each_part_once_and_says_that_the_image_contains_it() {
        let part = |name: &str, licence: &str| Part {
            kind: "cargo",
            name: name.to_owned(),
            version: "1.0+x".to_owned(),
            licence: licence.to_owned(),
        };
        let parts = BTreeSet::from([part("a", "MIT"), part("b", "LicenseRef-b"), part("a", "MIT")]);
        let extracted = Extracted::from([("LicenseRef-b".to_owned(), "do what you like".to_owned())]);
        let document = document(&parts, &extracted, "0123");
        assert_eq!(document["packages"].as_array().unwrap().len(), 3);
        assert_eq!(document["packages"][1]["externalRefs"][0]["referenceLocator"], "pkg:cargo/a@1.0%2Bx");
        assert_eq!(document["relationships"][2]["relatedSpdxElement"], document["packages"][2]["SPDXID"]);
        assert_eq!(document["hasExtractedLicensingInfos"][0]["licenseId"], document["packages"][2]["licenseDeclared"]);
    }
}
