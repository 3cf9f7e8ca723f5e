//! What the tests of this suite share: the built image, and the machine that is up.

use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use keelson_vm::build::Image;
use keelson_vm::machine::Machine;
use keelson_vm::node::{Node, Tools};
use keelson_vm::project::{self, Project};
use keelson_vm::qemu::{Hardware, Speed};
use keelson_vm::report::Report;
use libtest_mimic::{Arguments, Conclusion, Failed, Trial};

pub(crate) type Outcome = Result<(), Failed>;

/// Everything that tests start machines from.
pub(crate) struct Build {
    pub(crate) image: Image,
    pub(crate) tools: Tools,
    pub(crate) speed: Speed,
    /// Machines of this run; emptied at its start.
    pub(crate) folder: PathBuf,
}

static BUILD: LazyLock<Result<Build, String>> = LazyLock::new(|| prepare().map_err(|error| error.to_string()));

fn prepare() -> Result<Build, Box<dyn std::error::Error>> {
    let project = Project::of_this_build();
    let image = project.image(&mut Report::default())?;
    let tools = Tools::new(project.keelctl()?, &image);
    let folder = project.target().join("vm-tests");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    project::create_folder(&folder)?;
    let speed = Speed::measure(&image.kernel, &image.initramfs, &folder)?;
    Ok(Build { image, tools, speed, folder })
}

pub(crate) fn build() -> Result<&'static Build, Failed> {
    BUILD.as_ref().map_err(|error| Failed::from(error.clone()))
}

impl Build {
    /// An empty folder for one machine.
    pub(crate) fn machine_folder(&self, name: &str) -> Result<PathBuf, Failed> {
        let folder = self.folder.join(name);
        project::create_folder(&folder)?;
        Ok(folder)
    }

    /// A machine in its folder. It has not run yet.
    pub(crate) fn node(&self, folder: &Path, hardware: Hardware) -> Result<Node, Failed> {
        Ok(Node::new(Machine::create(folder, hardware, self.speed)?, self.tools.clone()))
    }
}

static NODE: Mutex<Option<Node>> = Mutex::new(None);

/// The machine that the lifecycle tests share.
pub(crate) fn shared_node() -> MutexGuard<'static, Option<Node>> {
    NODE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `test` with the shared machine; without one, the test that should have brought it up says why.
pub(crate) fn with_node(test: impl FnOnce(&mut Node) -> Outcome) -> Outcome {
    let mut shared = shared_node();
    let node = shared.as_mut().ok_or_else(|| Failed::from("the shared machine is not up"))?;
    with_console(node, test)
}

/// Runs `test` with a machine of its own, whose power is cut after it.
pub(crate) fn with_own(mut node: Node, test: impl FnOnce(&mut Node) -> Outcome) -> Outcome {
    let outcome = with_console(&mut node, test);
    node.machine.cut_power()?;
    outcome
}

/// A failure has the console's last lines with it.
fn with_console(node: &mut Node, test: impl FnOnce(&mut Node) -> Outcome) -> Outcome {
    test(node).map_err(|failed| {
        let message = failed.message().unwrap_or_default();
        Failed::from(format!("{message}\nthe console's last lines:\n{}", node.machine.console().tail()))
    })
}

/// Runs the trials one after the other.
pub(crate) fn conclude(mut arguments: Arguments, trials: Vec<Trial>) -> Conclusion {
    // The order is part of the plan, and two machines at once would starve each other.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials)
}

/// Runs a suite of the shared machine and ends the process with its outcome.
pub(crate) fn run(arguments: Arguments, trials: Vec<Trial>) {
    let conclusion = conclude(arguments, trials);
    // Whatever was run and whatever failed, no machine outlives the suite.
    if let Some(node) = shared_node().as_mut() {
        let _ = node.machine.cut_power();
    }
    conclusion.exit();
}

pub(crate) fn trial(name: &str, test: fn() -> Outcome) -> Trial {
    Trial::test(name, test)
}

/// Fails with `message` unless `holds`.
pub(crate) fn ensure(holds: bool, message: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(message().into()) }
}
