//! etcd's JSON gateway: every method of the API as a POST of JSON, for scripts that have curl and no gRPC.
//!
//! What stands for what in JSON is protobuf's own mapping (<https://protobuf.dev/programming-guides/json/>): 64-bit numbers are strings, bytes are
//! base64, fields have the definitions' names, and those that are unset are left out. It follows from the definitions, so there is no second set of
//! types. A call goes to the services as one of gRPC from the same client, and is answered as they answer.
//!
//! A stream's answers come a line each, as `result` or, at last, `error`. A client may say more while it listens: the JSON values of its body
//! are taken up one by one.

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::stream::{self, Stream, StreamExt as _};
use http_body_util::BodyExt as _;
use keelson_etcd_api::DEFINITIONS;
use prost::Message as _;
use prost_reflect::{
    DescriptorError, DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, MethodDescriptor,
    SerializeOptions,
};
use serde_json::{Value, json};
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service as _;

use super::callers::Caller;
use super::unfinished::HEADER_LEN;

/// Paths below `/v3/`, and which methods they stand for: those of the definitions' HTTP annotations.
const METHODS: [(&str, &str); 51] = [
    ("kv/range", "etcdserverpb.KV.Range"),
    ("kv/put", "etcdserverpb.KV.Put"),
    ("kv/deleterange", "etcdserverpb.KV.DeleteRange"),
    ("kv/txn", "etcdserverpb.KV.Txn"),
    ("kv/compaction", "etcdserverpb.KV.Compact"),
    ("watch", "etcdserverpb.Watch.Watch"),
    ("lease/grant", "etcdserverpb.Lease.LeaseGrant"),
    ("lease/revoke", "etcdserverpb.Lease.LeaseRevoke"),
    ("kv/lease/revoke", "etcdserverpb.Lease.LeaseRevoke"),
    ("lease/keepalive", "etcdserverpb.Lease.LeaseKeepAlive"),
    ("lease/timetolive", "etcdserverpb.Lease.LeaseTimeToLive"),
    ("kv/lease/timetolive", "etcdserverpb.Lease.LeaseTimeToLive"),
    ("lease/leases", "etcdserverpb.Lease.LeaseLeases"),
    ("kv/lease/leases", "etcdserverpb.Lease.LeaseLeases"),
    ("cluster/member/add", "etcdserverpb.Cluster.MemberAdd"),
    ("cluster/member/remove", "etcdserverpb.Cluster.MemberRemove"),
    ("cluster/member/update", "etcdserverpb.Cluster.MemberUpdate"),
    ("cluster/member/list", "etcdserverpb.Cluster.MemberList"),
    ("cluster/member/promote", "etcdserverpb.Cluster.MemberPromote"),
    ("maintenance/alarm", "etcdserverpb.Maintenance.Alarm"),
    ("maintenance/status", "etcdserverpb.Maintenance.Status"),
    ("maintenance/defragment", "etcdserverpb.Maintenance.Defragment"),
    ("maintenance/hash", "etcdserverpb.Maintenance.Hash"),
    ("maintenance/hashkv", "etcdserverpb.Maintenance.HashKV"),
    ("maintenance/snapshot", "etcdserverpb.Maintenance.Snapshot"),
    ("maintenance/transfer-leadership", "etcdserverpb.Maintenance.MoveLeader"),
    ("maintenance/downgrade", "etcdserverpb.Maintenance.Downgrade"),
    ("auth/enable", "etcdserverpb.Auth.AuthEnable"),
    ("auth/disable", "etcdserverpb.Auth.AuthDisable"),
    ("auth/status", "etcdserverpb.Auth.AuthStatus"),
    ("auth/authenticate", "etcdserverpb.Auth.Authenticate"),
    ("auth/user/add", "etcdserverpb.Auth.UserAdd"),
    ("auth/user/get", "etcdserverpb.Auth.UserGet"),
    ("auth/user/list", "etcdserverpb.Auth.UserList"),
    ("auth/user/delete", "etcdserverpb.Auth.UserDelete"),
    ("auth/user/changepw", "etcdserverpb.Auth.UserChangePassword"),
    ("auth/user/grant", "etcdserverpb.Auth.UserGrantRole"),
    ("auth/user/revoke", "etcdserverpb.Auth.UserRevokeRole"),
    ("auth/role/add", "etcdserverpb.Auth.RoleAdd"),
    ("auth/role/get", "etcdserverpb.Auth.RoleGet"),
    ("auth/role/list", "etcdserverpb.Auth.RoleList"),
    ("auth/role/delete", "etcdserverpb.Auth.RoleDelete"),
    ("auth/role/grant", "etcdserverpb.Auth.RoleGrantPermission"),
    ("auth/role/revoke", "etcdserverpb.Auth.RoleRevokePermission"),
    ("lock/lock", "v3lockpb.Lock.Lock"),
    ("lock/unlock", "v3lockpb.Lock.Unlock"),
    ("election/campaign", "v3electionpb.Election.Campaign"),
    ("election/proclaim", "v3electionpb.Election.Proclaim"),
    ("election/leader", "v3electionpb.Election.Leader"),
    ("election/observe", "v3electionpb.Election.Observe"),
    ("election/resign", "v3electionpb.Election.Resign"),
];

