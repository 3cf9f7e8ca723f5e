use super::*;

/// Static service s and handed-over services a and b, all ready as runs 1, 2 and 3. b needs a.
fn three() -> Machine {
    let mut machine = Machine::ready(daemon("s"));
    machine.apply(1, [daemon("a"), needing_a("b")]);
    machine.handle(executed("a", 2));
    machine.handle(executed("b", 3));
    machine
}

fn needing_a(service: &str) -> ServiceSpec {
    ServiceSpec { stop_before: vec![name("a")], ..daemon(service) }
}

fn revised(spec: ServiceSpec) -> ServiceSpec {
    ServiceSpec { revision: "2".to_owned(), ..spec }
}

fn stopping(service: &str, cause: StopCause) -> Command {
    changed(service, Change::Stopping { cause })
}

#[test]
fn added_services_start() {
    let mut machine = Machine::ready(daemon("s"));
    let commands = machine.apply(1, [daemon("a")]);
    assert_eq!(commands, [spawn("a", 2), changed("a", Change::Starting)]);
    assert_eq!(machine.core.set_version(), 1);
}

#[test]
fn unchanged_services_are_not_touched() {
    let mut machine = three();
    assert_eq!(machine.apply(2, [daemon("a"), needing_a("b")]), []);
    assert_eq!(machine.core.set_version(), 2);
}

#[test]
fn a_changed_service_restarts_with_its_new_specification() {
    let mut machine = three();
    let commands = machine.apply(2, [daemon("a"), revised(needing_a("b"))]);
    assert_eq!(commands, [terminate("b"), stopping("b", StopCause::Changed)]);
    machine.handle(exited("b", 3, 0));
    assert_eq!(machine.core.spec(&name("b")).unwrap().revision, "");
    assert_eq!(machine.handle(emptied("b", 3)), [spawn("b", 4), changed("b", Change::Starting)]);
    assert_eq!(machine.core.spec(&name("b")).unwrap().revision, "2");
}

#[test]
fn changed_services_stop_in_reverse_order_of_need() {
    let mut machine = three();
    let commands = machine.apply(2, [revised(daemon("a")), revised(needing_a("b"))]);
    assert_eq!(commands, [terminate("b"), stopping("b", StopCause::Changed)]);
    machine.handle(exited("b", 3, 0));
    let commands = machine.handle(emptied("b", 3));
    let expected = [terminate("a"), stopping("a", StopCause::Changed), spawn("b", 4), changed("b", Change::Starting)];
    assert_eq!(commands, expected);
}

#[test]
fn removed_services_stop_and_are_forgotten() {
    let mut machine = three();
    let commands = machine.apply(2, [daemon("a")]);
    assert_eq!(commands, [terminate("b"), stopping("b", StopCause::Removed)]);
    machine.handle(exited("b", 3, 0));
    assert_eq!(machine.handle(emptied("b", 3)), [Command::Forget { service: name("b") }]);
    assert_eq!(machine.core.spec(&name("b")), None);
}

#[test]
fn a_service_without_a_process_is_forgotten_at_once() {
    let mut machine = Machine::ready(daemon("s"));
    machine.apply(1, [ServiceSpec { conditions: vec![file("/x")], ..daemon("a") }]);
    let unwatch = Command::Unwatch { condition: file("/x") };
    assert_eq!(machine.apply(2, []), [Command::Forget { service: name("a") }, unwatch]);
}

#[test]
fn a_service_that_comes_back_while_it_is_leaving_starts_again() {
    let mut machine = three();
    machine.apply(2, [daemon("a")]);
    let set = ServiceSet { version: 3, services: vec![daemon("a"), needing_a("b")] };
    assert_eq!(machine.core.difference(&set).added, [name("b")]);
    assert_eq!(machine.handle(Event::Apply { set }), []);
    machine.handle(exited("b", 3, 0));
    assert_eq!(machine.handle(emptied("b", 3)), [spawn("b", 4), changed("b", Change::Starting)]);
}

#[test]
fn a_stopped_service_stays_stopped_with_its_new_specification() {
    let mut machine = three();
    machine.handle(Event::Stop { service: name("b") });
    machine.handle(exited("b", 3, 0));
    machine.handle(emptied("b", 3));
    assert_eq!(machine.apply(2, [daemon("a"), revised(needing_a("b"))]), []);
    assert_eq!(machine.state("b"), ServiceState::Stopped);
    let commands = machine.handle(Event::Start { service: name("b") });
    assert_eq!(commands, [spawn("b", 4), changed("b", Change::Starting)]);
    assert_eq!(machine.core.spec(&name("b")).unwrap().revision, "2");
}

#[test]
fn a_new_specification_wakes_a_failed_service() {
    let mut machine = Machine::ready(daemon("s"));
    let never = ServiceSpec { restart: RestartPolicy::Never, ..daemon("a") };
    machine.apply(1, [never.clone()]);
    machine.handle(exited("a", 2, 1));
    machine.handle(emptied("a", 2));
    assert_eq!(machine.state("a"), ServiceState::Failed);
    assert_eq!(machine.apply(2, [revised(never)]), [spawn("a", 3), changed("a", Change::Starting)]);
}

#[test]
fn static_services_are_nobodys_to_change() {
    let mut machine = Machine::ready(daemon("s"));
    assert_eq!(machine.apply(1, []), []);
    assert_eq!(machine.apply(2, [revised(daemon("s"))]), []);
    assert_eq!(machine.core.spec(&name("s")).unwrap().revision, "");
}
