//! Frames: length, checksum, id, body. The layout is in the parent's documentation.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt as _};

const HEADER_LEN: usize = 8;
const ID_LEN: usize = 8;
/// Read at once. Memory grows as bytes arrive, not as a length announces them.
const READ_BYTES: usize = 64 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub id: u64,
    pub body: Bytes,
}

impl Frame {
    /// Bytes on the wire.
    pub(super) fn wire_len(&self) -> usize {
        HEADER_LEN + ID_LEN + self.body.len()
    }
}

pub(super) fn encode(id: u64, message: &impl Message) -> Bytes {
    let len = ID_LEN + message.encoded_len();
    let mut buffer = BytesMut::with_capacity(HEADER_LEN + len);
    buffer.put_u32_le(u32::try_from(len).unwrap_or(u32::MAX));
    buffer.put_u32_le(0);
    buffer.put_u64_le(id);
    message.encode_raw(&mut buffer);
    let crc = buffer.get(HEADER_LEN..).map_or(0, crc32fast::hash);
    if let Some(field) = buffer.get_mut(4..HEADER_LEN) {
        field.copy_from_slice(&crc.to_le_bytes());
    }
    buffer.freeze()
}

/// Takes frames from a stream. A call that is dropped loses nothing.
#[derive(Debug)]
pub(super) struct Reader<S> {
    stream: S,
    buffer: BytesMut,
    limit: usize,
}

impl<S: AsyncRead + Unpin> Reader<S> {
    pub(super) fn new(stream: S, limit: usize) -> Self {
        Self { stream, buffer: BytesMut::new(), limit }
    }

    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// The next frame; none when the stream ends between two.
    pub(super) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            self.buffer.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn take(&mut self) -> io::Result<Option<Frame>> {
        let Some(&header) = self.buffer.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let mut header = header.as_slice();
        let len = usize::try_from(header.get_u32_le()).unwrap_or(usize::MAX);
        let crc = header.get_u32_le();
        if len < ID_LEN || len > self.limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {len} bytes")));
        }
        if self.buffer.len() < HEADER_LEN + len {
            return Ok(None);
        }
        self.buffer.advance(HEADER_LEN);
        let mut body = self.buffer.split_to(len).freeze();
        if crc32fast::hash(&body) != crc {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame whose checksum is wrong"));
        }
        let id = body.get_u64_le();
        Ok(Some(Frame { id, body }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        text.to_owned()
    }

    #[tokio::test]
    async fn frames_survive_any_split_of_the_stream() {
        let mut bytes = encode(7, &message("one")).to_vec();
        bytes.extend_from_slice(&encode(8, &message(&"x".repeat(300_000))));
        for piece in [1, 15, 16, 17, 4096, 1 << 20] {
            let (client, server) = tokio::io::duplex(64);
            let sent = bytes.clone();
            let sender = tokio::spawn(async move {
                use tokio::io::AsyncWriteExt as _;
                let mut client = client;
                for piece in sent.chunks(piece) {
                    client.write_all(piece).await.unwrap();
                }
            });
            let mut reader = Reader::new(server, 1 << 20);
            assert_eq!(reader.next().await.unwrap().unwrap().id, 7);
            let second = reader.next().await.unwrap().unwrap();
            assert_eq!(String::decode(second.body).unwrap().len(), 300_000);
            assert!(reader.next().await.unwrap().is_none());
            sender.await.unwrap();
        }
    }

    #[tokio::test]
    async fn oversized_damaged_and_cut_frames_are_errors() {
        let good = encode(7, &message("one"));
        let read = async |bytes: Vec<u8>, limit| Reader::new(bytes.as_slice(), limit).next().await;
        assert!(read(good.to_vec(), 1 << 10).await.is_ok());
        assert!(read(good.to_vec(), 9).await.is_err());
        assert!(read(good[..good.len() - 1].to_vec(), 1 << 10).await.is_err());
        assert!(read(vec![0; 64], 1 << 10).await.is_err());
        for position in 4..good.len() {
            let mut bad = good.to_vec();
            bad[position] ^= 1;
            assert!(read(bad, 1 << 10).await.is_err(), "{position}");
        }
    }
}
