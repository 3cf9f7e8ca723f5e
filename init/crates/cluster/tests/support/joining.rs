//! A worker joins through the API: over TLS, past dead addresses, through power cuts, and told what is wrong.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, TcpListener},
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use keelson_api::{CreatedToken, ErrorCode, Token, paths};
use keelson_cluster::{
    Paths,
    join::{self, JoinError, connection::Planes},
    membership::{self, Decision, Membership},
};
use keelson_config::{Inputs, NodeConfig, Remembered};
use keelson_pki::{Files, FilesError, Fingerprint, Mode, Owner, StandardFiles};
use serde_json::json;

use super::{caller::ask_locally, credentials::Operator, fixture::Fixture};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A worker's disk, configuration and token.
struct Worker {
    _root: tempfile::TempDir,
    paths: Paths,
    config: NodeConfig,
}

impl Worker {
    fn with_token(token: &str) -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let paths = Paths::below(root.path());
        let inputs = Inputs { command_line: b"keelson.role=worker keelson.name=w1".to_vec(), ..Inputs::default() };
        let config = keelson_config::resolve(&inputs, &Remembered::default()).expect("a valid configuration").node;
        let worker = Self { _root: root, paths, config };
        worker.give_token(token);
        worker
    }

    fn give_token(&self, token: &str) {
        let path = self.paths.token();
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        std::fs::write(path, token).expect("written");
    }

    async fn join(&self, files: Arc<dyn Files>) -> Result<Membership, JoinError> {
        join::join(&files, &self.paths, &self.config, "w1", &[LOOPBACK]).await
    }

    fn files(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        collect(&self.paths.at("/state"), &mut found);
        found
    }
}

fn collect(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            collect(&entry.path(), found);
        } else {
            found.insert(entry.path().display().to_string());
        }
    }
}

async fn token(fixture: &Fixture, endpoints: &[String], uses: u32) -> String {
    let body = json!({ "role": "worker", "uses": uses, "endpoints": endpoints }).to_string();
    let answer = ask_locally(&fixture.socket, "POST", paths::TOKENS, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    serde_json::from_str::<CreatedToken>(&answer.text).expect("a token").token
}

fn start() -> Fixture {
    Fixture::start(&Operator::new().public)
}

#[tokio::test]
async fn a_worker_joins_and_takes_its_place_up_again_after_a_reboot() {
    let fixture = start();
    let worker = Worker::with_token(&token(&fixture, &[fixture.address.to_string()], 1).await);
    let joined = worker.join(Arc::new(StandardFiles)).await.expect("joined");
    assert_eq!(joined.identity.cluster_id, fixture.member().identity.cluster_id);
    assert!(joined.control_plane().is_none(), "a worker holds no authority");
    assert!(!worker.paths.token().exists(), "the token is gone");
    let decided = membership::decide(&StandardFiles, &worker.paths, &worker.config, "w1", fixture.node.clock());
    let Decision::Member(again) = decided.expect("a decision") else { panic!("the place was forgotten") };
    assert_eq!(again.identity, joined.identity);
    for path in worker.files() {
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).expect("a file").permissions());
        assert_eq!(mode & 0o077, 0, "{path} can be read by others");
    }
}

