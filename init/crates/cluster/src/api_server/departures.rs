//! Cordon, drain, removal.

use std::time::Duration;

use keelson_api::{Denial, DrainStep, ErrorCode, EventKind, NodeOrdered, RemovalOrder};
use tokio::time::timeout;

use super::members::{Powers, refusal};
use super::respond::{Refusal, with_causes};
use super::router::Context;
use super::sources::NodeSourceError;
use crate::admission::Gone;
use crate::registry::NodeRecord;

/// Below the deadline of an answer, so that what was done is told.
pub(super) const KUBERNETES_DEADLINE: Duration = Duration::from_secs(15);

/// Of a control plane.
const EXCHANGED: &str = "the cluster's authorities and the key of its Secrets are being exchanged (keelctl status); all join tokens are \
    void, but for those that were made offline and never used (keelctl token revoke); what stands in Secrets and in registries' \
    credentials it could read, and only you can replace that";
/// A worker knows no key that others use.
const LEFT_TO_OPERATORS: &str = "all join tokens are void, but for those that were made offline and never used (keelctl token revoke); \
    its pods' Secrets and registries' credentials it could read, and only you can replace those";

/// What is so already is done, and no event.
pub(super) async fn set_unschedulable(
    context: &Context,
    name: &str,
    unschedulable: bool,
    operator: &str,
) -> Result<NodeOrdered, Refusal> {
    check_name(name)?;
    let powers = Powers::of(context)?;
    if within(context.nodes.set_unschedulable(name, unschedulable)).await? {
        let (kind, what) = if unschedulable {
            (EventKind::NodeCordoned, "gets no new pods")
        } else {
            (EventKind::NodeUncordoned, "gets pods again")
        };
        tell(context, &powers, kind, name, operator, what).await;
    }
    Ok(NodeOrdered { name: name.to_owned(), pending: String::new(), lost: Vec::new() })
}

/// Each drain is told once, with its last step.
pub(super) async fn drain(context: &Context, name: &str, operator: &str) -> Result<DrainStep, Refusal> {
    if let Err(refusal) = set_unschedulable(context, name, true, operator).await {
        // No pod is on a member that its kubelet has not registered.
        if refusal.body.code == ErrorCode::NotFound && is_member(context, name).await? {
            return Ok(DrainStep { name: name.to_owned(), remaining: Vec::new() });
        }
        return Err(refusal);
    }
    let step = within(context.nodes.drain(name)).await?;
    if step.remaining.is_empty() {
        let powers = Powers::of(context)?;
        tell(context, &powers, EventKind::NodeDrained, name, operator, "is drained").await;
    }
    Ok(step)
}

async fn is_member(context: &Context, name: &str) -> Result<bool, Refusal> {
    let record = Powers::of(context)?.registry.get::<NodeRecord>(name).await;
    Ok(record.map_err(|error| refusal(&error.into()))?.is_some())
}

/// Kubernetes has done it, so an event that cannot be written is no reason to refuse.
async fn tell(context: &Context, powers: &Powers, kind: EventKind, name: &str, operator: &str, what: &str) {
    if let Err(error) = powers.admission(context).tell(kind, name, operator, format!("{name} {what}")).await {
        crate::report::error(&error);
    }
}

/// The identity is denied when this answers. Kubernetes' objects are deleted now if its API answers, and otherwise by
/// [`crate::features`] as soon as it does.
pub(super) async fn remove(
    context: &Context,
    name: &str,
    order: RemovalOrder,
    operator: &str,
) -> Result<NodeOrdered, Refusal> {
    let powers = Powers::of(context)?;
    let removal = powers.admission(context).remove(name, operator, order).await;
    let Gone { uid, lost, rotating } = removal.map_err(|error| refusal(&error))?;
    if order.dry_run {
        return Ok(NodeOrdered { name: name.to_owned(), pending: String::new(), lost });
    }
    crate::report::info(format!("{name} ({uid}) was removed by {operator}"));
    if !lost.is_empty() {
        crate::report::info(format!("{} did not answer and went with it", lost.join(", ")));
    }
    // What API servers deny follows from the view.
    powers.renew_view().await;
    let mut pending = match timeout(KUBERNETES_DEADLINE, context.nodes.clean(name)).await {
        Ok(Ok(()) | Err(NodeSourceError::NotFound)) => String::new(),
        Ok(Err(error)) => format!("its Node and Pods are deleted later: {}", with_causes(&error)),
        Err(_) => "its Node and Pods are being deleted".to_owned(),
    };
    if order.compromised {
        let known = if rotating { EXCHANGED } else { LEFT_TO_OPERATORS };
        pending = [pending.as_str(), known].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
    }
    Ok(NodeOrdered { name: name.to_owned(), pending, lost })
}

/// Whom kube-apiserver asks about here was removed; there is no other answer.
pub(super) fn deny() -> Denial {
    Denial::of_removed_node()
}

async fn within<T>(asking: super::sources::Answer<'_, T>) -> Result<T, Refusal> {
    match timeout(KUBERNETES_DEADLINE, asking).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error @ NodeSourceError::NotFound)) => Err(Refusal::because(ErrorCode::NotFound, &error).about("name")),
        Ok(Err(error @ NodeSourceError::Unavailable(_))) => Err(Refusal::because(ErrorCode::Unavailable, &error)),
        Ok(Err(error)) => Err(Refusal::because(ErrorCode::Internal, &error)),
        Err(_) => Err(Refusal::new(ErrorCode::Timeout, "Kubernetes' API did not answer in time")),
    }
}

/// It becomes part of a path of Kubernetes' API.
fn check_name(name: &str) -> Result<(), Refusal> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    if name.bytes().all(allowed) && !name.starts_with('.') {
        return Ok(());
    }
    Err(Refusal::invalid("name", format!("{name:?} cannot be a node's name")))
}
