//! Children that do not outlive this program, however it ends.
//!
//! The kernel kills a process with its parent if the process itself has asked for that (prctl(2), `PR_SET_PDEATHSIG`), and what asks must be the child, between
//! fork and exec: code of the unsafe kind. So what is started is this program once more, which asks and then becomes the other one.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use crate::error::Error;

/// The first argument of a start that is to become another program; then come the parent's id, the program and its arguments.
const BECOME: &str = "become";

/// A command for the program, to which its arguments are added.
pub(crate) fn command(program: &Path) -> Command {
    // That of the child, which is still this one when it is looked at.
    let mut command = Command::new("/proc/self/exe");
    command.arg(BECOME).arg(std::process::id().to_string()).arg(program);
    command
}

/// Becomes another program if that is what this one was started for. Then this returns only if it failed.
pub(crate) fn become_other(mut arguments: impl Iterator<Item = OsString>) -> Result<(), Error> {
    if arguments.next().is_none_or(|first| first != BECOME) {
        return Ok(());
    }
    let (Some(parent), Some(program)) = (arguments.next(), arguments.next()) else { return Ok(()) };
    let failed = |source| Error::Start { program: program.to_string_lossy().into_owned(), source };
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| failed(error.into()))?;
    // A parent that had ended before kills nobody any more.
    let text = |id: Pid| id.as_raw_nonzero().to_string();
    if getppid().map(text).as_deref() != parent.to_str() {
        return Err(failed(std::io::Error::other("its parent has ended")));
    }
    Err(failed(Command::new(&program).args(arguments).exec()))
}
