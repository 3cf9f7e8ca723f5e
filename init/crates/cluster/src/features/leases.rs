//! The leader leases of Kubernetes' controllers: who has the lead, and what to do about those that died or were removed.
//!
//! A controller that was killed, or whose machine lost power, leaves a lease that the next one waits for: half a minute in which
//! nothing is scheduled. The holder's name begins with this node's host name, and PID 1 knows that the process is gone, so nobody
//! has to wait. The lease is written only if it has not changed since it was read.

use serde_json::{Value, json};

use crate::client::{Client, ClientError};

/// Services and their leases have the same names.
pub const NAMES: [&str; 2] = [CONTROLLER_MANAGER, "kube-scheduler"];
const CONTROLLER_MANAGER: &str = "kube-controller-manager";

/// Who has the lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lead {
    Here,
    /// With the holder's identity.
    Elsewhere(String),
    /// It was given up, or never taken.
    Nowhere,
}

/// Where the kube-controller-manager is that leads. What one control plane has to do for all, that node's does: the lead is found
/// and lost without another election.
pub async fn lead(client: &Client, hostname: &str) -> Result<Lead, ClientError> {
    match client.get(&path(CONTROLLER_MANAGER)).await {
        Ok(lease) => Ok(lead_of(&lease, hostname)),
        Err(error) if error.is_not_found() => Ok(Lead::Nowhere),
        Err(error) => Err(error),
    }
}

fn lead_of(lease: &Value, hostname: &str) -> Lead {
    match lease.pointer("/spec/holderIdentity").and_then(Value::as_str) {
        None | Some("") => Lead::Nowhere,
        Some(holder) if is_of(holder, hostname) => Lead::Here,
        Some(holder) => Lead::Elsewhere(holder.to_owned()),
    }
}

/// Holders are called `HOSTNAME_UUID`.
fn is_of(holder: &str, hostname: &str) -> bool {
    holder.strip_prefix(hostname).and_then(|rest| rest.strip_prefix('_')).is_some_and(|process| !process.is_empty())
}

fn path(name: &str) -> String {
    format!("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/{name}")
}

/// Gives up the lease of `name` if a process of the host holds it. The caller knows that there is none, or that it may write no more.
pub async fn give_up(client: &Client, name: &str, hostname: &str) -> Result<(), ClientError> {
    let path = path(name);
    let held = match client.get(&path).await {
        Ok(held) => held,
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(error),
    };
    let Some(change) = release_patch(&held, hostname) else {
        return Ok(());
    };
    match client.merge(&path, &change).await {
        // Somebody has taken it already.
        Err(error) if error.is_conflict() => Ok(()),
        result => result.map(|_| ()),
    }
}

/// What releases `lease`, if it is held by a process of the host.
fn release_patch(lease: &Value, hostname: &str) -> Option<Value> {
    let holder = lease.pointer("/spec/holderIdentity")?.as_str()?;
    let version = lease.pointer("/metadata/resourceVersion")?.as_str()?;
    is_of(holder, hostname)
        .then(|| json!({ "metadata": { "resourceVersion": version }, "spec": { "holderIdentity": "" } }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str) -> Value {
        json!({ "metadata": { "resourceVersion": "7" }, "spec": { "holderIdentity": holder } })
    }

    #[test]
    fn a_lease_of_a_process_of_this_host_is_released_at_the_version_that_was_read() {
        let patch = release_patch(&lease("a_0d1e"), "a").unwrap();
        assert_eq!(patch["spec"]["holderIdentity"], "");
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
    }

    #[test]
    fn the_lead_is_here_elsewhere_or_nowhere() {
        assert_eq!(lead_of(&lease("a_0d1e"), "a"), Lead::Here);
        assert_eq!(lead_of(&lease("ab_0d1e"), "a"), Lead::Elsewhere("ab_0d1e".to_owned()));
        assert_eq!(lead_of(&lease(""), "a"), Lead::Nowhere);
        assert_eq!(lead_of(&json!({ "spec": {} }), "a"), Lead::Nowhere);
    }

    #[test]
    fn another_hosts_lease_is_left_alone() {
        assert!(release_patch(&lease("ab_0d1e"), "a").is_none());
        assert!(release_patch(&lease("b_0d1e"), "a").is_none());
        assert!(release_patch(&lease(""), "a").is_none());
    }
}
