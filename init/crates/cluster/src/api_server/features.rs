//! How features stand: what is wanted, from the records, beside what Kubernetes says that there is.

use std::time::Duration;

use keelson_api::{Feature, FeatureChange, FeatureList, FeatureState, Node, NodeList};
use time::OffsetDateTime;
use tokio::time::timeout;

use super::departures::KUBERNETES_DEADLINE;
use super::members::{Powers, refusal};
use super::respond::{Refusal, with_causes};
use super::router::Context;
use super::sources::Answer;
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
            dns(&Dns::of(view), found, failure(context))
        }
        FeatureName::Network => network(record.enabled, ask(context.nodes.nodes()).await),
    };
    Feature { name: record.name.clone(), state, reason, settings: feature.describe(&record) }
}

/// What this control plane could not do for DNS. It goes on trying, and most of it passes by itself.
fn failure(context: &Context) -> Option<Standing> {
    let (reason, since) = context.node.status.failure(ConditionKind::DnsApplied)?;
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

/// `found` are replicas that Kubernetes is told of and those that are ready.
fn dns(wanted: &Dns, found: Result<Option<(u64, u64)>, String>, failure: Option<Standing>) -> Standing {
    let unsettled = |reason: String| failure.unwrap_or((FeatureState::Waiting, reason));
    match (wanted.enabled, found) {
        (_, Err(reason)) => (FeatureState::Waiting, reason),
        (true, Ok(Some((told, ready)))) if wanted.replicas.is_some_and(|replicas| replicas != told) => {
            unsettled(format!("{ready} of {told} replicas are ready, and their number is being changed"))
        }
        (true, Ok(Some((told, ready)))) if ready >= told && ready > 0 => {
            (FeatureState::Enabled, format!("{ready} of {told} replicas are ready"))
        }
        (true, Ok(Some((told, ready)))) => unsettled(format!("{ready} of {told} replicas are ready")),
        (true, Ok(None)) => unsettled("it is not deployed yet".to_owned()),
        (false, Ok(Some(_))) => unsettled("it is being removed".to_owned()),
        (false, Ok(None)) => (FeatureState::Disabled, "there is no DNS of the cluster's own".to_owned()),
    }
}

fn network(enabled: bool, found: Result<NodeList, String>) -> Standing {
    let list = match found {
        Ok(list) => list,
        Err(reason) => return (FeatureState::Waiting, reason),
    };
    let waiting: Vec<_> = list.nodes.iter().filter_map(waits_for_network).collect();
    let (state, text) = match (enabled, waiting.is_empty()) {
        (true, true) => (FeatureState::Enabled, format!("{} nodes have it", list.nodes.len())),
        (true, false) => (FeatureState::Waiting, "some nodes have no network for pods yet".to_owned()),
        (false, true) => (FeatureState::Disabled, "pods have the network of another CNI plugin".to_owned()),
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

    #[test]
    fn dns_is_what_is_wanted_and_there_or_says_why_not() {
        use FeatureState as S;
        let state = |enabled, found, failure: Option<&str>| {
            let wanted = Dns { enabled, replicas: None, upstream: None };
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
        // What operators have just said has not reached Kubernetes.
        let three = Dns { enabled: true, replicas: Some(3), upstream: None };
        assert_eq!(dns(&three, Ok(Some((2, 2))), None).0, S::Waiting);
        assert_eq!(dns(&three, Ok(Some((3, 3))), None).0, S::Enabled);
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
        assert_eq!(network(true, list(&[a.clone(), c])), (FeatureState::Enabled, "2 nodes have it".to_owned()));
        let (state, reason) = network(true, list(&[a.clone(), b.clone()]));
        assert!(state == FeatureState::Waiting && reason.ends_with(&format!("b: {without}")), "{reason}");
        assert_eq!(network(false, list(&[a])).0, FeatureState::Disabled);
        let (state, reason) = network(false, list(&[b]));
        assert!(state == FeatureState::Disabled && reason.starts_with("some nodes wait"), "{reason}");
        assert_eq!(network(true, Err("no answer".to_owned())), (FeatureState::Waiting, "no answer".to_owned()));
    }
}
