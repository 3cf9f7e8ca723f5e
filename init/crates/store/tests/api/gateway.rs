//! The JSON gateway, as curl meets it: the same answers as etcd's.

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::servers::{Server, etcd_program, within};

async fn send(port: u16, method: &str, path: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let length = body.len();
    // curl's own kind, since etcd does not look at it.
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    );
    stream.write_all((head + body).as_bytes()).await.unwrap();
    stream
}

/// The status, and the values of the body: one, or those of a stream.
async fn ask(port: u16, method: &str, path: &str, body: &str) -> (u16, Vec<Value>) {
    let mut stream = send(port, method, path, body).await;
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, values(body))
}

/// What is JSON in a body, whose chunks have lines of their own.
fn values(body: &str) -> Vec<Value> {
    body.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn post(port: u16, path: &str, body: &str) -> (u16, Vec<Value>) {
    ask(port, "POST", path, body).await
}

/// The first values of a stream that does not end by itself.
async fn first(port: u16, path: &str, body: &str, count: usize) -> Vec<Value> {
    let mut lines = BufReader::new(send(port, "POST", path, body).await).lines();
    let mut found = Vec::new();
    while found.len() < count {
        let line = within("a line", lines.next_line()).await.unwrap().expect("the stream goes on");
        found.extend(values(&line));
    }
    found
}

/// Without what is a server's own.
fn comparable(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            let own = ["cluster_id", "member_id", "raft_term"];
            fields.retain(|name, _| !own.contains(&name.as_str()));
            fields.values_mut().for_each(|field| *field = comparable(field.take()));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| *value = comparable(value.take())),
        _ => {}
    }
    value
}

