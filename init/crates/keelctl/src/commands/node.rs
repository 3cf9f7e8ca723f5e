//! `keelctl node`: what is done with one node.

use std::time::Duration;

use keelson_api::{DrainStep, NodeOrder, NodeOrdered, RemovalOrder, paths};

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
            let name = &arguments.drain.name;
            if !arguments.force && !arguments.compromised {
                drain(&mut session, name, arguments.drain.timeout).await?;
            }
            let order = RemovalOrder { force: arguments.force, compromised: arguments.compromised };
            remove(&mut session, name, order).await
        }
    }
}

async fn order(session: &mut Session, template: &str, name: &str, done: &str) -> Result<(), Error> {
    let ordered: NodeOrdered = session.post(&paths::node(template, name), &NodeOrder {}).await?;
    output::line(&format!("{} {done}{}", ordered.name, pending(&ordered)))
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
