use std::path::Path;
use std::sync::Arc;

use keelson_pki::{Files, Pair};

use super::*;
use crate::authorities::generations::{Believed, Slot};
use crate::membership::tests::{MemoryFiles, clock, found_in_memory};
use crate::registry::records::GenerationRecord;
use crate::registry::records::tests::node;

const AUTHORITIES: &str = "/state/pki/authorities";

fn generation(cluster: &crate::identity::ClusterId) -> (Generation, GenerationRecord) {
    let made = Generation::create(&MemoryFiles::default(), Path::new("/n"), cluster, clock()).unwrap();
    let record = GenerationRecord { id: id_of_generation(&made), certificates: made.certificates() };
    (made, record)
}

fn plane(name: &str) -> NodeRecord {
    NodeRecord { role: Role::ControlPlane, ..node(name) }
}

fn view(nodes: Vec<NodeRecord>, rotation: RotationRecord) -> View {
    View {
        nodes: nodes.into_iter().map(|node| (node.name.clone(), node)).collect(),
        rotation: Some(rotation),
        ..View::default()
    }
}

#[test]
fn a_phase_is_reached_by_what_a_node_says_of_itself() {
    let membership = found_in_memory();
    let (_, new) = generation(&membership.identity.cluster_id);
    let said = |certified_by: &str, believed: &[&str]| {
        let believed = believed.iter().map(|id| (*id).to_owned()).collect();
        Some(NodeGenerations { certified_by: certified_by.to_owned(), believed })
    };
    let id = new.id.as_str();
    let mut record = RotationRecord::begun(Some("gone"), "ann", 0);
    let mut one = node("w");
    assert!(!record.is_reached_by(&one), "nothing new is there");
    record.generation = Some(new.clone());
    for (phase, reached) in [
        (RotationPhase::Sharing, [false, false, true, true, true]),
        (RotationPhase::Certifying, [false, false, false, true, true]),
        (RotationPhase::Dropping, [false, false, false, false, true]),
    ] {
        record.phase = phase;
        let steps = [None, said("old", &["old"]), said("old", &[id, "old"]), said(id, &[id, "old"]), said(id, &[id])];
        for (said, reached) in steps.into_iter().zip(reached) {
            one.generations = said;
            assert_eq!(record.is_reached_by(&one), reached, "{phase:?} {:?}", one.generations);
        }
    }
}

#[test]
fn all_control_planes_tell_nodes_the_same_whatever_they_have_entered_themselves() {
    let membership = found_in_memory();
    let authorities = &membership.control_plane().unwrap().authorities;
    let (_, new) = generation(&membership.identity.cluster_id);
    let old = Trust::of(authorities).fingerprint();
    let told = |record: &RotationRecord, planes: &[NodeRecord]| {
        let bundle = bundle(&view(planes.to_vec(), record.clone()), authorities);
        bundle.map(|bundle| Trust::from_bundle(&bundle).unwrap().fingerprints())
    };
    let mut record = RotationRecord::begun(Some("gone"), "ann", 0);
    let mut planes = [plane("a"), plane("b")];
    assert_eq!(told(&record, &planes), None);
    record.generation = Some(new.clone());
    let next = next_fingerprint(&view(planes.to_vec(), record.clone())).unwrap();
    assert_eq!(told(&record, &planes), Some(vec![old, next]));
    record.phase = RotationPhase::Certifying;
    assert_eq!(told(&record, &planes), Some(vec![old, next]), "nobody certifies by the new ones yet");
    for plane in &mut planes {
        let believed = vec![new.id.clone(), "old".to_owned()];
        plane.generations = Some(NodeGenerations { certified_by: new.id.clone(), believed });
    }
    assert_eq!(told(&record, &planes), Some(vec![next, old]));
    record.phase = RotationPhase::Dropping;
    assert_eq!(told(&record, &planes), Some(vec![next]));
    let shown = shown(&view(planes.to_vec(), record)).unwrap();
    assert_eq!(shown.awaits, ["a", "b"]);
    assert_eq!(shown.fingerprint.unwrap(), next.to_string());
}

#[test]
fn a_node_says_what_it_believes_and_mistakes_are_told_by_name() {
    let membership = found_in_memory();
    let trust = &membership.trust;
    let own = NodeGenerations::of(trust.api.certifier(), &trust.api);
    assert_eq!(said(Some(&own.query())), Ok(Some(own)));
    assert_eq!(said(None), Ok(None));
    for (query, field) in [
        ("certifiedBy=x", "certifiedBy"),
        ("certifiedBy=0123456789abcdef&believed=0123456789abcdef,", "believed"),
        ("trusts=1", "trusts"),
    ] {
        assert_eq!(said(Some(query)).unwrap_err().body.field.as_deref(), Some(field), "{query}");
    }
}

#[test]
fn what_the_former_authority_has_certified_is_former_on_a_control_plane_that_certifies_by_the_next() {
    let files: Arc<dyn Files> = Arc::new(MemoryFiles::default());
    let (directory, cluster) = (Path::new(AUTHORITIES), crate::identity::ClusterId::generate());
    let first = Authorities::create(&*files, directory, &cluster, clock()).unwrap();
    Generation::create(&*files, &Slot::Second.directory(directory), &cluster, clock()).unwrap();
    Believed { certifies: Slot::Second, other: true }.save(&*files, directory).unwrap();
    let second = Authorities::read(&*files, directory).unwrap();
    let profile = keelson_pki::Profile::client(keelson_pki::Subject::named("a"));
    let kind = AuthorityKind::StorePeer;
    let leaf: Pair = first.get(kind).issue(&profile, clock()).unwrap();
    let is_current =
        |authorities: &Authorities| crate::credentials::is_current(&leaf, &profile, authorities.get(kind), clock());
    assert!(is_current(&first) && !is_current(&second));
    assert_eq!(second.anchors(kind).issuer_of(leaf.certificate()), Some(first.get(kind).certificate()));
}
