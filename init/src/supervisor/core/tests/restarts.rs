use super::*;

/// Ends the present run with `status` and returns what is said about what follows.
fn crash(machine: &mut Machine, run: u64, status: i32) -> Change {
    machine.handle(exited("a", run, status));
    let commands = machine.handle(emptied("a", run));
    let [Command::Changed { change, .. }] = commands.as_slice() else { panic!("{commands:?}") };
    change.clone()
}

#[test]
fn a_crash_leads_to_a_delay_and_a_new_generation() {
    let mut machine = Machine::ready(daemon("a"));
    let ended = changed("a", Change::Ended { reason: ExitReason::Exited(1) });
    assert_eq!(machine.handle(exited("a", 1, 1)), [ended, kill_all("a", 1)]);
    let commands = machine.handle(emptied("a", 1));
    let [Command::Changed { change: Change::Backoff { reason, delay }, .. }] = commands.as_slice() else {
        panic!("{commands:?}")
    };
    assert_eq!(reason, "exited with status 1");
    assert!(*delay >= Duration::from_millis(80) && *delay <= Duration::from_millis(120), "{delay:?}");
    assert_eq!(machine.core.next_deadline(), Some(machine.now + *delay));
    assert_eq!(machine.pass(*delay), [spawn("a", 2), changed("a", Change::Starting)]);
    assert_eq!(machine.status("a").restarts, 1);
}

#[test]
fn delays_grow_then_it_is_left_alone_then_tried_again() {
    let mut machine = Machine::ready(daemon("a"));
    let mut before = Duration::ZERO;
    for run in 1..=12 {
        let Change::Backoff { delay, .. } = crash(&mut machine, run, 1) else { panic!("run {run}") };
        assert!(delay > before || delay >= seconds(24), "run {run}: {delay:?} after {before:?}");
        before = delay;
        machine.pass(delay);
    }
    let Change::Failed { reason, retry: Some(retry) } = crash(&mut machine, 13, 1) else { panic!() };
    assert_eq!(reason, "exited with status 1, for the 13th time without a stable run");
    assert_eq!(machine.state("a"), ServiceState::Failed);
    assert_eq!(machine.pass(retry), [spawn("a", 14), changed("a", Change::Starting)]);
    let Change::Backoff { delay, .. } = crash(&mut machine, 14, 1) else { panic!() };
    assert!(delay < seconds(1), "from the ladder's foot: {delay:?}");
}

#[test]
fn a_stable_run_forgives_earlier_failures() {
    let mut machine = Machine::ready(daemon("a"));
    for run in 1..=6 {
        let Change::Backoff { delay, .. } = crash(&mut machine, run, 1) else { panic!() };
        machine.pass(delay);
    }
    machine.handle(executed("a", 7));
    machine.now += seconds(60);
    let Change::Backoff { delay, .. } = crash(&mut machine, 7, 1) else { panic!() };
    assert!(delay < Duration::from_millis(150), "{delay:?}");
}

#[test]
fn what_is_killed_a_hundred_times_in_an_hour_comes_back_at_once_each_time() {
    let mut machine = Machine::ready(vital("a"));
    for run in 1..=100 {
        let Change::Backoff { delay, .. } = crash(&mut machine, run, 1) else { panic!("run {run}") };
        assert!(delay < Duration::from_millis(150), "run {run}: {delay:?}");
        machine.pass(delay);
        machine.handle(executed("a", run + 1));
        machine.now += seconds(36);
    }
}

#[test]
fn ten_seconds_of_readiness_forgive_one_failure() {
    let mut machine = Machine::ready(daemon("a"));
    let mut fail_after = |run, ready| {
        machine.handle(executed("a", run));
        machine.now += ready;
        let Change::Backoff { delay, .. } = crash(&mut machine, run, 1) else { panic!("run {run}") };
        machine.pass(delay);
        machine.core.services[&name("a")].failures
    };
    for run in 1..=6 {
        assert_eq!(u64::from(fail_after(run, seconds(0))), run);
    }
    assert_eq!((fail_after(7, seconds(10)), fail_after(8, seconds(31)), fail_after(9, seconds(9))), (6, 4, 5));
}

#[test]
fn a_daemon_that_ends_well_is_restarted_under_always() {
    let mut machine = Machine::ready(daemon("a"));
    assert!(matches!(crash(&mut machine, 1, 0), Change::Backoff { .. }));
}

#[test]
fn a_daemon_that_ends_well_is_done_under_on_failure() {
    let mut machine = Machine::ready(ServiceSpec { restart: RestartPolicy::OnFailure, ..daemon("a") });
    assert_eq!(crash(&mut machine, 1, 0), Change::Done);
}

#[test]
fn never_means_never() {
    let mut machine = Machine::ready(ServiceSpec { restart: RestartPolicy::Never, ..daemon("a") });
    let failed = Change::Failed { reason: "exited with status 1".to_owned(), retry: None };
    assert_eq!(crash(&mut machine, 1, 1), failed);
    assert_eq!(machine.core.next_deadline(), None);
    // Unless somebody says so.
    let commands = machine.handle(Event::Start { service: name("a") });
    assert_eq!(commands, [spawn("a", 2), changed("a", Change::Starting)]);
}

