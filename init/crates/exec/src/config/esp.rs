//! Files on the EFI system partition of the disk that this machine was booted from: `keelson/` in its top folder, and the
//! credentials where systemd's boot loader expects them.
//!
//! Only that disk's: a partition of another disk is nobody's word. It is mounted read-only for as long as the files are read. A
//! partition that cannot be mounted has nothing to say; what it should have said will be missed by name.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use keelson_gpt::{self as gpt, ESP_TYPE};
use keelson_sys::mount::{self, MountFlags, UnmountFlags};

use crate::disk::ask;
use crate::disk::inventory::{Disk, Places};
use crate::root::RootHash;

/// In memory, and nobody else's.
const MOUNT_POINT: &str = "/run/keelson-esp";
const FLAGS: MountFlags =
    MountFlags::RDONLY.union(MountFlags::NOSUID).union(MountFlags::NODEV).union(MountFlags::NOEXEC);
const FOLDERS: [&str; 2] = ["keelson", "loader/credentials"];
/// More than there are keys.
const FILES_MAX: usize = 32;

/// The files by their path on the partition; none on a machine that was booted otherwise.
pub(super) fn files(command_line: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let Ok(Some(hash)) = RootHash::find(command_line) else { return BTreeMap::new() };
    let Some(device) = partition(hash, &Places::default()) else { return BTreeMap::new() };
    let point = Path::new(MOUNT_POINT);
    let _ = fs::create_dir(point);
    if mount::mount(&device.to_string_lossy(), point, "vfat", FLAGS, "").is_err() {
        return BTreeMap::new();
    }
    let files = read_folders(point);
    let _ = mount::unmount(point, UnmountFlags::DETACH);
    let _ = fs::remove_dir(point);
    files
}

fn partition(hash: RootHash, places: &Places) -> Option<PathBuf> {
    let seen = places.clone();
    ask::first(places, move |disk| partition_on(disk, hash, &seen))
}

fn partition_on(disk: &Disk, hash: RootHash, places: &Places) -> Option<PathBuf> {
    let table = gpt::read(&disk.open(places).ok()?, disk.geometry).ok()??.table;
    table.find_unique(hash.root())?;
    let (number, _) = table.find(ESP_TYPE)?;
    let volume = disk.volumes(places).into_iter().find(|volume| volume.number == number)?;
    Some(places.dev.join(volume.name))
}

fn read_folders(top: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for folder in FOLDERS {
        let entries = fs::read_dir(top.join(folder)).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.path().is_file()).take(FILES_MAX) {
            let name = entry.file_name().into_string().ok();
            let Some((name, content)) = name.zip(super::read(&entry.path()).ok()) else { continue };
            files.insert(format!("{folder}/{name}"), content);
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use keelson_gpt::{Guid, Partition, ROOT_TYPE, Table};

    use super::*;
    use crate::disk::inventory::tests::Machine;

    #[test]
    fn only_the_boot_disks_own_partition_counts() {
        let line = format!("roothash={}{}", "06".repeat(16), "05".repeat(16));
        let hash = RootHash::find(line.as_bytes()).unwrap().unwrap();
        let machine = Machine::new();
        let partition_of = |kind, unique: u8, first| {
            let unique = Guid([unique; 16]);
            Some(Partition { kind, unique, first, last: first + 2047, attributes: 0, name: String::new() })
        };
        let geometry = gpt::Geometry { sector: 512, sectors: 131_072 };
        for (name, root) in [("vda", 1), ("vdb", 6)] {
            let device = machine.add(name, 64 * 1024 * 1024);
            let partitions = vec![partition_of(ESP_TYPE, 2, 2048), partition_of(ROOT_TYPE, root, 4096)];
            gpt::write(&device, geometry, &Table { disk: Guid([9; 16]), partitions }).unwrap();
            machine.add_volume(name, 1);
        }
        assert_eq!(partition(hash, &machine.places), Some(machine.places.dev.join("vdb1")));
    }

    #[test]
    fn partition_is_only_read_and_runs_nothing() {
        assert!(FLAGS.contains(MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC));
    }

    #[test]
    fn files_of_the_folders_are_read_by_their_path() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("keelson/inner")).unwrap();
        fs::write(top.path().join("keelson/role"), "worker").unwrap();
        fs::write(top.path().join("other"), "x").unwrap();
        fs::create_dir_all(top.path().join("loader/credentials")).unwrap();
        fs::write(top.path().join("loader/credentials/keelson.name.cred"), "w3").unwrap();
        let files = read_folders(top.path());
        let paths: Vec<&str> = files.keys().map(String::as_str).collect();
        assert_eq!(paths, ["keelson/role", "loader/credentials/keelson.name.cred"]);
        assert_eq!(files["keelson/role"], b"worker");
        assert!(read_folders(Path::new("/nonexistent")).is_empty());
    }
}
