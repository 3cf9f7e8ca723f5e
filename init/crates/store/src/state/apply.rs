//! One command's effect. Deterministic and total: what is wrong with a command is an answer.

use std::collections::BTreeSet;

use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::etcdserverpb::AlarmType;
use keelson_etcd_api::etcdserverpb::alarm_request::AlarmAction;

use super::store::Inner;
use super::{Rejection, Response};
use crate::command::Command;
use crate::lease::LeaseId;
use crate::mvcc::{Changes, txn};

/// What a command answered and what it changed.
#[derive(Debug)]
pub(super) struct Applied {
    pub(super) response: Response,
    pub(super) changes: Option<Changes>,
    pub(super) revoked: Option<LeaseId>,
}

impl From<Response> for Applied {
    fn from(response: Response) -> Self {
        Self { response, changes: None, revoked: None }
    }
}

impl From<Rejection> for Applied {
    fn from(rejection: Rejection) -> Self {
        Response::Rejected(rejection).into()
    }
}

impl Inner {
    pub(super) fn apply(&mut self, command: &Command) -> Applied {
        if let Some(rejection) = self.alarms.refuse(command) {
            return rejection.into();
        }
        match command {
            Command::Put(request) => match self.mvcc.put(request) {
                Ok((response, changes)) => changed(Response::Put(response), changes),
                Err(rejection) => rejection.into(),
            },
            Command::DeleteRange(request) => {
                let (response, changes) = self.mvcc.delete_range(request);
                changed(Response::DeleteRange(response), changes)
            }
            Command::Txn(request) => match self.mvcc.txn(request) {
                Ok((response, changes)) => changed(Response::Txn(response), changes),
                Err(rejection) => rejection.into(),
            },
            Command::Compact(request) => match self.mvcc.compact(request.revision) {
                Ok(()) => Response::Compact(pb::CompactionResponse { header: self.header() }).into(),
                Err(rejection) => rejection.into(),
            },
            Command::LeaseGrant(request) => self.grant(request),
            Command::LeaseRevoke(request) => self.revoke(LeaseId(request.id)),
            Command::LeaseCheckpoint(request) => {
                for checkpoint in &request.checkpoints {
                    self.mvcc.leases.checkpoint(LeaseId(checkpoint.id), checkpoint.remaining_ttl);
                }
                Response::LeaseCheckpoint(pb::LeaseCheckpointResponse { header: self.header() }).into()
            }
            Command::Alarm(request) => {
                let alarms = self.alarms.apply(request);
                Response::Alarm(pb::AlarmResponse { header: self.header(), alarms }).into()
            }
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "the messages' field is optional")]
    fn header(&self) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader { revision: self.mvcc.revision(), ..pb::ResponseHeader::default() })
    }

    fn grant(&mut self, request: &pb::LeaseGrantRequest) -> Applied {
        if request.id == 0 {
            return Rejection::LeaseNotFound.into();
        }
        if !self.mvcc.leases.grant(LeaseId(request.id), request.ttl) {
            return Rejection::LeaseExists.into();
        }
        let header = self.header();
        Response::LeaseGrant(pb::LeaseGrantResponse { header, id: request.id, ttl: request.ttl, error: String::new() })
            .into()
    }

    fn revoke(&mut self, id: LeaseId) -> Applied {
        match self.mvcc.revoke_lease(id) {
            Ok(changes) => {
                let response = Response::LeaseRevoke(pb::LeaseRevokeResponse { header: self.header() });
                Applied { response, changes, revoked: Some(id) }
            }
            Err(rejection) => rejection.into(),
        }
    }
}

fn changed(response: Response, changes: Option<Changes>) -> Applied {
    Applied { response, changes, revoked: None }
}

/// Raised alarms, by member and kind. One stops what it is about on all members, until it is disarmed.
#[derive(Debug, Default)]
pub(super) struct Alarms(BTreeSet<(u64, i32)>);

impl Alarms {
    pub(super) fn from_list(list: &[pb::AlarmMember]) -> Self {
        Self(list.iter().map(|member| (member.member_id, member.alarm)).collect())
    }

    pub(super) fn list(&self) -> Vec<pb::AlarmMember> {
        self.0.iter().map(|(member_id, alarm)| pb::AlarmMember { member_id: *member_id, alarm: *alarm }).collect()
    }

    fn raised(&self, kind: AlarmType) -> bool {
        self.0.iter().any(|(_, alarm)| *alarm == i32::from(kind))
    }

    /// With no space, nothing that adds data; with corrupt data, nothing at all but the alarm itself.
    fn refuse(&self, command: &Command) -> Option<Rejection> {
        if self.0.is_empty() || matches!(command, Command::Alarm(_) | Command::LeaseCheckpoint(_)) {
            return None;
        }
        if self.raised(AlarmType::Corrupt) {
            return Some(Rejection::Corrupt);
        }
        let grows = match command {
            Command::Put(_) | Command::LeaseGrant(_) => true,
            Command::Txn(request) => txn::puts_something(request),
            _ => false,
        };
        (grows && self.raised(AlarmType::Nospace)).then_some(Rejection::NoSpace)
    }

    fn apply(&mut self, request: &pb::AlarmRequest) -> Vec<pb::AlarmMember> {
        let alarm = (request.member_id, request.alarm);
        let none = i32::from(AlarmType::None);
        let told = match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => {
                let asked = |member: &pb::AlarmMember| request.alarm == none || member.alarm == request.alarm;
                return self.list().into_iter().filter(asked).collect();
            }
            Ok(AlarmAction::Activate) if request.alarm != none => {
                self.0.insert(alarm);
                true
            }
            Ok(AlarmAction::Deactivate) => self.0.remove(&alarm),
            Ok(AlarmAction::Activate) | Err(_) => false,
        };
        if told { vec![pb::AlarmMember { member_id: request.member_id, alarm: request.alarm }] } else { Vec::new() }
    }
}
