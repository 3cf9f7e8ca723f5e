//! Requests that are wrong or unusual: the same code and the same text as etcd's.

use bytes::Bytes;
use keelson_etcd_api::etcdserverpb as pb;
use tonic::Code;

use crate::compare::{Answer, Seen, seen};
use crate::servers::{Clients, Server, etcd_program, within};

type Outcome = (String, Seen<String>);

fn note<T: Answer + std::fmt::Debug>(
    outcomes: &mut Vec<Outcome>,
    what: &str,
    answer: Result<tonic::Response<T>, tonic::Status>,
) {
    outcomes.push((what.to_owned(), seen(answer).map(|message| format!("{message:?}"))));
}

/// A code and a text, or that there was an answer.
fn refusal(outcomes: &[Outcome], what: &str) -> Option<(Code, String)> {
    let found = outcomes.iter().find(|(name, _)| name == what);
    found.unwrap_or_else(|| panic!("no case {what}")).1.clone().err()
}

fn ops(count: usize) -> Vec<pb::RequestOp> {
    let op = |number: usize| {
        let request = pb::PutRequest { key: format!("k{number}").into(), ..Default::default() };
        pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(request)) }
    };
    (0..count).map(op).collect()
}

async fn run(clients: &Clients) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    keys(clients, &mut outcomes).await;
    leases_and_alarms(clients, &mut outcomes).await;
    members_and_users(clients, &mut outcomes).await;
    outcomes
}

async fn keys(clients: &Clients, out: &mut Vec<Outcome>) {
    let Clients { mut kv, mut maintenance, .. } = clients.clone();
    let key = || Bytes::from_static(b"k");
    note(out, "get without key", kv.range(pb::RangeRequest::default()).await);
    note(out, "put without key", kv.put(pb::PutRequest::default()).await);
    note(out, "delete without key", kv.delete_range(pb::DeleteRangeRequest::default()).await);
    let range = pb::RangeRequest { key: key(), ..Default::default() };
    note(out, "sort order", kv.range(pb::RangeRequest { sort_order: 9, ..range.clone() }).await);
    note(out, "sort target", kv.range(pb::RangeRequest { sort_target: -1, ..range.clone() }).await);
    note(out, "future revision", kv.range(pb::RangeRequest { revision: 1 << 40, ..range.clone() }).await);
    let put = pb::PutRequest { key: key(), ..Default::default() };
    note(
        out,
        "value and ignore_value",
        kv.put(pb::PutRequest { value: key(), ignore_value: true, ..put.clone() }).await,
    );
    note(out, "lease and ignore_lease", kv.put(pb::PutRequest { lease: 1, ignore_lease: true, ..put.clone() }).await);
    note(out, "ignore_value of nothing", kv.put(pb::PutRequest { ignore_value: true, ..put.clone() }).await);
    note(out, "put with no such lease", kv.put(pb::PutRequest { lease: 999, ..put.clone() }).await);
    let large = pb::PutRequest { value: vec![0; 1600 << 10].into(), ..put.clone() };
    note(out, "large request", kv.put(large).await);
    let huge = pb::PutRequest { value: vec![0; 3 << 20].into(), ..put.clone() };
    note(out, "more than the transport takes", kv.put(huge).await);
    note(out, "129 operations", kv.txn(pb::TxnRequest { success: ops(129), ..Default::default() }).await);
    let twice = [ops(1), ops(1)].concat();
    note(out, "key twice", kv.txn(pb::TxnRequest { success: twice, ..Default::default() }).await);
    let nothing = vec![pb::RequestOp { request: None }];
    note(out, "no operation", kv.txn(pb::TxnRequest { failure: nothing, ..Default::default() }).await);
    note(out, "empty transaction", kv.txn(pb::TxnRequest::default()).await);
    note(out, "put", kv.put(put).await);
    note(out, "compact to the future", kv.compact(pb::CompactionRequest { revision: 1 << 40, physical: false }).await);
    note(out, "compact", kv.compact(pb::CompactionRequest { revision: 2, physical: true }).await);
    note(out, "compact again", kv.compact(pb::CompactionRequest { revision: 2, physical: true }).await);
    note(out, "compact to nothing", kv.compact(pb::CompactionRequest { revision: 0, physical: false }).await);
    note(out, "compacted revision", kv.range(pb::RangeRequest { revision: 1, ..range.clone() }).await);
    note(out, "streamed without key", kv.range_stream(pb::RangeRequest::default()).await.map(first));
    note(out, "hash of a compacted revision", maintenance.hash_kv(pb::HashKvRequest { revision: 1 }).await);
    note(out, "hash of the future", maintenance.hash_kv(pb::HashKvRequest { revision: 1 << 40 }).await);
}

