//! A system call filter for daemons (seccomp(2), `SECCOMP_SET_MODE_FILTER`): what no daemon has a use for is refused, so that whoever gets
//! hold of one finds less of the kernel to try.
//!
//! Refused with `EPERM`: [`REFUSED`], and clone(2) into new namespaces. clone3(2) is said not to exist (`ENOSYS`), since a filter cannot see
//! its flags; who uses it falls back to clone. socket(2) has the families in [`FAMILIES`]; others are said not to be supported. A call by
//! another architecture's table (32 bit, x32) ends the process, or does not exist.
//!
//! The filter is inherited by whatever is executed, and cannot be taken off. Calls that it allows whatever their arguments cost nothing: the
//! kernel keeps a bitmap of them (Linux 5.11).

use std::io;

use libc::{c_int, c_long, sock_filter, sock_fprog};

/// Mounts and roots, modules and other kernels, namespaces, other processes' memory, keys, and interfaces with a history of faults.
const REFUSED: [c_long; 43] = [
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_modify_ldt,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

/// What daemons speak by.
const FAMILIES: [c_int; 5] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET];

const NEW_NAMESPACES: c_int = libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWUTS;

/// linux/audit.h: `EM_X86_64`, 64 bit, little endian.
const ARCHITECTURE: u32 = 0xc000_003e;
/// Numbers from here on are those of x32.
const X32_BIT: u32 = 0x4000_0000;

/// Offsets in `struct seccomp_data`; the lower half of the first argument.
const NUMBER: u32 = 0;
const ARCHITECTURE_OF_CALL: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

/// Puts the filter on this process, for good.
///
/// # Errors
///
/// `EACCES` without `no_new_privs` or `CAP_SYS_ADMIN`, `EINVAL` from a kernel without `CONFIG_SECCOMP_FILTER`.
pub fn confine_daemon() -> io::Result<()> {
    let mut program = program();
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let filter = sock_fprog { len: length, filter: program.as_mut_ptr() };
    // SAFETY: `filter` points to `length` instructions, and both outlive the call, which copies them.
    // JUSTIFICATION: neither nix nor rustix has seccomp(2).
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, std::ptr::from_ref(&filter)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn program() -> Vec<sock_filter> {
    let mut program = vec![
        load(ARCHITECTURE_OF_CALL),
        skip_if_equal(ARCHITECTURE, 1),
        verdict(KILL),
        load(NUMBER),
        skip_unless_at_least(X32_BIT, 1),
        verdict(errno(libc::ENOSYS)),
    ];
    for call in REFUSED {
        program.extend([skip_unless_equal(number(call), 1), verdict(errno(libc::EPERM))]);
    }
    program.extend([skip_unless_equal(number(libc::SYS_clone3), 1), verdict(errno(libc::ENOSYS))]);
    program.extend([
        skip_unless_equal(number(libc::SYS_clone), 4),
        load(FIRST_ARGUMENT),
        skip_unless_any(NEW_NAMESPACES.cast_unsigned(), 1),
        verdict(errno(libc::EPERM)),
        verdict(ALLOW),
    ]);
    program.push(skip_unless_equal(number(libc::SYS_socket), 2 + 2 * FAMILIES.len()));
    program.push(load(FIRST_ARGUMENT));
    for family in FAMILIES {
        program.extend([skip_unless_equal(family.cast_unsigned(), 1), verdict(ALLOW)]);
    }
    program.push(verdict(errno(libc::EAFNOSUPPORT)));
    program.push(verdict(ALLOW));
    program
}

/// All of them are small.
fn number(call: c_long) -> u32 {
    u32::try_from(call).unwrap_or(u32::MAX)
}

fn errno(error: c_int) -> u32 {
    libc::SECCOMP_RET_ERRNO | error.cast_unsigned()
}

/// The classic BPF of linux/filter.h: a load of a word, comparisons with a constant that skip instructions, a return.
fn load(offset: u32) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset)
}

fn verdict(value: u32) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, value)
}

fn skip_if_equal(value: u32, count: usize) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, count, 0, value)
}

fn skip_unless_equal(value: u32, count: usize) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, count, value)
}

fn skip_unless_at_least(value: u32, count: usize) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, count, value)
}

fn skip_unless_any(bits: u32, count: usize) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, count, bits)
}

/// Codes and jumps are those above: they fit.
fn instruction(code: u32, if_true: usize, if_false: usize, value: u32) -> sock_filter {
    sock_filter {
        code: u16::try_from(code).unwrap_or_default(),
        jt: u8::try_from(if_true).unwrap_or(u8::MAX),
        jf: u8::try_from(if_false).unwrap_or(u8::MAX),
        k: value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: u32 = libc::BPF_JMP | libc::BPF_K;

    /// What the kernel would do, by an interpreter of the instructions that are used.
    fn judge(architecture: u32, call: c_long, argument: u32) -> u32 {
        let program = program();
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            let code = u32::from(code);
            at += 1;
            let holds = match code {
                _ if code == libc::BPF_RET | libc::BPF_K => return k,
                _ if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    accumulator = match k {
                        NUMBER => number(call),
                        ARCHITECTURE_OF_CALL => architecture,
                        FIRST_ARGUMENT => argument,
                        _ => panic!("no such field: {k}"),
                    };
                    continue;
                }
                _ if code == PLAIN | libc::BPF_JEQ => accumulator == k,
                _ if code == PLAIN | libc::BPF_JGE => accumulator >= k,
                _ if code == PLAIN | libc::BPF_JSET => accumulator & k != 0,
                _ => panic!("no such instruction: {code}"),
            };
            at += usize::from(if holds { jt } else { jf });
        }
    }

    #[test]
    fn daemons_do_their_work_and_nothing_else() {
        let of = |call, argument: c_int| judge(ARCHITECTURE, call, argument.cast_unsigned());
        for call in [libc::SYS_read, libc::SYS_fdatasync, libc::SYS_execve, libc::SYS_epoll_wait, libc::SYS_accept4] {
            assert_eq!(of(call, 0), ALLOW);
        }
        for call in REFUSED {
            assert_eq!(of(call, 0), errno(libc::EPERM), "{call}");
        }
        for family in FAMILIES {
            assert_eq!(of(libc::SYS_socket, family), ALLOW);
        }
        for family in [libc::AF_ALG, libc::AF_VSOCK, libc::AF_BLUETOOTH, libc::AF_KEY, -1] {
            assert_eq!(of(libc::SYS_socket, family), errno(libc::EAFNOSUPPORT));
        }
        assert_eq!(of(libc::SYS_clone, libc::CLONE_VM | libc::CLONE_THREAD), ALLOW);
        assert_eq!(of(libc::SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD), errno(libc::EPERM));
        assert_eq!(of(libc::SYS_clone3, 0), errno(libc::ENOSYS));
    }

    #[test]
    fn tables_of_other_architectures_are_of_no_use() {
        const I386: u32 = 0x4000_0003;
        assert_eq!(judge(I386, libc::SYS_read, 0), KILL);
        assert_eq!(judge(ARCHITECTURE, c_long::from(X32_BIT), 0), errno(libc::ENOSYS));
    }
}
