//! Turns the checkout into what boots: kernel, root file system, initramfs, and the archives and programs of the tests.
//!
//! The order is that of the data: Debian packages of the host → kernel → Go programs → Rust programs → OCI archives →
//! Debian's part of the root → the root by the allowlist → the initramfs. Each step is a function of named inputs, and
//! its result is kept in [`Cache`] under the hash of those inputs, so that a step runs again exactly when what it reads
//! has changed. Programs of the checkout itself are left to cargo, which knows their inputs better.
//!
//! Invariants: no step writes into the checkout except cargo's target folder; a result appears in the cache whole or
//! not at all; the same inputs give the same bytes, at any path and at any time ([`SOURCE_DATE_EPOCH`]).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub mod allowlist;
pub(crate) mod archive;
pub mod cache;
pub mod contents;
mod debian;
mod digest;
pub mod disk_image;
mod elf;
pub mod error;
mod fat;
mod go;
mod initramfs;
pub mod kernel;
mod oci;
pub mod packages;
pub mod progress;
mod root;
mod rust;
mod sbom;
pub mod secure_boot;
mod step;
mod uki;
mod verity;

pub(crate) use rust::use_image_flags;

pub use cache::Cache;
pub use error::BuildError;
pub use progress::{Outcome, Progress};

use digest::Inputs;
use error::FileContext as _;
use oci::OciImage;
use step::{Step, Steps};

/// The time that every file, archive and kernel banner of the image carries: 2026-01-01T00:00:00Z.
///
/// PID 1 takes it as the clock's floor too, so it moves forward with each release.
pub const SOURCE_DATE_EPOCH: u64 = 1_767_225_600;
/// The same, as documents have it.
const SOURCE_DATE: &str = "2026-01-01T00:00:00Z";

/// What to build, and where.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// The checkout's top folder.
    pub checkout: PathBuf,
    /// Cargo's target folder: the Rust programs are built in it, and the image goes to `<target>/image`.
    pub target: PathBuf,
    /// What outlives a checkout: kernels, Go programs, Debian's part of the root.
    pub cache: Cache,
    /// Install Debian packages that are missing, when run as root. Without it a missing package is an error.
    pub install_packages: bool,
}

/// The files of a finished build.
#[derive(Debug, Clone)]
pub struct Image {
    /// The kernel as `-kernel` takes it.
    pub kernel: PathBuf,
    /// The configuration that the kernel was built with.
    pub kernel_config: PathBuf,
    /// The hybrid initramfs: the root as a file, then the first stage.
    pub initramfs: PathBuf,
    /// The first stage alone, which finds its root on a disk.
    pub first_stage: PathBuf,
    /// The root file system (erofs) by itself.
    pub root: PathBuf,
    /// Its dm-verity hash tree.
    pub root_hashes: PathBuf,
    /// The root hash, in hexadecimal and with a line's end.
    pub root_hash: PathBuf,
    /// The root's tree before it was packed, for tests that list it.
    pub root_tree: PathBuf,
    /// Debian's part, from which the root was picked, and whose tools pack and unpack it.
    pub debian: PathBuf,
    /// kubectl of the image's Kubernetes release, for this host.
    pub kubectl: PathBuf,
    /// etcd, for this host: a test's and a measurement's counterpart of the store.
    pub etcd: PathBuf,
    /// The client that belongs to [`Image::etcd`].
    pub etcdctl: PathBuf,
    /// The tests' workload image (`keelson.local/workload:1`) as an OCI archive.
    pub workload: PathBuf,
    /// The program in [`Image::workload`].
    pub workload_program: PathBuf,
    /// What the files weigh.
    pub sizes: Sizes,
    /// The folder of each Go module's programs.
    go: BTreeMap<&'static str, PathBuf>,
}

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Of the kernel.
    pub kernel: u64,
    /// Of the root file system.
    pub root: u64,
    /// Of the initramfs, which contains the root.
    pub initramfs: u64,
}

/// Makes sure that the host has these Debian packages.
pub fn packages(names: &[&str], request: &BuildRequest, progress: &mut dyn Progress) -> Result<(), BuildError> {
    let mut steps = Steps::new(request.target.join("image/logs"), progress)?;
    steps.step("host packages", |step| Ok(((), packages::ensure(names, request.install_packages, step)?)))
}

