"""The system calls that nothing inside a sandbox may use, as a filter for the kernel (seccomp).

A list of what is refused, not of what is allowed: Blender, Mesa and the libraries of a scene's add-ons use
most of the kernel's plain calls, and their set changes from version to version. Refused is what makes a new
namespace or mount (where old kernel bugs live), what looks into other processes, the kernel's keys, its
programmable parts, and memory that the watcher can't see.
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
"""Memory that belongs to no process's address space, and so escapes the watcher. Answered as by a kernel
that has none: programs know what to do then."""
OPEN_TREE_ATTR = 467
"""Younger than the libseccomp of Debian 12; the number is the same on every 64-bit machine."""

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
    """The filter as the kernel's bytes (an array of `struct sock_filter`), for this machine's processor.

    A call made through another calling convention (32-bit) ends the process. Raises SandboxUnavailable.
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
        if number >= 0:  # negative: this processor has none of that name
            rules.add_rule(seccomp.ERRNO(errno.ENOSYS) if name in ABSENT else refuse, number)
    rules.add_rule(refuse, OPEN_TREE_ATTR)
    for flag in _NEW_NAMESPACES[1:]:  # the first is one of clone3's alone
        rules.add_rule(refuse, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, flag, flag))
    # Its flags lie in memory, where a filter can't look. Libraries fall back to clone.
    rules.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    for request in (_TIOCSTI, _TIOCLINUX):
        rules.add_rule(refuse, "ioctl", seccomp.Arg(1, seccomp.MASKED_EQ, 0xFFFFFFFF, request))
    # A network namespace holds back IP; a virtual machine's vsock, and others, know of no namespace.
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