/// What is asked of a fresh server, in this order.
const CASES: [(&str, &str); 30] = [
    ("kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#),
    ("kv/range", r#"{"key":"Zm9v"}"#),
    ("kv/range", r#"{"key":"Zm9v"} and what follows is not looked at"#),
    // Without padding, and in the alphabet for URLs.
    ("kv/put", r#"{"key":"Zm9vPz8_Cg","value":"_w","prevKv":true}"#),
    ("kv/range", r#"{"key":"AA==","range_end":"AA==","sort_order":"DESCEND","sortTarget":1,"limit":"1"}"#),
    ("kv/range", r#"{"key":"AA==","rangeEnd":"AA==","limit":1,"keys_only":true,"nothing":{"of":["this"]}}"#),
    ("kv/range", r#"{"key":"Zm9v","count_only":true}"#),
    ("kv/range", r#"{"key":"bm9uZQ=="}"#),
    ("kv/put", r#"{"key":"Zm9v","value":"YmF6","prev_kv":true}"#),
    (
        "kv/txn",
        r#"{"compare":[{"key":"Zm9v","target":"VERSION","result":"EQUAL","version":"2"}],
            "success":[{"requestPut":{"key":"YQ==","value":"MQ=="}},{"request_range":{"key":"YQ=="}}],
            "failure":[{"requestDeleteRange":{"key":"Zm9v"}}]}"#,
    ),
    ("kv/txn", r#"{"compare":[{"key":"Zm9v","target":"CREATE","create_revision":0}],"success":[]}"#),
    ("kv/deleterange", r#"{"key":"YQ==","prev_kv":true}"#),
    ("kv/compaction", r#"{"revision":"3"}"#),
    ("kv/range", r#"{"key":"Zm9v","revision":"1"}"#),
    ("kv/range", r#"{"key":"Zm9v","revision":"100"}"#),
    ("kv/range", ""),
    ("kv/range", "{}"),
    ("lease/grant", r#"{"ID":"77","TTL":"600"}"#),
    ("lease/grant", r#"{"ID":77,"TTL":600}"#),
    ("kv/put", r#"{"key":"bA==","lease":"77"}"#),
    ("kv/lease/timetolive", r#"{"ID":"77","keys":true}"#),
    ("lease/leases", "{}"),
    ("lease/keepalive", r#"{"ID":"77"} {"ID":"77"}"#),
    ("kv/lease/revoke", r#"{"ID":"77"}"#),
    ("lease/revoke", r#"{"ID":"77"}"#),
    ("lease/timetolive", r#"{"ID":"77"}"#),
    ("maintenance/alarm", r#"{"action":"GET"}"#),
    ("auth/status", ""),
    ("auth/user/get", r#"{"name":"nobody"}"#),
    ("cluster/member/remove", r#"{"ID":"1"}"#),
];

/// Whose texts are a parser's or a router's own.
const REFUSED: [(&str, &str, &str); 6] = [
    ("POST", "/v3/kv/range", "{"),
    ("POST", "/v3/kv/range", r#"{"key":7}"#),
    ("POST", "/v3/kv/range", r#"{"key":"*"}"#),
    ("POST", "/v3/kv/put", r#"{"key":"Zm9v","lease":"many"}"#),
    ("POST", "/v3/kv/nothing", "{}"),
    ("GET", "/v3/kv/range", ""),
];

type Answers = Vec<(String, u16, Vec<Value>)>;

async fn run(port: u16) -> Answers {
    let mut answers = Vec::new();
    for (path, body) in CASES {
        let (status, values) = post(port, &format!("/v3/{path}"), body).await;
        // How long a lease has left is a matter of the moment.
        let values = values.into_iter().map(comparable).collect();
        answers.push((format!("{path} {body}"), status, values));
    }
    for (method, path, body) in REFUSED {
        let (status, values) = ask(port, method, path, body).await;
        let codes = values.into_iter().map(|value| value["code"].clone()).collect();
        answers.push((format!("{method} {path} {body}"), status, codes));
    }
    let watch = r#"{"create_request":{"key":"AA==","range_end":"AA==","start_revision":"4","filters":["NODELETE"]}}
        {"createRequest":{"key":"eA==","watch_id":"9"}}"#;
    let watched = first(port, "/v3/watch", watch, 3).await;
    // Which of the two comes first is not said.
    let mut watched: Vec<_> = watched.into_iter().map(comparable).collect();
    watched.sort_by_key(ToString::to_string);
    answers.push(("watch".to_owned(), 200, watched));
    answers
}

#[tokio::test]
async fn json_is_answered_in_protobufs_mapping() {
    let server = Server::keelson(&[]).await;
    let answers = run(server.port).await;
    let find = |what: &str| {
        let found = answers.iter().find(|(name, ..)| name.starts_with(what)).unwrap();
        (found.1, found.2.clone())
    };
    let header = json!({ "revision": "2" });
    assert_eq!(find("kv/put"), (200, vec![json!({ "header": header })]));
    let kv = json!({ "key": "Zm9v", "create_revision": "2", "mod_revision": "2", "version": "1", "value": "YmFy" });
    assert_eq!(find("kv/range"), (200, vec![json!({ "header": header, "kvs": [kv], "count": "1" })]));
    let refused = json!({ "code": 11, "message": "etcdserver: mvcc: required revision has been compacted" });
    assert_eq!(find(r#"kv/range {"key":"Zm9v","revision":"1"}"#), (400, vec![refused]));
    let kept = find("lease/keepalive").1;
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert_eq!(kept[0]["result"]["TTL"], "600");
    assert_eq!(find("POST /v3/kv/nothing"), (404, vec![json!(5)]));
    assert_eq!(find("GET"), (501, vec![json!(12)]));
    let (status, values) = post(server.port, "/v3/maintenance/snapshot", "").await;
    assert_eq!(status, 200);
    assert!(values.iter().all(|value| value["result"]["blob"].is_string()) && !values.is_empty());
    let (status, values) = post(server.port, "/v3/kv/put", &format!(r#"{{"key":"{}"}}"#, "A".repeat(4 << 20))).await;
    assert_eq!((status, &values[0]["code"]), (400, &json!(3)), "{values:?}");
    assert!(server.log().lines().all(|line| !line.contains("panicked")));
}

#[tokio::test]
async fn a_watch_that_goes_on_tells_of_what_happens() {
    let server = Server::keelson(&[]).await;
    let mut lines =
        BufReader::new(send(server.port, "POST", "/v3/watch", r#"{"create_request":{"key":"Zm9v"}}"#).await).lines();
    let mut next = async || loop {
        let line = within("a line", lines.next_line()).await.unwrap().expect("the stream goes on");
        if let Some(value) = values(&line).pop() {
            return value["result"].clone();
        }
    };
    assert_eq!(next().await["created"], true);
    post(server.port, "/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#).await;
    assert_eq!(next().await["events"][0]["kv"]["value"], "YmFy");
}

#[tokio::test]
async fn it_can_be_switched_off() {
    let server = Server::keelson(&["--enable-grpc-gateway=false"]).await;
    assert_eq!(ask(server.port, "POST", "/v3/kv/range", "{}").await.0, 404);
}

#[tokio::test]
async fn etcds_gateway_answers_the_same() {
    let Some(program) = etcd_program("KEELSON_ETCD") else { return };
    let (etcd, ours) = (Server::etcd(&program).await, Server::keelson(&[]).await);
    let (theirs, ours) = (run(etcd.port).await, run(ours.port).await);
    let mismatches: Vec<_> = theirs.iter().zip(&ours).filter(|(theirs, ours)| theirs != ours).collect();
    assert!(mismatches.is_empty(), "{mismatches:#?}");
}
