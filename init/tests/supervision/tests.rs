//! What supervision promises, each with real processes.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use keelson_control::{
    Account, Capabilities, Capability, ClientError, Condition, ErrorKind, Event, ExitReason, PACKET_MAX, Packet,
    Readiness, Response, RestartPolicy, ServiceKind, ServiceSet, ServiceSpec, ServiceState, ShutdownKind, codec,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::supervised::{DEADLINE, Supervised, eventually, name, shell};

pub(crate) type Test = (&'static str, fn());

macro_rules! tests {
    ($($test:ident,)*) => {
        pub(crate) const ALL: &[Test] = &[$((stringify!($test), $test),)*];
    };
}

tests! {
    restarts_a_crashed_service_with_growing_delays,
    a_killed_service_is_back_at_once,
    gives_a_program_that_does_not_exist_a_reason,
    kills_what_ignores_sigterm_at_its_deadline,
    stops_descendants_that_left_the_main_process,
    works_without_cgroups,
    reaps_orphans_in_any_number,
    restarts_leave_nothing_behind,
    a_service_is_ready_when_it_says_so,
    a_notification_counts_for_its_sender_only,
    a_service_is_ready_when_its_socket_answers,
    starts_wait_for_files_sockets_and_services_and_say_so,
    one_shots_run_once_and_open_the_way,
    a_set_adds_changes_and_removes,
    refuses_sets_and_orders_that_make_no_sense,
    refuses_packets_that_are_none_and_clients_without_a_hello,
    tells_all_of_a_boot_that_it_knows_and_marks_the_present_one,
    an_unhealthy_service_is_restarted_with_the_reason,
    a_service_that_no_longer_says_that_it_lives_is_killed,
    subscribers_see_every_state,
    a_subscriber_that_does_not_read_is_dropped,
    children_get_their_environment_and_nothing_else,
    limits_of_a_child_are_set,
    a_child_has_its_account_and_its_capabilities_and_no_others,
    a_child_that_may_gain_nothing_has_its_system_calls_filtered,
    a_shutdown_waits_for_inhibitors_and_stops_in_order,
    ctrl_alt_del_reboots_in_order_and_the_second_time_at_once,
    ctrl_alt_del_in_anothers_shutdown_says_so_before_it_forces,
    a_log_service_gets_every_pipe_again_after_its_restart,
    a_service_outlives_the_absence_of_its_log,
    lines_of_the_console_file_are_shown,
}

fn restarts_a_crashed_service_with_growing_delays() {
    let supervised = Supervised::start(|_| vec![shell("crash", "exit 3")]);
    let status = supervised.until("crash", "restarted four times", |status| status.restarts >= 4);
    assert_eq!(status.last_exit.unwrap().reason, ExitReason::Exited(3));
    let output = supervised.output();
    let delays: Vec<f64> = output
        .lines()
        .filter_map(|line| line.split_once("exited with status 3, restarting in ")?.1.split(' ').next()?.parse().ok())
        .collect();
    // Jitter is a fifth either way, so the second next delay is always longer.
    assert!(delays.windows(3).all(|delays| delays[0] < delays[2]), "{delays:?}\n{output}");
    assert!(delays[0] < 0.2, "{delays:?}");
}

fn a_killed_service_is_back_at_once() {
    let supervised = Supervised::start(|_| vec![shell("sleeper", "exec sleep 1000")]);
    let first = supervised.until_state("sleeper", ServiceState::Ready);
    let killed = Instant::now();
    kill(first.pid.unwrap());
    let second = supervised
        .until("sleeper", "ready again", |status| status.state == ServiceState::Ready && status.pid != first.pid);
    // Its delay is 0.1 s; the rest is the machine's business.
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
    assert_eq!(second.last_exit.unwrap().reason, ExitReason::Signaled(9));
    assert!(supervised.output().contains("sleeper: was killed by SIGKILL, restarting in 0."));
}

fn gives_a_program_that_does_not_exist_a_reason() {
    let missing = ServiceSpec { program: "/nonexistent".into(), restart: RestartPolicy::Never, ..shell("missing", "") };
    let supervised = Supervised::start(|_| vec![missing]);
    let status = supervised.until_state("missing", ServiceState::Failed);
    let reason = status.reason.unwrap();
    assert!(reason.contains("cannot execute /nonexistent: No such file or directory"), "{reason}");
    assert!(matches!(status.last_exit.unwrap().reason, ExitReason::NotExecuted(_)));
}

fn kills_what_ignores_sigterm_at_its_deadline() {
    let stubborn = ServiceSpec {
        timeout_stop_seconds: 1,
        ..shell("stubborn", "trap '' TERM; echo > $0.up; while :; do sleep 1000; done")
    };
    let supervised = Supervised::start(|_| vec![stubborn]);
    let pid = supervised.until_state("stubborn", ServiceState::Ready).pid.unwrap();
    // Ready means executed; the shell sets its trap a moment later.
    eventually("SIGTERM is ignored", || ignores_sigterm(pid).then_some(()));
    let asked = Instant::now();
    supervised.client().stop(&name("stubborn")).unwrap();
    let status = supervised.until_state("stubborn", ServiceState::Stopped);
    assert!(asked.elapsed() >= Duration::from_secs(1));
    assert_eq!(status.last_exit.unwrap().reason, ExitReason::Signaled(9));
}

fn stops_descendants_that_left_the_main_process() {
    stops_descendants(&Supervised::start(parent));
}

fn works_without_cgroups() {
    let supervised = Supervised::start_without_cgroups(parent);
    let first = supervised.until_state("parent", ServiceState::Ready);
    kill(first.pid.unwrap());
    supervised.until("parent", "ready again", |status| status.state == ServiceState::Ready && status.pid != first.pid);
    stops_descendants(&supervised);
}

fn parent(directory: &Path) -> Vec<ServiceSpec> {
    let file = directory.join("descendant");
    let script = format!("sleep 1001 & echo $! > {0}.new; mv {0}.new {0}; exec sleep 1002", file.display());
    vec![shell("parent", &script)]
}

fn stops_descendants(supervised: &Supervised) {
    let descendant = eventually("the descendant runs", || fs::read_to_string(supervised.path("descendant")).ok());
    let descendant: u32 = descendant.trim().parse().unwrap();
    supervised.client().stop(&name("parent")).unwrap();
    supervised.until_state("parent", ServiceState::Stopped);
    assert!(!is_alive(descendant), "stopped although {descendant} runs");
}

/// `KEELSON_ORPHANS=10000` is a storm; an ordinary run has a gust.
fn reaps_orphans_in_any_number() {
    let count: u32 = std::env::var("KEELSON_ORPHANS").ok().and_then(|text| text.parse().ok()).unwrap_or(400);
    // Each inner shell ends at once and leaves its child to the supervisor.
    let script =
        format!("i=0; while [ $i -lt {count} ]; do sh -c 'sleep 0.2 & exit' & i=$((i+1)); done; wait; exec sleep 1000");
    let supervised = Supervised::start(|_| vec![shell("breeder", &script)]);
    supervised.until_said("breeder: ready");
    eventually("orphans were seen", || (children_of(supervised.pid()).len() > 1).then_some(()));
    let pid = supervised.until_state("breeder", ServiceState::Ready).pid.unwrap();
    eventually("all orphans are reaped", || (children_of(supervised.pid()) == [pid]).then_some(()));
    assert_eq!(supervised.status("breeder").restarts, 0);
}

/// `KEELSON_RESTARTS=1000` is a long run.
fn restarts_leave_nothing_behind() {
    let count: u32 = std::env::var("KEELSON_RESTARTS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let supervised = Supervised::start(|_| vec![shell("sleeper", "exec sleep 1000")]);
    let held = || {
        let of = format!("/proc/{}", supervised.pid());
        let status = fs::read_to_string(format!("{of}/status")).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        let kibibytes: u64 = memory.trim().trim_end_matches(" kB").parse().unwrap();
        (kibibytes, fs::read_dir(format!("{of}/fd")).unwrap().count())
    };
    let (mut pid, mut early) = (None, (0, 0));
    for round in 0..count {
        let ready = supervised.until("sleeper", "ready again", |it| it.state == ServiceState::Ready && it.pid != pid);
        pid = ready.pid;
        if round == count / 3 {
            early = held();
        }
        supervised.client().restart(&name("sleeper"), "once more").unwrap();
    }
    supervised.until("sleeper", "ready again", |it| it.state == ServiceState::Ready && it.pid != pid);
    let late = held();
    println!("KiB and descriptors after {} and {count} restarts: {early:?} and {late:?}", count / 3);
    assert!(late.0 <= early.0 + 64 && late.1 <= early.1 + 1, "{early:?} became {late:?}");
}

/// Tells the supervisor that the sender is ready: there is no systemd-notify in every shell, but a socket in perl. It stays:
/// a sender that is gone when its message is read cannot be told to belong to a service.
fn notify_script() -> &'static str {
    "perl -MSocket -e 'socket(S, PF_UNIX, SOCK_DGRAM, 0); send(S, \"READY=1\", 0, sockaddr_un($ENV{NOTIFY_SOCKET})) or die $!; sleep 1000'"
}

fn a_service_is_ready_when_it_says_so() {
    let supervised = Supervised::start(|directory| {
        let gate = directory.join("gate");
        let script = format!("while [ ! -e {} ]; do sleep 0.05; done; {}", gate.display(), notify_script());
        vec![ServiceSpec { readiness: Readiness::Notify, ..shell("notifier", &script) }]
    });
    let status = supervised.until("notifier", "running", |status| status.pid.is_some());
    assert_eq!(status.state, ServiceState::Starting);
    fs::write(supervised.path("gate"), "").unwrap();
    supervised.until_state("notifier", ServiceState::Ready);
}

fn a_notification_counts_for_its_sender_only() {
    let supervised = Supervised::start(|_| {
        let waits = ServiceSpec { readiness: Readiness::Notify, ..shell("waits", "exec sleep 1000") };
        let other = ServiceSpec { readiness: Readiness::Notify, ..shell("other", notify_script()) };
        vec![waits, other]
    });
    // From a process of no service.
    let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
    socket.send_to(b"READY=1", supervised.path("notify")).unwrap();
    supervised.until_state("other", ServiceState::Ready);
    assert_eq!(supervised.status("waits").state, ServiceState::Starting);
}

fn a_service_is_ready_when_its_socket_answers() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let supervised = Supervised::start(|directory| {
        let unix = directory.join("answering.sock");
        vec![
            ServiceSpec { readiness: Readiness::Socket(unix), ..shell("unix", "exec sleep 1000") },
            ServiceSpec { readiness: Readiness::Tcp(address), ..shell("tcp", "exec sleep 1000") },
        ]
    });
    supervised.until_state("tcp", ServiceState::Ready);
    assert_eq!(supervised.status("unix").state, ServiceState::Starting);
    let _listener = std::os::unix::net::UnixListener::bind(supervised.path("answering.sock")).unwrap();
    supervised.until_state("unix", ServiceState::Ready);
}

