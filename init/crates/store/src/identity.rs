//! Whose data directory this is.
//!
//! # Layout of the file `identity`, version 1 (little endian)
//!
//! ```text
//!  0  u64  magic "KEELSTOR"        16  u64  store id: names this directory's files     40  u8  1 once the log holds the first membership
//!  8  u32  format version          24  u64  member id
//! 12  u32  oldest version that     32  u64  cluster id                                 41  u8  1 if it joined a cluster that was there
//!          reads it                                                                    42  6 zero bytes
//!                                                                                      48  u32  CRC-32 of the bytes before
//! ```
//!
//! Upgrade rule: as the log's. The ids never change: a member that lost its log or vote has to come back under a new one,
//! so a directory that says it was in use and has no log is refused. The store id is random, and members tell it to each other: the
//! ids of a cluster that is started from a list are made from that list, so a member that lost everything would come back under its old
//! one, and is known by its store id not to be the same.

use std::io;

use crate::disk::{self, Disk};
use crate::member::MemberId;
use crate::random::Random;

const FILE_NAME: &str = "identity";
const MAGIC: &[u8; 8] = b"KEELSTOR";
const FORMAT_VERSION: u32 = 1;
const OLDEST_READER: u32 = 1;
const LEN: usize = 52;
/// What is in an etcd's.
const ETCD_DIRECTORY: &str = "member";
/// What a data directory may hold besides this store's own files before it is one.
const TOLERATED: [&str; 3] = ["lock", "lost+found", "identity.tmp"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub store_id: u64,
    pub member_id: MemberId,
    pub cluster_id: u64,
    /// Whether consensus has begun on this directory.
    pub in_use: bool,
    /// Whether the cluster was there before this member: it then never founds one.
    pub joined: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{operation} the data directory's identity")]
    Io {
        operation: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the data directory is not empty and holds no store: it has {names:?}. Give an empty directory")]
    Foreign { names: Vec<String> },
    #[error(
        "the data directory is an etcd's. Give an empty one; keelson-store snapshot restore makes one of a snapshot of that etcd, or of its \
         file member/snap/db with --skip-hash-check"
    )]
    Etcd,
    #[error("the data directory's identity is not this program's")]
    Magic,
    #[error(
        "the data directory is in format {version}, readable from format {oldest}; this release reads format {FORMAT_VERSION}: run a newer release"
    )]
    Newer { version: u32, oldest: u32 },
    #[error("the data directory's identity is damaged. This member must join as a new one")]
    Damaged,
}

impl Identity {
    /// Reads the identity, or gives an empty directory random ids.
    pub fn load_or_create(disk: &dyn Disk, random: &dyn Random) -> Result<Self, IdentityError> {
        match Self::load(disk)? {
            Some(identity) => Ok(identity),
            None => Self::create(disk, random, MemberId(nonzero(random)), nonzero(random), false),
        }
    }

    /// Reads the identity; none if the directory is empty.
    pub fn load(disk: &dyn Disk) -> Result<Option<Self>, IdentityError> {
        let io_error = |operation| move |source| IdentityError::Io { operation, source };
        if let Some(content) = disk::read_file(disk, FILE_NAME).map_err(io_error("read"))? {
            return Self::decode(&content).map(Some);
        }
        let mut names = disk.list().map_err(io_error("look for"))?;
        names.retain(|name| !TOLERATED.contains(&name.as_str()));
        if names.iter().any(|name| name == ETCD_DIRECTORY) {
            return Err(IdentityError::Etcd);
        }
        if !names.is_empty() {
            names.sort_unstable();
            names.truncate(8);
            return Err(IdentityError::Foreign { names });
        }
        Ok(None)
    }

    /// Gives an empty directory an identity.
    pub fn create(
        disk: &dyn Disk,
        random: &dyn Random,
        member_id: MemberId,
        cluster_id: u64,
        joined: bool,
    ) -> Result<Self, IdentityError> {
        let identity = Self { store_id: nonzero(random), member_id, cluster_id, in_use: false, joined };
        identity.save(disk)?;
        Ok(identity)
    }

    /// Writes down that consensus has begun.
    pub fn mark_in_use(&mut self, disk: &dyn Disk) -> Result<(), IdentityError> {
        self.in_use = true;
        self.save(disk)
    }

    fn save(&self, disk: &dyn Disk) -> Result<(), IdentityError> {
        disk::replace_file(disk, FILE_NAME, &self.encode())
            .map_err(|source| IdentityError::Io { operation: "write", source })
    }

