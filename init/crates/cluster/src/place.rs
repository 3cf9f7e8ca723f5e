//! A control plane's place in its cluster: its record, its member in the store, and whether it still has them.
//!
//! 1. Before its store is told anything, a control plane that knows of others asks one of them to be a member of the store
//!    ([`enter`]). The answer names all members, is kept on STATE ([`Peers`]), and is the same if it is asked again. A node that
//!    was removed while it was off hears so here, before a store or a pod of it has begun.
//! 2. From then on it keeps its record, the URL of its own member, and the list on STATE as they should be, and takes those
//!    members out whose nodes were removed ([`keep`]).
//! 3. Whether it was removed itself, only others can say with certainty ([`watch_others`]): its own store may have been
//!    taken out already, or may be needed until it is. While the store is silent the others are looked for as well ([`search`]).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use keelson_api::{ErrorBody, ErrorCode, EventKind, NodeOrder, NodeSettings, StoreMembers, paths};
use keelson_pki::{AuthorityError, Files, FilesError, Pair};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::admission::Remover;
use crate::credentials::Circumstances;
use crate::events;
use crate::identity::Identity;
use crate::join::connection::{Planes, PlanesError};
use crate::membership::{ControlPlane, Membership};
use crate::node::Node;
use crate::registry::{
    Change, EventRecord, MemberChange, NodeRecord, Registry, RegistryError, RemovedRecord, Revision, StoreMember, View,
};
use crate::report;
use crate::secrets::SecretsError;
use crate::store::peer_url;
use crate::store::peers::{Peers, PeersError, address_of};
use crate::worker;

/// How long a start waits for another control plane to say whether this one was removed.
const ENTER_DEADLINE: Duration = Duration::from_secs(5);
/// How soon a member that has to go is tried again, and an address that somebody else had is free.
const INTERVAL: Duration = Duration::from_secs(2);
/// How often the others are asked while something says that this node may be none of them.
const REMOVAL_INTERVAL: Duration = Duration::from_secs(2);
/// A store that does not answer for so long may have been taken out.
const SILENCE: Duration = Duration::from_secs(5);

mod search;

use search::Search;

