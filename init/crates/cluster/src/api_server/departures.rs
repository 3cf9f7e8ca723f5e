//! Cordon, drain, removal.

use std::time::Duration;

use keelson_api::{Denial, DrainStep, ErrorCode, EventKind, NodeOrdered, RemovalOrder};
use tokio::time::timeout;

use super::members::{Powers, refusal};
use super::respond::{Refusal, with_causes};
use super::router::Context;
use super::sources::NodeSourceError;
use crate::admission::Gone;

/// Below the deadline of an answer, so that what was done is told.
pub(super) const KUBERNETES_DEADLINE: Duration = Duration::from_secs(15);

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
    set_unschedulable(context, name, true, operator).await?;
    let step = within(context.nodes.drain(name)).await?;
    if step.remaining.is_empty() {
        let powers = Powers::of(context)?;
        tell(context, &powers, EventKind::NodeDrained, name, operator, "is drained").await;
    }
    Ok(step)
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
    let removal = powers.admission(context).remove(name, operator, order.force).await;
    let Gone { uid, lost } = removal.map_err(|error| refusal(&error))?;
    crate::report::info(format!("{name} ({uid}) was removed by {operator}"));
    if !lost.is_empty() {
        crate::report::info(format!("{} did not answer and went with it", lost.join(", ")));
    }
    // What API servers deny follows from the view.
    powers.renew_view().await;
    let pending = match timeout(KUBERNETES_DEADLINE, context.nodes.clean(name)).await {
        Ok(Ok(()) | Err(NodeSourceError::NotFound)) => String::new(),
        Ok(Err(error)) => format!("its Node and Pods are deleted later: {}", with_causes(&error)),
        Err(_) => "its Node and Pods are being deleted".to_owned(),
    };
    Ok(NodeOrdered { name: name.to_owned(), pending, lost })
}

/// Whom kube-apiserver asks about here was removed; there is no other answer.
pub(super) fn deny() -> Denial {
    Denial::of_removed_node()
}

async fn within<T>(asking: super::sources::Answer<'_, T>) -> Result<T, Refusal> {
    match timeout(KUBERNETES_DEADLINE, asking).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error @ NodeSourceError::NotFound)) => Err(Refusal::because(ErrorCode::NotFound, &error)),
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
