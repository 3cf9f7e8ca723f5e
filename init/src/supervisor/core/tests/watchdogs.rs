use super::*;

fn watched() -> ServiceSpec {
    ServiceSpec { watchdog_seconds: 60, ..daemon("a") }
}

fn alive(run: u64) -> Event {
    Event::Alive { service: name("a"), run: Run(run) }
}

/// Run `run` of `a`, which is ready, says nothing any more. Returns what comes of its end.
fn hang(machine: &mut Machine, run: u64) -> Vec<Command> {
    machine.pass(seconds(30));
    assert!(machine.pass(seconds(30)).contains(&kill_all("a", run)));
    machine.handle(exited("a", run, 9));
    machine.handle(emptied("a", run))
}

/// `a` is started again after its delay or its pause, and is ready.
fn come_back(machine: &mut Machine, run: u64) {
    while machine.state("a") != ServiceState::Starting {
        machine.now = machine.core.next_deadline().unwrap();
        machine.handle(Event::Tick);
    }
    machine.handle(executed("a", run));
}

#[test]
fn a_service_that_is_silent_for_its_patience_is_killed_as_a_failure() {
    let mut machine = Machine::ready(watched());
    assert_eq!(machine.pass(seconds(30)), []);
    assert_eq!(machine.pass(seconds(29)), []);
    let stopping = [changed("a", Change::Stopping { cause: StopCause::Silent }), kill_all("a", 1)];
    assert_eq!(machine.pass(seconds(1)), stopping, "who does not live is not asked to end");
    machine.handle(exited("a", 1, 9));
    machine.handle(emptied("a", 1));
    assert_eq!(machine.state("a"), ServiceState::Backoff);
    assert_eq!(machine.status("a").reason.as_deref(), Some("did not say for 60 s that it lives"));
}

#[test]
fn a_word_now_and_then_is_enough() {
    let mut machine = Machine::ready(watched());
    for _ in 0..20 {
        assert_eq!(machine.pass(seconds(50)), []);
        assert_eq!(machine.handle(alive(1)), []);
    }
    assert_eq!(machine.state("a"), ServiceState::Ready);
}

/// A machine that was paused finds its clock far ahead, and so do all services at once.
#[test]
fn a_clock_that_leaps_leaves_time_to_speak() {
    let mut machine = Machine::ready(watched());
    assert_eq!(machine.pass(seconds(3600)), []);
    assert_eq!(machine.pass(seconds(20)), []);
    assert_eq!(machine.handle(alive(1)), []);
    assert_eq!(machine.pass(seconds(50)), []);
    assert_eq!(machine.state("a"), ServiceState::Ready);
}

#[test]
fn who_starts_is_judged_from_its_first_word_on() {
    let mut machine =
        Machine::new([ServiceSpec { readiness: Readiness::Notify, timeout_start_seconds: 70, ..watched() }]);
    machine.handle(Event::Tick);
    assert_eq!(machine.pass(seconds(5)), []);
    machine.handle(alive(1));
    assert_eq!(machine.pass(seconds(30)), []);
    assert!(machine.pass(seconds(30)).contains(&kill_all("a", 1)));

    // Words do not put its deadline off.
    let mut machine =
        Machine::new([ServiceSpec { readiness: Readiness::Notify, timeout_start_seconds: 70, ..watched() }]);
    machine.handle(Event::Tick);
    for _ in 0..69 {
        assert_eq!(machine.pass(seconds(1)), []);
        machine.handle(alive(1));
    }
    assert!(machine.pass(seconds(1)).contains(&terminate("a")));
}

#[test]
fn nobody_is_judged_before_it_has_spoken_nor_by_an_earlier_life() {
    let mut machine =
        Machine::new([ServiceSpec { readiness: Readiness::Notify, timeout_start_seconds: 0, ..watched() }]);
    machine.handle(Event::Tick);
    assert_eq!(machine.pass(seconds(500)), []);
    machine.handle(Event::Notified { service: name("a"), run: Run(1) });
    assert_eq!(machine.pass(seconds(59)), []);
    assert_eq!(machine.handle(alive(0)), []);
    assert!(machine.pass(seconds(30)).contains(&kill_all("a", 1)));
}

#[test]
fn a_service_that_is_to_stop_is_not_judged() {
    let mut machine = Machine::ready(watched());
    machine.handle(Event::Stop { service: name("a") });
    assert_eq!(machine.pass(seconds(9)), []);
    assert_eq!(machine.pass(seconds(1)), [kill_all("a", 1)], "its time to stop is over");
    machine.handle(exited("a", 1, 9));
    machine.handle(emptied("a", 1));
    assert_eq!(machine.state("a"), ServiceState::Stopped);
}

/// Each of its hangs lasts as long as a stable run: it was ready, and not well.
#[test]
fn a_service_that_hangs_whenever_it_is_ready_climbs_the_ladder() {
    let mut machine = Machine::ready(watched());
    machine.apply(1, [ServiceSpec { conditions: vec![Condition::ServiceReady(name("a"))], ..daemon("b") }]);
    machine.handle(executed("b", 2));
    hang(&mut machine, 1);
    for run in 3..8 {
        come_back(&mut machine, run);
        assert!(!hang(&mut machine, run).contains(&terminate("b")), "run {run}");
    }
    come_back(&mut machine, 8);
    assert!(hang(&mut machine, 8).contains(&terminate("b")), "at the seventh failure");

    let mut machine = Machine::ready(ServiceSpec { on_persistent_failure: PersistentFailure::Reboot, ..watched() });
    for run in 1..26 {
        hang(&mut machine, run);
        assert_eq!(machine.core.shutting_down(), None, "run {run}");
        come_back(&mut machine, run + 1);
    }
    hang(&mut machine, 26);
    assert_eq!(machine.core.shutting_down(), Some(ShutdownKind::Reboot), "at the end of the second round");
}

#[test]
fn a_service_that_lived_for_a_minute_before_it_hung_begins_at_the_ladders_foot() {
    let failures_after = |words: u64| {
        let mut machine = Machine::ready(watched());
        hang(&mut machine, 1);
        come_back(&mut machine, 2);
        for _ in 0..words {
            machine.pass(seconds(20));
            machine.handle(alive(2));
        }
        hang(&mut machine, 2);
        machine.core.services[&name("a")].failures
    };
    assert_eq!((failures_after(2), failures_after(3)), (2, 1));
}

/// It is reported after minutes in which it did not answer.
#[test]
fn a_service_that_is_reported_unhealthy_was_stable_only_before_it_was_asked_in_vain() {
    let failures_after = |ready: Duration| {
        let mut machine = Machine::ready(daemon("a"));
        for run in 1..=3 {
            machine.pass(ready);
            machine.handle(Event::Unhealthy { service: name("a"), reason: "8 probes failed".to_owned() });
            machine.handle(exited("a", run, 0));
            machine.handle(emptied("a", run));
            come_back(&mut machine, run + 1);
        }
        machine.core.services[&name("a")].failures
    };
    assert_eq!((failures_after(seconds(80)), failures_after(seconds(440))), (3, 3));
    assert_eq!(failures_after(seconds(3600)), 1);
}