/// Builds etcd alone, for this host, or finds it in the cache.
pub fn etcd(request: &BuildRequest, progress: &mut dyn Progress) -> Result<PathBuf, BuildError> {
    let mut steps = Steps::new(request.target.join("image/logs"), progress)?;
    let built = go::MODULES
        .iter()
        .filter(|module| module.name == "etcd")
        .map(|module| steps.step(module.name, |step| go::build(module, &request.checkout, &request.cache, step)));
    let folders: BTreeMap<_, _> = built.map(|folder| Ok(("etcd", folder?))).collect::<Result<_, BuildError>>()?;
    Ok(program(&folders, "etcd")?.join("etcd"))
}

/// Builds all of it, or what is not built yet.
pub fn image(request: &BuildRequest, progress: &mut dyn Progress) -> Result<Image, BuildError> {
    let BuildRequest { checkout, target, cache, install_packages } = request;
    // Roots are large and made in seconds: the one in use, and the one before it for a machine that still runs on it.
    let output = Cache::at(target.join("image")).keeping(2);
    let mut steps = Steps::new(output.folder().join("logs"), progress)?;

    steps.step("host packages", |step| {
        let all = [packages::BUILD, packages::RUN].concat();
        Ok(((), packages::ensure(&all, *install_packages, step)?))
    })?;
    let debian = steps.step("Debian's files", |step| debian::tree(checkout, cache, step))?;
    let kernel = steps.step("kernel", |step| kernel::build(checkout, cache, step))?;
    let mut go = BTreeMap::new();
    for module in go::MODULES {
        let folder = steps.step(module.name, |step| go::build(module, checkout, cache, step))?;
        go.insert(module.name, folder);
    }
    let rust = steps.step("our programs", |step| Ok((rust::build(checkout, target, step)?, Outcome::Built)))?;
    let archives = steps.step("core images", |step| archives(checkout, &go, &output, step))?;

    let workload = program(&archives, "workload")?;
    let sources = root::Sources { files: checkout.join("image/files"), debian, go, rust, archives, texts: texts() };
    let list = checkout.join("image/root.allow");
    let entries = allowlist::parse(&fs::read_to_string(&list).at("read", &list)?)?;
    let root = steps.step("root", |step| {
        root::check_libraries(&entries, &sources)?;
        output.result("root", &root::inputs(&entries, &sources)?.finish(), |place| {
            root::compose(&entries, &sources, &place.join("tree"))?;
            let packed = Packed::below(place);
            root::pack(&sources.debian, &place.join("tree"), &packed.root, step)?;
            let hash = verity::write(&packed.root, &packed.hashes)?;
            fs::write(&packed.hash, format!("{}\n", verity::hex(&hash))).at("write", &packed.hash)
        })
    })?;
    let packed = Packed::below(&root);
    let (initramfs, first_stage) = steps.step("initramfs", |_| initramfs(&packed, &sources.rust, &output))?;

    let go_program = |name| program(&sources.go, name);
    let image = Image {
        sizes: Sizes { kernel: size(&kernel.image)?, root: size(&packed.root)?, initramfs: size(&initramfs)? },
        kernel: kernel.image,
        kernel_config: kernel.config,
        initramfs,
        first_stage,
        root: packed.root,
        root_hashes: packed.hashes,
        root_hash: packed.hash,
        root_tree: root.join("tree"),
        debian: sources.debian.clone(),
        kubectl: go_program("kubernetes")?.join("kubectl"),
        etcd: go_program("etcd")?.join("etcd"),
        etcdctl: go_program("etcd")?.join("etcdctl"),
        workload,
        workload_program: go_program("workload")?.join("workload"),
        go: sources.go.clone(),
    };
    Ok(image)
}

/// The bill of materials of what was built (SPDX 2.3, JSON).
pub fn bill_of_materials(
    request: &BuildRequest,
    image: &Image,
    progress: &mut dyn Progress,
) -> Result<PathBuf, BuildError> {
    let output = Cache::at(request.target.join("image")).keeping(2);
    let list = request.checkout.join("image/root.allow");
    let entries = allowlist::parse(&fs::read_to_string(&list).at("read", &list)?)?;
    let content = sbom::Content {
        checkout: &request.checkout,
        go: &image.go,
        debian: &image.debian,
        entries: &entries,
        kernel_config: &image.kernel_config,
        root: &image.root,
    };
    let mut steps = Steps::new(output.folder().join("logs"), progress)?;
    steps.step("bill of materials", |step| sbom::build(&content, &output, step))
}

type Initramfs = (PathBuf, PathBuf);

