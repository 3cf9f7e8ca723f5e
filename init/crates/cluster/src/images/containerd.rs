//! containerd's content and image services: blobs are written under a lease, then the record is made, then the lease goes.
//!
//! The lease keeps the garbage collector away from blobs that no record leads to yet. It expires by itself, so an import that was
//! cut off leaves nothing behind for long; begun again before that, it finds the blobs that are whole.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use uuid::Uuid;

use super::archive::{Archive, ArchiveError, Blob, ImageEntry};
use crate::proto::containerd::services::content::v1::content_client::ContentClient;
use crate::proto::containerd::services::content::v1::{InfoRequest, WriteAction, WriteContentRequest};
use crate::proto::containerd::services::images::v1::images_client::ImagesClient;
use crate::proto::containerd::services::images::v1::{CreateImageRequest, GetImageRequest, Image, UpdateImageRequest};
use crate::proto::containerd::services::leases::v1::leases_client::LeasesClient;
use crate::proto::containerd::services::leases::v1::{CreateRequest, DeleteRequest};
use crate::proto::containerd::types::Descriptor;

/// The namespace that the container runtime interface uses.
const NAMESPACE: &str = "k8s.io";
/// Well below the 16 MiB that containerd takes in one message.
const CHUNK_BYTES: usize = 1 << 20;
/// Chunks on their way, so that reading and writing overlap.
const CHUNKS_AHEAD: usize = 2;
const LEASE_LIFE: time::Duration = time::Duration::hours(1);
const REQUEST_DEADLINE: Duration = Duration::from_mins(1);

