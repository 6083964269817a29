"""Chaos: a real farm with a real Blender, broken at random, and what must hold afterwards.

`script/chaos --kills N --seed S`: kills N processes of the farm, and beside that freezes parts past their
lease, cuts the network, fills the disk and restarts the server, while artists work. Exit status 0 only if
every invariant holds; otherwise the data directory is kept. docs/chaos.md tells the rest.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import invariants
from farm import Farm, descendants, make_scene, until
from faults import FaultInjector
from proxy import Proxy
from recorder import Recorder
from report import Night, as_markdown, as_text
from workload import FINISHED, SCENE_PATH, Workload

DISK_MIB = 512
FINISH_SECONDS = 240.0
KEPT = "kept"
INTERRUPTED = 130
PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how many processes to kill; default 20")
    parser.add_argument("--seed", type=int, default=1, help="of every random choice; default 1")
    parser.add_argument("--report", type=Path, help="write the report here, as Markdown")
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.base is not None:
        return _night(options)
    return _outside(options)


def _outside(options: argparse.Namespace) -> int:
    """As root, in mounts of our own: a disk that can be filled and a /tmp that tells what was left in it."""
    base = Path(tempfile.mkdtemp(prefix="framefarm-chaos-", dir="/var/tmp"))
    base.chmod(0o755)  # the sandboxes' users see the inputs below it
    command = [sys.executable, __file__, "--kills", str(options.kills), "--seed", str(options.seed)]
    command += ["--base", str(base)]
    if os.geteuid() == 0:
        command = ["unshare", "--mount", "--propagation", "private", *command]
    child = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    while True:
        try:
            code = child.wait()
            break
        except KeyboardInterrupt:
            continue  # the child has it too, and cleans up
    report = base / "report.md"
    if options.report and report.exists():
        shutil.copyfile(report, options.report)
    if code in {0, INTERRUPTED}:
        shutil.rmtree(base)
    else:
        print(f"the farm's data is kept in {base / KEPT}", flush=True)
    return code


def _night(options: argparse.Namespace) -> int:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, _interrupt)
    own_disk = os.geteuid() == 0
    data = options.base / ("farm" if own_disk else KEPT)
    data.mkdir(mode=0o700)
    if own_disk:
        size = f"size={DISK_MIB}m,mode=0700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "chaos", data], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "chaos", "/tmp"], check=True)
    begun = time.monotonic()
    night = Night(options.kills, options.seed, own_disk)
    try:
        _through(options, data, night, begun)
    except Exception as error:
        traceback.print_exc()
        night.violations["the night comes to its end"] = [str(error) or repr(error)]
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        _end_all()
    night.seconds = time.monotonic() - begun
    print(as_text(night), flush=True)
    (options.base / "report.md").write_text(as_markdown(night))
    if night.clean:
        return 0
    if own_disk:  # it goes with our mounts
        shutil.copytree(data, options.base / KEPT, symlinks=True, ignore=shutil.ignore_patterns("*.sock"))
    return 1


def _through(options: argparse.Namespace, data: Path, night: Night, begun: float) -> None:
    def say(text: str) -> None:
        print(f"{time.monotonic() - begun:7.1f} s  {text}", flush=True)

    proxy = Proxy()
    farm = Farm(data, proxy)
    scene = make_scene(options.base / "scene.blend")
    mounts, tmp = _mounts(), set(os.listdir("/tmp"))
    farm.prepare()
    recorder = Recorder(data / "sessions")
    recorder.start()
    workload = Workload(farm, scene, random.Random(f"{options.seed} workload"))
    workload.upload(SCENE_PATH, scene)
    injector = FaultInjector(farm, proxy, random.Random(f"{options.seed} faults"), say, fill=night.own_disk)
    workload.start()
    injector.rage(options.kills)
    injector.calm()
    night.storm_seconds = time.monotonic() - begun
    say("the storm is over: what was begun is finished")
    workload.stop()
    night.violations["the server never ends by itself"] = injector.deaths
    night.struck, night.made, night.again = injector.struck, workload.made, workload.again
    if workload.trouble:
        night.violations["artists are answered"] = [workload.trouble]
        return
    _finish(workload)
    _still_held(workload, night)
    until(lambda: not os.listdir(data / "sessions"), "the last session ends", 60)
    until(lambda: not farm.readers(), "the scene reader ends")
    with contextlib.suppress(TimeoutError):  # what is left then is told below
        until(lambda: not list(data.glob("store/staging/*/*")), "staging is swept", 30)
    farm.stop()
    recorder.stop()
    proxy.close()
    night.broken, night.began = proxy.broken, len(recorder.begun)
    left = [f"{p.pid} {' '.join(p.cmdline())[:200]}" for p in descendants()]
    leftover = sorted(set(os.listdir("/tmp")) - tmp) if night.own_disk else []
    books = invariants.Books(data)
    _judge(books, workload, recorder, night)
    night.violations["no process, mount or temporary file is left"] = list(
        invariants.nothing_left(data, mounts, _mounts(), left, leftover)
    )
    night.attempts = Counter(
        {r[0]: r[1] for r in books.all("SELECT outcome, COUNT(*) FROM attempts GROUP BY 1")}
    )
    night.frames = books.one("SELECT COUNT(*) FROM frames")[0]
    night.sessions = books.one("SELECT COUNT(*) FROM sessions")[0]
    night.jobs = Counter(job.status for job in workload.jobs)
    night.cost_micros = books.one("SELECT COALESCE(SUM(cost_micros), 0) FROM attempts")[0]


def _judge(books: invariants.Books, workload: Workload, recorder: Recorder, night: Night) -> None:
    jobs = workload.jobs
    found: dict[str, Iterator[str]] = {
        "every frame is committed exactly once per revision": invariants.frames_once(books, jobs),
        "no connected machine began a committed frame": invariants.not_begun_again(books, recorder.begun),
        "attempts and ledger agree to the micro-dollar": invariants.money(books),
        "every acknowledged change is there": invariants.acknowledged(
            books, jobs, workload.uploads, workload.projects
        ),
        "no job failed": invariants.ended_well(jobs),
    }
    for name, sentences in found.items():
        night.violations[name] = list(sentences)


def _finish(workload: Workload) -> None:
    """Let every job end."""
    for job in workload.jobs:
        if job.missing and job.cancelled_ms is None:
            workload.arrive(job)
        if job.held_since_ms is not None and job.cancelled_ms is None:
            workload.unhold(job)

    def ended() -> bool:
        still = workload.look()
        for job in still:
            if job.reasons == ["scouts"]:
                workload.ask("PATCH", f"/api/jobs/{job.id}", json={"action": "unhold"})
        return not still

    try:
        until(ended, "every job ends", FINISH_SECONDS)
    except TimeoutError as error:
        waiting = [f"{j.title} ({j.id}) {j.status}" for j in workload.jobs if j.status not in FINISHED]
        raise TimeoutError(f"{error}: {', '.join(waiting)}") from None


def _still_held(workload: Workload, night: Night) -> None:
    """The API says what the database will say: costs and frames of each job."""
    wrong = []
    for job in workload.jobs:
        if job.deleted:
            if workload.ask("GET", f"/api/jobs/{job.id}").status_code != 404:
                wrong.append(f"{job.title} was deleted and is still shown")
            continue
        said = workload.ask("GET", f"/api/jobs/{job.id}").json()
        job.status = said["status"]
        tries = workload.ask("GET", f"/api/jobs/{job.id}/attempts", params={"limit": 500}).json()
        if tries["next_cursor"] is None:
            total = sum(a["cost"]["amount_micros"] for a in tries["data"])
            if total != said["cost"]["amount_micros"]:
                wrong.append(f"{job.title} costs {said['cost']['amount_micros']}, its attempts {total}")
    night.violations["the API says the same"] = wrong


def _mounts() -> set[str]:
    return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def _end_all() -> None:
    """Whatever of ours still runs."""
    for process in list(descendants()):
        process.kill()


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
