//! `keelson-baseline FOLDER ADDRESS NAME`: fills a folder with what a node's processes read, and with scripts that start them.
//!
//! The boot benchmark compares Keelson with a script that starts the same programs. For a fair comparison the files and
//! flags come from where a node's come from, the library of keelson-cluster: same certificates, same hardening. Two things
//! differ, since nobody is there to serve them: `ServiceAccount` tokens are signed with a key file instead of over a
//! socket, and the client certificate with which the benchmark looks at the node is of `system:masters`.
//!
//! | in the folder | what |
//! |---|---|
//! | `tree/` | what goes below `/` of the machine: `run/keelson`, `state`, `etc/cni/net.d` |
//! | `tree/run/baseline/NAME` | a shell script that becomes the component NAME |
//! | `kubeconfig` | for the host; its server is a placeholder, `kubectl --server` says the real one |

#![forbid(unsafe_code)]

use std::error::Error;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use keelson_cluster::credentials::Circumstances;
use keelson_cluster::membership::{self, Decision};
use keelson_cluster::{Paths, container_runtime, features, kubernetes, store};
use keelson_config::{Inputs, NodeConfig, Remembered};
use keelson_control::ServiceSpec;
use keelson_pki::{AuthorityKind, Clock, Files, Mode, Owner, Profile, StandardFiles, Subject, kubeconfig};
use time::OffsetDateTime;

const WORDS: &str = "keelson.role=control-plane keelson.bootstrap keelson.peers=none";
const API_SERVER_URL: &str = "https://127.0.0.1:6443";
/// Where kube-apiserver finds the key that a node's keelson-cluster would keep to itself.
const TOKEN_KEY: &str = "/run/baseline/service-account.key";

#[derive(Debug, thiserror::Error)]
enum BaselineError {
    #[error("usage: keelson-baseline FOLDER ADDRESS NAME")]
    Usage,
    #[error("cannot write {path}", path = path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("no cluster was founded: {0}")]
    NotFounded(String),
    #[error("the configuration is not a control plane's")]
    NotAControlPlane,
    #[error("the pod range has no room for a node")]
    PodRange,
}

#[expect(clippy::print_stderr, reason = "a command line program")]
fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = format!("error: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Vec<String>) -> Result<(), Box<dyn Error>> {
    let [folder, address, name] = <[String; 3]>::try_from(arguments).map_err(|_| BaselineError::Usage)?;
    let inputs = Inputs { command_line: WORDS.into(), ..Inputs::default() };
    let config = keelson_config::resolve(&inputs, &Remembered::default())?.node;
    write_all(Path::new(&folder), &config, address.parse()?, &name)
}

fn write_all(folder: &Path, config: &NodeConfig, address: IpAddr, name: &str) -> Result<(), Box<dyn Error>> {
    let tree = Tree(folder.join("tree"));
    let paths = Paths::below(&tree.0);
    let files = StandardFiles;
    let now = OffsetDateTime::now_utc();
    let clock = Clock { now, floor: now };
    for directory in ["run/keelson", "run/baseline", "state/pki", "etc/cni/net.d"] {
        files.directory(&tree.0.join(directory), Mode::PUBLIC_DIRECTORY, Owner::ROOT)?;
    }
    let membership = match membership::decide(&files, &paths, config, name, clock)? {
        Decision::Member(membership) => membership,
        Decision::Waiting(reason) => return Err(BaselineError::NotFounded(reason).into()),
        Decision::Join | Decision::Ask(_) => return Err(BaselineError::NotAControlPlane.into()),
    };
    let held = membership.control_plane().ok_or(BaselineError::NotAControlPlane)?;
    let circumstances =
        Circumstances { identity: &membership.identity, cluster: &config.cluster, addresses: &[address] };
    container_runtime::configure(&files, &paths, config)?;
    store::configure(&files, &paths, held, circumstances, &store::peers::Peers::default(), clock)?;
    let settings = kubernetes::Settings {
        paths: &paths,
        config,
        membership: &membership,
        address,
        addresses: &[address],
        // Without a proxy.
        api_server_url: API_SERVER_URL,
        removed: &[],
    };
    let services = kubernetes::configure(&files, settings, clock)?;
    let ranges = features::pod_network::first_ranges(config.cluster.pod_cidr).ok_or(BaselineError::PodRange)?;
    features::pod_network::configure(&files, &paths, &ranges, None)?;

    let token_key = held.authorities.get(AuthorityKind::KubernetesClient);
    let profile = Profile::client(Subject::named("baseline").organization("system:masters"));
    let operator = token_key.issue(&profile, clock)?;
    let operator_file = folder.join("operator.pem");
    write(&operator_file, &operator.to_file())?;
    let serving = folder.join("serving-ca.crt");
    write(&serving, held.authorities.get(AuthorityKind::KubernetesServing).certificate_pem().as_bytes())?;
    let document = kubeconfig::for_component(API_SERVER_URL, &serving, &operator_file);
    write(&folder.join("kubeconfig"), &serde_json::to_vec_pretty(&document)?)?;

    let signer = held.authorities.get(AuthorityKind::KubernetesClient).issue(&profile, clock)?;
    write(&tree.0.join(TOKEN_KEY.trim_start_matches('/')), &signer.to_file())?;
    for service in &services {
        write(&tree.0.join("run/baseline").join(service.name.as_str()), script(service).as_bytes())?;
    }
    tree.strip_prefix()
}

