//! Finding the root, and having the kernel verify it.
//!
//! An initramfs that brings the root brings its hash tree and its root hash too. What the command line says of the hash comes
//! before that, so that a boot loader that is trusted more than its files can name the root that it wants.
//!
//! Without a root in the initramfs, it is on a disk. The boot loader's image carries the root hash. Its two halves are the identities of two partitions (UAPI Discoverable
//! Partitions Specification): the root file system and its hash tree. Nothing on the disk is trusted: what the partition table
//! or the tree's superblock says wrongly leads to another hash, and the kernel refuses the first block that is read.
//!
//! # What damage does
//!
//! A block that does not fit its hash is never delivered: the kernel panics (`panic_on_corruption`), because a root that is
//! wrong in one place is not to be run in another. With `panic=10` the machine reboots, the firmware or pstore keeps the
//! reason, and a boot loader that counts tries takes the other slot. A root hash without its partitions is no root: the machine
//! reboots too, by the rule for a failed first stage.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keelson_config::command_line;
use keelson_gpt::{self as gpt, Guid};
use keelson_job::Root;
use keelson_sys::device_mapper::{self, Target};
use keelson_sys::loopback;
use thiserror::Error;

use crate::disk::ask::Asked;
use crate::disk::inventory::{self, Disk, Places};
use crate::disk::wait;

/// How long a disk may take to appear: a controller with many disks spins them up one after the other.
const DISK_LIMIT: Duration = Duration::from_mins(1);

const HASH_BYTES: usize = 32;
const BLOCK_BYTES: u32 = 4096;
const SECTOR: u64 = 512;
/// What an initramfs with a root brings, in its own root folder.
const CARRIED: [&str; 3] = ["root.erofs", "root.hashes", "root.hash"];
/// The name of the verified device: `/dev/mapper` is not used, but the kernel's messages have it.
const NAME: &str = "keelson-root";
/// Before the root hash in the verified device's uuid.
const UUID_PREFIX: &str = "keelson-";

