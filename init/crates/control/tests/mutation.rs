//! Packets of the control socket and sets of services, damaged in every way: whatever comes in is an answer or an error.
#![expect(clippy::unwrap_used, reason = "helpers of tests, outside any test function")]
#![forbid(unsafe_code)]

use keelson_control::{
    Condition, Packet, Readiness, Request, ServiceName, ServiceSet, ServiceSpec, VersionRange, codec,
};
use keelson_mutation::campaign;

const WORDS: [&[u8]; 14] = [
    b"\"",
    b"{",
    b"}",
    b"[[[[[[[[",
    b"]",
    b":",
    b",",
    b"null",
    b"-1",
    b"18446744073709551616",
    b"1e309",
    b"\\ud800",
    b"\"..\"",
    b"{\"list\":{}}",
];

/// What an ordinary run makes of each.
const SLICE: u64 = 20_000;

fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

#[test]
fn requests_are_understood_or_refused_whatever_their_bytes() {
    let requests = [
        Request::Hello { versions: VersionRange::OURS, client: "cluster".to_owned() },
        Request::ApplySet {},
        Request::Restart { service: name("kubelet"), reason: "asked".to_owned() },
        Request::Inhibit { who: "kubelet".to_owned(), why: "pods".to_owned(), delay_max_seconds: 60 },
        Request::Boot { number: 7 },
        Request::Reboot { reason: "upgrade".to_owned() },
    ];
    let seeds = requests.map(|request| serde_json::to_vec(&request).unwrap());
    campaign("a request", SLICE, &seeds, &WORDS, |bytes| {
        if let Ok(request) = serde_json::from_slice::<Request>(bytes) {
            // What was understood can be said again.
            let again = serde_json::to_vec(&request).unwrap();
            assert_eq!(serde_json::from_slice::<Request>(&again).unwrap(), request);
        }
        let _ = serde_json::from_slice::<Packet>(bytes);
    });
}

#[test]
fn sets_are_valid_or_refused_whatever_their_bytes() {
    let a =
        ServiceSpec { conditions: vec![Condition::ServiceReady(name("b"))], ..ServiceSpec::daemon(name("a"), "/x") };
    let b = ServiceSpec { readiness: Readiness::Socket("/run/x".into()), ..ServiceSpec::one_shot(name("b"), "/y") };
    let set = ServiceSet { version: 3, services: vec![a.clone(), b] };
    campaign("a set", SLICE, &[serde_json::to_vec(&set).unwrap()], &WORDS, |bytes| {
        if let Ok(set) = serde_json::from_slice::<ServiceSet>(bytes) {
            let _ = set.validate(&[]).and_then(|()| set.validate(std::slice::from_ref(&a)));
        }
    });
}

#[test]
fn what_is_no_sealed_set_is_refused() {
    let set = ServiceSet { version: 1, services: Vec::new() };
    assert_eq!(codec::read_set(&codec::seal_set(&set).unwrap()).unwrap(), set);
    let file = tempfile::tempfile().unwrap().into();
    assert!(codec::read_set(&file).is_err());
}
