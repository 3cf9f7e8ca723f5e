//! Key-value pairs and events in the form in which they travel.
//!
//! Both implement [`Message`], so generated messages contain them like any other; encoding one is a copy of its bytes.
//! Decoding works too (tests and tools use it), at the price of decoding and encoding again.
//!
//! A pair is the largest thing in a store, and there are as many as it has keys: whoever keeps one may keep twelve bytes of its own
//! ([`Label`]) in the same piece of memory, so that one pointer is all that is needed for both. They do not travel, and equality does not see them.
//!
//! Invariant: the bytes of a [`KeyValue`] are a valid encoding of [`mvccpb::KeyValue`] in field order without unknown
//! fields. It holds because every constructor encodes or checks.

use std::cell::RefCell;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::{Buf, BufMut};
use prost::encoding::{DecodeContext, WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use prost::{DecodeError, Message};

use crate::mvccpb;
use crate::mvccpb::event::EventType;

/// What the keeper of a pair notes with it.
pub type Label = [u8; LABEL_LENGTH];

const LABEL_LENGTH: usize = 12;

/// Kept by each thread to put pairs together in; after a larger one the rest is given back.
const SCRATCH_BYTES: usize = 64 << 10;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The tag of the key, and the first length that takes more than one byte.
const KEY_TAG: u8 = 0x0a;
const LONG: u8 = 0x80;

/// An encoded `mvccpb.KeyValue`, shared by reference count: its label, then its bytes. The default has neither.
#[derive(Clone, Default)]
pub struct KeyValue(Arc<[u8]>);

impl KeyValue {
    /// Encodes a pair whose parts are borrowed, without a message in between.
    pub fn encode(parts: &Parts<'_>) -> Self {
        Self::labelled(Label::default(), parts)
    }

    pub fn labelled(label: Label, parts: &Parts<'_>) -> Self {
        Self::gather(|bytes| {
            bytes.extend_from_slice(&label);
            parts.encode(bytes);
        })
    }

    /// Puts the bytes of a pair together where the last one was, and then in memory of their own: an allocation for each, not two.
    fn gather(fill: impl FnOnce(&mut Vec<u8>)) -> Self {
        SCRATCH.with_borrow_mut(|bytes| {
            bytes.clear();
            fill(bytes);
            let pair = Self(Arc::from(bytes.as_slice()));
            bytes.shrink_to(SCRATCH_BYTES);
            pair
        })
    }

    /// Takes bytes that were encoded before, after checking them, with the label for what is in them.
    pub fn from_bytes(encoded: &[u8], label: impl FnOnce(&Parts<'_>) -> Label) -> Result<Self, Malformed> {
        let label = label(&Parts::decode(encoded)?);
        Ok(Self::gather(|bytes| {
            bytes.extend_from_slice(&label);
            bytes.extend_from_slice(encoded);
        }))
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.0.get(LABEL_LENGTH..).unwrap_or_default()
    }

    pub fn label(&self) -> Label {
        self.0.first_chunk().copied().unwrap_or_default()
    }

    /// The parts, borrowed from the encoding.
    pub fn parts(&self) -> Parts<'_> {
        Parts::decode(self.as_bytes()).unwrap_or_default()
    }

    /// The key alone, which is found without reading the rest.
    pub fn key(&self) -> &[u8] {
        match self.as_bytes() {
            [KEY_TAG, length, rest @ ..] if *length < LONG => rest.get(..usize::from(*length)).unwrap_or_default(),
            _ => self.parts().key,
        }
    }

    /// The same pair without its value.
    #[must_use]
    pub fn without_value(&self) -> Self {
        Self::encode(&Parts { value: &[], ..self.parts() })
    }
}

impl AsRef<[u8]> for KeyValue {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl PartialEq for KeyValue {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for KeyValue {}

impl Hash for KeyValue {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl From<&mvccpb::KeyValue> for KeyValue {
    fn from(kv: &mvccpb::KeyValue) -> Self {
        Self::encode(&Parts {
            key: &kv.key,
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            value: &kv.value,
            lease: kv.lease,
        })
    }
}

impl fmt::Debug for KeyValue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts().fmt(formatter)
    }
}

impl Message for KeyValue {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        buffer.put_slice(self.as_bytes());
    }

    fn encoded_len(&self) -> usize {
        self.as_bytes().len()
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        let mut message = mvccpb::KeyValue::decode(self.as_bytes())?;
        message.merge_field(tag, wire_type, buffer, context)?;
        *self = Self::from(&message);
        Ok(())
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

/// The fields of a `mvccpb.KeyValue`, borrowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts<'a> {
    pub key: &'a [u8],
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    pub value: &'a [u8],
    pub lease: i64,
}

impl<'a> Parts<'a> {
    fn encode(&self, buffer: &mut impl BufMut) {
        put_bytes(1, self.key, buffer);
        put_number(2, self.create_revision, buffer);
        put_number(3, self.mod_revision, buffer);
        put_number(4, self.version, buffer);
        put_bytes(5, self.value, buffer);
        put_number(6, self.lease, buffer);
    }

    /// Reads an encoded pair without copying. Refuses what this module would not have written.
    pub fn decode(mut bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut parts = Self::default();
        let mut last = 0;
        while !bytes.is_empty() {
            let (tag, number) = take_field(&mut bytes).ok_or(Malformed)?;
            if tag <= last || tag > 6 {
                return Err(Malformed);
            }
            last = tag;
            match tag {
                1 => parts.key = take(&mut bytes, number)?,
                2 => parts.create_revision = number.cast_signed(),
                3 => parts.mod_revision = number.cast_signed(),
                4 => parts.version = number.cast_signed(),
                5 => parts.value = take(&mut bytes, number)?,
                _ => parts.lease = number.cast_signed(),
            }
        }
        Ok(parts)
    }
}

/// Bytes that are not an encoded pair, or not in the form in which this module writes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed encoding of a key-value pair")]
pub struct Malformed;

/// The tag of one field, and the number that follows it: a value, or a length.
fn take_field(bytes: &mut &[u8]) -> Option<(u32, u64)> {
    let (tag, wire_type) = prost::encoding::decode_key(bytes).ok()?;
    let expected = if matches!(tag, 1 | 5) { WireType::LengthDelimited } else { WireType::Varint };
    prost::encoding::check_wire_type(expected, wire_type).ok()?;
    Some((tag, prost::encoding::decode_varint(bytes).ok()?))
}

fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Result<&'a [u8], Malformed> {
    let length = usize::try_from(length).map_err(|_| Malformed)?;
    let (head, rest) = bytes.split_at_checked(length).ok_or(Malformed)?;
    *bytes = rest;
    Ok(head)
}

fn put_bytes(tag: u32, value: &[u8], buffer: &mut impl BufMut) {
    if !value.is_empty() {
        encode_key(tag, WireType::LengthDelimited, buffer);
        encode_varint(value.len() as u64, buffer);
        buffer.put_slice(value);
    }
}

fn put_number(tag: u32, value: i64, buffer: &mut impl BufMut) {
    if value != 0 {
        encode_key(tag, WireType::Varint, buffer);
        encode_varint(value.cast_unsigned(), buffer);
    }
}

/// A `mvccpb.Event` around encoded pairs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub delete: bool,
    pub kv: KeyValue,
    pub prev_kv: Option<KeyValue>,
}

