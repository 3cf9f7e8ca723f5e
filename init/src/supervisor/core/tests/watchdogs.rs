use super::*;

fn watched() -> ServiceSpec {
    ServiceSpec { watchdog_seconds: 60, ..daemon("a") }
}

fn alive(run: u64) -> Event {
    Event::Alive { service: name("a"), run: Run(run) }
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
