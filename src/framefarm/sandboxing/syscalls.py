"""Filter of system calls (seccomp) for all processes in a sandbox.

The filter lists the calls that are refused and allows all others: Blender, Mesa and the libraries of a
scene's add-ons use most of the kernel's ordinary calls, and the set changes from version to version. It
refuses calls that make a namespace or a mount (where old kernel bugs were found), read other processes, use
the kernel's keys or its programmable parts, or allocate memory that the usage monitor can't see.
"""

from __future__ import annotations

import errno
import functools
import os

from framefarm.sandboxing.errors import SandboxUnavailable

REFUSED = (
    # namespaces and mounts
    "unshare", "setns", "mount", "umount", "umount2", "pivot_root", "chroot", "mount_setattr", "move_mount",
    "open_tree", "fsopen", "fsconfig", "fsmount", "fspick",
    # other processes
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "pidfd_getfd",
    # keys
    "keyctl", "add_key", "request_key",
    # the kernel's programmable and often broken parts
    "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register",
    "fanotify_init", "lookup_dcookie", "vmsplice",
    # files by their number instead of their path
    "open_by_handle_at", "name_to_handle_at",
    # the machine itself
    "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "create_module",
    "reboot", "swapon", "swapoff", "acct", "quotactl", "quotactl_fd", "syslog", "settimeofday",
    "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname", "iopl", "ioperm",
    "modify_ldt", "vhangup", "nfsservctl", "uselib", "ustat", "sysfs",
)  # fmt: skip
ABSENT = ("memfd_create", "memfd_secret", "shmget")
"""Calls for memory outside every process's address space, which the usage monitor can't see. They answer
ENOSYS as in a kernel without the call, for which programs have a fallback."""
OPEN_TREE_ATTR = 467
"""By number, since it is newer than the libseccomp of Debian 12; x86-64 and arm64 use the same number."""

_NEW_NAMESPACES = (
    0x00000080,  # CLONE_NEWTIME
    0x00020000,  # CLONE_NEWNS
    0x02000000,  # CLONE_NEWCGROUP
    0x04000000,  # CLONE_NEWUTS
    0x08000000,  # CLONE_NEWIPC
    0x10000000,  # CLONE_NEWUSER
    0x20000000,  # CLONE_NEWPID
    0x40000000,  # CLONE_NEWNET
)
_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C


@functools.cache
def program() -> bytes:
    """The filter for this machine's architecture, as an array of `struct sock_filter` (see seccomp(2)).

    A call made through another calling convention (32-bit) kills the process. Raises SandboxUnavailable
    without pyseccomp or libseccomp.
    """
    try:
        import pyseccomp as seccomp
    except ImportError:
        raise SandboxUnavailable("pyseccomp is missing: install framefarm[node].") from None
    except (RuntimeError, OSError):
        raise SandboxUnavailable("libseccomp is missing: install the Debian package libseccomp2.") from None
    rules = seccomp.SyscallFilter(seccomp.ALLOW)
    rules.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.KILL_PROCESS)
    refuse = seccomp.ERRNO(errno.EPERM)
    for name in (*REFUSED, *ABSENT):
        number = seccomp.resolve_syscall(seccomp.Arch.NATIVE, name)
        if number >= 0:  # negative: this architecture has no such call
            rules.add_rule(seccomp.ERRNO(errno.ENOSYS) if name in ABSENT else refuse, number)
    rules.add_rule(refuse, OPEN_TREE_ATTR)
    for flag in _NEW_NAMESPACES[1:]:  # the first flag exists in clone3 only
        rules.add_rule(refuse, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, flag, flag))
    # clone3 passes its flags in memory, which a filter can't read. Libraries fall back to clone.
    rules.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    for request in (_TIOCSTI, _TIOCLINUX):
        rules.add_rule(refuse, "ioctl", seccomp.Arg(1, seccomp.MASKED_EQ, 0xFFFFFFFF, request))
    # The network namespace isolates IP. Other families, such as a virtual machine's vsock, ignore namespaces.
    unknown = seccomp.ERRNO(errno.EAFNOSUPPORT)
    for family in range(_NETLINK):
        if family not in (_UNIX, _INET, _INET6):
            rules.add_rule(unknown, "socket", seccomp.Arg(0, seccomp.EQ, family))
    rules.add_rule(unknown, "socket", seccomp.Arg(0, seccomp.GT, _NETLINK))
    descriptor = os.memfd_create("filter")
    with os.fdopen(descriptor, "wb+") as stream:
        rules.export_bpf(stream)
        stream.seek(0)
        return stream.read()
