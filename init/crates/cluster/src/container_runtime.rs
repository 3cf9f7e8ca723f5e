//! containerd's configuration and its registry drop-ins.
//!
//! Written before containerd's start condition (the file's existence) and independent of any cluster: a worker without a
//! cluster has a container runtime too.
//!
//! A mirror's credentials, and those of a registry that has mirrors, are headers of its drop-in: what kubelet sends with a
//! pull is by the image's name alone. A registry that challenges for a token gets them with the request for that token, so they
//! serve there as well. Certificates that are trusted besides the system's are for every registry, whether there is a drop-in or not:
//! containerd's environment names their directory.

use std::fmt::Write as _;

use keelson_config::{NodeConfig, RegistryMirror, TRUSTED_CERTIFICATES_PATH};
use keelson_pki::{Files, FilesError, Mode, Owner};

use crate::paths::Paths;
use crate::registry_credentials::{RegistryCredentials, RegistryCredentialsError, host_of};

/// The sandbox image, part of the operating system.
pub const PAUSE_IMAGE: &str = "keelson.local/pause:1";
const SERVICE: &str = "containerd";

#[derive(Debug, thiserror::Error)]
pub enum ContainerRuntimeError {
    #[error("telling containerd its settings")]
    Files(#[from] FilesError),
    #[error("telling containerd its settings")]
    RegistryCredentials(#[from] RegistryCredentialsError),
}

pub fn configure(files: &dyn Files, paths: &Paths, config: &NodeConfig) -> Result<(), ContainerRuntimeError> {
    let directory = paths.service(SERVICE);
    files.directory(&directory, Mode::PUBLIC_DIRECTORY, Owner::ROOT)?;
    let registries = directory.join("certs.d");
    files.directory(&registries, Mode::PUBLIC_DIRECTORY, Owner::ROOT)?;
    write_trusted(files, paths, config)?;
    let credentials = RegistryCredentials::read(files, paths)?;
    for mirror in &config.registry_mirrors {
        // The validation of the configuration has seen to it that this is one path element.
        let host = registries.join(&mirror.registry);
        files.directory(&host, Mode::PUBLIC_DIRECTORY, Owner::ROOT)?;
        let content = hosts(mirror, &credentials);
        files.update(&host.join("hosts.toml"), content.as_bytes(), Mode::PRIVATE, Owner::ROOT)?;
    }
    files.update(&directory.join("config.toml"), configuration(paths).as_bytes(), Mode::PRIVATE, Owner::ROOT)?;
    Ok(())
}

fn write_trusted(files: &dyn Files, paths: &Paths, config: &NodeConfig) -> Result<(), ContainerRuntimeError> {
    let directory = paths.at(TRUSTED_CERTIFICATES_PATH);
    files.directory(&directory, Mode::PUBLIC_DIRECTORY, Owner::ROOT)?;
    let content = config.trusted_certificates.join("\n");
    files.update(&directory.join("trusted.crt"), content.as_bytes(), Mode::PUBLIC, Owner::ROOT)?;
    Ok(())
}

/// containerd's docs/hosts.md: the mirrors in their order, then the registry itself.
fn hosts(mirror: &RegistryMirror, credentials: &RegistryCredentials) -> String {
    let server = if mirror.registry == "docker.io" { "registry-1.docker.io" } else { &mirror.registry };
    let mut text = format!("server = {}\n", quoted(&format!("https://{server}")));
    if let Some(word) = credentials.of(&mirror.registry) {
        text.push_str(&authorization("header", &word));
    }
    for endpoint in &mirror.endpoints {
        let _ = write!(text, "\n[host.{}]\n  capabilities = [\"pull\", \"resolve\"]\n", quoted(endpoint));
        if mirror.override_path {
            text.push_str("  override_path = true\n");
        }
        if let Some(word) = host_of(endpoint).and_then(|host| credentials.of(&host)) {
            text.push_str(&authorization(&format!("host.{}.header", quoted(endpoint)), &word));
        }
    }
    text
}

/// The name in this form, in which a token that was obtained with it takes its place.
fn authorization(table: &str, word: &str) -> String {
    format!("\n[{table}]\n  Authorization = {}\n", quoted(&format!("Basic {word}")))
}

/// A TOML basic string: JSON's escapes are a subset of its own.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn configuration(paths: &Paths) -> String {
    let at = |path: &str| quoted(&paths.at(path).display().to_string());
    format!(
        r#"version = 4
root = {root}
state = {state}
oom_score = -999
# What nothing on this node uses: each costs memory and time at start.
disabled_plugins = [
  "io.containerd.internal.v1.tracing",
  "io.containerd.nri.v1.nri",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.erofs",
  "io.containerd.differ.v1.erofs",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
]

[debug]
  level = "info"

[plugins."io.containerd.server.v1.grpc"]
  address = {socket}

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  max_concurrent_downloads = 3

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = {pause}

[plugins."io.containerd.cri.v1.images".registry]
  config_path = {registries}

[plugins."io.containerd.cri.v1.runtime"]
  enable_selinux = false

[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["/usr/lib/cni", "/opt/cni/bin"]
  conf_dir = {cni}

[plugins."io.containerd.cri.v1.runtime".containerd]
  default_runtime_name = "runc"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  BinaryName = "/usr/bin/runc"
  SystemdCgroup = false
  # Shims outlive containerd: in a cgroup of their own, stopping containerd stops no pod.
  ShimCgroup = "/shims"
"#,
        root = at("/var/lib/containerd"),
        state = at("/run/containerd"),
        socket = quoted(&paths.containerd_socket().display().to_string()),
        pause = quoted(PAUSE_IMAGE),
        registries = quoted(&paths.service(SERVICE).join("certs.d").display().to_string()),
        cni = quoted(&paths.cni_configuration().display().to_string()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::tests::founding;
    use crate::registry_credentials::tests::credentials;

    fn configured(config: &NodeConfig) -> (tempfile::TempDir, Paths) {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        configure(&keelson_pki::StandardFiles, &paths, config).unwrap();
        (root, paths)
    }

    #[test]
    fn the_pause_image_is_pinned_and_pods_outlive_containerd() {
        let (_root, paths) = configured(&founding());
        let text = std::fs::read_to_string(paths.service(SERVICE).join("config.toml")).unwrap();
        assert!(text.contains(&format!("sandbox = \"{PAUSE_IMAGE}\"")));
        assert!(text.contains("ShimCgroup = \"/shims\""));
        assert!(text.contains("SystemdCgroup = false"));
    }

    #[test]
    fn a_mirror_stands_before_its_registry() {
        let mut config = founding();
        config.registry_mirrors = vec![RegistryMirror {
            registry: "docker.io".to_owned(),
            endpoints: vec!["https://mirror.example/v2/hub".to_owned()],
            override_path: true,
        }];
        config.trusted_certificates = vec!["-----BEGIN CERTIFICATE-----".to_owned()];
        let (_root, paths) = configured(&config);
        let text = std::fs::read_to_string(paths.service(SERVICE).join("certs.d/docker.io/hosts.toml")).unwrap();
        assert!(text.starts_with("server = \"https://registry-1.docker.io\"\n"));
        assert!(text.contains("[host.\"https://mirror.example/v2/hub\"]"));
        assert!(text.contains("override_path = true"));
        assert!(!text.contains("Authorization"), "{text}");
        let trusted = std::fs::read_to_string(paths.at(TRUSTED_CERTIFICATES_PATH).join("trusted.crt")).unwrap();
        assert_eq!(trusted, "-----BEGIN CERTIFICATE-----");
    }

    #[test]
    fn each_host_is_offered_its_own_credentials_and_no_others() {
        let mirror = RegistryMirror {
            registry: "docker.io".to_owned(),
            endpoints: vec!["https://mirror.example/hub".to_owned(), "https://open.example".to_owned()],
            override_path: false,
        };
        let given = credentials(&[("docker.io", "d", "q"), ("mirror.example", "m", "p"), ("other.example", "o", "p")]);
        let expected = "server = \"https://registry-1.docker.io\"\n\
                        \n[header]\n  Authorization = \"Basic ZDpx\"\n\
                        \n[host.\"https://mirror.example/hub\"]\n  capabilities = [\"pull\", \"resolve\"]\n\
                        \n[host.\"https://mirror.example/hub\".header]\n  Authorization = \"Basic bTpw\"\n\
                        \n[host.\"https://open.example\"]\n  capabilities = [\"pull\", \"resolve\"]\n";
        assert_eq!(hosts(&mirror, &given), expected);
    }

    #[test]
    fn text_from_the_configuration_cannot_leave_its_quotes() {
        assert_eq!(quoted("a\"]\nb"), r#""a\"]\nb""#);
    }
}
