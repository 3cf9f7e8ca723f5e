//! The order of all changes.

use std::fmt;

/// When a row was written: the main revision counts transactions that changed something, the sub revision counts the
/// changes inside one transaction. Clients see main revisions only.
///
/// On disk: main (8 bytes) then sub (4 bytes), big endian, so that rows are appended in key order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    pub main: i64,
    pub sub: u32,
}

impl Revision {
    pub const KEY_LENGTH: usize = 12;

    /// The first place of a main revision, whether or not a row is there.
    pub const fn first_of(main: i64) -> Self {
        Self { main, sub: 0 }
    }

    pub fn to_key(self) -> [u8; Self::KEY_LENGTH] {
        let mut key = [0; Self::KEY_LENGTH];
        let (main, sub) = key.split_at_mut(8);
        main.copy_from_slice(&self.main.to_be_bytes());
        sub.copy_from_slice(&self.sub.to_be_bytes());
        key
    }

    pub fn from_key(key: &[u8]) -> Option<Self> {
        let (main, sub) = key.split_at_checked(8)?;
        let revision =
            Self { main: i64::from_be_bytes(main.try_into().ok()?), sub: u32::from_be_bytes(sub.try_into().ok()?) };
        (revision.main > 0).then_some(revision)
    }

    /// The key under which etcd keeps the row in its database, which its hashes cover: main, `_`, sub in 8 bytes, and
    /// `t` behind it if the row is a deletion.
    pub fn to_etcd_key(self, tombstone: bool) -> ([u8; 18], usize) {
        let mut key = [0; 18];
        let (main, rest) = key.split_at_mut(8);
        main.copy_from_slice(&self.main.to_be_bytes());
        let (mark, rest) = rest.split_at_mut(1);
        mark.copy_from_slice(b"_");
        let (sub, end) = rest.split_at_mut(8);
        sub.copy_from_slice(&u64::from(self.sub).to_be_bytes());
        end.copy_from_slice(b"t");
        (key, if tombstone { 18 } else { 17 })
    }

    /// Reads such a key; the second value is whether the row is a deletion.
    pub fn from_etcd_key(key: &[u8]) -> Option<(Self, bool)> {
        let (main, rest) = key.split_at_checked(8)?;
        let (mark, rest) = rest.split_at_checked(1)?;
        let (sub, end) = rest.split_at_checked(8)?;
        let sub = u32::try_from(u64::from_be_bytes(sub.try_into().ok()?)).ok()?;
        let revision = Self { main: i64::from_be_bytes(main.try_into().ok()?), sub };
        let valid = mark == b"_" && (end.is_empty() || end == b"t") && revision.main >= 0;
        valid.then_some((revision, !end.is_empty()))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.main, self.sub)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_as_revisions_do_and_read_back() {
        let revisions = [(1, 0), (1, 1), (1, 256), (2, 0), (256, 0), (i64::MAX, u32::MAX)];
        let revisions = revisions.map(|(main, sub)| Revision { main, sub });
        for pair in revisions.windows(2) {
            assert!(pair[0].to_key() < pair[1].to_key());
        }
        for revision in revisions {
            assert_eq!(Revision::from_key(&revision.to_key()), Some(revision));
        }
        assert_eq!(Revision::from_key(&[0; 12]), None);
        assert_eq!(Revision::from_key(&[1; 11]), None);
        assert_eq!(Revision::from_key(&[1; 13]), None);
    }

    #[test]
    fn etcd_key_marks_deletions() {
        let (key, length) = Revision { main: 2, sub: 1 }.to_etcd_key(true);
        assert_eq!(&key[..length], b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\x01t");
        assert_eq!(Revision { main: 2, sub: 1 }.to_etcd_key(false).1, 17);
        let revision = Revision { main: 2, sub: 1 };
        assert_eq!(Revision::from_etcd_key(&key[..length]), Some((revision, true)));
        assert_eq!(Revision::from_etcd_key(&key[..17]), Some((revision, false)));
        assert_eq!(Revision::from_etcd_key(&key[..16]), None);
        assert_eq!(Revision::from_etcd_key(b"\0\0\0\0\0\0\0\x02-\0\0\0\0\0\0\0\x01"), None);
    }
}
