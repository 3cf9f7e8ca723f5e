//! Which identity each process of a control plane gets, and the files it gets it in.
//!
//! A control plane's leaves are never on STATE: their keys are made at each boot, live in memory (`/run`), and die with it.
//! The node holds the authorities anyway, so it needs nobody to begin again after any time switched off. Within a boot, a leaf is
//! kept until two thirds of its life are over or its names change; its file is then replaced in place, and the components
//! read it again by themselves. A worker's leaves say the same ([`Circumstances::node_identities`]) and are on its STATE,
//! because it has nobody but the control planes to ask.
//!
//! | directory below `/run/keelson` | file | subject | certified by |
//! |---|---|---|---|
//! | store | server.pem | keelson-store | store-client |
//! | store | peer.pem | the node's UID | store-peer |
//! | kube-apiserver | serving.pem | kube-apiserver | kubernetes-serving |
//! | kube-apiserver | kubelet-client.pem | keelson:kube-apiserver:NAME, group keelson:kube-apiservers | kubernetes-client |
//! | kube-apiserver | front-proxy-client.pem | front-proxy-client | front-proxy |
//! | kube-apiserver | store-client.pem | kube-apiserver | store-client |
//! | kube-controller-manager | client.pem, serving.pem | system:kube-controller-manager | kubernetes-client, kubernetes-serving |
//! | kube-scheduler | client.pem, serving.pem | system:kube-scheduler | kubernetes-client, kubernetes-serving |
//! | kubelet | client.pem, serving.pem | system:node:NAME, group system:nodes | kubernetes-client, kubernetes-serving |
//! | kube-proxy | client.pem | keelson:kube-proxy:NAME, group keelson:kube-proxies | kubernetes-client |

use std::net::IpAddr;

use keelson_api::Identities;
use keelson_config::{ClusterConfig, Role};
use keelson_pki::{
    AuthorityError, AuthorityKind, Clock, Files, FilesError, Mode, Names, Owner, Pair, Profile, Subject,
};

use crate::accounts;
use crate::api_server::caller::NODE_PREFIX;
use crate::authorities::Authorities;
use crate::identity::Identity;
use crate::paths::Paths;

/// Bound to what kube-apiserver may do at kubelets.
pub const API_SERVERS_GROUP: &str = "keelson:kube-apiservers";
/// Bound to `system:node-proxier`: per-node names, one right.
pub const KUBE_PROXIES_GROUP: &str = "keelson:kube-proxies";
/// This process, as a client of kube-apiserver.
pub const CLUSTER_MANAGERS_GROUP: &str = "keelson:cluster-managers";
/// What looks after a worker's routes, and reads Nodes for that.
pub const NETWORK_RECONCILERS_GROUP: &str = "keelson:network-reconcilers";
/// What `--requestheader-allowed-names` admits.
pub const FRONT_PROXY_NAME: &str = "front-proxy-client";

#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("certifying {service}/{file}")]
    Issue { service: &'static str, file: &'static str, source: AuthorityError },
    #[error(transparent)]
    Files(#[from] FilesError),
}

/// How kube-apiserver knows this process.
pub fn manager_name(identity: &Identity) -> String {
    format!("keelson:cluster-manager:{}", identity.name)
}

/// One leaf: where it goes and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    pub service: &'static str,
    pub file: &'static str,
    pub owner: Owner,
    pub authority: AuthorityKind,
    pub profile: Profile,
}

/// What the leaves depend on.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    pub identity: &'a Identity,
    pub cluster: &'a ClusterConfig,
    pub addresses: &'a [IpAddr],
}

