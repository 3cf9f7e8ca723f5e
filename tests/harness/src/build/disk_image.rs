//! The disk image: what is written to a machine's disk as it is.
//!
//! ```text
//! 1 MiB  ESP            512 MiB   systemd-boot, and a unified kernel image with the root's hash on its command line
//!        root A        1008 MiB   the root file system (erofs)
//!        hash tree A     16 MiB   its dm-verity tree
//!        root B        1008 MiB   empty: the next release goes there
//!        hash tree B     16 MiB
//! ```
//! What follows on the machine's disk is STATE and DATA, which the first boot makes. The partitions of a root and of its tree
//! carry the two halves of the root hash as their identities (UAPI Discoverable Partitions Specification), so a kernel image
//! finds exactly the root that it was built with, whatever slot that is in. Slots and ESP are sized for years.
//!
//! Everything follows from the inputs: the same kernel and root give the same bytes. Signatures, if there are keys, come last,
//! over programs that are the same in every build.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use aws_lc_rs::digest::{SHA256, digest};
use keelson_gpt::{ALIGNMENT, ESP_TYPE, Geometry, Guid, HASHES_TYPE, Partition, ROOT_TYPE, Table};

use super::cache::Cache;
use super::digest::Inputs;
use super::error::{BuildError, FileContext as _};
use super::fat;
use super::progress::{Outcome, Progress};
use super::secure_boot::Keys;
use super::step::{Step, Steps};
use super::uki::{self, Section};
use super::{BuildRequest, Image, debian, packages, verity};

const MIB: u64 = 1024 * 1024;
const SECTOR: u64 = 512;
const ESP_BYTES: u64 = 512 * MIB;
const ROOT_BYTES: u64 = 1008 * MIB;
const HASHES_BYTES: u64 = 16 * MIB;

/// What the kernel is told beside the root's hash: both kinds of console, and a reboot after a panic from the first instruction
/// on.
const COMMAND_LINE: &str = "console=tty0 console=ttyS0 loglevel=6 panic=10";

/// systemd-boot's own settings: no menu, and nobody edits a command line at the console.
const LOADER_SETTINGS: &[u8] = b"timeout 0\neditor no\n";

/// A finished disk image.
#[derive(Debug, Clone)]
pub struct DiskImage {
    /// As it lies on a disk.
    pub raw: PathBuf,
    /// The same for virtual machines.
    pub qcow2: PathBuf,
    /// The unified kernel image on it, which also boots by itself.
    pub uki: PathBuf,
    /// The root's hash, in hexadecimal.
    pub root_hash: String,
}

/// Makes the image of what was built, or finds it made. With keys, it boots under Secure Boot.
pub fn build(
    request: &BuildRequest,
    image: &Image,
    keys: Option<&Keys>,
    progress: &mut dyn Progress,
) -> Result<DiskImage, BuildError> {
    let output = Cache::at(request.target.join("image")).keeping(2);
    let mut steps = Steps::new(output.folder().join("logs"), progress)?;
    steps.step("packages for disk images", |step| {
        let signing = keys.map_or(&[][..], |_| packages::SIGNING);
        let all = [packages::DISK_IMAGE, signing].concat();
        Ok(((), packages::ensure(&all, request.install_packages, step)?))
    })?;
    let loader = steps.step("systemd-boot", |step| debian::systemd_boot(&request.cache, step))?;
    steps.step("disk image", |step| disk_image(&Ingredients { image, loader: &loader, keys }, &output, step))
}

struct Ingredients<'a> {
    image: &'a Image,
    /// The folder of systemd's EFI programs.
    loader: &'a Path,
    keys: Option<&'a Keys>,
}

fn disk_image(
    ingredients: &Ingredients<'_>,
    output: &Cache,
    step: &mut Step<'_>,
) -> Result<(DiskImage, Outcome), BuildError> {
    let Ingredients { image, loader, keys } = ingredients;
    let inputs = Inputs::new("disk", 1)
        .text("command line", COMMAND_LINE)
        .file("kernel", &image.kernel)?
        .file("first stage", &image.first_stage)?
        .file("root", &image.root)?
        .file("stub", &loader.join("linuxx64.efi.stub"))?
        .file("loader", &loader.join("systemd-bootx64.efi"))?;
    let inputs = match keys {
        Some(keys) => inputs.file("certificate", &keys.certificate())?,
        None => inputs,
    };
    let (place, outcome) = output.result("disk", &inputs.finish(), |place| make(ingredients, place, step))?;
    let root_hash = fs::read_to_string(place.join("root-hash")).at("read", place.join("root-hash"))?;
    let file = |name: &str| place.join(name);
    let disk = DiskImage {
        raw: file("keelson.raw"),
        qcow2: file("keelson.qcow2"),
        uki: file("keelson.efi"),
        root_hash: root_hash.trim().to_owned(),
    };
    Ok((disk, outcome))
}

