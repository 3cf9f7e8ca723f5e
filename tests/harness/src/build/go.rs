//! The Go programs: one module a folder of image/, whose go.sum pins all that goes into it.
//!
//! All are static and stripped, without build ids and paths of the machine that built them. `-buildvcs=false`, since a
//! commit that touches nothing of a program must not change its bytes.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::cache::Cache;
use super::digest::Inputs;
use super::error::BuildError;
use super::progress::Outcome;
use super::step::Step;

/// A module, and the programs that are built from it.
#[derive(Debug)]
pub(crate) struct Module {
    /// The cache's and the steps' name for it.
    pub(crate) name: &'static str,
    /// Its folder in the checkout.
    pub(crate) folder: &'static str,
    /// Symbols set by the linker (`-X`).
    symbols: &'static [&'static str],
    /// Whether C code is compiled in.
    cgo: bool,
    programs: &'static [Program],
}

#[derive(Debug)]
struct Program {
    output: &'static str,
    package: &'static str,
    tags: &'static str,
}

const fn program(output: &'static str, package: &'static str, tags: &'static str) -> Program {
    Program { output, package, tags }
}

/// In the order in which they are built: what a boot needs first.
pub(crate) const MODULES: &[Module] = &[
    Module {
        name: "containerd",
        folder: "image/containerd",
        symbols: &[
            "github.com/containerd/containerd/v2/version.Version=v2.4.2",
            "github.com/containerd/containerd/v2/version.Revision=",
        ],
        cgo: false,
        programs: &[
            // Without the snapshotters that need file systems the kernel does not have, and without OpenTelemetry.
            program(
                "containerd",
                "github.com/containerd/containerd/v2/cmd/containerd",
                "urfave_cli_no_docs osusergo netgo static_build no_btrfs no_zfs no_devmapper no_tracing",
            ),
            // The shim speaks ttrpc; gRPC would be resident once for each pod.
            program(
                "containerd-shim-runc-v2",
                "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
                "urfave_cli_no_docs osusergo netgo static_build no_grpc",
            ),
        ],
    },
    Module {
        name: "runc",
        folder: "image/runc",
        symbols: &[],
        // libseccomp compiles the filters, and the first stage of `runc init` is C.
        cgo: true,
        programs: &[program("runc", "github.com/opencontainers/runc", "seccomp urfave_cli_no_docs netgo osusergo")],
    },
    Module {
        name: "cni",
        folder: "image/cni",
        symbols: &[],
        cgo: false,
        programs: &[
            program("bridge", "github.com/containernetworking/plugins/plugins/main/bridge", ""),
            program("loopback", "github.com/containernetworking/plugins/plugins/main/loopback", ""),
            program("host-local", "github.com/containernetworking/plugins/plugins/ipam/host-local", ""),
            program("portmap", "github.com/containernetworking/plugins/plugins/meta/portmap", ""),
        ],
    },
    Module {
        name: "coredns",
        folder: "image/coredns",
        symbols: &[],
        cgo: false,
        programs: &[program("coredns", ".", "")],
    },
    Module {
        name: "kubernetes",
        folder: "image/kubernetes",
        symbols: &[
            "k8s.io/component-base/version.gitVersion=v1.37.2",
            "k8s.io/component-base/version.gitMajor=1",
            "k8s.io/component-base/version.gitMinor=37",
            "k8s.io/component-base/version.gitTreeState=clean",
            "k8s.io/component-base/version.buildDate=2026-01-01T00:00:00Z",
        ],
        cgo: false,
        programs: &[program("kubernetes", ".", ""), program("kubectl", "./kubectl", "")],
    },
    Module {
        name: "etcd",
        folder: "image/etcd",
        symbols: &[],
        cgo: false,
        programs: &[
            program("etcd", "go.etcd.io/etcd/server/v3", ""),
            program("etcdctl", "go.etcd.io/etcd/etcdctl/v3", ""),
        ],
    },
    Module {
        name: "workload",
        folder: "tests/workload",
        symbols: &[],
        cgo: false,
        programs: &[program("workload", ".", "")],
    },
];

/// Builds a module's programs, or finds them in the cache; returns the folder that holds them.
pub(crate) fn build(
    module: &Module,
    checkout: &Path,
    cache: &Cache,
    step: &mut Step<'_>,
) -> Result<(PathBuf, Outcome), BuildError> {
    let folder = checkout.join(module.folder);
    // Asked in the module's folder: its go.mod may select another toolchain than the installed one.
    let version = step.output(Command::new("go").args(["env", "GOVERSION"]).current_dir(&folder))?;
    let rules = format!("{module:?}");
    let inputs = Inputs::new("go", 1).text("toolchain", &version).text("rules", &rules).tree("module", &folder)?;
    let inputs = if module.cgo { inputs.text("c", &c_toolchain(step)?) } else { inputs };

    cache.result(module.name, &inputs.finish(), |place| {
        module
            .programs
            .iter()
            .try_for_each(|program| step.run(&mut compile(module, program, &folder, &place.join(program.output))))
    })
}

fn compile(module: &Module, program: &Program, folder: &Path, output: &Path) -> Command {
    let mut flags = String::from("-s -w -buildid=");
    for symbol in module.symbols {
        flags.push_str(" -X ");
        flags.push_str(symbol);
    }
    if module.cgo {
        flags.push_str(" -extldflags -static");
    }
    let mut go = Command::new("go");
    go.arg("build").args(["-tags", program.tags, "-ldflags", &flags]).arg("-o").arg(output).arg(program.package);
    go.current_dir(folder)
        .env("CGO_ENABLED", if module.cgo { "1" } else { "0" })
        .env("GOFLAGS", "-mod=readonly -trimpath -buildvcs=false")
        .env("GOOS", "linux")
        .env("GOARCH", "amd64")
        .env("GOAMD64", "v1");
    go
}

/// What a cgo program is made of beside its module.
fn c_toolchain(step: &mut Step<'_>) -> Result<String, BuildError> {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat=${Package} ${Version}\n", "gcc", "libc6-dev", "libseccomp-dev"]);
    step.output(&mut query)
}