#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error("the API's definitions")]
    Definitions(#[from] DescriptorError),
    #[error("the API's definitions have no method {0}")]
    NoMethod(&'static str),
}

/// The methods that are served, by their paths.
#[derive(Clone, Debug)]
pub(super) struct Gateway(Vec<(String, MethodDescriptor)>);

impl Gateway {
    pub(super) fn new() -> Result<Self, GatewayError> {
        let pool = DescriptorPool::decode(DEFINITIONS)?;
        let found = METHODS.into_iter().map(|(path, name)| {
            let service = name.rsplit_once('.').and_then(|(service, _)| pool.get_service_by_name(service));
            let method = service.and_then(|service| service.methods().find(|method| method.full_name() == name));
            let method = method.ok_or(GatewayError::NoMethod(name))?;
            Ok((format!("/v3/{path}"), method))
        });
        Ok(Self(found.collect::<Result<_, GatewayError>>()?))
    }

    /// Calls go to these services, and may be of so many bytes.
    pub(super) fn router(&self, services: &Routes, most: usize) -> Router {
        let router = self.0.iter().fold(Router::new(), |router, (path, method)| {
            let call = Call { services: services.clone(), method: method.clone(), most };
            router.route(path, any(move |request: Request| call.clone().answer(request)))
        });
        router.route("/v3/{*path}", any(|| async { refusal(&Status::not_found("Not Found")) }))
    }
}

/// One method.
#[derive(Clone, Debug)]
struct Call {
    services: Routes,
    method: MethodDescriptor,
    most: usize,
}

impl Call {
    async fn answer(mut self, request: Request) -> Response {
        if request.method() != Method::POST {
            return refusal(&Status::unimplemented("Method Not Allowed"));
        }
        let (parts, body) = request.into_parts();
        let asked = match self.asked(body).await {
            Ok(asked) => asked,
            Err(status) => return refusal(&status),
        };
        let mut request = Request::new(asked);
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        match path(&self.method).parse::<Uri>() {
            Ok(uri) => *request.uri_mut() = uri,
            Err(error) => return refusal(&Status::internal(error.to_string())),
        }
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
        if let Some(caller) = parts.extensions.get::<Caller>() {
            request.extensions_mut().insert(*caller);
        }
        let Ok(answer) = self.services.call(request).await;
        // A refusal comes in the headers, without a body.
        let refused = failed(answer.headers());
        match (self.method.is_server_streaming(), refused) {
            (false, Some(status)) => refusal(&status),
            (true, Some(status)) => {
                (http_status(status.code()), [(header::CONTENT_TYPE, JSON)], line("error", &described(&status)))
                    .into_response()
            }
            (false, None) => whole(answer.into_body(), &self.method.output()).await,
            (true, None) => {
                let lines = lines(answer.into_body(), self.method.output());
                ([(header::CONTENT_TYPE, JSON)], Body::from_stream(lines.map(Ok::<_, Infallible>))).into_response()
            }
        }
    }

    /// What is asked, as gRPC's body.
    async fn asked(&self, body: Body) -> Result<tonic::body::Body, Status> {
        let input = self.method.input();
        if self.method.is_client_streaming() {
            let frames = Asked { body, buffer: BytesMut::new(), is_whole: false, input, most: self.most };
            return Ok(tonic::body::Body::new(Body::from_stream(frames.frames())));
        }
        let bytes = axum::body::to_bytes(body, self.most).await.map_err(|_| too_large())?;
        let message = match first_value(&bytes) {
            None => DynamicMessage::new(input),
            Some(value) => message_of(value.map_err(|error| invalid(&error))?.0, input)?,
        };
        Ok(tonic::body::Body::new(Body::from(frame(&message))))
    }
}

const JSON: &str = "application/json";

fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

/// The first value of a text, and where it ends; none if there is nothing.
fn first_value(text: &[u8]) -> Option<Result<(Value, usize), serde_json::Error>> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<Value>();
    let value = values.next()?;
    Some(value.map(|value| (value, values.byte_offset())))
}

/// Fields that the definitions do not know are passed over, as etcd does.
fn message_of(value: Value, input: MessageDescriptor) -> Result<DynamicMessage, Status> {
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    DynamicMessage::deserialize_with_options(input, value, &options).map_err(|error| invalid(&error))
}

