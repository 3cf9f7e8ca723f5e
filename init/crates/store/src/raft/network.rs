//! The other members, as openraft's network.
//!
//! One member has none, and openraft makes no client until the membership names another. The port that peers will use, its
//! messages and their limits belong to replication and are not here yet; until they are, a client made for a member answers every
//! call with "unreachable". That is the truth, and safe: in particular pre-vote is refused, where openraft's default would grant it.

use std::io;

use openraft::OptionalSend;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::type_config::alias::{SnapshotOf, VoteOf};

use super::TypeConfig;
use crate::checkpoint::Rows;
use crate::member::{Member, MemberId};

/// Makes clients for other members.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peers;

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: MemberId, _member: &Member) -> Peer {
        Peer { target }
    }
}

/// Another member.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    target: MemberId,
}

impl Peer {
    fn unreachable(self) -> Unreachable<TypeConfig> {
        let text = format!("this release does not replicate; member {} cannot be reached", self.target);
        Unreachable::new(&io::Error::new(io::ErrorKind::Unsupported, text))
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = Rows;

    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(self.unreachable().into())
    }

    async fn vote(
        &mut self,
        _rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(self.unreachable().into())
    }

    async fn pre_vote(
        &mut self,
        _rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(self.unreachable().into())
    }

    async fn full_snapshot(
        &mut self,
        _vote: VoteOf<TypeConfig>,
        _snapshot: SnapshotOf<TypeConfig, Rows>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        Err(self.unreachable().into())
    }
}
