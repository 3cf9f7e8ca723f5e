//! Queries against the whole of keelson-log but its `main`: pipes in, files and answers out.

use std::{
    io::{BufRead, BufReader, IoSlice, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    files::{Directory, Rotation},
    query::{ERROR_PREFIX, Query},
    reader::Reader,
    rings::{Limits, Rings},
    serve::{self, QUERIES_MAX, Server},
    service::ServiceName,
    writer::Writer,
};
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType};

const ROTATION: Rotation = Rotation { file_bytes: 2000, files: 4 };

/// Small enough that most of a test's lines are only in the files.
const LIMITS: Limits = Limits { per_service: 2000, total: 20_000 };

/// Longer than any of it takes, so that a failure is told apart from a slow machine.
const DEADLINE: Duration = Duration::from_secs(20);

fn name(text: &str) -> ServiceName {
    ServiceName::try_from(text.to_owned()).expect("a valid name")
}

/// A running keelson-log.
struct Running {
    rings: Arc<Rings>,
    pid1: OwnedFd,
    stop: UnixStream,
    socket: PathBuf,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    fn start(directory: &Path) -> Self {
        let rings = Arc::new(Rings::new(LIMITS));
        rings.register(&name("log")).expect("room for a service");
        let (pid1, control) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .expect("a pair of sockets");
        let (stop, stop_end) = UnixStream::pair().expect("a pair of sockets");
        let logs = directory.join("logs");
        let socket = directory.join("log.sock");

        let reading = Arc::clone(&rings);
        let reader = thread::spawn(move || {
            let mut reader = Reader::new(&reading, name("log"), control, &stop_end).expect("a reader");
            reader.run().expect("ends in order");
        });
        let writing = Arc::clone(&rings);
        let storage = Directory::new(&logs, ROTATION);
        let writer = thread::spawn(move || Writer::new(&writing, storage, name("log")).run());
        let listener = serve::listen(&socket).expect("a socket");
        let server = Server { rings: Arc::clone(&rings), directory: logs, rotation: ROTATION };
        // Answers until the test's process ends.
        thread::spawn(move || server.run(&listener));
        Self { rings, pid1, stop, socket, threads: vec![reader, writer] }
    }

    fn announce(&self, service: &str, pipe: &OwnedFd) {
        let packet = format!(r#"{{"service":"{service}"}}"#);
        let descriptors = [pipe.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let parts = [IoSlice::new(packet.as_bytes())];
        rustix::net::sendmsg(&self.pid1, &parts, &mut ancillary, SendFlags::empty()).expect("sent");
    }

    fn stop(mut self) {
        self.stop.write_all(b"!").expect("told to stop");
        let writer = self.threads.pop().expect("the writer");
        self.threads.pop().expect("the reader").join().expect("the reader ends");
        self.rings.close();
        writer.join().expect("the writer ends");
    }

    fn query(&self, service: &str, lines: u32, follow: bool) -> UnixStream {
        let query = Query { service: service.to_owned(), lines, follow };
        let stream = query.send(&self.socket).expect("sent");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream
    }

    /// The texts of the answer's lines.
    fn answer(&self, service: &str, lines: u32) -> Vec<String> {
        let mut text = String::new();
        self.query(service, lines, false).read_to_string(&mut text).expect("an answer");
        text.lines().map(text_of).collect()
    }

    /// The answer once its last line is `last`.
    fn answer_ending_with(&self, service: &str, lines: u32, last: &str) -> Vec<String> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let answer = self.answer(service, lines);
            if answer.last().is_some_and(|line| line == last) {
                return answer;
            }
            assert!(Instant::now() < deadline, "waited for {last:?}, have {answer:?}");
        }
    }
}

fn text_of(line: &str) -> String {
    if line.starts_with(ERROR_PREFIX) {
        return line.to_owned();
    }
    let (time, text) = line.split_once(' ').expect("a time and a text");
    assert!(time.len() == 27 && time.ends_with('Z'), "no time at the head of {line:?}");
    text.to_owned()
}

fn wait_for_file(path: &Path, last: &str) {
    let deadline = Instant::now() + DEADLINE;
    while !std::fs::read_to_string(path).is_ok_and(|text| text.trim_end().ends_with(last)) {
        assert!(Instant::now() < deadline, "{} does not end with {last:?}", path.display());
        thread::yield_now();
    }
}

fn write(pipe: &OwnedFd, text: &str) {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let written = rustix::io::write(pipe, rest).expect("written");
        rest = &rest[written..];
    }
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| format!("line {number}")).collect()
}

/// keelson-log, and the writing end of the output of service "a".
fn running_with_a_service(directory: &Path) -> (Running, OwnedFd) {
    let log = Running::start(directory);
    let (read, pipe) = rustix::pipe::pipe().expect("a pipe");
    log.announce("a", &read);
    (log, pipe)
}