fn make(ingredients: &Ingredients<'_>, place: &Path, step: &mut Step<'_>) -> Result<(), BuildError> {
    let Ingredients { image, loader, keys } = ingredients;
    let hex = fs::read_to_string(&image.root_hash).at("read", &image.root_hash)?;
    let hex = hex.trim();
    let wrong = || BuildError::Malformed { path: image.root_hash.clone(), problem: "it is no root hash".to_owned() };
    let root_hash = verity::parse(hex).ok_or_else(wrong)?;
    let uki_path = place.join("keelson.efi");
    fs::write(&uki_path, kernel_image(image, loader, hex)?).at("write", &uki_path)?;
    let boot_path = place.join("systemd-boot.efi");
    fs::copy(loader.join("systemd-bootx64.efi"), &boot_path).at("copy to", &boot_path)?;
    let mut variables = Vec::new();
    if let Some(keys) = keys {
        for program in [&uki_path, &boot_path] {
            let unsigned = program.with_extension("unsigned.efi");
            fs::rename(program, &unsigned).at("rename", program)?;
            keys.sign(&unsigned, program, step)?;
        }
        variables = keys.variables()?;
    }

    let raw = place.join("keelson.raw");
    let device = File::options().read(true).write(true).create_new(true).open(&raw).at("make", &raw)?;
    let plan = Plan::new(root_hash);
    device.set_len(plan.bytes()).at("size", &raw)?;
    let (boot, uki) = (read(&boot_path)?, read(&uki_path)?);
    let name = format!("EFI/Linux/keelson_{}.efi", env!("CARGO_PKG_VERSION"));
    let mut files: Vec<(&str, &[u8])> = vec![
        ("EFI/BOOT/BOOTX64.EFI", &boot),
        ("EFI/systemd/systemd-bootx64.efi", &boot),
        (&name, &uki),
        ("loader/loader.conf", LOADER_SETTINGS),
    ];
    files.extend(variables.iter().map(|(name, content)| (name.as_str(), content.as_slice())));
    fat::write(&device, fat::Place { offset: plan.offset(0), bytes: ESP_BYTES }, &files)
        .at("write the ESP of", &raw)?;
    copy_into(&image.root, &device, plan.offset(1), ROOT_BYTES)?;
    copy_into(&image.root_hashes, &device, plan.offset(2), HASHES_BYTES)?;
    let geometry = plan.geometry();
    keelson_gpt::write_first_sector(&device, geometry, false)
        .and_then(|()| keelson_gpt::write(&device, geometry, &plan.table))
        .at("write the partition table of", &raw)?;

    let root_hash_file = place.join("root-hash");
    fs::write(&root_hash_file, format!("{hex}\n")).at("write", &root_hash_file)?;
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-f", "raw", "-O", "qcow2"]).arg(&raw).arg(place.join("keelson.qcow2"));
    step.run(&mut convert)
}

fn kernel_image(image: &Image, loader: &Path, root_hash: &str) -> Result<Vec<u8>, BuildError> {
    let command_line = format!("{COMMAND_LINE} roothash={root_hash}");
    let release = read(&image.root_tree.join("usr/lib/os-release"))?;
    let first_stage = read(&image.first_stage)?;
    let kernel = read(&image.kernel)?;
    let sections = [
        Section { name: ".osrel", content: &release },
        Section { name: ".cmdline", content: command_line.as_bytes() },
        Section { name: ".initrd", content: &first_stage },
        // Last, because a kernel may unpack itself into the room behind it.
        Section { name: ".linux", content: &kernel },
    ];
    uki::assemble(&read(&loader.join("linuxx64.efi.stub"))?, &sections)
}

fn read(path: &Path) -> Result<Vec<u8>, BuildError> {
    fs::read(path).at("read", path)
}

/// Copies a file into its partition; what is zero stays a hole.
fn copy_into(source: &Path, device: &File, offset: u64, limit: u64) -> Result<(), BuildError> {
    let mut file = File::open(source).at("open", source)?;
    let size = file.metadata().at("examine", source)?.len();
    if size > limit {
        let problem = format!("it has {} MiB, and its partition {} MiB", size / MIB, limit / MIB);
        return Err(BuildError::Malformed { path: source.to_owned(), problem });
    }
    let mut buffer = vec![0; 1 << 20];
    let mut position = offset;
    loop {
        let length = file.read(&mut buffer).at("read", source)?;
        let Some(chunk) = buffer.get(..length).filter(|chunk| !chunk.is_empty()) else { return Ok(()) };
        if chunk.iter().any(|byte| *byte != 0) {
            device.write_all_at(chunk, position).at("copy", source)?;
        }
        position += length as u64;
    }
}

