//! Whether all members hold the same.
//!
//! Members apply the same entries, so they have the same state, unless memory, a disk or this program has failed one of them. Nobody would notice before
//! two members answer differently. So the leader compares now and then: it takes the hash of its own keys at a revision, and asks all others for theirs at
//! the same one. Whoever has another than most is named by a CORRUPT alarm, as in etcd: nothing is written any more until an operator has replaced that
//! member and disarmed the alarm.
//!
//! Hashes of states that were compacted to different revisions say nothing about each other; then it is the next comparison that counts.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::Duration;

use futures::future::join_all;
use keelson_etcd_api::etcdserverpb as pb;

use super::Node;
use crate::command::Command;
use crate::member::MemberId;
use crate::peer::{Answer, Failure, Lane, Request};
use crate::state::{Hashed, Keys, Replicated};

/// The level from which members answer.
const LEVEL: u32 = 1;

/// Compares as long as the node lives and leads.
pub(super) async fn watch<S: Replicated>(node: Weak<Node<S>>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(node) = node.upgrade() else { return };
        if node.leads_in().is_some() {
            for keys in Keys::ALL {
                node.compare(keys).await;
            }
        }
    }
}

impl<S: Replicated> Node<S> {
    async fn compare(&self, keys: Keys) {
        let Some(own) = self.state.hash(keys, 0).await else { return };
        let others: Vec<MemberId> = self
            .members()
            .into_iter()
            .filter(|(id, member, _)| *id != self.identity.member_id && member.level >= LEVEL)
            .map(|(id, ..)| id)
            .collect();
        let asked = others.into_iter().map(|id| async move {
            let request = Request::Hash(keys, own.revision);
            (id, self.transport.call(id, Lane::Forward, request, self.request_timeout).await)
        });
        let mut hashes = BTreeMap::from([(self.identity.member_id, own.hash)]);
        for (id, answer) in join_all(asked).await {
            let Ok(Answer::Hashed(Some(found))) = answer else { continue };
            if (found.revision, found.compact_revision) == (own.revision, own.compact_revision) {
                hashes.insert(id, found.hash);
            }
        }
        for id in differing(self.identity.member_id, &hashes) {
            self.report_corruption(id, own, &hashes).await;
        }
    }

    async fn report_corruption(&self, member: MemberId, own: Hashed, hashes: &BTreeMap<MemberId, u32>) {
        tracing::error!(%member, revision = own.revision, ?hashes, "a member's state differs from that of the others");
        let alarm = pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Activate.into(),
            member_id: member.0,
            alarm: pb::AlarmType::Corrupt.into(),
        };
        if let Err(error) = self.propose(Command::Alarm(alarm)).await {
            // The next comparison finds the same.
            tracing::warn!(%error, "the alarm cannot be raised");
        }
    }

    /// For the leader that compares: at a revision that this member may not have applied yet.
    pub(super) async fn hash_for(&self, keys: Keys, revision: i64) -> Answer {
        match self.read_index().await {
            Ok(()) => Answer::Hashed(self.state.hash(keys, revision).await),
            Err(error) => Answer::Failed(Failure::from(error)),
        }
    }
}

/// Those whose hash is not that of most. Of two that are as frequent the leader's own is believed, or else either.
fn differing(leader: MemberId, hashes: &BTreeMap<MemberId, u32>) -> Vec<MemberId> {
    let frequency = |hash: u32| hashes.values().filter(|other| **other == hash).count();
    let most = hashes.iter().max_by_key(|(id, hash)| (frequency(**hash), **id == leader)).map(|(_, hash)| *hash);
    hashes.iter().filter(|(_, hash)| Some(**hash) != most).map(|(id, _)| *id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blamed(leader: u64, hashes: &[u32]) -> Vec<u64> {
        let hashes = (1..).map(MemberId).zip(hashes.iter().copied()).collect();
        differing(MemberId(leader), &hashes).into_iter().map(|id| id.0).collect()
    }

    #[test]
    fn the_one_that_differs_from_most_is_blamed_also_if_it_leads() {
        assert!(blamed(1, &[7]).is_empty() && blamed(1, &[7, 7, 7]).is_empty());
        assert_eq!(blamed(1, &[7, 7, 8]), [3]);
        assert_eq!(blamed(1, &[8, 7, 7]), [1]);
        assert_eq!(blamed(2, &[8, 7]), [1]);
        assert_eq!(blamed(1, &[5, 7, 7, 8, 7]), [1, 4]);
    }
}
