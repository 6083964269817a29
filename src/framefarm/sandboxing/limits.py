"""Limits of one sandbox: memory, processes, files, processor time, disk."""

from __future__ import annotations

import os
from dataclasses import dataclass

GiB = 1 << 30
KILLED_FOR_MEMORY = "out_of_memory"
KILLED_FOR_DISK = "too_much_written"


@dataclass(frozen=True)
class Quota:
    """Limits of one folder of this machine, links not followed."""

    path: str
    bytes: int
    """Bytes occupied on disk; the holes of a sparse file do not count."""
    files: int
    """Files and folders together."""
    name: str
    """The folder's name in texts for artists, such as `its /tmp`."""
    depth: int = 64
    """Levels of nested folders."""


@dataclass(frozen=True)
class Limits:
    """Limits of one sandbox; None means no limit.

    `memory_bytes` and `quotas` apply to the whole process tree: `UsageMonitor` kills a tree beyond them. The
    others are set in the kernel by `prlimit`.
    """

    memory_bytes: int | None = None
    processes: int = 1024
    """Processes and threads of the sandbox's user."""
    open_files: int = 16384
    """Open files of each process."""
    file_bytes: int = 256 * GiB
    """Length of each file."""
    cpu_seconds: int | None = None
    """Processor time of each process."""
    address_bytes: int | None = None
    """Address space of each process."""
    quotas: tuple[Quota, ...] = ()

    @classmethod
    def of_blender(cls, cores: int, memory_bytes: int | None, tmp: str, output: str) -> Limits:
        """Limits for Blender on `cores` cores, with quotas for the folders `tmp` and `output`."""
        # Blender and its libraries start a few threads per core and a few for each of their pools.
        quotas = (Quota(tmp, 32 * GiB, 100_000, "its /tmp"), Quota(output, 256 * GiB, 20_000, "its outputs"))
        return cls(memory_bytes=memory_bytes, processes=512 + 32 * cores, quotas=quotas)

    def command(self, own_user: bool) -> list[str]:
        """The `prlimit` command line that sets the kernel's limits, without the program to run.

        Args:
            own_user: whether the limited processes are the only ones of their user (in their user namespace).
        """
        words = ["prlimit", "--core=0", f"--nofile={self.open_files}", f"--fsize={self.file_bytes}"]
        if own_user:
            words.append(f"--nproc={self.processes}")
        if self.cpu_seconds is not None:
            words.append(f"--cpu={self.cpu_seconds}:{self.cpu_seconds + 1}")
        if self.address_bytes is not None:
            words.append(f"--as={self.address_bytes}")
        return words


def memory_facts(peak_bytes: int, limit_bytes: int) -> dict[str, str]:
    """Facts for the failure code `out_of_memory` of a process tree that exceeded its limit."""
    used_gib, limit_gib = max(peak_bytes, limit_bytes) / GiB, limit_bytes / GiB
    return {"memory": f": Blender used {used_gib:.1f} GiB, and this machine has {limit_gib:.1f} GiB for it"}


def disk_facts(quota: Quota) -> dict[str, str]:
    """Facts for the failure code `too_much_written` of a folder that exceeded its quota."""
    limit = f"{quota.bytes / GiB:.1f} GiB, {quota.files} files and {quota.depth} nested folders"
    return {"name": quota.name, "limit": limit}


def is_root() -> bool:
    return os.geteuid() == 0