/// The partitions, one behind the other.
struct Plan {
    table: Table,
}

impl Plan {
    fn new(root_hash: [u8; 32]) -> Self {
        let (root, hashes) = halves(root_hash);
        let rows = [
            (ESP_TYPE, derived(&root_hash, "esp"), ESP_BYTES, "KEELSON-ESP"),
            (ROOT_TYPE, root, ROOT_BYTES, "KEELSON-ROOT-A"),
            (HASHES_TYPE, hashes, HASHES_BYTES, "KEELSON-HASHES-A"),
            (ROOT_TYPE, derived(&root_hash, "root b"), ROOT_BYTES, "_empty"),
            (HASHES_TYPE, derived(&root_hash, "hashes b"), HASHES_BYTES, "_empty"),
        ];
        let mut first = ALIGNMENT / SECTOR;
        let partitions = rows.map(|(kind, unique, bytes, name)| {
            let start = first;
            first += bytes / SECTOR;
            Some(Partition { kind, unique, first: start, last: first - 1, attributes: 0, name: name.to_owned() })
        });
        Self { table: Table { disk: derived(&root_hash, "disk"), partitions: partitions.into() } }
    }

    /// Where a partition begins, counted from 0, in bytes.
    fn offset(&self, index: usize) -> u64 {
        let partition = self.table.partitions.get(index).and_then(Option::as_ref);
        partition.map_or(0, |partition| partition.first * SECTOR)
    }

    /// One alignment more than the partitions: the second copy of the table is there.
    fn bytes(&self) -> u64 {
        let end = self.table.partitions.iter().flatten().map(|partition| (partition.last + 1) * SECTOR).max();
        end.unwrap_or_default() + ALIGNMENT
    }

    fn geometry(&self) -> Geometry {
        Geometry { sector: SECTOR, sectors: self.bytes() / SECTOR }
    }
}

/// The identities of the partitions that a root hash names.
fn halves(root_hash: [u8; 32]) -> (Guid, Guid) {
    let half = |bytes: Option<&[u8; 16]>| Guid::from_written(bytes.copied().unwrap_or_default());
    (half(root_hash.first_chunk()), half(root_hash.last_chunk()))
}

/// An identity that follows from the root's, in the form of a random one (RFC 9562, version 8 is ours to define).
fn derived(root_hash: &[u8; 32], what: &str) -> Guid {
    let hash = digest(&SHA256, &[what.as_bytes(), root_hash].concat());
    let mut bytes: [u8; 16] = hash.as_ref().first_chunk().copied().unwrap_or_default();
    let [_, _, _, _, _, _, version, _, variant, ..] = &mut bytes;
    *version = *version & 0x0f | 0x80;
    *variant = *variant & 0x3f | 0x80;
    Guid::from_written(bytes)
}

/// A disk of a size for a machine: the image in a file that is longer.
pub fn enlarge(image: &DiskImage, path: &Path, gib: u64) -> io::Result<()> {
    // Holes stay holes: a reflink or a sparse copy, as the file system can.
    let copied = Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(&image.raw).arg(path).status()?;
    if !copied.success() {
        return Err(io::Error::other(format!("cp ended with {copied}")));
    }
    File::options().write(true).open(path)?.set_len(gib << 30)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_follow_each_other_and_name_the_root() {
        let mut hash = [0; 32];
        hash[0] = 0xab;
        hash[16] = 0xcd;
        let plan = Plan::new(hash);
        let partitions: Vec<_> = plan.table.partitions.iter().flatten().collect();
        assert!(partitions.windows(2).all(|pair| pair[0].last + 1 == pair[1].first));
        assert!(partitions.iter().all(|partition| partition.first % (ALIGNMENT / SECTOR) == 0));
        assert_eq!(partitions[1].unique.to_string(), "ab000000-0000-0000-0000-000000000000");
        assert_eq!(partitions[2].unique.to_string(), "cd000000-0000-0000-0000-000000000000");
        assert_eq!(plan.bytes(), (1 + 512 + 2 * 1024 + 1) * MIB);
        let mut identities: Vec<_> = partitions.iter().map(|partition| partition.unique).collect();
        identities.sort();
        identities.dedup();
        assert_eq!(identities.len(), 5);
    }

    #[test]
    fn root_that_does_not_fit_its_slot_is_refused() {
        let source = tempfile::NamedTempFile::new().unwrap();
        source.as_file().set_len(5 * MIB).unwrap();
        let device = tempfile::tempfile().unwrap();
        let error = copy_into(source.path(), &device, 0, 4 * MIB).unwrap_err();
        assert!(error.to_string().contains("5 MiB, and its partition 4 MiB"), "{error}");
    }
}
