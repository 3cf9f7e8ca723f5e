//! Packets of the control socket and sets of services, damaged in every way: whatever comes in is an answer or an error.
//!
//! `cargo test` runs a slice. A campaign sets `KEELSON_FUZZ_INPUTS` and `KEELSON_FUZZ_SEED`.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests, outside any test function")]
#![forbid(unsafe_code)]

use keelson_control::{
    Condition, Packet, Readiness, Request, ServiceName, ServiceSet, ServiceSpec, VersionRange, codec,
};

/// A small generator (splitmix64): the inputs of a run follow from its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap()
    }
}

const TOKENS: [&str; 14] = [
    "\"",
    "{",
    "}",
    "[[[[[[[[",
    "]",
    ":",
    ",",
    "null",
    "-1",
    "18446744073709551616",
    "1e309",
    "\\ud800",
    "\"..\"",
    "{\"list\":{}}",
];

fn mutate(random: &mut Random, seed: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(24)).min(bytes.len());
        match random.below(5) {
            0 => drop(bytes.drain(at..end)),
            1 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            2 => bytes.truncate(at),
            3 if at < bytes.len() => bytes[at] = random.next().to_le_bytes()[0],
            _ => drop(bytes.splice(at..at, TOKENS[random.below(TOKENS.len())].bytes())),
        }
    }
    bytes
}

fn campaign(seeds: &[Vec<u8>], mut check: impl FnMut(&[u8])) {
    let setting = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (inputs, start): (u64, u64) = (setting("KEELSON_FUZZ_INPUTS", 20_000), setting("KEELSON_FUZZ_SEED", 1));
    for input in 0..inputs {
        let mut random = Random(start.wrapping_add(input));
        let seed = &seeds[random.below(seeds.len())];
        check(&mutate(&mut random, seed));
    }
}

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
        Request::Reboot { reason: "upgrade".to_owned() },
    ];
    let seeds = requests.map(|request| serde_json::to_vec(&request).unwrap());
    campaign(&seeds, |bytes| {
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
    campaign(&[serde_json::to_vec(&set).unwrap()], |bytes| {
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
