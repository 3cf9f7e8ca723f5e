use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::json;
use time::{Duration, OffsetDateTime};

use super::*;

/// The shape that PID 1 writes.
pub(crate) fn config(role: &str, bootstrap: bool, peers: &serde_json::Value) -> NodeConfig {
    serde_json::from_value(json!({
        "role": role, "name": null, "cluster_id": null, "bootstrap": bootstrap, "peers": peers, "operator_keys": [],
        "state": "auto", "token_given": false,
        "network": { "links": [], "vlans": [], "bonds": [], "routes": [], "nameservers": [], "search": [], "node_subnets": [] },
        "ntp_servers": [], "labels": {}, "taints": null, "sysctls": {}, "trusted_certificates": [],
        "registry_mirrors": [], "http_proxy": null,
        "cluster": {
            "pod_cidr": "10.244.0.0/16", "service_cidr": "10.96.0.0/16", "cluster_domain": "cluster.local",
            "dns_address": "10.96.0.10", "extra_sans": [], "extra_arguments": {}, "oidc": null,
        },
        "sources": {},
    }))
    .unwrap()
}

pub(crate) fn founding() -> NodeConfig {
    config("control-plane", true, &json!("declared-none"))
}

pub(crate) fn clock() -> Clock {
    let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
    Clock { now, floor: now - Duration::days(1) }
}

/// Files in memory, with a power supply that fails after a number of writes.
#[derive(Default)]
pub(crate) struct MemoryFiles {
    content: Mutex<BTreeMap<PathBuf, Vec<u8>>>,
    writes_left: Mutex<Option<usize>>,
}

impl MemoryFiles {
    fn with_power_for(writes: usize) -> Self {
        Self { writes_left: Mutex::new(Some(writes)), ..Self::default() }
    }

    fn restore_power(&self) {
        *self.writes_left.lock().unwrap() = None;
    }

    pub(crate) fn names(&self) -> Vec<PathBuf> {
        self.content.lock().unwrap().keys().cloned().collect()
    }
}

impl Files for MemoryFiles {
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, FilesError> {
        Ok(self.content.lock().unwrap().get(path).cloned())
    }

    fn write(&self, path: &Path, content: &[u8], _: Mode, _: Owner) -> Result<(), FilesError> {
        let mut left = self.writes_left.lock().unwrap();
        match left.as_mut() {
            Some(0) => {
                let source = std::io::Error::other("the power is off");
                return Err(FilesError::Write { path: path.to_owned(), source });
            }
            Some(left) => *left -= 1,
            None => {}
        }
        self.content.lock().unwrap().insert(path.to_owned(), content.to_vec());
        Ok(())
    }

    fn directory(&self, _: &Path, _: Mode, _: Owner) -> Result<(), FilesError> {
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), FilesError> {
        self.content.lock().unwrap().remove(path);
        Ok(())
    }
}

pub(crate) fn decide_with(files: &dyn Files, config: &NodeConfig) -> Result<Decision, MembershipError> {
    decide(files, &Paths::default(), config, "a", clock())
}

pub(crate) fn found_in_memory() -> Membership {
    match decide_with(&MemoryFiles::default(), &founding()).unwrap() {
        Decision::Member(membership) => *membership,
        other => panic!("{other:?}"),
    }
}

fn member(decision: Decision) -> Membership {
    match decision {
        Decision::Member(membership) => *membership,
        other => panic!("{other:?}"),
    }
}

fn reason(config: &NodeConfig) -> String {
    let files = MemoryFiles::default();
    let Decision::Waiting(reason) = decide_with(&files, config).unwrap() else { panic!("founded a cluster") };
    assert!(files.names().is_empty(), "a node that waits writes nothing");
    reason
}

#[test]
fn founds_a_cluster_when_it_is_asked_for_and_nobody_else_may_have_one() {
    let membership = member(decide_with(&MemoryFiles::default(), &founding()).unwrap());
    assert_eq!(membership.identity.name, "a");
    assert_eq!(membership.identity.role, Role::ControlPlane);
}

#[test]
fn a_cluster_on_state_is_taken_up_whatever_the_configuration_says_of_founding() {
    let files = MemoryFiles::default();
    let first = member(decide_with(&files, &founding()).unwrap());
    for again in [founding(), config("control-plane", false, &json!("unsaid"))] {
        let second = member(decide_with(&files, &again).unwrap());
        assert_eq!(second.identity, first.identity);
        let fingerprint = |membership: &Membership| {
            let held = membership.control_plane().unwrap();
            keelson_pki::AuthorityKind::ALL.map(|kind| held.authorities.get(kind).fingerprint())
        };
        assert_eq!(fingerprint(&second), fingerprint(&first));
        let (second, first) = (second.control_plane().unwrap(), first.control_plane().unwrap());
        assert_eq!(second.secrets.encryption, first.secrets.encryption);
        assert_eq!(second.secrets.signing.id(), first.secrets.signing.id());
    }
}