impl Event {
    fn kind(&self) -> i32 {
        if self.delete { EventType::Delete as i32 } else { EventType::Put as i32 }
    }
}

impl Message for Event {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        put_number(1, i64::from(self.kind()), buffer);
        // The pair of an event is there even if it were empty, so the field is always written.
        put_message(2, &self.kv, buffer);
        if let Some(previous) = &self.prev_kv {
            put_message(3, previous, buffer);
        }
    }

    fn encoded_len(&self) -> usize {
        let message = |pair: &KeyValue| {
            let length = pair.as_bytes().len();
            key_len(2) + encoded_len_varint(length as u64) + length
        };
        let kind = if self.delete { 2 } else { 0 };
        kind + message(&self.kv) + self.prev_kv.as_ref().map_or(0, message)
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            1 => {
                let mut kind = self.kind();
                prost::encoding::int32::merge(wire_type, &mut kind, buffer, context)?;
                self.delete = kind == EventType::Delete as i32;
                Ok(())
            }
            2 => prost::encoding::message::merge(wire_type, &mut self.kv, buffer, context),
            3 => {
                let previous = self.prev_kv.get_or_insert_with(KeyValue::default);
                prost::encoding::message::merge(wire_type, previous, buffer, context)
            }
            _ => prost::encoding::skip_field(wire_type, tag, buffer, context),
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

fn put_message(tag: u32, pair: &KeyValue, buffer: &mut impl BufMut) {
    encode_key(tag, WireType::LengthDelimited, buffer);
    encode_varint(pair.as_bytes().len() as u64, buffer);
    buffer.put_slice(pair.as_bytes());
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::{etcdserverpb, server};

    fn pair() -> impl Strategy<Value = mvccpb::KeyValue> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
        (bytes(), any::<i64>(), any::<i64>(), 0..3_i64, bytes(), any::<i64>()).prop_map(
            |(key, create_revision, mod_revision, version, value, lease)| mvccpb::KeyValue {
                key,
                create_revision,
                mod_revision,
                version,
                value,
                lease,
            },
        )
    }

    proptest! {
        #[test]
        fn encoded_pair_has_the_bytes_of_the_message(kv in pair()) {
            let encoded = KeyValue::from(&kv);
            prop_assert_eq!(encoded.as_bytes(), kv.encode_to_vec());
            prop_assert_eq!(encoded.encoded_len(), kv.encoded_len());
            let parts = encoded.parts();
            prop_assert_eq!((parts.key, parts.value), (&*kv.key, &*kv.value));
            prop_assert_eq!(encoded.key(), &*kv.key);
            prop_assert_eq!((parts.create_revision, parts.mod_revision), (kv.create_revision, kv.mod_revision));
            prop_assert_eq!((parts.version, parts.lease), (kv.version, kv.lease));
            let bare = mvccpb::KeyValue { value: Bytes::new(), ..kv };
            prop_assert_eq!(encoded.without_value(), KeyValue::from(&bare));
        }

        #[test]
        fn watch_answer_of_the_server_is_what_the_client_reads(kv in pair(), previous in prop::option::of(pair()), delete: bool) {
            let kind = if delete { EventType::Delete } else { EventType::Put };
            let event = Event { delete, kv: KeyValue::from(&kv), prev_kv: previous.as_ref().map(KeyValue::from) };
            let sent = server::WatchResponse { watch_id: 7, events: vec![event.clone(), event], ..Default::default() };
            let event = mvccpb::Event { r#type: kind.into(), kv: Some(kv), prev_kv: previous };
            let read = etcdserverpb::WatchResponse { watch_id: 7, events: vec![event.clone(), event], ..Default::default() };
            prop_assert_eq!(sent.encoded_len(), sent.encode_to_vec().len());
            prop_assert_eq!(sent.encode_to_vec(), read.encode_to_vec());
            prop_assert_eq!(server::WatchResponse::decode(&*read.encode_to_vec()).unwrap(), sent);
        }

        #[test]
        fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(pair) = KeyValue::from_bytes(&bytes, |_| Label::default()) {
                prop_assert_eq!(pair.as_bytes(), &*bytes);
                prop_assert_eq!(pair.key(), pair.parts().key);
            }
        }
    }

    #[test]
    fn refuses_bytes_that_are_not_a_pair() {
        for bytes in [&[0x0a, 5, 1][..], &[0x3a, 0][..], &[0x10][..], &[0x0a, 1, 1, 0x0a, 1, 1][..]] {
            assert!(KeyValue::from_bytes(bytes, |_| Label::default()).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_label_stays_with_its_pair_and_is_not_seen_in_it() {
        let parts = Parts { key: b"k", value: b"v", version: 3, ..Parts::default() };
        let (plain, labelled) = (KeyValue::encode(&parts), KeyValue::labelled([7; LABEL_LENGTH], &parts));
        assert_eq!((plain.label(), labelled.label()), ([0; LABEL_LENGTH], [7; LABEL_LENGTH]));
        assert_eq!(plain, labelled);
        assert_eq!(plain.encode_to_vec(), labelled.encode_to_vec());
        let read =
            KeyValue::from_bytes(labelled.as_bytes(), |parts| [u8::try_from(parts.version).unwrap(); LABEL_LENGTH]);
        assert_eq!(read.unwrap().label(), [3; LABEL_LENGTH]);
        assert_eq!((KeyValue::default().as_bytes(), KeyValue::default().label()), (&[][..], [0; LABEL_LENGTH]));
    }
}
