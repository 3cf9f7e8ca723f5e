//! How features stand: what is wanted, from the records, beside what Kubernetes says that there is.
//!
//! No node tells others what it has applied of the network, and Kubernetes tells only of those that have none. So it is as it is wanted
//! once this control plane has applied it, and the answer names that one. The others hear of it within seconds, or when they are there
//! again.

use std::net::IpAddr;
use std::time::Duration;

use keelson_api::{Feature, FeatureChange, FeatureList, FeatureState, Node, NodeList};
use time::OffsetDateTime;
use tokio::time::timeout;

use super::departures::KUBERNETES_DEADLINE;
use super::members::{Powers, refusal};
use super::respond::{Refusal, with_causes};
use super::router::Context;
use super::sources::Answer;
use crate::features::dns::Deployed;
use crate::features::pod_network;
use crate::features::settings::{Dns, FeatureName};
use crate::registry::View;
use crate::status::ConditionKind;

/// A failure that is older needs somebody.
const LASTING: Duration = Duration::from_mins(1);

type Standing = (FeatureState, String);

pub(super) async fn list(context: &Context) -> Result<FeatureList, Refusal> {
    let powers = Powers::of(context)?;
    let view = powers.registry.refresh().await.map_err(|error| refusal(&error.into()))?;
    let describe = FeatureName::ALL.map(|feature| describe(context, feature, &view));
    Ok(FeatureList { features: futures::future::join_all(describe).await })
}

/// Answers with how it stands then, which is not yet how it was wanted.
pub(super) async fn change(
    context: &Context,
    name: &str,
    change: &FeatureChange,
    operator: &str,
) -> Result<Feature, Refusal> {
    let powers = Powers::of(context)?;
    let changed = powers.admission(context).change_feature(name, change, operator).await;
    let feature = changed.map_err(|error| refusal(&error))?;
    let view = powers.registry.refresh().await.map_err(|error| refusal(&error.into()))?;
    Ok(describe(context, feature, &view).await)
}

async fn describe(context: &Context, feature: FeatureName, view: &View) -> Feature {
    let record = feature.record(view);
    let (state, reason) = match feature {
        FeatureName::Dns => {
            let found = ask(context.nodes.dns()).await;
            dns(&Dns::of(view), found, failure(context, ConditionKind::DnsApplied))
        }
        FeatureName::Network => {
            let own = Own {
                name: context.node.name(),
                has_applied: pod_network::is_applied(&context.node.paths, record.enabled),
                failure: failure(context, ConditionKind::PodNetworkConfigured),
            };
            network(record.enabled, own, ask(context.nodes.nodes()).await)
        }
    };
    Feature { name: record.name.clone(), state, reason, settings: feature.describe(&record) }
}

/// What this control plane could not do for a feature. It goes on trying, and most of it passes by itself.
fn failure(context: &Context, kind: ConditionKind) -> Option<Standing> {
    let (reason, since) = context.node.status.failure(kind)?;
    let lasts = OffsetDateTime::now_utc() - since > LASTING;
    Some((if lasts { FeatureState::Failed } else { FeatureState::Waiting }, reason))
}

async fn ask<T>(asking: Answer<'_, T>) -> Result<T, String> {
    match timeout(KUBERNETES_DEADLINE, asking).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(with_causes(&error)),
        Err(_) => Err("Kubernetes' API did not answer in time".to_owned()),
    }
}

fn dns(wanted: &Dns, found: Result<Option<Deployed>, String>, failure: Option<Standing>) -> Standing {
    let unsettled = |reason: String| failure.unwrap_or((FeatureState::Waiting, reason));
    match (wanted.enabled, found) {
        (_, Err(reason)) => (FeatureState::Waiting, reason),
        (true, Ok(Some(found))) => {
            let replicas = format!("{} of {} replicas are ready", found.ready, found.replicas);
            let is_ready = found.ready >= found.replicas && found.ready > 0;
            match (awaited(wanted, &found), &wanted.upstream) {
                (Some(what), _) => unsettled(format!("{replicas}, and {what}")),
                (None, _) if !is_ready => unsettled(replicas),
                (None, Some(upstream)) => {
                    (FeatureState::Enabled, format!("{replicas}, and told to forward to {}", text(upstream)))
                }
                (None, None) => (FeatureState::Enabled, replicas),
            }
        }
        (true, Ok(None)) => unsettled("it is not deployed yet".to_owned()),
        (false, Ok(Some(_))) => unsettled("it is being removed".to_owned()),
        (false, Ok(None)) => (FeatureState::Disabled, "there is no DNS of the cluster's own".to_owned()),
    }
}

