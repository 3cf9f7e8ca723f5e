//! The files that boot, looked at from outside: what is in them, and what is not.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use keelson_vm::build::progress::Silent;
use keelson_vm::build::{self, Image, allowlist, contents, kernel};
use keelson_vm::project::Project;
use serde_json::Value;

/// Built once for all tests of this file; from the caches when it was built before.
#[expect(clippy::expect_used, reason = "without an image there is nothing to test")]
static BUILT: LazyLock<(Project, Image)> = LazyLock::new(|| {
    let project = Project::of_this_build();
    let image = project.image(&mut Silent).expect("the image builds");
    (project, image)
});

fn checkout() -> &'static Path {
    BUILT.0.checkout()
}

fn image() -> &'static Image {
    &BUILT.1
}

#[test]
fn kernel_keeps_every_line_of_every_fragment() {
    let fragments = kernel::fragments(checkout()).unwrap();
    assert!(fragments.len() > 1, "no fragments in kernel-config/");
    let wanted = kernel::merged(&fragments).unwrap();
    let built = fs::read_to_string(&image().kernel_config).unwrap();
    assert_eq!(kernel::lost_lines(&wanted, &built), Vec::<String>::new());
}

/// Options that the Kernel Self Protection Project recommends and this kernel has (its list of recommended settings, by those
/// names that Linux 6.12 knows), and those that it wants off. Where this kernel does otherwise, SECURITY.md says why.
#[test]
fn kernel_has_the_self_protection_that_is_asked_of_it() {
    let on = [
        "BPF_JIT_ALWAYS_ON",
        "BPF_UNPRIV_DEFAULT_OFF",
        "BUG_ON_DATA_CORRUPTION",
        "DEBUG_WX",
        "FORTIFY_SOURCE",
        "HARDENED_USERCOPY",
        "INIT_ON_ALLOC_DEFAULT_ON",
        "INIT_STACK_ALL_ZERO",
        "IOMMU_DEFAULT_DMA_STRICT",
        "KFENCE",
        "LEGACY_VSYSCALL_NONE",
        "LIST_HARDENED",
        "LOCK_DOWN_KERNEL_FORCE_INTEGRITY",
        "MITIGATION_PAGE_TABLE_ISOLATION",
        "PAGE_TABLE_CHECK_ENFORCED",
        "PROC_MEM_FORCE_PTRACE",
        "RANDOMIZE_BASE",
        "RANDOMIZE_KSTACK_OFFSET_DEFAULT",
        "RANDOMIZE_MEMORY",
        "RANDOM_KMALLOC_CACHES",
        "SCHED_STACK_END_CHECK",
        "SECCOMP_FILTER",
        "SECURITY_DMESG_RESTRICT",
        "SECURITY_LANDLOCK",
        "SECURITY_LOCKDOWN_LSM_EARLY",
        "SECURITY_YAMA",
        "SHUFFLE_PAGE_ALLOCATOR",
        "SLAB_BUCKETS",
        "SLAB_FREELIST_HARDENED",
        "SLAB_FREELIST_RANDOM",
        "STACKPROTECTOR_STRONG",
        "STATIC_USERMODEHELPER",
        "STRICT_KERNEL_RWX",
        "SYN_COOKIES",
        "UBSAN_BOUNDS",
        "UBSAN_TRAP",
        "VMAP_STACK",
        "X86_KERNEL_IBT",
        "ZERO_CALL_USED_REGS",
    ];
    let off = [
        "COMPAT_BRK",
        "DEBUG_FS",
        "DEVMEM",
        "DEVPORT",
        "HIBERNATION",
        "IA32_EMULATION",
        "KEXEC",
        "KEXEC_FILE",
        "LDISC_AUTOLOAD",
        "LEGACY_TIOCSTI",
        "MODULES",
        "PROC_KCORE",
        "SLAB_MERGE_DEFAULT",
        "X86_X32_ABI",
    ];
    let otherwise = [
        ("BINFMT_MISC", true),
        ("CFI_CLANG", false),
        ("DEBUG_NOTIFIERS", false),
        ("DEBUG_SG", false),
        ("DEBUG_VIRTUAL", false),
        ("EFI_DISABLE_PCI_DMA", false),
        ("GCC_PLUGINS", false),
        ("INET_DIAG", true),
        ("INIT_ON_FREE_DEFAULT_ON", false),
        ("INTEL_IOMMU_DEFAULT_ON", false),
        ("INTEL_IOMMU_SVM", false),
        ("MODIFY_LDT_SYSCALL", true),
        ("PANIC_ON_OOPS", false),
        ("RANDSTRUCT_FULL", false),
        ("RESET_ATTACK_MITIGATION", false),
    ];
    let built = fs::read_to_string(&image().kernel_config).unwrap();
    let is_on = |option: &&str| built.lines().any(|line| line == format!("CONFIG_{option}=y"));
    assert_eq!(on.iter().filter(|option| !is_on(option)).collect::<Vec<_>>(), Vec::<&&str>::new());
    assert_eq!(off.iter().filter(|option| is_on(option)).collect::<Vec<_>>(), Vec::<&&str>::new());
    let reasons = fs::read_to_string(checkout().join("SECURITY.md")).unwrap();
    for (option, expected) in otherwise {
        assert_eq!(is_on(&option), expected, "{option}");
        assert!(reasons.contains(&format!("`{option}`")), "SECURITY.md does not say why {option} is as it is");
    }
}

