//! The disks and partitions of this machine, as sysfs lists them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use keelson_gpt::Geometry;

/// sysfs counts in these, whatever the device's own sectors are.
const SYSFS_SECTOR: u64 = 512;

/// Where to look. Tests look elsewhere.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// `/sys/block`
    pub(crate) block: PathBuf,
    /// `/dev`
    pub(crate) dev: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self { block: PathBuf::from("/sys/block"), dev: PathBuf::from("/dev") }
    }
}

/// A whole disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    /// The kernel's name: `vda`, `nvme0n1`.
    pub(crate) name: String,
    pub(crate) geometry: Geometry,
    /// A card, a stick, a CD: what can be pulled out is no place for STATE.
    pub(crate) removable: bool,
    pub(crate) read_only: bool,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) name: String,
    pub(crate) number: usize,
}

impl Disk {
    pub(crate) fn bytes(&self) -> u64 {
        self.geometry.sectors.saturating_mul(self.geometry.sector)
    }

    pub(crate) fn path(&self, places: &Places) -> PathBuf {
        places.dev.join(&self.name)
    }

    /// Itself and its partitions, as device files.
    pub(crate) fn devices(&self, places: &Places) -> Vec<PathBuf> {
        let volumes = self.volumes(places).into_iter().map(|volume| places.dev.join(volume.name));
        [self.path(places)].into_iter().chain(volumes).collect()
    }

    pub(crate) fn open(&self, places: &Places) -> io::Result<File> {
        File::open(self.path(places))
    }

    /// Its partitions, as far as the kernel knows them now.
    pub(crate) fn volumes(&self, places: &Places) -> Vec<Volume> {
        let directory = places.block.join(&self.name);
        let mut volumes: Vec<_> = names(&directory)
            .into_iter()
            .filter_map(|name| {
                let number = read_number(&directory.join(&name).join("partition"))?;
                Some(Volume { number: usize::try_from(number).ok()?, name })
            })
            .collect();
        volumes.sort_by_key(|volume| volume.number);
        volumes
    }
}

/// A size in the unit that people use for disks.
pub(crate) fn human(bytes: u64) -> String {
    const GIB: u64 = 1024 * 1024 * 1024;
    if bytes >= GIB { format!("{} GiB", bytes / GIB) } else { format!("{} MiB", bytes / (1024 * 1024)) }
}

/// All whole disks, in the order of their names. Loop, RAM and mapped devices have no hardware behind them and are left out.
pub(crate) fn disks(places: &Places) -> Vec<Disk> {
    let mut disks: Vec<_> = names(&places.block).into_iter().filter_map(|name| disk(places, name)).collect();
    disks.sort_by(|a, b| a.name.cmp(&b.name));
    disks
}

fn disk(places: &Places, name: String) -> Option<Disk> {
    let directory = places.block.join(&name);
    // An eMMC's boot and replay-protected areas are disks of their own to the kernel.
    let auxiliary = name.starts_with("mmcblk") && (name.contains("boot") || name.contains("rpmb"));
    if !directory.join("device").exists() || auxiliary || name.starts_with("fd") {
        return None;
    }
    let bytes = read_number(&directory.join("size"))?.saturating_mul(SYSFS_SECTOR);
    let sector = read_number(&directory.join("queue/logical_block_size")).filter(|sector| *sector >= SYSFS_SECTOR)?;
    // An empty drive for discs or cards.
    if bytes == 0 {
        return None;
    }
    let flag = |file: &str| read_number(&directory.join(file)) == Some(1);
    // One of the ways to an NVMe namespace: it has no device file, and the namespace is a disk of its own.
    if flag("hidden") {
        return None;
    }
    Some(Disk {
        geometry: Geometry { sector, sectors: bytes / sector },
        removable: flag("removable") || name.starts_with("sr"),
        read_only: flag("ro"),
        name,
    })
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A machine made of directories and plain files.
    pub(crate) struct Machine {
        root: tempfile::TempDir,
        pub(crate) places: Places,
    }

    impl Machine {
        pub(crate) fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let places = Places { block: root.path().join("block"), dev: root.path().join("dev") };
            fs::create_dir(&places.block).unwrap();
            fs::create_dir(&places.dev).unwrap();
            Self { root, places }
        }

        pub(crate) fn add(&self, name: &str, bytes: u64) -> File {
            let directory = self.places.block.join(name);
            fs::create_dir_all(directory.join("queue")).unwrap();
            fs::create_dir(directory.join("device")).unwrap();
            self.set(name, "size", bytes / SYSFS_SECTOR);
            self.set(name, "queue/logical_block_size", 512);
            self.set(name, "removable", 0);
            self.set(name, "ro", 0);
            let device = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(self.places.dev.join(name))
                .unwrap();
            device.set_len(bytes).unwrap();
            device
        }

        pub(crate) fn set(&self, name: &str, file: &str, value: u64) {
            fs::write(self.places.block.join(name).join(file), format!("{value}\n")).unwrap();
        }

        pub(crate) fn add_volume(&self, disk: &str, number: usize) {
            let name = format!("{disk}{number}");
            let directory = self.places.block.join(disk).join(&name);
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("partition"), number.to_string()).unwrap();
            fs::write(self.places.dev.join(name), "").unwrap();
        }

        pub(crate) fn root(&self) -> &Path {
            self.root.path()
        }
    }

    const GIB: u64 = 1024 * 1024 * 1024;

    #[test]
    fn disks_are_what_has_hardware_behind_it() {
        let machine = Machine::new();
        machine.add("vdb", 4 * GIB);
        machine.add("vda", 8 * GIB);
        machine.add("mmcblk0boot0", 4 * GIB);
        machine.add("sr0", 0);
        machine.add("nvme0c0n1", 8 * GIB);
        machine.set("nvme0c0n1", "hidden", 1);
        fs::create_dir(machine.places.block.join("loop0")).unwrap();
        fs::write(machine.places.block.join("loop0/size"), "100").unwrap();
        let names: Vec<_> = disks(&machine.places).into_iter().map(|disk| disk.name).collect();
        assert_eq!(names, ["vda", "vdb"]);
    }

    #[test]
    fn sizes_and_flags_are_the_devices_own() {
        let machine = Machine::new();
        machine.add("sda", 8 * GIB);
        machine.set("sda", "queue/logical_block_size", 4096);
        machine.set("sda", "removable", 1);
        machine.set("sda", "ro", 1);
        let disk = disks(&machine.places).remove(0);
        assert_eq!((disk.bytes(), disk.geometry.sector), (8 * GIB, 4096));
        assert!(disk.removable && disk.read_only);
        assert!(machine.root().exists());
    }

    #[test]
    fn partitions_are_found_by_their_number() {
        let machine = Machine::new();
        machine.add("nvme0n1", GIB);
        for number in [2, 1] {
            let directory = machine.places.block.join(format!("nvme0n1/nvme0n1p{number}"));
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("partition"), number.to_string()).unwrap();
        }
        let volumes = disks(&machine.places).remove(0).volumes(&machine.places);
        assert_eq!(volumes.iter().map(|volume| volume.name.as_str()).collect::<Vec<_>>(), ["nvme0n1p1", "nvme0n1p2"]);
    }

    #[test]
    fn sizes_are_said_as_people_say_them() {
        assert_eq!(human(8 * GIB + 5), "8 GiB");
        assert_eq!(human(512 * 1024 * 1024), "512 MiB");
    }
}