#[test]
fn a_tail_joins_files_and_memory_without_a_seam() {
    let directory = tempfile::tempdir().expect("a directory");
    let (log, pipe) = running_with_a_service(directory.path());
    // Lines are asked for while they are written and rotated; each answer must be a run of numbers without gap or repeat.
    for end in 1..=200 {
        write(&pipe, &format!("line {}\n", end - 1));
        let lines = log.answer_ending_with("a", 60, &format!("line {}", end - 1));
        let first = end - u32::try_from(lines.len()).expect("a small number");
        assert_eq!(lines, numbers(first..end));
        assert!(lines.len() == 60.min(end as usize), "{} of {end} lines", lines.len());
        // A machine on which the writer does not get to run would have real gaps: memory holds some twenty lines.
        if end % 10 == 0 {
            wait_for_file(&directory.path().join("logs/a.log"), &lines[lines.len() - 1]);
        }
    }
    log.stop();
}

#[test]
fn old_lines_survive_a_restart_and_new_ones_follow_them() {
    let directory = tempfile::tempdir().expect("a directory");
    let (read, pipe) = rustix::pipe::pipe().expect("a pipe");
    let log = Running::start(directory.path());
    log.announce("a", &read);
    write(&pipe, "line 0\nline 1\n");
    log.answer_ending_with("a", 9, "line 1");
    log.stop();

    write(&pipe, "line 2\n");
    let log = Running::start(directory.path());
    assert_eq!(log.answer("a", 9), numbers(0..2), "from the files, before PID 1 has sent the pipe again");
    log.announce("a", &read);
    write(&pipe, "line 3\n");
    assert_eq!(log.answer_ending_with("a", 9, "line 3"), numbers(0..4));
    assert_eq!(log.answer("a", 1), numbers(3..4));
    log.stop();
}

#[test]
fn a_follower_gets_the_tail_and_then_each_line_as_it_comes() {
    let directory = tempfile::tempdir().expect("a directory");
    let (log, pipe) = running_with_a_service(directory.path());
    write(&pipe, "line 0\nline 1\nline 2\n");
    log.answer_ending_with("a", 9, "line 2");
    let mut lines = BufReader::new(log.query("a", 2, true)).lines().map(|line| text_of(&line.expect("a line")));
    assert_eq!(lines.next().as_deref(), Some("line 1"));
    assert_eq!(lines.next().as_deref(), Some("line 2"));
    for number in 3..6 {
        write(&pipe, &format!("line {number}\n"));
        assert_eq!(lines.next(), Some(format!("line {number}")));
    }
    // When keelson-log ends, so does the stream.
    log.stop();
    assert_eq!(lines.next(), None);
}

#[test]
fn what_cannot_be_answered_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = Running::start(directory.path());
    for service in ["nothing", "../logs/a", ""] {
        assert_eq!(log.answer(service, 1), [format!("{ERROR_PREFIX}there is no service {service:?}")]);
    }
    for query in ["nonsense\n", "{\"service\":\"log\",\"more\":1}\n", "{}\n", &"x".repeat(5000)] {
        let mut stream = UnixStream::connect(&log.socket).expect("connected");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream.write_all(query.as_bytes()).expect("sent");
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer).expect("an answer");
        assert!(answer.starts_with("error: the query is not a line of JSON"), "{query:.20?}: {answer:?}");
    }
    log.stop();
}

#[test]
fn a_reader_that_does_not_read_holds_up_nobody() {
    let directory = tempfile::tempdir().expect("a directory");
    let (log, pipe) = running_with_a_service(directory.path());
    write(&pipe, "line 0\n");
    log.answer_ending_with("a", 9, "line 0");
    let slow = log.query("a", 9, true);
    let padding = "x".repeat(200);
    for number in 1..20_000 {
        write(&pipe, &format!("line {number} {padding}\n"));
    }
    write(&pipe, "the end\n");
    assert_eq!(log.answer_ending_with("a", 1, "the end"), ["the end"]);
    // Whoever reads late is told of the gap, and then gets the newest lines.
    let mut gaps = 0;
    for line in BufReader::new(slow).lines().map_while(Result::ok) {
        gaps += usize::from(line.contains(" lines are missing here"));
        if line.ends_with(" the end") {
            break;
        }
    }
    assert!(gaps > 0, "no gap was reported");
    log.stop();
}

#[test]
fn the_number_of_queries_is_bounded_and_those_that_leave_make_room() {
    let directory = tempfile::tempdir().expect("a directory");
    let (log, pipe) = running_with_a_service(directory.path());
    write(&pipe, "line 0\n");
    log.answer_ending_with("a", 9, "line 0");
    let followers: Vec<_> = (0..QUERIES_MAX)
        .map(|_| {
            let mut lines = BufReader::new(log.query("a", 1, true)).lines();
            assert!(lines.next().is_some_and(|line| line.is_ok()));
            lines
        })
        .collect();
    let busy = log.answer("a", 1);
    assert!(busy.len() == 1 && busy[0].ends_with("queries are being answered already"), "{busy:?}");
    drop(followers);
    log.answer_ending_with("a", 1, "line 0");
    log.stop();
}
