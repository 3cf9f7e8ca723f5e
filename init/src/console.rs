//! What PID 1 says: to the kernel's log, and to whoever looks at a console.
//!
//! Nothing here waits. A terminal is opened and written without blocking; what it does not take is kept in a small buffer,
//! and when that is full whole lines are dropped and their number is said as soon as the terminal takes bytes again. A
//! serial port that nobody reads, or that does not exist, therefore costs nothing (Talos #9210: minutes).
//!
//! A virtual terminal (a screen) shows the overview as long as services run, drawn anew when it has changed; a serial port shows lines, and the
//! overview once for whoever presses Enter there.
//!
//! PID 1 lowers the kernel's console level and writes its own lines to the terminals itself, so a line is not shown twice, and
//! is not printed by printk's own, busy-waiting way.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use keelson_sys::clock;
use rustix::termios;

use crate::screen::Size;

/// Bytes kept for a terminal that is slower than we are: a whole boot's lines fit.
const PENDING_BYTES: usize = 8 * 1024;

/// kernel.printk (proc(5)): what is graver than a warning goes to the console, the rest is as by default.
const KERNEL_LEVELS: &str = "4 4 1 7";

/// The longest line; what exceeds it is cut. /dev/kmsg takes 992 bytes with its prefix (`LOG_LINE_MAX`).
const LINE_BYTES: usize = 900;

/// `console_codes(4)`: cursor to the top left; and with everything erased.
const HOME: &[u8] = b"\x1b[H";
const CLEAR: &[u8] = b"\x1b[2J\x1b[H";

/// How many warnings and errors the overview has.
const TROUBLES_MAX: usize = 5;

/// How often a screen is drawn although nothing changed: the kernel may have written across it.
const REDRAW_INTERVAL: Duration = Duration::from_secs(30);

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
    /// Screens have lines too, and the overview no more.
    off_screen: bool,
    /// The last warnings and errors.
    troubles: VecDeque<String>,
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
        if severity != Severity::Info {
            self.troubles.truncate(TROUBLES_MAX - 1);
            self.troubles.push_front(line.clone());
        }
        for terminal in self.terminals.iter_mut().filter(|terminal| terminal.drawn.is_empty()) {
            terminal.push(&line);
        }
    }

    /// Whether there is a screen, or somebody has pressed Enter on a terminal without one.
    pub(crate) fn is_watched(&mut self) -> bool {
        for terminal in &mut self.terminals {
            terminal.listen();
        }
        self.terminals.iter().any(|terminal| terminal.asked || terminal.is_screen)
    }

    /// Shows the overview that `compose` makes for a size, with the last warnings and errors, the newest first: on screens, and where it was
    /// asked for.
    pub(crate) fn show(&mut self, compose: impl Fn(Size, &VecDeque<String>) -> Vec<String>) {
        let now = clock::since_boot();
        for terminal in &mut self.terminals {
            let asked = std::mem::take(&mut terminal.asked);
            if terminal.is_screen && !self.off_screen {
                terminal.draw(&compose(terminal.size(), &self.troubles), now);
            } else if asked {
                for line in compose(Size::UNBOUNDED, &self.troubles) {
                    terminal.push(&cut(line));
                }
            }
        }
    }

    /// From here on every terminal has lines.
    pub(crate) fn leave_screen(&mut self) {
        if !std::mem::replace(&mut self.off_screen, true) {
            self.terminals.iter_mut().for_each(Terminal::clear);
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
    /// A virtual terminal, whose text can be drawn over.
    is_screen: bool,
    /// The overview as it was drawn last, and when; empty if the screen has lines.
    drawn: Vec<String>,
    drawn_at: Duration,
    /// Somebody has pressed Enter.
    asked: bool,
}

impl Terminal<File> {
    fn open(name: &str) -> io::Result<Self> {
        // Without O_NONBLOCK the open of a serial port may wait for a carrier; with O_NOCTTY it never becomes ours.
        let path = format!("/dev/{name}");
        let device = OpenOptions::new().read(true).write(true).custom_flags(libc_flags()).open(path)?;
        Ok(Self { is_screen: is_virtual(name), ..Self::new(device) })
    }

    fn size(&self) -> Size {
        match termios::tcgetwinsize(&self.device) {
            Ok(size) if size.ws_row > 0 && size.ws_col > 0 => {
                Size { rows: size.ws_row.into(), columns: size.ws_col.into() }
            }
            _ => Size::default(),
        }
    }
}

/// `tty1` is a screen with a keyboard, `ttyS0` a wire.
fn is_virtual(name: &str) -> bool {
    name.strip_prefix("tty").is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit()))
}

