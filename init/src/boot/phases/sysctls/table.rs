//! The image's own kernel settings. Kubelet's six are checked by kubelet itself (`protectKernelDefaults`), which does not
//! start if one differs: `pkg/kubelet/cm/container_manager_linux.go`, `setupKernelTunables`.

/// One setting.
#[derive(Debug)]
pub(super) struct Sysctl {
    pub(super) name: &'static str,
    pub(super) value: &'static str,
    /// Why, and who says so.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the reader of this table, and its test"))]
    pub(super) reason: &'static str,
    /// It restricts something that a kernel may not have at all; then there is nothing to restrict.
    pub(super) optional: bool,
}

const fn row(name: &'static str, value: &'static str, reason: &'static str) -> Sysctl {
    Sysctl { name, value, reason, optional: false }
}

const fn if_there(name: &'static str, value: &'static str, reason: &'static str) -> Sysctl {
    Sysctl { name, value, reason, optional: true }
}

const KUBELET: &str = "kubelet: protectKernelDefaults";
const KSPP: &str = "Kernel Self-Protection Project, recommended settings";
const ROUTER: &str = "a router for pods must not be talked out of its routes (CIS Distribution Independent Linux, 3.2)";

pub(super) const SYSCTLS: &[Sysctl] = &[
    // Kubelet.
    row("vm.overcommit_memory", "1", KUBELET),
    row("vm.panic_on_oom", "0", KUBELET),
    row("kernel.panic", "10", KUBELET),
    row("kernel.panic_on_oops", "1", KUBELET),
    row("kernel.keys.root_maxkeys", "1000000", KUBELET),
    row("kernel.keys.root_maxbytes", "25000000", KUBELET),
    // The console is PID 1's: only what is an error or graver reaches it from the kernel.
    row("kernel.printk", "4 4 1 7", "PID 1 writes its lines to the console itself"),
    // Pods.
    row("net.ipv4.ip_forward", "1", "Kubernetes: pods reach each other and the outside through the node"),
    row("net.ipv6.conf.all.forwarding", "1", "Kubernetes: the same for IPv6"),
    row("net.bridge.bridge-nf-call-iptables", "1", "Kubernetes: service addresses work between pods of one bridge"),
    row("net.bridge.bridge-nf-call-ip6tables", "1", "Kubernetes: the same for IPv6"),
    row("fs.inotify.max_user_instances", "8192", "containers share one user's limit; 128 are gone after a few dozen"),
    row("fs.inotify.max_user_watches", "1048576", "the same"),
    row("kernel.pid_max", "4194304", "many pods; the limit that matters is each pod's own (podPidsLimit)"),
    row("vm.max_map_count", "262144", "Elasticsearch and the like ask for it; it cannot be set from a pod"),
    row("net.ipv4.neigh.default.gc_thresh1", "4096", "a neighbour per pod on the bridge: the default's 1024 overflow"),
    row("net.ipv4.neigh.default.gc_thresh2", "16384", "the same"),
    row("net.ipv4.neigh.default.gc_thresh3", "32768", "the same"),
    row("net.ipv6.neigh.default.gc_thresh1", "4096", "the same for IPv6"),
    row("net.ipv6.neigh.default.gc_thresh2", "16384", "the same"),
    row("net.ipv6.neigh.default.gc_thresh3", "32768", "the same"),
    // Hardening.
    row("kernel.kptr_restrict", "2", KSPP),
    row("kernel.dmesg_restrict", "1", KSPP),
    row("kernel.randomize_va_space", "2", KSPP),
    if_there("kernel.kexec_load_disabled", "1", KSPP),
    if_there("kernel.sysrq", "0", KSPP),
    if_there("kernel.unprivileged_bpf_disabled", "1", KSPP),
    row("net.core.bpf_jit_harden", "2", KSPP),
    if_there("vm.unprivileged_userfaultfd", "0", KSPP),
    row("dev.tty.ldisc_autoload", "0", KSPP),
    row("fs.protected_symlinks", "1", KSPP),
    row("fs.protected_hardlinks", "1", KSPP),
    row("fs.protected_fifos", "2", KSPP),
    row("fs.protected_regular", "2", KSPP),
    row("fs.suid_dumpable", "0", KSPP),
    // 1 and not KSPP's 3: a debugger in a container may trace its own children.
    row("kernel.yama.ptrace_scope", "1", "Yama: a process may be traced by its ancestors only"),
    row("net.ipv4.conf.all.accept_redirects", "0", ROUTER),
    row("net.ipv4.conf.default.accept_redirects", "0", ROUTER),
    row("net.ipv6.conf.all.accept_redirects", "0", ROUTER),
    row("net.ipv6.conf.default.accept_redirects", "0", ROUTER),
    row("net.ipv4.conf.all.send_redirects", "0", ROUTER),
    row("net.ipv4.conf.default.send_redirects", "0", ROUTER),
    row("net.ipv4.conf.all.accept_source_route", "0", ROUTER),
    row("net.ipv4.conf.default.accept_source_route", "0", ROUTER),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    fn value(name: &str) -> Option<&'static str> {
        SYSCTLS.iter().find(|row| row.name == name).map(|row| row.value)
    }

    #[test]
    fn kubelet_finds_what_it_checks() {
        for (name, wanted) in [
            ("vm.overcommit_memory", "1"),
            ("vm.panic_on_oom", "0"),
            ("kernel.panic", "10"),
            ("kernel.panic_on_oops", "1"),
            ("kernel.keys.root_maxkeys", "1000000"),
            ("kernel.keys.root_maxbytes", "25000000"),
        ] {
            assert_eq!(value(name), Some(wanted), "{name}");
        }
    }

    #[test]
    fn every_setting_has_a_place_a_value_and_a_reason() {
        for row in SYSCTLS {
            assert!(super::super::path(Path::new("/proc/sys"), row.name).is_some(), "{}", row.name);
            assert!(!row.value.is_empty() && !row.reason.is_empty(), "{}", row.name);
        }
    }

    #[test]
    fn no_setting_is_listed_twice() {
        let names: BTreeSet<_> = SYSCTLS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), SYSCTLS.len());
    }
}