async fn leases_and_alarms(clients: &Clients, out: &mut Vec<Outcome>) {
    let Clients { mut lease, mut maintenance, .. } = clients.clone();
    note(out, "grant too long", lease.lease_grant(pb::LeaseGrantRequest { ttl: 9_000_000_001, id: 0 }).await);
    note(out, "grant too short", lease.lease_grant(pb::LeaseGrantRequest { ttl: -5, id: 5 }).await);
    note(out, "grant", lease.lease_grant(pb::LeaseGrantRequest { ttl: 600, id: 6 }).await);
    note(out, "grant again", lease.lease_grant(pb::LeaseGrantRequest { ttl: 600, id: 6 }).await);
    note(out, "revoke nothing", lease.lease_revoke(pb::LeaseRevokeRequest { id: 999 }).await);
    note(out, "time of nothing", lease.lease_time_to_live(pb::LeaseTimeToLiveRequest { id: 999, keys: true }).await);
    note(out, "alarms", maintenance.alarm(pb::AlarmRequest::default()).await);
    let disarm = pb::AlarmRequest { action: 2, member_id: 5, alarm: 1 };
    note(out, "disarm nothing", maintenance.alarm(disarm).await);
}

async fn members_and_users(clients: &Clients, out: &mut Vec<Outcome>) {
    let Clients { mut cluster, mut maintenance, mut auth, .. } = clients.clone();
    note(out, "auth status", auth.auth_status(pb::AuthStatusRequest {}).await);
    note(out, "auth disable", auth.auth_disable(pb::AuthDisableRequest {}).await);
    note(out, "users", auth.user_list(pb::AuthUserListRequest {}).await);
    note(out, "roles", auth.role_list(pb::AuthRoleListRequest {}).await);
    for (what, answer) in [
        ("auth enable", auth.auth_enable(pb::AuthEnableRequest {}).await.map(|_| ())),
        (
            "authenticate",
            auth.authenticate(pb::AuthenticateRequest { name: "a".into(), password: "b".into() }).await.map(|_| ()),
        ),
        ("user", auth.user_get(pb::AuthUserGetRequest { name: "a".into() }).await.map(|_| ())),
        ("role", auth.role_get(pb::AuthRoleGetRequest { role: "a".into() }).await.map(|_| ())),
        ("user without a name", auth.user_add(pb::AuthUserAddRequest::default()).await.map(|_| ())),
        ("role without a name", auth.role_add(pb::AuthRoleAddRequest::default()).await.map(|_| ())),
        ("user delete", auth.user_delete(pb::AuthUserDeleteRequest { name: "a".into() }).await.map(|_| ())),
        ("role delete", auth.role_delete(pb::AuthRoleDeleteRequest { role: "a".into() }).await.map(|_| ())),
        (
            "grant",
            auth.user_grant_role(pb::AuthUserGrantRoleRequest { user: "a".into(), role: "b".into() }).await.map(|_| ()),
        ),
        ("add no member", cluster.member_add(pb::MemberAddRequest::default()).await.map(|_| ())),
        (
            "add bad member",
            cluster
                .member_add(pb::MemberAddRequest { peer_ur_ls: vec!["x".into()], ..Default::default() })
                .await
                .map(|_| ()),
        ),
        (
            "remove unknown member",
            cluster.member_remove(pb::MemberRemoveRequest { id: 1, ..Default::default() }).await.map(|_| ()),
        ),
        ("promote unknown member", cluster.member_promote(pb::MemberPromoteRequest { id: 1 }).await.map(|_| ())),
        ("move leader to unknown", maintenance.move_leader(pb::MoveLeaderRequest { target_id: 1 }).await.map(|_| ())),
        (
            "downgrade to nothing",
            maintenance.downgrade(pb::DowngradeRequest { action: 0, version: "x".into() }).await.map(|_| ()),
        ),
        (
            "downgrade to far",
            maintenance.downgrade(pb::DowngradeRequest { action: 0, version: "3.0".into() }).await.map(|_| ()),
        ),
        (
            "cancel downgrade",
            maintenance.downgrade(pb::DowngradeRequest { action: 2, version: String::new() }).await.map(|_| ()),
        ),
    ] {
        let answer = answer.map(|()| String::new()).map_err(|status| (status.code(), status.message().to_owned()));
        out.push((what.to_owned(), answer));
    }
}

