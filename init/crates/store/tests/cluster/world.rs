//! Members in network namespaces of their own on a bridge, their clients in another: links between members are cut, one way or both, lose packets
//! and become slow, and clients still reach each member. Everything goes with the value.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::harness::Place;

/// The last part of the clients' address. Members have 1 and up, in a range of their own.
const CLIENTS: u8 = 100;
const MEMBERS: &str = "10.98.0.0/28";
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

static COUNT: AtomicU32 = AtomicU32::new(0);

pub(crate) struct World {
    name: String,
    members: u8,
}

/// Whether these tests can run. Without root they say so and pass, except where root was promised.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var_os("KEELSON_TESTS_ROOT").is_none(), "KEELSON_TESTS_ROOT promises root");
    if !root {
        println!("skipped: network namespaces need root");
    }
    root
}

fn address(last: u8) -> String {
    format!("10.98.0.{last}")
}

fn runs(line: &str) -> Result<(), String> {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

fn sh(line: &str) {
    runs(line).unwrap_or_else(|error| panic!("{line}: {error}"));
}

impl World {
    pub(crate) fn new(members: u8) -> Self {
        let name = format!("ks{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let world = Self { name, members };
        let bridge = &world.name;
        sh(&format!("ip netns add {bridge}"));
        sh(&format!("ip -n {bridge} link add br0 type bridge"));
        sh(&format!("ip -n {bridge} link set br0 up"));
        for last in world.all() {
            world.plug(last);
        }
        for member in 1..=members {
            world.at(member, "nft add table inet faults");
            world.at(member, "nft add chain inet faults input { type filter hook input priority 0 ; }");
        }
        world
    }

    fn all(&self) -> impl Iterator<Item = u8> + use<> {
        (1..=self.members).chain([CLIENTS])
    }

    fn namespace(&self, last: u8) -> String {
        format!("{}-{last}", self.name)
    }

    /// A namespace with a cable to the bridge.
    fn plug(&self, last: u8) {
        let (bridge, namespace) = (&self.name, self.namespace(last));
        sh(&format!("ip netns add {namespace}"));
        sh(&format!("ip link add eth0 netns {namespace} type veth peer name p{last} netns {bridge}"));
        sh(&format!("ip -n {bridge} link set p{last} master br0 up"));
        sh(&format!("ip -n {namespace} addr add {}/24 dev eth0", address(last)));
        for link in ["eth0", "lo"] {
            sh(&format!("ip -n {namespace} link set {link} up"));
        }
    }

    fn at(&self, last: u8, line: &str) {
        sh(&format!("ip netns exec {} {line}", self.namespace(last)));
    }

    /// One for each member, in the order of their numbers.
    pub(crate) fn places(&self) -> Vec<Place> {
        let place = |last| Place {
            host: address(last),
            client_port: CLIENT_PORT,
            peer_port: PEER_PORT,
            namespace: Some(self.namespace(last)),
        };
        (1..=self.members).map(place).collect()
    }

    pub(crate) fn client_address() -> String {
        address(CLIENTS)
    }

    /// Runs where the clients are: all that is connected or started in there is in their namespace.
    pub(crate) fn as_client<T: Send, F: Future<Output = T>>(&self, body: impl FnOnce() -> F + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.namespace(CLIENTS))).unwrap();
        let inside = move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body())
        };
        std::thread::scope(|scope| scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }

    /// What one member sends does not come to the other any more. The way back stays.
    pub(crate) fn cut(&self, from: usize, to: usize) {
        let rule = format!("nft add rule inet faults input ip saddr {} drop", address(last(from)));
        self.at(last(to), &rule);
    }

    /// Of what members send each other, so many of a hundred packets are lost.
    pub(crate) fn lose(&self, percent: u8) {
        for member in 1..=self.members {
            let rule =
                format!("nft add rule inet faults input ip saddr {MEMBERS} numgen random mod 100 < {percent} drop");
            self.at(member, &rule);
        }
    }

    /// All that a member sends takes its time.
    pub(crate) fn slow(&self, member: usize) {
        let namespace = self.namespace(last(member));
        let qdisc = |kind: &str| runs(&format!("ip netns exec {namespace} tc qdisc replace dev eth0 root {kind}"));
        // A kernel without delays has narrow links at least.
        if qdisc("netem delay 60ms 30ms").is_err() {
            qdisc("tbf rate 1mbit burst 16kb latency 400ms").unwrap();
        }
    }

    pub(crate) fn heal(&self) {
        for member in 1..=self.members {
            self.at(member, "nft flush chain inet faults input");
            // Most were not slow.
            drop(runs(&format!("ip netns exec {} tc qdisc del dev eth0 root", self.namespace(member))));
        }
    }
}

/// The last part of a member's address.
fn last(member: usize) -> u8 {
    u8::try_from(member + 1).unwrap()
}

impl Drop for World {
    fn drop(&mut self) {
        let namespaces = self.all().map(|last| self.namespace(last)).chain([self.name.clone()]);
        for namespace in namespaces {
            drop(runs(&format!("ip netns del {namespace}")));
        }
    }
}
