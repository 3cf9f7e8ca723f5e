use std::path::PathBuf;

use aws_lc_rs::digest;
use serde_json::{Value, json};

use super::*;

/// Builds an archive entry by entry.
struct Builder {
    entries: Vec<(String, Vec<u8>)>,
}

fn digest_of(content: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, content);
    let hexadecimal: Vec<_> = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{}", hexadecimal.concat())
}

impl Builder {
    fn new() -> Self {
        Self { entries: vec![("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())] }
    }

    /// Adds a blob and describes it.
    fn blob(&mut self, media_type: &str, content: &[u8]) -> Value {
        let digest = digest_of(content);
        self.entries.push((format!("blobs/sha256/{}", digest.trim_start_matches("sha256:")), content.to_vec()));
        json!({ "mediaType": media_type, "digest": digest, "size": content.len() })
    }

    fn image(&mut self, layers: &[&[u8]]) -> Value {
        let config = self.blob("application/vnd.oci.image.config.v1+json", b"{}");
        let layers: Vec<_> =
            layers.iter().map(|layer| self.blob("application/vnd.oci.image.layer.v1.tar", layer)).collect();
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers }).to_string();
        self.blob("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes())
    }

    fn index(&mut self, manifests: &[Value]) {
        let index = json!({ "schemaVersion": 2, "manifests": manifests }).to_string();
        self.entries.push(("index.json".to_owned(), index.into_bytes()));
    }

    fn write(&self) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image.tar");
        let mut archive = tar::Builder::new(File::create(&path).unwrap());
        for (name, content) in &self.entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, content.as_slice()).unwrap();
        }
        archive.finish().unwrap();
        (directory, path)
    }
}

fn named(mut descriptor: Value, name: &str) -> Value {
    descriptor["annotations"] = json!({ "io.containerd.image.name": name });
    descriptor
}

fn open(builder: &Builder) -> Archive {
    let (_directory, path) = builder.write();
    Archive::open(&path).unwrap()
}

#[test]
fn blobs_come_after_what_they_refer_to() {
    let mut builder = Builder::new();
    let manifest = builder.image(&[b"layer one", b"layer two"]);
    builder.index(&[named(manifest, "keelson.local/a:1")]);
    let archive = open(&builder);
    let images = archive.images().unwrap();
    let image = &images[0];
    assert_eq!(image.name, "keelson.local/a:1");
    assert_eq!(image.blobs.len(), 4);
    let manifest = image.blobs.last().unwrap();
    assert_eq!(manifest.digest, image.target.digest);
    let references: BTreeSet<_> = manifest.labels.values().collect();
    let others: BTreeSet<_> = image.blobs[..3].iter().map(|blob| &blob.digest).collect();
    assert_eq!(references, others, "the collector finds every blob by way of the manifest");
}

#[test]
fn a_blob_reads_as_what_it_is() {
    let mut builder = Builder::new();
    let layer = vec![7; 100_000];
    let manifest = builder.image(&[&layer]);
    builder.index(&[named(manifest, "keelson.local/a:1")]);
    let archive = open(&builder);
    for blob in &archive.images().unwrap()[0].blobs {
        let mut content = Vec::new();
        archive.blob(&blob.digest).unwrap().read_to_end(&mut content).unwrap();
        assert_eq!(digest_of(&content), blob.digest);
        assert_eq!(content.len().cast_signed() as i64, blob.size);
    }
}

#[test]
fn of_several_platforms_ours_is_taken() {
    let mut builder = Builder::new();
    let (mut ours, mut other) = (builder.image(&[b"ours"]), builder.image(&[b"other"]));
    ours["platform"] = json!({ "architecture": "amd64", "os": "linux" });
    other["platform"] = json!({ "architecture": "arm64", "os": "linux" });
    let index = json!({ "schemaVersion": 2, "manifests": [other.clone(), ours.clone()] }).to_string();
    let target = builder.blob("application/vnd.oci.image.index.v1+json", index.as_bytes());
    builder.index(&[named(target, "keelson.local/a:1")]);
    let image = open(&builder).images().unwrap().remove(0);
    let digests: Vec<_> = image.blobs.iter().map(|blob| blob.digest.as_str()).collect();
    assert!(digests.contains(&ours["digest"].as_str().unwrap()));
    assert!(!digests.contains(&other["digest"].as_str().unwrap()));
    assert_eq!(image.blobs.last().unwrap().labels["containerd.io/gc.ref.content.m.1"], ours["digest"]);
}

#[test]
fn an_archive_for_another_platform_is_told() {
    let mut builder = Builder::new();
    let mut other = builder.image(&[b"other"]);
    other["platform"] = json!({ "architecture": "arm64", "os": "linux" });
    let index = json!({ "schemaVersion": 2, "manifests": [other] }).to_string();
    let target = builder.blob("application/vnd.oci.image.index.v1+json", index.as_bytes());
    builder.index(&[named(target, "keelson.local/a:1")]);
    assert!(matches!(open(&builder).images(), Err(ArchiveError::Platform)));
}

#[test]
fn a_layer_that_is_used_twice_is_written_once() {
    let mut builder = Builder::new();
    let manifest = builder.image(&[b"same", b"same"]);
    builder.index(&[named(manifest, "keelson.local/a:1")]);
    assert_eq!(open(&builder).images().unwrap()[0].blobs.len(), 3);
}

#[test]
fn an_image_without_a_name_is_told() {
    let mut builder = Builder::new();
    let manifest = builder.image(&[b"x"]);
    builder.index(&[manifest]);
    assert!(matches!(open(&builder).images(), Err(ArchiveError::Unnamed)));
}

#[test]
fn a_path_in_a_digest_leads_nowhere() {
    let mut builder = Builder::new();
    let descriptor = json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:../../etc/passwd", "size": 1 });
    builder.index(&[named(descriptor, "keelson.local/a:1")]);
    assert!(matches!(open(&builder).images(), Err(ArchiveError::Digest { .. })));
}

#[test]
fn what_is_no_layout_is_told() {
    let builder = Builder::new();
    assert!(matches!(open(&builder).images(), Err(ArchiveError::Missing { entry }) if entry == "index.json"));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("broken.tar");
    std::fs::write(&path, vec![b'x'; 10_000]).unwrap();
    assert!(Archive::open(&path).is_err());
}

#[test]
fn names_are_completed_as_the_runtime_completes_them() {
    let of = |reference: &str| {
        name(&BTreeMap::from([("org.opencontainers.image.ref.name".to_owned(), reference.to_owned())]))
    };
    assert_eq!(of("nginx:1").as_deref(), Some("docker.io/library/nginx:1"));
    assert_eq!(of("bitnami/nginx:1").as_deref(), Some("docker.io/bitnami/nginx:1"));
    assert_eq!(of("registry.example/a").as_deref(), Some("registry.example/a:latest"));
    assert_eq!(of("localhost:5000/a:2").as_deref(), Some("localhost:5000/a:2"));
    assert_eq!(of("latest"), None);
}
