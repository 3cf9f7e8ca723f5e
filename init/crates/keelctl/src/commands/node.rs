//! `keelctl node`: what is done with one node.
//!
//! What a removal would be refused for is asked before the node is drained, so that no pod goes in vain. If it is refused after all,
//! the node is left as it was found: with its pods gone, and open to new ones.

use std::time::Duration;

use keelson_api::{DrainStep, ErrorCode, NodeList, NodeOrder, NodeOrdered, RemovalOrder, paths};

use crate::{
    cli,
    error::Error,
    output,
    progress::{self, Seen},
    session::Session,
};

pub(super) async fn run(mut session: Session, arguments: &cli::Node) -> Result<(), Error> {
    match arguments {
        cli::Node::Cordon { name } => order(&mut session, paths::NODE_CORDON, name, "gets no new pods").await,
        cli::Node::Uncordon { name } => order(&mut session, paths::NODE_UNCORDON, name, "gets pods again").await,
        cli::Node::Drain(arguments) => {
            drain(&mut session, &arguments.name, arguments.timeout).await?;
            output::line(&format!("{} is drained", arguments.name))
        }
        cli::Node::Remove(arguments) => {
            let order = RemovalOrder { force: arguments.force, compromised: arguments.compromised, dry_run: false };
            if arguments.force || arguments.compromised {
                return remove(&mut session, &arguments.drain.name, order).await;
            }
            remove_in_order(&mut session, &arguments.drain, order).await
        }
    }
}

async fn order(session: &mut Session, template: &str, name: &str, done: &str) -> Result<(), Error> {
    let ordered: NodeOrdered = session.post(&paths::node(template, name), &NodeOrder {}).await?;
    output::line(&format!("{} {done}{}", ordered.name, pending(&ordered)))
}

async fn remove_in_order(session: &mut Session, arguments: &cli::Drain, order: RemovalOrder) -> Result<(), Error> {
    let name = &arguments.name;
    check_removal(session, name, order).await?;
    let was_open = is_open(session, name).await;
    drain(session, name, arguments.timeout).await?;
    let removed = remove(session, name, order).await;
    if was_open && removed.as_ref().is_err_and(is_refusal) {
        let path = paths::node(paths::NODE_UNCORDON, name);
        let opened: Result<NodeOrdered, Error> = session.post(&path, &NodeOrder {}).await;
        output::note(&match opened {
            Ok(_) => format!("{name} was drained in vain, and gets pods again"),
            Err(error) => format!("{name} was drained in vain, and is cordoned still: {}", output::with_causes(&error)),
        });
    }
    removed
}

/// Asks whether the removal would be refused.
async fn check_removal(session: &mut Session, name: &str, order: RemovalOrder) -> Result<(), Error> {
    let order = RemovalOrder { dry_run: true, ..order };
    let asked: Result<NodeOrdered, Error> = session.post(&paths::node(paths::NODE_REMOVAL, name), &order).await;
    match asked {
        Err(error) if !is_of_older_release(&error) => Err(error),
        _ => Ok(()),
    }
}

/// A control plane of an older release cannot be asked beforehand: it refuses the field that it does not know.
fn is_of_older_release(error: &Error) -> bool {
    let Error::Answer { body, .. } = error else { return false };
    body.code == ErrorCode::Invalid && body.field.as_deref() == Some("dryRun")
}

/// Whether nobody keeps new pods away from the node. While Kubernetes does not say, somebody may.
async fn is_open(session: &mut Session, name: &str) -> bool {
    let list: Result<NodeList, Error> = session.get(paths::NODES).await;
    list.is_ok_and(|list| list.nodes.iter().any(|node| node.name == name && !node.unschedulable))
}

/// Whether it was not done. Of what has got no answer, nobody knows.
fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Answer { body, .. } if body.code.status() < 500)
}

async fn remove(session: &mut Session, name: &str, order: RemovalOrder) -> Result<(), Error> {
    let ordered: NodeOrdered = session.post(&paths::node(paths::NODE_REMOVAL, name), &order).await?;
    output::line(&format!("{} is removed{}", ordered.name, pending(&ordered)))?;
    if ordered.lost.is_empty() {
        return Ok(());
    }
    output::line(&format!(
        "{} did not answer and had to go with it: switch them off, and let them join again with new tokens",
        ordered.lost.join(", ")
    ))
}

fn pending(ordered: &NodeOrdered) -> String {
    if ordered.pending.is_empty() { String::new() } else { format!("; {}", ordered.pending) }
}

/// One step after the other, telling what is left.
async fn drain(session: &mut Session, name: &str, timeout: Duration) -> Result<(), Error> {
    progress::wait(timeout, async || {
        let step: DrainStep = session.post(&paths::node(paths::NODE_DRAIN, name), &NodeOrder {}).await?;
        Ok(match step.remaining.first() {
            None => Seen::Done(()),
            Some(first) => {
                Seen::NotYet(format!("{} pods are left; {}: {}", step.remaining.len(), first.pod, first.reason))
            }
        })
    })
    .await
}

#[cfg(test)]
mod tests {
    use keelson_api::ErrorBody;

    use super::*;

    fn answer(body: ErrorBody) -> Error {
        Error::Answer { endpoint: "https://192.0.2.1:6400".to_owned(), body }
    }

    #[test]
    fn a_control_plane_that_cannot_be_asked_beforehand_is_told_from_one_that_refuses() {
        assert!(is_of_older_release(&answer(ErrorBody::invalid("dryRun", "unknown field `dryRun`"))));
        assert!(!is_of_older_release(&answer(ErrorBody::invalid("name", "the only control plane"))));
        assert!(!is_of_older_release(&answer(ErrorBody::new(ErrorCode::Conflict, "no quorum"))));
    }

    #[test]
    fn a_removal_in_earnest_says_nothing_that_an_older_release_does_not_know() {
        let order = |dry_run| serde_json::to_value(RemovalOrder { dry_run, ..RemovalOrder::default() }).unwrap();
        assert_eq!(order(false).get("dryRun"), None);
        assert_eq!(order(true).get("dryRun"), Some(&true.into()));
    }

    #[test]
    fn only_what_was_certainly_not_done_is_a_refusal() {
        assert!(is_refusal(&answer(ErrorBody::new(ErrorCode::Conflict, "no quorum"))));
        assert!(!is_refusal(&answer(ErrorBody::new(ErrorCode::Timeout, "it took too long"))));
        let source = crate::client::ClientError::AnswerTimeout;
        assert!(!is_refusal(&Error::Client { endpoint: String::new(), source }));
    }
}
