//! Who is a member: the configuration that consensus keeps in its own log, and nowhere else.
//!
//! Encoded as protobuf in membership entries of the log and in the checkpoint, so that fields can be added.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use prost::Message;

/// What this release understands beyond the first one: messages between members and kinds of log entries that were added are used only once
/// every member says a level that has them ([`lowest_level`]). Raised by one with each addition.
///
/// - 1: `Request::Hash`; commands of the kind `Cluster`
pub const LEVEL: u32 = 1;

/// The members that learn at the same time, at most.
pub const MOST_LEARNERS: u8 = 16;

/// A member's id. Chosen once, random, and never used again after the member is removed or has lost its disk: Raft counts votes
/// by it, and a member that forgot its vote under an old id can elect a second leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As etcd prints ids.
        write!(f, "{:x}", self.0)
    }
}

impl From<u64> for MemberId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

/// What members know of each other besides the id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    pub name: String,
    pub peer_urls: Vec<String>,
    pub client_urls: Vec<String>,
    /// Which data directory the member has, 0 until it has told. One that comes with another has lost what it promised under this id.
    pub store_id: u64,
    /// A learner that is to vote once it has caught up and the number of voters would stay odd.
    pub wants_vote: bool,
    /// What its release understands, see [`LEVEL`]; 0 until it has told.
    pub level: u32,
}

impl Member {
    /// A member that has not told where it serves clients has never been started, as in etcd.
    pub fn has_started(&self) -> bool {
        self.store_id != 0
    }
}

/// Voters (two sets while a change is under way) and all members; one that is in no set learns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    pub voters: Vec<BTreeSet<MemberId>>,
    pub members: BTreeMap<MemberId, Member>,
}

impl Membership {
    pub fn encode(&self) -> Vec<u8> {
        let voters = self.voters.iter().map(|set| VoterSet { ids: set.iter().map(|id| id.0).collect() }).collect();
        let members = self
            .members
            .iter()
            .map(|(id, member)| MemberRecord {
                id: id.0,
                name: member.name.clone(),
                peer_urls: member.peer_urls.clone(),
                client_urls: member.client_urls.clone(),
                store_id: member.store_id,
                wants_vote: member.wants_vote,
                level: member.level,
            })
            .collect();
        MembershipRecord { voters, members }.encode_to_vec()
    }

    pub fn is_voter(&self, id: MemberId) -> bool {
        self.voters.iter().any(|set| set.contains(&id))
    }

    /// Whether nothing is committed that a member has not made durable: it votes, and the others are no quorum without it.
    pub fn needs(&self, id: MemberId) -> bool {
        let [voters] = &self.voters[..] else { return false };
        voters.contains(&id) && voters.len() <= 2
    }

    pub fn decode(encoded: Bytes) -> Result<Self, prost::DecodeError> {
        let record = MembershipRecord::decode(encoded)?;
        let voters = record.voters.into_iter().map(|set| set.ids.into_iter().map(MemberId).collect()).collect();
        let members = record
            .members
            .into_iter()
            .map(|member| {
                let MemberRecord { id, name, peer_urls, client_urls, store_id, wants_vote, level } = member;
                (MemberId(id), Member { name, peer_urls, client_urls, store_id, wants_vote, level })
            })
            .collect();
        Ok(Self { voters, members })
    }
}

/// What all of some members understand; nothing beyond the first release if there are none.
pub fn lowest_level<'m>(members: impl IntoIterator<Item = &'m Member>) -> u32 {
    members.into_iter().map(|member| member.level).min().unwrap_or(0)
}

#[derive(Clone, PartialEq, Message)]
struct MembershipRecord {
    #[prost(message, repeated, tag = "1")]
    voters: Vec<VoterSet>,
    #[prost(message, repeated, tag = "2")]
    members: Vec<MemberRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct VoterSet {
    #[prost(fixed64, repeated, tag = "1")]
    ids: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct MemberRecord {
    #[prost(fixed64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, repeated, tag = "3")]
    peer_urls: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    client_urls: Vec<String>,
    #[prost(fixed64, tag = "5")]
    store_id: u64,
    #[prost(bool, tag = "6")]
    wants_vote: bool,
    #[prost(uint32, tag = "7")]
    level: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joint_membership_survives_encoding() {
        let member = Member {
            name: "a".into(),
            peer_urls: vec!["https://a:2380".into()],
            client_urls: vec![],
            store_id: 9,
            wants_vote: true,
            level: 3,
        };
        let membership = Membership {
            voters: vec![BTreeSet::from([MemberId(1)]), BTreeSet::from([MemberId(1), MemberId(u64::MAX)])],
            members: BTreeMap::from([(MemberId(1), member), (MemberId(u64::MAX), Member::default())]),
        };
        assert_eq!(Membership::decode(membership.encode().into()).unwrap(), membership);
    }

    #[test]
    fn of_two_voters_each_is_needed_and_of_three_none() {
        let of = |sets: &[&[u64]]| {
            let voters = sets.iter().map(|set| set.iter().copied().map(MemberId).collect()).collect();
            Membership { voters, members: BTreeMap::new() }
        };
        let needs = |sets: &[&[u64]]| of(sets).needs(MemberId(1));
        assert!(needs(&[&[1]]) && needs(&[&[1, 2]]));
        assert!(!needs(&[&[1, 2, 3]]) && !needs(&[&[2, 3]]) && !needs(&[]));
        assert!(!needs(&[&[1], &[1, 2, 3]]), "a change is under way");
    }

    #[test]
    fn all_understand_what_the_oldest_release_among_them_does() {
        let member = |level| Member { level, ..Member::default() };
        assert_eq!(lowest_level([&member(LEVEL), &member(LEVEL + 1)]), LEVEL);
        assert_eq!(lowest_level([&member(LEVEL), &Member::default()]), 0, "one has not told yet");
        assert_eq!(lowest_level([]), 0);
    }
}
