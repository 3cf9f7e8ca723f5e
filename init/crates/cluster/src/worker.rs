//! What a worker holds: its key, the certificates that control planes gave it, and what they told it of the cluster.
//!
//! All of it is on STATE, so that a worker comes up while no control plane answers. `/state/pki/node/node.key` is made
//! before the first request and is what the node's record names; the other keys are made anew with each renewal. The
//! settings are kept as [`keelson_config::kept`] has it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use keelson_api::{Identities, MemberAddresses, NodeSettings};
use keelson_config::kept::{self, Form, Kept, KeptError};
use keelson_config::{NodeConfig, Ranges};
use keelson_pki::{Clock, Files, FilesError, Key, KeyError, Mode, Owner, Pair, PairError, validity::LEAF_LIFE};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::configuration;
use crate::paths::Paths;
use crate::trust::{Trust, TrustError};

const KEY_FILE: &str = "node.key";
/// Routers and servers of both families have answered by then.
const GIVEN_UP_AFTER: Duration = Duration::from_mins(2);

#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error("the node's key")]
    Key(#[from] KeyError),
    #[error("the node's key is missing from STATE")]
    NoKey,
    #[error("the cluster's settings on STATE")]
    Settings(#[from] KeptError),
    #[error("the cluster's settings are missing from STATE")]
    NoSettings,
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("a certificate that was given to this node")]
    Certificate(#[from] PairError),
    #[error("the cluster's setting {field} is {value:?}, which is none")]
    Setting { field: &'static str, value: String },
}

/// As it is on STATE.
#[derive(Debug)]
pub struct Holding {
    pub key: Key,
    pub trust: Trust,
    pub settings: NodeSettings,
    /// None if one of them is missing or damaged: they can be had again for the proof of the key.
    pub pairs: Option<Identities<Arc<Pair>>>,
}

/// As it is used, and changes.
#[derive(Debug)]
pub struct Worker {
    pub key: Key,
    settings: watch::Sender<Arc<NodeSettings>>,
    pairs: watch::Sender<Option<Arc<Identities<Arc<Pair>>>>>,
    /// Where control planes were found that the settings do not name.
    found: Mutex<Vec<String>>,
    /// The control plane that has answered an operator last.
    answered: Mutex<Option<String>>,
    /// Since when an address is missing that was verified.
    lost_since: Mutex<Option<Instant>>,
}

#[derive(Serialize, Deserialize)]
struct KeptSettings {
    settings: NodeSettings,
}

impl Kept for KeptSettings {
    const FORM: Form = kept::NODE_SETTINGS;
}

/// The names of the certificates' files, in the order of [`Identities`].
fn names() -> Identities<&'static str> {
    Identities {
        node: "node",
        api_serving: "api-serving",
        kubelet_client: "kubelet-client",
        kubelet_serving: "kubelet-serving",
        kube_proxy: "kube-proxy",
        network_reconciler: "network-reconciler",
    }
}

fn pair_file(paths: &Paths, name: &str) -> PathBuf {
    paths.node_credentials().join(format!("{name}.pem"))
}

/// Where the certificates are, each with its key.
pub fn pair_files(paths: &Paths) -> Identities<PathBuf> {
    let file = |name| pair_file(paths, name);
    let names = names();
    Identities {
        node: file(names.node),
        api_serving: file(names.api_serving),
        kubelet_client: file(names.kubelet_client),
        kubelet_serving: file(names.kubelet_serving),
        kube_proxy: file(names.kube_proxy),
        network_reconciler: file(names.network_reconciler),
    }
}

/// The node's key, made if there is none.
pub fn make_key(files: &dyn Files, paths: &Paths) -> Result<Key, WorkerError> {
    let directory = paths.node_credentials();
    files.directory(&directory, Mode::PRIVATE_DIRECTORY, Owner::ROOT)?;
    if let Some(content) = files.read(&directory.join(KEY_FILE))? {
        return Ok(Key::from_file(&content)?);
    }
    let key = Key::generate()?;
    files.write(&directory.join(KEY_FILE), &key.to_file(), Mode::SECRET, Owner::ROOT)?;
    Ok(key)
}

/// Keys for all identities, the node's own being the one it has.
pub fn make_keys(node: &Key) -> Result<Identities<Key>, WorkerError> {
    let node = Key::from_file(&node.to_file())?;
    Ok(Identities {
        node,
        api_serving: Key::generate()?,
        kubelet_client: Key::generate()?,
        kubelet_serving: Key::generate()?,
        kube_proxy: Key::generate()?,
        network_reconciler: Key::generate()?,
    })
}

pub fn requests(keys: &Identities<Key>) -> Result<Identities<String>, WorkerError> {
    Ok(keys.each_ref().try_map(Key::request)?)
}

/// Keys and the certificates that came for them.
pub fn certified(
    keys: Identities<Key>,
    certificates: Identities<String>,
) -> Result<Identities<Arc<Pair>>, WorkerError> {
    Ok(keys.zip(certificates).try_map(|(key, certificate)| key.certified(&certificate).map(Arc::new))?)
}

pub fn save_pairs(files: &dyn Files, paths: &Paths, pairs: &Identities<Arc<Pair>>) -> Result<(), WorkerError> {
    for (name, pair) in names().zip(pairs.each_ref()).into_array() {
        files.update(&pair_file(paths, name), &pair.to_file(), Mode::SECRET, Owner::ROOT)?;
    }
    Ok(())
}

pub fn save_settings(files: &dyn Files, paths: &Paths, settings: &NodeSettings) -> Result<(), WorkerError> {
    files.directory(&paths.cluster_state(), Mode::PRIVATE_DIRECTORY, Owner::ROOT)?;
    let content = KeptSettings { settings: settings.clone() }.to_file()?;
    files.update(&paths.node_settings(), &content, Mode::PRIVATE, Owner::ROOT)?;
    Ok(())
}

/// Forgets what the cluster gave; [`crate::membership::forget`] begins with who the node is.
pub fn forget(files: &dyn Files, paths: &Paths) -> Result<(), FilesError> {
    for name in names().into_array() {
        files.remove(&pair_file(paths, name))?;
    }
    files.remove(&paths.node_credentials().join(KEY_FILE))?;
    files.remove(&paths.node_settings())
}

/// What the node was told last; none if it never was.
pub fn read_settings(files: &dyn Files, paths: &Paths) -> Result<Option<NodeSettings>, WorkerError> {
    let Some(content) = files.read(&paths.node_settings())? else { return Ok(None) };
    Ok(Some(KeptSettings::from_file(&content)?.settings))
}

impl Holding {
    pub fn read(files: &dyn Files, paths: &Paths) -> Result<Self, WorkerError> {
        let content = files.read(&paths.node_credentials().join(KEY_FILE))?.ok_or(WorkerError::NoKey)?;
        let key = Key::from_file(&content)?;
        let settings = read_settings(files, paths)?.ok_or(WorkerError::NoSettings)?;
        let trust = Trust::from_bundle(&settings.trust)?;
        let pairs = names().try_map(|name| {
            let content = files.read(&pair_file(paths, name))?.ok_or(WorkerError::NoKey)?;
            Ok::<_, WorkerError>(Arc::new(Pair::from_file(&content)?))
        });
        Ok(Self { key, trust, settings, pairs: pairs.ok() })
    }
}

impl Worker {
    pub fn new(holding: &Holding) -> Result<Self, WorkerError> {
        Ok(Self {
            key: Key::from_file(&holding.key.to_file())?,
            settings: watch::Sender::new(Arc::new(holding.settings.clone())),
            pairs: watch::Sender::new(holding.pairs.clone().map(Arc::new)),
            found: Mutex::default(),
            answered: Mutex::default(),
            lost_since: Mutex::default(),
        })
    }

    /// Where control planes may answer, `ADDRESS:PORT`.
    pub fn endpoints(&self) -> Vec<String> {
        let mut endpoints = endpoints(&self.settings_now());
        endpoints.extend(self.found.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        endpoints
    }

    /// The same, the one first that has answered an operator last.
    pub fn endpoints_for_operators(&self) -> Vec<String> {
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut endpoints = self.endpoints();
        endpoints.sort_by_key(|endpoint| Some(endpoint) != answered.as_ref());
        endpoints
    }

    pub fn set_answered(&self, endpoint: String) {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(endpoint);
    }

    pub fn set_found(&self, endpoints: Vec<String>) {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = endpoints;
    }

    pub fn settings(&self) -> watch::Receiver<Arc<NodeSettings>> {
        self.settings.subscribe()
    }

    pub fn settings_now(&self) -> Arc<NodeSettings> {
        Arc::clone(&self.settings.borrow())
    }

    /// Says whether they are news.
    pub fn set_settings(&self, settings: NodeSettings) -> bool {
        self.settings.send_if_modified(|present| {
            let changed = **present != settings;
            *present = Arc::new(settings);
            changed
        })
    }

    /// In dual stack, an address that was verified may be gone while another is not. It is given up once it has been gone for
    /// longer than a node needs to have both after a boot.
    fn has_lost_one(&self, verified: &[IpAddr], addresses: &[IpAddr], now: Instant) -> bool {
        let mut since = self.lost_since.lock().unwrap_or_else(PoisonError::into_inner);
        // A node without any address has not begun to have them.
        if !self.is_in_dual_stack()
            || addresses.is_empty()
            || verified.iter().all(|address| addresses.contains(address))
        {
            *since = None;
            return false;
        }
        now.duration_since(*since.get_or_insert(now)) > GIVEN_UP_AFTER
    }

    pub fn is_in_dual_stack(&self) -> bool {
        self.settings_now().secondary_pod_cidr.is_some()
    }

    /// Which of its addresses no control plane has seen yet. Without dual stack, one that they have seen is enough.
    pub fn unverified(&self, addresses: &[IpAddr]) -> Option<IpAddr> {
        let verified = verified_addresses(&self.settings_now());
        addresses.iter().copied().find(|address| self.is_in_dual_stack() && !verified.contains(address))
    }

    pub fn pairs_now(&self) -> Option<Arc<Identities<Arc<Pair>>>> {
        self.pairs.borrow().clone()
    }

    pub fn set_pairs(&self, pairs: Identities<Arc<Pair>>) {
        self.pairs.send_replace(Some(Arc::new(pairs)));
    }

    /// Whether the certificates are missing, in the last third of their life, for another address than `addresses`, or of authorities that
    /// certify no more.
    pub fn is_due(&self, clock: Clock, addresses: &[IpAddr], trust: &Trust) -> bool {
        let verified = verified_addresses(&self.settings_now());
        let elsewhere = !addresses.is_empty() && !verified.iter().any(|address| addresses.contains(address));
        let elsewhere = elsewhere || self.has_lost_one(&verified, addresses, Instant::now());
        let old = |pair: &Arc<Pair>| pair.validity().map_or(true, |validity| validity.is_due(LEAF_LIFE, clock.now));
        let former = |pairs: &Identities<Arc<Pair>>| {
            let by = [
                (&pairs.node, &trust.api),
                (&pairs.kubelet_client, &trust.kubernetes_client),
                (&pairs.kubelet_serving, &trust.kubernetes_serving),
            ];
            by.into_iter().any(|(pair, anchors)| anchors.issuer_of(pair.certificate()) != Some(anchors.certifier()))
        };
        elsewhere
            || self.pairs_now().is_none_or(|pairs| former(&pairs) || pairs.each_ref().into_array().into_iter().any(old))
    }
}

pub fn verified_addresses(settings: &NodeSettings) -> Vec<IpAddr> {
    settings.addresses.iter().filter_map(|address| address.parse().ok()).collect()
}

/// Where all pods of the cluster are.
pub fn pod_ranges(settings: &NodeSettings) -> Vec<IpNet> {
    let ranges = std::iter::once(&settings.pod_cidr).chain(&settings.secondary_pod_cidr);
    ranges.filter_map(|range| range.parse().ok()).collect()
}

/// Control planes' APIs, `ADDRESS:PORT`.
pub fn endpoints(settings: &NodeSettings) -> Vec<String> {
    endpoints_of(&settings.control_planes)
}

pub fn endpoints_of<'a>(control_planes: impl IntoIterator<Item = &'a MemberAddresses>) -> Vec<String> {
    let addresses = control_planes.into_iter().flat_map(|plane| &plane.addresses);
    let addresses = addresses.filter_map(|address| address.parse::<IpAddr>().ok());
    addresses.map(|address| std::net::SocketAddr::new(address, keelson_api::PORT).to_string()).collect()
}

fn parsed<T: std::str::FromStr>(field: &'static str, value: &str) -> Result<T, WorkerError> {
    value.parse().map_err(|_| WorkerError::Setting { field, value: value.to_owned() })
}

fn ranges(field: &'static str, first: &str, second: Option<&str>) -> Result<Ranges, WorkerError> {
    parsed(field, &second.map_or_else(|| first.to_owned(), |second| format!("{first},{second}")))
}

/// The node's configuration with the cluster's settings in the place of its own.
pub fn joined_configuration(own: &NodeConfig, settings: &NodeSettings) -> Result<NodeConfig, WorkerError> {
    let mut config = own.clone();
    config.cluster.pod_cidr = ranges("podCIDR", &settings.pod_cidr, settings.secondary_pod_cidr.as_deref())?;
    config.cluster.service_cidr =
        ranges("serviceCIDR", &settings.service_cidr, settings.secondary_service_cidr.as_deref())?;
    config.cluster.dns_address = parsed("dnsAddress", &settings.dns_address)?;
    config.cluster.cluster_domain.clone_from(&settings.cluster_domain);
    // A cluster that was founded without one can be given one on each control plane, and operators can give it another.
    let by_operators = own.sources.get("cluster.virtual_address").is_some_and(configuration::is_of_operators);
    if let Some(address) = settings.virtual_address.as_ref().filter(|_| !by_operators) {
        config.cluster.virtual_address = Some(parsed("virtualAddress", address)?);
    }
    Ok(config)
}

/// Puts the certificates where kubelet and kube-proxy read them.
pub fn deliver(files: &dyn Files, paths: &Paths, pairs: &Identities<Arc<Pair>>) -> Result<(), FilesError> {
    let places = [
        ("kubelet", "client.pem", &pairs.kubelet_client),
        ("kubelet", "serving.pem", &pairs.kubelet_serving),
        ("kube-proxy", "client.pem", &pairs.kube_proxy),
    ];
    for (service, file, pair) in places {
        files.update(&paths.service(service).join(file), &pair.to_file(), Mode::SECRET, Owner::ROOT)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use keelson_pki::{AuthorityKind, Names, Profile, Subject};

    use super::*;
    use crate::membership::tests::{clock, config, found_in_memory};
    use crate::node::{Member, Node};
    use crate::operators;

    fn settings(addresses: &[&str], is_dual: bool) -> NodeSettings {
        let mut settings = json!({
            "addresses": addresses, "trust": { "api": "", "kubernetesServing": "", "kubernetesClient": "" },
            "podCIDR": "10.1.0.0/16", "serviceCIDR": "10.2.0.0/16", "clusterDomain": "c", "dnsAddress": "10.2.0.10",
            "controlPlanes": [],
        });
        if is_dual {
            settings["secondaryPodCIDR"] = json!("fd01::/56");
            settings["secondaryServiceCIDR"] = json!("fd02::/112");
        }
        serde_json::from_value(settings).unwrap()
    }

    fn worker(settings: NodeSettings) -> Worker {
        Worker {
            key: Key::generate().unwrap(),
            settings: watch::Sender::new(Arc::new(settings)),
            pairs: watch::Sender::new(None),
            found: Mutex::default(),
            answered: Mutex::default(),
            lost_since: Mutex::default(),
        }
    }

    #[tokio::test]
    async fn an_operator_whose_key_was_removed_opens_nothing_at_a_worker() {
        let membership = found_in_memory();
        let held = Arc::clone(membership.control_plane().unwrap());
        let profile = Profile::server(Subject::named("w1"), Names::loopback());
        let serving = held.authorities.get(AuthorityKind::Api).issue(&profile, clock()).unwrap();
        let told = NodeSettings { removed_operators: vec!["00aa".to_owned()], ..settings(&[], false) };
        let member = Member::new(Arc::new(membership), Arc::new(serving)).with_worker(Arc::new(worker(told)));
        let own = config("worker", false, &json!("unsaid"));
        let node = Node::new(Paths::default(), own, "w1".to_owned(), clock().floor);
        node.set_member(Arc::new(member));
        assert!(operators::is_removed(&node, "ann", "00aa").await);
        assert!(!operators::is_removed(&node, "ann", "00bb").await);
    }

    #[test]
    fn a_node_takes_both_families_of_its_cluster_and_what_an_older_control_plane_says() {
        let own = config("worker", false, &json!("unsaid"));
        let cluster = joined_configuration(&own, &settings(&[], true)).unwrap().cluster;
        assert_eq!(cluster.pod_cidr.to_string(), "10.1.0.0/16,fd01::/56");
        assert_eq!(cluster.service_cidr.to_string(), "10.2.0.0/16,fd02::/112");
        assert_eq!(pod_ranges(&settings(&[], true)), cluster.pod_cidr.all().collect::<Vec<_>>());
        let cluster = joined_configuration(&own, &settings(&[], false)).unwrap().cluster;
        assert_eq!(cluster.pod_cidr.to_string(), "10.1.0.0/16");
        let mut wrong = settings(&[], true);
        wrong.secondary_pod_cidr = Some("10.3.0.0/16".to_owned());
        let error = joined_configuration(&own, &wrong).unwrap_err();
        assert!(matches!(error, WorkerError::Setting { field: "podCIDR", .. }), "{error}");
    }

    #[test]
    fn an_older_node_is_told_one_family_in_the_words_that_it_knows() {
        let told = serde_json::to_value(settings(&[], false)).unwrap();
        assert!(told.get("secondaryPodCIDR").is_none() && told.get("secondaryServiceCIDR").is_none());
        let told = serde_json::to_value(settings(&[], true)).unwrap();
        assert_eq!((&told["podCIDR"], &told["serviceCIDR"]), (&json!("10.1.0.0/16"), &json!("10.2.0.0/16")));
    }

    #[test]
    fn in_dual_stack_each_address_is_verified() {
        let addresses = ["192.0.2.7", "fd99::7"].map(|address| address.parse().unwrap());
        assert_eq!(worker(settings(&["192.0.2.7"], false)).unverified(&addresses), None, "one is enough");
        assert_eq!(worker(settings(&["192.0.2.7"], true)).unverified(&addresses), Some(addresses[1]));
        let both = worker(settings(&["192.0.2.7", "fd99::7"], true));
        assert_eq!(both.unverified(&addresses), None);
        assert!(both.is_due(clock(), &addresses, &found_in_memory().trust), "it has no certificates");
    }

    #[test]
    fn an_address_that_stays_away_is_given_up() {
        let addresses: [IpAddr; 2] = ["192.0.2.7", "fd99::7"].map(|address| address.parse().unwrap());
        let (both, first) = (&addresses[..], &addresses[..1]);
        let worker_of = |is_dual| worker(settings(&["192.0.2.7", "fd99::7"], is_dual));
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let worker = worker_of(true);
        assert!(!worker.has_lost_one(both, first, start), "at a boot one comes before the other");
        assert!(!worker.has_lost_one(both, both, start + second), "it has come");
        assert!(!worker.has_lost_one(both, first, start + second * 2));
        assert!(!worker.has_lost_one(both, first, start + second * 2 + GIVEN_UP_AFTER));
        assert!(worker.has_lost_one(both, first, start + second * 3 + GIVEN_UP_AFTER));
        let worker = worker_of(true);
        assert!(!worker.has_lost_one(both, &[], start));
        assert!(!worker.has_lost_one(both, &[], start + GIVEN_UP_AFTER * 2), "a node without any is not asked");
        let worker = worker_of(false);
        assert!(!worker.has_lost_one(both, first, start));
        assert!(!worker.has_lost_one(both, first, start + GIVEN_UP_AFTER * 2), "without dual stack one is enough");
    }
}
