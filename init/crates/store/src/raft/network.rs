//! The other members, as openraft's network.
//!
//! openraft's time limits are those of a heartbeat. They are kept for heartbeats (openraft gives up by itself); the log's entries may take a
//! follower longer to make durable, and a snapshot is limited by progress: each piece has a time limit, the whole has none.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::OptionalSend;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::{SnapshotOf, VoteOf};

use super::machine::SnapshotRows;
use super::{TypeConfig, from_log_id, from_vote, to_entry, to_log_id, to_membership, to_vote};
use crate::member::{Member, MemberId};
use crate::peer::{
    self, Answer, Append, Ballot, CallError, Failure, Lane, Request, SnapshotBegin, Transfer, Transport,
};
use crate::random::Random;
use crate::state::Row;

/// About the size of a snapshot's pieces.
const PIECE_BYTES: usize = 256 << 10;
/// What a follower may take to make entries, or a piece of a snapshot, durable before it is taken for dead.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a follower without room for the state is left alone before it is asked again.
const NO_ROOM_PAUSE: Duration = Duration::from_secs(10);

/// Makes clients for other members.
#[derive(Clone, Debug)]
pub struct Peers {
    transport: Arc<dyn Transport>,
    random: Arc<dyn Random>,
    election_timeout: Duration,
}

impl Peers {
    pub fn new(transport: Arc<dyn Transport>, random: Arc<dyn Random>, election_timeout: Duration) -> Self {
        Self { transport, random, election_timeout }
    }

    fn peer(&self, target: MemberId, lane: Lane) -> Peer {
        Peer { peers: self.clone(), target, lane }
    }
}

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: MemberId, _member: &Member) -> Peer {
        self.peer(target, Lane::Log)
    }

    async fn new_heartbeat_client(&mut self, target: MemberId, _member: &Member) -> Peer {
        self.peer(target, Lane::Control)
    }

    async fn new_snapshot_client(&mut self, target: MemberId, _member: &Member) -> Peer {
        self.peer(target, Lane::Snapshot)
    }
}

/// Another member.
#[derive(Clone, Debug)]
pub struct Peer {
    peers: Peers,
    target: MemberId,
    lane: Lane,
}

fn failed(error: &CallError) -> RPCError<TypeConfig> {
    match error {
        // It may be a while: try again after a pause.
        CallError::NotSent { .. } | CallError::Refused { .. } => Unreachable::new(error).into(),
        CallError::Lost { .. } => NetworkError::new(error).into(),
    }
}

fn unexpected(answer: &Answer) -> RPCError<TypeConfig> {
    let text = match answer {
        Answer::Failed(failure) => failure.to_string(),
        _ => "it answered something else".to_owned(),
    };
    Unreachable::new(&io::Error::other(text)).into()
}

impl Peer {
    async fn call(&self, lane: Lane, request: Request, timeout: Duration) -> Result<Answer, RPCError<TypeConfig>> {
        self.peers.transport.call(self.target, lane, request, timeout).await.map_err(|error| failed(&error))
    }