#[test]
fn root_holds_what_the_allowlist_names_and_nothing_else() {
    let list = fs::read_to_string(checkout().join("image/root.allow")).unwrap();
    let entries = allowlist::parse(&list).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("root");
    contents::unpack(image(), &tree).unwrap();
    assert_eq!(contents::differences(&entries, &tree).unwrap(), Vec::<String>::new());
}

#[test]
fn initramfs_is_the_root_with_its_hashes_and_then_the_first_stage() {
    let initramfs = fs::read(&image().initramfs).unwrap();
    let mut at = 0;
    for (name, path) in
        [("root.erofs", &image().root), ("root.hashes", &image().root_hashes), ("root.hash", &image().root_hash)]
    {
        let wanted = fs::read(path).unwrap();
        assert_eq!(&initramfs[at..at + 6], b"070701");
        assert_eq!(&initramfs[at + 110..at + 110 + name.len()], name.as_bytes());
        // A header of 110 bytes and the name with its NUL, filled up to four bytes, as the content is.
        at = (at + 110 + name.len() + 1).next_multiple_of(4);
        assert!(initramfs[at..at + wanted.len()] == wanted, "{name} in the initramfs is not the root's");
        at = (at + wanted.len()).next_multiple_of(4);
    }
    let rest = &initramfs[at..];
    let zstd = rest.windows(4).position(|window| window == [0x28, 0xb5, 0x2f, 0xfd]).expect("no second archive");
    assert_eq!((at + zstd) % 512, 0);
}

/// The figure that the README promises.
#[test]
fn image_weighs_less_than_150_mb() {
    let sizes = image().sizes;
    let weight = sizes.kernel + sizes.initramfs;
    assert!(weight < 150_000_000, "kernel and initramfs together have {weight} bytes");
}

/// What every program, library and module of the root is, by name, version and licence.
#[test]
fn bill_of_materials_has_a_version_and_a_licence_for_all_of_it() {
    let request = BUILT.0.request().unwrap();
    let path = build::bill_of_materials(&request, image(), &mut Silent).unwrap();
    let bill: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let packages = bill["packages"].as_array().unwrap();
    let names: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    for name in [
        "keelson-init",
        "openraft",
        "rust-std",
        "k8s.io/kubernetes",
        "github.com/containerd/containerd/v2",
        "github.com/opencontainers/runc",
        "github.com/coredns/coredns",
        "std",
        "libc6",
        "libseccomp-dev",
        "nftables",
        "e2fsprogs",
        "ca-certificates",
        "linux",
    ] {
        assert!(names.contains(&name), "{name} is not in the bill");
    }
    let blank: Vec<&Value> = packages
        .iter()
        .filter(|package| ["", "NOASSERTION"].contains(&package["licenseDeclared"].as_str().unwrap_or_default()))
        .chain(packages.iter().filter(|package| package["versionInfo"].as_str().unwrap_or_default().is_empty()))
        .map(|package| &package["name"])
        .collect();
    assert_eq!(blank, Vec::<&Value>::new());
}

#[test]
fn programs_name_no_path_of_the_machine_that_built_them() {
    let home = std::env::var("HOME").unwrap();
    let folders = [checkout().to_str().unwrap(), BUILT.0.target().to_str().unwrap(), home.as_str()];
    // Root's home is a word that programs may have for other reasons; its registry of crates is not.
    let traces: Vec<String> = folders
        .iter()
        .map(|folder| format!("{folder}/"))
        .filter(|folder| folder != "/root/")
        .chain([format!("{home}/.cargo")])
        .collect();
    for program in
        ["init", "keelson-exec", "keelson-network", "keelson-log", "keelson-store", "keelson-cluster", "keelson-proxy"]
    {
        let content = fs::read(image().root_tree.join("usr/bin").join(program)).unwrap();
        for trace in &traces {
            let found = content.windows(trace.len()).any(|window| window == trace.as_bytes());
            assert!(!found, "{program} has {trace} in it");
        }
    }
}
