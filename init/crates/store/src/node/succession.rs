//! The succession of a leader whose process has died, without an election timeout.
//!
//! An election timeout is long because silence says little: whoever is silent may be slow, and to depose it would make all wait. The death of
//! a process says much more, and at once: its machine closes its connections, and refuses new ones. So a voter whose leader has hung up, or has
//! been silent for some heartbeats,
//!
//! 1. asks the leader's machine, which must refuse a connection: no answer is no proof;
//! 2. asks all other voters by a pre-vote that is flagged. One of them agrees if it suspects the same leader, is refused by its machine too, and is
//!    not better placed itself (a longer log, or as long a one and a higher id: two who stand at once may both lose);
//! 3. stands for election if a quorum agrees and nobody who answers does not. Its votes are flagged as those of a transfer of leadership, or the
//!    others would refuse them for as long as they owe the dead leader.
//!
//! Nothing of this makes an election unsafe: a vote is given, counted and made durable by consensus, under its own rules, and no answer to a read relies on
//! what is owed to a leader. It must not make one needless either: a leader that lives answers on its port, or still speaks to one of those who are asked.
//!
//! A machine that is gone refuses nothing. Then, and whenever the voters do not agree, it is as it was: an election timeout passes.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures::future::join_all;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::raft::TransferLeaderRequest;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Node;
use crate::log::{LogId, Vote};
use crate::member::MemberId;
use crate::peer::{Answer, Ballot, Failure, Lane, Request};
use crate::raft::{Raft, from_log_id, from_vote};
use crate::state::Replicated;

/// Heartbeats after which the machine of a silent leader is asked.
const SILENT_HEARTBEATS: u32 = 2;
/// What the leader's machine and another voter may take to answer are these parts of an election timeout, which is ten round trips and more.
const PROBE_PART: u32 = 4;
const ASK_PART: u32 = 2;

/// What a member has seen of its leader's end.
#[derive(Debug, Default)]
pub(super) struct Succession {
    wake: Notify,
    /// The leader that hung up last.
    hung_up: Mutex<Option<(MemberId, Instant)>>,
    /// The term of the leader that this member stood to succeed last. Terms begin at 1.
    stood_after: AtomicU64,
}

impl Succession {
    fn hang_up(&self, leader: MemberId) {
        *self.hung_up.lock().unwrap_or_else(PoisonError::into_inner) = Some((leader, Instant::now()));
        self.wake.notify_one();
    }

    /// Whether it has hung up since it was heard.
    fn has_hung_up(&self, leader: MemberId, heard: Instant) -> bool {
        let hung_up = *self.hung_up.lock().unwrap_or_else(PoisonError::into_inner);
        hung_up.is_some_and(|(member, at)| member == leader && at >= heard)
    }
}

/// Watches the leader for as long as the node lives.
pub(super) async fn run<S: Replicated>(node: Weak<Node<S>>, raft: Raft<S>, succession: Arc<Succession>) {
    let mut metrics = raft.server_metrics();
    loop {
        let is_led = {
            let metrics = metrics.borrow_watched();
            metrics.current_leader.is_some_and(|leader| leader != metrics.id)
        };
        if !is_led {
            if metrics.changed().await.is_err() {
                return;
            }
            continue;
        }
        let Some(live) = node.upgrade() else { return };
        let heartbeat = live.timing.heartbeat_interval;
        // What is suspected and not agreed upon may be a moment later: not everybody sees the end of a process at once.
        let pause = if live.suspect().is_some() { heartbeat / 2 } else { heartbeat * SILENT_HEARTBEATS };
        drop(live);
        // Out of time or woken, it looks.
        _ = tokio::time::timeout(pause, succession.wake.notified()).await;
        let Some(live) = node.upgrade() else { return };
        if let Some(leader) = live.suspect() {
            live.succeed(leader).await;
        }
    }
}

impl<S: Replicated> Node<S> {
    /// Another member's connection has ended.
    pub(super) fn note_hang_up(&self, member: MemberId) {
        if self.leader() == Some(member) {
            self.succession.hang_up(member);
        }
    }

