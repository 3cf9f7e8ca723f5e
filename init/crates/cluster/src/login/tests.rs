use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::message::tests::call;
use super::*;

const MANAGER: &str = "org.freedesktop.login1.Manager";

/// A client as kubelet's library behaves.
struct Kubelet {
    stream: UnixStream,
    serial: u32,
}

impl Kubelet {
    fn connect(seat: &Arc<Seat>) -> Self {
        let (stream, served) = UnixStream::pair().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        admit(served, Arc::clone(seat));
        let mut client = Self { stream, serial: 0 };
        client.stream.write_all(b"\0AUTH\r\n").unwrap();
        assert_eq!(client.line(), "REJECTED EXTERNAL");
        client.stream.write_all(b"AUTH EXTERNAL\r\n").unwrap();
        assert_eq!(client.line(), "DATA");
        client.stream.write_all(b"DATA\r\n").unwrap();
        assert!(client.line().starts_with("OK "));
        client.stream.write_all(b"NEGOTIATE_UNIX_FD\r\n").unwrap();
        assert_eq!(client.line(), "AGREE_UNIX_FD");
        client.stream.write_all(b"BEGIN\r\n").unwrap();
        let (reply, _) = client.call("org.freedesktop.DBus", "Hello", &[]);
        assert_eq!(reply[1], 2, "a reply");
        client
    }

    fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).unwrap();
            line.extend_from_slice(&byte);
        }
        String::from_utf8(line[..line.len() - 2].to_vec()).unwrap()
    }

    fn call(
        &mut self,
        interface: &'static str,
        member: &'static str,
        arguments: &[&str],
    ) -> (Vec<u8>, Option<OwnedFd>) {
        self.serial += 1;
        self.stream.write_all(&call(self.serial, interface, member, arguments)).unwrap();
        self.receive()
    }

    fn receive(&mut self) -> (Vec<u8>, Option<OwnedFd>) {
        let mut bytes = vec![0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received =
            rustix::net::recvmsg(&self.stream, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::empty())
                .unwrap();
        bytes.truncate(received.bytes);
        let descriptor = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        (bytes, descriptor)
    }

    fn inhibit(&mut self) -> OwnedFd {
        let (reply, lock) = self.call(MANAGER, "Inhibit", &["shutdown", "kubelet", "why", "delay"]);
        assert_eq!(reply[1], 2, "a reply");
        lock.expect("the lock is a descriptor")
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_shutdown_is_announced_and_waits_for_the_lock() {
    let seat = Arc::new(Seat::default());
    let mut kubelet = Kubelet::connect(&seat);
    let lock = kubelet.inhibit();
    kubelet.call("org.freedesktop.DBus", "AddMatch", &["type='signal'"]);
    let shutdown = std::thread::spawn({
        let seat = Arc::clone(&seat);
        move || seat.shut_down(Instant::now() + Duration::from_mins(1))
    });
    let (signal, _) = kubelet.receive();
    assert_eq!(signal[1], 4, "a signal");
    assert!(contains(&signal, "PrepareForShutdown") && contains(&signal, "/org/freedesktop/login1"));
    assert_eq!(signal.last_chunk::<4>(), Some(&1_u32.to_le_bytes()), "true");
    assert!(!shutdown.is_finished(), "the lock is held");
    drop(lock);
    shutdown.join().unwrap();
}

#[test]
fn a_lock_that_is_not_released_holds_no_longer_than_its_deadline() {
    let seat = Arc::new(Seat::default());
    let mut kubelet = Kubelet::connect(&seat);
    let _lock = kubelet.inhibit();
    let before = Instant::now();
    seat.shut_down(before + Duration::from_millis(50));
    assert!(before.elapsed() >= Duration::from_millis(50));
}

#[test]
fn without_a_lock_nothing_waits() {
    let seat = Arc::new(Seat::default());
    let _kubelet = Kubelet::connect(&seat);
    let before = Instant::now();
    seat.shut_down(before + Duration::from_mins(1));
    assert!(before.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_client_that_died_holds_nothing() {
    let seat = Arc::new(Seat::default());
    let mut kubelet = Kubelet::connect(&seat);
    let lock = kubelet.inhibit();
    drop(kubelet);
    drop(lock);
    seat.shut_down(Instant::now() + Duration::from_mins(1));
    assert!(seat.inhibitors.lock().unwrap().is_empty());
}

#[test]
fn the_delay_is_at_least_kubelets_grace_period() {
    let seat = Arc::new(Seat::default());
    let mut kubelet = Kubelet::connect(&seat);
    let (reply, _) = kubelet.call("org.freedesktop.DBus.Properties", "Get", &[MANAGER, "InhibitDelayMaxUSec"]);
    let delay = u64::from_le_bytes(*reply.last_chunk::<8>().unwrap());
    assert!(u128::from(delay) >= SHUTDOWN_GRACE.as_micros());
}

#[test]
fn a_client_may_name_itself_at_once_but_not_skip_the_question() {
    let seat = Arc::new(Seat::default());
    let greet = |lines: &[u8]| {
        let (mut stream, served) = UnixStream::pair().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        admit(served, Arc::clone(&seat));
        stream.write_all(lines).unwrap();
        let mut answer = [0; 3];
        stream.read_exact(&mut answer).unwrap();
        answer
    };
    assert_eq!(&greet(b"\0AUTH EXTERNAL 30\r\n"), b"OK ");
    assert_eq!(&greet(b"\0DATA\r\n"), b"ERR");
}

#[test]
fn what_logind_would_do_beyond_that_is_refused() {
    let seat = Arc::new(Seat::default());
    let mut kubelet = Kubelet::connect(&seat);
    let (reply, _) = kubelet.call(MANAGER, "Inhibit", &["shutdown", "x", "y", "block"]);
    assert!(reply[1] == 3 && contains(&reply, "NotSupported"));
    let (reply, _) = kubelet.call(MANAGER, "PowerOff", &[]);
    assert!(reply[1] == 3 && contains(&reply, "UnknownMethod"));
}

#[test]
fn locks_and_connections_are_bounded() {
    let seat = Arc::new(Seat::default());
    let mut kubelet = Kubelet::connect(&seat);
    let _locks: Vec<_> = (0..INHIBITORS_MAX).map(|_| kubelet.inhibit()).collect();
    let (reply, lock) = kubelet.call(MANAGER, "Inhibit", &["shutdown", "x", "y", "delay"]);
    assert!(reply[1] == 3 && contains(&reply, "LimitsExceeded") && lock.is_none());
}