fn starts_wait_for_files_sockets_and_services_and_say_so() {
    let supervised = Supervised::start(|directory| {
        let file = Condition::FileExists(directory.join("deep/inside/file"));
        let ready = Condition::ServiceReady(name("first"));
        vec![
            ServiceSpec { conditions: vec![file], ..shell("first", "exec sleep 1000") },
            ServiceSpec { conditions: vec![ready], ..shell("second", "exec sleep 1000") },
        ]
    });
    let first = supervised.until_state("first", ServiceState::Waiting);
    let file = supervised.path("deep/inside/file");
    assert_eq!(first.waiting_for.unwrap(), format!("file {}", file.display()));
    assert_eq!(supervised.status("second").waiting_for.unwrap(), "service first");
    supervised.until_said(&format!("first: waiting for file {} since 5", file.display()));
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "").unwrap();
    supervised.until_state("second", ServiceState::Ready);
    assert_eq!(supervised.status("first").state, ServiceState::Ready);
}

fn one_shots_run_once_and_open_the_way() {
    let supervised = Supervised::start(|directory| {
        let script = format!("echo run >> {}", directory.join("runs").display());
        let once = ServiceSpec { kind: ServiceKind::OneShot, ..shell("once", &script) };
        let after = ServiceSpec {
            conditions: vec![Condition::ServiceReady(name("once"))],
            ..shell("after", "exec sleep 1000")
        };
        vec![after, once]
    });
    supervised.until_state("after", ServiceState::Ready);
    assert_eq!(supervised.status("once").state, ServiceState::Done);
    assert_eq!(fs::read_to_string(supervised.path("runs")).unwrap(), "run\n");
}