impl<D: Read> Terminal<D> {
    /// Takes what was typed, and notes that somebody asks for the overview.
    fn listen(&mut self) {
        // A terminal gives a line at a time, and nothing before its end (`termios(3)`, canonical mode). One that always has
        // something to read is not a person.
        let mut typed = [0; 256];
        if matches!(self.device.read(&mut typed), Ok(1..)) {
            self.asked = true;
        }
    }
}

fn libc_flags() -> i32 {
    // Both values fit: they are the kernel's own ints.
    i32::try_from((rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY).bits()).unwrap_or_default()
}

impl<W: Write> Terminal<W> {
    fn new(device: W) -> Self {
        Self {
            device,
            pending: Vec::new(),
            dropped: 0,
            is_screen: false,
            drawn: Vec::new(),
            drawn_at: Duration::ZERO,
            asked: false,
        }
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

    /// Draws over what the screen shows, unless it shows this already or has not taken the last picture yet.
    fn draw(&mut self, lines: &[String], now: Duration) {
        self.drain();
        let is_fresh = now.saturating_sub(self.drawn_at) < REDRAW_INTERVAL;
        if (self.drawn == lines && is_fresh) || !self.pending.is_empty() {
            return;
        }
        // `console_codes(4)`: home; each line over the old one, the rest of it erased; then the rest of the screen. The first
        // picture also takes away the lines of the boot.
        self.pending.extend_from_slice(if self.drawn.is_empty() { CLEAR } else { HOME });
        for line in lines {
            self.pending.extend_from_slice(cut(line.clone()).as_bytes());
            self.pending.extend_from_slice(b"\x1b[K\r\n");
        }
        self.pending.extend_from_slice(b"\x1b[J");
        self.drawn = lines.to_vec();
        self.drawn_at = now;
        self.drain();
    }

    /// Takes a drawn picture away.
    fn clear(&mut self) {
        if !self.drawn.is_empty() {
            self.drawn.clear();
            self.pending.extend_from_slice(CLEAR);
            self.drain();
        }
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
    fn screen_is_drawn_when_it_changes_and_now_and_then() {
        let mut screen = Terminal::new(Port { room: usize::MAX, ..Port::default() });
        let drawn = |screen: &mut Terminal<Port>| String::from_utf8(std::mem::take(&mut screen.device.taken)).unwrap();
        let picture = ["one".to_owned(), "two\u{1b}[2J".to_owned()];
        screen.draw(&picture, Duration::ZERO);
        assert_eq!(drawn(&mut screen), "\x1b[2J\x1b[Hone\x1b[K\r\ntwo [2J\x1b[K\r\n\x1b[J");
        screen.draw(&picture, Duration::from_secs(1));
        assert_eq!(drawn(&mut screen), "");
        screen.draw(&picture, REDRAW_INTERVAL);
        assert!(drawn(&mut screen).starts_with("\x1b[Hone"));
        screen.draw(&picture[..1], REDRAW_INTERVAL);
        assert_eq!(drawn(&mut screen), "\x1b[Hone\x1b[K\r\n\x1b[J");
        screen.clear();
        screen.push("a line");
        assert_eq!(drawn(&mut screen), "\x1b[2J\x1b[Ha line\n");
    }

    #[test]
    fn screen_that_takes_nothing_keeps_one_picture_at_most() {
        let mut screen = Terminal::new(Port::default());
        for count in 0..1000 {
            screen.draw(&[count.to_string()], Duration::ZERO);
        }
        assert!(screen.pending.len() < 100);
    }

    #[test]
    fn enter_is_a_question_and_answered_once() {
        let mut terminal = Terminal::new(io::Cursor::new(b"\n".to_vec()));
        terminal.listen();
        assert!(std::mem::take(&mut terminal.asked));
        terminal.listen();
        assert!(!terminal.asked);
    }

    #[test]
    fn virtual_terminals_are_screens_and_wires_are_not() {
        assert!(is_virtual("tty0") && is_virtual("tty1"));
        assert!(!is_virtual("ttyS0") && !is_virtual("hvc0") && !is_virtual("ttyAMA0"));
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
