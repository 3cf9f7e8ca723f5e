//! What an entry of the replicated log says.
//!
//! A [`Command`] is everything `apply` may know: time and randomness are put into it by whoever proposes it (a lease's id
//! and TTL, for instance), so that every member, and every replay after a crash, arrives at the same state.
//!
//! # Encoding
//!
//! ```text
//! u8   encoding version, now 1
//! u8   kind, see `Kind`
//! ...  the etcd request of that kind, in etcd's own protobuf encoding (etcdserverpb); of kind 9, another command
//! ```
//!
//! The body is etcd's wire format because that format is frozen by etcd's own compatibility promise: fields are only ever
//! added, with a zero value that means what their absence meant. It is thus a better contract than one of our own, and a
//! request is logged as it came. The consensus library's own types are never serialised: they may change with its version.
//!
//! Upgrade rule: a new kind, or a field that changes what an old kind means, is proposed only once every member of the
//! cluster runs a release that knows it, as its level says ([`crate::member::LEVEL`]). A member that meets a version or kind it does not know stops with
//! [`DecodeError`] rather than skip it, since skipping is diverging.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use keelson_etcd_api::etcdserverpb as pb;
use prost::Message;

use crate::mvcc::txn;
use crate::state::Keys;

const ENCODING_VERSION: u8 = 1;

/// One deterministic change of the replicated state.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Put(pb::PutRequest),
    DeleteRange(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    /// `physical` asks the member that answers to wait until the space is free; it changes no state.
    Compact(pb::CompactionRequest),
    /// The proposer has chosen the id (never zero) and bounded the TTL.
    LeaseGrant(pb::LeaseGrantRequest),
    LeaseRevoke(pb::LeaseRevokeRequest),
    /// Remaining seconds of leases, so that a new leader does not start them from the full TTL.
    LeaseCheckpoint(pb::LeaseCheckpointRequest),
    Alarm(pb::AlarmRequest),
    /// One of those above for the cluster's own keys ([`crate::cluster_keys`]).
    Cluster(Box<Command>),
}

/// A command together with its encoding, whose keys and values are slices of that encoding.
///
/// The log holds both until they are applied. A request as it arrives shares the buffer of its connection with whatever else came in
/// at that moment, so a small one would keep many times its size alive; this holds exactly its own bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    command: Arc<Command>,
    bytes: Bytes,
}

impl Encoded {
    pub fn new(command: &Command) -> Result<Self, DecodeError> {
        let mut buffer = BytesMut::with_capacity(command.encoded_len());
        command.encode(&mut buffer);
        Self::from_bytes(buffer.freeze())
    }

    pub fn from_bytes(bytes: Bytes) -> Result<Self, DecodeError> {
        Ok(Self { command: Arc::new(Command::decode(&bytes)?), bytes })
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub fn command(&self) -> &Command {
        &self.command
    }

    pub fn into_command(self) -> Arc<Command> {
        self.command
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Put = 1,
    DeleteRange = 2,
    Txn = 3,
    Compact = 4,
    LeaseGrant = 5,
    LeaseRevoke = 6,
    LeaseCheckpoint = 7,
    Alarm = 8,
    Cluster = 9,
}

#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("a log entry of {0} bytes is too short for a command")]
    Short(usize),
    #[error("a log entry has command encoding {0}; this release reads {ENCODING_VERSION}: run a newer release")]
    Version(u8),
    #[error("a log entry has command kind {0}, which this release does not know: run a newer release")]
    Kind(u8),
    #[error("a log entry's command of kind {kind} cannot be decoded")]
    Body {
        kind: u8,
        #[source]
        source: prost::DecodeError,
    },
}

impl Command {
    /// Appends the encoding to `buffer`.
    pub fn encode(&self, buffer: &mut BytesMut) {
        fn body(buffer: &mut BytesMut, kind: Kind, message: &impl Message) {
            buffer.reserve(2 + message.encoded_len());
            buffer.put_u8(ENCODING_VERSION);
            buffer.put_u8(kind as u8);
            message.encode_raw(buffer);
        }
        match self {
            Self::Cluster(command) => {
                buffer.extend_from_slice(&[ENCODING_VERSION, Kind::Cluster as u8]);
                command.encode(buffer);
            }
            Self::Put(request) => body(buffer, Kind::Put, request),
            Self::DeleteRange(request) => body(buffer, Kind::DeleteRange, request),
            Self::Txn(request) => body(buffer, Kind::Txn, request),
            Self::Compact(request) => body(buffer, Kind::Compact, request),
            Self::LeaseGrant(request) => body(buffer, Kind::LeaseGrant, request),
            Self::LeaseRevoke(request) => body(buffer, Kind::LeaseRevoke, request),
            Self::LeaseCheckpoint(request) => body(buffer, Kind::LeaseCheckpoint, request),
            Self::Alarm(request) => body(buffer, Kind::Alarm, request),
        }
    }