fn a_set_adds_changes_and_removes() {
    let supervised = Supervised::start(|_| vec![shell("static", "exec sleep 1000")]);
    let mut client = supervised.client();
    let set = |version, services| ServiceSet { version, services };
    let applied =
        client.apply_set(&set(1, vec![shell("a", "exec sleep 1000"), shell("b", "exec sleep 1000")])).unwrap();
    assert_eq!(applied.added, [name("a"), name("b")]);
    let a = supervised.until_state("a", ServiceState::Ready);
    let b = supervised.until_state("b", ServiceState::Ready);
    let fixed = supervised.until_state("static", ServiceState::Ready);

    let changed = ServiceSpec { revision: "2".into(), ..shell("b", "exec sleep 1000") };
    let applied =
        client.apply_set(&set(2, vec![shell("a", "exec sleep 1000"), changed, shell("c", "exec sleep 1000")])).unwrap();
    assert_eq!((applied.added, applied.changed, applied.removed), (vec![name("c")], vec![name("b")], vec![]));
    supervised.until("b", "another process", |status| status.state == ServiceState::Ready && status.pid != b.pid);
    assert_eq!(supervised.status("a").pid, a.pid);

    client.apply_set(&set(3, Vec::new())).unwrap();
    eventually("only the static service is left", || (client.list().unwrap().services.len() == 1).then_some(()));
    assert_eq!(supervised.status("static").pid, fixed.pid);
    assert!(!is_alive(a.pid.unwrap()));
    assert_eq!(client.list().unwrap().set_version, 3);
    let kept: ServiceSet = serde_json::from_slice(&fs::read(supervised.path("set")).unwrap()).unwrap();
    assert_eq!(kept.version, 3);
}

