//! Answers, made comparable: ids, terms and times are a server's own.

use std::fmt::Debug;

use keelson_etcd_api::etcdserverpb as pb;
use tonic::{Response, Status};

/// What the two said differently.
pub(crate) type Mismatch = String;

pub(crate) fn same<T: Debug + PartialEq>(what: &dyn Debug, etcd: &T, ours: &T) -> Result<(), Mismatch> {
    if ours == etcd { Ok(()) } else { Err(format!("{what:?}\n  ours   {ours:?}\n  etcd's {etcd:?}")) }
}

/// What a client sees of an answer: the message, or code and text.
pub(crate) type Seen<T> = Result<T, (tonic::Code, String)>;

/// Something with a header.
pub(crate) trait Answer {
    fn header(&mut self) -> &mut Option<pb::ResponseHeader>;
}

macro_rules! answers {
    ($($name:ident),* $(,)?) => {
        $(impl Answer for pb::$name {
            fn header(&mut self) -> &mut Option<pb::ResponseHeader> {
                &mut self.header
            }
        })*
    };
}

answers!(
    RangeResponse,
    PutResponse,
    DeleteRangeResponse,
    TxnResponse,
    CompactionResponse,
    HashKvResponse,
    LeaseGrantResponse,
    LeaseRevokeResponse,
    LeaseTimeToLiveResponse,
    LeaseLeasesResponse,
    LeaseKeepAliveResponse,
    WatchResponse,
    AlarmResponse,
    AuthStatusResponse,
    AuthDisableResponse,
    AuthUserListResponse,
    AuthRoleListResponse,
    MemberListResponse,
    StatusResponse,
);

/// Checks that the header is complete, and leaves its revision.
pub(crate) fn strip(header: &mut Option<pb::ResponseHeader>) {
    if let Some(header) = header {
        assert_ne!((header.cluster_id, header.member_id, header.raft_term), (0, 0, 0), "a header without ids");
        *header = pb::ResponseHeader { revision: header.revision, ..pb::ResponseHeader::default() };
    }
}

pub(crate) fn seen<T: Answer>(answer: Result<Response<T>, Status>) -> Seen<T> {
    match answer {
        Ok(response) => {
            let mut message = response.into_inner();
            strip(message.header());
            Ok(message)
        }
        Err(status) => Err((status.code(), status.message().to_owned())),
    }
}

/// Sorted by something that ties, etcd's order of equals is that of Go's unstable sort.
pub(crate) fn settle_ties(request: &pb::RangeRequest, response: &mut pb::RangeResponse) {
    if request.sort_target != 0 {
        response.kvs.sort_by(|left, right| left.key.cmp(&right.key));
    }
}

pub(crate) fn settle_txn(request: &pb::TxnRequest, response: &mut pb::TxnResponse) {
    use pb::request_op::Request;
    use pb::response_op::Response;
    let ops = if response.succeeded { &request.success } else { &request.failure };
    for (op, answer) in ops.iter().zip(&mut response.responses) {
        match (&op.request, &mut answer.response) {
            (Some(Request::RequestRange(request)), Some(Response::ResponseRange(response))) => {
                settle_ties(request, response);
            }
            (Some(Request::RequestTxn(request)), Some(Response::ResponseTxn(response))) => {
                settle_txn(request, response);
            }
            _ => {}
        }
    }
}