/// What of a change has not reached Kubernetes, or not its controllers.
fn awaited(wanted: &Dns, found: &Deployed) -> Option<&'static str> {
    if wanted.replicas.is_some_and(|replicas| replicas != found.replicas) {
        return Some("their number is being changed");
    }
    let is_told = match &wanted.upstream {
        Some(upstream) => found.upstream.as_ref() == Some(upstream),
        None => !found.is_upstream_said,
    };
    if !is_told {
        return Some("to whom they forward is being changed");
    }
    found.is_change_pending.then_some("Kubernetes has not begun with the last change")
}

fn text(upstream: &[IpAddr]) -> String {
    if upstream.is_empty() {
        return "nobody".to_owned();
    }
    upstream.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What this control plane has made of the network at its own node.
struct Own<'a> {
    name: &'a str,
    has_applied: bool,
    failure: Option<Standing>,
}

fn network(enabled: bool, own: Own<'_>, found: Result<NodeList, String>) -> Standing {
    let list = match found {
        Ok(list) => list,
        Err(reason) => return (FeatureState::Waiting, reason),
    };
    if !own.has_applied {
        return own.failure.unwrap_or_else(|| (FeatureState::Waiting, format!("{} is applying it", own.name)));
    }
    let (name, nodes) = (own.name, list.nodes.len());
    let waiting: Vec<_> = list.nodes.iter().filter_map(waits_for_network).collect();
    let (state, text) = match (enabled, waiting.is_empty()) {
        (true, true) => (FeatureState::Enabled, format!("{name} has it, and none of {nodes} nodes is without")),
        (true, false) => (FeatureState::Waiting, "some nodes have no network for pods yet".to_owned()),
        (false, true) => (FeatureState::Disabled, format!("{name} leaves pods to the network of another CNI plugin")),
        (false, false) => (FeatureState::Disabled, "some nodes wait for another CNI plugin".to_owned()),
    };
    match waiting.as_slice() {
        [] => (state, text),
        waiting => (state, format!("{text}: {}", waiting.join("; "))),
    }
}

/// In the runtime's words, which kubelet passes on.
fn waits_for_network(node: &Node) -> Option<String> {
    let ready = node.conditions.iter().find(|condition| condition.kind == "Ready").filter(|_| !node.ready)?;
    let about_network = ["NetworkPluginNotReady", "cni "].iter().any(|words| ready.reason.contains(words));
    about_network.then(|| format!("{}: {}", node.name, ready.reason))
}

#[cfg(test)]
mod tests {
    use keelson_api::{Condition, ConditionStatus};

    use super::*;

    fn deployed(replicas: u64, ready: u64) -> Deployed {
        Deployed { replicas, ready, ..Deployed::default() }
    }

    #[test]
    fn dns_is_what_is_wanted_and_there_or_says_why_not() {
        use FeatureState as S;
        let state = |enabled, found: Result<Option<(u64, u64)>, String>, failure: Option<&str>| {
            let wanted = Dns { enabled, replicas: None, upstream: None };
            let found = found.map(|found| found.map(|(replicas, ready)| deployed(replicas, ready)));
            dns(&wanted, found, failure.map(|reason| (S::Failed, reason.to_owned())))
        };
        assert_eq!(state(true, Ok(Some((2, 2))), None), (S::Enabled, "2 of 2 replicas are ready".to_owned()));
        assert_eq!(state(true, Ok(Some((2, 1))), None), (S::Waiting, "1 of 2 replicas are ready".to_owned()));
        assert_eq!(state(true, Ok(Some((0, 0))), None).0, S::Waiting);
        assert_eq!(state(true, Ok(None), None).0, S::Waiting);
        assert_eq!(state(true, Ok(None), Some("taken")), (S::Failed, "taken".to_owned()));
        assert_eq!(state(false, Ok(Some((2, 2))), None), (S::Waiting, "it is being removed".to_owned()));
        assert_eq!(state(false, Ok(None), Some("old")).0, S::Disabled);
        assert_eq!(state(true, Err("no answer".to_owned()), Some("old")), (S::Waiting, "no answer".to_owned()));
    }

