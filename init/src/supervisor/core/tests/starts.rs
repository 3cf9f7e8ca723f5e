use super::*;

#[test]
fn a_service_without_conditions_starts_at_once() {
    let mut machine = Machine::new([daemon("a")]);
    assert_eq!(machine.handle(Event::Tick), [spawn("a", 1), changed("a", Change::Starting)]);
    assert_eq!(machine.state("a"), ServiceState::Starting);
}

#[test]
fn a_started_service_is_ready_once_executed() {
    let mut machine = Machine::new([daemon("a")]);
    machine.handle(Event::Tick);
    assert_eq!(machine.handle(Event::Spawned { service: name("a"), run: Run(1), pid: 42 }), []);
    machine.now += seconds(2);
    assert_eq!(machine.handle(executed("a", 1)), [changed("a", Change::Ready { after: seconds(2) })]);
    assert_eq!(machine.status("a").pid, Some(42));
}

#[test]
fn a_notifying_service_is_ready_once_it_says_so() {
    let mut machine = Machine::new([ServiceSpec { readiness: Readiness::Notify, ..daemon("a") }]);
    machine.handle(Event::Tick);
    assert_eq!(machine.handle(executed("a", 1)), []);
    let notified = Event::Notified { service: name("a"), run: Run(1) };
    assert_eq!(machine.handle(notified.clone()), [changed("a", Change::Ready { after: seconds(0) })]);
    assert_eq!(machine.handle(notified), [], "twice is once");
}

#[test]
fn a_service_is_ready_once_its_socket_answers() {
    let socket = Condition::SocketAnswers("/run/a".into());
    let mut machine = Machine::new([ServiceSpec { readiness: Readiness::Socket("/run/a".into()), ..daemon("a") }]);
    let watch = Command::Watch { condition: socket.clone() };
    assert_eq!(machine.handle(Event::Tick), [spawn("a", 1), changed("a", Change::Starting), watch]);
    assert_eq!(machine.handle(executed("a", 1)), []);
    let ready = changed("a", Change::Ready { after: seconds(0) });
    let unwatch = Command::Unwatch { condition: socket.clone() };
    assert_eq!(machine.handle(Event::Condition { condition: socket, holds: true }), [ready, unwatch]);
}

#[test]
fn an_answer_to_an_earlier_generation_makes_nobody_ready() {
    let socket = Condition::SocketAnswers("/run/a".into());
    let a = ServiceSpec { readiness: Readiness::Socket("/run/a".into()), ..daemon("a") };
    // Another service keeps the same condition watched.
    let b = ServiceSpec { conditions: vec![socket.clone(), file("/never")], ..daemon("b") };
    let mut machine = Machine::new([a, b]);
    machine.handle(Event::Tick);
    machine.handle(Event::Condition { condition: socket.clone(), holds: true });
    assert_eq!(machine.state("a"), ServiceState::Ready);
    machine.handle(exited("a", 1, 1));
    machine.handle(emptied("a", 1));
    let commands = machine.pass(seconds(1));
    assert!(commands.contains(&Command::Watch { condition: socket }), "{commands:?}");
    assert_eq!(machine.state("a"), ServiceState::Starting);
}

#[test]
fn conditions_are_watched_and_start_the_service_when_all_hold() {
    let (x, y) = (file("/run/x"), Condition::TcpAnswers("127.0.0.1:2379".parse().unwrap()));
    let mut machine = Machine::new([ServiceSpec { conditions: vec![x.clone(), y.clone()], ..daemon("a") }]);
    let watch = |condition: &Condition| Command::Watch { condition: condition.clone() };
    let unwatch = |condition: &Condition| Command::Unwatch { condition: condition.clone() };
    assert_eq!(machine.handle(Event::Tick), [watch(&x), watch(&y)]);
    assert_eq!(machine.handle(Event::Condition { condition: x.clone(), holds: true }), []);
    assert_eq!(machine.status("a").waiting_for.as_deref(), Some("tcp 127.0.0.1:2379"));
    // One is lost before the other comes.
    assert_eq!(machine.handle(Event::Condition { condition: x.clone(), holds: false }), []);
    assert_eq!(machine.handle(Event::Condition { condition: y.clone(), holds: true }), []);
    assert_eq!(machine.status("a").waiting_for.as_deref(), Some("file /run/x"));
    let commands = machine.handle(Event::Condition { condition: x.clone(), holds: true });
    assert_eq!(commands, [spawn("a", 1), changed("a", Change::Starting), unwatch(&x), unwatch(&y)]);
}

