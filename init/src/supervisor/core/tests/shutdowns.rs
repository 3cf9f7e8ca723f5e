use super::*;

fn shutdown() -> Event {
    Event::Shutdown { kind: ShutdownKind::Reboot, reason: "upgrade".to_owned() }
}

fn begun(inhibitors: &[&str], seconds: u64) -> Command {
    Command::ShutdownBegun {
        kind: ShutdownKind::Reboot,
        reason: "upgrade".to_owned(),
        inhibitors: inhibitors.iter().map(ToString::to_string).collect(),
        inhibitors_deadline: Duration::from_secs(seconds),
    }
}

fn complete(left: &[&str]) -> Command {
    let left = left.iter().map(|service| name(service)).collect();
    Command::ShutdownComplete { kind: ShutdownKind::Reboot, reason: "upgrade".to_owned(), left }
}

fn stopping(service: &str) -> Command {
    changed(service, Change::Stopping { cause: StopCause::Shutdown })
}

fn inhibit(id: u64, seconds: u64) -> Event {
    Event::Inhibit { id: InhibitorId(id), who: "kubelet".to_owned(), delay_max: Duration::from_secs(seconds) }
}

/// Static service s and handed-over service a, ready as runs 1 and 2.
fn two() -> Machine {
    let mut machine = Machine::ready(daemon("s"));
    machine.apply(1, [daemon("a")]);
    machine.handle(executed("a", 2));
    machine
}

#[test]
fn what_was_handed_over_stops_before_what_pid_1_brought() {
    let mut machine = two();
    assert_eq!(machine.handle(shutdown()), [begun(&[], 0), terminate("a"), stopping("a")]);
    machine.handle(exited("a", 2, 0));
    let commands = machine.handle(emptied("a", 2));
    assert_eq!(commands, [changed("a", Change::Stopped), terminate("s"), stopping("s")]);
    machine.handle(exited("s", 1, 0));
    assert_eq!(machine.handle(emptied("s", 1)), [changed("s", Change::Stopped), complete(&[])]);
}

#[test]
fn idle_services_are_stopped_at_once() {
    let mut machine = Machine::new([ServiceSpec { conditions: vec![file("/x")], ..daemon("a") }]);
    machine.handle(Event::Tick);
    let unwatch = Command::Unwatch { condition: file("/x") };
    assert_eq!(machine.handle(shutdown()), [begun(&[], 0), changed("a", Change::Stopped), unwatch, complete(&[])]);
}

#[test]
fn a_crashing_service_is_not_started_again() {
    let mut machine = Machine::ready(daemon("a"));
    machine.handle(exited("a", 1, 1));
    machine.handle(shutdown());
    assert_eq!(machine.handle(emptied("a", 1)), [changed("a", Change::Stopped), complete(&[])]);
}

#[test]
fn inhibitors_are_awaited_until_all_have_let_go() {
    let mut machine = two();
    machine.handle(inhibit(1, 30));
    machine.handle(inhibit(2, 20));
    assert_eq!(machine.handle(shutdown()), [begun(&["kubelet", "kubelet"], 30)]);
    assert_eq!(machine.handle(Event::Uninhibit { id: InhibitorId(1) }), []);
    assert_eq!(machine.state("a"), ServiceState::Ready);
    let commands = machine.handle(Event::Uninhibit { id: InhibitorId(2) });
    assert_eq!(commands, [terminate("a"), stopping("a")]);
}

#[test]
fn services_are_kept_running_while_inhibitors_are_awaited() {
    let mut machine = two();
    machine.handle(inhibit(1, 30));
    machine.handle(shutdown());
    machine.handle(exited("a", 2, 1));
    machine.handle(emptied("a", 2));
    let commands = machine.pass(seconds(1));
    assert_eq!(commands, [spawn("a", 3), changed("a", Change::Starting)]);
}

#[test]
fn an_inhibitor_delays_no_longer_than_it_asked_for_nor_than_the_limit() {
    let mut machine = two();
    machine.handle(inhibit(1, 30));
    machine.handle(shutdown());
    assert_eq!(machine.pass(seconds(29)), []);
    assert_eq!(machine.pass(seconds(1)), [terminate("a"), stopping("a")]);

    let mut machine = two();
    machine.handle(inhibit(1, 86_400));
    assert_eq!(machine.handle(shutdown()), [begun(&["kubelet"], INHIBIT_MAX.as_secs())]);
}

