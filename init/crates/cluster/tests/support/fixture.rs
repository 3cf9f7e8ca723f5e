//! A node's API in this process: the real server, certificates, configuration and logs, with fakes in the place of PID 1
//! and Kubernetes. keelctl's end-to-end test includes this file too.
#![allow(dead_code, reason = "neither of the tests that include this file needs all of it")]

use std::{
    collections::BTreeSet,
    fmt, fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration as StdDuration, Instant},
};

use keelson_api::{Condition, ConditionStatus, DrainStep, DrainingPod, Node as ApiNode, NodeList};
use keelson_cluster::{
    ConditionKind, Member, Node, Paths,
    api_server::{self, Answer as NodeAnswer, Endpoints, NodeSource, NodeSourceError},
    features::{dns::Deployed, pod_network},
    membership::{self, Decision},
    registry::{
        Answer, Backend, Change, Entry, Glance, LeaseId, MemberChange, MemberError, NodeRecord, Registry,
        RegistryError, Removal, Revision, StoreMember, VirtualAddressRecord,
    },
};
use keelson_config::{ClusterConfig, Inputs, Remembered, Role, network_state::NetworkState, pod_routes::PodRoutes};
use keelson_control::{
    BootDetails, BootPhase, BootRecord, ErrorKind, ExitReason, LastExit, PACKET_MAX, Packet, Request, Response,
    ServiceName, ServiceState, ServiceStatus, SupervisorStatus, codec,
};
use keelson_log::{
    files::{Directory, ROTATION},
    rings::{LIMITS, Rings},
    serve::{self, Server},
    service::ServiceName as LogName,
    timestamp::Timestamp,
    writer::Writer,
};
use keelson_pki::{Authority, AuthorityKind, Clock, Names, Pair, Profile, StandardFiles, Subject};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use time::{Duration, OffsetDateTime};

#[path = "../../src/registry/memory.rs"]
#[expect(dead_code, reason = "no test of this program moves the clock of leases")]
mod memory;

/// The boot that the fake /proc tells of.
pub(crate) const BOOT_ID: &str = "11111111-2222-3333-4444-555555555555";

/// The operator's name in the node's configuration.
pub(crate) const OPERATOR: &str = "ann";

/// For the API server to listen once there is a cluster.
const START_LIMIT: StdDuration = StdDuration::from_secs(30);

pub(crate) struct Fixture {
    pub(crate) node: Arc<Node>,
    pub(crate) address: SocketAddr,
    pub(crate) socket: PathBuf,
    pub(crate) kubernetes: Arc<FakeKubernetes>,
    /// The cluster's records, in memory.
    pub(crate) registry: Arc<Registry>,
    /// What was asked of PID 1 but for questions.
    pub(crate) orders: Arc<Mutex<Vec<Request>>>,
    logs: Arc<Rings>,
    root: tempfile::TempDir,
}

impl Fixture {
    /// A node that has founded its cluster and accepts the operator key (base64 of its `SubjectPublicKeyInfo`).
    pub(crate) fn start(operator_key: &str) -> Self {
        let fixture = Self::start_without_cluster(operator_key);
        fixture.found_cluster();
        fixture
    }

    /// A node as it is before it has a cluster.
    pub(crate) fn start_without_cluster(operator_key: &str) -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let paths = Paths::below(root.path());
        for directory in ["state/pki", "proc/sys/kernel/random"] {
            fs::create_dir_all(root.path().join(directory)).expect("a directory");
        }
        for service in ["cluster", "log", "proxy"] {
            fs::create_dir_all(paths.service(service)).expect("a directory");
        }
        fs::write(root.path().join("proc/sys/kernel/random/boot_id"), format!("{BOOT_ID}\n")).expect("written");
        let words = format!(
            "keelson.role=control-plane keelson.name=first keelson.bootstrap keelson.peers=none \
             keelson.operator-key={OPERATOR}:{operator_key}"
        );
        let inputs = Inputs { command_line: words.into_bytes(), ..Inputs::default() };
        let config = keelson_config::resolve(&inputs, &Remembered::default()).expect("a valid configuration").node;
        let floor = OffsetDateTime::now_utc() - Duration::DAY;
        let node = Arc::new(Node::new(paths, config, "first".to_owned(), floor));
        node.set_network(NetworkState {
            node_addresses: vec![Ipv4Addr::new(192, 0, 2, 10).into()],
            ..NetworkState::default()
        });

