use super::*;
use crate::Limits;

fn name(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

fn spec(service: &str) -> ServiceSpec {
    ServiceSpec::daemon(name(service), "/usr/bin/x")
}

fn waiting(service: &str, target: &str) -> ServiceSpec {
    ServiceSpec { conditions: vec![Condition::ServiceReady(name(target))], ..spec(service) }
}

fn problems(services: Vec<ServiceSpec>) -> Vec<SetProblem> {
    let set = ServiceSet { version: 1, services };
    set.validate(&[spec("store"), spec("network")]).err().map_or_else(Vec::new, |invalid| invalid.problems)
}

#[test]
fn a_good_set_passes() {
    assert_eq!(problems(vec![waiting("kube-apiserver", "store"), waiting("kubelet", "kube-apiserver")]), []);
}

#[test]
fn a_name_given_twice_is_refused() {
    assert_eq!(problems(vec![spec("a"), spec("a")]), [SetProblem::Duplicate { service: name("a") }]);
}

#[test]
fn a_static_name_is_refused() {
    assert_eq!(problems(vec![spec("store")]), [SetProblem::Reserved { service: name("store") }]);
}

#[test]
fn an_unknown_target_is_refused() {
    let expected = SetProblem::UnknownTarget { service: name("a"), target: name("b") };
    assert_eq!(problems(vec![waiting("a", "b")]), [expected]);
}

#[test]
fn a_cycle_is_named_without_those_who_only_lead_to_it() {
    let found = problems(vec![waiting("lead", "a"), waiting("a", "b"), waiting("b", "c"), waiting("c", "a")]);
    assert_eq!(found, [SetProblem::Cycle { services: vec![name("a"), name("b"), name("c")] }]);
    let message = found.iter().map(ToString::to_string).collect::<String>();
    assert_eq!(message, "a -> b -> c: each needs the next one, and the last the first");
}

#[test]
fn stop_order_counts_for_cycles() {
    let stops = ServiceSpec { stop_before: vec![name("b")], ..spec("a") };
    let found = problems(vec![stops, waiting("b", "a")]);
    assert_eq!(found, [SetProblem::Cycle { services: vec![name("a"), name("b")] }]);
}

#[test]
fn a_service_that_waits_for_itself_is_a_cycle() {
    assert_eq!(problems(vec![waiting("a", "a")]), [SetProblem::Cycle { services: vec![name("a")] }]);
}

#[test]
fn a_stop_order_towards_an_absent_service_is_ignored() {
    assert_eq!(problems(vec![ServiceSpec { stop_before: vec![name("absent")], ..spec("a") }]), []);
}

#[test]
fn paths_are_absolute_and_plain() {
    for path in ["x", "./x", "/usr/../x", "/x\0y"] {
        let found = problems(vec![ServiceSpec::daemon(name("a"), path)]);
        assert!(matches!(found.as_slice(), [SetProblem::Path { field: "program", .. }]), "{path:?}: {found:?}");
    }
    let condition = ServiceSpec { conditions: vec![Condition::FileExists("run/x".into())], ..spec("a") };
    assert!(matches!(problems(vec![condition]).as_slice(), [SetProblem::Path { field: "conditions", .. }]));
}

#[test]
fn what_pid_1_looks_at_is_in_memory() {
    let file = ServiceSpec { conditions: vec![Condition::FileExists("/var/x".into())], ..spec("a") };
    assert!(matches!(problems(vec![file]).as_slice(), [SetProblem::OnDisk { field: "conditions", .. }]));
    let socket = ServiceSpec { readiness: Readiness::Socket("/runx/s".into()), ..spec("a") };
    assert!(matches!(problems(vec![socket]).as_slice(), [SetProblem::OnDisk { field: "readiness", .. }]));
    let good = ServiceSpec { conditions: vec![Condition::SocketAnswers("/run/x".into())], ..spec("a") };
    assert_eq!(problems(vec![good]), []);
}

#[test]
fn who_is_to_say_that_it_lives_says_that_it_is_ready() {
    let watched = ServiceSpec { watchdog_seconds: 60, ..spec("a") };
    assert!(matches!(problems(vec![watched.clone()]).as_slice(), [SetProblem::MuteWatchdog { .. }]));
    assert_eq!(problems(vec![ServiceSpec { readiness: Readiness::Notify, ..watched }]), []);
}

#[test]
fn limits_are_in_the_kernels_ranges() {
    let limits = Limits { cpu_weight: Some(0), oom_score_adj: Some(1001), nice: Some(-21), ..Limits::default() };
    let found = problems(vec![ServiceSpec { limits, timeout_stop_seconds: 0, ..spec("a") }]);
    let fields: Vec<_> = found
        .iter()
        .map(|problem| match problem {
            SetProblem::Range { field, .. } => *field,
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(fields, ["timeout_stop_seconds", "cpu_weight", "oom_score_adj", "nice"]);
}

#[test]
fn texts_that_no_exec_could_take_are_refused() {
    let arguments = ServiceSpec { arguments: vec!["a\0b".into()], ..spec("a") };
    assert_eq!(problems(vec![arguments]), [SetProblem::Text { service: name("a"), field: "arguments" }]);
    let environment = ServiceSpec { environment: [("A=B".into(), String::new())].into(), ..spec("a") };
    assert_eq!(problems(vec![environment]), [SetProblem::Text { service: name("a"), field: "environment" }]);
}

#[test]
fn a_one_shot_has_no_other_readiness() {
    let one_shot = ServiceSpec { readiness: Readiness::Notify, ..ServiceSpec::one_shot(name("a"), "/x") };
    assert_eq!(problems(vec![one_shot]), [SetProblem::OneShotReadiness { service: name("a") }]);
}

#[test]
fn the_number_of_services_is_bounded() {
    let many = (0..SERVICES_MAX).map(|index| spec(&format!("s{index}"))).collect();
    assert_eq!(problems(many), [SetProblem::TooMany { count: SERVICES_MAX + 2 }]);
}

#[test]
fn a_set_survives_json() {
    let set =
        ServiceSet { version: 7, services: vec![waiting("kubelet", "store"), ServiceSpec::one_shot(name("o"), "/x")] };
    let json = serde_json::to_string(&set).unwrap();
    assert_eq!(serde_json::from_str::<ServiceSet>(&json).unwrap(), set);
    assert!(serde_json::from_str::<ServiceSet>(&json.replace("\"program\"", "\"programm\"")).is_err());
}
