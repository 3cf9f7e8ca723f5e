//! What other members ask of this one.

use std::sync::{Arc, PoisonError};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse};
use rustls::client::verify_server_name;
use rustls::server::ParsedCertificate;
use rustls_pki_types::{CertificateDer, ServerName};

use super::Node;
use super::changes::Metrics;
use super::forward::Proposed;
use crate::command::Encoded;
use crate::flags::{Address, Endpoint};
use crate::lease::LeaseService;
use crate::member::{Member, MemberId};
use crate::peer::traffic::Counters;
use crate::peer::{
    Answer, Append, Ballot, BoxFuture, Change, ClusterInfo, Failure, Handler, Hello, Local, Refusal, Request, Standing,
    Transfer,
};
use crate::raft::{TypeConfig, from_entry, from_log_id, from_vote, to_log_id, to_membership, to_vote};
use crate::state::Replicated;

impl<S: Replicated> Handler for Node<S> {
    fn local(&self) -> Local {
        Self::local(self)
    }

    fn admit(&self, hello: &Hello, certificate: Option<&CertificateDer<'_>>) -> Result<Standing, Refusal> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        // One that is not known may be newer than what this member knows.
        let Some(member) = known(&metrics, hello.from.member_id) else { return Ok(Standing::Stranger) };
        let known =
            if member.has_started() { Some(member.store_id) } else { self.transport.store_of(hello.from.member_id) };
        if known.is_some_and(|store| store != hello.from.store_id) {
            return Err(Refusal::Reborn);
        }
        match certificate {
            Some(certificate) if !self.is_named(certificate, member) => Err(Refusal::Certificate),
            _ => Ok(Standing::Member),
        }
    }

    fn handle(self: Arc<Self>, from: MemberId, request: Request) -> BoxFuture<'static, Answer> {
        Box::pin(async move {
            if !self.listens_to(from, &request) {
                return Answer::Failed(Failure::NotLeader(None));
            }
            match request {
                Request::Append(append) => self.append(append).await,
                Request::Vote(ballot) => self.vote(ballot, false).await,
                Request::PreVote(ballot) if ballot.leadership_transfer => self.agree(ballot).await,
                Request::PreVote(ballot) => self.vote(ballot, true).await,
                Request::Transfer(transfer) => self.accept_transfer(transfer).await,
                Request::SnapshotBegin(begin) => self.begin_snapshot(begin).await,
                Request::SnapshotRows(rows) => self.receive_rows(rows).await,
                Request::SnapshotEnd(transfer) => self.end_snapshot(transfer).await,
                Request::Propose(command) => self.propose_for(command).await,
                Request::ReadIndex => match self.read_mark().await {
                    Ok(mark) => Answer::ReadIndex(mark),
                    Err(error) => Answer::Failed(error.into()),
                },
                Request::Change(change) => match self.leads_in() {
                    None => Answer::Failed(Failure::NotLeader(self.leader())),
                    Some(_) => match self.change_here(change).await {
                        Ok(info) => Answer::Cluster(info),
                        Err(error) => Answer::ChangeFailed(error),
                    },
                },
                Request::MoveLeader(target) => match self.move_leader(target).await {
                    Ok(()) => Answer::Done,
                    Err(failure) => Answer::Failed(failure),
                },
                Request::Renew(id) => self.renew_for(id).await,
                Request::TimeToLive { id, keys } => self.time_to_live_for(id, keys).await,
                Request::ClusterInfo => Answer::Cluster(self.cluster_info()),
                Request::Hash(keys, revision) => self.hash_for(keys, revision).await,
            }
        })
    }

    fn counters(&self, from: MemberId) -> Option<Arc<Counters>> {
        self.transport.traffic()?.of(from)
    }

    fn hung_up(&self, from: MemberId) {
        self.note_hang_up(from);
    }
}

