//! Processes that do not end although they were killed, in words that tell a person which device or server to look at.

use std::fs;
use std::path::{Path, PathBuf};

/// Name, number, state, and the kernel function in which it sleeps (`wchan` of proc(5)): `mount.nfs (812), in state D, in
/// rpc_wait_bit_killable`. `None`: it is gone. State and function are of a thread that has not ended: the first one may have, and be a
/// zombie for as long as another one sleeps.
pub fn describe(proc: &Path, pid: &str) -> Option<String> {
    let directory = proc.join(pid);
    let name = fs::read_to_string(directory.join("comm")).ok()?;
    let thread = thread(&directory);
    let mut text = format!("{} ({pid})", name.trim_end());
    if let Some(state) = state(&thread) {
        text.push_str(", in state ");
        text.push(state);
    }
    let channel = fs::read_to_string(thread.join("wchan")).unwrap_or_default();
    if !matches!(channel.trim(), "" | "0") {
        text.push_str(", in ");
        text.push_str(channel.trim());
    }
    Some(text)
}

/// The first thread of the process that has not ended, or else the process.
fn thread(process: &Path) -> PathBuf {
    let has_ended = |thread: &Path| matches!(state(thread), Some('Z' | 'X'));
    let threads = || fs::read_dir(process.join("task")).into_iter().flatten().flatten().map(|entry| entry.path());
    let other = if has_ended(process) { threads().find(|thread| !has_ended(thread)) } else { None };
    other.unwrap_or_else(|| process.to_owned())
}

/// The field of `stat` after the name, which stands in parentheses and may hold any character.
fn state(thread: &Path) -> Option<char> {
    fs::read_to_string(thread.join("stat")).ok()?.rsplit_once(')')?.1.trim_start().chars().next()
}

/// All processes of user space but this one, at most `limit`. Kernel threads have no program.
pub fn others(proc: &Path, limit: usize) -> Vec<String> {
    let own = std::process::id().to_string();
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| {
        name.bytes().all(|byte| byte.is_ascii_digit())
            && *name != own
            && thread(&proc.join(name)).join("exe").read_link().is_ok()
    });
    pids.filter_map(|pid| describe(proc, &pid)).take(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_that_sleeps_in_the_kernel_is_named_with_what_it_waits_for() {
        let proc = tempfile::tempdir().unwrap();
        let directory = proc.path().join("812");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("comm"), "a) D (b\n").unwrap();
        fs::write(directory.join("stat"), "812 (a) D (b) D 1 812 812 0").unwrap();
        fs::write(directory.join("wchan"), "fuse_wait_answer").unwrap();
        assert_eq!(describe(proc.path(), "812").unwrap(), "a) D (b (812), in state D, in fuse_wait_answer");
        fs::write(directory.join("wchan"), "0").unwrap();
        assert_eq!(describe(proc.path(), "812").unwrap(), "a) D (b (812), in state D");
        assert_eq!(describe(proc.path(), "813"), None);
    }

    #[test]
    fn zombie_of_which_a_thread_sleeps_is_one_that_does_not_end() {
        let proc = tempfile::tempdir().unwrap();
        for (thread, state) in [("9", "Z"), ("9/task/9", "Z"), ("9/task/12", "D")] {
            let directory = proc.path().join(thread);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("comm"), "csi\n").unwrap();
            fs::write(directory.join("stat"), format!("9 (csi) {state} 1")).unwrap();
            fs::write(directory.join("wchan"), if state == "D" { "request_wait_answer" } else { "0" }).unwrap();
        }
        std::os::unix::fs::symlink("/bin/csi", proc.path().join("9/task/12/exe")).unwrap();
        let words = "csi (9), in state D, in request_wait_answer";
        assert_eq!(others(proc.path(), 10), [words]);
        assert_eq!(describe(proc.path(), "9").unwrap(), words);
        fs::remove_dir_all(proc.path().join("9/task/12")).unwrap();
        assert!(others(proc.path(), 10).is_empty(), "only its end is to be heard");
    }

    #[test]
    fn only_processes_with_a_program_are_others() {
        let proc = tempfile::tempdir().unwrap();
        for (pid, has_program) in [("7", true), ("8", false)] {
            fs::create_dir(proc.path().join(pid)).unwrap();
            fs::write(proc.path().join(pid).join("comm"), "x").unwrap();
            if has_program {
                std::os::unix::fs::symlink("/bin/x", proc.path().join(pid).join("exe")).unwrap();
            }
        }
        fs::create_dir(proc.path().join("sys")).unwrap();
        assert_eq!(others(proc.path(), 10), ["x (7)"]);
        assert!(others(proc.path(), 0).is_empty());
    }
}
