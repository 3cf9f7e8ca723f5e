//! From the bytes that a service writes to lines a person can read.
//!
//! - A line ends at a line feed; a carriage return before it is dropped.
//! - A line longer than [`LINE_BYTES_MAX`] is cut into pieces; a piece that is not the last ends with [`CUT`], one that is
//!   not the first begins with it. A character is never cut in two.
//! - Control characters other than the tab, and bytes that are not UTF-8, appear as `\x1b` and the like: a log must not
//!   steer the terminal of whoever reads it. Backslashes stay as they are, for services that write JSON; the escaping is
//!   made for reading and cannot be undone.
//! - The beginning of a line that is not continued for a while is given out by [`LineSplitter::flush`]: PID 1 holds the
//!   writing end of the pipe too, so the death of a service in the middle of a line shows no end of file.

use std::fmt::Write;

/// The longest piece of a line, in bytes as the service wrote them. Kubernetes cuts container logs at the same length.
pub const LINE_BYTES_MAX: usize = 16 * 1024;

/// The mark on the cut sides of a long line's pieces.
pub const CUT: char = '…';

/// Collects bytes until they are lines.
#[derive(Debug, Default)]
pub struct LineSplitter {
    partial: Vec<u8>,
    /// Whether `partial` goes on with a line whose beginning was given out already.
    continued: bool,
}

impl LineSplitter {
    /// Takes what was read and hands on each line, or piece of one, that it completes.
    pub fn push(&mut self, mut bytes: &[u8], mut emit: impl FnMut(String)) {
        while !bytes.is_empty() {
            let (taken, rest, ended) = match bytes.iter().position(|byte| *byte == b'\n') {
                Some(end) => (bytes.get(..end), bytes.get(end + 1..), true),
                None => (Some(bytes), None, false),
            };
            self.extend(taken.unwrap_or_default(), &mut emit);
            if ended {
                if self.partial.last() == Some(&b'\r') {
                    self.partial.pop();
                }
                emit(self.take(self.partial.len(), false));
            }
            bytes = rest.unwrap_or_default();
        }
    }

    /// Whether the beginning of a line waits for its end.
    pub fn is_partial(&self) -> bool {
        !self.partial.is_empty() || self.continued
    }

    /// Gives out the beginning of a line without waiting for its end.
    pub fn flush(&mut self) -> Option<String> {
        (!self.partial.is_empty()).then(|| self.take(self.partial.len(), false))
    }

    fn extend(&mut self, bytes: &[u8], emit: &mut impl FnMut(String)) {
        let mut rest = bytes;
        // A full piece is given out only when more of its line follows, so that the last piece is never empty.
        while self.partial.len() + rest.len() > LINE_BYTES_MAX {
            let room = LINE_BYTES_MAX.saturating_sub(self.partial.len());
            let (head, tail) = rest.split_at(room.min(rest.len()));
            self.partial.extend_from_slice(head);
            rest = tail;
            emit(self.take(character_boundary(&self.partial), true));
        }
        self.partial.extend_from_slice(rest);
    }

    /// The first `length` bytes as a line; what is behind them stays.
    fn take(&mut self, length: usize, cut: bool) -> String {
        let mut line = String::with_capacity(length + 2 * CUT.len_utf8());
        if self.continued {
            line.push(CUT);
        }
        escape_into(&mut line, self.partial.get(..length).unwrap_or(&self.partial));
        if cut {
            line.push(CUT);
        }
        self.partial.drain(..length.min(self.partial.len()));
        self.continued = cut;
        line
    }
}

/// Where to cut so that no character is cut in two: at the end, or before an incomplete UTF-8 sequence that stands there.
fn character_boundary(bytes: &[u8]) -> usize {
    let length = bytes.len();
    for (back, byte) in bytes.iter().rev().take(3).enumerate() {
        let sequence = match byte {
            0x00..=0x7f => return length,
            0x80..=0xbf => continue,
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xff => 4,
        };
        return if back + 1 < sequence { length - back - 1 } else { length };
    }
    length
}

/// Appends `bytes` with everything escaped that is not printable text.
fn escape_into(line: &mut String, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() && character != '\t' {
                escape(line, u32::from(character));
            } else {
                line.push(character);
            }
        }
        for byte in chunk.invalid() {
            escape(line, u32::from(*byte));
        }
    }
}

fn escape(line: &mut String, code: u32) {
    // Writing to a String cannot fail.
    let _ = write!(line, "\\x{code:02x}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(chunks: &[&[u8]]) -> (Vec<String>, Option<String>) {
        let mut splitter = LineSplitter::default();
        let mut lines = Vec::new();
        for chunk in chunks {
            splitter.push(chunk, |line| lines.push(line));
        }
        (lines, splitter.flush())
    }

    #[test]
    fn joins_reads_and_splits_at_line_feeds() {
        let (lines, rest) = lines_of(&[b"on", b"e\ntwo\r\n\nthr", b"ee"]);
        assert_eq!(lines, ["one", "two", ""]);
        assert_eq!(rest.as_deref(), Some("three"));
    }

    #[test]
    fn escapes_control_characters_and_foreign_bytes() {
        let (lines, _) = lines_of(&[b"a\x1b[31mb\tc\x00\xff\xc3\xa4\\n\xc2\x85\n"]);
        assert_eq!(lines, ["a\\x1b[31mb\tc\\x00\\xff\u{e4}\\n\\x85"]);
    }

    #[test]
    fn cuts_long_lines_and_marks_both_sides() {
        let long = vec![b'x'; LINE_BYTES_MAX + 10];
        let (lines, rest) = lines_of(&[&long, b"yz\nnext\n"]);
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0], format!("{}{CUT}", "x".repeat(LINE_BYTES_MAX)));
        assert_eq!(lines[1], format!("{CUT}{}yz", "x".repeat(10)));
        assert_eq!(lines[2], "next");
        assert_eq!(rest, None);
    }

    #[test]
    fn a_line_of_exactly_the_bound_is_not_cut() {
        let mut line = vec![b'x'; LINE_BYTES_MAX];
        line.push(b'\n');
        let (lines, rest) = lines_of(&[&line]);
        assert_eq!(lines, ["x".repeat(LINE_BYTES_MAX)]);
        assert_eq!(rest, None);
    }

    #[test]
    fn never_cuts_a_character_in_two() {
        let mut long = vec![b'x'; LINE_BYTES_MAX - 1];
        long.extend_from_slice("ä€🙂 and more\n".as_bytes());
        let (lines, _) = lines_of(&[&long]);
        assert!(lines.iter().all(|line| !line.contains("\\x")), "a character was cut: {:?}", lines[1]);
        assert_eq!(lines[1], format!("{CUT}ä€🙂 and more"));
    }

    #[test]
    fn what_is_held_back_is_bounded_whatever_is_written() {
        let mut splitter = LineSplitter::default();
        let mut pieces = 0;
        for _ in 0..100 {
            splitter.push(&[0xf0; 5000], |_| pieces += 1);
            assert!(splitter.partial.len() <= LINE_BYTES_MAX);
        }
        assert!(pieces >= 29);
    }

    #[test]
    fn flushes_a_beginning_once() {
        let mut splitter = LineSplitter::default();
        splitter.push(b"Killed in the mid", |_| panic!("no line ended"));
        assert!(splitter.is_partial());
        assert_eq!(splitter.flush().as_deref(), Some("Killed in the mid"));
        assert!(!splitter.is_partial());
        assert_eq!(splitter.flush(), None);
    }
}
