//! Puts OCI archives into containerd's store: those of the operating system, pinned, and those that the operator brought on a disk.
//!
//! Nothing waits for it but the features whose images these are. An image that is there already costs one question, so the same
//! code imports on the first boot, after a garbage collection that went too far, and never otherwise. Blobs and records are
//! written; unpacking is left to the runtime at first use, where it costs only what runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::node::Node;
use crate::report;
use crate::status::ConditionKind;

mod archive;
mod containerd;

pub use archive::{Archive, ArchiveError, ImageEntry};
pub use containerd::{Containerd, ImportError};

/// While containerd starts.
const CONNECT_PAUSE: Duration = Duration::from_millis(250);
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// An image of the system that somebody deleted is back after this long.
const RECHECK: Duration = Duration::from_mins(5);

#[derive(Debug, thiserror::Error)]
enum ImagesError {
    #[error("listing {path}")]
    List { path: PathBuf, source: std::io::Error },
    #[error("the archive {path}")]
    Archive { path: PathBuf, source: ArchiveError },
    #[error("importing {name}")]
    Import { name: String, source: ImportError },
    #[error("the work was interrupted")]
    Interrupted,
}

/// Imports what is missing, for ever. `names` are the system's images that are there.
pub async fn keep(node: Arc<Node>, names: watch::Sender<Vec<String>>) {
    loop {
        let pause = match import_all(&node, &names).await {
            Ok(count) => {
                node.status.holds(ConditionKind::ImagesImported, format!("{count} images are in containerd's store"));
                RECHECK
            }
            Err(error) => {
                if node.status.fails(ConditionKind::ImagesImported, report::chain(&error)) {
                    report::error(&error);
                }
                RETRY_PAUSE
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn import_all(node: &Node, names: &watch::Sender<Vec<String>>) -> Result<usize, ImagesError> {
    let containerd = connect(node).await;
    let mut count = 0;
    for path in archives(&node.paths.system_images())? {
        let imported = import(&containerd, &path, true).await?;
        count += imported.len();
        names.send_if_modified(|present| {
            let before = present.len();
            present.extend(imported.into_iter().filter(|name| !present.contains(name)).collect::<Vec<_>>());
            present.len() > before
        });
    }
    let mut failure = None;
    // One archive that cannot be read does not keep the others out.
    for path in archives(&node.paths.user_images())? {
        match import(&containerd, &path, false).await {
            Ok(imported) => count += imported.len(),
            Err(error) => failure = Some(error),
        }
    }
    failure.map_or(Ok(count), Err)
}

/// Waits for containerd: it starts when its settings are there, which is before this.
async fn connect(node: &Node) -> Containerd {
    let socket = node.paths.containerd_socket();
    loop {
        if let Ok(containerd) = Containerd::connect(&socket).await {
            return containerd;
        }
        node.status.fails(ConditionKind::ImagesImported, "containerd does not answer yet");
        tokio::time::sleep(CONNECT_PAUSE).await;
    }
}

/// The archives in a directory, by name; a directory that is not there has none.
fn archives(directory: &Path) -> Result<Vec<PathBuf>, ImagesError> {
    let list_error = |source| ImagesError::List { path: directory.to_owned(), source };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(list_error(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(list_error)?.path();
        if path.extension().is_some_and(|extension| extension == "tar") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

async fn import(containerd: &Containerd, path: &Path, pinned: bool) -> Result<Vec<String>, ImagesError> {
    let (owned, archive_error) = (path.to_owned(), |source| ImagesError::Archive { path: path.to_owned(), source });
    let archive = tokio::task::spawn_blocking(move || Archive::open(&owned))
        .await
        .map_err(|_| ImagesError::Interrupted)?
        .map_err(archive_error)?;
    let images = archive.images().map_err(archive_error)?;
    for image in &images {
        let import_error = |source| ImagesError::Import { name: image.name.clone(), source };
        if containerd.has(image, pinned).await.map_err(import_error)? {
            continue;
        }
        containerd.import(&archive, image, pinned).await.map_err(import_error)?;
        report::info(format!("imported {} from {}", image.name, path.display()));
    }
    Ok(images.into_iter().map(|image| image.name).collect())
}
