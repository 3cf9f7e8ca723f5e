use std::{
    io::{self, Write},
    os::{fd::BorrowedFd, unix::net::UnixStream},
};

use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType};

use super::*;
use crate::rings::{LIMITS, SERVICES_MAX};

/// PID 1's side, and what the reader's own thread would have.
struct Fixture {
    rings: Rings,
    pid1: OwnedFd,
    control: Option<OwnedFd>,
    stop: UnixStream,
    stop_end: UnixStream,
}

fn name(text: &str) -> ServiceName {
    ServiceName::try_from(text.to_owned()).expect("a valid name")
}

impl Fixture {
    fn new() -> Self {
        let (pid1, control) = seqpacket();
        let (stop, stop_end) = UnixStream::pair().expect("a pair of sockets");
        let rings = Rings::new(LIMITS);
        rings.register(&name("log")).expect("room for a service");
        Self { rings, pid1, control: Some(control), stop, stop_end }
    }

    fn reader(&mut self) -> Reader<'_> {
        let control = self.control.take().expect("one reader");
        let reader = Reader::new(&self.rings, name("log"), control, &self.stop_end).expect("a reader");
        // No turn waits for ever for what does not come.
        reader.with_heartbeat(Some(Heartbeat::every(Duration::from_millis(100))))
    }
}

fn seqpacket() -> (OwnedFd, OwnedFd) {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .expect("a pair of sockets")
}

fn send(pid1: &OwnedFd, packet: &str, descriptor: Option<BorrowedFd<'_>>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = descriptor.into_iter().collect();
    if !descriptors.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
    }
    rustix::net::sendmsg(pid1, &[io::IoSlice::new(packet.as_bytes())], &mut ancillary, SendFlags::empty())
        .expect("sent");
}

fn announce(pid1: &OwnedFd, service: &str, descriptor: &OwnedFd) {
    send(pid1, &format!(r#"{{"service":"{service}"}}"#), Some(descriptor.as_fd()));
}

fn texts(rings: &Rings, service: &str) -> Vec<String> {
    let chunk = rings.read(&name(service), 0);
    chunk.lines.iter().map(|line| line.split_once(' ').expect("a time and a text").1.to_owned()).collect()
}

/// Lets the reader work until the service has as many lines.
fn turn_until(reader: &mut Reader<'_>, service: &str, count: usize) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let lines = texts(reader.rings, service);
        if lines.len() >= count {
            return lines;
        }
        assert!(Instant::now() < deadline, "{service} has only {lines:?}");
        reader.turn().expect("a turn");
    }
}

fn write(pipe: &OwnedFd, bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = rustix::io::write(pipe, rest).expect("written");
        rest = &rest[written..];
    }
}

#[test]
fn a_reader_without_input_turns_to_say_that_it_lives() {
    let mut fixture = Fixture::new();
    let interval = Duration::from_millis(50);
    let mut reader = fixture.reader().with_heartbeat(Some(Heartbeat::every(interval)));
    let begun = Instant::now();
    for _ in 0..4 {
        assert_eq!(reader.turn().expect("a turn"), Turn::Continue);
    }
    // The first one is due at once.
    assert!(begun.elapsed() >= 3 * interval, "{:?}", begun.elapsed());
}

#[test]
fn reads_each_service_into_its_own_ring() {
    let mut fixture = Fixture::new();
    let pid1 = fixture.pid1.try_clone().expect("a duplicate");
    let mut reader = fixture.reader();
    let (a_read, a) = rustix::pipe::pipe().expect("a pipe");
    let (b_read, b) = rustix::pipe::pipe().expect("a pipe");
    announce(&pid1, "a", &a_read);
    announce(&pid1, "b", &b_read);
    write(&a, b"from a\n");
    write(&b, b"from b\nmore\n");
    assert_eq!(turn_until(&mut reader, "a", 1), ["from a"]);
    assert_eq!(turn_until(&mut reader, "b", 2), ["from b", "more"]);
}

