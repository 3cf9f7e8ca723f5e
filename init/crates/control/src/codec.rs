//! Packets on a `SOCK_SEQPACKET` socket, and a service set in a sealed memfd.
//!
//! Used by both sides. Nothing here waits longer than the socket is told to: PID 1's sockets are non-blocking.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::{PACKET_MAX, SET_MAX, ServiceSet};

#[derive(Debug, Error)]
pub enum CodecError {
    #[error("packet of {length} bytes, at most {PACKET_MAX} are possible")]
    PacketTooLong { length: usize },
    #[error("set of {length} bytes, at most {SET_MAX} are possible")]
    SetTooLong { length: u64 },
    #[error("malformed JSON")]
    Json(#[source] serde_json::Error),
    #[error("cannot {operation}")]
    System { operation: &'static str, source: Errno },
    #[error("the set's memfd is not sealed against shrinking, growing and writing")]
    NotSealed,
}

impl CodecError {
    /// The socket has no room, or nothing to read, right now.
    pub fn would_block(&self) -> bool {
        matches!(self, Self::System { source: Errno::AGAIN, .. })
    }
}

/// Sends one packet, with a descriptor beside it if there is one.
pub fn send<T: Serialize>(socket: impl AsFd, message: &T, descriptor: Option<&OwnedFd>) -> Result<(), CodecError> {
    let bytes = serde_json::to_vec(message).map_err(CodecError::Json)?;
    send_bytes(socket, &bytes, descriptor)
}

/// Sends an encoded packet.
pub fn send_bytes(socket: impl AsFd, bytes: &[u8], descriptor: Option<&OwnedFd>) -> Result<(), CodecError> {
    if bytes.len() > PACKET_MAX {
        return Err(CodecError::PacketTooLong { length: bytes.len() });
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = descriptor.map(AsFd::as_fd).into_iter().collect();
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
        .map_err(|source| CodecError::System { operation: "send a packet", source })?;
    Ok(())
}

/// One received packet.
#[derive(Debug)]
pub struct Received<'a> {
    pub bytes: &'a [u8],
    pub descriptor: Option<OwnedFd>,
}

impl Received<'_> {
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, CodecError> {
        serde_json::from_slice(self.bytes).map_err(CodecError::Json)
    }
}

/// Receives one packet into `buffer`, which should hold [`PACKET_MAX`] bytes. `None` means the other side is gone.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<Option<Received<'_>>, CodecError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let message = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)
        .map_err(|source| CodecError::System { operation: "receive a packet", source })?;
    let mut descriptor = None;
    for item in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = item {
            descriptor = descriptors.into_iter().next().or(descriptor);
        }
    }
    if message.flags.contains(ReturnFlags::TRUNC) {
        return Err(CodecError::PacketTooLong { length: message.bytes });
    }
    if message.bytes == 0 {
        return Ok(None);
    }
    let bytes = buffer.get(..message.bytes).unwrap_or_default();
    Ok(Some(Received { bytes, descriptor }))
}

const SEALS: SealFlags = SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// Writes a set into a memfd that nobody can change any more (`memfd_create(2)`, "File sealing").
pub fn seal_set(set: &ServiceSet) -> Result<OwnedFd, CodecError> {
    let bytes = serde_json::to_vec(set).map_err(CodecError::Json)?;
    if bytes.len() > SET_MAX {
        return Err(CodecError::SetTooLong { length: bytes.len() as u64 });
    }
    let system = |operation| move |source| CodecError::System { operation, source };
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memfd = rustix::fs::memfd_create("keelson-service-set", flags).map_err(system("create a memfd"))?;
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let written = rustix::io::write(&memfd, rest).map_err(system("write a memfd"))?;
        rest = rest.get(written..).unwrap_or_default();
    }
    rustix::fs::fcntl_add_seals(&memfd, SEALS).map_err(system("seal a memfd"))?;
    Ok(memfd)
}

/// Reads a set from a memfd, after making sure that its sender cannot change it meanwhile.
pub fn read_set(memfd: &OwnedFd) -> Result<ServiceSet, CodecError> {
    let bytes = read_sealed(memfd)?;
    serde_json::from_slice(&bytes).map_err(CodecError::Json)
}

/// The bytes of a sealed memfd.
pub fn read_sealed(memfd: &OwnedFd) -> Result<Vec<u8>, CodecError> {
    let system = |operation| move |source| CodecError::System { operation, source };
    // Anything but a memfd answers EINVAL here, so no read below can block on a pipe or a device.
    let seals = rustix::fs::fcntl_get_seals(memfd).map_err(|_| CodecError::NotSealed)?;
    if !seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE) {
        return Err(CodecError::NotSealed);
    }
    let length = rustix::fs::fstat(memfd).map_err(system("stat a memfd"))?.st_size;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > SET_MAX {
        return Err(CodecError::SetTooLong { length: length as u64 });
    }
    let mut bytes = vec![0; length];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let offset = done as u64;
        match rustix::io::pread(memfd, rest, offset).map_err(system("read a memfd"))? {
            0 => break,
            count => done += count,
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}
