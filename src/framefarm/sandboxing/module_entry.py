"""Start of every module that runs as a module call or module worker; imports little, to start fast."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
import threading
from typing import Any

_PR_SET_NO_NEW_PRIVS = 38


def begin() -> dict[str, Any]:
    """Give up this process's rights and return the request that `run_module` or the module worker wrote.

    Import everything needed before the call: without a sandbox around the process, it can open no further
    files afterwards.
    """
    with os.fdopen(int(sys.argv[1]), "rb") as stream:
        document = json.load(stream)
    threading.Thread(target=_exit_with_caller, args=[int(sys.argv[2])], daemon=True).start()
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(document["uid"], document["uid"], document["uid"])
        os.setresuid(document["uid"], document["uid"], document["uid"])
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # One second between the soft and the hard limit: a death by the soft one (SIGXCPU) differs from a crash.
    resource.setrlimit(resource.RLIMIT_CPU, (document["cpu_seconds"], document["cpu_seconds"] + 1))
    resource.setrlimit(resource.RLIMIT_AS, (document["memory_bytes"], document["memory_bytes"]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (document["file_bytes"], document["file_bytes"]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (document["open_files"], document["open_files"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    request: dict[str, Any] = document["order"]
    return request


def answer(line: str) -> None:
    """Write one line of the answer (`line` without its newline) to standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _exit_with_caller(life: int) -> None:
    """End this process when the caller's end of the pipe `life` is closed."""
    os.read(life, 1)
    os._exit(1)


if __name__ == "__main__":  # the module that `module_call.unready` runs
    begin()
    answer("ready")
    os._exit(0)