#[tokio::test]
async fn dead_addresses_in_the_token_cost_less_than_five_seconds() {
    let fixture = start();
    // Nobody listens; somebody listens and says nothing; a black hole of the documentation's network.
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port").local_addr().expect("its address");
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let silent_address = silent.local_addr().expect("its address").to_string();
    let endpoints = [closed.to_string(), silent_address, "198.51.100.1:6400".to_owned(), fixture.address.to_string()];
    let worker = Worker::with_token(&token(&fixture, &endpoints, 1).await);
    let begun = Instant::now();
    worker.join(Arc::new(StandardFiles)).await.expect("joined");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

/// Files with a power supply that fails after a number of changes.
struct Cut {
    left: Mutex<usize>,
}

impl Cut {
    fn take(&self, path: &Path) -> Result<(), FilesError> {
        let mut left = self.left.lock().expect("no panic");
        if *left == 0 {
            let source = std::io::Error::other("the power is off");
            return Err(FilesError::Write { path: path.to_owned(), source });
        }
        *left -= 1;
        Ok(())
    }
}

impl Files for Cut {
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, FilesError> {
        StandardFiles.read(path)
    }

    fn write(&self, path: &Path, content: &[u8], mode: Mode, owner: Owner) -> Result<(), FilesError> {
        self.take(path)?;
        StandardFiles.write(path, content, mode, owner)
    }

    fn directory(&self, path: &Path, mode: Mode, owner: Owner) -> Result<(), FilesError> {
        StandardFiles.directory(path, mode, owner)
    }

    fn remove(&self, path: &Path) -> Result<(), FilesError> {
        self.take(path)?;
        StandardFiles.remove(path)
    }
}

#[tokio::test]
async fn a_power_cut_at_any_change_of_the_disk_ends_in_one_member_and_one_use() {
    let fixture = start();
    let line = token(&fixture, &[fixture.address.to_string()], 1).await;
    let worker = Worker::with_token(&line);
    let mut uids = BTreeSet::new();
    let mut cuts = 0;
    loop {
        match worker.join(Arc::new(Cut { left: Mutex::new(cuts) })).await {
            Ok(membership) => {
                uids.insert(membership.identity.node_uid.to_string());
                break;
            }
            Err(JoinError::Files(_) | JoinError::Worker(_)) => {}
            Err(error) => panic!("after {cuts} changes: {error:?}"),
        }
        // A reboot: PID 1 writes the token again, and a place that was taken is taken up.
        worker.give_token(&line);
        let decided = membership::decide(&StandardFiles, &worker.paths, &worker.config, "w1", fixture.node.clock());
        if let Decision::Member(membership) = decided.expect("what is on the disk can be read") {
            uids.insert(membership.identity.node_uid.to_string());
        }
        cuts += 1;
    }
    assert!(cuts >= 8, "only {cuts} changes were cut");
    assert_eq!(uids.len(), 1, "it was more than one node");
    let list = ask_locally(&fixture.socket, "GET", paths::TOKENS, "").await.json();
    assert_eq!(list["tokens"][0]["usedBy"], json!(["w1"]));
}

#[tokio::test]
async fn the_node_is_told_in_plain_words_what_is_wrong_and_the_right_token_then_works() {
    let fixture = start();
    let endpoints = [fixture.address.to_string()];
    let good = token(&fixture, &endpoints, 1).await;
    let revoked = token(&fixture, &endpoints, 1).await;
    let id = Token::parse(&revoked).expect("a token").claims.id;
    assert_eq!(ask_locally(&fixture.socket, "DELETE", &paths::token(&id), "").await.status, 200);
    let worker = Worker::with_token(&revoked);
    let error = worker.join(Arc::new(StandardFiles)).await.expect_err("revoked");
    assert!(matches!(&error, JoinError::Refused(body) if body.code == ErrorCode::TokenRevoked), "{error:?}");
    assert!(error.to_string().contains("revoked") && !error.may_pass(), "{error}");
    worker.give_token(&good[..good.len() - 3]);
    let error = worker.join(Arc::new(StandardFiles)).await.expect_err("truncated");
    assert!(error.to_string().contains("cut off"), "{error}");
    worker.give_token(&good);
    worker.join(Arc::new(StandardFiles)).await.expect("joined");
}

#[tokio::test]
async fn a_server_that_is_not_the_tokens_or_no_control_plane_gets_no_secret() {
    let (fixture, other) = (start(), start());
    // The token of one cluster leads to the other's address.
    let worker = Worker::with_token(&token(&fixture, &[other.address.to_string()], 1).await);
    let error = worker.join(Arc::new(StandardFiles)).await.expect_err("another cluster");
    assert!(matches!(error, JoinError::Planes(_)), "{error:?}");
    let list = ask_locally(&fixture.socket, "GET", paths::TOKENS, "").await.json();
    assert_eq!(list["tokens"][0]["usedBy"], json!([]));

    // The right cluster's worker.
    let worker = Worker::with_token(&token(&fixture, &[fixture.address.to_string()], 1).await);
    fixture.serve_as_worker();
    let planes = Planes::new(vec![fixture.address.to_string()], vec![pin(&fixture)]);
    let asked = planes.ask::<(), serde_json::Value>(hyper::Method::GET, paths::AUTHORITY, None, None).await;
    assert!(asked.is_err(), "{asked:?}");
    let error = worker.join(Arc::new(StandardFiles)).await.expect_err("a worker");
    assert!(matches!(error, JoinError::Planes(_)), "{error:?}");
}

fn pin(fixture: &Fixture) -> Fingerprint {
    fixture.member().trust().fingerprint()
}