#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error(transparent)]
    Peers(#[from] PeersError),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error("asking who of the cluster is there")]
    Search(#[source] std::io::Error),
    #[error("no other control plane answers")]
    Planes(#[from] PlanesError),
    #[error("the cluster does not answer this node: {}", .0.message)]
    Refused(ErrorBody),
    #[error("this node was removed from the cluster")]
    Removed,
    #[error("certifying this node as one of the cluster")]
    Certificate(#[from] AuthorityError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    #[error("the work was interrupted")]
    Interrupted,
}

fn refused(body: ErrorBody) -> PlaceError {
    if body.code == ErrorCode::Removed { PlaceError::Removed } else { PlaceError::Refused(body) }
}

/// Gets a place in the store. Returns at once where there is nobody to ask, as for the first node of a cluster; and without
/// an answer if the store knows with whom it is: then it needs none to begin.
pub async fn enter(
    node: &Node,
    files: &Arc<dyn Files>,
    membership: &Membership,
    held: &ControlPlane,
) -> Result<(), PlaceError> {
    let known = read_peers(files, node).await?;
    let uid = membership.identity.node_uid.as_str();
    let mut endpoints = known.endpoints(uid);
    if endpoints.is_empty() {
        // One that has joined and knows nobody's store yet.
        let told = held.settings.as_ref().map(|settings| settings.control_planes.iter());
        let others = told.into_iter().flatten().filter(|plane| plane.name != membership.identity.name);
        endpoints = worker::endpoints_of(others);
    }
    if endpoints.is_empty() {
        return Ok(());
    }
    match ask_for_place(node, files, membership, held, endpoints).await {
        Ok(()) => Ok(()),
        Err(PlaceError::Removed) => Err(PlaceError::Removed),
        Err(error) if known.is_empty() => Err(error),
        Err(error) => {
            report::error(&error);
            Ok(())
        }
    }
}

/// Asks at these endpoints to be a member of the store, under the address that this node is seen at.
async fn ask_for_place(
    node: &Node,
    files: &Arc<dyn Files>,
    membership: &Membership,
    held: &ControlPlane,
    endpoints: Vec<String>,
) -> Result<(), PlaceError> {
    let planes = Planes::new(endpoints, membership.trust.fingerprints());
    let certificate = certificate(node, membership, held)?;
    let asking =
        planes.ask::<_, StoreMembers>(Method::POST, paths::NODE_STORE_MEMBER, Some(&NodeOrder {}), Some(&certificate));
    let told = match timeout(ENTER_DEADLINE, asking).await {
        Ok(answer) => answer?.map_err(refused)?,
        Err(_) => {
            return Err(PlanesError::Timeout { endpoint: "the other control planes".to_owned() }.into());
        }
    };
    save_peers(files, node, Peers::told(told.members)).await.map(drop)
}

/// This node's own, which it may make since it holds the authority.
fn certificate(node: &Node, membership: &Membership, held: &ControlPlane) -> Result<Pair, PlaceError> {
    let cluster = node.cluster();
    let circumstances = Circumstances { identity: &membership.identity, cluster: &cluster, addresses: &[] };
    let (kind, profile) = circumstances.node_identities().node;
    Ok(held.authorities.get(kind).issue(&profile, node.clock())?)
}

async fn read_peers(files: &Arc<dyn Files>, node: &Node) -> Result<Peers, PlaceError> {
    let (files, paths) = (Arc::clone(files), node.paths.clone());
    let read = tokio::task::spawn_blocking(move || Peers::read(&*files, &paths)).await;
    Ok(read.map_err(|_| PlaceError::Interrupted)??)
}

async fn save_peers(files: &Arc<dyn Files>, node: &Node, peers: Peers) -> Result<bool, PlaceError> {
    let (files, paths) = (Arc::clone(files), node.paths.clone());
    let saved = tokio::task::spawn_blocking(move || peers.save(&*files, &paths)).await;
    Ok(saved.map_err(|_| PlaceError::Interrupted)??)
}

/// Keeps everything that the cluster knows of this control plane, and what this one knows of the store's members, for ever.
pub async fn keep(node: Arc<Node>, files: Arc<dyn Files>, registry: Arc<Registry>, membership: Arc<Membership>) {
    let Some(held) = membership.control_plane() else { return };
    let mut network = node.network();
    let mut views = registry.view();
    let mut complaint = report::Complaint::default();
    let mut settled = Settled::default();
    loop {
        match settle(&node, &files, &registry, &membership.identity, held, &mut settled).await {
            Ok(()) => complaint.passed(),
            // The registry's own keeper says when the store does not answer.
            Err(PlaceError::Registry(RegistryError::Unavailable(_))) => {}
            Err(error) => complaint.of(report::chain(&error)),
        }
        tokio::select! {
            _ = network.changed() => settled.is_recorded = false,
            _ = views.changed() => settled.is_recorded = false,
            // The store promotes and loses members by itself, and etcd's API has no watch for those.
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// What was so when it was looked at last.
#[derive(Debug, Default)]
struct Settled {
    /// This node's record is as it should be. What could change that is watched.
    is_recorded: bool,
    members: Option<Vec<StoreMember>>,
}

async fn settle(
    node: &Node,
    files: &Arc<dyn Files>,
    registry: &Registry,
    identity: &Identity,
    held: &ControlPlane,
    settled: &mut Settled,
) -> Result<(), PlaceError> {
    let addresses = node.addresses();
    let Some(preferred) = addresses.first().copied() else { return Ok(()) };
    if !settled.is_recorded {
        settled.is_recorded = record_own(registry, identity, held, &addresses).await?;
    }
    if !settled.is_recorded {
        return Ok(());
    }
    let Some(view) = registry.view_now() else { return Ok(()) };
    let uid = identity.node_uid.as_str();
    let now = node.clock().now.unix_timestamp();
    let remover = Remover { registry, name: &identity.name, uid, now };
    let mut members = remover.settle(&view).await?;
    let reaches = |url: &String| address_of(url).is_some_and(|address| addresses.contains(&address));
    let moved = |member: &&StoreMember| member.name == uid && !member.peer_urls.iter().any(reaches);
    if let Some(member) = members.iter().find(moved) {
        let change = MemberChange::Update { id: member.id, peer_url: peer_url(preferred) };
        members = registry.change_members(change).await?;
    }
    if settled.members.as_ref() == Some(&members) {
        return Ok(());
    }
    save_peers(files, node, Peers::of(&members)).await?;
    if let Some(before) = &settled.members {
        events::tell_members(registry, &identity.name, before, &members, now).await?;
    }
    settled.members = Some(members);
    Ok(())
}

/// Writes this control plane's own record, which is what keeps its name and its addresses from others. False if it could not
/// be written: it is somebody else's, or this node was removed, or an address is not free yet.
pub async fn record_own(
    registry: &Registry,
    identity: &Identity,
    held: &ControlPlane,
    addresses: &[IpAddr],
) -> Result<bool, PlaceError> {
    let uid = identity.node_uid.as_str();
    let present = registry.get::<NodeRecord>(&identity.name).await?;
    let wanted: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let signing_key = Some(held.secrets.signing.public_text()?);
    let (revision, mut record) = match present {
        Some(stored) if stored.value.uid != uid => return Ok(false),
        Some(stored) if stored.value.addresses == wanted && stored.value.signing_key == signing_key => return Ok(true),
        Some(stored) => (stored.revision, stored.value),
        None if registry.get::<RemovedRecord>(uid).await?.is_some() => return Ok(false),
        None => (0, new_record(identity)),
    };
    let mut change = Change::default().expect::<NodeRecord>(&identity.name, revision).expect::<RemovedRecord>(uid, 0);
    for gone in record.addresses.iter().filter(|address| !wanted.contains(address)) {
        change = change.free_address(gone);
    }
    let mut taken = Vec::new();
    for address in &wanted {
        let (revision, owner) = registry.address(address).await?;
        // Whoever has it keeps it until it is removed, or has another itself; the status of the node says so.
        if owner.is_none_or(|owner| owner == identity.name) {
            change = change.take_address(address, revision, &identity.name);
            taken.push(address.clone());
        }
    }
    let is_whole = taken == wanted;
    if !is_whole && (revision == 0 || taken == record.addresses) {
        return Ok(false);
    }
    if let Some(event) = told_of_own(identity, &record, revision, &taken) {
        change = change.put(&event)?;
    }
    // What it has no more is free from here on, whether or not it has all that it wants: several nodes may have changed places.
    record.addresses = taken;
    record.signing_key = signing_key;
    Ok(registry.commit(change.put(&record)?).await? && is_whole)
}

fn told_of_own(identity: &Identity, record: &NodeRecord, revision: Revision, wanted: &[String]) -> Option<EventRecord> {
    let name = &identity.name;
    let (kind, message) = match revision {
        0 => (EventKind::NodeJoined, format!("{name} founded the cluster")),
        _ if wanted.is_empty() => return None,
        _ if record.addresses != wanted => (EventKind::NodeMoved, format!("{name} is at {} now", wanted.join(", "))),
        _ => return None,
    };
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    Some(EventRecord::new(name, name, kind, now, message).about(name))
}

fn new_record(identity: &Identity) -> NodeRecord {
    NodeRecord {
        version: 1,
        name: identity.name.clone(),
        uid: identity.node_uid.as_str().to_owned(),
        role: identity.role,
        addresses: Vec::new(),
        key: None,
        hardware: None,
        signing_key: None,
        token: None,
        joined: time::OffsetDateTime::now_utc().unix_timestamp(),
        generations: None,
    }
}

/// Returns once another control plane has said that this one was removed and is out of the store. They are asked while the
/// records say so, and while the store is silent; then they are looked for, too.
pub async fn watch_others(
    node: Arc<Node>,
    files: Arc<dyn Files>,
    registry: Arc<Registry>,
    membership: Arc<Membership>,
) {
    let Some(held) = membership.control_plane() else { return std::future::pending().await };
    let uid = membership.identity.node_uid.as_str();
    let mut search = Search::default();
    let mut views = registry.view();
    loop {
        tokio::select! {
            () = is_recorded_as_removed(&mut views, uid) => {}
            () = registry.falls_silent_for(SILENCE) => search.look(&node, &files, &membership, held).await,
            () = tokio::time::sleep(REMOVAL_INTERVAL), if search.has_hints() => {
                search.settle(&node, &files).await;
                continue;
            }
        }
        if let Ok(true) = ask_whether_removed(&node, &files, &membership, held, &search.endpoints).await {
            return;
        }
        tokio::time::sleep(REMOVAL_INTERVAL).await;
    }
}

async fn is_recorded_as_removed(views: &mut watch::Receiver<Option<Arc<View>>>, uid: &str) {
    let removed = |view: &Option<Arc<View>>| view.as_ref().is_some_and(|view| view.removed.contains_key(uid));
    if views.wait_for(removed).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// An answer that is no answer leaves it open.
async fn ask_whether_removed(
    node: &Node,
    files: &Arc<dyn Files>,
    membership: &Membership,
    held: &ControlPlane,
    found: &[String],
) -> Result<bool, PlaceError> {
    let mut endpoints = read_peers(files, node).await?.endpoints(membership.identity.node_uid.as_str());
    endpoints.extend_from_slice(found);
    if endpoints.is_empty() {
        return Ok(false);
    }
    let planes = Planes::new(endpoints, membership.trust.fingerprints());
    let certificate = certificate(node, membership, held)?;
    let asking = planes.ask::<(), NodeSettings>(Method::GET, paths::NODE_SETTINGS, None, Some(&certificate));
    match timeout(ENTER_DEADLINE, asking).await {
        Ok(answer) => Ok(matches!(answer?, Err(body) if body.code == ErrorCode::Removed)),
        Err(_) => Ok(false),
    }
}