/// A member of the list in force, or of the one before it: the newer one may never be committed.
fn known(metrics: &Metrics, id: MemberId) -> Option<&Member> {
    let (effective, committed) = (&metrics.membership_config, &metrics.committed_membership_config);
    effective.membership().get_node(&id).or_else(|| committed.membership().get_node(&id))
}

/// Whose a request says that it is.
fn said_sender(request: &Request) -> Option<MemberId> {
    match request {
        Request::Append(append) => Some(append.vote.member),
        Request::Vote(ballot) | Request::PreVote(ballot) => Some(ballot.vote.member),
        Request::Transfer(transfer) => Some(transfer.from.member),
        Request::SnapshotBegin(begin) => Some(begin.vote.member),
        Request::Change(Change::Publish { id, .. }) => Some(*id),
        _ => None,
    }
}

fn is_of_consensus(request: &Request) -> bool {
    matches!(
        request,
        Request::Append(_)
            | Request::Vote(_)
            | Request::PreVote(_)
            | Request::Transfer(_)
            | Request::SnapshotBegin(_)
            | Request::SnapshotRows(_)
            | Request::SnapshotEnd(_)
    )
}

/// Whether a certificate names a host of the member's peer URLs.
fn names_host(certificate: &CertificateDer<'_>, member: &Member) -> bool {
    let Ok(certificate) = ParsedCertificate::try_from(certificate) else { return false };
    let mut over_tls = member.peer_urls.iter().filter_map(|url| Endpoint::parse(url)).filter(|url| url.tls);
    over_tls.any(|url| {
        let host = match url.address {
            Address::Tcp { host, .. } => host,
            Address::Unix(_) => "localhost".to_owned(),
        };
        ServerName::try_from(host).is_ok_and(|name| verify_server_name(&certificate, &name).is_ok())
    })
}

impl<S: Replicated> Node<S> {
    /// Whether a request is one that its sender may ask of this member.
    fn listens_to(&self, from: MemberId, request: &Request) -> bool {
        if said_sender(request).is_some_and(|said| said != from) {
            tracing::warn!(member = %from, "a request in the name of another member is refused");
            return false;
        }
        // Also one that was removed is told so.
        if matches!(request, Request::ClusterInfo) || known(&self.raft.metrics().borrow_watched(), from).is_some() {
            return true;
        }
        is_of_consensus(request) && self.may_follow(from)
    }

    /// Whether somebody whom this member does not know may lead it, or stand for election. A member that is behind cannot know all who do; one that
    /// has a leader is told by that one.
    fn may_follow(&self, stranger: MemberId) -> bool {
        // The log is ahead of what consensus publishes.
        let leader = self.log.vote().filter(|vote| vote.committed).map(|vote| vote.member);
        if leader == Some(stranger) {
            // Also one that was removed: it leads on until it has handed over.
            return true;
        }
        let removed = self.roll.lock().unwrap_or_else(PoisonError::into_inner).removed.contains(&stranger);
        !removed && leader.is_none_or(|leader| !self.is_fresh(leader, &self.raft.metrics().borrow_watched()))
    }

    fn is_named(&self, certificate: &CertificateDer<'_>, member: &Member) -> bool {
        if !self.certificates_name_members || member.name.is_empty() {
            return names_host(certificate, member);
        }
        let (Ok(certificate), Ok(name)) =
            (ParsedCertificate::try_from(certificate), ServerName::try_from(member.name.as_str()))
        else {
            return false;
        };
        verify_server_name(&certificate, &name).is_ok()
    }

