//! `keelctl authorities`: exchanges what the cluster's certificates are signed by.

use keelson_api::{EventKind, EventList, NodeOrder, Rotation, RotationPhase, Status, paths};

use crate::{
    cli,
    error::Error,
    output::{self, clean},
    progress::{self, Seen},
    session::Session,
};

pub(super) async fn run(mut session: Session, arguments: &cli::Authorities) -> Result<(), Error> {
    let cli::Authorities::Rotate { wait, timeout } = arguments;
    let rotation: Rotation = session.post(paths::AUTHORITY_ROTATION, &NodeOrder {}).await?;
    if *wait {
        progress::wait(*timeout, async || look(&mut session).await).await?;
        return output::line("the cluster's authorities, its certificates and the key of its Secrets are new");
    }
    output::line(&clean(&format!("the cluster's authorities are {}", exchanged(&rotation))))
}

/// A process that begins anew knows of no exchange at first, so the end is told by its event, too.
async fn look(session: &mut Session) -> Result<Seen<()>, Error> {
    let status: Status = session.get(paths::STATUS).await?;
    if let Some(rotation) = status.rotation {
        return Ok(Seen::NotYet(clean(&exchanged(&rotation))));
    }
    let EventList { events } = session.get(paths::EVENTS).await?;
    let last = |kind| events.iter().rev().find(|event| event.kind == kind).map(|event| event.revision);
    let is_over = last(EventKind::AuthorityRotationFinished) > last(EventKind::AuthorityRotationStarted);
    Ok(if is_over { Seen::Done(()) } else { Seen::NotYet("the node has not heard of it yet".to_owned()) })
}

/// How far it is.
pub(super) fn exchanged(rotation: &Rotation) -> String {
    let phase = match rotation.phase {
        RotationPhase::Sharing => "all nodes come to believe the new ones",
        RotationPhase::Certifying => "the new ones certify, and Secrets are encrypted anew",
        RotationPhase::Dropping => "the former ones are believed no more",
        RotationPhase::Unknown => "in a phase that this keelctl does not know",
    };
    let because = rotation.because.as_ref().map(|name| format!(" because of {name}")).unwrap_or_default();
    let awaits =
        if rotation.awaits.is_empty() { String::new() } else { format!("; awaits {}", rotation.awaits.join(", ")) };
    format!("being exchanged{because}: {phase}{awaits}")
}
