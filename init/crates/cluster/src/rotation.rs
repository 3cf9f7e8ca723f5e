//! The cluster's authorities, and the key that encrypts Secrets, are exchanged for others, because a control plane that knew them was
//! removed as compromised, or because an operator wants it.
//!
//! It is done in three phases, so that at each moment every node believes what every other one shows ([`RotationPhase`]):
//!
//! 1. Sharing. One control plane makes the new authorities and the new key. It wraps them to the others, each of which has asked for
//!    that with a key that it has signed with its own signing key of `ServiceAccount` tokens: that one never travelled, so the former
//!    authorities' keys are of no use to get the new ones. All nodes come to believe both generations; the new encryption key reads.
//! 2. Certifying. The new authorities certify, all leaves are made anew, and the new encryption key writes. Then every Secret that the store
//!    has is encrypted with it.
//! 3. Dropping. The former authorities are believed no more, and the former key is gone.
//!
//! A phase ends when every member has reached it, by its own record ([`NodeGenerations`]); so a node that is off holds the exchange up
//! until it is there or is removed, and none is ever left behind with authorities that nobody knows. What a control plane knows and does is on
//! its STATE in one file ([`crate::authorities::generations`]), written when it enters a phase; then its processes that read authorities
//! once start anew, one control plane after the other. Everything that is agreed on is in one record ([`RotationRecord`]), changed
//! by whoever sees that something is due.
//!
//! What no exchange can undo is what somebody did while the former keys were believed: who has them and reaches the cluster's network
//! until the last phase can be any node.

use std::collections::{BTreeMap, BTreeSet};

use keelson_api::{Rotation, TrustBundle};
use keelson_config::Role;
use keelson_pki::{AuthorityKind, Fingerprint, TrustAnchors};
use rustls_pki_types::CertificateDer;

use crate::admission::timestamp;
use crate::api_server::respond::{self, Refusal};
use crate::authorities::{Authorities, Generation};
use crate::registry::{NodeGenerations, NodeRecord, RotationPhase, RotationRecord, View};
use crate::trust::Trust;

mod keep;
mod rewrite;

pub use keep::keep;

/// There is one exchange at a time.
pub const ID: &str = "authorities";
/// How long pods have at least, from the beginning on, to see the new authority of API servers in their volumes before those serve by it:
/// kubelet brings a changed `ConfigMap` there within some 90 s.
const PODS_SECONDS: i64 = 120;
const ID_DIGITS: usize = 16;
/// A node believes two generations at most; one more is no reason to refuse it.
const BELIEVED_MAX: usize = 4;

/// Of a generation, from its authority for the API of port 6400.
pub fn id_of(certificate: &CertificateDer<'_>) -> String {
    let mut id = Fingerprint::of(certificate).hexadecimal();
    id.truncate(ID_DIGITS);
    id
}

fn id_of_generation(generation: &Generation) -> String {
    id_of(generation.get(AuthorityKind::Api).certificate())
}

impl NodeGenerations {
    pub fn of(certifier: &CertificateDer<'_>, believed: &TrustAnchors) -> Self {
        let mut believed: Vec<_> = believed.iter().map(|certificate| id_of(certificate)).collect();
        believed.sort_unstable();
        Self { certified_by: id_of(certifier), believed }
    }

    /// As a node says it with its question for settings; [`said`] reads it.
    pub fn query(&self) -> String {
        format!("certifiedBy={}&believed={}", self.certified_by, self.believed.join(","))
    }
}

/// What a node says of itself in the query of its question; none if it says nothing, as an older release does.
pub(crate) fn said(query: Option<&str>) -> Result<Option<NodeGenerations>, Refusal> {
    let (mut certified_by, mut believed) = (None, Vec::new());
    for parameter in respond::parameters(query) {
        match parameter {
            ("certifiedBy", id) => certified_by = Some(checked("certifiedBy", id)?),
            ("believed", ids) => {
                let ids = ids.split(',').take(BELIEVED_MAX).map(|id| checked("believed", id));
                believed = ids.collect::<Result<Vec<_>, _>>()?;
            }
            (name, _) => {
                return Err(Refusal::invalid(name, "there is no such parameter; there are certifiedBy, believed"));
            }
        }
    }
    Ok(certified_by.map(|certified_by| NodeGenerations { certified_by, believed }))
}