#[test]
fn a_late_inhibitor_delays_nothing() {
    let mut machine = two();
    machine.handle(shutdown());
    machine.handle(inhibit(1, 30));
    machine.handle(exited("a", 2, 0));
    let commands = machine.handle(emptied("a", 2));
    assert!(commands.contains(&terminate("s")), "{commands:?}");
}

#[test]
fn at_the_end_of_patience_everything_is_killed_and_the_end_does_not_wait() {
    let mut machine = Machine::ready(ServiceSpec { timeout_stop_seconds: 3600, ..daemon("s") });
    machine.apply(1, [ServiceSpec { timeout_stop_seconds: 3600, ..daemon("a") }]);
    machine.handle(executed("a", 2));
    machine.handle(shutdown());
    assert_eq!(machine.pass(SHUTDOWN_MAX.saturating_sub(seconds(6))), []);
    assert_eq!(machine.pass(seconds(1)), [kill_all("a", 2), kill_all("a", 2), kill_all("s", 1)]);
    machine.handle(exited("s", 1, 9));
    machine.handle(emptied("s", 1));
    // The processes of a do not die.
    assert_eq!(machine.pass(seconds(5)), [changed("a", Change::Lingers), complete(&["a"])]);
    assert_eq!(machine.core.next_deadline(), None);
}

#[test]
fn force_ends_as_soon_as_what_was_killed_is_gone() {
    let mut machine = two();
    machine.handle(inhibit(1, 30));
    assert_eq!(machine.handle(Event::ForceShutdown), [], "nothing was asked for");
    machine.handle(shutdown());
    assert_eq!(machine.handle(Event::ForceShutdown), [kill_all("a", 2), kill_all("s", 1)]);
    for (service, run) in [("a", 2), ("s", 1)] {
        machine.handle(exited(service, run, 9));
    }
    assert_eq!(machine.handle(emptied("a", 2)), [changed("a", Change::Stopped)]);
    assert_eq!(machine.handle(emptied("s", 1)), [changed("s", Change::Stopped), complete(&[])]);
    assert_eq!(machine.handle(Event::ForceShutdown), []);
}

#[test]
fn force_waits_a_second_for_what_does_not_die() {
    let mut machine = two();
    machine.handle(shutdown());
    machine.handle(Event::ForceShutdown);
    machine.handle(exited("s", 1, 9));
    machine.handle(emptied("s", 1));
    assert_eq!(machine.pass(Duration::from_millis(900)), []);
    assert_eq!(machine.handle(Event::ForceShutdown), [], "it is killed already");
    assert_eq!(machine.pass(Duration::from_millis(100)), [complete(&["a"])]);
}

#[test]
fn a_second_request_changes_nothing() {
    let mut machine = two();
    machine.handle(shutdown());
    let off = Event::Shutdown { kind: ShutdownKind::PowerOff, reason: "other".to_owned() };
    assert_eq!(machine.handle(off), []);
    assert_eq!(machine.core.shutting_down(), Some(ShutdownKind::Reboot));
}

#[test]
fn nothing_starts_during_a_shutdown() {
    let mut machine = two();
    machine.handle(shutdown());
    assert_eq!(machine.handle(Event::Start { service: name("a") }), []);
    assert_eq!(machine.handle(Event::Restart { service: name("a"), reason: String::new() }), []);
    assert_eq!(machine.apply(9, [daemon("new")]), []);
    machine.handle(exited("a", 2, 0));
    machine.handle(emptied("a", 2));
    assert_eq!(machine.state("a"), ServiceState::Stopped);
}

/// Validation refuses circles within a set, and PID 1's own services name none that is handed over. Should one come about
/// all the same, order is impossible; stopping is not.
#[test]
fn services_that_need_each_other_in_a_circle_stop_without_an_order() {
    let mut machine = Machine::ready(ServiceSpec { stop_before: vec![name("a")], ..daemon("s") });
    machine.apply(1, [daemon("a")]);
    machine.handle(executed("a", 2));
    let commands = machine.handle(shutdown());
    assert_eq!(commands, [begun(&[], 0), terminate("a"), stopping("a"), terminate("s"), stopping("s")]);
}
