//! Writes, on whichever member they arrive.
//!
//! A write is tried again only where it is certain that nobody has it: the leader was not reached, or said that it does not lead. One
//! whose answer is lost may have been applied, and is answered with a timeout, as in etcd.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::ClientWriteError;
use openraft::metrics::RaftServerMetrics;
use openraft::type_config::alias::{CommittedLeaderIdOf, WatchReceiverOf};
use tokio::time::Instant;

use super::{BACKLOG_BYTES, Node, ProposeError, RETRY_PAUSE, ReadError, space};
use crate::command::{Command, Encoded};
use crate::log::LogId;
use crate::member::MemberId;
use crate::peer::{Answer, CallError, Failure, Lane, Request};
use crate::raft::{Proposal, TypeConfig, Waiter, to_log_id};
use crate::state::{Replicated, Response};

/// What became of a write on this member.
pub(super) enum Proposed {
    Done(LogId, Response),
    /// Nothing: another member leads, or none does.
    NotLeader,
}

/// The term that a write is to be part of.
pub(super) type Term = CommittedLeaderIdOf<TypeConfig>;

/// Whether this member leads, as it changes: told a moment before [`Node::leads_in`] knows.
pub struct Leadership(WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>);

impl std::fmt::Debug for Leadership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Leadership").field(&self.leads_in()).finish()
    }
}

impl Leadership {
    pub fn leads_in(&self) -> Option<u64> {
        let metrics = self.0.borrow_watched();
        (metrics.current_leader == Some(metrics.id)).then_some(metrics.vote.leader_id.term)
    }

    /// Returns at a change, and never once consensus has stopped.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// As long as leadership is handed over.
struct HandingOver<'a>(&'a AtomicBool);

impl<'a> HandingOver<'a> {
    fn begin(flag: &'a AtomicBool) -> Self {
        flag.store(true, Ordering::SeqCst);
        Self(flag)
    }
}

