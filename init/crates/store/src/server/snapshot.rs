//! What `etcdctl snapshot save` gets: all keys as of one moment, in a form of our own.
//!
//! etcd streams its database file, which nothing but etcd's own tools can read; ours is a sequence of rows that does not
//! depend on the database below. The frame is etcd's: the length is a multiple of 512 bytes, and a SHA-256 of everything
//! follows, which is how etcdctl recognises a complete snapshot.
//!
//! # Layout, version 1 (integers big endian)
//!
//! ```text
//! 8 bytes  "KEELSNAP"
//! u32      format version, 1        u32  oldest version that reads it, 1
//! records  u8 table (as in the checkpoint: 1 revisions, 2 leases, 3 meta; 4 to 6 the same of the cluster's own keys)
//!          u32 length of key, key, u32 length of value, value      ascending by table and key
//! u8       0: no more records
//! zeros    to a multiple of 512 bytes
//! 32 bytes SHA-256 of all before
//! ```
//! Rows of keys are those that a reader at or after the compacted revision can see, up to the revision in the meta table beside them.
//! Upgrade rule: a new table or another meaning is a new format version.

use aws_lc_rs::digest;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{self, Stream};
use keelson_etcd_api::etcdserverpb::SnapshotResponse;
use tonic::Status;

use super::ETCD_CLUSTER_VERSION;
use super::errors::Error;
use crate::state::{Rejection, Snapshot, State, Table};

pub(crate) const MAGIC: &[u8; 8] = b"KEELSNAP";
pub(crate) const FORMAT: u32 = 1;
pub(crate) const BLOCK: u64 = 512;
/// Rows taken under one hold of the state's lock, and bytes in one answer.
const SLICE_ROWS: usize = 512;
const PIECE_BYTES: usize = 256 << 10;

/// In front of each record.
const RECORD_HEAD: usize = 1 + 4 + 4;

pub(super) fn stream(state: &State) -> impl Stream<Item = Result<SnapshotResponse, Status>> + Send + use<> {
    stream::unfold(Some(Writer::new(state)), |writer| async {
        let mut writer = writer?;
        let piece = match writer.piece() {
            Ok(piece) => piece,
            Err(rejection) => return Some((Err(Status::from(Error::from(rejection))), None)),
        };
        let last = writer.stage == Stage::Done;
        tokio::task::yield_now().await;
        let answer = SnapshotResponse {
            header: None,
            remaining_bytes: writer.remaining(),
            blob: piece,
            version: ETCD_CLUSTER_VERSION.to_owned(),
        };
        Some((Ok(answer), (!last).then_some(writer)))
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Rows,
    Checksum,
    Done,
}

struct Writer {
    snapshot: Snapshot,
    stage: Stage,
    digest: digest::Context,
    /// Bytes before the checksum, as far as that can be known: rows that compaction is about to remove may be among them.
    total: u64,
    written: u64,
    buffer: BytesMut,
}

impl Writer {
    fn new(state: &State) -> Self {
        let mut buffer = BytesMut::new();
        buffer.put_slice(MAGIC);
        buffer.put_u32(FORMAT);
        buffer.put_u32(FORMAT);
        let digest = digest::Context::new(&digest::SHA256);
        let snapshot = state.snapshot();
        let (rows, bytes) = snapshot.size();
        let records = bytes + (rows * RECORD_HEAD) as u64;
        let total = (buffer.len() as u64 + records + 1).next_multiple_of(BLOCK);
        Self { snapshot, stage: Stage::Rows, digest, total, written: 0, buffer }
    }

    /// What is still to come; as etcd, without the checksum.
    fn remaining(&self) -> u64 {
        if self.stage == Stage::Rows { self.total.saturating_sub(self.written) } else { 0 }
    }

    fn piece(&mut self) -> Result<Bytes, Rejection> {
        while self.buffer.len() < PIECE_BYTES {
            match self.stage {
                Stage::Rows => {
                    if let Some(rows) = self.snapshot.slice(SLICE_ROWS) {
                        for row in rows? {
                            record(&mut self.buffer, row.table, &row.key, &row.value);
                        }
                        continue;
                    }
                    self.buffer.put_u8(0);
                    let length = self.written + self.buffer.len() as u64;
                    let padding = usize::try_from(length.next_multiple_of(BLOCK) - length).unwrap_or(0);
                    self.buffer.put_bytes(0, padding);
                    self.stage = Stage::Checksum;
                    // The checksum is of what is sent before it, so it goes by itself.
                    break;
                }
                Stage::Checksum => {
                    self.stage = Stage::Done;
                    return Ok(Bytes::copy_from_slice(self.digest.clone().finish().as_ref()));
                }
                Stage::Done => break,
            }
        }
        let piece = self.buffer.split().freeze();
        self.digest.update(&piece);
        self.written += piece.len() as u64;
        Ok(piece)
    }
}

fn record(buffer: &mut BytesMut, table: Table, key: &[u8], value: &[u8]) {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    buffer.put_u8(table as u8);
    buffer.put_u32(length(key));
    buffer.put_slice(key);
    buffer.put_u32(length(value));
    buffer.put_slice(value);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::stream::StreamExt as _;
    use keelson_etcd_api::etcdserverpb as pb;

    use super::*;
    use crate::command::Command;
    use crate::state::{Committed, Keys, Replicated as _};

    #[tokio::test]
    async fn what_is_still_to_come_is_told_with_each_piece() {
        let state = State::default();
        let put = |key: u32| {
            let request = pb::PutRequest {
                key: format!("key/{key}").into(),
                value: vec![7; 500].into(),
                ..pb::PutRequest::default()
            };
            Command::Put(request).on(if key.is_multiple_of(3) { Keys::Cluster } else { Keys::Public })
        };
        let lease = Command::LeaseGrant(pb::LeaseGrantRequest { ttl: 60, id: 7 });
        for command in (0..3000).map(put).chain([lease]) {
            state.apply(&[Committed { index: 1, term: 1, command: Arc::new(command) }]);
        }
        let answers: Vec<SnapshotResponse> = stream(&state).map(Result::unwrap).collect().await;
        let (checksum, pieces) = answers.split_last().unwrap();
        assert_eq!((checksum.remaining_bytes, checksum.blob.len()), (0, 32));
        let length = |piece: &SnapshotResponse| piece.blob.len() as u64;
        let mut left = pieces.iter().map(length).sum::<u64>();
        assert!(left > 1_000_000 && pieces.len() > 3);
        for piece in pieces {
            left -= length(piece);
            assert_eq!(piece.remaining_bytes, left);
        }
    }
}
