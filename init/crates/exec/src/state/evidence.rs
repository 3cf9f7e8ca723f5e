//! What tells afterwards how a boot ended: the kernel's messages, saved in order at an ordered end, or by the kernel itself
//! (pstore) when it died.
//!
//! pstore is a file system over whatever the machine has to keep some kilobytes across a reset: the firmware's variables, or a
//! stretch of memory (`ramoops`). A file of it is copied to STATE, synced, and only then removed, which frees the store for
//! the next death. Everything is bounded: the store's content comes from outside.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use keelson_job::Death;
use rustix::fs::OFlags;

use super::StateError;

/// How much of the kernel's log is kept of each boot.
const LOG_BYTES: usize = 64 * 1024;
/// A record of /dev/kmsg with its dictionary is never longer (`PRINTK_MESSAGE_MAX` is a quarter of it).
const RECORD_BYTES: usize = 8 * 1024;
/// How many files of the store are taken, and how much of each.
const FILES_MAX: usize = 32;
const FILE_BYTES: u64 = 64 * 1024;
/// How many lines a boot's record repeats, and how much of each: all of the history has to fit one packet of the control
/// socket.
const LINES_MAX: usize = 6;
const LINE_BYTES: usize = 160;

/// Saves what the kernel's ring still holds, its end if it is more than is kept.
pub(super) fn keep_kernel_log(log: &Path, target: &Path) -> Result<(), StateError> {
    let unread = |source| StateError::Read { path: log.to_owned(), source };
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let log = OpenOptions::new().read(true).custom_flags(flags).open(log).map_err(unread)?;
    let lines = read_kernel_log(log).map_err(unread)?;
    save(target, String::from_iter(lines).as_bytes())
        .map_err(|source| StateError::Make { path: target.to_owned(), source })
}

/// One read is one record: `priority,sequence,microseconds,flags;text`, then lines of a dictionary (dev-kmsg).
fn read_kernel_log(mut log: impl Read) -> io::Result<VecDeque<String>> {
    let mut lines: VecDeque<String> = VecDeque::new();
    let mut held = 0;
    let mut record = vec![0; RECORD_BYTES];
    loop {
        let count = match log.read(&mut record) {
            Ok(0) => return Ok(lines),
            Ok(count) => count,
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return Ok(lines),
                // Overwritten while it was read; the next one is there.
                io::ErrorKind::BrokenPipe | io::ErrorKind::Interrupted => continue,
                _ => return Err(error),
            },
        };
        let Some(line) = kernel_line(record.get(..count).unwrap_or_default()) else { continue };
        held += line.len();
        lines.push_back(line);
        while held > LOG_BYTES {
            held -= lines.pop_front().map_or(held, |line| line.len());
        }
    }
}

fn kernel_line(record: &[u8]) -> Option<String> {
    let record = String::from_utf8_lossy(record);
    let (head, text) = record.lines().next()?.split_once(';')?;
    let microseconds: u64 = head.split(',').nth(2)?.parse().ok()?;
    Some(format!("[{:5}.{:06}] {text}\n", microseconds / 1_000_000, microseconds % 1_000_000))
}

/// Takes all that the kernel saved when it died. Whatever fails is said, and no reason not to boot.
pub(super) fn harvest(pstore: &Path, target: &Path, notes: &mut Vec<String>) -> Death {
    let mut last_messages = Vec::new();
    for file in saved_files(pstore) {
        match take(&file, target) {
            // The store splits a long log; its part 1 is the end of it and comes first by name.
            Ok(text) if is_log(&file) && last_messages.is_empty() => last_messages = last_lines(&text),
            Ok(_) => {}
            Err(error) => notes.push(format!("what the kernel saved in {} is not kept: {error}", file.display())),
        }
    }
    if !last_messages.is_empty() {
        notes.push(format!("the kernel saved its last messages: {}", last_messages.join(" | ")));
    }
    Death { last_messages }
}

fn saved_files(pstore: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(pstore) else { return Vec::new() };
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    files.truncate(FILES_MAX);
    files
}

fn is_log(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("dmesg-"))
}