#[test]
fn shows_the_beginning_of_a_line_that_never_ends() {
    let mut fixture = Fixture::new();
    let pid1 = fixture.pid1.try_clone().expect("a duplicate");
    let mut reader = fixture.reader();
    let (read, pipe) = rustix::pipe::pipe().expect("a pipe");
    announce(&pid1, "a", &read);
    write(&pipe, b"killed in the mid");
    let begin = Instant::now();
    assert_eq!(turn_until(&mut reader, "a", 1), ["killed in the mid"]);
    assert!(begin.elapsed() >= PARTIAL_LINE_WAIT);
}

#[test]
fn a_service_that_floods_does_not_silence_another() {
    let mut fixture = Fixture::new();
    let pid1 = fixture.pid1.try_clone().expect("a duplicate");
    let mut reader = fixture.reader();
    let (flood_read, flood) = rustix::pipe::pipe().expect("a pipe");
    let (quiet_read, quiet) = rustix::pipe::pipe().expect("a pipe");
    announce(&pid1, "flood", &flood_read);
    announce(&pid1, "quiet", &quiet_read);
    let ended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flooding = {
        let ended = std::sync::Arc::clone(&ended);
        std::thread::spawn(move || {
            let lines = "a line of a flood\n".repeat(1000);
            while !ended.load(std::sync::atomic::Ordering::Acquire) {
                if rustix::io::write(&flood, lines.as_bytes()).is_err() {
                    return;
                }
            }
        })
    };
    turn_until(&mut reader, "flood", 1000);
    write(&quiet, b"a word\n");
    assert_eq!(turn_until(&mut reader, "quiet", 1), ["a word"]);
    assert!(reader.rings.bytes() <= LIMITS.total);
    ended.store(true, std::sync::atomic::Ordering::Release);
    while !flooding.is_finished() {
        reader.turn().expect("a turn");
    }
    flooding.join().expect("the flood ends");
}

#[test]
fn a_source_that_is_sent_again_replaces_the_old_one() {
    let mut fixture = Fixture::new();
    let pid1 = fixture.pid1.try_clone().expect("a duplicate");
    let mut reader = fixture.reader();
    let (read, pipe) = rustix::pipe::pipe().expect("a pipe");
    announce(&pid1, "a", &read);
    write(&pipe, b"one\n");
    turn_until(&mut reader, "a", 1);
    announce(&pid1, "a", &read);
    write(&pipe, b"two\n");
    turn_until(&mut reader, "a", 2);
    let (other_read, other) = rustix::pipe::pipe().expect("a pipe");
    announce(&pid1, "a", &other_read);
    write(&other, b"three\n");
    assert_eq!(turn_until(&mut reader, "a", 3), ["one", "two", "three"]);
    assert_eq!(reader.sources.len(), 1);
}

#[test]
fn a_restart_loses_nothing_that_is_in_the_pipes() {
    let (read, pipe) = rustix::pipe::pipe().expect("a pipe");
    for line in ["before\n", "between\n"] {
        let mut fixture = Fixture::new();
        let pid1 = fixture.pid1.try_clone().expect("a duplicate");
        let mut reader = fixture.reader();
        announce(&pid1, "a", &read);
        if line == "before\n" {
            write(&pipe, b"before\n");
        }
        assert_eq!(turn_until(&mut reader, "a", 1), [line.trim_end()]);
        // The reader ends here; the service goes on writing while there is none.
        drop(reader);
        write(&pipe, b"between\n");
    }
}

#[test]
fn reads_what_is_left_when_it_is_told_to_stop() {
    let mut fixture = Fixture::new();
    let pid1 = fixture.pid1.try_clone().expect("a duplicate");
    let mut stop = fixture.stop.try_clone().expect("a duplicate");
    let mut reader = fixture.reader();
    let (read, pipe) = rustix::pipe::pipe().expect("a pipe");
    announce(&pid1, "a", &read);
    write(&pipe, b"one\n");
    turn_until(&mut reader, "a", 1);
    stop.write_all(b"!").expect("told");
    write(&pipe, b"two\nthr");
    reader.run().expect("ends in order");
    assert_eq!(texts(reader.rings, "a"), ["one", "two", "thr"]);
}

