//! How a member with an empty data directory begins.
//!
//! The ids of a cluster that is founded by a list are made from the list, so that its members agree on them without speaking to each
//! other. They are hashes of peer URLs and the cluster's token, as in etcd. A member alone has random ones; one that joins is told its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use tokio::time::Instant;

use super::Initial;
use crate::disk::Disk;
use crate::identity::{Identity, IdentityError};
use crate::member::{Member, MemberId};
use crate::peer::links::Dialer;
use crate::peer::{CallError, ClusterInfo, Local};
use crate::random::Random;

/// What another member may take to say whether there is a cluster already.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
const ASK_PAUSE: Duration = Duration::from_millis(200);
/// How long a member that others do not know yet waits to become known: whoever added it may have asked a member that is behind.
const UNKNOWN_TIMEOUT: Duration = Duration::from_secs(10);
const TELL_INTERVAL: Duration = Duration::from_secs(30);

/// What the settings say of the cluster.
#[derive(Clone, Debug)]
pub struct Plan {
    pub member: Member,
    /// Names and peer URLs, this member among them.
    pub cluster: Vec<(String, Vec<String>)>,
    pub token: String,
    pub join: bool,
    /// Whether the cluster knows members by their names before they come.
    pub by_name: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(
        "member {0} has already been bootstrapped: the cluster knows it with another data directory. Remove it, add it again, and start \
         it with --initial-cluster-state=existing"
    )]
    AlreadyBootstrapped(MemberId),
    #[error("the cluster knows no member with the peer URLs {0:?}: add this member to it first")]
    NotAdded(Vec<String>),
    #[error("--initial-cluster gives several members the same peer URLs")]
    SamePeerUrls,
    #[error("--initial-cluster does not name this member, {name}")]
    NotListed { name: String },
    #[error(
        "--initial-cluster gives {name} other peer URLs ({listed}) than --initial-advertise-peer-urls ({advertised})"
    )]
    OtherPeerUrls { name: String, listed: String, advertised: String },
    #[error("--initial-cluster-state=existing: --initial-cluster names no other member to join")]
    NobodyToJoin,
}

impl Plan {
    fn founders(&self) -> Result<BTreeMap<MemberId, Member>, BootstrapError> {
        let mut members = BTreeMap::new();
        for (name, urls) in &self.cluster {
            let member = Member { name: name.clone(), peer_urls: urls.clone(), ..Member::default() };
            if members.insert(member_id(urls, &self.token), member).is_some() {
                return Err(BootstrapError::SamePeerUrls);
            }
        }
        Ok(members)
    }

    /// etcd's rules for a member that is to begin: it is in the list, under the URLs that it tells others.
    fn check(&self) -> Result<(), BootstrapError> {
        let name = &self.member.name;
        let Some((_, listed)) = self.cluster.iter().find(|(other, _)| other == name) else {
            return Err(BootstrapError::NotListed { name: name.clone() });
        };
        let (listed, advertised) = (sorted(listed).join(","), sorted(&self.member.peer_urls).join(","));
        if listed != advertised {
            return Err(BootstrapError::OtherPeerUrls { name: name.clone(), listed, advertised });
        }
        if self.join && self.cluster.len() == 1 {
            return Err(BootstrapError::NobodyToJoin);
        }
        Ok(())
    }

    /// What a member that has its identity does. Once consensus has begun on its data, how the cluster began is of no matter, and the flags that
    /// say so are not looked at, as in etcd: they are often what they were on the first day, or say that the cluster is there, which it is.
    fn resumed(&self, identity: Identity) -> Result<Initial, BootstrapError> {
        if identity.joined || identity.in_use {
            return Ok(Initial::Join);
        }
        self.check()?;
        if self.cluster.len() == 1 { Ok(Initial::Alone) } else { Ok(Initial::Found(self.founders()?)) }
    }

    /// Names and peer URLs of the others.
    fn others(&self) -> impl Iterator<Item = &(String, Vec<String>)> {
        self.cluster.iter().filter(|(name, _)| *name != self.member.name)
    }

