//! OCI images of one static program each, as archives that containerd imports.
//!
//! Layout by the OCI image specification 1.1 (image-layout.md): `oci-layout`, `index.json`, `blobs/sha256/…`. The layer
//! is not compressed: the archives travel inside the root, which is, and a node that unpacks one under load saves the
//! time. The reference is in the annotation that containerd's importer reads (`io.containerd.image.name`).

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;

use serde_json::{Value, json};

use super::archive::{tar_file, tar_folder};
use super::digest;
use super::error::{BuildError, FileContext as _};

/// An image to be made.
#[derive(Debug)]
pub(crate) struct OciImage<'a> {
    /// Its full reference, as a pod names it.
    pub(crate) reference: &'a str,
    /// The program, which becomes the entry point.
    pub(crate) program: &'a Path,
    /// Where the program is in the image.
    pub(crate) entrypoint: &'a str,
    /// The numeric user and group that it runs as.
    pub(crate) user: &'a str,
}

/// Writes the archive.
pub(crate) fn write(image: &OciImage<'_>, archive: &Path) -> Result<(), BuildError> {
    let layer = layer(image).at("pack", image.program)?;
    let layer_digest = digest::of_bytes(&layer);
    let config = encoded(&json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Entrypoint": [image.entrypoint], "User": image.user, "WorkingDir": "/" },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_digest}")] },
    }));
    let manifest = encoded(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    }));
    let index = encoded(&index(image.reference, &manifest));
    let layout = encoded(&json!({ "imageLayoutVersion": "1.0.0" }));

    let write = || -> io::Result<()> {
        let mut tar = tar::Builder::new(BufWriter::new(File::create(archive)?));
        tar_folder(&mut tar, "blobs")?;
        tar_folder(&mut tar, "blobs/sha256")?;
        for blob in [&config, &layer, &manifest] {
            let name = format!("blobs/sha256/{}", digest::of_bytes(blob));
            tar_file(&mut tar, &name, 0o444, blob.len() as u64, blob.as_slice())?;
        }
        tar_file(&mut tar, "index.json", 0o444, index.len() as u64, index.as_slice())?;
        tar_file(&mut tar, "oci-layout", 0o444, layout.len() as u64, layout.as_slice())?;
        tar.into_inner()?.into_inner()?.sync_all()
    };
    write().at("write", archive)
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn index(reference: &str, manifest: &[u8]) -> Value {
    let tag = reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    let mut entry = descriptor(MANIFEST, manifest);
    if let Value::Object(fields) = &mut entry {
        fields.insert("platform".to_owned(), json!({ "architecture": "amd64", "os": "linux" }));
        fields.insert(
            "annotations".to_owned(),
            json!({ "io.containerd.image.name": reference, "org.opencontainers.image.ref.name": tag }),
        );
    }
    json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry] })
}

fn layer(image: &OciImage<'_>) -> io::Result<Vec<u8>> {
    let mut program = File::open(image.program)?;
    let size = program.metadata()?.len();
    let mut tar = tar::Builder::new(Vec::new());
    tar_file(&mut tar, image.entrypoint.trim_start_matches('/'), 0o755, size, &mut program)?;
    tar.into_inner()
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": format!("sha256:{}", digest::of_bytes(content)), "size": content.len() })
}

/// Objects of `serde_json` are sorted by key, so the bytes are a function of the value.
fn encoded(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::io::Read as _;

    fn archive_of(content: &[u8]) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        std::fs::write(&program, content).unwrap();
        let archive = folder.path().join("archive.tar");
        let reference = "keelson.local/thing:1";
        write(&OciImage { reference, program: &program, entrypoint: "/thing", user: "65535:65535" }, &archive).unwrap();
        std::fs::read(archive).unwrap()
    }

    fn entries(archive: &[u8]) -> HashMap<String, Vec<u8>> {
        let mut tar = tar::Archive::new(archive);
        let entries = tar.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().to_string_lossy().into_owned(), content)
        });
        entries.collect()
    }

    #[test]
    fn every_reference_leads_to_a_blob_of_that_digest_and_size() {
        let files = entries(&archive_of(b"a program"));
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
            let content = &files[&format!("blobs/sha256/{digest}")];
            assert_eq!(digest::of_bytes(content), digest);
            assert_eq!(descriptor["size"], content.len());
            content.clone()
        };
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();

        let index = json(&files["index.json"]);
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "keelson.local/thing:1");
        let manifest = json(&blob(&index["manifests"][0]));
        let config = json(&blob(&manifest["config"]));
        let layer = blob(&manifest["layers"][0]);
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", digest::of_bytes(&layer)));
        assert_eq!(entries(&layer)["thing"], b"a program");
    }

    #[test]
    fn same_program_gives_the_same_bytes() {
        assert_eq!(archive_of(b"a program"), archive_of(b"a program"));
        assert_ne!(archive_of(b"a program"), archive_of(b"b program"));
    }
}