fn refuses_sets_and_orders_that_make_no_sense() {
    let supervised = Supervised::start(|_| vec![shell("static", "exec sleep 1000")]);
    let mut client = supervised.client();
    let refused = |result: Result<_, ClientError>| match result {
        Err(ClientError::Refused { kind, message }) => (kind, message),
        other => panic!("{other:?}"),
    };
    let clash = ServiceSet { version: 1, services: vec![shell("static", ""), shell("a", ""), shell("a", "")] };
    let (kind, message) = refused(client.apply_set(&clash).map(drop));
    assert_eq!(kind, ErrorKind::InvalidSet);
    assert_eq!(message.lines().count(), 2, "{message}");
    assert_eq!(refused(client.stop(&name("ghost"))).0, ErrorKind::UnknownService);
    client.apply_set(&ServiceSet { version: 5, services: Vec::new() }).unwrap();
    let old = client.apply_set(&ServiceSet { version: 4, services: Vec::new() });
    assert_eq!(refused(old.map(drop)).0, ErrorKind::StaleSet);
    // The connection survives all of that.
    assert_eq!(client.list().unwrap().set_version, 5);
}

fn refuses_packets_that_are_none_and_clients_without_a_hello() {
    let supervised = Supervised::start(|_| Vec::new());
    let socket =
        rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::SEQPACKET, None).unwrap();
    let address = rustix::net::SocketAddrUnix::new(supervised.path("init.sock")).unwrap();
    rustix::net::connect(&socket, &address).unwrap();
    let mut buffer = vec![0; PACKET_MAX];
    let mut ask = |bytes: &[u8]| {
        rustix::net::send(&socket, bytes, rustix::net::SendFlags::empty()).unwrap();
        match codec::receive(&socket, &mut buffer).unwrap().unwrap().decode::<Packet>().unwrap() {
            Packet::Response(Response::Error { kind, .. }) => Err(kind),
            Packet::Response(response) => Ok(response),
            Packet::Event(event) => panic!("{event:?}"),
        }
    };
    assert_eq!(ask(br#"{"list":{}}"#), Err(ErrorKind::Version));
    assert_eq!(ask(b"\xff\x00"), Err(ErrorKind::Malformed));
    assert_eq!(ask(br#"{"list":{},"stop":{}}"#), Err(ErrorKind::Malformed));
    assert_eq!(ask(&vec![b' '; PACKET_MAX + 1]), Err(ErrorKind::Malformed));
    assert_eq!(ask(br#"{"hello":{"versions":{"min":7,"max":9},"client":"future"}}"#), Err(ErrorKind::Version));
    assert_eq!(ask(br#"{"hello":{"versions":{"min":1,"max":9},"client":"us"}}"#), Ok(Response::Hello { version: 1 }));
    assert_eq!(ask(br#"{"apply-set":{}}"#), Err(ErrorKind::Malformed), "no set came with it");
    assert!(matches!(ask(br#"{"list":{}}"#), Ok(Response::Status(_))));
}

fn tells_all_of_a_boot_that_it_knows_and_marks_the_present_one() {
    let supervised = Supervised::start(|_| Vec::new());
    let mut client = supervised.client();
    let details = client.boot(7).unwrap();
    assert_eq!((details.boot.number, details.image), (7, "ab".repeat(32)));
    assert_eq!((details.phases[0].name.as_str(), details.phases[0].milliseconds), ("disks", 7));
    let unknown = client.boot(9).unwrap_err();
    assert!(matches!(unknown, ClientError::Refused { kind: ErrorKind::UnknownBoot, .. }), "{unknown:?}");
    client.mark_boot_good().unwrap();
    let good: Vec<_> = client.boots().unwrap().into_iter().map(|boot| (boot.number, boot.good)).collect();
    assert_eq!(good, [(7, false), (8, true)]);
    assert!(client.boot(8).unwrap().boot.good);
}

fn an_unhealthy_service_is_restarted_with_the_reason() {
    let supervised = Supervised::start(|_| vec![shell("sick", "exec sleep 1000")]);
    let before = supervised.until_state("sick", ServiceState::Ready);
    supervised.client().report_unhealthy(&name("sick"), "livez failed 3 times").unwrap();
    supervised.until("sick", "restarted", |status| status.state == ServiceState::Ready && status.pid != before.pid);
    supervised.until_said("sick: was unhealthy: livez failed 3 times, restarting in");
}

fn a_service_that_no_longer_says_that_it_lives_is_killed() {
    let script = "exec perl -MSocket -e '$ENV{WATCHDOG_USEC} == 2000000 or die; socket(S, PF_UNIX, SOCK_DGRAM, 0); $to = sockaddr_un($ENV{NOTIFY_SOCKET}); \
        send(S, \"READY=1\", 0, $to) or die $!; while (1) { send(S, \"WATCHDOG=1\", 0, $to); select(undef, undef, undef, 0.2) }'";
    let supervised = Supervised::start(|_| {
        let notify = |service| ServiceSpec { readiness: Readiness::Notify, ..shell(service, script) };
        vec![ServiceSpec { watchdog_seconds: 2, ..notify("lives") }]
    });
    let before = supervised.until_state("lives", ServiceState::Ready);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        assert_eq!(supervised.status("lives").pid, before.pid, "it was not silent");
        std::thread::park_timeout(Duration::from_millis(100));
    }
    // It is there, it can be written to, and it does nothing any more.
    signal(before.pid.unwrap(), Signal::STOP);
    let hung = Instant::now();
    let after = supervised
        .until("lives", "restarted", |status| status.state == ServiceState::Ready && status.pid != before.pid);
    println!("stopped to ready again: {} ms", hung.elapsed().as_millis());
    assert_eq!(after.last_exit.unwrap().reason, ExitReason::Signaled(9));
    supervised.until_said("lives: did not say for 2 s that it lives, restarting in");
}

fn subscribers_see_every_state() {
    use ServiceState::{Failed, Ready, Starting, Stopping};

    let supervised = Supervised::start(|directory| {
        let gate = Condition::FileExists(directory.join("gate"));
        vec![ServiceSpec { conditions: vec![gate], restart: RestartPolicy::Never, ..shell("brief", "exit 4") }]
    });
    let mut events = supervised.client().subscribe().unwrap();
    fs::write(supervised.path("gate"), "").unwrap();
    let mut seen = Vec::new();
    let started = Instant::now();
    while seen.last() != Some(&Failed) {
        assert!(started.elapsed() < DEADLINE, "{seen:?}");
        if let Some(Event::Service { state, .. }) = events.next(Duration::from_secs(1)).unwrap() {
            seen.push(state);
        }
    }
    assert_eq!(seen, [Starting, Ready, Stopping, Failed]);
}

fn a_subscriber_that_does_not_read_is_dropped() {
    let supervised = Supervised::start(|_| vec![shell("busy", "exec sleep 1000")]);
    let mut deaf = supervised.client().subscribe().unwrap();
    let mut client = supervised.client();
    let dropped = |client: &mut keelson_control::Client| {
        client.restart(&name("busy"), "again").unwrap();
        open_connections(&supervised) == 1
    };
    eventually("the deaf subscriber is dropped", || dropped(&mut client).then_some(()));
    // What was sent before is still there; then comes the end.
    let end = loop {
        match deaf.next(DEADLINE) {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(end, Err(ClientError::Closed)), "{end:?}");
    client.list().unwrap();
}

/// Established connections to the control socket, from the supervisor's side.
fn open_connections(supervised: &Supervised) -> usize {
    let table = fs::read_to_string("/proc/net/unix").unwrap();
    let path = supervised.path("init.sock");
    // State 03 is connected; the listener is in state 01.
    table.lines().filter(|line| line.ends_with(path.to_str().unwrap()) && line.contains(" 0005 03 ")).count()
}

fn children_get_their_environment_and_nothing_else() {
    let supervised = Supervised::start(|directory| {
        let out = directory.join("seen");
        let script = format!(
            "exec 3>&-; (env | sort; ls /proc/self/fd; readlink /proc/self/fd/0; ps -o sid= -p $$; echo $$) > {0}.new; mv {0}.new {0}; exec sleep 1000",
            out.display()
        );
        let environment = [("PATH".to_owned(), "/usr/bin:/bin".to_owned()), ("KEY".to_owned(), "value".to_owned())];
        vec![ServiceSpec { environment: environment.into(), ..shell("looks", &script) }]
    });
    let seen = eventually("it has looked", || fs::read_to_string(supervised.path("seen")).ok());
    let lines: Vec<&str> = seen.lines().map(str::trim).collect();
    assert!(lines.starts_with(&["KEY=value", "PATH=/usr/bin:/bin", "PWD=/"]), "{seen}");
    assert!(!seen.contains("CARGO"), "{seen}");
    // 0, 1, 2, and the directory that ls itself reads.
    let descriptors: Vec<&str> =
        lines.iter().copied().filter(|line| line.parse::<u8>().is_ok_and(|n| n < 10)).collect();
    assert_eq!(descriptors, ["0", "1", "2", "3"], "{seen}");
    assert!(lines.contains(&"/dev/null"), "{seen}");
    let [.., session, pid] = lines.as_slice() else { panic!("{seen}") };
    assert_eq!(session, pid, "a session of its own");
}

fn limits_of_a_child_are_set() {
    let limits = keelson_control::Limits {
        nofile: Some(123),
        nice: Some(5),
        oom_score_adj: Some(321),
        ..keelson_control::Limits::default()
    };
    let supervised = Supervised::start(|directory| {
        let out = directory.join("seen");
        let script = format!(
            "(ulimit -n; nice; cat /proc/self/oom_score_adj; grep NoNewPrivs /proc/self/status) > {0}.new; mv {0}.new {0}; exec sleep 1000",
            out.display()
        );
        vec![ServiceSpec { limits, ..shell("limited", &script) }]
    });
    let seen = eventually("it has looked", || fs::read_to_string(supervised.path("seen")).ok());
    assert_eq!(seen, "123\n5\n321\nNoNewPrivs:\t1\n");
}

fn a_child_that_may_gain_nothing_has_its_system_calls_filtered() {
    let supervised = Supervised::start(|directory| {
        let report = |service: &str, no_new_privs| {
            let out = directory.join(service).display().to_string();
            let script = format!(
                "(grep ^Seccomp: /proc/self/status; unshare --user true 2>&1) > {out}.new; mv {out}.new {out}; exec sleep 1000"
            );
            ServiceSpec { no_new_privs, ..shell(service, &script) }
        };
        vec![report("daemon", true), report("runtime", false)]
    });
    let seen = |service: &str| eventually("it has looked", || fs::read_to_string(supervised.path(service)).ok());
    let daemon = seen("daemon");
    assert!(
        daemon.starts_with("Seccomp:\t2\n") && daemon.contains("unshare failed: Operation not permitted"),
        "{daemon}"
    );
    assert!(seen("runtime").starts_with("Seccomp:\t0\n"));
}

fn a_child_has_its_account_and_its_capabilities_and_no_others() {
    if !is_root() {
        return;
    }
    let report = |service: &str, directory: &Path, spec: ServiceSpec| {
        let out = directory.join(service);
        let script = format!(
            "(id -u; id -g; id -G; grep ^Cap /proc/self/status) > {0}.new; mv {0}.new {0}; exec sleep 1000",
            out.display()
        );
        ServiceSpec { arguments: vec!["-c".to_owned(), script], ..spec }
    };
    let supervised = Supervised::start(|directory| {
        fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let network = ServiceSpec {
            account: Account { uid: 64003, gid: 64003, groups: vec![64007] },
            capabilities: Capabilities::only([Capability::NetAdmin, Capability::NetRaw]),
            ..shell("network", "")
        };
        let store =
            ServiceSpec { account: Account::id(64001), capabilities: Capabilities::none(), ..shell("store", "") };
        let cluster = ServiceSpec { capabilities: Capabilities::only([Capability::Chown]), ..shell("cluster", "") };
        vec![
            report("network", directory, network),
            report("store", directory, store),
            report("cluster", directory, cluster),
        ]
    });
    let seen = |service: &str| eventually("it has looked", || fs::read_to_string(supervised.path(service)).ok());
    let sets = |[inheritable, permitted, effective, bounding, ambient]: [u64; 5]| {
        format!(
            "CapInh:\t{inheritable:016x}\nCapPrm:\t{permitted:016x}\nCapEff:\t{effective:016x}\nCapBnd:\t{bounding:016x}\nCapAmb:\t{ambient:016x}\n"
        )
    };
    // 12 and 13: whoever it executes keeps them too, because they are ambient.
    assert_eq!(seen("network"), format!("64003\n64003\n64003 64007\n{}", sets([0x3000; 5])));
    assert_eq!(seen("store"), format!("64001\n64001\n64001\n{}", sets([0; 5])));
    assert_eq!(seen("cluster"), format!("0\n0\n0\n{}", sets([1, 1, 1, 1, 0])));
}

fn a_shutdown_waits_for_inhibitors_and_stops_in_order() {
    let mut supervised = Supervised::start(|directory| {
        let log = directory.join("order");
        let says = |service: &str| {
            let script = format!(
                "trap 'echo {service} >> {}; exit 0' TERM; touch {}; while :; do sleep 0.05; done",
                log.display(),
                directory.join(service).display()
            );
            shell(service, &script)
        };
        let upper = ServiceSpec { stop_before: vec![name("lower")], ..says("upper") };
        vec![says("lower"), upper]
    });
    for service in ["lower", "upper"] {
        eventually("its trap is set", || supervised.path(service).exists().then_some(()));
    }
    let mut events = supervised.client().subscribe().unwrap();
    let inhibitor = supervised.client().inhibit("kubelet", "pods end", DEADLINE).unwrap();
    supervised.client().power_off("test").unwrap();
    let told = eventually("the shutdown is announced", || match events.next(Duration::from_secs(1)).unwrap() {
        Some(Event::ShuttingDown { kind, reason, inhibitors_deadline_milliseconds }) => {
            Some((kind, reason, inhibitors_deadline_milliseconds))
        }
        _ => None,
    });
    assert_eq!(told, (ShutdownKind::PowerOff, "test".to_owned(), 60_000));
    let refused = supervised.client().start(&name("lower"));
    assert!(matches!(refused, Err(ClientError::Refused { kind: ErrorKind::ShuttingDown, .. })), "{refused:?}");
    assert_eq!(supervised.status("upper").state, ServiceState::Ready, "it waits for the inhibitor");
    drop(inhibitor);
    let output = supervised.ended();
    assert!(output.contains("verdict: power-off test []"), "{output}");
    assert_eq!(fs::read_to_string(supervised.path("order")).unwrap(), "upper\nlower\n");
}

fn ctrl_alt_del_reboots_in_order_and_the_second_time_at_once() {
    let mut supervised = Supervised::start(|_| vec![shell("sleeper", "exec sleep 1000")]);
    supervised.until_state("sleeper", ServiceState::Ready);
    interrupt(&supervised);
    let output = supervised.ended();
    assert!(output.contains("verdict: reboot ctrl-alt-del []"), "{output}");

    let mut supervised = stubborn();
    interrupt(&supervised);
    supervised.until_said("shutdown: reboot asked for: ctrl-alt-del");
    let forced = Instant::now();
    interrupt_anew(&supervised);
    let output = supervised.ended();
    assert!(output.contains("ctrl-alt-del again: forced"), "{output}");
    // What is killed is gone, and not said to be left.
    assert!(output.contains("verdict: reboot ctrl-alt-del []"), "{output}");
    assert!(forced.elapsed() < Duration::from_secs(10), "it waited for its stop timeout");
}

fn ctrl_alt_del_in_anothers_shutdown_says_so_before_it_forces() {
    let mut supervised = stubborn();
    supervised.client().power_off("test").unwrap();
    interrupt(&supervised);
    supervised.until_said("ctrl-alt-del: a power-off is under way; pressed again it is forced");
    assert!(!supervised.output().contains("ctrl-alt-del again: forced"));
    interrupt_anew(&supervised);
    let output = supervised.ended();
    assert!(output.contains("ctrl-alt-del again: forced"), "{output}");
    assert!(output.contains("verdict: power-off test []"), "{output}");
}

/// With a service that does not end when it is asked to.
fn stubborn() -> Supervised {
    let supervised = Supervised::start(|_| vec![shell("stubborn", "trap '' TERM; while :; do sleep 1000; done")]);
    let pid = supervised.until_state("stubborn", ServiceState::Ready).pid.unwrap();
    eventually("SIGTERM is ignored", || ignores_sigterm(pid).then_some(()));
    supervised
}

/// Long enough after the last time to be another press.
fn interrupt_anew(supervised: &Supervised) {
    let waited = Instant::now();
    eventually("a second is over", || (waited.elapsed() > Duration::from_secs(1)).then_some(()));
    interrupt(supervised);
}

fn a_log_service_gets_every_pipe_again_after_its_restart() {
    // Receives packets and counts them by their service.
    let script = "perl -e 'use Socket; open(S, \"+<&=\", $ENV{KEELSON_LOG_FD}) or die; \
                  while (defined recv(S, $m, 4096, 0)) { last if $m eq \"\"; open(F, \">>\", \"$ENV{OUT}\"); print F \"$$ $m\\n\"; close F }'; exec sleep 1000";
    let supervised = Supervised::start(|directory| {
        let mut log = shell("log", script);
        log.environment.insert("OUT".to_owned(), directory.join("packets").display().to_string());
        vec![log, shell("writer", "exec sleep 1000")]
    });
    let packets = |count: usize| {
        eventually("packets come", || {
            let text = fs::read_to_string(supervised.path("packets")).unwrap_or_default();
            (text.lines().count() == count).then_some(text)
        })
    };
    let text = packets(2);
    assert!(text.contains(r#"{"service":"log"}"#) && text.contains(r#"{"service":"writer"}"#), "{text}");
    let pid = supervised.until_state("log", ServiceState::Ready).pid.unwrap();
    kill(pid);
    packets(4);
    supervised
        .client()
        .apply_set(&ServiceSet { version: 1, services: vec![shell("late", "exec sleep 1000")] })
        .unwrap();
    assert!(packets(5).contains(r#"{"service":"late"}"#));
}

fn a_service_outlives_the_absence_of_its_log() {
    let supervised = Supervised::start(|directory| {
        // A pipe holds 256 KiB; this is more.
        let script = format!(
            "dd if=/dev/zero bs=4096 count=100 2>/dev/null; touch {}; exec sleep 1000",
            directory.join("written").display()
        );
        vec![shell("chatty", &script)]
    });
    eventually("all is written although nobody reads", || supervised.path("written").exists().then_some(()));
    assert!(supervised.output().contains("bytes of output were dropped"), "{}", supervised.output());
    assert_eq!(supervised.status("chatty").restarts, 0);
}

fn lines_of_the_console_file_are_shown() {
    let supervised = Supervised::start(|_| Vec::new());
    fs::write(supervised.path("console"), "API https://192.0.2.1:6400\n").unwrap();
    supervised.until_said("cluster: API https://192.0.2.1:6400");
}

/// Accounts can be changed by root only. A tier that promises root must not pass without it.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var_os("KEELSON_TESTS_ROOT").is_none(), "KEELSON_TESTS_ROOT promises root");
    root
}

fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

fn interrupt(supervised: &Supervised) {
    kill_process(Pid::from_raw(supervised.pid()).unwrap(), Signal::INT).unwrap();
}

/// Runs, and is no zombie.
fn is_alive(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    !status.is_empty() && !status.contains("State:\tZ")
}

fn ignores_sigterm(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap_or("0");
    u64::from_str_radix(ignored, 16).unwrap() & (1 << 14) != 0
}

fn children_of(pid: i32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    text.split_ascii_whitespace().map(|child| child.parse().unwrap()).collect()
}
