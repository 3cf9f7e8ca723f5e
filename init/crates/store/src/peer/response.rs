//! Answers of applied commands on the wire: a number for the kind, and etcd's own message.

use bytes::Bytes;
use prost::{DecodeError, Message};

use crate::state::{Rejection, Response};

const EMPTY: u32 = 0;
const PUT: u32 = 1;
const DELETE_RANGE: u32 = 2;
const TXN: u32 = 3;
const COMPACT: u32 = 4;
const LEASE_GRANT: u32 = 5;
const LEASE_REVOKE: u32 = 6;
const LEASE_CHECKPOINT: u32 = 7;
const ALARM: u32 = 8;
/// Rejections follow, in their own order.
const REJECTED: u32 = 64;

const REJECTIONS: [Rejection; 7] = [
    Rejection::Compacted,
    Rejection::FutureRevision,
    Rejection::NoSpace,
    Rejection::LeaseNotFound,
    Rejection::LeaseExists,
    Rejection::KeyNotFound,
    Rejection::Corrupt,
];

pub(super) fn encode(response: &Response) -> (u32, Bytes) {
    fn body(kind: u32, message: &impl Message) -> (u32, Bytes) {
        (kind, message.encode_to_vec().into())
    }
    match response {
        Response::Empty => (EMPTY, Bytes::new()),
        Response::Put(message) => body(PUT, message),
        Response::DeleteRange(message) => body(DELETE_RANGE, message),
        Response::Txn(message) => body(TXN, message),
        Response::Compact(message) => body(COMPACT, message),
        Response::LeaseGrant(message) => body(LEASE_GRANT, message),
        Response::LeaseRevoke(message) => body(LEASE_REVOKE, message),
        Response::LeaseCheckpoint(message) => body(LEASE_CHECKPOINT, message),
        Response::Alarm(message) => body(ALARM, message),
        Response::Rejected(rejection) => {
            let number = (REJECTED..).zip(REJECTIONS).find(|(_, known)| known == rejection);
            (number.map_or(REJECTED, |(number, _)| number), Bytes::new())
        }
    }
}

/// None for a kind that this release does not know.
pub(super) fn decode(kind: u32, body: Bytes) -> Result<Option<Response>, DecodeError> {
    Ok(Some(match kind {
        EMPTY => Response::Empty,
        PUT => Response::Put(Message::decode(body)?),
        DELETE_RANGE => Response::DeleteRange(Message::decode(body)?),
        TXN => Response::Txn(Message::decode(body)?),
        COMPACT => Response::Compact(Message::decode(body)?),
        LEASE_GRANT => Response::LeaseGrant(Message::decode(body)?),
        LEASE_REVOKE => Response::LeaseRevoke(Message::decode(body)?),
        LEASE_CHECKPOINT => Response::LeaseCheckpoint(Message::decode(body)?),
        ALARM => Response::Alarm(Message::decode(body)?),
        _ => {
            let rejection = (REJECTED..).zip(REJECTIONS).find(|(number, _)| *number == kind);
            return Ok(rejection.map(|(_, rejection)| Response::Rejected(rejection)));
        }
    }))
}
