//! An OCI image layout in a tar file (opencontainers/image-spec, image-layout.md), as every tool of the field writes it.
//!
//! The tar's headers are read once and the blobs' places remembered; a blob is then read where it lies, so nothing of the archive is
//! held in memory but its JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

/// Manifests and indexes are kilobytes.
const DOCUMENT_MAX: u64 = 4 << 20;
/// A large image has a hundred layers.
const ENTRIES_MAX: usize = 10_000;
/// An index may list an index; nobody nests deeper.
const NESTING_MAX: usize = 3;
const ARCHITECTURE: &str = "amd64";
const OPERATING_SYSTEM: &str = "linux";

#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("it cannot be read")]
    Read(#[source] std::io::Error),
    #[error("it has more than {ENTRIES_MAX} entries")]
    TooManyEntries,
    #[error("{entry} is not there; is it an OCI image layout?")]
    Missing { entry: String },
    #[error("{entry} is larger than {DOCUMENT_MAX} bytes")]
    TooLarge { entry: String },
    #[error("{entry} is malformed")]
    Malformed { entry: String, source: serde_json::Error },
    #[error("{digest} is not a SHA-256 digest")]
    Digest { digest: String },
    #[error(
        "an image in it has no name: it needs the annotation io.containerd.image.name or org.opencontainers.image.ref.name"
    )]
    Unnamed,
    #[error("it has no image for {OPERATING_SYSTEM}/{ARCHITECTURE}")]
    Platform,
}

/// opencontainers/image-spec, descriptor.md.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: String,
    pub size: i64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    platform: Option<Platform>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// An image that the archive names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageEntry {
    /// As containerd's records have it: host, path, tag.
    pub name: String,
    pub target: Descriptor,
    /// All that is to be written, each after what it refers to.
    pub blobs: Vec<Blob>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    pub digest: String,
    pub size: i64,
    /// What keeps the blobs it refers to from being collected, in containerd's labels.
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug)]
pub struct Archive {
    file: File,
    /// Place and length by entry name.
    entries: BTreeMap<String, (u64, u64)>,
}

impl Archive {
    pub fn open(path: &Path) -> Result<Self, ArchiveError> {
        let file = File::open(path).map_err(ArchiveError::Read)?;
        let mut entries = BTreeMap::new();
        let mut reader = tar::Archive::new(file.try_clone().map_err(ArchiveError::Read)?);
        for entry in reader.entries_with_seek().map_err(ArchiveError::Read)? {
            let entry = entry.map_err(ArchiveError::Read)?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
            entries.insert(name, (entry.raw_file_position(), entry.size()));
            if entries.len() > ENTRIES_MAX {
                return Err(ArchiveError::TooManyEntries);
            }
        }
        Ok(Self { file, entries })
    }