        let orders = Arc::new(Mutex::new(Vec::new()));
        start_pid1(&node.paths.control_socket(), Arc::clone(&orders));
        let logs = start_log(&node.paths.log_socket(), &root.path().join("log"));
        start_proxy(&node.paths.proxy_feed());
        let kubernetes = Arc::new(FakeKubernetes::default());
        let endpoints = Endpoints { tcp: free_address(), unix: node.paths.own().join("api.sock") };
        let (address, socket) = (endpoints.tcp, endpoints.unix.clone());
        start_server(Arc::clone(&node), Arc::clone(&kubernetes), endpoints);
        let registry = Arc::new(Registry::new(Arc::new(memory::Memory::default())));
        Self { node, address, socket, kubernetes, registry, orders, logs, root }
    }

    /// From its return on the API answers over TLS.
    pub(crate) fn found_cluster(&self) {
        let node = &self.node;
        let decision = membership::decide(&StandardFiles, &node.paths, &node.config, node.name(), node.clock());
        let Decision::Member(founded) = decision.expect("a decision") else { panic!("the node founded no cluster") };
        let held = founded.control_plane().expect("it holds everything");
        let serving = serving(held.authorities.get(AuthorityKind::Api), node.clock());
        let member = Member::new(Arc::new(*founded), Arc::new(serving));
        node.set_member(Arc::new(member.with_registry(Arc::clone(&self.registry))));
        let deadline = Instant::now() + START_LIMIT;
        while let Err(error) = TcpStream::connect(self.address) {
            assert!(Instant::now() < deadline, "the API does not listen on {}: {error}", self.address);
            thread::park_timeout(StdDuration::from_millis(5));
        }
    }

    /// A member as a join would have made it.
    pub(crate) fn add_worker(&self, name: &str) {
        self.add_member(name, Role::Worker);
    }

    /// Somebody has removed it at another control plane.
    pub(crate) fn remove_member(&self, name: &str) {
        self.commit(Change::default().delete::<NodeRecord>(name));
    }

    /// The node has its part of the cluster's own network, or has none any more.
    pub(crate) fn apply_pod_network(&self, enabled: bool) {
        let paths = &self.node.paths;
        let ranges = pod_network::first_ranges(self.node.cluster().pod_cidr).expect("room for a node");
        let wish = PodRoutes { own: if enabled { ranges.clone() } else { Vec::new() }, ..PodRoutes::default() };
        fs::write(paths.pod_routes(), serde_json::to_vec(&wish).expect("JSON")).expect("written");
        if enabled {
            pod_network::configure(&StandardFiles, paths, &ranges, None).expect("written");
        } else {
            pod_network::remove(&StandardFiles, paths).expect("removed");
        }
    }

    pub(crate) fn add_member(&self, name: &str, role: Role) {
        let record = NodeRecord {
            version: 1,
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
            role,
            addresses: Vec::new(),
            key: None,
            hardware: None,
            signing_key: None,
            token: None,
            joined: 0,
            generations: None,
        };
        self.commit(Change::default().put(&record).expect("a record"));
    }

    /// The cluster has a virtual address, and a control plane of that name has it, if one has.
    pub(crate) fn give_virtual_address(&self, address: IpAddr, holder: Option<&str>) {
        let mut cluster = ClusterConfig::clone(&self.node.cluster());
        cluster.virtual_address = Some(address);
        self.node.set_cluster(cluster);
        let id = address.to_string();
        let member = self.member();
        let own = &member.identity;
        let change = match holder {
            Some(name) => {
                let uid = if name == own.name { own.node_uid.as_str().to_owned() } else { format!("uid-of-{name}") };
                let record =
                    VirtualAddressRecord { version: 1, address: id, name: name.to_owned(), uid, lease: LeaseId(1) };
                Change::default().put(&record).expect("a record")
            }
            None => Change::default().delete::<VirtualAddressRecord>(&id),
        };
        self.commit(change);
    }

    /// Also within a test's own runtime.
    fn commit(&self, change: Change) {
        let commit = async {
            assert!(self.registry.commit(change).await.expect("written"));
            self.registry.refresh().await.expect("read");
        };
        let on_another_thread = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(commit);
        };
        thread::scope(|scope| scope.spawn(on_another_thread).join().expect("no panic"));
    }

    /// From here on the server's certificate is a worker's.
    pub(crate) fn serve_as_worker(&self) {
        let member = self.member();
        let authority = member.authority(AuthorityKind::Api).expect("a control plane");
        let serving = serving_as(authority, self.node.clock(), keelson_api::WORKERS);
        member.set_api_serving(Arc::new(serving));
    }

    pub(crate) fn member(&self) -> Arc<Member> {
        self.node.member_now().expect("the node has a cluster")
    }

    pub(crate) fn fingerprint(&self) -> String {
        self.member().authority(AuthorityKind::Api).expect("a control plane").fingerprint().to_string()
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("https://{}", self.address)
    }

    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    /// STATE has the kernel's last messages at the end of a boot.
    pub(crate) fn keep_messages(&self, number: u64, text: &str) {
        fs::create_dir_all(self.node.paths.boots()).expect("a directory");
        fs::write(self.node.paths.boots().join(format!("{number:08}.kmsg")), text).expect("written");
    }

    /// STATE has a file of what the kernel saved when it died.
    pub(crate) fn keep_saved(&self, number: u64, name: &str, content: &[u8]) {
        let directory = self.node.paths.boots().join(format!("{number:08}.pstore"));
        fs::create_dir_all(&directory).expect("a directory");
        fs::write(directory.join(name), content).expect("written");
    }

    /// Puts a line into a service's log.
    pub(crate) fn log(&self, service: &str, text: &str) {
        let service = LogName::try_from(service.to_owned()).expect("a service's name");
        self.logs.register(&service).expect("room for a service");
        self.logs.append(&service, [(Timestamp::now(), text.to_owned())]);
    }

    /// All that the node needs to say that it is ready.
    pub(crate) fn be_ready(&self) {
        for kind in ConditionKind::ALL {
            self.node.status.holds(kind, "fine");
        }
    }
}

