"""The process of a session: started by an engine, it holds one slot for one job.

`python -m framefarm.node.runner`, with a Slot as JSON on standard input. See docs/node-protocol.md; the
session itself is session_loop.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from framefarm.node.server_client import ServerUnreachable, SessionOver
from framefarm.node.server_threads import SessionAborted
from framefarm.node.session_loop import SessionLoop, StopRequest
from framefarm.protocol import node as msg
from framefarm.sandboxing.safe_remove import remove_tree


def main() -> int:
    """Run the session. Exit status 1: it could not begin, since another runner holds it."""
    slot = msgspec.json.decode(sys.stdin.buffer.read(), type=msg.Slot)
    os.close(0)
    os.open(os.devnull, os.O_RDONLY)
    directory = Path(slot.directory)
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"another runner holds the session {slot.session}", file=sys.stderr)  # noqa: T201
        return 1
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    started = {"pid": os.getpid(), "boot_id": boot_id, "started_ns": time.time_ns()}
    (directory / "runner.json").write_bytes(msgspec.json.encode(started))
    session = SessionLoop(slot, boot_id)
    abort_on_thread_failure(session.inbox.put)
    signal.signal(signal.SIGTERM, lambda *_: session.inbox.put(StopRequest()))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        reason = session.run()
    except (SessionOver, ServerUnreachable) as error:
        reason = str(error)
    except Exception as error:
        reason = f"runner_failed: {error!r}"
        raise
    finally:
        with contextlib.suppress(OSError):  # the disk may be full; the folders are removed all the same
            (directory / "ended.json").write_bytes(msgspec.json.encode({"reason": reason}))
        for entry in directory.iterdir():
            if entry.name in {"inputs", "decoder"} or entry.name.startswith("work-"):
                remove_tree(entry)
    return 0


def abort_on_thread_failure(put: Callable[[object], None]) -> None:
    """From now on, a thread that raises puts SessionAborted into the inbox.

    Without its threads a runner would keep its tasks, and its lease, for ever.
    """

    def on_failure(failure: threading.ExceptHookArgs) -> None:
        threading.__excepthook__(failure)
        name = failure.thread.name if failure.thread else "a thread"
        put(SessionAborted(f"runner_failed: {name}: {failure.exc_value!r}"))

    threading.excepthook = on_failure


if __name__ == "__main__":
    sys.exit(main())
