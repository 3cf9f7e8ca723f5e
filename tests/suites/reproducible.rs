//! The same bytes from two paths: programs, root, initramfs, kernel image and disk, as they are before anything is signed.
//!
//! Two copies of the checkout are built with target folders of their own, so that no Rust program and no packing step comes from a
//! cache; what is made of Go, the kernel and Debian's files are inputs here, pinned by their own hashes. It takes as long as two
//! builds, so it runs only if it is asked for by its name.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a test program: what was compared is printed")]

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use aws_lc_rs::digest::{Context, SHA256};
use keelson_vm::build::{self, BuildRequest, disk_image};
use keelson_vm::project::Project;
use keelson_vm::report::Report;
use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let trials = if arguments.filter.is_some() || arguments.list {
        vec![Trial::test("two_builds_from_two_paths_are_equal", two_builds)]
    } else {
        vec![]
    };
    libtest_mimic::run(&arguments, trials).exit();
}

fn two_builds() -> Result<(), Failed> {
    let request = Project::of_this_build().request()?;
    let folder = tempfile::tempdir()?;
    let mut digests = Vec::new();
    // Of different lengths, should a length matter.
    for name in ["one", "another-and-longer"] {
        let checkout = folder.path().join(name);
        copy(&request.checkout, &checkout)?;
        let target = folder.path().join(format!("{name}-target"));
        digests.push(build(&BuildRequest { checkout, target, ..request.clone() })?);
    }
    let [first, second] = digests.as_slice() else { return Err("two builds were to be made".into()) };
    let mut differ = Vec::new();
    for ((name, one), (_, other)) in first.iter().zip(second) {
        println!("{name}: {one}");
        if one != other {
            differ.push(name.as_str());
        }
    }
    if differ.is_empty() { Ok(()) } else { Err(format!("not the same from two paths: {differ:?}").into()) }
}

/// What git knows, and so without what an earlier build left.
fn copy(checkout: &Path, place: &Path) -> Result<(), Failed> {
    let files = Command::new("git").args(["ls-files", "-z"]).current_dir(checkout).output()?;
    for name in String::from_utf8(files.stdout)?.split_terminator('\0') {
        let target = place.join(name);
        target.parent().map(std::fs::create_dir_all).transpose()?;
        std::fs::copy(checkout.join(name), &target)?;
    }
    Ok(())
}

fn build(request: &BuildRequest) -> Result<Vec<(String, String)>, Failed> {
    let mut report = Report::default();
    let image = build::image(request, &mut report)?;
    let disk = disk_image::build(request, &image, None, &mut report)?;
    let bin = image.root_tree.join("usr/bin");
    let programs = ["init", "exec", "network", "log", "store", "cluster", "proxy"];
    let programs =
        programs.map(|name| bin.join(if name == "init" { name.to_owned() } else { format!("keelson-{name}") }));
    let files: [PathBuf; 6] = [image.root, image.root_hashes, image.first_stage, image.initramfs, disk.uki, disk.raw];
    let named = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        digest(path).map(|digest| (name, digest))
    };
    programs.iter().chain(&files).map(named).collect()
}

fn digest(path: &Path) -> Result<String, Failed> {
    let mut file = File::open(path)?;
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = file.read(&mut buffer)?;
        match buffer.get(..length) {
            None | Some([]) => break,
            Some(read) => context.update(read),
        }
    }
    Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat())
}