    /// Reads the identity, or finds out which one this member is to have. Others are asked; a cluster that cannot be
    /// reached is waited for.
    pub async fn identity(
        &self,
        disk: &dyn Disk,
        random: &dyn Random,
        dialer: &Arc<Dialer>,
    ) -> Result<(Identity, Initial), BootstrapError> {
        if let Some(identity) = Identity::load(disk)? {
            return Ok((identity, self.resumed(identity)?));
        }
        self.check()?;
        if self.cluster.len() == 1 {
            return Ok((Identity::load_or_create(disk, random)?, Initial::Alone));
        }
        if self.join {
            let (member_id, cluster_id) = self.find(dialer).await?;
            return Ok((Identity::create(disk, random, member_id, cluster_id, true)?, Initial::Join));
        }
        let founders = self.founders()?;
        let member_id = member_id(&self.member.peer_urls, &self.token);
        let cluster_id = cluster_id(founders.keys().copied());
        for info in self.ask_others(dialer).await.into_iter().flatten() {
            let known = info.membership.members.get(&member_id);
            if info.cluster_id == cluster_id && known.is_some_and(Member::has_started) {
                return Err(BootstrapError::AlreadyBootstrapped(member_id));
            }
        }
        Ok((Identity::create(disk, random, member_id, cluster_id, false)?, Initial::Found(founders)))
    }

    async fn ask_others(&self, dialer: &Arc<Dialer>) -> Vec<Result<ClusterInfo, CallError>> {
        let nobody = Local { cluster_id: 0, member_id: MemberId(0), store_id: 0 };
        let asked = self.others().map(|(name, urls)| dialer.cluster_info(name, urls, nobody, ASK_TIMEOUT));
        futures::future::join_all(asked).await
    }

    /// Returns when the cluster knows a member no more that was added to it and has heard nothing from it yet: nobody will tell that one.
    pub async fn removed(&self, member_id: MemberId, dialer: &Arc<Dialer>) -> BootstrapError {
        let mut known_at = None;
        let mut unknown_since = None;
        loop {
            let answers = self.ask_others(dialer).await;
            let infos = || answers.iter().flatten().filter(|info| !info.membership.members.is_empty());
            let knows = |info: &&ClusterInfo| info.membership.members.contains_key(&member_id);
            known_at = infos().filter(knows).map(|info| info.membership_id).max().flatten().max(known_at);
            // As old as one that knows it, or older, says nothing.
            if infos().any(|info| !knows(&info) && info.membership_id > known_at) {
                let since = *unknown_since.get_or_insert_with(Instant::now);
                if known_at.is_some() || since.elapsed() >= UNKNOWN_TIMEOUT {
                    return BootstrapError::NotAdded(self.member.peer_urls.clone());
                }
            }
            tokio::time::sleep(ASK_TIMEOUT).await;
        }
    }

    /// The ids that the cluster has given this member.
    async fn find(&self, dialer: &Arc<Dialer>) -> Result<(MemberId, u64), BootstrapError> {
        let own = sorted(&self.member.peer_urls);
        let mut unknown_since = None;
        let mut told = Instant::now();
        loop {
            let mut reason = None;
            for answer in self.ask_others(dialer).await {
                let info = match answer {
                    Ok(info) => info,
                    Err(error) => {
                        reason = Some(error);
                        continue;
                    }
                };
                let is_own = |member: &Member| {
                    let named = self.by_name && member.name == self.member.name;
                    named || sorted(&member.peer_urls) == own
                };
                let known = info.membership.members.iter().find(|(_, member)| is_own(member));
                match known {
                    Some((id, member)) if member.has_started() => {
                        return Err(BootstrapError::AlreadyBootstrapped(*id));
                    }
                    Some((id, _)) => return Ok((*id, info.cluster_id)),
                    None if info.membership.members.is_empty() => {}
                    None => {
                        let since = *unknown_since.get_or_insert_with(Instant::now);
                        if since.elapsed() >= UNKNOWN_TIMEOUT {
                            return Err(BootstrapError::NotAdded(own));
                        }
                    }
                }
            }
            if let Some(error) = reason.filter(|_| told.elapsed() >= TELL_INTERVAL) {
                told = Instant::now();
                tracing::warn!(%error, "the cluster to join cannot be reached");
            }
            tokio::time::sleep(ASK_PAUSE).await;
        }
    }
}