    #[test]
    fn what_operators_have_just_said_of_dns_is_awaited() {
        use FeatureState as S;
        let address: IpAddr = "9.9.9.9".parse().unwrap();
        let wanted = |replicas, upstream| Dns { enabled: true, replicas, upstream };
        let three = wanted(Some(3), None);
        assert_eq!(dns(&three, Ok(Some(deployed(2, 2))), None).0, S::Waiting);
        assert_eq!(dns(&three, Ok(Some(deployed(3, 3))), None).0, S::Enabled);
        let pending = Deployed { is_change_pending: true, ..deployed(3, 3) };
        assert_eq!(dns(&three, Ok(Some(pending)), None).0, S::Waiting);

        let told = |upstream: Option<Vec<IpAddr>>| Deployed { upstream, is_upstream_said: true, ..deployed(1, 1) };
        let followed = Deployed { is_upstream_said: false, ..told(Some(vec![address])) };
        let said = wanted(None, Some(vec![address]));
        for found in [told(None), told(Some(Vec::new())), told(Some(vec![address, address]))] {
            assert_eq!(dns(&said, Ok(Some(found.clone())), None).0, S::Waiting, "{found:?}");
        }
        // Whoever has stated it, it is as it is wanted.
        for found in [told(Some(vec![address])), followed.clone()] {
            let (state, reason) = dns(&said, Ok(Some(found)), None);
            assert!(state == S::Enabled && reason.ends_with("told to forward to 9.9.9.9"), "{reason}");
        }
        // What follows from the control planes' own resolvers is theirs to know.
        let default = wanted(None, None);
        assert_eq!(dns(&default, Ok(Some(told(Some(vec![address])))), None).0, S::Waiting);
        assert_eq!(dns(&default, Ok(Some(followed)), None).0, S::Enabled);
        assert_eq!(dns(&wanted(None, Some(Vec::new())), Ok(Some(told(Some(Vec::new())))), None).0, S::Enabled);
    }

    fn node(name: &str, ready: bool, reason: &str) -> Node {
        Node {
            name: name.to_owned(),
            role: "worker".to_owned(),
            ready,
            unschedulable: false,
            addresses: Vec::new(),
            virtual_address: None,
            kubelet_version: String::new(),
            created: None,
            conditions: vec![Condition {
                kind: "Ready".to_owned(),
                status: if ready { ConditionStatus::True } else { ConditionStatus::False },
                reason: reason.to_owned(),
                since: None,
            }],
        }
    }

    #[test]
    fn the_network_names_the_nodes_that_have_none() {
        let without = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady";
        let list = |nodes: &[Node]| Ok(NodeList { nodes: nodes.to_vec() });
        let (a, b, c) = (node("a", true, "fine"), node("b", false, without), node("c", false, "disk pressure"));
        let network = |enabled, found| {
            let own = Own { name: "cp", has_applied: true, failure: None };
            network(enabled, own, found)
        };
        let (state, reason) = network(true, list(&[a.clone(), c]));
        assert_eq!((state, reason.as_str()), (FeatureState::Enabled, "cp has it, and none of 2 nodes is without"));
        let (state, reason) = network(true, list(&[a.clone(), b.clone()]));
        assert!(state == FeatureState::Waiting && reason.ends_with(&format!("b: {without}")), "{reason}");
        assert_eq!(network(false, list(&[a])).0, FeatureState::Disabled);
        let (state, reason) = network(false, list(&[b]));
        assert!(state == FeatureState::Disabled && reason.starts_with("some nodes wait"), "{reason}");
        assert_eq!(network(true, Err("no answer".to_owned())), (FeatureState::Waiting, "no answer".to_owned()));
    }

    #[test]
    fn the_network_is_as_it_is_wanted_once_this_control_plane_has_applied_it() {
        use FeatureState as S;
        for enabled in [true, false] {
            let standing = |failure: Option<Standing>| {
                let own = Own { name: "cp", has_applied: false, failure };
                network(enabled, own, Ok(NodeList { nodes: vec![node("cp", true, "fine")] }))
            };
            assert_eq!(standing(None), (S::Waiting, "cp is applying it".to_owned()));
            let failure = (S::Failed, "the disk is full".to_owned());
            assert_eq!(standing(Some(failure.clone())), failure);
        }
    }
}