#[derive(Debug, Error)]
pub(crate) enum RootError {
    #[error("roothash= on the kernel command line is not 64 hexadecimal digits")]
    Hash,
    #[error("the initramfs brings no root, and the kernel command line has no roothash=")]
    NoHash,
    #[error("{} is not 64 hexadecimal digits", path.display())]
    CarriedHash { path: PathBuf },
    #[error("cannot bind {} to a loop device", path.display())]
    Loop { path: PathBuf, source: io::Error },
    #[error("no disk has the partitions {root} and {hashes} that this kernel's root hash names; disks: {disks}")]
    NoRoot { root: Guid, hashes: Guid, disks: String },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} holds no hash tree of ours: {problem}", path.display())]
    Superblock { path: PathBuf, problem: &'static str },
    #[error("the kernel does not take the verified root")]
    Map(#[source] io::Error),
}

/// The root hash, as the command line has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RootHash([u8; HASH_BYTES]);

impl RootHash {
    /// The last `roothash=` counts, as with every word of the kernel's.
    pub(crate) fn find(line: &[u8]) -> Result<Option<Self>, RootError> {
        let words = command_line::words(line);
        let word = words.iter().rev().find(|word| word.key == b"roothash");
        word.and_then(|word| word.value).map(|value| Self::parse(value).ok_or(RootError::Hash)).transpose()
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let mut bytes = [0; HASH_BYTES];
        if text.len() != HASH_BYTES * 2 {
            return None;
        }
        for (place, digits) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            // Without this, from_str_radix takes a sign.
            if !digits.iter().all(u8::is_ascii_hexdigit) {
                return None;
            }
            *place = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// Of the root that runs, wherever its hash came from: the uuid of its device has it. None in tests and on a machine of another make.
    pub(crate) fn running(blocks: &Path) -> Option<Self> {
        let devices = std::fs::read_dir(blocks).ok()?.flatten();
        let mut uuids = devices.filter_map(|device| std::fs::read_to_string(device.path().join("dm/uuid")).ok());
        uuids.find_map(|uuid| Self::parse(uuid.trim().strip_prefix(UUID_PREFIX)?.as_bytes()))
    }

    /// The identity of the root's partition.
    pub(crate) fn root(self) -> Guid {
        Guid::from_written(self.0.first_chunk().copied().unwrap_or_default())
    }

    /// The identity of its hash tree's.
    pub(crate) fn hashes(self) -> Guid {
        Guid::from_written(self.0.last_chunk().copied().unwrap_or_default())
    }
}

impl std::fmt::Display for RootHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// Sets the verified root up and says which device it is.
pub(crate) fn run(line: &[u8]) -> Result<Root, RootError> {
    let told = RootHash::find(line)?;
    match Carried::find(Path::new("/"))? {
        Some(carried) => {
            // Both stay bound for as long as the mapped device has them open.
            let [root, hashes] = [&carried.root, &carried.hashes].map(|path| bind(path));
            let (root, hashes) = (root?, hashes?);
            let device = verified(told.unwrap_or(carried.hash), &root.path, &hashes.path)?;
            Ok(Root { device, found_on: carried.root })
        }
        None => on_disk(told.ok_or(RootError::NoHash)?),
    }
}

fn on_disk(hash: RootHash) -> Result<Root, RootError> {
    let places = Places::default();
    let seen = places.clone();
    let mut asked = Asked::new(move |disk| find(disk, hash, &seen));
    let found = wait::until(DISK_LIMIT, || {
        asked.ask(&inventory::disks(&places), Option::is_none);
        asked.answers().flatten().next().cloned()
    });
    let Some((root, hashes)) = found else {
        let word = |(disk, answer): (&Disk, Option<_>)| match answer {
            Some(_) => disk.name.clone(),
            None => format!("{}, which does not answer", disk.name),
        };
        let disks: Vec<String> = asked.disks().map(word).collect();
        let disks = if disks.is_empty() { "none".to_owned() } else { disks.join("; ") };
        return Err(RootError::NoRoot { root: hash.root(), hashes: hash.hashes(), disks });
    };
    let device = verified(hash, &root, &hashes)?;
    Ok(Root { device, found_on: root })
}

fn verified(hash: RootHash, root: &Path, hashes: &Path) -> Result<PathBuf, RootError> {
    let superblock = read_superblock(hashes)?;
    let parameters = parameters(root, hashes, &superblock, hash);
    let sectors = superblock.data_blocks.saturating_mul(u64::from(BLOCK_BYTES) / SECTOR);
    let target = Target { sectors, kind: "verity", parameters: &parameters };
    device_mapper::create_read_only(NAME, &format!("{UUID_PREFIX}{hash}"), target).map_err(RootError::Map)
}

/// A root that came with the initramfs.
#[derive(Debug, PartialEq, Eq)]
struct Carried {
    root: PathBuf,
    hashes: PathBuf,
    hash: RootHash,
}

impl Carried {
    /// None where there is no root; one without its hash is a mistake and not run unverified.
    fn find(folder: &Path) -> Result<Option<Self>, RootError> {
        let [root, hashes, hash] = CARRIED.map(|name| folder.join(name));
        if !root.exists() {
            return Ok(None);
        }
        let text = std::fs::read(&hash).map_err(|source| RootError::Read { path: hash.clone(), source })?;
        let hash = RootHash::parse(text.trim_ascii()).ok_or(RootError::CarriedHash { path: hash })?;
        Ok(Some(Self { root, hashes, hash }))
    }
}

fn bind(path: &Path) -> Result<loopback::LoopDevice, RootError> {
    let bound = File::open(path).and_then(|file| loopback::attach_read_only(&file));
    bound.map_err(|source| RootError::Loop { path: path.to_owned(), source })
}

/// The device files of both partitions, once both are there. A disk that cannot be read is none that has them.
fn find(disk: &Disk, hash: RootHash, places: &Places) -> Option<(PathBuf, PathBuf)> {
    let table = gpt::read(&disk.open(places).ok()?, disk.geometry).ok()??.table;
    let (root, _) = table.find_unique(hash.root())?;
    let (hashes, _) = table.find_unique(hash.hashes())?;
    let volumes = disk.volumes(places);
    let path = |number| {
        let volume = volumes.iter().find(|volume| volume.number == number)?;
        Some(places.dev.join(&volume.name)).filter(|path| path.exists())
    };
    Some((path(root)?, path(hashes)?))
}

/// What the tree says of itself, as far as the kernel has to be told.
#[derive(Debug, PartialEq, Eq)]
struct Superblock {
    data_blocks: u64,
    salt: Vec<u8>,
}

/// `struct verity_sb` of cryptsetup, which all tools write.
const SUPERBLOCK_BYTES: usize = 512;
const SALT_MAX: usize = 256;

fn read_superblock(path: &Path) -> Result<Superblock, RootError> {
    let unread = |source| RootError::Read { path: path.to_owned(), source };
    let mut bytes = [0; SUPERBLOCK_BYTES];
    File::open(path).and_then(|device| device.read_exact_at(&mut bytes, 0)).map_err(unread)?;
    parse_superblock(&bytes).map_err(|problem| RootError::Superblock { path: path.to_owned(), problem })
}

fn parse_superblock(bytes: &[u8; SUPERBLOCK_BYTES]) -> Result<Superblock, &'static str> {
    let part = |from: usize, to: usize| bytes.get(from..to).unwrap_or_default();
    let word = |at: usize| bytes.get(at..).and_then(|rest| rest.first_chunk()).map(|bytes| u32::from_le_bytes(*bytes));
    if part(0, 8) != b"verity\0\0" || word(8) != Some(1) || word(12) != Some(1) {
        return Err("it has another form");
    }
    if part(32, 39) != b"sha256\0" {
        return Err("it is of another algorithm than SHA-256");
    }
    if word(64) != Some(BLOCK_BYTES) || word(68) != Some(BLOCK_BYTES) {
        return Err("it is of other blocks than 4096 bytes");
    }
    let data_blocks = bytes.get(72..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes));
    if data_blocks == 0 {
        return Err("it covers nothing");
    }
    let salt =
        bytes.get(80..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| usize::from(u16::from_le_bytes(*bytes)));
    if salt > SALT_MAX {
        return Err("its salt is too long");
    }
    Ok(Superblock { data_blocks, salt: part(88, 88 + salt).to_vec() })
}