fn checked(field: &str, id: &str) -> Result<String, Refusal> {
    if id.len() == ID_DIGITS && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(id.to_owned());
    }
    Err(Refusal::invalid(field, format!("{id:?} is no id of a generation of authorities")))
}

impl RotationRecord {
    pub fn begun(because: Option<&str>, by: &str, now: i64) -> Self {
        Self {
            version: 1,
            id: ID.to_owned(),
            started: now,
            by: by.to_owned(),
            because: because.map(str::to_owned),
            phase: RotationPhase::Sharing,
            generation: None,
            recipients: BTreeMap::new(),
            shares: BTreeMap::new(),
            holders: BTreeSet::new(),
            rewritten: false,
            again: None,
        }
    }

    /// Who has the new keys needs no share of them.
    #[must_use]
    fn held_by(mut self, uid: &str) -> Self {
        self.shares.remove(uid);
        self.recipients.remove(uid);
        self.holders.insert(uid.to_owned());
        self
    }

    /// Whether a node has come as far as the present phase asks.
    pub fn is_reached_by(&self, node: &NodeRecord) -> bool {
        let (Some(new), Some(known)) = (&self.generation, &node.generations) else { return false };
        let believes = known.believed.contains(&new.id);
        match self.phase {
            RotationPhase::Sharing => believes,
            RotationPhase::Certifying => believes && known.certified_by == new.id,
            RotationPhase::Dropping => believes && known.certified_by == new.id && known.believed.len() == 1,
        }
    }

    /// The names of those who have not.
    fn awaits<'a>(&self, view: &'a View) -> impl Iterator<Item = &'a str> {
        view.nodes.values().filter(|node| !self.is_reached_by(node)).map(|node| node.name.as_str())
    }

    fn is_reached_by_all(&self, view: &View) -> bool {
        self.awaits(view).next().is_none()
    }
}

fn planes(view: &View) -> impl Iterator<Item = &NodeRecord> {
    view.nodes.values().filter(|node| node.role == Role::ControlPlane)
}

/// Whom nodes that ask are to believe now, and by whom they are to be certified; none while nothing is exchanged, or nothing new is there.
///
/// It follows from the record and not from how far the control plane is that answers, so that all of them say the same.
pub fn bundle(view: &View, authorities: &Authorities) -> Option<TrustBundle> {
    let record = view.rotation.as_ref()?;
    let new = record.generation.as_ref()?;
    let generations = std::iter::once(authorities.certifying()).chain(authorities.other());
    let former = generations.into_iter().find(|generation| id_of_generation(generation) != new.id);
    let anchors = |kind: AuthorityKind| {
        let coming = TrustAnchors::from_pem(new.certificates.get(kind.name())?).ok()?;
        let former = former.map(|former| former.get(kind).certificate().clone());
        Some(match (record.phase, former) {
            (RotationPhase::Dropping, _) | (_, None) => coming,
            // A control plane that has not come so far cannot certify by it.
            (RotationPhase::Certifying, Some(former)) if planes(view).all(|plane| record.is_reached_by(plane)) => {
                coming.and(former)
            }
            (_, Some(former)) => TrustAnchors::from(former).and(coming.certifier().clone()),
        })
    };
    let trust = Trust {
        api: anchors(AuthorityKind::Api)?,
        kubernetes_serving: anchors(AuthorityKind::KubernetesServing)?,
        kubernetes_client: anchors(AuthorityKind::KubernetesClient)?,
    };
    Some(trust.bundle())
}

/// For operators.
pub fn shown(view: &View) -> Option<Rotation> {
    let record = view.rotation.as_ref()?;
    Some(Rotation {
        phase: match record.phase {
            RotationPhase::Sharing => keelson_api::RotationPhase::Sharing,
            RotationPhase::Certifying => keelson_api::RotationPhase::Certifying,
            RotationPhase::Dropping => keelson_api::RotationPhase::Dropping,
        },
        because: record.because.clone(),
        started: timestamp(record.started),
        awaits: record.awaits(view).map(str::to_owned).collect(),
        fingerprint: next_fingerprint(view).map(|fingerprint| fingerprint.to_string()),
    })
}

/// By what operators will know the cluster.
pub fn next_fingerprint(view: &View) -> Option<Fingerprint> {
    let generation = view.rotation.as_ref()?.generation.as_ref()?;
    let anchors = TrustAnchors::from_pem(generation.certificates.get(AuthorityKind::Api.name())?).ok()?;
    Some(Fingerprint::of(anchors.certifier()))
}

#[cfg(test)]
mod tests;
