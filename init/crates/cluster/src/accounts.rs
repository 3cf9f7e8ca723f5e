//! The fixed accounts of the image (/etc/passwd): one for each process that can do without root.

pub const STORE: u32 = 64001;
pub const KUBE_APISERVER: u32 = 64004;
pub const KUBE_CONTROLLER_MANAGER: u32 = 64005;
pub const KUBE_SCHEDULER: u32 = 64006;