impl Circumstances<'_> {
    /// What this node is reached by, from itself and from others.
    fn node_names(&self) -> Names {
        Names::loopback().with_dns([self.identity.name.clone()]).with_addresses(self.addresses.iter().copied())
    }

    /// The node's names and those by which pods and operators know the Kubernetes API.
    pub fn api_server_names(&self) -> Names {
        let domain = &self.cluster.cluster_domain;
        let service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned);
        self.node_names()
            .with_dns(service)
            .with_dns([format!("kubernetes.default.svc.{domain}")])
            .with_addresses([self.cluster.api_service_address()])
            .with_addresses(self.cluster.virtual_address)
            .with_either(self.cluster.extra_sans.iter().cloned())
    }

    /// The certificate of this process' own API. Names that the operator adds are the control planes', and so is the virtual address.
    pub fn api_profile(&self) -> Profile {
        let names = match self.identity.role {
            Role::ControlPlane => self
                .node_names()
                .with_addresses(self.cluster.virtual_address)
                .with_either(self.cluster.extra_sans.iter().cloned()),
            Role::Worker => self.node_names(),
        };
        let organization = match self.identity.role {
            Role::ControlPlane => keelson_api::CONTROL_PLANES,
            Role::Worker => keelson_api::WORKERS,
        };
        Profile::server(Subject::named(format!("keelson {}", self.identity.name)).organization(organization), names)
    }

    fn client(&self, name: String, group: Option<&str>) -> Profile {
        let subject = Subject::named(name).uid(self.identity.node_uid.as_str());
        Profile::client(match group {
            Some(group) => subject.organization(group),
            None => subject,
        })
    }

    /// What the store needs; it can be made before the node has an address.
    pub fn store(&self) -> Vec<Credential> {
        let credential = |file, authority, profile| Credential {
            service: "store",
            file,
            owner: Owner::account(accounts::STORE),
            authority,
            profile,
        };
        let server = Profile::server(Subject::named("keelson-store"), Names::loopback());
        // A member is known by its id and not by its addresses, which may change while it is away.
        let uid = self.identity.node_uid.as_str();
        let peer = Profile::peer(Subject::named(uid), Names::default().with_dns([uid.to_owned()]));
        vec![
            credential("server.pem", AuthorityKind::StoreClient, server),
            credential("peer.pem", AuthorityKind::StorePeer, peer),
        ]
    }

    pub fn kubernetes(&self) -> Vec<Credential> {
        let mut credentials = self.api_server();
        credentials.extend(self.controllers());
        credentials.extend(self.node());
        credentials
    }

    fn api_server(&self) -> Vec<Credential> {
        let credential = |file, authority, profile| Credential {
            service: "kube-apiserver",
            file,
            owner: Owner::account(accounts::KUBE_APISERVER),
            authority,
            profile,
        };
        let serving = Profile::server(Subject::named("kube-apiserver"), self.api_server_names());
        let kubelet_client =
            self.client(format!("keelson:kube-apiserver:{}", self.identity.name), Some(API_SERVERS_GROUP));
        vec![
            credential("serving.pem", AuthorityKind::KubernetesServing, serving),
            credential("kubelet-client.pem", AuthorityKind::KubernetesClient, kubelet_client),
            credential(
                "front-proxy-client.pem",
                AuthorityKind::FrontProxy,
                Profile::client(Subject::named(FRONT_PROXY_NAME)),
            ),
            credential(
                "store-client.pem",
                AuthorityKind::StoreClient,
                Profile::client(Subject::named("kube-apiserver").uid(self.identity.node_uid.as_str())),
            ),
        ]
    }

    fn controllers(&self) -> Vec<Credential> {
        let services = [
            ("kube-controller-manager", accounts::KUBE_CONTROLLER_MANAGER),
            ("kube-scheduler", accounts::KUBE_SCHEDULER),
        ];
        let of = |(service, account): (&'static str, u32)| {
            let credential = |file, authority, profile| Credential {
                service,
                file,
                owner: Owner::account(account),
                authority,
                profile,
            };
            // Without a certificate of their own they would make an RSA key at each start.
            let serving = Profile::server(Subject::named(service), Names::loopback());
            [
                credential(
                    "client.pem",
                    AuthorityKind::KubernetesClient,
                    self.client(format!("system:{service}"), None),
                ),
                credential("serving.pem", AuthorityKind::KubernetesServing, serving),
            ]
        };
        services.into_iter().flat_map(of).collect()
    }

    /// What every node has, worker or not: who certifies it, and what it says.
    ///
    /// kubelet's serving certificate has no name of the loopback: components reach the API server there, through the proxy,
    /// and a worker's certificate that was good for that name could stand in for an API server's.
    pub fn node_identities(&self) -> Identities<(AuthorityKind, Profile)> {
        let name = &self.identity.name;
        let node_name = format!("system:node:{name}");
        let own = Names::default().with_dns([name.clone()]).with_addresses(self.addresses.iter().copied());
        let kubelet_serving = Subject::named(&node_name).organization("system:nodes");
        let client = |name: String, group| (AuthorityKind::KubernetesClient, self.client(name, Some(group)));
        let node = self.client(format!("{NODE_PREFIX}{name}"), Some(keelson_api::NODES));
        Identities {
            node: (AuthorityKind::Api, node),
            api_serving: (AuthorityKind::Api, self.api_profile()),
            kubelet_client: client(node_name, "system:nodes"),
            kubelet_serving: (AuthorityKind::KubernetesServing, Profile::server(kubelet_serving, own)),
            kube_proxy: client(format!("keelson:kube-proxy:{name}"), KUBE_PROXIES_GROUP),
            network_reconciler: client(format!("keelson:network-reconciler:{name}"), NETWORK_RECONCILERS_GROUP),
        }
    }

    fn node(&self) -> Vec<Credential> {
        let credential =
            |service, file, (authority, profile)| Credential { service, file, owner: Owner::ROOT, authority, profile };
        let identities = self.node_identities();
        vec![
            credential("kubelet", "client.pem", identities.kubelet_client),
            credential("kubelet", "serving.pem", identities.kubelet_serving),
            credential("kube-proxy", "client.pem", identities.kube_proxy),
        ]
    }
}

/// Brings the files of `credentials` up to date; returns how many were replaced.
pub fn issue(
    files: &dyn Files,
    paths: &Paths,
    authorities: &Authorities,
    credentials: &[Credential],
    clock: Clock,
) -> Result<usize, CredentialError> {
    let mut replaced = 0;
    for credential in credentials {
        let path = paths.service(credential.service).join(credential.file);
        let authority = authorities.get(credential.authority);
        let present = files.read(&path)?.and_then(|content| Pair::from_file(&content).ok());
        if present.is_some_and(|pair| is_current(&pair, &credential.profile, authority, clock)) {
            continue;
        }
        let pair = authority.issue(&credential.profile, clock).map_err(|source| CredentialError::Issue {
            service: credential.service,
            file: credential.file,
            source,
        })?;
        files.write(&path, &pair.to_file(), Mode::SECRET, credential.owner)?;
        replaced += 1;
    }
    Ok(replaced)
}

/// Whether a leaf says what it should and is young enough.
pub fn is_current(pair: &Pair, profile: &Profile, authority: &keelson_pki::Authority, clock: Clock) -> bool {
    let due = pair.validity().map_or(true, |validity| validity.is_due(profile.life, clock.now));
    !due && pair.matches(profile, authority.certificate())
}