    async fn append(&self, append: Append) -> Answer {
        let entries = append.entries.into_iter().map(from_entry).collect::<std::io::Result<_>>();
        let Ok(entries) = entries else { return Answer::Failed(Failure::NotUnderstood) };
        let request = AppendEntriesRequest::<TypeConfig> {
            vote: from_vote(append.vote),
            prev_log_id: append.previous.map(from_log_id),
            leader_commit: append.committed.map(from_log_id),
            entries,
        };
        match self.raft.append_entries(request).await {
            Ok(AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_)) => {
                self.hear_leader();
                Answer::Appended
            }
            Ok(AppendEntriesResponse::Conflict) => {
                self.hear_leader();
                Answer::Conflict
            }
            Ok(AppendEntriesResponse::HigherVote(vote)) => Answer::HigherVote(to_vote(&vote)),
            Err(_) => Answer::Failed(Failure::Stopped),
        }
    }

    pub(super) fn hear_leader(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(tokio::time::Instant::now());
    }

    async fn vote(&self, ballot: Ballot, pre_vote: bool) -> Answer {
        let mut request = VoteRequest::<TypeConfig>::new(from_vote(ballot.vote), ballot.last.map(from_log_id));
        request.leadership_transfer = ballot.leadership_transfer;
        let voted = if pre_vote { self.raft.pre_vote(request).await } else { self.raft.vote(request).await };
        match voted {
            Ok(VoteResponse { vote, vote_granted, last_log_id }) => {
                Answer::Voted { vote: to_vote(&vote), granted: vote_granted, last: last_log_id.as_ref().map(to_log_id) }
            }
            Err(_) => Answer::Failed(Failure::Stopped),
        }
    }

    async fn accept_transfer(&self, transfer: Transfer) -> Answer {
        let last = transfer.last.map(from_log_id);
        let request = TransferLeaderRequest::new(from_vote(transfer.from), transfer.to, last);
        match self.raft.handle_transfer_leader(request).await {
            Ok(Ok(())) => Answer::Done,
            Ok(Err(_)) => Answer::Failed(Failure::NotUnderstood),
            Err(_) => Answer::Failed(Failure::Stopped),
        }
    }

    async fn propose_for(&self, command: Encoded) -> Answer {
        if self.leads_in().is_none() {
            return Answer::Failed(Failure::NotLeader(self.leader()));
        }
        if self.space.refuses(command.command()) {
            Box::pin(super::space::raise_alarm(self)).await;
            return Answer::Failed(Failure::NoSpace);
        }
        if command.bytes().len() > self.largest_command {
            return Answer::Failed(Failure::TooLarge);
        }
        match self.propose_here(command, self.deadline(), None).await {
            Ok(Proposed::Done(at, response)) => Answer::Proposed { at, response },
            Ok(Proposed::NotLeader) => Answer::Failed(Failure::NotLeader(self.leader())),
            Err(error) => Answer::Failed(error.into()),
        }
    }

    fn lease_service(&self) -> Result<Arc<dyn LeaseService>, Answer> {
        if self.leads_in().is_none() {
            return Err(Answer::Failed(Failure::NotLeader(self.leader())));
        }
        // A leader that does not serve yet has none: whoever asked tries again.
        self.leases.get().and_then(std::sync::Weak::upgrade).ok_or(Answer::Failed(Failure::NotLeader(None)))
    }

    async fn renew_for(&self, id: i64) -> Answer {
        match self.lease_service() {
            Ok(leases) => leases.renew_here(id).await,
            Err(answer) => answer,
        }
    }

    async fn time_to_live_for(&self, id: i64, keys: bool) -> Answer {
        match self.lease_service() {
            Ok(leases) => leases.time_to_live_here(id, keys).await,
            Err(answer) => answer,
        }
    }

    /// The committed membership, as far as this member knows.
    pub fn cluster_info(&self) -> ClusterInfo {
        let leader = self.status().leader;
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let committed = &metrics.committed_membership_config;
        let mut membership = to_membership(committed.membership());
        for (id, member) in membership.members.iter_mut().filter(|(_, member)| !member.has_started()) {
            // It may have promised something already, before the list could say so.
            member.store_id = self.transport.store_of(*id).unwrap_or(member.store_id);
        }
        ClusterInfo {
            cluster_id: self.identity.cluster_id,
            membership,
            membership_id: committed.log_id().as_ref().map(to_log_id),
            leader,
        }
    }
}
