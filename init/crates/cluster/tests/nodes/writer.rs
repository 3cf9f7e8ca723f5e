//! A client that writes to Kubernetes' API all the time, at a node and through its proxy, each object over a connection of its own as
//! kubectl does, and what became of its writes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use keelson_cluster::client::{Client, ClientError};
use keelson_cluster::{kubernetes_api, report};
use keelson_pki::{Pair, TrustAnchors};
use serde_json::{Value, json};

use super::control_planes::MASTER;
use super::world::{Node, wait_until};

/// What its objects are called.
pub(super) const WRITER: &str = "KEELSON_TEST_WRITER";
const OBJECTS: &str = "/api/v1/namespaces/default/configmaps";
/// Between two writes: the others need a processor, too.
const PAUSE: Duration = Duration::from_millis(50);
const ACKNOWLEDGED: &str = "acknowledged ";
const FAILED: &str = "failed ";

/// Writes until the process is killed, and says in a line what became of each write, and when.
pub(super) async fn write(root: &Path, name: &str) {
    let pair = Pair::from_file(&std::fs::read(root.join(MASTER)).unwrap()).unwrap();
    let authority = std::fs::read_to_string(root.join("run/keelson/kubelet/serving-ca.crt")).unwrap();
    let authority = TrustAnchors::from_pem(&authority).unwrap();
    let begun = Instant::now();
    for number in 0_u64.. {
        let name = format!("{name}-{number}");
        let outcome = create(&authority, &pair, &name).await;
        let milliseconds = begun.elapsed().as_millis();
        match outcome {
            Ok(_) => println!("{ACKNOWLEDGED}{milliseconds} {name}"),
            Err(error) => println!("{FAILED}{milliseconds} {name} {}", report::chain(&error)),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn create(authority: &TrustAnchors, pair: &Pair, name: &str) -> Result<Value, ClientError> {
    let client = Client::new(kubernetes_api::PROXY, authority, Some(pair))?;
    let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } });
    client.create(OBJECTS, &object).await
}

/// The process that does it. It ends with the value.
pub(super) struct Writer {
    child: Child,
    log: PathBuf,
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Writer {
    pub(super) fn start(at: &Node, name: &str) -> Self {
        let log = at.root.join(format!("{name}.log"));
        let file = std::fs::File::create(&log).unwrap();
        let mut command = at.command();
        let child = command.env(WRITER, name).stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Self { child, log }
    }

    pub(super) fn so_far(&self) -> Written {
        let text = std::fs::read_to_string(&self.log).unwrap();
        // The last line may be half of one.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let mut written = Written::default();
        for line in whole.lines() {
            if let Some(line) = line.strip_prefix(ACKNOWLEDGED) {
                let (milliseconds, name) = line.split_once(' ').unwrap();
                let at = Duration::from_millis(milliseconds.parse().unwrap());
                written.acknowledged.push((at, name.to_owned()));
            } else if let Some(line) = line.strip_prefix(FAILED) {
                written.failed.push(line.to_owned());
            }
        }
        written
    }

    /// Waits for so many more acknowledged writes.
    pub(super) async fn wait_for_more(&self, count: usize) {
        let enough = self.so_far().acknowledged.len() + count;
        wait_until(&format!("{count} more writes"), async || self.so_far().acknowledged.len() >= enough).await;
    }

    pub(super) fn stop(mut self) -> Written {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.so_far()
    }
}

/// What became of writes.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// When, since the first one was begun, and the object's name.
    pub(super) acknowledged: Vec<(Duration, String)>,
    /// When, the object's name, and why.
    pub(super) failed: Vec<String>,
}

impl Written {
    /// The longest time between two acknowledgements that came after `before`.
    pub(super) fn longest_gap_since(&self, before: &Self) -> Duration {
        let first = before.acknowledged.len().saturating_sub(1);
        self.acknowledged[first..].windows(2).map(|pair| pair[1].0.saturating_sub(pair[0].0)).max().unwrap_or_default()
    }

    /// What `what` has cost: how many writes there were since `before`, and how far apart.
    pub(super) fn tell(&self, what: &str, before: &Self) {
        println!(
            "{what}: {} writes were acknowledged, at most {} ms apart, and {} failed",
            self.acknowledged.len() - before.acknowledged.len(),
            self.longest_gap_since(before).as_millis(),
            self.failed.len() - before.failed.len(),
        );
    }

    /// Which acknowledged objects are not there.
    pub(super) fn lost(&self, at: &Node) -> Vec<&str> {
        let list = at.kubernetes(MASTER, "GET", OBJECTS, &Value::Null);
        let items = list["object"]["items"].as_array().unwrap_or_else(|| panic!("{list}"));
        let there: BTreeSet<_> = items.iter().filter_map(|item| item["metadata"]["name"].as_str()).collect();
        let names = self.acknowledged.iter().map(|(_, name)| name.as_str());
        names.filter(|name| !there.contains(name)).collect()
    }
}