/// A certificate that a control plane's API serves with.
pub(crate) fn serving(authority: &Authority, clock: Clock) -> Pair {
    serving_as(authority, clock, keelson_api::CONTROL_PLANES)
}

fn serving_as(authority: &Authority, clock: Clock, organization: &str) -> Pair {
    let subject = Subject::named("first").organization(organization);
    authority.issue(&Profile::server(subject, Names::loopback()), clock).expect("a certificate")
}

/// An address on which nothing listens yet; the server binds it a moment later.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address")
}

/// Runs until the test's process ends.
fn start_server(node: Arc<Node>, kubernetes: Arc<FakeKubernetes>, endpoints: Endpoints) {
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(api_server::serve(node, kubernetes, endpoints, |message| eprintln!("server: {message}")));
    });
}

fn start_log(socket: &Path, directory: &Path) -> Arc<Rings> {
    let rings = Arc::new(Rings::new(LIMITS));
    let own = LogName::try_from("log".to_owned()).expect("a service's name");
    rings.register(&own).expect("room for a service");
    let listener = serve::listen(socket).expect("a socket");
    let server = Server { rings: Arc::clone(&rings), directory: directory.to_path_buf(), rotation: ROTATION };
    thread::spawn(move || server.run(&listener));
    let (writing, storage) = (Arc::clone(&rings), Directory::new(directory, ROTATION));
    thread::spawn(move || Writer::new(&writing, storage, own).run());
    rings
}

