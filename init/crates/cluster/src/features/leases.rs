//! Releases the leader leases of controllers that died on this node.
//!
//! A controller that was killed, or whose machine lost power, leaves a lease that the next one waits for: half a minute in which
//! nothing is scheduled. The holder's name begins with this node's host name, and PID 1 knows that the process is gone, so nobody
//! has to wait. The lease is written only if it has not changed since it was read.

use serde_json::{Value, json};

use crate::client::{Client, ClientError};

/// Services and their leases have the same names.
pub const NAMES: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];

/// Gives up the lease of `name` if a process of this node holds it. The caller knows that there is none.
pub async fn give_up(client: &Client, name: &str, hostname: &str) -> Result<(), ClientError> {
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/{name}");
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
    let process = holder.strip_prefix(hostname)?.strip_prefix('_')?;
    (!process.is_empty())
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
    fn another_hosts_lease_is_left_alone() {
        assert!(release_patch(&lease("ab_0d1e"), "a").is_none());
        assert!(release_patch(&lease("b_0d1e"), "a").is_none());
        assert!(release_patch(&lease(""), "a").is_none());
    }
}
