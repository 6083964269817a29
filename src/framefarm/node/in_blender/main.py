"""The program in the sandbox: opens scenes and renders frames as the runner requests.

Started as `python main.py -- --pipe N` or `blender -b --python main.py -- --pipe N`. The messages over the
socket N are described in `node/blender_protocol.py`. `--watch N`: another socket, see `lookups.py`.
"""

import contextlib
import ctypes
import faulthandler
import json
import os
import socket
import sys
import time

OPENING_MARK = "framefarm: the scene is opened"
OPENED_MARK = "framefarm: the scene is open"


class Pipe:
    """The connection to the runner."""

    def __init__(self, descriptor):
        self._socket = socket.socket(fileno=descriptor)
        os.set_inheritable(descriptor, False)
        self._lines = self._socket.makefile("rb")
        self._progress_at = 0.0

    def requests(self):
        for line in self._lines:
            yield json.loads(line)

    def send(self, **reply):
        self._socket.sendall(json.dumps(reply).encode() + b"\n")

    def phase(self, phase):
        self.send(**{"is": "phase", "phase": phase})

    def progress(self, frame, fraction):
        """Report the finished part of the frame, at most once a second."""
        now = time.monotonic()
        if now - self._progress_at >= 1.0:
            self._progress_at = now
            self.send(**{"is": "progress", "frame": frame, "fraction": fraction})


def serve(pipe, watched):
    """Answer the runner's requests until `close`, the connection's end, or the first failure.

    `watched`: the descriptor over which lookups are offered to the runner's watcher; None: they are not."""
    from in_blender import frame as frames
    from in_blender import lookups
    from in_blender import scene as scenes

    if watched is not None:
        lookups.offer(watched)
    pipe.send(**{"is": "ready"})
    opened = None
    for request in pipe.requests():
        frame = request.get("frame")
        try:
            if request["do"] == "open":
                mark(OPENING_MARK)
                opened = _open(request, pipe)
                mark(OPENED_MARK)
                lookups.mark()
                pipe.send(
                    **{
                        "is": "opened",
                        "blender": scenes.version(),
                        "notes": opened.warnings,
                        "users": opened.users,
                    }
                )
            elif request["do"] == "render":
                if opened is not None and opened.history.must_reopen(frame):
                    pipe.progress(frame, 0.0)
                    opened = _open(opened.request, pipe)
                    lookups.forget()  # before it corrects the paths, Blender looks for those in the file
                result = frames.render(opened, request, pipe.progress)
                lookups.mark()
                pipe.send(**{"is": "saved", "frame": frame, **result})
            else:
                return
        except Exception as error:
            pipe.send(**{"is": "failed", "frame": frame, **_failed_reply(error, frame)})
            return


def _open(request, pipe):
    """Open the scene; returns an OpenedScene."""
    from in_blender import phases
    from in_blender import scene as scenes

    opened = scenes.open_scene(request)
    phases.follow(pipe.phase)
    return opened


def mark(line):
    """Print a line that node/blender_log.py knows, after all that Blender has printed so far."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).fflush(None)  # Blender prints through a buffer of its own
    print(line, flush=True)  # noqa: T201


def _failed_reply(error, frame):
    from in_blender.failure import Failure

    if isinstance(error, Failure):
        return {"cause": error.cause, "facts": error.facts}
    where = "" if frame is None else f" in frame {frame}"
    if isinstance(error, MemoryError):
        return {"cause": "out_of_memory", "facts": {"where": where}}
    what = " ".join(str(error).split())[:1500] or type(error).__name__
    return {"cause": "render_failed", "facts": {"where": where, "what": what}}


def exit_now():
    """Exit without Blender's own clean-up, which crashes or hangs once handlers were registered."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)


def main():
    faulthandler.enable(sys.__stderr__, all_threads=False)  # read by node/crash_traces.py
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    pipe = Pipe(int(sys.argv[sys.argv.index("--pipe") + 1]))
    watched = int(sys.argv[sys.argv.index("--watch") + 1]) if "--watch" in sys.argv else None
    try:
        serve(pipe, watched)
    except BrokenPipeError:
        pass
    except Exception as error:
        with contextlib.suppress(OSError):
            facts = {"what": f"{type(error).__name__}: {str(error)[:1500]}"}
            pipe.send(**{"is": "failed", "cause": "blender_broken", "facts": facts, "frame": None})
    exit_now()


if __name__ == "__main__":
    main()