/// Says on the socket of the node's proxy what one says that knows a ready API server and one that is not.
fn start_proxy(path: &Path) {
    let listener = UnixListener::bind(path).expect("a socket");
    let endpoint = |address: &str, local: bool, state: &str, reason: &str| {
        serde_json::json!({
            "address": address, "local": local, "state": state, "reason": reason, "round_trip_milliseconds": 4,
            "connections": 12, "connections_total": 99, "bytes_up": 2_000, "bytes_down": 5_000_000,
            "evictions": u8::from(!local),
        })
    };
    let unwell = "/readyz answers 500 etcd failed: reason withheld";
    let endpoints =
        [endpoint("127.0.0.1:6443", true, "ready", ""), endpoint("192.0.2.11:6443", false, "not-ready", unwell)];
    let answer = serde_json::json!({ "status": { "version": 7, "waiting": 2, "endpoints": endpoints } });
    thread::spawn(move || {
        for mut stream in listener.incoming().map(|stream| stream.expect("a connection")) {
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).expect("a request");
            assert_eq!(request.trim_end(), r#"{"status":{}}"#);
            writeln!(stream, "{answer}").expect("answered");
        }
    });
}

/// Answers on the control socket as PID 1 does, one connection after the other.
fn start_pid1(path: &Path, orders: Arc<Mutex<Vec<Request>>>) {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .expect("a socket");
    rustix::net::bind(&socket, &SocketAddrUnix::new(path).expect("a path")).expect("bound");
    rustix::net::listen(&socket, 8).expect("listening");
    thread::spawn(move || {
        while let Ok(connection) = rustix::net::accept(&socket) {
            let mut buffer = vec![0; PACKET_MAX];
            while let Ok(Some(packet)) = codec::receive(&connection, &mut buffer) {
                let answer = answer(packet.decode().expect("a request"), &orders);
                codec::send(&connection, &Packet::Response(answer), None).expect("sent");
            }
        }
    });
}

fn answer(request: Request, orders: &Mutex<Vec<Request>>) -> Response {
    match request {
        Request::Hello { versions, .. } => Response::Hello { version: versions.max },
        Request::List {} => Response::Status(SupervisorStatus {
            set_version: 1,
            shutting_down: None,
            services: vec![
                ServiceStatus { pid: Some(std::process::id()), ..service("containerd", ServiceState::Ready) },
                ServiceStatus {
                    waiting_for: Some("/run/keelson/cluster/apiserver-ready to exist".to_owned()),
                    ..service("kubelet", ServiceState::Waiting)
                },
                ServiceStatus {
                    restarts: 3,
                    last_exit: Some(LastExit { reason: ExitReason::Signaled(9), milliseconds_ago: 2000 }),
                    ..service("kube-proxy", ServiceState::Backoff)
                },
            ],
        }),
        Request::Boots {} => Response::Boots { boots: boots().into() },
        Request::Boot { number } => match boots().into_iter().find(|boot| boot.number == number) {
            Some(boot) => Response::Boot(details(boot)),
            None => Response::Error { kind: ErrorKind::UnknownBoot, message: format!("there is no boot {number}") },
        },
        order => {
            orders.lock().expect("no panic before").push(order);
            Response::Done {}
        }
    }
}

fn service(name: &str, state: ServiceState) -> ServiceStatus {
    ServiceStatus {
        in_state_milliseconds: 5000,
        memory_bytes: Some(1 << 20),
        cpu_microseconds: Some(1_500_000),
        ..ServiceStatus::new(ServiceName::new(name).expect("a service's name"), state)
    }
}

fn boots() -> [BootRecord; 2] {
    [boot(1, "earlier", 1000, Some("rebooted")), boot(2, BOOT_ID, 2000, None)]
}

fn details(boot: BootRecord) -> BootDetails {
    let phase = |name: &str, start_milliseconds, milliseconds| BootPhase {
        name: name.to_owned(),
        start_milliseconds,
        milliseconds,
    };
    let phases = vec![phase("disks", 1_205, 340), phase("services", 2_071, 0)];
    BootDetails { boot, image: "ab".repeat(32), phases }
}

fn boot(number: u64, id: &str, started: u64, ended: Option<&str>) -> BootRecord {
    BootRecord {
        number,
        boot_id: id.to_owned(),
        version: "0.1.0".to_owned(),
        started_unix_seconds: started,
        good: true,
        ended: ended.map(str::to_owned),
        ended_unix_seconds: ended.map(|_| started + 500),
        phase: "services".to_owned(),
        up_seconds: 500,
        ..BootRecord::default()
    }
}

