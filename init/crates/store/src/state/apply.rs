//! One command's effect. Deterministic and total: what is wrong with a command is an answer.

use std::collections::BTreeSet;

use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::etcdserverpb::AlarmType;
use keelson_etcd_api::etcdserverpb::alarm_request::AlarmAction;

use super::{KeySpace, Keys, Rejection, Response, State};
use crate::command::Command;
use crate::lease::LeaseId;
use crate::mvcc::{Changes, Mvcc};

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

impl State {
    /// Changes one range of keys, and says which.
    pub(super) fn apply_one(&self, command: &Command) -> (Keys, Applied) {
        let (keys, plain) = command.parts();
        if let Some(rejection) = self.change_alarms(|alarms| alarms.refuse(command)) {
            return (keys, rejection.into());
        }
        let space = self.of(keys);
        let applied = match plain {
            // It holds a plain one.
            Command::Cluster(_) => Response::Empty.into(),
            Command::Put(request) => changing(space, |mvcc| mvcc.put(request), Response::Put),
            Command::DeleteRange(request) => {
                changing(space, |mvcc| Ok(mvcc.delete_range(request)), Response::DeleteRange)
            }
            Command::Txn(request) => changing(space, |mvcc| mvcc.txn(request), Response::Txn),
            Command::Compact(request) => space.write(|mvcc| match mvcc.compact(request.revision) {
                Ok(()) => Response::Compact(pb::CompactionResponse { header: header(mvcc) }).into(),
                Err(rejection) => rejection.into(),
            }),
            Command::LeaseGrant(request) => self.grant(keys, request),
            Command::LeaseRevoke(request) => space.write(|mvcc| revoke(mvcc, LeaseId(request.id))),
            Command::LeaseCheckpoint(request) => {
                // Of all leases, whosever keys hang on them.
                for keys in Keys::ALL {
                    self.of(keys).write(|mvcc| {
                        for checkpoint in &request.checkpoints {
                            mvcc.leases.checkpoint(LeaseId(checkpoint.id), checkpoint.remaining_ttl);
                        }
                    });
                }
                let header = space.read(|mvcc, _| header(mvcc));
                Response::LeaseCheckpoint(pb::LeaseCheckpointResponse { header }).into()
            }
            Command::Alarm(request) => {
                let alarms = self.change_alarms(|alarms| alarms.apply(request));
                let header = space.read(|mvcc, _| header(mvcc));
                Response::Alarm(pb::AlarmResponse { header, alarms }).into()
            }
        };
        (keys, applied)
    }

    fn grant(&self, keys: Keys, request: &pb::LeaseGrantRequest) -> Applied {
        let id = LeaseId(request.id);
        if request.id == 0 {
            return Rejection::LeaseNotFound.into();
        }
        if self.lease_keys(id).is_some() {
            return Rejection::LeaseExists.into();
        }
        self.of(keys).write(|mvcc| {
            mvcc.leases.grant(id, request.ttl);
            let (header, error) = (header(mvcc), String::new());
            Response::LeaseGrant(pb::LeaseGrantResponse { header, id: request.id, ttl: request.ttl, error }).into()
        })
    }
}

fn changing<R>(
    space: &KeySpace,
    change: impl FnOnce(&mut Mvcc) -> Result<(R, Option<Changes>), Rejection>,
    response: impl FnOnce(R) -> Response,
) -> Applied {
    match space.write(change) {
        Ok((answer, changes)) => Applied { response: response(answer), changes, revoked: None },
        Err(rejection) => rejection.into(),
    }
}

fn revoke(mvcc: &mut Mvcc, id: LeaseId) -> Applied {
    match mvcc.revoke_lease(id) {
        Ok(changes) => {
            let response = Response::LeaseRevoke(pb::LeaseRevokeResponse { header: header(mvcc) });
            Applied { response, changes, revoked: Some(id) }
        }
        Err(rejection) => rejection.into(),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the messages' field is optional")]
fn header(mvcc: &Mvcc) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision: mvcc.revision(), ..pb::ResponseHeader::default() })
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

    /// With no space, nothing that adds data, but for what the cluster does itself; with corrupt data, nothing at all but the alarm itself.
    fn refuse(&self, command: &Command) -> Option<Rejection> {
        if self.0.is_empty() || matches!(command, Command::Alarm(_) | Command::LeaseCheckpoint(_)) {
            return None;
        }
        if self.raised(AlarmType::Corrupt) {
            return Some(Rejection::Corrupt);
        }
        let grows = command.parts().0 == Keys::Public && command.grows();
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
