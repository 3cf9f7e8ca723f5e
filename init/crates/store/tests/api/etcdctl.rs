//! The command line that operators know: each of its commands works, or is refused as ETCD.md says.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::servers::{Server, etcd_program};
use crate::waiting::wait_until;

struct Etcdctl {
    program: PathBuf,
    endpoint: String,
}

impl Etcdctl {
    fn run(&self, arguments: &[&str], input: &str) -> Output {
        use std::io::Write as _;
        let mut child = Command::new(&self.program)
            .arg(format!("--endpoints={}", self.endpoint))
            .args(arguments)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    fn ok(&self, arguments: &[&str]) -> String {
        self.ok_with(arguments, "")
    }

    fn ok_with(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input);
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "etcdctl {arguments:?}: {text}{errors}");
        text.into_owned()
    }

    /// Of a command that does not end by itself.
    fn first_lines(&self, arguments: &[&str], count: usize) -> Vec<String> {
        self.first_lines_with(arguments, "", count)
    }

    /// The same, of one that is told something and then waits for more.
    fn first_lines_with(&self, arguments: &[&str], input: &str, count: usize) -> Vec<String> {
        use std::io::{BufRead as _, Write as _};
        let mut child = Command::new(&self.program)
            .arg(format!("--endpoints={}", self.endpoint))
            .args(arguments)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let lines = lines.take(count).map(Result::unwrap).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        lines
    }

    fn fails(&self, arguments: &[&str], with: &str) {
        let output = self.run(arguments, "");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains(with), "etcdctl {arguments:?}: {errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_works() {
    let Some(program) = etcd_program("KEELSON_ETCDCTL") else { return };
    let server = Server::keelson(&[]).await;
    let etcdctl = Etcdctl { program, endpoint: server.endpoint() };
    tokio::task::spawn_blocking(move || {
        keys(&etcdctl);
        leases(&etcdctl);
        maintenance(&etcdctl);
        members(&etcdctl);
        users(&etcdctl);
        downgrades(&etcdctl);
        scale(&etcdctl);
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_mirrors_and_elects() {
    let Some(program) = etcd_program("KEELSON_ETCDCTL") else { return };
    let (from, to) = (Server::keelson(&[]).await, Server::keelson(&[]).await);
    from.clients().put("mirror/a", "1").await;
    let mut mirror = Command::new(&program)
        .arg(format!("--endpoints={}", from.endpoint()))
        .args(["make-mirror", "--prefix=mirror/", to.endpoint().as_str()])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let clients = to.clients();
    wait_until("what was there is copied", async || clients.get("mirror/a").await.as_deref() == Some("1")).await;
    from.clients().put("mirror/b", "2").await;
    from.clients().delete("mirror/a").await;
    wait_until("what happens is copied", async || {
        clients.get("mirror/b").await.as_deref() == Some("2") && clients.get("mirror/a").await.is_none()
    })
    .await;
    mirror.kill().unwrap();
    mirror.wait().unwrap();

    let etcdctl = Etcdctl { program, endpoint: from.endpoint() };
    tokio::task::spawn_blocking(move || {
        let won = etcdctl.first_lines(&["elect", "name", "proposal"], 2);
        assert!(won[0].starts_with("name/") && won[1] == "proposal", "{won:?}");
    })
    .await
    .unwrap();
}

fn keys(etcdctl: &Etcdctl) {
    assert_eq!(etcdctl.ok(&["put", "a", "1"]), "OK\n");
    assert_eq!(etcdctl.ok(&["put", "a", "2", "--prev-kv"]), "OK\na\n1\n");
    etcdctl.ok(&["put", "b", "3"]);
    assert_eq!(etcdctl.ok(&["get", "a"]), "a\n2\n");
    assert_eq!(etcdctl.ok(&["get", "", "--prefix", "--keys-only"]), "a\n\nb\n\n");
    assert_eq!(etcdctl.ok(&["get", "a", "--rev=2"]), "a\n1\n");
    assert_eq!(etcdctl.ok(&["get", "a", "z", "--order=DESCEND", "--print-value-only"]), "3\n2\n");
    let txn = "mod(\"a\") = \"3\"\n\nput c 4\nget a\n\nget b\n\n";
    assert_eq!(etcdctl.ok_with(&["txn"], txn), "SUCCESS\n\nOK\n\na\n2\n");
    assert_eq!(etcdctl.ok_with(&["txn"], txn.replace("\"3\"", "\"2\"").as_str()), "FAILURE\n\nb\n3\n");
    assert_eq!(etcdctl.ok(&["del", "b", "z"]), "2\n");
    assert_eq!(etcdctl.first_lines(&["watch", "--rev=2", "a"], 6), ["PUT", "a", "1", "PUT", "a", "2"]);
    let interactive = etcdctl.first_lines_with(&["watch", "-i"], "watch --rev=3 a\n", 3);
    assert_eq!(interactive, ["PUT", "a", "2"]);
    assert!(etcdctl.ok(&["compaction", "4"]).contains("compacted revision 4"));
    etcdctl.fails(&["get", "a", "--rev=3"], "etcdserver: mvcc: required revision has been compacted");
    etcdctl.fails(&["get", "a", "--rev=300"], "etcdserver: mvcc: required revision is a future revision");
}

fn leases(etcdctl: &Etcdctl) {
    let granted = etcdctl.ok(&["lease", "grant", "600"]);
    let id = granted.split_whitespace().nth(1).unwrap();
    etcdctl.ok(&["put", "leased", "v", &format!("--lease={id}")]);
    assert!(etcdctl.ok(&["lease", "list"]).contains(id));
    assert!(etcdctl.ok(&["lease", "timetolive", id, "--keys"]).contains("attached keys([leased])"));
    assert!(etcdctl.ok(&["lease", "keep-alive", "--once", id]).contains("keepalived with TTL(600)"));
    assert!(etcdctl.ok(&["lease", "revoke", id]).contains("revoked"));
    assert_eq!(etcdctl.ok(&["get", "leased"]), "");
    assert!(etcdctl.ok(&["lock", "name", "echo", "held"]).contains("held"));
}

fn maintenance(etcdctl: &Etcdctl) {
    etcdctl.ok(&["endpoint", "health"]);
    let status = etcdctl.ok(&["endpoint", "status", "-w", "fields"]);
    for field in ["\"Version\" : \"3.7.", "\"Leader\" : ", "\"IsLearner\" : false"] {
        assert!(status.contains(field), "{status}");
    }
    assert!(etcdctl.ok(&["endpoint", "hashkv"]).contains(','));
    assert!(etcdctl.ok(&["member", "list"]).contains("started, default"));
    assert_eq!(etcdctl.ok(&["alarm", "list"]), "");
    assert!(etcdctl.ok(&["auth", "status"]).contains("Authentication Status: false"));
    etcdctl.ok(&["alarm", "disarm"]);
    assert!(etcdctl.ok(&["defrag"]).contains("Finished defragmenting"));
    for arguments in [["endpoint", "health"], ["endpoint", "status"], ["endpoint", "hashkv"]] {
        etcdctl.ok(&[&arguments[..], &["--cluster", "-w", "table"]].concat());
    }
    assert!(etcdctl.ok(&["version"]).contains("etcdctl version: 3.7"));
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("snapshot");
    etcdctl.ok(&["snapshot", "save", file.to_str().unwrap()]);
    check_snapshot(&file);
}

fn members(etcdctl: &Etcdctl) {
    let added = etcdctl.ok(&["member", "add", "x", "--learner", "--peer-urls=http://10.0.0.1:2380"]);
    let id = added.split_whitespace().nth(1).unwrap();
    assert!(etcdctl.ok(&["member", "list"]).contains("unstarted"));
    assert!(etcdctl.ok(&["member", "list", "-w", "table"]).to_uppercase().contains("IS LEARNER"));
    etcdctl.ok(&["member", "update", id, "--peer-urls=http://10.0.0.2:2380"]);
    assert!(etcdctl.ok(&["member", "list"]).contains("http://10.0.0.2:2380"));
    etcdctl.fails(&["member", "promote", id], "can only promote a learner member which is in sync with leader");
    etcdctl.fails(&["move-leader", id], "etcdserver: bad leader transferee");
    etcdctl.ok(&["member", "remove", id]);
    let members = etcdctl.ok(&["member", "list"]);
    let own = members.split(',').next().unwrap();
    assert!(etcdctl.ok(&["move-leader", own]).contains("Leadership transferred"));
}

/// Who a client is, is told by its certificate.
fn users(etcdctl: &Etcdctl) {
    assert_eq!(etcdctl.ok(&["user", "list"]), "");
    assert_eq!(etcdctl.ok(&["role", "list"]), "");
    etcdctl.fails(&["user", "add", "a:b"], "etcd's users and roles are not served");
    etcdctl.fails(&["role", "add", "a"], "etcd's users and roles are not served");
    for command in [["user", "get"], ["user", "delete"]] {
        etcdctl.fails(&[&command[..], &["a"]].concat(), "etcdserver: user name not found");
    }
    for command in [["role", "get"], ["role", "delete"]] {
        etcdctl.fails(&[&command[..], &["a"]].concat(), "etcdserver: role name not found");
    }
    etcdctl.fails(&["user", "grant-role", "a", "b"], "etcdserver: user name not found");
    etcdctl.fails(&["user", "revoke-role", "a", "b"], "etcdserver: user name not found");
    etcdctl.fails(&["role", "grant-permission", "a", "read", "k"], "etcdserver: role name not found");
    etcdctl.fails(&["role", "revoke-permission", "a", "k"], "etcdserver: role name not found");
    etcdctl.fails(&["auth", "enable"], "etcdserver: root user does not exist");
    assert!(etcdctl.ok(&["auth", "disable"]).contains("Authentication Disabled"));
}

/// There is no older release that reads this store's files.
fn downgrades(etcdctl: &Etcdctl) {
    etcdctl.fails(&["downgrade", "validate", "3.6"], "etcdserver: invalid downgrade target version");
    etcdctl.fails(&["downgrade", "enable", "3.6"], "etcdserver: invalid downgrade target version");
    assert!(etcdctl.ok(&["downgrade", "cancel"]).contains("cluster version 3.7"));
}

fn scale(etcdctl: &Etcdctl) {
    let told = etcdctl.ok(&["check", "datascale", "--load=s"]);
    assert!(told.contains("PASS: Approximate system memory used"), "{told}");
}

/// The frame that etcdctl checks, and ours inside it.
fn check_snapshot(file: &Path) {
    let bytes = std::fs::read(file).unwrap();
    let (body, sum) = bytes.split_at(bytes.len() - 32);
    assert_eq!(body.len() % 512, 0);
    assert_eq!(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body).as_ref(), sum);
    assert_eq!(&body[..8], b"KEELSNAP");
    let mut records = 0;
    let mut rest = &body[16..];
    while rest[0] != 0 {
        assert!(rest[0] <= 6, "table {}", rest[0]);
        rest = &rest[1..];
        for _ in ["key", "value"] {
            let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
            rest = &rest[4 + length..];
        }
        records += 1;
    }
    assert!(records > 5 && rest.iter().all(|byte| *byte == 0), "{records}");
}
