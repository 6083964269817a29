"""Attacks of a hostile program from inside a real sandbox, and their results."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from framefarm.sandboxing.bubblewrap import Bind, Process, Sandbox
from framefarm.sandboxing.limits import Limits, Quota
from framefarm.sandboxing.uids import UidClaim
from framefarm.sandboxing.usage_monitor import descendants, within_quota

PYTHON = "/usr/bin/python3.11"
CORES = tuple(sorted(os.sched_getaffinity(0)))
MiB = 1 << 20


@pytest.fixture
def claim() -> Iterator[UidClaim]:
    with UidClaim(71300) as claim:
        yield claim


def start(
    claim: UidClaim, code: str, *, tmp: Path | None = None, binds: Sequence[Bind] = (), **limits: object
) -> Process:
    sandbox = Sandbox("bubblewrap", claim.uid, CORES, tuple(binds), tmp, Limits(**limits))  # type: ignore[arg-type]
    return sandbox.start([PYTHON, "-I", "-S", "-c", code], {"SECRET": "variable-of-the-job"})


def output_of(process: Process) -> str:
    """Everything that the process prints until its end; closes the process."""
    try:
        text = b"".join(iter(lambda: os.read(process.output, 65536), b"")).decode()
        process.wait(60)
        return text
    finally:
        process.kill()
        process.close()


def run_inside(claim: UidClaim, code: str, **options: object) -> str:
    return output_of(start(claim, code, **options))  # type: ignore[arg-type]


def wait_until(condition, what: str, seconds: float = 20):  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.005)
    return value


# ---------------------------------------------------------------------------------- its rights


def test_no_capability_no_group_no_new_privilege_and_a_filter(claim: UidClaim) -> None:
    status = run_inside(claim, "print(open('/proc/self/status').read())")
    lines = dict(line.split(":\t", 1) for line in status.strip().splitlines() if ":\t" in line)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(lines[name], 16) == 0, name
    assert (lines["NoNewPrivs"], lines["Seccomp"]) == ("1", "2")
    assert lines["Groups"].strip() == ("" if os.geteuid() == 0 else lines["Groups"].strip())


def test_its_user_seen_from_outside_is_the_claimed_one(claim: UidClaim) -> None:
    process = start(claim, "print(1, flush=True); import time; time.sleep(60)")
    os.read(process.output, 1)
    inner = descendants(process.pid)[0]
    try:
        assert Path(f"/proc/{inner}").stat().st_uid == claim.uid
    finally:
        process.kill()
        process.close()
    assert not Path(f"/proc/{inner}").exists()


def test_two_sandboxes_have_two_users() -> None:
    if os.geteuid() != 0:
        assert UidClaim().uid == os.geteuid()
        return
    with UidClaim(71300) as first, UidClaim(71300) as second:
        assert first.uid != second.uid
    with UidClaim(71300) as third:
        assert third.uid == first.uid, "a released user id is claimed again"


# ------------------------------------------------------------------------------- what it sees


def test_there_is_no_network_not_even_the_machines_own(claim: UidClaim) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind("\0framefarm-test-abstract")
        local.listen()
        code = f"""
import socket
for family, address in ((2, ('127.0.0.1', {server.getsockname()[1]})), (2, ('1.1.1.1', 53)),
                        (10, ('::1', 9)), (1, '\\0framefarm-test-abstract')):
    s = socket.socket(family)
    try: s.connect(address); print('connected', address)
    except OSError as e: print('no')
for family in (3, 9, 17, 38, 40):
    try: socket.socket(family, socket.SOCK_RAW if family == 17 else socket.SOCK_STREAM); print('made', family)
    except OSError as e: print('no')
