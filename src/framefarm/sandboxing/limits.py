"""How much one sandbox may use."""

from __future__ import annotations

import os
from dataclasses import dataclass

GiB = 1 << 30
KILLED_FOR_MEMORY = "out_of_memory"
KILLED_FOR_DISK = "too_much_written"


@dataclass(frozen=True)
class Quota:
    """A folder of this machine, and what may lie in it (bytes on disk; files and folders together)."""

    path: str
    bytes: int
    files: int
    name: str
    """What the artist calls it: `its /tmp`."""
    depth: int = 64


@dataclass(frozen=True)
class Limits:
    """Bounds of one sandbox; None: none.

    `memory_bytes` and `quotas` hold for the whole tree and are watched; a tree beyond them is killed.
    `processes` counts threads too, and holds for all of the sandbox's user.
    """

    memory_bytes: int | None = None
    processes: int = 1024
    open_files: int = 16384
    file_bytes: int = 256 * GiB
    """Of each single file."""
    cpu_seconds: int | None = None
    """Of each single process."""
    address_bytes: int | None = None
    quotas: tuple[Quota, ...] = ()

    @classmethod
    def of_blender(cls, cores: int, memory_bytes: int | None, tmp: str, output: str) -> Limits:
        """Blender and its libraries start a few threads per core and for each of their pools."""
        quotas = (Quota(tmp, 32 * GiB, 100_000, "its /tmp"), Quota(output, 256 * GiB, 20_000, "its outputs"))
        return cls(memory_bytes=memory_bytes, processes=512 + 32 * cores, quotas=quotas)

    def command(self, own_user: bool) -> list[str]:
        """The program that sets what the kernel itself watches, before what is to be limited.

        Args:
            own_user: the limited processes are the only ones of their user (in their user namespace).
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
    """What `out_of_memory` tells of a tree that passed its limit."""
    used, has = max(peak_bytes, limit_bytes) / GiB, limit_bytes / GiB
    return {"memory": f": Blender used {used:.1f} GiB, and this machine has {has:.1f} GiB for it"}


def disk_facts(quota: Quota) -> dict[str, str]:
    """What `too_much_written` tells of a folder that passed its quota."""
    limit = f"{quota.bytes / GiB:.1f} GiB, {quota.files} files and {quota.depth} nested folders"
    return {"name": quota.name, "limit": limit}


def is_root() -> bool:
    return os.geteuid() == 0