/// Kubernetes with one node, or down.
#[derive(Default)]
pub(crate) struct FakeKubernetes {
    pub(crate) down: AtomicBool,
    /// What was asked of it but for lists.
    pub(crate) orders: Mutex<Vec<String>>,
    cordoned: Mutex<BTreeSet<String>>,
    /// Members whose kubelet has not registered them.
    pub(crate) unregistered: Mutex<BTreeSet<String>>,
    /// Replicas of the cluster's DNS, wanted and ready.
    pub(crate) dns: Mutex<Option<(u64, u64)>>,
    /// To whom it is told to forward, if operators have said that.
    pub(crate) upstream: Mutex<Option<Vec<IpAddr>>>,
}

impl fmt::Debug for FakeKubernetes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("FakeKubernetes")
    }
}

impl FakeKubernetes {
    fn answer<T: Send + 'static>(&self, value: T) -> NodeAnswer<'_, T> {
        let down = self.down.load(Ordering::Acquire);
        Box::pin(async move {
            if down { Err(NodeSourceError::Unavailable("connection refused".to_owned())) } else { Ok(value) }
        })
    }

    fn order(&self, order: String) -> NodeAnswer<'_, ()> {
        self.orders.lock().expect("no panic before").push(order);
        self.answer(())
    }
}

impl NodeSource for FakeKubernetes {
    fn nodes(&self) -> NodeAnswer<'_, NodeList> {
        let cordoned = self.cordoned.lock().expect("no panic before");
        let cordoned = cordoned.iter().map(|name| ApiNode { name: name.clone(), ..node() });
        self.answer(NodeList { nodes: std::iter::once(node()).chain(cordoned).collect() })
    }

    fn set_unschedulable<'a>(&'a self, name: &'a str, unschedulable: bool) -> NodeAnswer<'a, bool> {
        if self.unregistered.lock().expect("no panic before").contains(name) {
            return Box::pin(async { Err(NodeSourceError::NotFound) });
        }
        let mut cordoned = self.cordoned.lock().expect("no panic before");
        let is_news = if unschedulable { cordoned.insert(name.to_owned()) } else { cordoned.remove(name) };
        if is_news {
            let order = format!("{} {name}", if unschedulable { "cordon" } else { "uncordon" });
            self.orders.lock().expect("no panic before").push(order);
        }
        self.answer(is_news)
    }

    /// The first step leaves a pod, the next none.
    fn drain<'a>(&'a self, name: &'a str) -> NodeAnswer<'a, DrainStep> {
        let mut orders = self.orders.lock().expect("no panic before");
        let order = format!("drain {name}");
        let remaining = if orders.contains(&order) {
            Vec::new()
        } else {
            vec![DrainingPod { pod: "default/a".to_owned(), reason: "it is ending".to_owned() }]
        };
        orders.push(order);
        drop(orders);
        self.answer(DrainStep { name: name.to_owned(), remaining })
    }

    fn dns(&self) -> NodeAnswer<'_, Option<Deployed>> {
        let upstream = self.upstream.lock().expect("no panic before").clone();
        let deployed = self.dns.lock().expect("no panic before").map(|(replicas, ready)| Deployed {
            replicas,
            ready,
            is_change_pending: false,
            is_upstream_said: upstream.is_some(),
            upstream,
        });
        self.answer(deployed)
    }

    fn clean<'a>(&'a self, name: &'a str) -> NodeAnswer<'a, ()> {
        self.order(format!("clean {name}"))
    }
}

fn node() -> ApiNode {
    ApiNode {
        name: "first".to_owned(),
        role: "control-plane".to_owned(),
        ready: false,
        unschedulable: true,
        addresses: vec!["192.0.2.10".to_owned()],
        virtual_address: None,
        kubelet_version: "v1.37.2".to_owned(),
        created: Some("2026-11-24T08:00:00Z".to_owned()),
        conditions: vec![Condition {
            kind: "Ready".to_owned(),
            status: ConditionStatus::False,
            reason: "the network plugin is not ready".to_owned(),
            since: None,
        }],
    }
}