fn sorted(urls: &[String]) -> Vec<String> {
    let mut urls = urls.to_vec();
    urls.sort_unstable();
    urls
}

/// The first eight bytes of a hash. Clients take 0 for "no id".
fn id(hash: &digest::Digest) -> u64 {
    let bytes = hash.as_ref().first_chunk::<8>().copied().unwrap_or([1; 8]);
    u64::from_be_bytes(bytes).max(1)
}

fn member_id(urls: &[String], token: &str) -> MemberId {
    let mut context = digest::Context::new(&digest::SHA256);
    for url in &sorted(urls) {
        context.update(url.as_bytes());
        context.update(&[0]);
    }
    context.update(token.as_bytes());
    MemberId(id(&context.finish()))
}

/// `members` in ascending order.
fn cluster_id(members: impl Iterator<Item = MemberId>) -> u64 {
    let mut context = digest::Context::new(&digest::SHA256);
    for member in members {
        context.update(&member.0.to_be_bytes());
    }
    id(&context.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::fake::FakeDisk;
    use crate::random::SystemRandom;

    fn plan(name: &str, token: &str) -> Plan {
        let url = |name: &str| vec![format!("unix:///nowhere/{name}")];
        let cluster = ["a", "b", "c"].map(|name| (name.to_owned(), url(name))).to_vec();
        let member = Member { name: name.to_owned(), peer_urls: url(name), ..Member::default() };
        Plan { member, cluster, token: token.to_owned(), join: false, by_name: false }
    }

    #[tokio::test]
    async fn founders_agree_on_ids_without_speaking_and_have_directories_of_their_own() {
        let dialer = Arc::new(Dialer::new(None).unwrap());
        let mut identities = Vec::new();
        for name in ["a", "b", "c"] {
            let disk = FakeDisk::new();
            let plan = plan(name, "token");
            let (identity, initial) = plan.identity(&disk, &SystemRandom, &dialer).await.unwrap();
            let Initial::Found(members) = &initial else { panic!("{initial:?}") };
            assert_eq!(members[&identity.member_id].name, name);
            assert_eq!(plan.identity(&disk, &SystemRandom, &dialer).await.unwrap(), (identity, initial));
            identities.push(identity);
        }
        assert!(identities.iter().all(|identity| identity.cluster_id == identities[0].cluster_id));
        assert_ne!(identities[0].member_id, identities[1].member_id);
        assert_ne!(identities[0].store_id, identities[1].store_id);
        let other = plan("a", "other").identity(&FakeDisk::new(), &SystemRandom, &dialer).await.unwrap().0;
        assert_ne!(other.cluster_id, identities[0].cluster_id);
    }

    #[tokio::test]
    async fn how_the_cluster_begins_is_looked_at_only_until_it_has_begun() {
        let dialer = Arc::new(Dialer::new(None).unwrap());
        let alone = plan("a", "token");
        let alone = Plan { cluster: alone.cluster[..1].to_vec(), ..alone };
        let moved = Member { peer_urls: vec!["unix:///nowhere/else".to_owned()], ..alone.member.clone() };
        let wrong = [
            (
                Plan { cluster: plan("a", "token").cluster[1..].to_vec(), ..alone.clone() },
                "does not name this member, a",
            ),
            (Plan { member: moved, ..alone.clone() }, "other peer URLs (unix:///nowhere/a)"),
            (Plan { join: true, ..alone.clone() }, "names no other member"),
        ];
        let disk = FakeDisk::new();
        for (plan, expected) in &wrong {
            let error = plan.identity(&disk, &SystemRandom, &dialer).await.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let (mut identity, initial) = alone.identity(&disk, &SystemRandom, &dialer).await.unwrap();
        assert_eq!(initial, Initial::Alone);
        for (plan, expected) in &wrong {
            let error = plan.identity(&disk, &SystemRandom, &dialer).await.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        identity.mark_in_use(&disk).unwrap();
        for (plan, _) in &wrong {
            assert_eq!(plan.identity(&disk, &SystemRandom, &dialer).await.unwrap(), (identity, Initial::Join));
        }
    }
}