#[test]
fn a_service_starts_when_the_one_it_waits_for_is_ready() {
    let waits = ServiceSpec { conditions: vec![Condition::ServiceReady(name("b"))], ..daemon("a") };
    let mut machine = Machine::new([waits, daemon("b")]);
    assert_eq!(machine.handle(Event::Tick), [spawn("b", 1), changed("b", Change::Starting)]);
    let ready = changed("b", Change::Ready { after: seconds(0) });
    assert_eq!(machine.handle(executed("b", 1)), [ready, spawn("a", 2), changed("a", Change::Starting)]);
}

#[test]
fn a_one_shot_counts_as_ready_when_it_has_ended_well() {
    let once = ServiceSpec { kind: ServiceKind::OneShot, restart: RestartPolicy::OnFailure, ..daemon("once") };
    let waits = ServiceSpec { conditions: vec![Condition::ServiceReady(name("once"))], ..daemon("a") };
    let mut machine = Machine::new([once, waits]);
    machine.handle(Event::Tick);
    assert_eq!(machine.handle(executed("once", 1)), []);
    let ended = changed("once", Change::Ended { reason: ExitReason::Exited(0) });
    assert_eq!(machine.handle(exited("once", 1, 0)), [ended, kill_all("once", 1)]);
    let done = changed("once", Change::Done);
    assert_eq!(machine.handle(emptied("once", 1)), [done, spawn("a", 2), changed("a", Change::Starting)]);
    assert_eq!(machine.state("once"), ServiceState::Done);
}

#[test]
fn long_waits_are_mentioned_at_growing_distances() {
    let mut machine = Machine::new([ServiceSpec { conditions: vec![file("/run/x")], ..daemon("a") }]);
    machine.handle(Event::Tick);
    let waiting = |since| changed("a", Change::Waiting { reason: "file /run/x".to_owned(), since: seconds(since) });
    assert_eq!(machine.pass(seconds(4)), []);
    assert_eq!(machine.pass(seconds(1)), [waiting(5)]);
    assert_eq!(machine.pass(seconds(4)), []);
    assert_eq!(machine.pass(seconds(1)), [waiting(10)]);
    assert_eq!(machine.pass(seconds(9)), []);
    assert_eq!(machine.pass(seconds(1)), [waiting(20)]);
}

#[test]
fn a_service_that_is_not_ready_in_time_is_stopped_and_has_failed() {
    let mut machine = Machine::new([ServiceSpec { readiness: Readiness::Notify, ..daemon("a") }]);
    machine.handle(Event::Tick);
    assert_eq!(machine.pass(seconds(29)), []);
    let stopping = changed("a", Change::Stopping { cause: StopCause::StartTimeout });
    assert_eq!(machine.pass(seconds(1)), [terminate("a"), stopping]);
    assert_eq!(machine.handle(exited("a", 1, 0)), [kill_all("a", 1)]);
    let commands = machine.handle(emptied("a", 1));
    let [Command::Changed { change: Change::Backoff { reason, .. }, .. }] = commands.as_slice() else {
        panic!("{commands:?}")
    };
    assert_eq!(reason, "was not ready after 30 s");
}

#[test]
fn without_a_start_timeout_it_may_take_for_ever() {
    let patient = ServiceSpec { readiness: Readiness::Notify, timeout_start_seconds: 0, ..daemon("a") };
    let mut machine = Machine::new([patient]);
    machine.handle(Event::Tick);
    assert_eq!(machine.core.next_deadline(), None);
    assert_eq!(machine.pass(seconds(86_400)), []);
    assert_eq!(machine.state("a"), ServiceState::Starting);
}

#[test]
fn start_wakes_a_stopped_service() {
    let mut machine = Machine::new([ServiceSpec { conditions: vec![file("/x")], ..daemon("a") }]);
    machine.handle(Event::Tick);
    let unwatch = Command::Unwatch { condition: file("/x") };
    assert_eq!(machine.handle(Event::Stop { service: name("a") }), [changed("a", Change::Stopped), unwatch]);
    let watch = Command::Watch { condition: file("/x") };
    assert_eq!(machine.handle(Event::Start { service: name("a") }), [watch]);
    assert_eq!(machine.state("a"), ServiceState::Waiting);
}