/// A stream was answered with, which is enough to know here.
fn first(_: tonic::Response<tonic::Streaming<pb::RangeStreamResponse>>) -> tonic::Response<pb::RangeResponse> {
    tonic::Response::new(pb::RangeResponse::default())
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_get_etcds_code_and_text() {
    let server = Server::keelson(&[]).await;
    let outcomes = run(&server.clients()).await;
    for (what, code, text) in [
        ("get without key", Code::InvalidArgument, "etcdserver: key is not provided"),
        ("value and ignore_value", Code::InvalidArgument, "etcdserver: value is provided"),
        ("ignore_value of nothing", Code::InvalidArgument, "etcdserver: key not found"),
        ("large request", Code::InvalidArgument, "etcdserver: request is too large"),
        ("129 operations", Code::InvalidArgument, "etcdserver: too many operations in txn request"),
        ("key twice", Code::InvalidArgument, "etcdserver: duplicate key given in txn request"),
        ("future revision", Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision"),
        ("compacted revision", Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"),
        ("put with no such lease", Code::NotFound, "etcdserver: requested lease not found"),
        ("grant again", Code::FailedPrecondition, "etcdserver: lease already exists"),
        ("user without a name", Code::InvalidArgument, "etcdserver: user name is empty"),
        ("authenticate", Code::FailedPrecondition, "etcdserver: authentication is not enabled"),
    ] {
        assert_eq!(refusal(&outcomes, what), Some((code, text.to_owned())), "{what}");
    }
    assert_eq!(refusal(&outcomes, "empty transaction"), None);

    let Some(program) = etcd_program("KEELSON_ETCD") else { return };
    let etcd = Server::etcd(&program).await;
    for ((what, ours), (_, etcd)) in outcomes.iter().zip(run(&etcd.clients()).await) {
        assert_eq!(*ours, etcd, "ours, then etcd's: {what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn space_alarm_refuses_what_grows_and_nothing_else() {
    let server = Server::keelson(&[]).await;
    let clients = server.clients();
    clients.put("k", "v").await;
    let Clients { mut kv, mut lease, mut maintenance, .. } = clients.clone();
    let member_id = maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner().header.unwrap().member_id;
    let raise = pb::AlarmRequest { action: 1, member_id, alarm: 1 };
    let raised = maintenance.alarm(raise).await.unwrap().into_inner().alarms;
    assert_eq!(raised, [pb::AlarmMember { member_id, alarm: 1 }]);

    let refused = |status: tonic::Status| {
        assert_eq!(
            (status.code(), status.message()),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded")
        );
    };
    refused(kv.put(pb::PutRequest { key: "k".into(), ..Default::default() }).await.unwrap_err());
    refused(kv.txn(pb::TxnRequest { failure: ops(1), ..Default::default() }).await.unwrap_err());
    refused(lease.lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 0 }).await.unwrap_err());
    assert_eq!(clients.get("k").await.as_deref(), Some("v"));
    let errors = maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner().errors;
    assert_eq!(errors.len(), 1, "{errors:?}");
    clients.compact(2).await;
    clients.delete("k").await;
    maintenance.alarm(pb::AlarmRequest { action: 2, ..raise }).await.unwrap();
    clients.put("k", "again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_in_every_form() {
    use keelson_etcd_api::grpc::health::v1::{HealthCheckRequest, health_client::HealthClient};
    let server = Server::keelson(&[]).await;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", server.endpoint())).unwrap();
    let mut health = HealthClient::new(endpoint.connect().await.unwrap());
    let status = health.check(HealthCheckRequest { service: String::new() }).await.unwrap().into_inner().status;
    assert_eq!(status, 1, "serving");
    let unknown = health.check(HealthCheckRequest { service: "x".to_owned() }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    for (path, start, body) in [
        ("/health", "HTTP/1.1 200", "{\"health\":\"true\",\"reason\":\"\"}"),
        ("/livez", "HTTP/1.1 200", "ok\n"),
        ("/readyz?verbose", "HTTP/1.1 200", "[+]linearizable_read ok\n"),
        ("/readyz/non_learner", "HTTP/1.1 200", "ok\n"),
        ("/version", "HTTP/1.1 200", "\"etcdserver\":\"3.7."),
        ("/metrics", "HTTP/1.1 200", "etcd_server_has_leader 1\n"),
        ("/metrics", "HTTP/1.1 200", "etcd_server_leader_changes_seen_total 1\n"),
        ("/metrics", "HTTP/1.1 200", "etcd_mvcc_put_total 0\n"),
        ("/metrics", "HTTP/1.1 200", "grpc_method=\"Check\",grpc_service=\"grpc.health.v1.Health\""),
        ("/metrics", "HTTP/1.1 200", "etcd_server_healthcheck{name=\"serializable_read\",type=\"livez\"} 1\n"),
        (
            "/metrics",
            "HTTP/1.1 200",
            "etcd_server_healthchecks_total{name=\"non_learner\",status=\"success\",type=\"readyz\"} 2\n",
        ),
        ("/nothing", "HTTP/1.1 404", "not found"),
    ] {
        let answer = crate::tls::plain_get(server.port, path).await;
        assert!(answer.starts_with(start) && answer.contains(body), "{path}: {answer}");
    }
    for path in ["/health", "/livez", "/readyz/non_learner", "/version"] {
        let request = format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = crate::tls::plain(server.port, &request).await;
        assert!(answer.starts_with("HTTP/1.1 405") && answer.contains("allow: GET\r\n"), "{path}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_paths_with_addresses_of_their_own_are_served_nowhere_else() {
    let port = keelson_ports::free_port().unwrap();
    let server = Server::keelson(&[&format!("--listen-client-http-urls=http://127.0.0.1:{port}")]).await;
    assert!(crate::tls::plain_get(port, "/health").await.starts_with("HTTP/1.1 200"));
    assert!(crate::tls::plain_get(server.port, "/health").await.starts_with("HTTP/1.1 404"));
    server.clients().put("k", "v").await;
    let service = format!("http://127.0.0.1:{port}");
    let endpoint = tonic::transport::Endpoint::from_shared(service).unwrap();
    let mut elsewhere = pb::kv_client::KvClient::new(endpoint.connect().await.unwrap());
    let refused = elsewhere.range(pb::RangeRequest { key: "k".into(), ..Default::default() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}

/// A client of this library would not wait for the answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_time_is_over_is_told_so() {
    use keelson_etcd_api::v3lockpb::LockRequest;
    let server = Server::keelson(&[]).await;
    let Clients { mut lock, mut lease, .. } = server.clients();
    for id in [1, 2] {
        lease.lease_grant(pb::LeaseGrantRequest { ttl: 600, id }).await.unwrap();
    }
    lock.lock(LockRequest { name: "name".into(), lease: 1 }).await.unwrap();
    // The same by lease 2, with the message's length before it.
    let message = "\0\0\0\0\x08\x0a\x04name\x10\x02";
    let request = format!(
        "POST /v3lockpb.Lock/Lock HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/grpc\r\n\
         TE: trailers\r\ngrpc-timeout: 300m\r\nContent-Length: {}\r\n\r\n{message}",
        message.len()
    );
    let answer = crate::tls::plain(server.port, &request).await;
    assert!(answer.contains("grpc-status: 4\r\n") && answer.contains("context%20deadline%20exceeded"), "{answer}");
    let page = crate::tls::plain_get(server.port, "/metrics").await;
    let counted = "grpc_server_handled_total{grpc_code=\"DeadlineExceeded\",grpc_method=\"Lock\"";
    assert!(page.lines().any(|line| line.starts_with(counted) && line.ends_with("} 1")), "{page}");
}

/// etcd takes what `--max-txn-ops` allows, 128.
#[tokio::test(flavor = "multi_thread")]
async fn transactions_that_are_nested_too_deep_are_refused_as_too_large() {
    let server = Server::keelson(&[]).await;
    let mut kv = server.clients().kv;
    let nested = |depth| {
        let innermost = pb::TxnRequest { success: ops(1), ..Default::default() };
        (0..depth).fold(innermost, |inner, _| {
            let op = pb::RequestOp { request: Some(pb::request_op::Request::RequestTxn(inner)) };
            pb::TxnRequest { success: vec![op], ..Default::default() }
        })
    };
    let revision = kv.txn(nested(48)).await.unwrap().into_inner().header.unwrap().revision;
    for depth in [49, 60] {
        let refused = kv.txn(nested(depth)).await.unwrap_err();
        let text = "etcdserver: too many operations in txn request";
        assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, text), "{depth}");
    }
    assert_eq!(server.clients().put("k", "v").await, revision + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn defragmenting_gives_the_space_of_what_was_compacted_back() {
    let server = Server::keelson(&[]).await;
    let clients = server.clients();
    let mut maintenance = clients.maintenance.clone();
    for key in 0..40 {
        clients.put(&format!("k{key}"), &"x".repeat(500_000)).await;
    }
    maintenance.defragment(pb::DefragmentRequest {}).await.unwrap();
    let full = maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner();
    assert!(full.db_size > 20_000_000 && full.db_size_in_use > 20_000_000, "{full:?}");
    let request = pb::DeleteRangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
    let deleted = clients.kv.clone().delete_range(request).await.unwrap().into_inner();
    clients.compact(deleted.header.unwrap().revision).await;
    let answer = maintenance.defragment(pb::DefragmentRequest {}).await.unwrap().into_inner();
    assert!(answer.header.is_none(), "as etcd's");
    let empty = maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner();
    assert!(empty.db_size < 2_000_000 && empty.db_size_in_use < 1_000_000, "{empty:?}");
    clients.put("after", "v").await;
}

/// As in etcd, whose readers compactions do not wait for.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_holds_up_no_compaction_and_no_hash() {
    let server = Server::keelson(&[]).await;
    let clients = server.clients();
    for key in 100..200 {
        clients.put(&format!("k{key}"), &"x".repeat(100_000)).await;
    }
    let Clients { mut kv, mut maintenance, .. } = clients.clone();
    let request = pb::RangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
    let mut pieces = kv.range_stream(request).await.unwrap().into_inner();
    let mut kvs = pieces.message().await.unwrap().unwrap().range_response.unwrap().kvs;
    let mut revision = 0;
    for key in 100..200 {
        revision = clients.put(&format!("k{key}"), "new").await;
    }
    let compaction = pb::CompactionRequest { revision, physical: true };
    within("a compaction", kv.compact(compaction)).await.unwrap();
    let hash = within("a hash", maintenance.hash_kv(pb::HashKvRequest { revision: 0 })).await.unwrap().into_inner();
    assert_eq!((hash.hash_revision, hash.compact_revision), (revision, revision));
    // It finds what it had begun to read, if that is not long ago.
    while let Some(piece) = pieces.message().await.unwrap() {
        kvs.extend(piece.range_response.unwrap().kvs);
    }
    assert!(kvs.len() == 100 && kvs.iter().all(|kv| kv.value.len() == 100_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_quota_is_left_as_etcds_manual_says() {
    let server = Server::keelson(&["--quota-backend-bytes=8000000"]).await;
    let clients = server.clients();
    let Clients { mut kv, mut maintenance, .. } = clients.clone();
    let put = |key: u32| pb::PutRequest {
        key: format!("k{key}").into(),
        value: vec![0; 500_000].into(),
        ..Default::default()
    };
    let mut refused = None;
    for key in 0..100 {
        if let Err(status) = kv.put(put(key)).await {
            refused = Some(status);
            break;
        }
    }
    let refused = refused.expect("the quota is smaller than what was written");
    assert_eq!(refused.message(), "etcdserver: mvcc: database space exceeded");
    crate::waiting::wait_until("the alarm is raised", async || {
        !maintenance.alarm(pb::AlarmRequest::default()).await.unwrap().get_ref().alarms.is_empty()
    })
    .await;
    let Clients { mut maintenance, .. } = clients.clone();
    // Compact, defragment, disarm.
    let request = pb::DeleteRangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
    let revision = kv.delete_range(request).await.unwrap().into_inner().header.unwrap().revision;
    clients.compact(revision).await;
    maintenance.defragment(pb::DefragmentRequest {}).await.unwrap();
    let raised = maintenance.alarm(pb::AlarmRequest::default()).await.unwrap().into_inner().alarms;
    for alarm in raised {
        let disarm = pb::AlarmRequest { action: 2, member_id: alarm.member_id, alarm: alarm.alarm };
        maintenance.alarm(disarm).await.unwrap();
    }
    crate::waiting::wait_until("writes are taken again", async || kv.put(put(0)).await.is_ok()).await;
}

/// Of etcd's own dashboard and alerts, for one member. What there is only with others is tested there.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_the_names_that_dashboards_use() {
    let plain = Server::keelson(&[]).await;
    plain.clients().put("k", "v").await;
    let page = crate::tls::plain_get(plain.port, "/metrics").await;
    assert!(!page.contains("grpc_server_handling_seconds"), "nobody asked for it");

    let server = Server::keelson(&["--metrics=extensive"]).await;
    let clients = server.clients();
    clients.put("k", "v").await;
    let Clients { mut lease, .. } = clients.clone();
    lease.lease_grant(pb::LeaseGrantRequest { ttl: 600, id: 6 }).await.unwrap();
    lease.lease_revoke(pb::LeaseRevokeRequest { id: 6 }).await.unwrap();
    let page = crate::tls::plain_get(server.port, "/metrics").await;
    for name in [
        "etcd_server_has_leader",
        "etcd_server_leader_changes_seen_total",
        "etcd_server_proposals_failed_total",
        "etcd_server_proposals_pending",
        "etcd_server_proposals_committed_total",
        "etcd_server_proposals_applied_total",
        "etcd_server_quota_backend_bytes",
        "etcd_mvcc_db_total_size_in_bytes",
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "etcd_disk_wal_fsync_duration_seconds_bucket",
        "etcd_disk_backend_commit_duration_seconds_bucket",
        "etcd_disk_backend_defrag_duration_seconds_bucket",
        "etcd_network_client_grpc_received_bytes_total",
        "etcd_network_client_grpc_sent_bytes_total",
        "etcd_debugging_mvcc_keys_total",
        "etcd_debugging_mvcc_watcher_total",
        "grpc_server_started_total",
        "grpc_server_handled_total",
        "grpc_server_handling_seconds_bucket{grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\",le=\"0.005\"}",
        "etcd_server_heartbeat_send_failures_total",
        "etcd_server_slow_apply_total",
        "etcd_server_slow_read_indexes_total",
        "etcd_server_read_indexes_failed_total",
        "etcd_server_lease_expired_total",
        "etcd_debugging_lease_renewed_total",
        "etcd_debugging_lease_ttl_total_bucket",
        "process_resident_memory_bytes",
    ] {
        assert!(page.lines().any(|line| line.starts_with(name)), "{name}");
    }
    let value = |name: &str| {
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap().parse::<f64>().unwrap()
    };
    assert!((value("etcd_mvcc_put_total") - 1.0).abs() < 0.1);
    assert!(value("etcd_network_client_grpc_received_bytes_total") > 50.0);
    assert!(value("etcd_disk_wal_write_bytes_total") > 0.0 && value("process_max_fds") >= value("process_open_fds"));
    for name in [
        "etcd_debugging_lease_granted_total",
        "etcd_debugging_lease_revoked_total",
        "etcd_debugging_lease_ttl_total_count",
    ] {
        assert!((value(name) - 1.0).abs() < 0.1, "{name}");
    }
    crate::waiting::wait_until("all that is committed is applied", async || {
        let status = clients.maintenance.clone().status(pb::StatusRequest {}).await.unwrap().into_inner();
        status.raft_index > 0 && status.raft_index == status.raft_applied_index
    })
    .await;
}