#[test]
fn a_failed_spawn_counts_as_a_failure() {
    let mut machine = Machine::new([daemon("a")]);
    machine.handle(Event::Tick);
    let failed = Event::SpawnFailed { service: name("a"), run: Run(1), reason: "cannot clone: EAGAIN".to_owned() };
    let commands = machine.handle(failed);
    let [Command::Changed { change: Change::Backoff { reason, .. }, .. }] = commands.as_slice() else {
        panic!("{commands:?}")
    };
    assert_eq!(reason, "could not be executed: cannot clone: EAGAIN");
}

#[test]
fn conditions_must_hold_again_before_a_restart() {
    let mut machine = Machine::new([ServiceSpec { conditions: vec![file("/x")], ..daemon("a") }]);
    machine.handle(Event::Tick);
    machine.handle(Event::Condition { condition: file("/x"), holds: true });
    let Change::Backoff { delay, .. } = crash(&mut machine, 1, 1) else { panic!() };
    assert_eq!(machine.pass(delay), [Command::Watch { condition: file("/x") }]);
    assert_eq!(machine.state("a"), ServiceState::Waiting);
}

/// Lets `a` fail at once whenever it is started, until something else than a restart or a pause comes of it.
fn keep_failing(machine: &mut Machine) -> Vec<Command> {
    for _ in 0..100 {
        let status = machine.status("a");
        assert_ne!(status.state, ServiceState::Waiting, "{:?}", status.waiting_for);
        let run = machine.core.services.get(&name("a")).and_then(|service| service.state.run());
        if let Some(Run(run)) = run {
            machine.handle(exited("a", run, 1));
            let commands = machine.handle(emptied("a", run));
            if commands
                .iter()
                .any(|command| !matches!(command, Command::Changed { service, .. } if *service == name("a")))
            {
                return commands;
            }
        } else {
            let deadline = machine.core.next_deadline().unwrap();
            machine.now = deadline;
            machine.handle(Event::Tick);
        }
    }
    Vec::new()
}

fn vital(service: &str) -> ServiceSpec {
    ServiceSpec { on_persistent_failure: PersistentFailure::Reboot, ..daemon(service) }
}

#[test]
fn what_waits_for_a_failing_service_is_restarted_with_it_once() {
    let dependant = ServiceSpec { conditions: vec![Condition::ServiceReady(name("a"))], ..daemon("b") };
    let mut machine = Machine::ready(daemon("a"));
    machine.apply(1, [dependant]);
    machine.handle(executed("b", 2));
    assert_eq!(machine.state("b"), ServiceState::Ready);
    let commands = keep_failing(&mut machine);
    let cause = StopCause::Restart { reason: "a, on which it depends, keeps failing".to_owned() };
    assert!(commands.contains(&terminate("b")), "{commands:?}");
    assert!(commands.contains(&changed("b", Change::Stopping { cause })), "{commands:?}");
    machine.handle(exited("b", 2, 0));
    machine.handle(emptied("b", 2));
    assert_eq!(machine.state("b"), ServiceState::Waiting, "until what it depends on is ready");
}

#[test]
fn service_that_the_node_is_nothing_without_reboots_it_after_two_rounds() {
    let mut machine = Machine::ready(vital("a"));
    let start = machine.now;
    let commands = keep_failing(&mut machine);
    let begun = commands.iter().find_map(|command| match command {
        Command::ShutdownBegun { kind, reason, .. } => Some((*kind, reason.as_str())),
        _ => None,
    });
    assert_eq!(begun, Some((ShutdownKind::Reboot, "a keeps failing: it exited with status 1")));
    assert!(machine.core.has_escalated());
    assert!(machine.now > start + seconds(300), "not before there was time to get well: {:?}", machine.now);
}

#[test]
fn reboot_that_did_not_help_is_not_tried_again() {
    let mut machine = Machine { core: Core::new(vec![vital("a")], 7, seconds(1)).may_reboot(false), now: seconds(1) };
    machine.handle(Event::Tick);
    assert_eq!(keep_failing(&mut machine), []);
    assert_eq!(machine.core.shutting_down(), None);
    let reason = machine.status("a").reason.unwrap_or_default();
    assert!(matches!(machine.state("a"), ServiceState::Failed) == reason.contains("did not help"), "{reason}");
}

#[test]
fn stable_run_in_between_forgives_the_rounds_too() {
    let mut machine = Machine::ready(vital("a"));
    let mut run = 1;
    for _ in 0..3 {
        for _ in 0..13 {
            crash(&mut machine, run, 1);
            run += 1;
            machine.now = machine.core.next_deadline().unwrap();
            machine.handle(Event::Tick);
        }
        machine.handle(executed("a", run));
        machine.now += seconds(60);
    }
    assert_eq!(machine.core.shutting_down(), None);
}

#[test]
fn failing_service_that_is_asked_to_restart_begins_at_the_ladders_foot() {
    let mut machine = Machine::ready(vital("a"));
    for run in 1..=13 {
        crash(&mut machine, run, 1);
        machine.now = machine.core.next_deadline().unwrap();
        machine.handle(Event::Tick);
    }
    machine.handle(Event::Restart { service: name("a"), reason: "repaired".to_owned() });
    machine.handle(exited("a", 14, 0));
    machine.handle(emptied("a", 14));
    let Change::Backoff { delay, .. } = crash(&mut machine, 15, 1) else { panic!() };
    assert!(delay < Duration::from_millis(150), "{delay:?}");
}
