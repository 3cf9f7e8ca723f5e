//! Which keys a request means.

use std::ops::Bound;

use bytes::Bytes;

/// Bounds for a look-up in an ordered map of keys.
pub(super) type KeyBounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// One key, or all from one key to another, or all from a key on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyRange {
    start: Bytes,
    end: End,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum End {
    /// The start alone.
    Key,
    /// Exclusive.
    Before(Bytes),
    Unbounded,
}

impl KeyRange {
    /// From the two fields of a request: an empty `range_end` means the key alone, a single zero byte means no end.
    pub fn new(key: &Bytes, range_end: &Bytes) -> Self {
        let end = match range_end.as_ref() {
            [] => End::Key,
            [0] => End::Unbounded,
            _ => End::Before(range_end.clone()),
        };
        Self { start: key.clone(), end }
    }

    pub fn everything() -> Self {
        Self { start: Bytes::new(), end: End::Unbounded }
    }

    pub fn start(&self) -> &Bytes {
        &self.start
    }

    /// The key, if the range is one key by its form.
    pub fn as_key(&self) -> Option<&Bytes> {
        matches!(self.end, End::Key).then_some(&self.start)
    }

    /// The exclusive end, if the range is one with an end.
    pub fn before(&self) -> Option<&Bytes> {
        match &self.end {
            End::Before(end) => Some(end),
            End::Key | End::Unbounded => None,
        }
    }

    /// True for a range whose end is not behind its start: it holds no key.
    pub fn is_empty(&self) -> bool {
        matches!(&self.end, End::Before(end) if *end <= self.start)
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            End::Key => self.start == key,
            End::Before(end) => *self.start <= *key && key < end.as_ref(),
            End::Unbounded => *self.start <= *key,
        }
    }

    /// Bounds for a look-up in an ordered map, from `resume` on if that is given. None for an empty range, at which
    /// `BTreeMap::range` would panic.
    pub(super) fn bounds<'a>(&'a self, resume: Option<&'a [u8]>) -> Option<KeyBounds<'a>> {
        let start = match resume {
            Some(key) if *key > *self.start => key,
            _ => &self.start,
        };
        let end = match &self.end {
            End::Key => Bound::Included(&*self.start),
            End::Before(end) => Bound::Excluded(&**end),
            End::Unbounded => Bound::Unbounded,
        };
        let holds_keys = match end {
            Bound::Included(end) => start <= end,
            Bound::Excluded(end) => start < end,
            Bound::Unbounded => true,
        };
        holds_keys.then_some((Bound::Included(start), end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(key: &'static [u8], end: &'static [u8]) -> KeyRange {
        KeyRange::new(&Bytes::from_static(key), &Bytes::from_static(end))
    }

    #[test]
    fn forms_mean_what_etcd_says() {
        let keys: [&[u8]; 5] = [b"a", b"b", b"b\0", b"c", b"\xff\xff"];
        let held = |range: KeyRange| keys.map(|key| range.contains(key));
        assert_eq!(held(range(b"b", b"")), [false, true, false, false, false]);
        assert_eq!(held(range(b"b", b"c")), [false, true, true, false, false]);
        assert_eq!(held(range(b"b", b"\0")), [false, true, true, true, true]);
        assert_eq!(held(range(b"\0", b"\0")), [true; 5]);
        assert_eq!(held(range(b"c", b"b")), [false; 5]);
        assert_eq!(held(KeyRange::everything()), [true; 5]);
    }

    #[test]
    fn bounds_are_none_where_nothing_can_be() {
        assert!(range(b"c", b"b").is_empty());
        assert_eq!(range(b"c", b"b").bounds(None), None);
        assert_eq!(range(b"b", b"b").bounds(None), None);
        assert_eq!(range(b"b", b"c").bounds(Some(b"c")), None);
        assert_eq!(range(b"b", b"").bounds(Some(b"b\0")), None);
        assert!(range(b"b", b"").bounds(Some(b"a")).is_some());
    }
}
