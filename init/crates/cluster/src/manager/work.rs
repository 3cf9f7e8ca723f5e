//! Everything that others read, as one function of the circumstances.

use std::net::IpAddr;
use std::sync::Arc;

use keelson_config::Scopes;
use keelson_control::ServiceSpec;
use keelson_pki::{AuthorityKind, Files};

use super::ReconcileError;
use crate::configuration;
use crate::credentials::{self, Circumstances};
use crate::departed::DENIED_FOR;
use crate::kubernetes::{self, Settings};
use crate::membership::{ControlPlane, Membership};
use crate::node::{Member, Node};
use crate::operators;
use crate::registry::Registry;
use crate::report;
use crate::store::{self, peers::Peers};
use crate::worker::{self, Worker};

pub(super) struct Work {
    pub node: Arc<Node>,
    pub files: Arc<dyn Files>,
    pub membership: Arc<Membership>,
    pub registry: Option<Arc<Registry>>,
    pub worker: Option<Arc<Worker>>,
    /// What operators have said, as far as it is known.
    pub scopes: Option<Scopes>,
    pub addresses: Vec<IpAddr>,
}

impl Work {
    /// The services need an address; without one there are none yet.
    pub(super) fn write_configuration(&self) -> Result<Option<Vec<ServiceSpec>>, ReconcileError> {
        let (node, files) = (&*self.node, &*self.files);
        if let Some(scopes) = &self.scopes
            && let Err(error) = configuration::save(files, &node.paths, scopes)
        {
            // The certificates below do not wait for a disk that is full.
            report::error(&error);
        }
        if let Some(worker) = &self.worker {
            node.set_cluster(worker::joined_configuration(node.started(), &worker.settings_now())?.cluster);
        }
        // kubelet registers its Node with labels and taints once: later ones are none of its concern.
        let mut config = node.started().clone();
        config.cluster = (*node.cluster()).clone();
        let identity = &self.membership.identity;
        let circumstances = Circumstances { identity, cluster: &config.cluster, addresses: &self.addresses };
        if let Some(held) = self.membership.control_plane() {
            let peers = Peers::read(files, &node.paths)?;
            store::configure(files, &node.paths, held, circumstances, &peers, node.clock())?;
            self.renew_api_serving(held, circumstances)?;
        } else {
            self.serve_as_worker();
        }
        let Some(address) = self.addresses.first().copied() else {
            return Ok(None);
        };
        let settings = Settings {
            paths: &node.paths,
            config: &config,
            membership: &self.membership,
            address,
            addresses: &self.addresses,
            api_server_url: kubernetes::PROXY_URL,
            removed: &self.removed(),
        };
        let services = kubernetes::configure(files, settings, node.clock())?;
        if let Some(pairs) = self.worker.as_ref().and_then(|worker| worker.pairs_now()) {
            worker::deliver(files, &node.paths, &pairs)?;
        }
        Ok(Some(services))
    }

    /// Those whose certificates have not all expired, operators by the ids of their keys. In the order of the records, so that a file
    /// changes with them only.
    fn removed(&self) -> Vec<String> {
        let Some(view) = self.registry.as_ref().and_then(|registry| registry.view_now()) else { return Vec::new() };
        let now = self.node.clock().now;
        let since = (now - DENIED_FOR).unix_timestamp();
        let nodes = view.removed.values().filter(|record| record.removed > since).map(|record| record.uid.clone());
        nodes.chain(operators::removed_of_late(&view, now)).collect()
    }

    fn renew_api_serving(&self, held: &ControlPlane, circumstances: Circumstances<'_>) -> Result<(), ReconcileError> {
        let (clock, profile) = (self.node.clock(), circumstances.api_profile());
        let authority = held.authorities.get(AuthorityKind::Api);
        let issue = || authority.issue(&profile, clock).map(Arc::new).map_err(ReconcileError::Api);
        match self.node.member_now() {
            None => {
                let member = Member::new(Arc::clone(&self.membership), issue()?);
                let member = match &self.registry {
                    Some(registry) => member.with_registry(Arc::clone(registry)),
                    None => member,
                };
                self.node.set_member(Arc::new(member));
            }
            Some(member) => {
                let current = credentials::is_current(&member.api_serving().borrow(), &profile, authority, clock);
                if !current {
                    member.set_api_serving(issue()?);
                }
            }
        }
        Ok(())
    }

    /// The certificate for this process' own API is one of those that the control planes gave.
    fn serve_as_worker(&self) {
        let Some(worker) = &self.worker else { return };
        let Some(pairs) = worker.pairs_now() else { return };
        match self.node.member_now() {
            None => {
                let member = Member::new(Arc::clone(&self.membership), Arc::clone(&pairs.api_serving));
                self.node.set_member(Arc::new(member.with_worker(Arc::clone(worker))));
            }
            Some(member) => {
                let same = member.api_serving().borrow().certificate() == pairs.api_serving.certificate();
                if !same {
                    member.set_api_serving(Arc::clone(&pairs.api_serving));
                }
            }
        }
    }
}
