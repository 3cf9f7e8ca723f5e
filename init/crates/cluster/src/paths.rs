//! Every path that keelson-cluster reads or writes, below one root.
//!
//! The root is `/` on a node and a temporary directory in tests, so that a whole control plane can run on a developer's
//! machine with the files that a node would have.

use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    root: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self::below("/")
    }
}

impl Paths {
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// A path as a node has it, below this root.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    // STATE: what survives a reboot.

    pub fn identity(&self) -> PathBuf {
        self.at("/state/identity.json")
    }

    pub fn authorities(&self) -> PathBuf {
        self.at("/state/pki/authorities")
    }

    /// A worker's key and certificates.
    pub fn node_credentials(&self) -> PathBuf {
        self.at("/state/pki/node")
    }

    /// What a worker was told last.
    pub fn node_settings(&self) -> PathBuf {
        self.cluster_state().join("settings.json")
    }

    pub fn cluster_state(&self) -> PathBuf {
        self.at("/state/cluster")
    }

    /// With whom a control plane's store makes up the cluster's, as it was last.
    pub fn store_members(&self) -> PathBuf {
        self.cluster_state().join("store-members.json")
    }

    /// Whose keys obtain certificates while the records cannot be read.
    pub fn operators(&self) -> PathBuf {
        self.cluster_state().join("operators.json")
    }

    /// What operators have said of this node and of its cluster.
    pub fn configuration(&self) -> PathBuf {
        self.at(keelson_config::SCOPES_PATH)
    }

    /// There since this disk's node was removed from a cluster: it founds no other by words that founded that one.
    pub fn left(&self) -> PathBuf {
        self.cluster_state().join("left")
    }

    /// Exists while a removed node forgets its cluster.
    pub fn leaving(&self) -> PathBuf {
        self.at(keelson_config::LEAVING_PATH)
    }

    pub fn store_data(&self) -> PathBuf {
        self.at("/state/store")
    }

    /// The boot history, and what tells how boots ended. keelson-exec writes it.
    pub fn boots(&self) -> PathBuf {
        self.at("/state/boots")
    }

    // What others tell this process.

    pub fn node_config(&self) -> PathBuf {
        self.at(keelson_config::NODE_CONFIG_PATH)
    }

    /// The join token, until it has been used.
    pub fn token(&self) -> PathBuf {
        self.at(keelson_config::TOKEN_PATH)
    }

    /// The machine's SMBIOS uuid.
    pub fn hardware(&self) -> PathBuf {
        self.at("/sys/class/dmi/id/product_uuid")
    }

    pub fn clock_floor(&self) -> PathBuf {
        self.at(keelson_config::CLOCK_FLOOR_PATH)
    }

    pub fn network_state(&self) -> PathBuf {
        self.at(keelson_config::network_state::NETWORK_STATE_PATH)
    }

    pub fn resolv_conf(&self) -> PathBuf {
        self.at(keelson_config::network_state::RESOLV_CONF_PATH)
    }

    pub fn control_socket(&self) -> PathBuf {
        self.at(keelson_control::SOCKET_PATH)
    }

    pub fn log_socket(&self) -> PathBuf {
        self.at("/run/keelson/log/log.sock")
    }

    pub fn machine_id(&self) -> PathBuf {
        self.at("/run/machine-id")
    }

    /// OCI archives that are part of the operating system.
    pub fn system_images(&self) -> PathBuf {
        self.at("/usr/share/keelson/images")
    }

    /// OCI archives that the operator brought on a disk.
    pub fn user_images(&self) -> PathBuf {
        self.at("/run/keelson/user-images")
    }

    // What this process tells others: one directory for each reader.

    /// What a service is told: `/run/keelson/<service>`.
    pub fn service(&self, service: &str) -> PathBuf {
        self.at("/run/keelson").join(service)
    }

    /// Sockets and reports of this process itself.
    pub fn own(&self) -> PathBuf {
        self.service("cluster")
    }

    /// Exists exactly while `/readyz` of this node's API server answers ok.
    pub fn apiserver_ready(&self) -> PathBuf {
        self.own().join("apiserver-ready")
    }

    /// Exists while that of any API server does which the node's proxy finds.
    pub fn any_apiserver_ready(&self) -> PathBuf {
        self.own().join("any-apiserver-ready")
    }

    /// What keelson-network is asked for.
    pub fn pod_routes(&self) -> PathBuf {
        self.at(keelson_config::pod_routes::POD_ROUTES_PATH)
    }

    /// Whose connections keelson-network cuts.
    pub fn departed(&self) -> PathBuf {
        self.at(keelson_config::departed::DEPARTED_PATH)
    }

    /// Until when keelson-network keeps the cluster's virtual address on this node.
    pub fn virtual_address(&self) -> PathBuf {
        self.at(keelson_config::virtual_address::VIRTUAL_ADDRESS_PATH)
    }

    /// What PID 1 shows on the console whenever it changes.
    pub fn console(&self) -> PathBuf {
        self.own().join("console")
    }

    /// Where kube-apiserver has `ServiceAccount` tokens signed.
    pub fn signer_socket(&self) -> PathBuf {
        self.own().join("signer.sock")
    }

    /// Where keelson-proxy is told of API servers.
    pub fn proxy_feed(&self) -> PathBuf {
        self.service("proxy").join("feed.sock")
    }

    pub fn containerd_socket(&self) -> PathBuf {
        self.at("/run/containerd/containerd.sock")
    }

    /// Where kubelet looks for logind.
    pub fn system_bus(&self) -> PathBuf {
        self.at("/run/dbus/system_bus_socket")
    }

    pub fn cni_configuration(&self) -> PathBuf {
        self.at("/etc/cni/net.d")
    }
}
