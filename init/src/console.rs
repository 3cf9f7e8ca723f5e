//! What PID 1 says: to the kernel's log, and to whoever looks at a console.
//!
//! Nothing here waits. A terminal is opened and written without blocking; what it does not take is kept in a small buffer,
//! and when that is full whole lines are dropped and their number is said as soon as the terminal takes bytes again. A
//! serial port that nobody reads, or that does not exist, therefore costs nothing (Talos #9210: minutes).
//!
//! PID 1 lowers the kernel's console level and writes its own lines to the terminals itself, so a line is not shown twice, and
//! is not printed by printk's own, busy-waiting way.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use keelson_sys::clock;

/// Bytes kept for a terminal that is slower than we are: a whole boot's lines fit.
const PENDING_BYTES: usize = 8 * 1024;

/// kernel.printk (proc(5)): what is graver than a warning goes to the console, the rest is as by default.
const KERNEL_LEVELS: &str = "4 4 1 7";

/// The longest line; what exceeds it is cut. /dev/kmsg takes 992 bytes with its prefix (`LOG_LINE_MAX`).
const LINE_BYTES: usize = 900;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    Error,
    Warning,
    Info,
}

impl Severity {
    /// The prefix of a line to /dev/kmsg: facility "user" (1) and a level, as in syslog(3). Levels stay at notice (5) or
    /// above in number when a terminal shows the line already, because printk repeats anything graver on the console.
    fn kmsg_prefix(self, shown: bool) -> &'static str {
        match (self, shown) {
            (Self::Error, false) => "<11>",
            (Self::Warning, false) => "<12>",
            (Self::Error | Self::Warning, true) => "<13>",
            (Self::Info, _) => "<14>",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Error => "ERROR: ",
            Self::Warning => "warning: ",
            Self::Info => "",
        }
    }
}

/// Where PID 1's lines go. Empty until [`Console::open`]: lines said before are lost, which is why opening comes first.
#[derive(Debug, Default)]
pub(crate) struct Console {
    kernel_log: Option<File>,
    terminals: Vec<Terminal<File>>,
}

impl Console {
    /// Opens the kernel's log and all terminals that the kernel uses as consoles. What cannot be opened is left out: a
    /// machine without a console must boot like any other.
    pub(crate) fn open(&mut self) {
        // Off by default: more than ten lines in five seconds. A message of ours that is missing is worth more than that.
        let _ = std::fs::write("/proc/sys/kernel/printk_devkmsg", "on");
        self.kernel_log = OpenOptions::new().write(true).open("/dev/kmsg").ok();
        let active = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
        self.terminals = active.split_ascii_whitespace().filter_map(|name| Terminal::open(name).ok()).collect();
        if !self.terminals.is_empty() {
            let _ = std::fs::write("/proc/sys/kernel/printk", KERNEL_LEVELS);
        }
    }

    /// Whether nothing said so far can have been seen.
    pub(crate) fn is_closed(&self) -> bool {
        self.kernel_log.is_none() && self.terminals.is_empty()
    }

    pub(crate) fn info(&mut self, subject: &str, message: impl fmt::Display) {
        self.say(Severity::Info, subject, &message);
    }

    pub(crate) fn warn(&mut self, subject: &str, message: impl fmt::Display) {
        self.say(Severity::Warning, subject, &message);
    }

    pub(crate) fn error(&mut self, subject: &str, message: impl fmt::Display) {
        self.say(Severity::Error, subject, &message);
    }

    /// Says one message, a line per line of it. `subject` is the phase or the service that it is about.
    pub(crate) fn say(&mut self, severity: Severity, subject: &str, message: &dyn fmt::Display) {
        let message = message.to_string();
        for text in message.lines() {
            self.say_line(severity, subject, text);
        }
    }

    fn say_line(&mut self, severity: Severity, subject: &str, text: &str) {
        let shown = !self.terminals.is_empty();
        if let Some(log) = &mut self.kernel_log {
            let line = cut(format!("{}keelson: {subject}: {}{text}", severity.kmsg_prefix(shown), severity.word()));
            // One write is one record. A full or failing log has no remedy here.
            let _ = log.write(line.as_bytes());
        }
        let line = cut(terminal_line(clock::since_boot(), severity, subject, text));
        for terminal in &mut self.terminals {
            terminal.push(&line);
        }
    }