#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("connecting to containerd")]
    Connect(#[source] tonic::transport::Error),
    #[error("asking containerd to {action}")]
    Containerd { action: &'static str, source: Box<Status> },
    #[error("reading the blob {digest}")]
    Blob { digest: String, source: ArchiveError },
    #[error("containerd ended the write of {digest}")]
    Ended { digest: String },
}

fn failed(action: &'static str) -> impl Fn(Status) -> ImportError {
    move |status| ImportError::Containerd { action, source: Box::new(status) }
}

#[derive(Debug, Clone)]
pub struct Containerd {
    channel: Channel,
}

impl Containerd {
    pub async fn connect(socket: &Path) -> Result<Self, ImportError> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).map_err(ImportError::Connect)?;
        Ok(Self { channel: endpoint.connect().await.map_err(ImportError::Connect)? })
    }

    /// Whether the image is there, whole as far as its target tells, and pinned if it should be.
    pub async fn has(&self, image: &ImageEntry, pinned: bool) -> Result<bool, ImportError> {
        let request = GetImageRequest { name: image.name.clone() };
        let answer = ImagesClient::new(self.channel.clone()).get(namespaced(request, None)).await;
        let Some(answer) = found(answer).map_err(failed("look an image up"))? else {
            return Ok(false);
        };
        let Some(record) = answer.into_inner().image else {
            return Ok(false);
        };
        let target = record.target.is_some_and(|target| target.digest == image.target.digest);
        if !target || (pinned && !labels(true).iter().all(|(key, value)| record.labels.get(key) == Some(value))) {
            return Ok(false);
        }
        for blob in &image.blobs {
            if !self.has_blob(&blob.digest).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn has_blob(&self, digest: &str) -> Result<bool, ImportError> {
        let request = InfoRequest { digest: digest.to_owned() };
        let answer = ContentClient::new(self.channel.clone()).info(namespaced(request, None)).await;
        Ok(found(answer).map_err(failed("look a blob up"))?.is_some())
    }

    pub async fn import(&self, archive: &Archive, image: &ImageEntry, pinned: bool) -> Result<(), ImportError> {
        let lease = self.create_lease().await?;
        let result = self.import_leased(archive, image, pinned, &lease).await;
        let delete = DeleteRequest { id: lease, sync: false };
        let deleted = LeasesClient::new(self.channel.clone()).delete(namespaced(delete, None)).await;
        result?;
        deleted.map_err(failed("end a lease"))?;
        Ok(())
    }

    async fn create_lease(&self) -> Result<String, ImportError> {
        let id = format!("keelson-import-{}", Uuid::new_v4());
        let expiry = (OffsetDateTime::now_utc() + LEASE_LIFE).format(&Rfc3339).unwrap_or_default();
        let labels = HashMap::from([("containerd.io/gc.expire".to_owned(), expiry)]);
        let request = CreateRequest { id: id.clone(), labels };
        LeasesClient::new(self.channel.clone())
            .create(namespaced(request, None))
            .await
            .map_err(failed("give a lease"))?;
        Ok(id)
    }

    async fn import_leased(
        &self,
        archive: &Archive,
        image: &ImageEntry,
        pinned: bool,
        lease: &str,
    ) -> Result<(), ImportError> {
        for blob in &image.blobs {
            self.write_blob(archive, blob, lease).await?;
        }
        self.record(image, pinned).await
    }

    /// A write is a conversation: each chunk is acknowledged; the last message names the digest that must have come out.
    async fn write_blob(&self, archive: &Archive, blob: &Blob, lease: &str) -> Result<(), ImportError> {
        let blob_error = |source| ImportError::Blob { digest: blob.digest.clone(), source };
        let content = archive.blob(&blob.digest).map_err(blob_error)?;
        let (chunks, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let write = Write { blob: blob.clone(), lease: lease.to_owned() };
        // The queue is empty, so there is room.
        let _ = chunks.try_send(write.message(WriteAction::Stat, 0, Bytes::new()));
        let request = namespaced(ReceiverStream::new(receiver), Some(lease));
        let begun = ContentClient::new(self.channel.clone()).write(request).await;
        let Some(begun) = absent(begun).map_err(failed("write a blob"))? else {
            return Ok(());
        };
        let mut answers = begun.into_inner();
        // The answer to the question whether it is there comes before anything is sent.
        if absent(answers.message().await).map_err(failed("write a blob"))?.is_none() {
            return Ok(());
        }
        let sent = tokio::task::spawn_blocking(move || write.send(content, &chunks));
        let mut committed = false;
        while let Some(Some(answer)) = absent(answers.message().await).map_err(failed("write a blob"))? {
            committed |= answer.action() == WriteAction::Commit;
        }
        match sent.await {
            Ok(Ok(())) if committed => Ok(()),
            Ok(Err(source)) => Err(blob_error(ArchiveError::Read(source))),
            _ => Err(ImportError::Ended { digest: blob.digest.clone() }),
        }
    }

    async fn record(&self, image: &ImageEntry, pinned: bool) -> Result<(), ImportError> {
        let target = Descriptor {
            media_type: image.target.media_type.clone(),
            digest: image.target.digest.clone(),
            size: image.target.size,
            annotations: HashMap::new(),
        };
        let record = Image { name: image.name.clone(), labels: labels(pinned), target: Some(target) };
        let mut images = ImagesClient::new(self.channel.clone());
        let create = namespaced(CreateImageRequest { image: Some(record.clone()) }, None);
        let created = images.create(create).await;
        if absent(created).map_err(failed("record an image"))?.is_none() {
            let update = namespaced(UpdateImageRequest { image: Some(record) }, None);
            images.update(update).await.map_err(failed("record an image"))?;
        }
        Ok(())
    }
}

/// One blob on its way.
struct Write {
    blob: Blob,
    lease: String,
}

impl Write {
    fn send(&self, mut content: impl Read, sender: &mpsc::Sender<WriteContentRequest>) -> std::io::Result<()> {
        let mut offset = 0_i64;
        loop {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            let length = content.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
            let action = if length == 0 { WriteAction::Commit } else { WriteAction::Write };
            // A receiver that is gone has given its reason to whoever reads the answers.
            let gone = sender.blocking_send(self.message(action, offset, chunk.into())).is_err();
            if gone || length == 0 {
                return Ok(());
            }
            offset += i64::try_from(length).unwrap_or(i64::MAX);
        }
    }

    fn message(&self, action: WriteAction, offset: i64, data: Bytes) -> WriteContentRequest {
        let labels = match action {
            WriteAction::Commit => self.blob.labels.clone().into_iter().collect(),
            _ => HashMap::new(),
        };
        WriteContentRequest {
            action: action.into(),
            // Of this import alone: what an interrupted one wrote is not taken up, containerd throws it away.
            r#ref: format!("{}-{}", self.lease, self.blob.digest),
            total: self.blob.size,
            expected: self.blob.digest.clone(),
            offset,
            data,
            labels,
        }
    }
}

/// What the container runtime interface expects of an image it knows, and what keeps kubelet's collector from it.
fn labels(pinned: bool) -> HashMap<String, String> {
    let mut labels = HashMap::from([("io.cri-containerd.image".to_owned(), "managed".to_owned())]);
    if pinned {
        labels.insert("io.cri-containerd.pinned".to_owned(), "pinned".to_owned());
    }
    labels
}

fn namespaced<T>(message: T, lease: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if lease.is_none() {
        request.set_timeout(REQUEST_DEADLINE);
    }
    let metadata = request.metadata_mut();
    metadata.insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    if let Some(lease) = lease.and_then(|lease| lease.parse::<MetadataValue<Ascii>>().ok()) {
        metadata.insert("containerd-lease", lease);
    }
    request
}

fn found<T>(answer: Result<T, Status>) -> Result<Option<T>, Status> {
    unless(answer, Code::NotFound)
}

/// `None` if it is there already.
fn absent<T>(answer: Result<T, Status>) -> Result<Option<T>, Status> {
    unless(answer, Code::AlreadyExists)
}

fn unless<T>(answer: Result<T, Status>, code: Code) -> Result<Option<T>, Status> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(status) if status.code() == code => Ok(None),
        Err(status) => Err(status),
    }
}