fn frame(message: &DynamicMessage) -> Bytes {
    let len = message.encoded_len();
    let mut frame = BytesMut::with_capacity(HEADER_LEN + len);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    frame.put(message.encode_to_vec().as_slice());
    frame.freeze()
}

/// The first whole message of what has arrived.
fn unframe(buffer: &mut BytesMut) -> Option<Bytes> {
    let [_, len @ ..] = *buffer.first_chunk::<HEADER_LEN>()?;
    let len = usize::try_from(u32::from_be_bytes(len)).ok()?;
    if buffer.len() < HEADER_LEN + len {
        return None;
    }
    buffer.advance(HEADER_LEN);
    Some(buffer.split_to(len).freeze())
}

/// The JSON of an answer, in the order of its fields.
fn json_of(output: MessageDescriptor, message: Bytes) -> Result<String, Status> {
    let failed = |error: &dyn std::error::Error| Status::internal(error.to_string());
    let message = DynamicMessage::decode(output, message).map_err(|error| failed(&error))?;
    let mut json = Vec::new();
    let options = SerializeOptions::new().use_proto_field_name(true);
    message
        .serialize_with_options(&mut serde_json::Serializer::new(&mut json), &options)
        .map_err(|error| failed(&error))?;
    String::from_utf8(json).map_err(|error| failed(&error))
}

/// A body of values, which become messages as they arrive.
struct Asked {
    body: Body,
    buffer: BytesMut,
    is_whole: bool,
    input: MessageDescriptor,
    most: usize,
}

impl Asked {
    fn frames(self) -> impl Stream<Item = Result<Bytes, Status>> {
        stream::try_unfold(self, |mut asked| async move {
            let message = asked.next().await?;
            Ok(message.map(|message| (frame(&message), asked)))
        })
    }

    async fn next(&mut self) -> Result<Option<DynamicMessage>, Status> {
        loop {
            match first_value(&self.buffer) {
                Some(Ok((value, end))) => {
                    self.buffer.advance(end);
                    return message_of(value, self.input.clone()).map(Some);
                }
                Some(Err(error)) if self.is_whole || !error.is_eof() => return Err(invalid(&error)),
                None if self.is_whole => return Ok(None),
                Some(Err(_)) | None => {}
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.buffer.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Some(Err(error)) => return Err(Status::cancelled(error.to_string())),
                None => self.is_whole = true,
            }
            if self.buffer.len() > self.most {
                return Err(too_large());
            }
        }
    }
}

/// The one message of an answer.
async fn whole(body: tonic::body::Body, output: &MessageDescriptor) -> Response {
    let collected = match body.collect().await {
        Ok(collected) => collected,
        Err(status) => return refusal(&status),
    };
    if let Some(status) = collected.trailers().and_then(failed) {
        return refusal(&status);
    }
    let mut buffer = BytesMut::from(collected.to_bytes());
    let message = unframe(&mut buffer).unwrap_or_default();
    match json_of(output.clone(), message) {
        Ok(json) => ([(header::CONTENT_TYPE, JSON)], json).into_response(),
        Err(status) => refusal(&status),
    }
}

/// The messages of an answer as they come, a line each.
fn lines(body: tonic::body::Body, output: MessageDescriptor) -> impl Stream<Item = String> {
    stream::unfold(Some((body, BytesMut::new(), output)), |state| async move {
        let (mut body, mut buffer, output) = state?;
        loop {
            if let Some(message) = unframe(&mut buffer) {
                return match json_of(output.clone(), message) {
                    Ok(json) => Some((line("result", &json), Some((body, buffer, output)))),
                    Err(status) => Some((line("error", &described(&status)), None)),
                };
            }
            let failure = match body.frame().await? {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => {
                        buffer.extend_from_slice(&data);
                        continue;
                    }
                    Err(frame) => frame.trailers_ref().and_then(failed),
                },
                Err(status) => Some(status),
            };
            return Some((line("error", &described(&failure?)), None));
        }
    })
}

/// What a call is refused for, if headers or trailers say that it is.
fn failed(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers).filter(|status| status.code() != Code::Ok)
}

fn line(kind: &str, json: &str) -> String {
    format!("{{\"{kind}\":{json}}}\n")
}

fn described(status: &Status) -> String {
    json!({ "code": i32::from(status.code()), "message": status.message() }).to_string()
}

fn refusal(status: &Status) -> Response {
    (http_status(status.code()), [(header::CONTENT_TYPE, JSON)], described(status)).into_response()
}

fn invalid(error: &dyn std::error::Error) -> Status {
    Status::invalid_argument(error.to_string())
}

fn too_large() -> Status {
    Status::invalid_argument("etcdserver: request is too large")
}

/// As grpc-gateway has it, which follows `google/rpc/code.proto`.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        // nginx's "client closed request", which has no name here.
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