    fn encode(&self) -> Vec<u8> {
        let mut content = Vec::with_capacity(LEN);
        content.extend_from_slice(MAGIC);
        content.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        content.extend_from_slice(&OLDEST_READER.to_le_bytes());
        let flags = u64::from(self.in_use) | u64::from(self.joined) << 8;
        for id in [self.store_id, self.member_id.0, self.cluster_id, flags] {
            content.extend_from_slice(&id.to_le_bytes());
        }
        let crc = crc32fast::hash(&content);
        content.extend_from_slice(&crc.to_le_bytes());
        content
    }

    fn decode(content: &[u8]) -> Result<Self, IdentityError> {
        let u32_at = |at: usize| Some(u32::from_le_bytes(content.get(at..at + 4)?.try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(content.get(at..at + 8)?.try_into().ok()?));
        if content.get(..8) != Some(MAGIC.as_slice()) {
            return Err(IdentityError::Magic);
        }
        let (version, oldest) = u32_at(8).zip(u32_at(12)).ok_or(IdentityError::Damaged)?;
        if oldest > FORMAT_VERSION {
            return Err(IdentityError::Newer { version, oldest });
        }
        if content.get(..48).map(crc32fast::hash) != u32_at(48) {
            return Err(IdentityError::Damaged);
        }
        let fields = (|| Some((u64_at(16)?, u64_at(24)?, u64_at(32)?, u64_at(40)?)))();
        let (store_id, member_id, cluster_id, flags) = fields.ok_or(IdentityError::Damaged)?;
        let (in_use, joined) = (flags & 0xff != 0, flags & 0xff00 != 0);
        Ok(Self { store_id, member_id: MemberId(member_id), cluster_id, in_use, joined })
    }
}

/// etcd's clients take zero for "no id".
fn nonzero(random: &dyn Random) -> u64 {
    random.next_u64().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::fake::FakeDisk;
    use crate::random::SystemRandom;

    #[test]
    fn is_chosen_once_and_read_back() {
        let disk = FakeDisk::new();
        let mut first = Identity::load_or_create(&disk, &SystemRandom).unwrap();
        assert!(!first.in_use);
        assert_ne!(first.member_id.0, 0);
        first.mark_in_use(&disk).unwrap();
        assert_eq!(Identity::load_or_create(&disk, &SystemRandom).unwrap(), first);
    }

    #[test]
    fn refuses_a_directory_with_other_files() {
        let disk = FakeDisk::new();
        disk.create("photographs").unwrap();
        let error = Identity::load_or_create(&disk, &SystemRandom).unwrap_err();
        assert!(matches!(&error, IdentityError::Foreign { names } if names == &["photographs"]), "{error}");
        disk.create("member").unwrap();
        let error = Identity::load_or_create(&disk, &SystemRandom).unwrap_err();
        assert!(matches!(error, IdentityError::Etcd) && error.to_string().contains("snapshot restore"), "{error}");
    }

    #[test]
    fn refuses_newer_formats_and_damage() {
        let disk = FakeDisk::new();
        Identity::load_or_create(&disk, &SystemRandom).unwrap();
        let good = disk.content(FILE_NAME).unwrap();
        let mut newer = good.clone();
        newer[12] = 9;
        disk.set_content(FILE_NAME, newer);
        assert!(matches!(Identity::load_or_create(&disk, &SystemRandom), Err(IdentityError::Newer { oldest: 9, .. })));
        for position in 16..good.len() {
            let mut flipped = good.clone();
            flipped[position] ^= 0x40;
            disk.set_content(FILE_NAME, flipped);
            assert!(matches!(Identity::load_or_create(&disk, &SystemRandom), Err(IdentityError::Damaged)));
        }
    }

    #[test]
    fn mutation_gives_the_same_identity_or_an_error() {
        let disk = FakeDisk::new();
        let identity = Identity::load_or_create(&disk, &SystemRandom).unwrap();
        let good = disk.content(FILE_NAME).unwrap();
        keelson_mutation::campaign("an identity", 5000, &[good], &[b"KEELSTOR", b"\0", b"\xff"], |bytes| {
            disk.set_content(FILE_NAME, bytes.to_vec());
            if let Ok(found) = Identity::load(&disk) {
                assert_eq!(found, Some(identity));
            }
        });
    }
}
