//! PID 1 and this process: the set of services that goes there, reports of unhealthy ones, and what comes back of each.

use std::sync::Arc;
use std::time::Duration;

use keelson_control::{Client, ClientError, Event, ServiceName, ServiceSet, ServiceSpec, ServiceState, ServiceStatus};
use tokio::sync::mpsc;

use crate::features::leases;
use crate::node::{ControlError, Node};
use crate::report;
use crate::status::ConditionKind;

const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// How often the thread looks whether anybody still wants to know.
const EVENT_WAIT: Duration = Duration::from_mins(1);
/// Ends of controllers that nobody has dealt with yet; more of them say nothing new.
const ENDED_MAX: usize = 8;

/// Services of PID 1 whose state is one of the node's conditions.
const CONDITIONS: [(&str, ConditionKind); 2] =
    [("store", ConditionKind::StoreServing), ("containerd", ConditionKind::ContainerRuntimeReady)];

/// Hands over the whole set, as a newer version than the applied one.
pub async fn apply(node: &Node, services: Vec<ServiceSpec>) -> Result<keelson_control::Applied, ControlError> {
    node.control(move |mut client| {
        let present = client.list()?.set_version;
        client.apply_set(&ServiceSet { version: present + 1, services })
    })
    .await
}

/// For how long PID 1 has called a service ready; none if it does not, or cannot be asked.
pub async fn ready_for(node: &Node, service: &str) -> Option<Duration> {
    let status = node.control(|mut client| client.list()).await.ok()?;
    let ready = |one: &&ServiceStatus| one.name.as_str() == service && one.state == ServiceState::Ready;
    status.services.iter().find(ready).map(|one| Duration::from_millis(one.in_state_milliseconds))
}

/// Tells PID 1 that a service answers its probes no longer; what follows is PID 1's decision.
pub async fn report_unhealthy(node: &Node, service: &str, reason: &str) -> Result<(), ControlError> {
    // The names of our own services are always well formed.
    let Ok(service) = ServiceName::new(service) else {
        return Ok(());
    };
    let reason = reason.to_owned();
    node.control(move |mut client| client.report_unhealthy(&service, &reason)).await
}

/// Follows what PID 1 says of the services, on a thread because the client blocks. What is received are the controllers
/// ([`leases::NAMES`]) whose process has just ended, in the beginning of a shutdown too: another control plane's lead then.
pub fn follow(node: &Arc<Node>) -> mpsc::Receiver<&'static str> {
    let (sender, receiver) = mpsc::channel(ENDED_MAX);
    let node = Arc::clone(node);
    let work = move || {
        loop {
            if let Err(error) = follow_once(&node, &sender) {
                report::error(&error);
            }
            std::thread::park_timeout(RECONNECT_PAUSE);
        }
    };
    if let Err(error) = std::thread::Builder::new().name("services".to_owned()).spawn(work) {
        report::error(&error);
    }
    receiver
}

fn follow_once(node: &Node, ended: &mpsc::Sender<&'static str>) -> Result<(), ClientError> {
    let connect = || Client::connect(node.paths.control_socket(), "keelson-cluster services");
    // The subscription first, so that nothing happens between it and the list.
    let mut events = connect()?.subscribe()?;
    for service in connect()?.list()?.services {
        tell(node, &service.name, service.state, service.waiting_for.or(service.reason));
    }
    loop {
        if let Some(Event::Service { service, state, reason, .. }) = events.next(EVENT_WAIT)? {
            tell(node, &service, state, reason);
            let name = leases::NAMES.into_iter().find(|name| *name == service.as_str());
            if let (Some(name), ServiceState::Backoff | ServiceState::Waiting | ServiceState::Stopped) = (name, state) {
                // A full queue holds the name already.
                let _ = ended.try_send(name);
            }
        }
    }
}

fn tell(node: &Node, service: &ServiceName, state: ServiceState, reason: Option<String>) {
    let Some((_, kind)) = CONDITIONS.into_iter().find(|(name, _)| *name == service.as_str()) else {
        return;
    };
    let state_words = match state {
        ServiceState::Ready => return node.status.holds(kind, format!("{service} is ready")),
        ServiceState::Stopped => "is stopped",
        ServiceState::Waiting => "waits",
        ServiceState::Starting => "is starting",
        ServiceState::Stopping => "is being stopped",
        ServiceState::Backoff => "ended and is started again",
        ServiceState::Done => "has ended",
        ServiceState::Failed => "was given up",
    };
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    node.status.fails(kind, format!("{service} {state_words}{reason}"));
}
