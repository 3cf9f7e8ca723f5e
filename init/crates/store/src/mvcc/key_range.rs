//! Which keys a request means.

use bytes::Bytes;

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

    /// Where to begin looking, if that was done up to `resume` before.
    pub(super) fn from<'a>(&'a self, resume: Option<&'a [u8]>) -> &'a [u8] {
        resume.map_or(&*self.start, |resume| resume.max(&*self.start))
    }

    /// Whether the range ends behind a key, whatever it begins with.
    pub(super) fn ends_after(&self, key: &[u8]) -> bool {
        match &self.end {
            End::Key => *key <= *self.start,
            End::Before(end) => *key < **end,
            End::Unbounded => true,
        }
    }

    /// Whether the range ends behind all keys below `next`, or behind all keys there are.
    pub(super) fn ends_after_all_before(&self, next: Option<&[u8]>) -> bool {
        match (&self.end, next) {
            (End::Unbounded, _) => true,
            (End::Before(end), Some(next)) => *next <= **end,
            (End::Before(_), None) | (End::Key, _) => false,
        }
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
    fn ends_are_told_from_starts() {
        assert!(range(b"c", b"b").is_empty() && range(b"b", b"b").is_empty() && !range(b"b", b"c").is_empty());
        assert_eq!([b"a", b"b", b"c"].map(|key| range(b"b", b"c").ends_after(key)), [true, true, false]);
        assert_eq!([b"a", b"b", b"c"].map(|key| range(b"b", b"").ends_after(key)), [true, true, false]);
        assert!(range(b"a", b"c").ends_after_all_before(Some(b"c")));
        assert!(!range(b"a", b"c").ends_after_all_before(Some(b"c\0")));
        assert!(!range(b"a", b"c").ends_after_all_before(None));
        assert!(range(b"a", b"\0").ends_after_all_before(None));
        assert_eq!(range(b"b", b"c").from(Some(b"a")), b"b");
        assert_eq!(range(b"b", b"c").from(Some(b"bb")), b"bb");
    }
}