    /// Tries once more to get rid of what the terminals did not take. The event loop calls it from time to time.
    pub(crate) fn flush(&mut self) {
        for terminal in &mut self.terminals {
            terminal.drain();
        }
    }
}

fn terminal_line(since_boot: Duration, severity: Severity, subject: &str, text: &str) -> String {
    format!("keelson {:8.3}s  {subject:<13} {}{text}", since_boot.as_secs_f64(), severity.word())
}

/// Cuts at a character boundary, and takes control characters out: text may come from foreign input, and a terminal obeys
/// escape sequences.
fn cut(line: String) -> String {
    let mut line: String = if line.contains(char::is_control) { line.replace(char::is_control, " ") } else { line };
    if line.len() > LINE_BYTES {
        let end = line.floor_char_boundary(LINE_BYTES);
        line.truncate(end);
    }
    line
}

/// A terminal and what it has not taken yet.
#[derive(Debug)]
struct Terminal<W> {
    device: W,
    pending: Vec<u8>,
    dropped: u32,
}

impl Terminal<File> {
    fn open(name: &str) -> io::Result<Self> {
        // Without O_NONBLOCK the open of a serial port may wait for a carrier; with O_NOCTTY it never becomes ours.
        let device = OpenOptions::new().write(true).custom_flags(libc_flags()).open(format!("/dev/{name}"))?;
        Ok(Self::new(device))
    }
}

fn libc_flags() -> i32 {
    // Both values fit: they are the kernel's own ints.
    i32::try_from((rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY).bits()).unwrap_or_default()
}

impl<W: Write> Terminal<W> {
    fn new(device: W) -> Self {
        Self { device, pending: Vec::new(), dropped: 0 }
    }

    fn push(&mut self, line: &str) {
        self.drain();
        let notice = match self.dropped {
            0 => String::new(),
            dropped => format!("keelson: this console was too slow, {dropped} lines are only in the kernel's log\n"),
        };
        if self.pending.len() + notice.len() + line.len() + 1 > PENDING_BYTES {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        self.dropped = 0;
        self.pending.extend_from_slice(notice.as_bytes());
        self.pending.extend_from_slice(line.as_bytes());
        self.pending.push(b'\n');
        self.drain();
    }

    /// Writes what the device takes now. Any error other than "not now" gives the bytes up: the port is dead.
    fn drain(&mut self) {
        while !self.pending.is_empty() {
            match self.device.write(&self.pending) {
                Ok(0) => return,
                Ok(taken) => drop(self.pending.drain(..taken.min(self.pending.len()))),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.pending.clear(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes as many bytes as it has room for, like a serial port's buffer.
    #[derive(Default)]
    struct Port {
        room: usize,
        taken: Vec<u8>,
    }

    impl Write for Port {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let length = bytes.len().min(self.room);
            if length == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room -= length;
            self.taken.extend_from_slice(&bytes[..length]);
            Ok(length)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn slow_terminal_gets_the_rest_of_a_line_later() {
        let mut terminal = Terminal::new(Port { room: 3, ..Port::default() });
        terminal.push("hello");
        assert_eq!(terminal.device.taken, b"hel");
        terminal.device.room = 100;
        terminal.push("world");
        assert_eq!(terminal.device.taken, b"hello\nworld\n");
    }

    #[test]
    fn dead_terminal_drops_lines_and_says_how_many_when_it_revives() {
        let mut terminal = Terminal::new(Port::default());
        let line = "x".repeat(1000);
        for _ in 0..20 {
            terminal.push(&line);
        }
        assert!(terminal.pending.len() <= PENDING_BYTES);
        terminal.device.room = usize::MAX;
        terminal.push("back");
        let text = String::from_utf8(terminal.device.taken).unwrap();
        assert!(text.ends_with("12 lines are only in the kernel's log\nback\n"), "{text}");
    }

    #[test]
    fn line_names_time_and_subject() {
        let line = terminal_line(Duration::from_millis(2345), Severity::Warning, "disks", "slow");
        assert_eq!(line, "keelson    2.345s  disks         warning: slow");
    }

    #[test]
    fn escape_sequences_of_foreign_text_do_not_reach_a_terminal() {
        assert_eq!(cut("a\u{1b}[2Jb".to_owned()), "a [2Jb");
        assert_eq!(cut("ä".repeat(600)).len(), 900);
    }
}
