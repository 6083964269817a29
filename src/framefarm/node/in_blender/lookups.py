"""Let the runner's watcher see which files this process looks for."""

import ctypes
import os
import platform
import socket

SECCOMP = {"x86_64": 317, "aarch64": 277}
"""Number of the call seccomp(2)."""
MARK = "/run/framefarm/lookups-so-far"
FORGET = "/run/framefarm/lookups-forgotten"
"""The same paths as in sandboxing/lookup_watch.py."""
SET_MODE_FILTER = 1
ALL_THREADS, NEW_LISTENER, ALL_THREADS_OR_ESRCH = 1, 8, 16
NO_NEW_PRIVILEGES = 38
SECONDS = 20
"""How long the watcher may take to start."""


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def offer(descriptor):
    """Install the filter that comes through the socket, and give its listener to the other side.

    Call it before any foreign code runs. Where the kernel refuses, the other side gets the reason, and this
    process goes on without.
    """
    with socket.socket(fileno=descriptor) as watcher:
        watcher.settimeout(SECONDS)
        try:
            code = watcher.recv(4096)
            if not code:
                return
            listener = _install(code)
        except OSError as error:
            with_reason = (error.strerror or str(error))[:100]
            watcher.send(with_reason.encode("ascii", "replace"))
            return
        try:
            socket.send_fds(watcher, [b"+"], [listener])
        finally:
            os.close(listener)


def mark():
    """Tell the watcher that all lookups so far belong to what is reported next."""
    os.access(MARK, os.F_OK)


def forget():
    """Tell the watcher that the lookups since the last mark are not to be reported."""
    os.access(FORGET, os.F_OK)


def _install(code):
    """The listener's descriptor. Raises OSError."""
    number = SECCOMP.get(platform.machine())
    if number is None:
        raise OSError(38, "not on this architecture")
    library = ctypes.CDLL(None, use_errno=True)
    instructions = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(instructions))
    flags = ALL_THREADS | NEW_LISTENER | ALL_THREADS_OR_ESRCH
    library.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    listener = library.syscall(number, SET_MODE_FILTER, flags, ctypes.byref(program))
    if listener < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return listener
