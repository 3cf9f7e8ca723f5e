//! The leaves that this node has: whom they name, and when they end and are renewed.
//!
//! They are read where the components read them. What lives for a day and in memory only, keelson-cluster's own identities
//! at the store and at Kubernetes, is made anew before it ends and is not listed.

use std::path::Path;

use keelson_api::{CertificateSubject, Identities, NodeCertificate, NodeCertificateList};
use keelson_pki::validity::LEAF_LIFE;
use keelson_pki::{AuthorityKind, Files as _, Pair, StandardFiles};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use super::{respond::Refusal, router::Context};
use crate::credentials::{Circumstances, Credential};
use crate::node::{Member, Node};
use crate::worker::{self, Worker};

/// What its API serves with, on every node.
const API_SERVING: &str = "cluster/api-serving";

pub(super) fn list(context: &Context) -> Result<NodeCertificateList, Refusal> {
    let (node, member) = (&*context.node, context.member()?);
    let (cluster, addresses) = (node.cluster(), node.addresses());
    let circumstances = Circumstances { identity: &member.identity, cluster: &cluster, addresses: &addresses };
    let certificates = match &member.worker {
        Some(worker) => of_worker(node, worker, circumstances),
        None => of_control_plane(node, &member, circumstances),
    };
    Ok(NodeCertificateList { certificates })
}

fn of_control_plane(node: &Node, member: &Member, circumstances: Circumstances<'_>) -> Vec<NodeCertificate> {
    let serving = member.api_serving();
    let own = shown(API_SERVING, None, &serving.borrow(), AuthorityKind::Api, LEAF_LIFE);
    let credentials = circumstances.store().into_iter().chain(circumstances.kubernetes());
    own.into_iter().chain(credentials.filter_map(|credential| of_file(node, &credential))).collect()
}

/// One that is not there yet, or damaged, is made at the next look at all of them.
fn of_file(node: &Node, credential: &Credential) -> Option<NodeCertificate> {
    let path = node.paths.service(credential.service).join(credential.file);
    let pair = Pair::from_file(&StandardFiles.read(&path).ok()??).ok()?;
    let purpose = format!("{}/{}", credential.service, credential.file.trim_end_matches(".pem"));
    shown(&purpose, Some(&path), &pair, credential.authority, credential.profile.life)
}

fn of_worker(node: &Node, worker: &Worker, circumstances: Circumstances<'_>) -> Vec<NodeCertificate> {
    let Some(pairs) = worker.pairs_now() else { return Vec::new() };
    let purposes = Identities {
        node: "cluster/node",
        api_serving: API_SERVING,
        kubelet_client: "kubelet/client",
        kubelet_serving: "kubelet/serving",
        kube_proxy: "kube-proxy/client",
        network_reconciler: "cluster/network-reconciler",
    };
    let files = worker::pair_files(&node.paths);
    let leaves = purposes.zip(files).zip(circumstances.node_identities()).zip(pairs.each_ref()).into_array();
    let mut certificates = Vec::new();
    for (((purpose, file), (authority, profile)), pair) in leaves {
        certificates.extend(shown(purpose, Some(&file), pair, authority, profile.life));
    }
    certificates
}

fn shown(
    purpose: &str,
    file: Option<&Path>,
    pair: &Pair,
    authority: AuthorityKind,
    life: Duration,
) -> Option<NodeCertificate> {
    let (validity, subject) = (pair.validity().ok()?, pair.subject()?);
    Some(NodeCertificate {
        purpose: purpose.to_owned(),
        file: file.map(|file| file.display().to_string()),
        subject: CertificateSubject {
            common_name: subject.common_name,
            organization: subject.organization,
            uid: subject.uid,
        },
        authority: authority.name().to_owned(),
        not_before: moment(validity.not_before),
        not_after: moment(validity.not_after),
        renewal: moment(validity.renewal(life)),
    })
}

fn moment(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_default()
}
