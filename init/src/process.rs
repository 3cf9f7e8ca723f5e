//! Processes that do not end although they were killed, in words that tell a person which device or server to look at.

use std::fs;
use std::path::Path;

/// Name, number, state, and the kernel function in which it sleeps (`wchan` of proc(5)): `mount.nfs (812), in state D, in
/// rpc_wait_bit_killable`. `None`: it is gone.
pub fn describe(proc: &Path, pid: &str) -> Option<String> {
    let directory = proc.join(pid);
    let name = fs::read_to_string(directory.join("comm")).ok()?;
    let stat = fs::read_to_string(directory.join("stat")).unwrap_or_default();
    let mut text = format!("{} ({pid})", name.trim_end());
    if let Some(state) = state(&stat) {
        text.push_str(", in state ");
        text.push(state);
    }
    let channel = fs::read_to_string(directory.join("wchan")).unwrap_or_default();
    if !matches!(channel.trim(), "" | "0") {
        text.push_str(", in ");
        text.push_str(channel.trim());
    }
    Some(text)
}

/// The field after the name, which stands in parentheses and may hold any character.
fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// All processes of user space but this one, at most `limit`. Kernel threads have no program.
pub fn others(proc: &Path, limit: usize) -> Vec<String> {
    let own = std::process::id().to_string();
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| {
        name.bytes().all(|byte| byte.is_ascii_digit())
            && *name != own
            && proc.join(name).join("exe").read_link().is_ok()
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