/// The root as it travels: its bytes, their hash tree, and the hash by which both are judged.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) root: PathBuf,
    pub(crate) hashes: PathBuf,
    pub(crate) hash: PathBuf,
}

impl Packed {
    fn below(place: &Path) -> Self {
        let [root, hashes, hash] = ["root.erofs", "root.hashes", "root.hash"].map(|name| place.join(name));
        Self { root, hashes, hash }
    }
}

fn initramfs(root: &Packed, programs: &Path, output: &Cache) -> Result<(Initramfs, Outcome), BuildError> {
    let inputs = Inputs::new("initramfs", 3)
        .file("root", &root.root)?
        .file("init", &programs.join("init"))?
        .file("exec", &programs.join("keelson-exec"))?;
    let (place, outcome) = output.result("initramfs", &inputs.finish(), |place| {
        initramfs::write(root, programs, &place.join("initramfs"), &place.join("first-stage"))
    })?;
    Ok(((place.join("initramfs"), place.join("first-stage")), outcome))
}

/// Makes the OCI archives: those in the image, and the tests' workload.
fn archives(
    checkout: &Path,
    go: &BTreeMap<&'static str, PathBuf>,
    output: &Cache,
    step: &mut Step<'_>,
) -> Result<(BTreeMap<&'static str, PathBuf>, Outcome), BuildError> {
    let source = checkout.join("image/pause/pause.c");
    let coredns = program(go, "coredns")?.join("coredns");
    let workload = program(go, "workload")?.join("workload");
    let inputs = Inputs::new("archives", 1)
        .text("references", &format!("{IMAGES:?}"))
        .file("pause", &source)?
        .file("coredns", &coredns)?
        .file("workload", &workload)?;
    let (place, outcome) = output.result("archives", &inputs.finish(), |place| {
        let pause = place.join("pause");
        step.run(&mut compile_pause(&source, &pause))?;
        for (name, reference) in IMAGES {
            let (program, user) = match name {
                "coredns" => (&coredns, "65532:65532"),
                "workload" => (&workload, "65532:65532"),
                _ => (&pause, "65535:65535"),
            };
            let image = OciImage { reference, program, entrypoint: &format!("/{name}"), user };
            oci::write(&image, &place.join(format!("{name}.tar")))?;
        }
        fs::remove_file(&pause).at("remove", &pause)
    })?;
    let paths = IMAGES.iter().map(|&(name, _)| (name, place.join(format!("{name}.tar"))));
    Ok((paths.collect(), outcome))
}

/// The images that the build makes: the archive's name, and the reference that a pod uses.
pub const IMAGES: [(&str, &str); 3] = [
    ("pause", "keelson.local/pause:1"),
    ("coredns", "keelson.local/coredns:1.15.0"),
    ("workload", "keelson.local/workload:1"),
];

/// Without a C library: 648 bytes, 12 KiB resident (image/pause/pause.c).
fn compile_pause(source: &Path, program: &Path) -> Command {
    let mut gcc = Command::new("gcc");
    gcc.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-Os", "-ffreestanding", "-fno-stack-protector"]);
    gcc.args(["-fno-asynchronous-unwind-tables", "-fcf-protection=none", "-nostdlib", "-static", "-s"]);
    gcc.args(["-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,-z,noseparate-code", "-o"]).arg(program).arg(source);
    gcc
}

/// The files of the root whose content is a fact of the build.
fn texts() -> BTreeMap<&'static str, String> {
    let version = env!("CARGO_PKG_VERSION");
    let release = format!(
        "NAME=Keelson\nID=keelson\nPRETTY_NAME=\"Keelson {version}\"\nVERSION_ID={version}\nIMAGE_ID=keelson\nIMAGE_VERSION={version}\n"
    );
    BTreeMap::from([
        ("build-time", format!("{SOURCE_DATE_EPOCH}\n")),
        ("os-release", release),
        ("version", format!("{version}\n")),
    ])
}

fn program(folders: &BTreeMap<&'static str, PathBuf>, name: &str) -> Result<PathBuf, BuildError> {
    let missing = || BuildError::Allowlist { line: 0, problem: format!("nothing is called {name}") };
    folders.get(name).cloned().ok_or_else(missing)
}

fn size(path: &Path) -> Result<u64, BuildError> {
    Ok(fs::metadata(path).at("examine", path)?.len())
}

/// How many compilers run at once.
pub(crate) fn parallel_jobs() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