fn take(file: &Path, target: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(file)?.take(FILE_BYTES).read_to_end(&mut bytes)?;
    match fs::create_dir(target) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let name = file.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    save(&target.join(name), &bytes)?;
    fs::remove_file(file)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn save(target: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(target)?;
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()
}

/// From the panic on, if there is one, else the end.
fn last_lines(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(without_level).filter(|line| !line.is_empty()).collect();
    let panic = lines.iter().rposition(|line| line.contains("Kernel panic"));
    let start = panic.unwrap_or_else(|| lines.len().saturating_sub(LINES_MAX));
    lines.into_iter().skip(start).take(LINES_MAX).map(cut).collect()
}

/// Without printk's `<level>`.
fn without_level(line: &str) -> &str {
    let inner = line.strip_prefix('<').and_then(|rest| rest.split_once('>'));
    inner.filter(|(level, _)| level.bytes().all(|byte| byte.is_ascii_digit())).map_or(line, |(_, text)| text).trim()
}

/// The text is the kernel's, but what it repeats may be anybody's.
fn cut(line: &str) -> String {
    let mut line: String = line.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
    line.truncate(line.floor_char_boundary(LINE_BYTES));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one record a read, as /dev/kmsg does, then says that there is no more.
    struct Log(VecDeque<Result<&'static str, io::ErrorKind>>);

    impl Read for Log {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let record = self.0.pop_front().unwrap_or(Err(io::ErrorKind::WouldBlock))?;
            buffer[..record.len()].copy_from_slice(record.as_bytes());
            Ok(record.len())
        }
    }

    #[test]
    fn kernel_log_is_read_to_its_end_whatever_is_lost_in_between() {
        let log = Log(VecDeque::from([
            Ok("6,1,1500000,-;one\n SUBSYSTEM=pci\n"),
            Err(io::ErrorKind::BrokenPipe),
            Ok("not a record"),
            Ok("14,9,12000001,-;keelson: two\n"),
        ]));
        let lines = read_kernel_log(log).unwrap();
        assert_eq!(lines, ["[    1.500000] one\n", "[   12.000001] keelson: two\n"]);
    }

    #[test]
    fn only_the_end_of_a_long_log_is_kept() {
        let records = (0..5000).map(|_| Ok("6,1,1500000,-;a line of the kernel that is of some length\n"));
        let kept = String::from_iter(read_kernel_log(Log(records.collect())).unwrap());
        assert!(kept.len() <= LOG_BYTES && kept.len() > LOG_BYTES - 100, "{}", kept.len());
    }

    #[test]
    fn panic_goes_before_the_lines_that_follow_it() {
        let before = (0..20).map(|number| format!("<6>[ 1.0] line {number}\n")).collect::<Vec<_>>().concat();
        let text = format!("Panic#1 Part1\n{before}<0>[ 2.0] Kernel panic - not syncing: boom\n<4>[ 2.1] CPU: 0\n");
        assert_eq!(last_lines(&text), ["[ 2.0] Kernel panic - not syncing: boom", "[ 2.1] CPU: 0"]);
        assert_eq!(last_lines(&before).len(), LINES_MAX);
        assert_eq!(last_lines(&before).last().unwrap(), "[ 1.0] line 19");
        assert_eq!(last_lines(&format!("{}\u{1b}[2J", "x".repeat(300))), ["x".repeat(LINE_BYTES)]);
    }

    #[test]
    fn saved_files_leave_the_store_and_are_bounded() {
        let pstore = tempfile::tempdir().unwrap();
        let state = tempfile::tempdir().unwrap();
        for number in 0..40 {
            fs::write(pstore.path().join(format!("dmesg-ramoops-{number:02}")), "x".repeat(100_000)).unwrap();
        }
        let mut notes = Vec::new();
        harvest(pstore.path(), &state.path().join("1.pstore"), &mut notes);
        let kept: Vec<_> = fs::read_dir(state.path().join("1.pstore")).unwrap().flatten().collect();
        assert_eq!(kept.len(), FILES_MAX);
        assert!(kept.iter().all(|file| file.metadata().unwrap().len() == FILE_BYTES));
        assert_eq!(fs::read_dir(pstore.path()).unwrap().count(), 40 - FILES_MAX);
    }

    #[test]
    fn machine_without_a_store_has_nothing_to_tell() {
        let mut notes = Vec::new();
        assert_eq!(harvest(Path::new("/nonexistent"), Path::new("/nonexistent/x"), &mut notes), Death::default());
        assert!(notes.is_empty());
    }
}