#[test]
fn empties_a_large_pipe_before_it_stops() {
    let mut fixture = Fixture::new();
    let pid1 = fixture.pid1.try_clone().expect("a duplicate");
    let mut stop = fixture.stop.try_clone().expect("a duplicate");
    let mut reader = fixture.reader();
    let (read, pipe) = rustix::pipe::pipe().expect("a pipe");
    rustix::pipe::fcntl_setpipe_size(&pipe, 256 * 1024).expect("a larger pipe");
    announce(&pid1, "a", &read);
    write(&pipe, b"begin\n");
    turn_until(&mut reader, "a", 1);
    write(&pipe, &vec![b'x'; 200 * 1024]);
    write(&pipe, b"\nend\n");
    stop.write_all(b"!").expect("told");
    reader.run().expect("ends in order");
    let tail = reader.rings.tail(&name("a"), 1).expect("a known service");
    let last = reader.rings.read(&name("a"), tail.from).lines;
    assert!(last.len() == 1 && last[0].ends_with(" end"), "the pipe was not read to its end");
}

#[test]
fn takes_the_kernels_records_one_a_read() {
    let mut fixture = Fixture::new();
    let pid1 = fixture.pid1.try_clone().expect("a duplicate");
    let mut reader = fixture.reader();
    // Like /dev/kmsg, such a socket gives one record a read.
    let (kernel, kernel_end) = seqpacket();
    announce(&pid1, "kernel", &kernel_end);
    for record in ["6,1,1500000,-;Linux version\n", "not a record", "3,2,1600000,-;failed\n KEY=value\n"] {
        write(&kernel, record.as_bytes());
    }
    let lines = turn_until(&mut reader, "kernel", 2);
    assert_eq!(lines, ["info: [    1.500000] Linux version", "error: [    1.600000] failed"]);
}

#[test]
fn says_what_it_cannot_read_and_goes_on() {
    let mut fixture = Fixture::new();
    let pid1 = fixture.pid1.try_clone().expect("a duplicate");
    let mut reader = fixture.reader();
    let (read, pipe) = rustix::pipe::pipe().expect("a pipe");
    let file: OwnedFd = tempfile::tempfile().expect("a file").into();
    send(&pid1, "nonsense", None);
    send(&pid1, r#"{"service":"../a"}"#, Some(read.as_fd()));
    send(&pid1, r#"{"service":"lonely"}"#, None);
    // epoll(7) takes no regular file.
    announce(&pid1, "file", &file);
    announce(&pid1, "a", &read);
    write(&pipe, b"fine\n");
    assert_eq!(turn_until(&mut reader, "a", 1), ["fine"]);
    let said = texts(reader.rings, "log").join("\n");
    for part in ["something else", "../a", "lonely without a pipe", "output of file is not read"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
}

#[test]
fn more_services_than_there_is_room_for_are_refused_aloud() {
    let mut fixture = Fixture::new();
    let pid1 = fixture.pid1.try_clone().expect("a duplicate");
    let mut reader = fixture.reader();
    for number in 0..SERVICES_MAX {
        let (read, _) = rustix::pipe::pipe().expect("a pipe");
        announce(&pid1, &format!("s{number}"), &read);
    }
    let said = turn_until(&mut reader, "log", 1);
    assert!(said[0].contains("output of s63 is not read"), "{said:?}");
}

#[test]
fn ends_when_pid_1_is_gone() {
    let mut fixture = Fixture::new();
    let pid1 = std::mem::replace(&mut fixture.pid1, tempfile::tempfile().expect("a file").into());
    let mut reader = fixture.reader();
    drop(pid1);
    assert!(matches!(reader.run(), Err(ReadError::Closed)));
}