    /// A reader of one blob.
    pub fn blob(&self, digest: &str) -> Result<impl Read + Send + 'static, ArchiveError> {
        self.entry(&blob_entry(digest)?)
    }

    pub fn images(&self) -> Result<Vec<ImageEntry>, ArchiveError> {
        let index: Index = self.document("index.json")?;
        index.manifests.into_iter().map(|descriptor| self.image(descriptor)).collect()
    }

    fn image(&self, target: Descriptor) -> Result<ImageEntry, ArchiveError> {
        let name = name(&target.annotations).ok_or(ArchiveError::Unnamed)?;
        let mut blobs = Vec::new();
        self.collect(&target, NESTING_MAX, &mut blobs)?;
        let mut seen = BTreeSet::new();
        blobs.retain(|blob| seen.insert(blob.digest.clone()));
        Ok(ImageEntry { name, target, blobs })
    }

    /// Adds what `descriptor` refers to, and then itself.
    fn collect(&self, descriptor: &Descriptor, depth: usize, blobs: &mut Vec<Blob>) -> Result<(), ArchiveError> {
        let entry = blob_entry(&descriptor.digest)?;
        let mut labels = BTreeMap::new();
        let mut refer = |key: String, to: &Descriptor| {
            labels.insert(format!("containerd.io/gc.ref.content.{key}"), to.digest.clone());
        };
        if is_index(&descriptor.media_type) {
            let index: Index = self.document(&entry)?;
            let chosen = index.manifests.iter().enumerate().find(|(_, manifest)| runs_here(manifest));
            let (position, manifest) = chosen.filter(|_| depth > 0).ok_or(ArchiveError::Platform)?;
            self.collect(manifest, depth - 1, blobs)?;
            refer(format!("m.{position}"), manifest);
        } else {
            let manifest: Manifest = self.document(&entry)?;
            for (position, layer) in manifest.layers.iter().enumerate() {
                refer(format!("l.{position}"), layer);
                blobs.push(leaf(layer));
            }
            refer("config".to_owned(), &manifest.config);
            blobs.push(leaf(&manifest.config));
        }
        blobs.push(Blob { labels, ..leaf(descriptor) });
        Ok(())
    }

    fn document<T: serde::de::DeserializeOwned>(&self, entry: &str) -> Result<T, ArchiveError> {
        let mut content = Vec::new();
        let mut reader = self.entry(entry)?.take(DOCUMENT_MAX + 1);
        reader.read_to_end(&mut content).map_err(ArchiveError::Read)?;
        if content.len() as u64 > DOCUMENT_MAX {
            return Err(ArchiveError::TooLarge { entry: entry.to_owned() });
        }
        serde_json::from_slice(&content).map_err(|source| ArchiveError::Malformed { entry: entry.to_owned(), source })
    }

    fn entry(&self, name: &str) -> Result<std::io::Take<Section>, ArchiveError> {
        let (at, length) = *self.entries.get(name).ok_or_else(|| ArchiveError::Missing { entry: name.to_owned() })?;
        let file = self.file.try_clone().map_err(ArchiveError::Read)?;
        Ok(Section { file, at }.take(length))
    }
}

/// Reads at its own place: descriptors that were duplicated share theirs, dup(2).
struct Section {
    file: File,
    at: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = std::os::unix::fs::FileExt::read_at(&self.file, buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

fn leaf(descriptor: &Descriptor) -> Blob {
    Blob { digest: descriptor.digest.clone(), size: descriptor.size, labels: BTreeMap::new() }
}

fn blob_entry(digest: &str) -> Result<String, ArchiveError> {
    let hexadecimal = digest
        .strip_prefix("sha256:")
        .filter(|hexadecimal| hexadecimal.len() == 64 && hexadecimal.bytes().all(|byte| byte.is_ascii_hexdigit()));
    match hexadecimal {
        Some(hexadecimal) => Ok(format!("blobs/sha256/{hexadecimal}")),
        None => Err(ArchiveError::Digest { digest: digest.to_owned() }),
    }
}

fn is_index(media_type: &str) -> bool {
    media_type.contains("image.index") || media_type.contains("manifest.list")
}

/// A manifest without a platform is the only one of its archive.
fn runs_here(manifest: &Descriptor) -> bool {
    manifest
        .platform
        .as_ref()
        .is_none_or(|platform| platform.architecture == ARCHITECTURE && platform.os == OPERATING_SYSTEM)
}

/// containerd's own annotation has the full name; the specification's may have a part of it.
fn name(annotations: &BTreeMap<String, String>) -> Option<String> {
    if let Some(name) = annotations.get("io.containerd.image.name") {
        return Some(name.clone());
    }
    let reference = annotations.get("org.opencontainers.image.ref.name")?;
    // A bare tag says nothing of the image.
    let named = reference.contains('/') || reference.contains(':');
    named.then(|| full_name(reference))
}

/// What Docker's habits leave out, as the container runtime reads pods' image names (distribution/reference, normalize.go).
fn full_name(reference: &str) -> String {
    let tagged = match reference.rsplit('/').next() {
        Some(last) if last.contains(':') || last.contains('@') => reference.to_owned(),
        _ => format!("{reference}:latest"),
    };
    match tagged.split_once('/') {
        Some((host, _)) if host.contains('.') || host.contains(':') || host == "localhost" => tagged,
        Some(_) => format!("docker.io/{tagged}"),
        None => format!("docker.io/library/{tagged}"),
    }
}

#[cfg(test)]
mod tests;