impl Drop for HandingOver<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl<S: Replicated> Node<S> {
    /// Puts a command into the log and returns what applying it answered.
    pub async fn propose(&self, command: Command) -> Result<Response, ProposeError> {
        if self.space.refuses(&command) {
            // An alarm grows nothing, so this goes one level deep.
            Box::pin(space::raise_alarm(self)).await;
            return Err(ProposeError::NoSpace);
        }
        let deadline = Instant::now() + self.request_timeout;
        let command = self.encode(&command)?;
        loop {
            let leader = self.leader();
            if leader.is_none_or(|leader| leader == self.identity.member_id) {
                if let Proposed::Done(_, response) = self.propose_here(command.clone(), deadline, None).await? {
                    return Ok(response);
                }
            } else if let Some(leader) = leader
                && let Some(response) = self.forward(leader, command.clone(), deadline).await?
            {
                return Ok(response);
            }
            if Instant::now() >= deadline {
                return Err(ProposeError::NoLeader);
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// As [`Node::propose`], if this member leads in the given term and for what is still true only then.
    pub async fn propose_in_term(&self, command: Command, term: u64) -> Result<Response, ProposeError> {
        let deadline = Instant::now() + self.request_timeout;
        match self.propose_here(self.encode(&command)?, deadline, Some(Term::new(term))).await? {
            Proposed::Done(_, response) => Ok(response),
            Proposed::NotLeader => Err(ProposeError::NoLeader),
        }
    }

    fn encode(&self, command: &Command) -> Result<Encoded, ProposeError> {
        // What we encoded decodes; were it not so, no member could apply it.
        let command = Encoded::new(command).map_err(|_| ProposeError::TooLarge)?;
        if command.bytes().len() > self.largest_command {
            return Err(ProposeError::TooLarge);
        }
        Ok(command)
    }

    /// Who leads, as far as this member knows. It may be long gone.
    pub(super) fn leader(&self) -> Option<MemberId> {
        self.raft.metrics().borrow_watched().current_leader
    }

    /// How long a request may take from now on.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.request_timeout
    }

    pub(super) async fn propose_here(
        &self,
        command: Encoded,
        deadline: Instant,
        term: Option<Term>,
    ) -> Result<Proposed, ProposeError> {
        let size = command.bytes().len();
        self.space.proposing(size, &self.state);
        let share = u32::try_from(size).map_err(|_| ProposeError::TooLarge)?;
        let share = std::sync::Arc::clone(&self.backlog).acquire_many_owned(share);
        let share = match tokio::time::timeout_at(deadline, share).await {
            Ok(Ok(share)) => share,
            // It is closed: this member stops.
            Ok(Err(_)) => return Ok(Proposed::NotLeader),
            Err(_) => return Err(ProposeError::TooManyRequests),
        };
        // Behind the backlog, in which it is awaited from here on.
        if self.handing_over.load(Ordering::SeqCst) {
            return Ok(Proposed::NotLeader);
        }
        let (waiter, receiver) = Waiter::new(Some(share));
        let mut write = self.raft.write(Proposal(command)).responder(waiter);
        if let Some(term) = term {
            write = write.with_leader(term);
        }
        write.await.map_err(|_| ProposeError::Stopped)?;
        match tokio::time::timeout_at(deadline, receiver).await {
            Ok(Ok(Ok(written))) => Ok(Proposed::Done(to_log_id(&written.log_id), written.data)),
            Ok(Ok(Err(ClientWriteError::ForwardToLeader(_)))) => Ok(Proposed::NotLeader),
            // In the second case another leader may have committed it, or not.
            Err(_) | Ok(Ok(Err(_))) => Err(ProposeError::Timeout),
            Ok(Err(_)) => Err(ProposeError::Stopped),
        }
    }

    /// None if the leader does not have it.
    async fn forward(
        &self,
        leader: MemberId,
        command: Encoded,
        deadline: Instant,
    ) -> Result<Option<Response>, ProposeError> {
        match self.call_leader(leader, Request::Propose(command), deadline).await {
            Ok(Answer::Proposed { at, response }) => {
                // Whoever wrote here reads here. It is done in any case: that this member is slow is no reason to say otherwise.
                _ = tokio::time::timeout_at(deadline, self.applied(at)).await;
                Ok(Some(response))
            }
            Ok(Answer::Failed(Failure::NotLeader(_))) | Err(CallError::NotSent { .. } | CallError::Refused { .. }) => {
                Ok(None)
            }
            Ok(Answer::Failed(failure)) => Err(failure.into()),
            Ok(_) | Err(CallError::Lost { .. }) => Err(ProposeError::Timeout),
        }
    }

    pub(super) async fn call_leader(
        &self,
        leader: MemberId,
        request: Request,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.transport.call(leader, Lane::Forward, request, left).await
    }

    /// Has whoever leads answer a request, if that is another member. An error if nobody leads, or if it is not known whether the leader got it.
    pub async fn ask_leader(&self, request: Request) -> Result<Answer, ReadError> {
        let deadline = self.deadline();
        loop {
            match self.leader() {
                Some(leader) if leader != self.identity.member_id => {
                    match self.call_leader(leader, request.clone(), deadline).await {
                        Ok(Answer::Failed(Failure::NotLeader(_))) | Err(CallError::NotSent { .. }) => {}
                        Ok(answer) => return Ok(answer),
                        Err(_) => return Err(ReadError::Timeout),
                    }
                }
                Some(_) => return Ok(Answer::Failed(Failure::NotLeader(Some(self.identity.member_id)))),
                None => {}
            }
            if Instant::now() >= deadline {
                // One that is still heard, and cannot be asked, is a leader all the same.
                let leads = self.status().leader.is_some();
                return Err(if leads { ReadError::Timeout } else { ReadError::NoLeader });
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Whether this member leads, as far as it knows, and in which term.
    pub fn leads_in(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        (metrics.current_leader == Some(self.identity.member_id)).then_some(metrics.current_term)
    }

    pub fn leadership(&self) -> Leadership {
        Leadership(self.raft.server_metrics())
    }

    /// Gives leadership to another voter before this member stops: nobody then waits for an election.
    pub(super) async fn hand_over(&self) {
        let target = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            if metrics.current_leader != Some(self.identity.member_id) {
                return;
            }
            let voters: Vec<MemberId> = metrics.membership_config.voter_ids().collect();
            let progress = metrics.replication.iter().flatten();
            let others = progress.filter(|(id, _)| **id != self.identity.member_id && voters.contains(id));
            others.max_by_key(|(_, matched)| matched.as_ref().map(|id| id.index)).map(|(id, _)| *id)
        };
        let Some(target) = target else { return };
        if self.transfer(target, 2 * self.timing.election_timeout).await {
            tracing::info!(%target, "leadership was handed over before the stop");
        } else {
            tracing::warn!(%target, "leadership could not be handed over before the stop");
        }
    }

    /// Transfers leadership; false if it has not come about in time.
    ///
    /// What was proposed is seen through before: of an entry that is on its way when another comes to lead, nobody here could say whether it was
    /// committed. Whoever proposes meanwhile waits for the other.
    pub(super) async fn transfer(&self, target: MemberId, timeout: Duration) -> bool {
        let _handing_over = HandingOver::begin(&self.handing_over);
        let all = u32::try_from(BACKLOG_BYTES).unwrap_or(u32::MAX);
        // If that takes too long, a few are not answered for the sake of all others.
        _ = tokio::time::timeout(self.timing.election_timeout, self.backlog.acquire_many(all)).await;
        if self.raft.trigger().transfer_leader(target).await.is_err() {
            return false;
        }
        let leads = |metrics: &openraft::RaftMetrics<TypeConfig>| metrics.current_leader == Some(target);
        self.raft.wait(Some(timeout)).metrics(leads, "the transfer of leadership").await.is_ok()
    }
}
