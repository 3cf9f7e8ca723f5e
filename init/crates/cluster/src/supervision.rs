//! Handing the services to PID 1, and what it tells us about them.

use keelson_control::{ServiceName, ServiceSet, ServiceSpec};

use crate::node::{ControlError, Node};

/// Hands over the whole set, as a newer version than the applied one.
pub async fn apply(node: &Node, services: Vec<ServiceSpec>) -> Result<keelson_control::Applied, ControlError> {
    node.control(move |mut client| {
        let present = client.list()?.set_version;
        client.apply_set(&ServiceSet { version: present + 1, services })
    })
    .await
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