print(socket.if_nameindex())
"""
        lines = run_inside(claim, code).splitlines()
    assert lines[:9] == ["no"] * 9
    assert lines[9] in ("[(1, 'lo')]", "[]")


def test_nothing_of_the_machine_is_there(claim: UidClaim, tmp_path: Path) -> None:
    """Neither root's secrets nor another job's inputs, the session's folder or other processes."""
    secret = tmp_path / "slot.json"
    secret.write_text("the session's token")
    secret.chmod(0o644)
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    (inputs / "mine").write_text("mine")
    (inputs / "roots").write_text("secret")
    (inputs / "roots").chmod(0o600)
    code = f"""
import os
for path in ({str(secret)!r}, '/etc/shadow', '/root', '/home', '/var', '/sys/kernel', '/dev/mem',
             '/dev/kmsg', '/dev/vda', '/proc/1/environ', '/proc/1/root/etc/shadow', '/run/framefarm/uids',
             '/inputs/roots'):
    try: print('found', path, open(path).read(1) if not os.path.isdir(path) else os.listdir(path))
    except OSError: pass
print(open('/inputs/mine').read(), len([p for p in os.listdir('/proc') if p.isdigit()]))
"""
    found = run_inside(claim, code, binds=[Bind(str(inputs), "/inputs")])
    assert found.splitlines()[-1] == "mine 2", "only bubblewrap's first process and this one"
    if os.geteuid() == 0:
        assert len(found.splitlines()) == 1, found


def test_the_system_is_not_writable(claim: UidClaim) -> None:
    code = """
import os
for path in ('/x', '/usr/x', '/etc/x', '/dev/x', '/dev/shm/../x', '/proc/sys/kernel/core_pattern', '/run/x'):
    try: open(path, 'w'); print('wrote', path)
    except OSError: pass
try: os.mknod('/tmp/disk', 0o60600, os.makedev(254, 0)); print('made a device')
except OSError: pass
"""
    assert run_inside(claim, code) == ""


# --------------------------------------------------------------------------- what it may call

CALLS = {
    "unshare(CLONE_NEWUSER)": (272, "0x10000000", 1),
    "clone(CLONE_NEWUSER)": (56, "0x10000011, 0, 0, 0, 0", 1),
    "clone(CLONE_NEWNET)": (56, "0x40000011, 0, 0, 0, 0", 1),
    "clone3": (435, "0, 0", 38),
    "setns": (308, "0, 0", 1),
    "mount": (165, "0, 0, 0, 0, 0", 1),
    "umount2": (166, "0, 0", 1),
    "pivot_root": (155, "0, 0", 1),
    "open_tree": (428, "-100, 0, 0", 1),
    "fsopen": (430, "0, 0", 1),
    "move_mount": (429, "0, 0, 0, 0, 0", 1),
    "mount_setattr": (442, "0, 0, 0, 0, 0", 1),
    "open_tree_attr": (467, "0, 0, 0, 0, 0", 1),
    "ptrace(PTRACE_TRACEME)": (101, "0, 0, 0, 0", 1),
    "process_vm_readv": (310, "1, 0, 0, 0, 0, 0", 1),
    "keyctl": (250, "0, 0, 0", 1),
    "add_key": (248, "0, 0, 0, 0, 0", 1),
    "request_key": (249, "0, 0, 0, 0", 1),
    "bpf": (321, "0, 0, 0", 1),
    "perf_event_open": (298, "0, 0, 0, 0, 0", 1),
    "userfaultfd": (323, "1", 1),
    "io_uring_setup": (425, "1, 0", 1),
    "kexec_load": (246, "0, 0, 0, 0", 1),
    "init_module": (175, "0, 0, 0", 1),
    "finit_module": (313, "0, 0, 0", 1),
    "open_by_handle_at": (304, "0, 0, 0", 1),
    "ioctl(TIOCSTI)": (16, "0, 0x5412, 0", 1),
    "memfd_create": (319, "0, 0", 38),
    "shmget": (29, "0, 4096, 0o1600", 38),
}
"""Name → (number on x86-64, arguments, expected errno: 1 EPERM, 38 ENOSYS)."""


