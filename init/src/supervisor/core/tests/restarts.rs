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