    /// The leader, if this member votes and has reason to ask whether the leader still lives.
    fn suspect(&self) -> Option<MemberId> {
        let own = self.identity.member_id;
        let leader = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let votes = metrics.membership_config.voter_ids().any(|id| id == own);
            metrics.current_leader.filter(|leader| votes && *leader != own)?
        };
        let heard = (*self.heard.lock().unwrap_or_else(PoisonError::into_inner))?;
        let silence = heard.elapsed();
        if silence >= 2 * self.timing.election_timeout {
            // Elections are under way by now.
            return None;
        }
        let silent = silence >= SILENT_HEARTBEATS * self.timing.heartbeat_interval;
        (silent || self.succession.has_hung_up(leader, heard)).then_some(leader)
    }

    /// Whether this member suspects a leader, and its machine confirms it.
    async fn has_lost(&self, leader: MemberId) -> bool {
        // Asked first: the end of the connection is noticed meanwhile, if it was not yet.
        let timeout = self.timing.election_timeout / PROBE_PART;
        self.transport.is_gone(leader, timeout).await && self.suspect() == Some(leader)
    }

    /// What this member would vote with: whom it follows, if anybody, and its last entry.
    fn standing(&self) -> Option<(Vote, Option<LogId>)> {
        let marks = self.log.marks();
        marks.vote.filter(|vote| vote.committed).map(|vote| (vote, marks.last))
    }

    /// Stands for election if the leader is gone and the others agree that this member is to succeed it.
    async fn succeed(&self, leader: MemberId) {
        if !self.has_lost(leader).await {
            return;
        }
        let Some((vote, last)) = self.standing().filter(|(vote, _)| vote.member == leader) else { return };
        if self.succession.stood_after.load(Ordering::Relaxed) == vote.term {
            // It shows a moment later.
            return;
        }
        let own = self.identity.member_id;
        let voters = self.raft.metrics().borrow_watched().membership_config.membership().get_joint_config().clone();
        let ballot = Ballot {
            vote: Vote { term: vote.term + 1, member: own, committed: false },
            last,
            leadership_transfer: true,
        };
        let others: BTreeSet<MemberId> =
            voters.iter().flatten().copied().filter(|id| *id != own && *id != leader).collect();
        let timeout = self.timing.election_timeout / ASK_PART;
        let asked = others.into_iter().map(|id| async move {
            (id, self.transport.call(id, Lane::Control, Request::PreVote(ballot), timeout).await)
        });
        let mut agree = BTreeSet::from([own]);
        for (id, answer) in join_all(asked).await {
            match answer {
                Ok(Answer::Voted { granted: true, .. }) => _ = agree.insert(id),
                // It still hears the leader, or is to succeed it itself.
                Ok(_) => return,
                // Who does not answer neither helps nor hinders.
                Err(_) => {}
            }
        }
        if !is_quorum(&voters, &agree) {
            return;
        }
        // As the leader would ask for it. Consensus looks at whether anything has changed meanwhile.
        let request = TransferLeaderRequest::new(from_vote(vote), own, last.map(from_log_id));
        match self.raft.handle_transfer_leader(request).await {
            Ok(Ok(())) => {
                self.succession.stood_after.store(vote.term, Ordering::Relaxed);
                let term = ballot.vote.term;
                tracing::info!(%leader, term, "the leader's process is gone: this member stands to succeed it");
            }
            Ok(Err(error)) => tracing::debug!(%error, "this member does not stand to succeed the leader"),
            // That consensus has stopped shows elsewhere.
            Err(_) => {}
        }
    }

    /// Answers a flagged pre-vote: whether this member has lost its leader, too, and whoever asks is to succeed it.
    pub(super) async fn agree(&self, ballot: Ballot) -> Answer {
        let Some((vote, last)) = self.standing() else { return Answer::Failed(Failure::NotLeader(None)) };
        let own = self.identity.member_id;
        let refusal = Answer::Voted { vote, granted: false, last };
        // A term has one leader: whoever stands for the next one means the same.
        if vote.term + 1 != ballot.vote.term || vote.member == own {
            return refusal;
        }
        if (last, own) > (ballot.last, ballot.vote.member) {
            self.succession.wake.notify_one();
            return refusal;
        }
        if self.has_lost(vote.member).await { Answer::Voted { vote, granted: true, last } } else { refusal }
    }
}

/// Whether members are a majority of each set of voters.
fn is_quorum(voters: &[BTreeSet<MemberId>], members: &BTreeSet<MemberId>) -> bool {
    !voters.is_empty() && voters.iter().all(|set| set.intersection(members).count() > set.len() / 2)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ids(numbers: &[u64]) -> BTreeSet<MemberId> {
        numbers.iter().copied().map(MemberId).collect()
    }

    #[test]
    fn a_quorum_is_one_of_both_lists_while_members_change() {
        assert!(!is_quorum(&[], &ids(&[1])));
        assert!(is_quorum(&[ids(&[1, 2, 3])], &ids(&[2, 3])));
        assert!(!is_quorum(&[ids(&[1, 2, 3])], &ids(&[2, 4, 5])));
        assert!(!is_quorum(&[ids(&[1, 2])], &ids(&[2])));
        assert!(!is_quorum(&[ids(&[1, 2, 3]), ids(&[3, 4, 5])], &ids(&[2, 3])));
        assert!(is_quorum(&[ids(&[1, 2, 3]), ids(&[3, 4, 5])], &ids(&[2, 3, 4])));
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_is_heard_again_has_not_hung_up() {
        let succession = Succession::default();
        let before = Instant::now();
        assert!(!succession.has_hung_up(MemberId(1), before));
        tokio::time::advance(Duration::from_millis(5)).await;
        succession.hang_up(MemberId(1));
        assert!(succession.has_hung_up(MemberId(1), before));
        assert!(!succession.has_hung_up(MemberId(2), before), "another leads by now");
        tokio::time::advance(Duration::from_millis(5)).await;
        assert!(!succession.has_hung_up(MemberId(1), Instant::now()));
    }
}
