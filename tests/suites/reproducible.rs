//! The same bytes from two paths: every program, root, kernel and its configuration, initramfs and disk, as they are before anything is signed.
//!
//! Two copies of the checkout are built one after the other, each in a process of its own with empty caches: nothing that was compiled,
//! packed or composed before is taken, neither by our steps nor by cargo or Go. What both share is what they were given: sources of Debian's
//! kernel, crates and Go modules as they were downloaded, each under the hash that a lock file has for it, and the packages that a mirror has at the
//! time. It takes as long as two first builds, so it runs only if it is asked for by its name; a build that takes longer than
//! [`LIMIT`] is ended and is a failure.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a test program: what was compared is printed")]

use std::fs::File;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};
use keelson_vm::build::{self, BuildRequest, disk_image};
use keelson_vm::project::Project;
use keelson_vm::report::Report;
use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// For one build, on a slow machine.
const LIMIT: Duration = Duration::from_hours(3);

/// Says to this program, started by itself, where its copy of the checkout is.
const CHECKOUT: &str = "KEELSON_REPRODUCIBLE_CHECKOUT";

/// Names and digests, a line each, beside the copy.
type Digests = Vec<(String, String)>;

fn main() -> ExitCode {
    if let Some(checkout) = std::env::var_os(CHECKOUT) {
        return build_here(Path::new(&checkout));
    }
    let arguments = Arguments::from_args();
    let mut trials = vec![Trial::test("a_build_that_hangs_is_ended_with_all_that_it_has_started", hanging_build)];
    if arguments.filter.is_some() || arguments.list {
        trials.push(Trial::test("two_builds_from_two_paths_are_equal", two_builds));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn two_builds() -> Result<(), Failed> {
    let original = Project::of_this_build().checkout().to_owned();
    let mut digests = Vec::new();
    // Of different lengths, should a length matter.
    for name in ["one", "another-and-longer"] {
        // What a build leaves takes many gigabytes, and is gone before the next one begins.
        let folder = tempfile::tempdir()?;
        let checkout = folder.path().join(name);
        copy(&original, &checkout)?;
        let started = Instant::now();
        digests.push(build_elsewhere(&checkout, &folder.path().join(format!("{name}-cache")))?);
        println!("{name}: built in {} min", started.elapsed().as_secs() / 60);
    }
    let [first, second] = digests.as_slice() else { return Err("two builds were to be made".into()) };
    compare(first, second)
}

fn compare(first: &[(String, String)], second: &[(String, String)]) -> Result<(), Failed> {
    let mut differ = Vec::new();
    if first.len() != second.len() || first.is_empty() {
        differ.push("the list of files");
    }
    for ((name, one), (other_name, other)) in first.iter().zip(second) {
        println!("{name}: {one}");
        if (name, one) != (other_name, other) {
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

/// Builds in a process of its own. `XDG_CACHE_HOME` is where our steps keep their results and Go what it has compiled.
fn build_elsewhere(checkout: &Path, cache: &Path) -> Result<Digests, Failed> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env(CHECKOUT, checkout).env("XDG_CACHE_HOME", cache);
    for variable in ["GOCACHE", "CARGO_TARGET_DIR", "RUSTC_WRAPPER", "CARGO_BUILD_RUSTC_WRAPPER", "CCACHE_DIR"] {
        command.env_remove(variable);
    }
    // A group of its own, so that whatever it has started ends with it.
    let child = command.process_group(0).spawn()?;
    let status = wait(child, LIMIT)?;
    if !status.success() {
        return Err(format!("the build of {} ended with {status}", checkout.display()).into());
    }
    let text = std::fs::read_to_string(list(checkout))?;
    let lines = text.lines().filter_map(|line| line.split_once('\t'));
    Ok(lines.map(|(name, digest)| (name.to_owned(), digest.to_owned())).collect())
}

fn wait(mut child: Child, limit: Duration) -> Result<ExitStatus, Failed> {
    let group = Pid::from_raw(i32::try_from(child.id())?);
    let (sender, ended) = mpsc::channel();
    // The thread ends with the child; nobody needs to wait for it.
    thread::spawn(move || sender.send(child.wait()));
    match ended.recv_timeout(limit) {
        Ok(status) => Ok(status?),
        Err(RecvTimeoutError::Disconnected) => Err("nobody waits for the build".into()),
        Err(RecvTimeoutError::Timeout) => {
            killpg(group, Signal::SIGKILL)?;
            Err(format!("the build took longer than {} min", limit.as_secs() / 60).into())
        }
    }
}

fn hanging_build() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    // Whoever holds the other end of the pipe holds the file's reader up.
    let (mut reader, writer) = std::io::pipe()?;
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 1000 & wait"]).current_dir(folder.path()).stdout(writer).process_group(0);
    let child = command.spawn()?;
    // It keeps an end of its own.
    drop(command);
    if wait(child, Duration::from_millis(100)).is_ok() {
        return Err("a build without an end has ended".into());
    }
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || sender.send(reader.read(&mut [0])));
    match ended.recv_timeout(Duration::from_secs(20)) {
        Ok(Ok(0)) => Ok(()),
        other => Err(format!("something that it has started goes on: {other:?}").into()),
    }
}

/// Where a build says what it has made.
fn list(checkout: &Path) -> PathBuf {
    checkout.with_extension("digests")
}

/// The other process.
fn build_here(checkout: &Path) -> ExitCode {
    let written = build(checkout).and_then(|digests| {
        let lines: Vec<String> = digests.iter().map(|(name, digest)| format!("{name}\t{digest}\n")).collect();
        Ok(std::fs::write(list(checkout), lines.concat())?)
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{}", error.message().unwrap_or("the build failed"));
            ExitCode::FAILURE
        }
    }
}

fn build(checkout: &Path) -> Result<Digests, Failed> {
    let target = checkout.with_extension("target");
    let request = BuildRequest { checkout: checkout.to_owned(), target, ..Project::of_this_build().request()? };
    let mut report = Report::default();
    let image = build::image(&request, &mut report)?;
    let disk = disk_image::build(&request, &image, None, &mut report)?;
    // Ours, Go's and Debian's.
    let entries = std::fs::read_dir(image.root_tree.join("usr/bin"))?;
    let mut programs = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, Failed>>()?;
    programs.retain(|path| path.is_file() && !path.is_symlink());
    programs.sort();
    let files = [
        image.kernel_config,
        image.kernel,
        image.root,
        image.root_hashes,
        image.first_stage,
        image.initramfs,
        image.workload,
        image.kubectl,
        disk.uki,
        disk.raw,
    ];
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
