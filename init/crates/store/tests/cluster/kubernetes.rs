//! An unmodified kube-apiserver on three members: consistent lists and watch lists across changes of the leader.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use keelson_etcd_api::etcdserverpb as pb;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::api_server::{ApiServer, CONFIG_MAPS};
use crate::authority::Authority;
use crate::harness::{Cluster, DEADLINE, Member};
use crate::links::Fault;
use crate::waiting::wait_until;
use crate::world::{World, is_root};

const MEMBERS: u8 = 3;
/// In the clients' namespace, where nobody else has one.
const PORT: u16 = 6443;
const STORE_PREFIX: &str = "/registry/configmaps/default/";
/// Objects made before, during and after a change of the leader.
const OBJECTS: usize = 12;
/// What making them may take: kube-apiserver asks a member that was cut off until its connection's keepalive gives it up, 40 s later.
const CREATING: Duration = Duration::from_mins(4);

/// A stream that first tells of all objects there are, then of those that come.
struct WatchList {
    lines: Lines<BufReader<TlsStream<TcpStream>>>,
    names: BTreeSet<String>,
    /// Of the last object that was told in the order of their making: none while those are told that were there.
    version: Option<u64>,
}

impl WatchList {
    /// None if it is not accepted, or ends before it has told of all.
    async fn begin(api: &ApiServer) -> Option<Self> {
        let options = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
        let stream = api.send("GET", &format!("{CONFIG_MAPS}?{options}"), "").await.ok()?;
        let mut list = Self { lines: BufReader::new(stream).lines(), names: BTreeSet::new(), version: None };
        if !list.line().await?.contains(" 200 ") {
            return None;
        }
        while !list.line().await?.is_empty() {}
        while list.version.is_none() {
            list.next().await?;
        }
        Some(list)
    }

    /// None when the stream has ended.
    async fn line(&mut self) -> Option<String> {
        let line = tokio::time::timeout(DEADLINE, self.lines.next_line()).await.expect("a watch list tells something");
        line.ok()?.map(|line| line.trim_end().to_owned())
    }

    /// Takes the next event.
    async fn next(&mut self) -> Option<()> {
        let event: Value = serde_json::from_str(&self.line().await?).unwrap();
        let metadata = &event["object"]["metadata"];
        let version = || metadata["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
        match event["type"].as_str().unwrap() {
            "ADDED" => {
                let name = metadata["name"].as_str().unwrap().to_owned();
                if let Some(last) = &mut self.version {
                    assert!(version() > *last, "{name} is told at {} after {last}", version());
                    *last = version();
                }
                assert!(self.names.insert(name), "told twice: {event}");
            }
            "BOOKMARK" if metadata["annotations"]["k8s.io/initial-events-end"] == "true" => {
                self.version = Some(version());
            }
            "BOOKMARK" => {}
            // Of a watch that cannot go on.
            "ERROR" => return None,
            other => panic!("{other}: {event}"),
        }
        Some(())
    }
}

/// A watch list as clients use it: begun again where it ended.
struct Watcher<'a> {
    api: &'a ApiServer,
    list: Option<WatchList>,
    begun: usize,
}

impl<'a> Watcher<'a> {
    async fn new(api: &'a ApiServer) -> Self {
        let mut watcher = Self { api, list: None, begun: 0 };
        watcher.list().await;
        watcher
    }

    async fn list(&mut self) -> &mut WatchList {
        if self.list.is_none() {
            let Self { api, list, begun } = self;
            wait_until("a watch list", async || {
                *list = WatchList::begin(api).await;
                list.is_some()
            })
            .await;
            *begun += 1;
        }
        self.list.as_mut().unwrap()
    }

    /// All that was told, up to the object of that name.
    async fn told_up_to(&mut self, name: &str) -> BTreeSet<String> {
        loop {
            let list = self.list().await;
            if list.names.contains(name) {
                return list.names.clone();
            }
            if list.next().await.is_none() {
                self.list = None;
            }
        }
    }
}