def test_dangerous_calls_are_refused_and_plain_ones_are_not(claim: UidClaim) -> None:
    assert os.uname().machine == "x86_64", "CALLS holds the numbers of x86-64 only"
    code = f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for name, (number, words, _) in {CALLS!r}.items():
    ctypes.set_errno(0)
    values = [ctypes.c_long(v) for v in eval('(' + words + ',)')]
    print(name, libc.syscall(ctypes.c_long(number), *values), ctypes.get_errno(), flush=True)
import os, threading, subprocess
t = threading.Thread(target=print, args=('a thread',)); t.start(); t.join()
print(subprocess.run(['/bin/echo', 'a child'], capture_output=True, text=True).stdout.strip())
"""
    lines = run_inside(claim, code).splitlines()
    assert lines[: len(CALLS)] == [f"{name} -1 {error}" for name, (_, _, error) in CALLS.items()]
    assert lines[len(CALLS) :] == ["a thread", "a child"]


def test_the_other_calling_convention_ends_the_program(claim: UidClaim) -> None:
    """`int 0x80` uses 32-bit call numbers, which no rule of the filter matches."""
    assert os.uname().machine == "x86_64"
    code = """
import ctypes, mmap
memory = mmap.mmap(-1, 4096, prot=7)
memory.write(bytes.fromhex('b814000000cd80c3'))  # mov eax, getpid; int 0x80; ret
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))(), flush=True)
"""
    process = start(claim, code)
    assert process.wait(20) < 0
    assert output_of(process) == ""


# ------------------------------------------------------------------------- how much it may use


def test_the_limits_are_set_and_cannot_be_raised(claim: UidClaim) -> None:
    code = """
import resource as r
for n in (r.RLIMIT_CORE, r.RLIMIT_NOFILE, r.RLIMIT_NPROC, r.RLIMIT_FSIZE):
    print(r.getrlimit(n))
    try: r.setrlimit(n, (-1, -1)); print('raised')
    except (ValueError, OSError): pass
"""
    lines = run_inside(claim, code, processes=77, open_files=99, file_bytes=MiB).splitlines()
    assert lines == ["(0, 0)", "(99, 99)", "(77, 77)", f"({MiB}, {MiB})"]


def test_a_file_longer_than_the_limit_is_not_written(claim: UidClaim, tmp_path: Path) -> None:
    os.chown(tmp_path, claim.uid, claim.uid)
    code = "open('/tmp/x', 'wb').truncate(1 << 40)"
    process = start(claim, code, tmp=tmp_path, file_bytes=MiB)
    assert process.wait(20) != 0
    output_of(process)
    assert (tmp_path / "x").stat().st_size == 0


BOMB = """
import os, time
print('begun', flush=True)
while True:
    try:
        if os.fork() == 0: pass
    except OSError: time.sleep(0.01)
"""


def test_a_fork_bomb_hits_its_own_limit_and_its_neighbour_works_on(claim: UidClaim) -> None:
    bomb = start(claim, BOMB, processes=60)
    try:
        os.read(bomb.output, 1)
        wait_until(lambda: len(descendants(bomb.pid)) > 40, "the bomb starts processes")
        with UidClaim(71300) as other:
            code = "import os\nfor n in range(30):\n  if os.fork() == 0: os._exit(0)\nprint('fine')"
            assert run_inside(other, code, processes=60) == "fine\n"
        assert len(descendants(bomb.pid)) < 80
        tree = descendants(bomb.pid)
    finally:
        bomb.kill()
        bomb.close()
    assert not [p for p in tree if Path(f"/proc/{p}").exists()], "a process of the bomb is still running"


HUNGRY = """
import time
held = []
while True: held.append(b'x' * (8 << 20)); time.sleep(0.002)
"""


def test_memory_beyond_the_limit_ends_it_with_peak_and_limit_in_the_sentence(claim: UidClaim) -> None:
    process = start(claim, HUNGRY, memory_bytes=256 * MiB)
    process.wait(30)
    assert process.killed_for == "out_of_memory"
    assert process.memory_bytes == 256 * MiB
    assert 256 * MiB < process.peak_memory_bytes < 700 * MiB
    sentence = process.explain(" in frame 7")
    assert (
        sentence is not None and "in frame 7: Blender used" in sentence and "machine has 0.2 GiB" in sentence
    )
    output_of(process)


def test_memory_of_many_children_counts_together(claim: UidClaim) -> None:
    code = (
        "import os, time\nfor _ in range(4):\n  if os.fork() == 0: break\n"
        "held = b'x' * (90 << 20)\ntime.sleep(60)"
    )
    process = start(claim, code, memory_bytes=256 * MiB)
    process.wait(30)
    assert process.killed_for == "out_of_memory"
    output_of(process)


def test_memory_that_children_share_counts_once(claim: UidClaim) -> None:
    code = """
