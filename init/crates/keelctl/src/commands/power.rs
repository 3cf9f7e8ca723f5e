//! `keelctl reboot` and `keelctl poweroff`.

use keelson_api::{PowerAccepted, PowerRequest, Status, paths};

use crate::{
    cli::Power,
    error::Error,
    output,
    progress::{self, Seen},
    session::Session,
};

pub(super) async fn reboot(mut session: Session, arguments: &Power) -> Result<(), Error> {
    let accepted = order(&mut session, paths::REBOOT, arguments).await?;
    if !arguments.wait {
        return output::line(&format!("{} reboots", session.context.name));
    }
    progress::wait(arguments.timeout, async || {
        let status: Status = session.get(paths::STATUS).await?;
        let is_back = status.boot_id != accepted.boot_id;
        Ok(if is_back { Seen::Done(()) } else { Seen::NotYet("the node is shutting down".to_owned()) })
    })
    .await?;
    output::line(&format!("{} is back; keelctl status --wait waits until it is ready", session.context.name))
}

pub(super) async fn power_off(mut session: Session, arguments: &Power) -> Result<(), Error> {
    order(&mut session, paths::POWER_OFF, arguments).await?;
    if !arguments.wait {
        return output::line(&format!("{} switches itself off", session.context.name));
    }
    progress::wait(arguments.timeout, async || match session.get::<Status>(paths::STATUS).await {
        Ok(_) => Ok(Seen::NotYet("the node is shutting down".to_owned())),
        Err(Error::Client { .. }) => Ok(Seen::Done(())),
        Err(error) => Err(error),
    })
    .await?;
    output::line(&format!("{} does not answer any more", session.context.name))
}

async fn order(session: &mut Session, path: &str, arguments: &Power) -> Result<PowerAccepted, Error> {
    session.post(path, &PowerRequest { reason: arguments.reason.clone() }).await
}
