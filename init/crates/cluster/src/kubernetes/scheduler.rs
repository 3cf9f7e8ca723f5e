//! kube-scheduler: loopback only, under its own account.

use keelson_config::Component;

use super::{KubernetesError, Settings, Wanted, client_files, controller_flags, controller_service};
use crate::accounts;

const COMPONENT: Component = Component::KubeScheduler;
const PORT: u16 = 10259;

pub(super) fn wanted(settings: Settings<'_>) -> Result<Wanted, KubernetesError> {
    let files = client_files(settings, COMPONENT)?;
    let flags = controller_flags(settings, COMPONENT);
    let spec = controller_service(settings, COMPONENT, &files, flags, (accounts::KUBE_SCHEDULER, PORT))?;
    Ok(Wanted { component: COMPONENT, files, spec })
}