fn write(path: &Path, content: &[u8]) -> Result<(), BaselineError> {
    std::fs::write(path, content).map_err(|source| BaselineError::Write { path: path.to_owned(), source })
}

/// The machine's files, below a folder of the host that stands in every path in them.
struct Tree(PathBuf);

impl Tree {
    /// Makes every path in every text what it is on the machine.
    fn strip_prefix(&self) -> Result<(), Box<dyn Error>> {
        let prefix = self.0.display().to_string();
        let mut folders = vec![self.0.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                    continue;
                }
                if let Ok(text) = std::fs::read_to_string(entry.path())
                    && text.contains(&prefix)
                {
                    // The files are read-only, and the benchmark need not be root.
                    std::fs::remove_file(entry.path())?;
                    write(&entry.path(), text.replace(&prefix, "").as_bytes())?;
                }
            }
        }
        Ok(())
    }
}

/// Becomes the component: `exec`, with nothing of PID 1 around it.
fn script(service: &ServiceSpec) -> String {
    let mut words: Vec<String> = service.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    words.insert(0, "/run/baseline/bin/env".to_owned());
    words.insert(1, "-i".to_owned());
    words.push(service.program.display().to_string());
    words.extend(service.arguments.iter().flat_map(|argument| signing_by_file(argument)));
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    format!("exec {}\n", words.join(" "))
}

fn signing_by_file(argument: &str) -> Vec<String> {
    if argument.starts_with("--service-account-signing-endpoint=") {
        return vec![
            format!("--service-account-signing-key-file={TOKEN_KEY}"),
            format!("--service-account-key-file={TOKEN_KEY}"),
        ];
    }
    vec![argument.to_owned()]
}

/// A word for the shell, whatever is in it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_has_a_script_for_each_component_and_no_path_of_the_host() {
        let folder = tempfile::tempdir().unwrap();
        let words = ["10.0.2.15", "first"].map(str::to_owned);
        run([vec![folder.path().display().to_string()], words.into()].concat()).unwrap();
        let read = |path: &str| std::fs::read_to_string(folder.path().join("tree").join(path)).unwrap();
        for component in ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"] {
            let script = read(&format!("run/baseline/{component}"));
            assert!(
                script.starts_with("exec '/run/baseline/bin/env' '-i' 'PATH=") || script.contains("'HOME="),
                "{script}"
            );
            assert!(script.contains(&format!("'/usr/bin/{component}'")), "{script}");
            assert!(!script.contains(folder.path().to_str().unwrap()), "{script}");
        }
        let api_server = read("run/baseline/kube-apiserver");
        assert!(api_server.contains("--service-account-signing-key-file="), "{api_server}");
        assert!(!api_server.contains("--service-account-signing-endpoint="), "{api_server}");
        let store: serde_json::Value = serde_json::from_str(&read("run/keelson/store/config.json")).unwrap();
        assert_eq!(store["data-dir"], "/state/store");
        assert!(store["corrupt-check-time"].is_u64(), "etcd, which reads it here, takes no other form");
        assert!(read("etc/cni/net.d/10-keelson.conflist").contains("10.244.0.0/24"));
    }

    #[test]
    fn a_quote_in_a_word_does_not_end_it() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
