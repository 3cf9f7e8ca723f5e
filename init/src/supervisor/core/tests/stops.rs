use super::*;

fn stop(service: &str) -> Event {
    Event::Stop { service: name(service) }
}

#[test]
fn a_stop_signals_then_waits_for_the_exit_and_the_empty_cgroup() {
    let mut machine = Machine::ready(daemon("a"));
    let stopping = changed("a", Change::Stopping { cause: StopCause::Requested });
    assert_eq!(machine.handle(stop("a")), [terminate("a"), stopping]);
    assert_eq!(machine.handle(exited("a", 1, 0)), [kill_all("a", 1)]);
    assert_eq!(machine.state("a"), ServiceState::Stopping);
    assert_eq!(machine.handle(emptied("a", 1)), [changed("a", Change::Stopped)]);
    assert_eq!(machine.state("a"), ServiceState::Stopped);
}

#[test]
fn a_process_that_does_not_end_is_killed_at_the_deadline() {
    let mut machine = Machine::ready(daemon("a"));
    machine.handle(stop("a"));
    assert_eq!(machine.core.next_deadline(), Some(machine.now + seconds(10)));
    assert_eq!(machine.pass(seconds(9)), []);
    assert_eq!(machine.pass(seconds(1)), [kill_all("a", 1)]);
}

#[test]
fn a_process_that_outlives_its_kill_is_mentioned_once_and_awaited() {
    let mut machine = Machine::ready(daemon("a"));
    machine.handle(stop("a"));
    machine.pass(seconds(10));
    assert_eq!(machine.pass(seconds(5)), [changed("a", Change::Lingers)]);
    assert_eq!(machine.core.next_deadline(), None);
    machine.handle(exited("a", 1, 9));
    assert_eq!(machine.handle(emptied("a", 1)), [changed("a", Change::Stopped)]);
}

#[test]
fn an_empty_cgroup_before_the_exit_is_not_the_end() {
    let mut machine = Machine::ready(daemon("a"));
    machine.handle(stop("a"));
    assert_eq!(machine.handle(emptied("a", 1)), []);
    assert_eq!(machine.state("a"), ServiceState::Stopping);
}

#[test]
fn a_start_during_the_stop_starts_again_after_it() {
    let mut machine = Machine::ready(daemon("a"));
    machine.handle(stop("a"));
    assert_eq!(machine.handle(Event::Start { service: name("a") }), []);
    machine.handle(exited("a", 1, 0));
    assert_eq!(machine.handle(emptied("a", 1)), [spawn("a", 2), changed("a", Change::Starting)]);
}

#[test]
fn a_restart_stops_and_starts() {
    let mut machine = Machine::ready(daemon("a"));
    let cause = StopCause::Restart { reason: "new keys".to_owned() };
    let restart = Event::Restart { service: name("a"), reason: "new keys".to_owned() };
    assert_eq!(machine.handle(restart), [terminate("a"), changed("a", Change::Stopping { cause })]);
    machine.handle(exited("a", 1, 0));
    assert_eq!(machine.handle(emptied("a", 1)), [spawn("a", 2), changed("a", Change::Starting)]);
    assert_eq!(machine.status("a").restarts, 0, "it was asked for");
}

#[test]
fn an_unhealthy_service_is_restarted_as_a_failure() {
    let mut machine = Machine::ready(daemon("a"));
    let unhealthy = Event::Unhealthy { service: name("a"), reason: "livez".to_owned() };
    let cause = StopCause::Unhealthy { reason: "livez".to_owned() };
    let stopping = [terminate("a"), changed("a", Change::Stopping { cause })];
    assert_eq!(machine.handle(unhealthy.clone()), stopping);
    assert_eq!(machine.handle(unhealthy), [], "a second report changes nothing");
    machine.handle(exited("a", 1, 0));
    machine.handle(emptied("a", 1));
    assert_eq!(machine.state("a"), ServiceState::Backoff);
    assert_eq!(machine.status("a").reason.as_deref(), Some("was unhealthy: livez"));
}

#[test]
fn only_a_ready_service_can_be_unhealthy() {
    let mut machine = Machine::new([daemon("a")]);
    machine.handle(Event::Tick);
    assert_eq!(machine.handle(Event::Unhealthy { service: name("a"), reason: String::new() }), []);
    assert_eq!(machine.state("a"), ServiceState::Starting);
}

#[test]
fn events_of_an_earlier_generation_are_ignored() {
    let mut machine = Machine::ready(daemon("a"));
    machine.handle(Event::Restart { service: name("a"), reason: String::new() });
    machine.handle(exited("a", 1, 0));
    machine.handle(emptied("a", 1));
    for stale in [executed("a", 1), exited("a", 1, 1), emptied("a", 1)] {
        assert_eq!(machine.handle(stale), []);
    }
    assert_eq!(machine.state("a"), ServiceState::Starting);
}

#[test]
fn events_about_nobody_are_ignored() {
    let mut machine = Machine::ready(daemon("a"));
    for event in [stop("ghost"), Event::Start { service: name("ghost") }, exited("ghost", 1, 0)] {
        assert_eq!(machine.handle(event), []);
    }
}