import os, time
held = bytearray(150 << 20)
for n in range(0, len(held), 4096): held[n] = 1
for _ in range(3):
    if os.fork() == 0: time.sleep(60)
time.sleep(1)
print('alive')
os.kill(-1, 9)
"""
    process = start(claim, code, memory_bytes=300 * MiB)
    assert "alive" in output_of(process)
    assert process.killed_for is None


def test_memory_in_files_of_the_sandbox_is_bounded(claim: UidClaim) -> None:
    """/tmp (without a folder for it) and /dev/shm are in memory that belongs to no process."""
    code = """
for path in ('/tmp/x', '/dev/shm/x'):
    with open(path, 'wb') as f:
        n = 0
        try:
            while n < 1000: f.write(bytes(1 << 20)); f.flush(); n += 1
        except OSError as e: print(e.errno, n)
        f.truncate(0)
"""
    assert run_inside(claim, code).splitlines() == ["28 64", "28 64"]


@pytest.mark.parametrize(
    "code",
    [
        "f = open('/tmp/x', 'wb')\nwhile True: f.write(bytes(1 << 20))",
        "n = 0\nwhile True: open(f'/tmp/{n}', 'w'); n += 1",
        "import os, time\nos.chdir('/tmp')\nfor _ in range(80): os.mkdir('d'); os.chdir('d')\ntime.sleep(60)",
    ],
    ids=["bytes", "files", "depth"],
)
def test_too_much_written_to_the_private_tmp_ends_it(claim: UidClaim, tmp_path: Path, code: str) -> None:
    os.chown(tmp_path, claim.uid, claim.uid)
    quota = Quota(str(tmp_path), 20 * MiB, 1000, "its /tmp")
    process = start(claim, code, tmp=tmp_path, quotas=(quota,))
    process.wait(60)
    assert process.killed_for == "too_much_written"
    sentence = process.explain()
    assert sentence is not None and "its /tmp" in sentence
    output_of(process)


def test_a_tmp_within_its_quota_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 1 << 40)
    (tmp_path / "link").symlink_to("/usr")
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert within_quota(Quota(str(tmp_path), MiB, 4, "its /tmp"))
    assert not within_quota(Quota(str(tmp_path), MiB, 3, "its /tmp"))
    assert not within_quota(Quota(str(tmp_path), MiB, 9, "its /tmp", depth=1))


def test_no_secret_of_the_job_is_seen_from_outside(claim: UidClaim) -> None:
    """Neither the argument list nor the environment of a process outside contains the job's variables."""
    process = start(claim, "print(1, flush=True); import time; time.sleep(60)")
    os.read(process.output, 1)
    try:
        inner = descendants(process.pid)[0]
        for pid in (p for p in os.listdir("/proc") if p.isdigit()):
            with contextlib.suppress(OSError):
                assert b"variable-of-the-job" not in Path(f"/proc/{pid}/cmdline").read_bytes()
                if int(pid) != inner:
                    assert b"variable-of-the-job" not in Path(f"/proc/{pid}/environ").read_bytes()
    finally:
        process.kill()
        process.close()