/// Makes objects, each of which the next list must have.
async fn create(api: &ApiServer, prefix: &str, acknowledged: &mut Vec<String>) {
    let (begun, goal) = (Instant::now(), acknowledged.len() + OBJECTS);
    for number in 0.. {
        if acknowledged.len() == goal {
            break;
        }
        assert!(begun.elapsed() < CREATING, "{prefix}: {} objects too few", goal - acknowledged.len());
        let name = format!("{prefix}-{number:04}");
        if api.create(&name).await {
            let mut listed = None;
            wait_until("a list", async || {
                listed = api.list().await;
                listed.is_some()
            })
            .await;
            assert!(listed.unwrap().contains(&name), "{name} was acknowledged and is not in the next list");
            acknowledged.push(name);
        }
    }
}

/// The same from a member itself.
async fn stored(member: &Member) -> Vec<String> {
    let mut range_end = STORE_PREFIX.as_bytes().to_vec();
    *range_end.last_mut().unwrap() += 1;
    let request = pb::RangeRequest { key: STORE_PREFIX.into(), range_end: range_end.into(), ..Default::default() };
    let kvs = member.kv().range(request).await.unwrap().into_inner().kvs;
    kvs.iter().map(|kv| String::from_utf8(kv.key[STORE_PREFIX.len()..].to_vec()).unwrap()).collect()
}

fn assert_all(acknowledged: &[String], told: &BTreeSet<String>, what: &str) {
    for name in acknowledged {
        assert!(told.contains(name), "{name} was acknowledged and is not in {what}");
    }
}

async fn across_changes(world: &World, program: &Path) {
    let mut cluster = Cluster::founded_at(world.places(), &["--watch-progress-notify-interval=5s"]).await;
    let directory = tempfile::TempDir::new().unwrap();
    let urls: Vec<String> = cluster.members.iter().map(Member::client_url).collect();
    let flags = [
        format!("--etcd-servers={}", urls.join(",")),
        // It would look for the way out of this namespace, and there is none.
        format!("--advertise-address={}", World::client_address()),
    ];
    let api = ApiServer::start(program, directory.path(), PORT, &Authority::new(), &flags);
    wait_until("kube-apiserver is ready", async || api.is_ready().await).await;
    wait_until("the namespace is there", async || api.create("first").await).await;
    let mut acknowledged = vec!["first".to_owned()];
    let mut old = Watcher::new(&api).await;
    for (fault, name) in
        [(Fault::LeaderKilled, "killed"), (Fault::LeaderStopped, "stopped"), (Fault::LeaderCutOff, "cut-off")]
    {
        create(&api, &format!("{name}-before"), &mut acknowledged).await;
        fault.begin(&mut cluster, world).await;
        create(&api, &format!("{name}-meanwhile"), &mut acknowledged).await;
        let mut new = Watcher::new(&api).await;
        assert_all(&acknowledged, &new.list().await.names, "what a new watch list begins with");
        Fault::end(&mut cluster, world).await;
        create(&api, &format!("{name}-after"), &mut acknowledged).await;
        for watcher in [&mut old, &mut new] {
            let told = watcher.told_up_to(acknowledged.last().unwrap()).await;
            assert_all(&acknowledged, &told, "what a watch list told");
        }
        println!("{fault:?}: the watch list that was there before was begun {} times", old.begun);
    }
    let listed = api.list().await.unwrap();
    for member in &cluster.members {
        assert_eq!(listed, stored(member).await, "the cache and {} agree", member.name);
    }
    api.check_metrics().await;
    cluster.assert_equal_hashes().await;
}

#[test]
fn an_api_server_misses_nothing_when_the_leader_changes() {
    let Some(program) = std::env::var_os("KEELSON_KUBERNETES") else {
        println!("KEELSON_KUBERNETES is not set: nothing to test with, this test ends here");
        return;
    };
    if !is_root() {
        return;
    }
    let world = World::new(MEMBERS);
    world.as_client(|| across_changes(&world, Path::new(&program)));
}