/// The kernel's words (admin-guide/device-mapper/verity): version, devices, block sizes, number of blocks, where the tree
/// begins, algorithm, root hash, salt, and what is to be done about damage.
fn parameters(root: &Path, hashes: &Path, superblock: &Superblock, hash: RootHash) -> String {
    let salt = if superblock.salt.is_empty() { "-".to_owned() } else { hex(&superblock.salt) };
    format!(
        "1 {} {} {BLOCK_BYTES} {BLOCK_BYTES} {} 1 sha256 {} {salt} 1 panic_on_corruption",
        root.display(),
        hashes.display(),
        superblock.data_blocks,
        hex(&hash.0),
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use keelson_gpt::{HASHES_TYPE, Partition, ROOT_TYPE, Table};

    use super::*;
    use crate::disk::inventory::tests::Machine;

    const HASH: &str = "00112233445566778899aabbccddeeffffeeddccbbaa99887766554433221100";
    const MIB: u64 = 1024 * 1024;

    fn hash() -> RootHash {
        RootHash::parse(HASH.as_bytes()).unwrap()
    }

    #[test]
    fn command_lines_last_hash_counts_and_must_be_one() {
        assert_eq!(RootHash::find(b"quiet x=roothash").unwrap(), None);
        let line = format!("roothash=00 quiet roothash={HASH}\n");
        assert_eq!(RootHash::find(line.as_bytes()).unwrap(), Some(hash()));
        for wrong in ["", "00", &HASH.replace('f', "g"), &format!("{HASH}0"), &HASH.replacen("00", "+0", 1)] {
            assert!(RootHash::find(format!("roothash={wrong}").as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn root_in_the_initramfs_needs_its_hash() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name| folder.path().join(name);
        assert_eq!(Carried::find(folder.path()).unwrap(), None);
        std::fs::write(place("root.erofs"), "").unwrap();
        assert!(matches!(Carried::find(folder.path()), Err(RootError::Read { .. })));
        std::fs::write(place("root.hash"), "00\n").unwrap();
        assert!(matches!(Carried::find(folder.path()), Err(RootError::CarriedHash { .. })));
        std::fs::write(place("root.hash"), format!("{HASH}\n")).unwrap();
        let carried = Carried { root: place("root.erofs"), hashes: place("root.hashes"), hash: hash() };
        assert_eq!(Carried::find(folder.path()).unwrap(), Some(carried));
    }

    #[test]
    fn root_that_runs_is_told_by_its_devices_uuid() {
        let blocks = tempfile::tempdir().unwrap();
        assert_eq!(RootHash::running(blocks.path()), None);
        let others = [("vda", None), ("dm-0", Some("LVM-0011\n".to_owned())), ("dm-1", Some(format!("{HASH}\n")))];
        for (name, uuid) in others.into_iter().chain([("dm-2", Some(format!("{UUID_PREFIX}{HASH}\n")))]) {
            std::fs::create_dir_all(blocks.path().join(name).join("dm")).unwrap();
            if let Some(uuid) = uuid {
                std::fs::write(blocks.path().join(name).join("dm/uuid"), uuid).unwrap();
            }
        }
        assert_eq!(RootHash::running(blocks.path()), Some(hash()));
    }

    #[test]
    fn halves_of_the_hash_are_identities_as_they_are_written() {
        assert_eq!(hash().root().to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(hash().hashes().to_string(), "ffeeddcc-bbaa-9988-7766-554433221100");
    }

    fn find_any(machine: &Machine) -> Option<(PathBuf, PathBuf)> {
        inventory::disks(&machine.places).iter().find_map(|disk| find(disk, hash(), &machine.places))
    }

    #[test]
    fn root_is_found_by_its_identity_whatever_slot_or_disk_it_is_in() {
        let machine = Machine::new();
        machine.add("vda", 64 * MIB);
        let device = machine.add("vdb", 64 * MIB);
        assert_eq!(find_any(&machine), None);
        let partition = |kind, unique, first| {
            Some(Partition { kind, unique, first, last: first + 2047, attributes: 0, name: String::new() })
        };
        let other = Guid([1; 16]);
        let partitions = vec![
            partition(ROOT_TYPE, other, 2048),
            partition(HASHES_TYPE, other, 4096),
            partition(ROOT_TYPE, hash().root(), 6144),
            partition(HASHES_TYPE, hash().hashes(), 8192),
        ];
        let geometry = gpt::Geometry { sector: 512, sectors: 64 * MIB / 512 };
        gpt::write(&device, geometry, &Table { disk: other, partitions }).unwrap();
        assert_eq!(find_any(&machine), None, "the kernel does not know the partitions yet");
        machine.add_volume("vdb", 3);
        machine.add_volume("vdb", 4);
        let found = find_any(&machine).unwrap();
        assert_eq!(found, (machine.places.dev.join("vdb3"), machine.places.dev.join("vdb4")));
    }

    fn superblock() -> [u8; SUPERBLOCK_BYTES] {
        let mut bytes = [0; SUPERBLOCK_BYTES];
        bytes[..8].copy_from_slice(b"verity\0\0");
        (bytes[8], bytes[12]) = (1, 1);
        bytes[32..38].copy_from_slice(b"sha256");
        (bytes[65], bytes[69]) = (16, 16);
        bytes[72] = 5;
        bytes[80] = 2;
        bytes[88..90].copy_from_slice(&[0xab, 0x01]);
        bytes
    }

    #[test]
    fn kernel_is_told_what_the_superblock_says() {
        let superblock = parse_superblock(&superblock()).unwrap();
        assert_eq!(superblock, Superblock { data_blocks: 5, salt: vec![0xab, 0x01] });
        let words = parameters(Path::new("/dev/vda2"), Path::new("/dev/vda3"), &superblock, hash());
        let wanted = format!("1 /dev/vda2 /dev/vda3 4096 4096 5 1 sha256 {HASH} ab01 1 panic_on_corruption");
        assert_eq!(words, wanted);
    }

    #[test]
    fn superblock_of_another_form_is_refused() {
        for (at, value) in [(0, 0), (8, 2), (12, 0), (32, 0), (38, b'x'), (65, 0), (69, 2), (72, 0), (81, 2)] {
            let mut bytes = superblock();
            bytes[at] = value;
            assert!(parse_superblock(&bytes).is_err(), "byte {at}");
        }
    }
}