#[test]
fn everything_else_waits_and_says_what_is_missing() {
    assert!(reason(&config("worker", false, &json!("unsaid"))).contains("worker"));
    assert!(reason(&config("worker", true, &json!("declared-none"))).contains("worker"));
    assert!(reason(&config("worker", false, &json!("unsaid"))).contains("keelson.token"));
    assert!(reason(&config("control-plane", false, &json!("unsaid"))).contains("keelson.bootstrap"));
    assert!(reason(&config("control-plane", true, &json!("unsaid"))).contains("keelson.peers=none"));
}

#[test]
fn peers_that_are_named_are_to_be_asked_until_a_cluster_is_on_state() {
    let (files, named) = (MemoryFiles::default(), config("control-plane", true, &json!({ "named": ["b", "c"] })));
    let Decision::Ask(peers) = decide_with(&files, &named).unwrap() else { panic!("nobody is asked") };
    assert_eq!(peers, ["b", "c"]);
    let first = member(decide_with(&files, &founding()).unwrap());
    assert_eq!(member(decide_with(&files, &named).unwrap()).identity, first.identity);
}

#[test]
fn a_worker_with_a_token_joins_and_one_whose_token_was_used_up_waits() {
    let files = MemoryFiles::default();
    let worker = config("worker", false, &json!("unsaid"));
    files.write(&Paths::default().token(), b"keelson1.", Mode::SECRET, Owner::ROOT).unwrap();
    assert!(matches!(decide_with(&files, &worker).unwrap(), Decision::Join));
    files.remove(&Paths::default().token()).unwrap();
    assert!(matches!(decide_with(&files, &worker).unwrap(), Decision::Waiting(_)));
}

#[test]
fn who_is_told_to_found_a_cluster_does_so_although_the_fleet_has_a_token() {
    let files = MemoryFiles::default();
    files.write(&Paths::default().token(), b"keelson1.", Mode::SECRET, Owner::ROOT).unwrap();
    member(decide_with(&files, &founding()).unwrap());
    assert!(files.read(&Paths::default().token()).unwrap().is_none(), "a member needs none");
}

#[test]
fn a_founder_that_was_removed_founds_no_second_cluster_and_joins_with_a_token() {
    let files = MemoryFiles::default();
    member(decide_with(&files, &founding()).unwrap());
    forget(&files, &Paths::default()).unwrap();
    // Until a boot has made DATA anew.
    assert!(files.read(&Paths::default().leaving()).unwrap().is_some());
    let Decision::Waiting(reason) = decide_with(&files, &founding()).unwrap() else { panic!("it founded another") };
    assert!(reason.contains("was removed"), "{reason}");
    assert!(files.read(&Paths::default().leaving()).unwrap().is_none());
    files.write(&Paths::default().token(), b"keelson1.", Mode::SECRET, Owner::ROOT).unwrap();
    assert!(matches!(decide_with(&files, &founding()).unwrap(), Decision::Join));
}

#[test]
fn a_power_cut_at_any_write_leaves_no_cluster_or_a_whole_one() {
    let all = MemoryFiles::default();
    member(decide_with(&all, &founding()).unwrap());
    let writes = all.names().len();
    assert!(writes > 5);
    for power in 0..writes {
        let files = MemoryFiles::with_power_for(power);
        assert!(decide_with(&files, &founding()).is_err(), "cut after {power} writes");
        assert!(files.read(&Paths::default().identity()).unwrap().is_none(), "the identity is written last");
        files.restore_power();
        let before = files.content.lock().unwrap().clone();
        member(decide_with(&files, &founding()).unwrap());
        let after = files.content.lock().unwrap().clone();
        assert_eq!(after.keys().count(), writes);
        for (path, content) in before {
            assert_eq!(after[&path], content, "{} was made before the cut and is taken up", path.display());
        }
        member(decide_with(&files, &founding()).unwrap());
    }
}

#[test]
fn a_missing_authority_is_never_replaced_once_there_is_a_cluster() {
    let files = MemoryFiles::default();
    member(decide_with(&files, &founding()).unwrap());
    let identity = Paths::default().identity();
    for path in files.names().into_iter().filter(|path| *path != identity) {
        let content = files.read(&path).unwrap().unwrap();
        files.remove(&path).unwrap();
        assert!(decide_with(&files, &founding()).is_err(), "without {}", path.display());
        assert!(files.read(&path).unwrap().is_none());
        files.write(&path, &content, Mode::SECRET, Owner::ROOT).unwrap();
    }
    member(decide_with(&files, &founding()).unwrap());
}

#[test]
fn a_contradiction_holds_and_names_both_sides() {
    let files = MemoryFiles::default();
    member(decide_with(&files, &founding()).unwrap());
    let mut renamed = founding();
    renamed.name = Some("b".to_owned());
    let mut moved = founding();
    moved.cluster_id = Some("another".to_owned());
    let worker = config("worker", false, &json!("unsaid"));
    for (config, sides) in
        [(renamed, ["\"b\"", "\"a\""]), (moved, ["another", "cluster id"]), (worker, ["worker", "control-plane"])]
    {
        let message = decide_with(&files, &config).unwrap_err().to_string();
        assert!(sides.iter().all(|side| message.contains(side)), "{message}");
    }
}
