//! The Maintenance service.

use std::pin::Pin;
use std::sync::Arc;

use futures::stream::Stream;
use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::etcdserverpb::alarm_request::AlarmAction;
use keelson_etcd_api::etcdserverpb::downgrade_request::DowngradeAction;
use keelson_etcd_api::server::maintenance_server::Maintenance;
use tonic::{Request, Response, Status};

use super::callers::Caller;
use super::errors::Error;
use super::kv::unexpected;
use super::{Context, ETCD_CLUSTER_VERSION, ETCD_VERSION, callers, snapshot};
use crate::command::Command;
use crate::member::MemberId;
use crate::node::MaintenanceError;
use crate::state::{self, Keys};

#[derive(Clone, Debug)]
pub(super) struct MaintenanceService(pub(super) Arc<Context>);

impl MaintenanceService {
    async fn hash(&self, keys: Keys, revision: i64) -> Result<pb::HashKvResponse, Error> {
        let (hashed, current) = self.0.node.state().of(keys).hash_at(revision).await?;
        Ok(pb::HashKvResponse {
            header: self.0.header_at(current),
            hash: hashed.hash,
            compact_revision: hashed.compact_revision,
            hash_revision: hashed.revision,
        })
    }
}

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        let request = request.into_inner();
        if request.action == i32::from(AlarmAction::Get) {
            self.0.node.read_index().await.map_err(Error::from)?;
            let none = i32::from(pb::AlarmType::None);
            let asked = |member: &pb::AlarmMember| request.alarm == none || member.alarm == request.alarm;
            let alarms = self.0.node.state().alarms().into_iter().filter(asked).collect();
            return Ok(Response::new(pb::AlarmResponse { header: self.0.header(), alarms }));
        }
        if request.action == i32::from(AlarmAction::Deactivate) {
            // What was deleted and compacted counts only with the next checkpoint; without it, the alarm would be raised at once again.
            match self.0.node.checkpoint().await {
                Ok(()) => {}
                Err(MaintenanceError::Stopped) => return Err(Error::Stopped.into()),
                Err(MaintenanceError::Checkpoint(error)) => return Err(Status::unknown(crate::logging::chain(&error))),
            }
        }
        match self.0.propose(Command::Alarm(request)).await? {
            state::Response::Alarm(mut response) => {
                self.0.fill(Keys::Public, &mut response.header);
                Ok(Response::new(response))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        let status = self.0.node.status();
        let usage = self.0.node.usage();
        let mut errors = Vec::new();
        if status.leader.is_none() {
            errors.push(Error::NoLeader.to_string());
        }
        for alarm in self.0.node.state().alarms() {
            let name = pb::AlarmType::try_from(alarm.alarm).unwrap_or_default().as_str_name();
            errors.push(format!("memberID:{} alarm:{name} ", alarm.member_id));
        }
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        Ok(Response::new(pb::StatusResponse {
            header: self.0.header(),
            version: ETCD_VERSION.to_owned(),
            db_size: bytes(usage.database_bytes),
            leader: status.leader.map_or(0, |id| id.0),
            raft_index: status.committed,
            raft_term: status.term,
            raft_applied_index: status.applied,
            errors,
            db_size_in_use: bytes(usage.in_use_bytes.min(usage.database_bytes)),
            is_learner: status.is_learner,
            storage_version: ETCD_CLUSTER_VERSION.to_owned(),
            db_size_quota: bytes(usage.quota_bytes),
            downgrade_info: Some(pb::DowngradeInfo::default()),
        }))
    }

    async fn defragment(&self, _: Request<pb::DefragmentRequest>) -> Result<Response<pb::DefragmentResponse>, Status> {
        let before = self.0.node.usage().database_bytes;
        tracing::info!(database_bytes = before, "starting to defragment");
        let began = std::time::Instant::now();
        let result = self.0.node.defragment().await;
        self.0.metrics.defragmentations.observe(began.elapsed());
        match result {
            Ok(()) => {
                let after = self.0.node.usage().database_bytes;
                tracing::info!(before, after, milliseconds = began.elapsed().as_millis(), "finished defragmenting");
                // As etcd's, it has no header.
                Ok(Response::new(pb::DefragmentResponse { header: None }))
            }
            Err(MaintenanceError::Stopped) => Err(Error::Stopped.into()),
            Err(MaintenanceError::Checkpoint(error)) => {
                let error = crate::logging::chain(&error);
                tracing::error!(error, "defragmenting has failed; the database is as it was");
                Err(Status::unknown(error))
            }
        }
    }

    /// Over the same rows as the other hash, at the newest revision: etcd's covers its file's other tables too, which are not
    /// the same on two servers even if their keys are.
    async fn hash(&self, request: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        let hash = self.hash(callers::keys(&request)?, 0).await?;
        Ok(Response::new(pb::HashResponse { header: hash.header, hash: hash.hash }))
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Result<Response<pb::HashKvResponse>, Status> {
        let keys = callers::keys(&request)?;
        Ok(Response::new(self.hash(keys, request.into_inner().revision).await?))
    }

    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<pb::SnapshotResponse, Status>> + Send>>;

    async fn snapshot(&self, request: Request<pb::SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        // The cluster's keys are in it, if there are any.
        if self.0.limits.cluster_client.is_some() && Caller::of(&request) != Caller::Cluster {
            return Err(Error::PermissionDenied.into());
        }
        Ok(Response::new(Box::pin(snapshot::stream(self.0.node.state()))))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        let target = MemberId(request.into_inner().target_id);
        self.0.node.move_leader(target).await.map_err(Error::from)?;
        Ok(Response::new(pb::MoveLeaderResponse { header: None }))
    }

    async fn downgrade(
        &self,
        request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        let request = request.into_inner();
        match DowngradeAction::try_from(request.action) {
            // There never is one to cancel, at which etcd does not stumble.
            Ok(DowngradeAction::Cancel) => {
                let version = ETCD_CLUSTER_VERSION.to_owned();
                Ok(Response::new(pb::DowngradeResponse { header: self.0.header(), version }))
            }
            Ok(DowngradeAction::Validate | DowngradeAction::Enable) if is_version(&request.version) => {
                // There is no other release of this store's data than its own.
                Err(Error::InvalidDowngradeTargetVersion.into())
            }
            Ok(DowngradeAction::Validate | DowngradeAction::Enable) => Err(Error::WrongDowngradeVersionFormat.into()),
            Err(_) => Err(Status::unknown("etcdserver: unknown method")),
        }
    }
}

/// `3.6`, or with a patch level.
fn is_version(text: &str) -> bool {
    let mut count = 0;
    text.split('.').all(|part| {
        count += 1;
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit())
    }) && (2..=3).contains(&count)
}