    pub fn encoded_len(&self) -> usize {
        2 + match self {
            Self::Cluster(command) => command.encoded_len(),
            Self::Put(request) => request.encoded_len(),
            Self::DeleteRange(request) => request.encoded_len(),
            Self::Txn(request) => request.encoded_len(),
            Self::Compact(request) => request.encoded_len(),
            Self::LeaseGrant(request) => request.encoded_len(),
            Self::LeaseRevoke(request) => request.encoded_len(),
            Self::LeaseCheckpoint(request) => request.encoded_len(),
            Self::Alarm(request) => request.encoded_len(),
        }
    }

    /// The same for a range of keys.
    #[must_use]
    pub fn on(self, keys: Keys) -> Self {
        match keys {
            Keys::Public => self,
            Keys::Cluster => Self::Cluster(Box::new(self)),
        }
    }

    /// Which range of keys it is about, and what it says of it.
    pub fn parts(&self) -> (Keys, &Self) {
        if let Self::Cluster(command) = self { (Keys::Cluster, command) } else { (Keys::Public, self) }
    }

    /// Whether it makes the store larger. What makes it smaller must always pass.
    pub fn grows(&self) -> bool {
        match self {
            Self::Cluster(command) => command.grows(),
            Self::Put(_) | Self::LeaseGrant(_) => true,
            Self::Txn(txn) => txn::puts_something(txn),
            Self::DeleteRange(_)
            | Self::Compact(_)
            | Self::LeaseRevoke(_)
            | Self::LeaseCheckpoint(_)
            | Self::Alarm(_) => false,
        }
    }

    /// Decodes what [`Command::encode`] wrote; keys and values stay slices of `encoded`.
    pub fn decode(encoded: &Bytes) -> Result<Self, DecodeError> {
        match encoded.first_chunk() {
            Some(&[ENCODING_VERSION, kind]) if kind == Kind::Cluster as u8 => {
                // One level deep, however many there are.
                Ok(Self::Cluster(Box::new(Self::decode_plain(&encoded.slice(2..))?)))
            }
            _ => Self::decode_plain(encoded),
        }
    }

    fn decode_plain(encoded: &Bytes) -> Result<Self, DecodeError> {
        let Some(&[version, kind]) = encoded.first_chunk() else {
            return Err(DecodeError::Short(encoded.len()));
        };
        if version != ENCODING_VERSION {
            return Err(DecodeError::Version(version));
        }
        let body = encoded.slice(2..);
        let wrap = |source| DecodeError::Body { kind, source };
        Ok(match kind {
            _ if kind == Kind::Put as u8 => Self::Put(Message::decode(body).map_err(wrap)?),
            _ if kind == Kind::DeleteRange as u8 => Self::DeleteRange(Message::decode(body).map_err(wrap)?),
            _ if kind == Kind::Txn as u8 => Self::Txn(Message::decode(body).map_err(wrap)?),
            _ if kind == Kind::Compact as u8 => Self::Compact(Message::decode(body).map_err(wrap)?),
            _ if kind == Kind::LeaseGrant as u8 => Self::LeaseGrant(Message::decode(body).map_err(wrap)?),
            _ if kind == Kind::LeaseRevoke as u8 => Self::LeaseRevoke(Message::decode(body).map_err(wrap)?),
            _ if kind == Kind::LeaseCheckpoint as u8 => Self::LeaseCheckpoint(Message::decode(body).map_err(wrap)?),
            _ if kind == Kind::Alarm as u8 => Self::Alarm(Message::decode(body).map_err(wrap)?),
            unknown => return Err(DecodeError::Kind(unknown)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(command: &Command) -> Bytes {
        let mut buffer = BytesMut::new();
        command.encode(&mut buffer);
        assert_eq!(buffer.len(), command.encoded_len());
        buffer.freeze()
    }

    #[test]
    fn the_clusters_own_command_holds_a_plain_one() {
        let put = Command::Put(pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() });
        let own = Command::Cluster(Box::new(put.clone()));
        assert_eq!(Command::decode(&encoded(&own)).unwrap(), own);
        assert_eq!((own.parts(), put.parts()), ((Keys::Cluster, &put), (Keys::Public, &put)));
        assert_eq!((put.clone().on(Keys::Cluster), put.clone().on(Keys::Public)), (own.clone(), put));
        let twice = Command::Cluster(Box::new(own));
        assert!(matches!(Command::decode(&encoded(&twice)), Err(DecodeError::Kind(9))));
        assert!(matches!(Command::decode(&Bytes::from_static(&[1, 9])), Err(DecodeError::Short(0))));
    }
}