    async fn ballot(
        &self,
        rpc: VoteRequest<TypeConfig>,
        request: fn(Ballot) -> Request,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let ballot = Ballot {
            vote: to_vote(&rpc.vote),
            last: rpc.last_log_id.as_ref().map(to_log_id),
            leadership_transfer: rpc.leadership_transfer,
        };
        match self.call(Lane::Control, request(ballot), self.peers.election_timeout).await? {
            Answer::Voted { vote, granted, last } => {
                Ok(VoteResponse::new(from_vote(vote), last.map(from_log_id), granted))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn send_snapshot(
        &self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, SnapshotRows>,
    ) -> Result<SnapshotResponse<TypeConfig>, RPCError<TypeConfig>> {
        let transfer = self.peers.random.next_u64();
        let begin = SnapshotBegin {
            transfer,
            vote: to_vote(&vote),
            last: snapshot.meta.last_log_id.as_ref().map(to_log_id),
            membership: to_membership(snapshot.meta.last_membership.membership()),
            membership_id: snapshot.meta.last_membership.log_id().as_ref().map(to_log_id),
            bytes: snapshot.snapshot.bytes(),
        };
        self.snapshot_call(Request::SnapshotBegin(begin)).await?;
        let mut rows = snapshot.snapshot;
        for sequence in 0.. {
            let (piece, rest) = next_piece(rows).await.map_err(|error| Unreachable::new(&error))?;
            rows = rest;
            if piece.is_empty() {
                break;
            }
            let piece = peer::SnapshotRows { transfer, sequence, rows: piece };
            self.snapshot_call(Request::SnapshotRows(piece)).await?;
        }
        loop {
            if let Answer::Installed { vote } = self.snapshot_call(Request::SnapshotEnd(transfer)).await? {
                return Ok(SnapshotResponse::new(from_vote(vote)));
            }
        }
    }

    async fn snapshot_call(&self, request: Request) -> Result<Answer, RPCError<TypeConfig>> {
        match self.call(Lane::Snapshot, request, PROGRESS_TIMEOUT).await? {
            answer @ (Answer::Done | Answer::Installing | Answer::Installed { .. }) => Ok(answer),
            other => {
                if matches!(other, Answer::Failed(Failure::NoSpace)) {
                    tokio::time::sleep(NO_ROOM_PAUSE).await;
                }
                Err(unexpected(&other))
            }
        }
    }
}

/// Rows of about the size of a piece, none at the end, and those that are left. Reading them may wait for the disk.
async fn next_piece(mut rows: SnapshotRows) -> io::Result<(Vec<Row>, SnapshotRows)> {
    crate::blocking::run(move || {
        let mut piece = Vec::new();
        let mut bytes = 0;
        while bytes < PIECE_BYTES
            && let Some(row) = rows.next()
        {
            let row = row.map_err(io::Error::other)?;
            bytes += row.key.len() + row.value.len();
            piece.push(row);
        }
        Ok((piece, rows))
    })
    .await?
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotRows;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let append = Append {
            vote: to_vote(&rpc.vote),
            previous: rpc.prev_log_id.as_ref().map(to_log_id),
            committed: rpc.leader_commit.as_ref().map(to_log_id),
            entries: rpc.entries.into_iter().map(to_entry).collect(),
        };
        match self.call(self.lane, Request::Append(append), PROGRESS_TIMEOUT).await? {
            Answer::Appended => Ok(AppendEntriesResponse::Success),
            Answer::Conflict => Ok(AppendEntriesResponse::Conflict),
            Answer::HigherVote(vote) => Ok(AppendEntriesResponse::HigherVote(from_vote(vote))),
            other => Err(unexpected(&other)),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ballot(rpc, Request::Vote).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ballot(rpc, Request::PreVote).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, SnapshotRows>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            sent = self.send_snapshot(vote, snapshot) => Ok(sent?),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let transfer = Transfer {
            from: to_vote(request.from_leader()),
            to: *request.to_node_id(),
            last: request.last_log_id().map(to_log_id),
        };
        match self.call(Lane::Control, Request::Transfer(transfer), self.peers.election_timeout * 2).await? {
            Answer::Done => Ok(Ok(())),
            // Not carried out: whoever asked for it sees that leadership stays.
            Answer::Failed(Failure::NotUnderstood) | Answer::HigherVote(_) => {
                Ok(Err(TransferLeaderError::LogNotFlushed { expected: None, actual: None }))
            }
            other => Err(unexpected(&other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use openraft::storage::{Snapshot, SnapshotMeta};
    use tokio::time::Instant;

    use super::*;
    use crate::checkpoint::{Applied, Checkpoint};
    use crate::disk::fake::FakeDisk;
    use crate::log::{LogId, Vote};
    use crate::member::Membership;
    use crate::peer::BoxFuture;
    use crate::raft::from_stored;
    use crate::random::SystemRandom;
    use crate::state::{Delta, Table};

    /// A follower without room, and what it was asked.
    #[derive(Debug, Default)]
    struct Full(Mutex<Vec<Request>>);

    impl Transport for Full {
        fn call(
            &self,
            _target: MemberId,
            _lane: Lane,
            request: Request,
            _timeout: Duration,
        ) -> BoxFuture<'_, Result<Answer, CallError>> {
            self.0.lock().unwrap().push(request);
            Box::pin(std::future::ready(Ok(Answer::Failed(Failure::NoSpace))))
        }

        fn set_members(&self, _members: Vec<(MemberId, Member)>) {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_without_room_is_told_how_much_comes_and_then_left_alone_for_a_while() {
        let checkpoint = Checkpoint::open(&FakeDisk::new(), 1).unwrap();
        let row = Row { table: Table::Revisions, key: "key".into(), value: vec![7; 1000].into() };
        let applied = Applied { last: Some(LogId { term: 1, index: 1 }), ..Applied::default() };
        let bytes = checkpoint.commit(&Delta { puts: vec![row], deletes: Vec::new() }, &applied).unwrap();
        let rows = checkpoint.rows().unwrap();
        let last_membership = from_stored(None, &Membership::default()).unwrap();
        let meta = SnapshotMeta { last_log_id: applied.last.map(from_log_id), last_membership };
        let snapshot = Snapshot { meta, snapshot: SnapshotRows::Checkpoint(Box::new(rows)) };
        let vote = from_vote(Vote { term: 1, member: MemberId(1), committed: true });

        let follower = Arc::new(Full::default());
        let transport: Arc<dyn Transport> = Arc::<Full>::clone(&follower);
        let mut peers = Peers::new(transport, Arc::new(SystemRandom), Duration::from_secs(1));
        let peer = peers.new_snapshot_client(MemberId(2), &Member::default()).await;
        let began = Instant::now();
        assert!(peer.send_snapshot(vote, snapshot).await.is_err());
        assert!(began.elapsed() >= NO_ROOM_PAUSE);
        let asked = follower.0.lock().unwrap();
        assert!(
            matches!(&asked[..], [Request::SnapshotBegin(SnapshotBegin { bytes: Some(told), .. })] if *told == bytes),
            "{asked:?}"
        );
    }
}
