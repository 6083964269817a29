"""Chaos run: inject random faults into a real farm with a real Blender, then check its invariants.

`script/chaos --kills N --seed S` kills N processes of the farm, and also freezes parts past their lease, cuts
the network, fills the disk and restarts the server, while artists work. The exit status is 0 only if every
invariant holds; otherwise the data directory is kept. docs/chaos.md describes faults and invariants.
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
from farm import ChaosFarm, descendants, make_scene, until
from faults import FaultInjector
from proxy import Proxy
from recorder import Recorder
from report import ChaosRun, as_markdown, as_text
from workload import FINISHED, SCENE_PATH, Workload

DISK_MIB = 512
FINISH_SECONDS = 240.0
"""Time for all jobs to end after the last fault."""
KEPT = "kept"
"""Folder that keeps the data of a run with violations."""
INTERRUPTED = 130
PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how many processes to kill; default 20")
    parser.add_argument("--seed", type=int, default=1, help="seed of all random choices; default 1")
    parser.add_argument("--report", type=Path, help="file to write the report to, as Markdown")
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.base is not None:
        return _run_and_report(options)
    return _run_in_child(options)


def _run_in_child(options: argparse.Namespace) -> int:
    """Run as a child; as root in mounts of its own: a disk that can be filled, and an empty /tmp."""
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
            continue  # the child is interrupted, too, and cleans up
    report = base / "report.md"
    if options.report and report.exists():
        shutil.copyfile(report, options.report)
    if code in {0, INTERRUPTED}:
        shutil.rmtree(base)
    else:
        print(f"the farm's data is kept in {base / KEPT}", flush=True)
    return code


def _run_and_report(options: argparse.Namespace) -> int:
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
    run = ChaosRun(options.kills, options.seed, own_disk)
    try:
        _run_chaos(options, data, run, begun)
    except Exception as error:
        traceback.print_exc()
        run.violations["the run completes"] = [str(error) or repr(error)]
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        _kill_all()
    run.seconds = time.monotonic() - begun
    print(as_text(run), flush=True)
    (options.base / "report.md").write_text(as_markdown(run))
    if run.all_hold:
        return 0
    if own_disk:  # the mount ends with this process
        shutil.copytree(data, options.base / KEPT, symlinks=True, ignore=shutil.ignore_patterns("*.sock"))
    return 1


def _run_chaos(options: argparse.Namespace, data: Path, run: ChaosRun, begun: float) -> None:
    def log(text: str) -> None:
        print(f"{time.monotonic() - begun:7.1f} s  {text}", flush=True)

    proxy = Proxy()
    farm = ChaosFarm(data, proxy)
    scene = make_scene(options.base / "scene.blend")
    mounts, tmp = _mounts(), set(os.listdir("/tmp"))
    farm.prepare()
    recorder = Recorder(data / "sessions")
    recorder.start()
    workload = Workload(farm, scene, random.Random(f"{options.seed} workload"))
    workload.upload(SCENE_PATH, scene)
    injector = FaultInjector(farm, proxy, random.Random(f"{options.seed} faults"), log, fill=run.own_disk)
    workload.start()
    injector.inject(options.kills)
    injector.recover()
    run.fault_seconds = time.monotonic() - begun
    log("no more faults: all jobs are finished")
    workload.stop()
    run.violations["the server never ends by itself"] = injector.unexpected_exits
    run.injected, run.changes, run.repeated_calls = (
        injector.injected,
        workload.changes,
        workload.repeated_calls,
    )
    if workload.unexpected:
        run.violations["every call gets an expected response"] = [workload.unexpected]
        return
    _finish(workload)
    _check_api(workload, run)
    until(lambda: not os.listdir(data / "sessions"), "the last session ends", 60)
    until(lambda: not farm.readers(), "the scene reader ends")
    with contextlib.suppress(TimeoutError):  # leftovers are reported below
        until(lambda: not list(data.glob("store/staging/*/*")), "staging is empty", 30)
    farm.stop()
    recorder.stop()
    proxy.close()
    run.connections_broken, run.frames_begun = proxy.broken, len(recorder.begun)
    processes = [f"{p.pid} {' '.join(p.cmdline())[:200]}" for p in descendants()]
    temporary = sorted(set(os.listdir("/tmp")) - tmp) if run.own_disk else []
    database = invariants.FarmDatabase(data)
    _check_invariants(database, workload, recorder, run)
    run.violations["no process, mount or temporary file remains"] = list(
        invariants.no_leftovers(data, mounts, _mounts(), processes, temporary)
    )
    run.attempts = Counter(
        {r[0]: r[1] for r in database.all("SELECT outcome, COUNT(*) FROM attempts GROUP BY 1")}
    )
    run.frames_committed = database.one("SELECT COUNT(*) FROM frames")[0]
    run.sessions = database.one("SELECT COUNT(*) FROM sessions")[0]
    run.jobs = Counter(job.status for job in workload.jobs)
    run.cost_micros = database.one("SELECT COALESCE(SUM(cost_micros), 0) FROM attempts")[0]


def _check_invariants(
    database: invariants.FarmDatabase, workload: Workload, recorder: Recorder, run: ChaosRun
) -> None:
    jobs = workload.jobs
    checks: dict[str, Iterator[str]] = {
        "every frame is committed exactly once per revision": invariants.frames_once(database, jobs),
        "no connected node began a committed frame": invariants.not_begun_again(database, recorder.begun),
        "attempts and ledger agree to the micro-dollar": invariants.money(database),
        "every acknowledged change is stored": invariants.acknowledged(
            database, jobs, workload.uploads, workload.projects
        ),
        "no job failed": invariants.ended_well(jobs),
    }
    for name, sentences in checks.items():
        run.violations[name] = list(sentences)


def _finish(workload: Workload) -> None:
    """Release all holds, upload all missing files, and wait until every job has ended."""
    for job in workload.jobs:
        if job.missing and job.cancelled_ms is None:
            workload.upload_missing(job)
        if job.held_since_ms is not None and job.cancelled_ms is None:
            workload.unhold(job)

    def ended() -> bool:
        open_jobs = workload.poll()
        for job in open_jobs:
            if job.reasons == ["scouts"]:
                workload.call("PATCH", f"/api/jobs/{job.id}", json={"action": "unhold"})
        return not open_jobs

    try:
        until(ended, "every job ends", FINISH_SECONDS)
    except TimeoutError as error:
        waiting = [f"{j.title} ({j.id}) {j.status}" for j in workload.jobs if j.status not in FINISHED]
        raise TimeoutError(f"{error}: {', '.join(waiting)}") from None


def _check_api(workload: Workload, run: ChaosRun) -> None:
    """The API's costs of jobs and attempts agree, and deleted jobs are not shown."""
    wrong = []
    for job in workload.jobs:
        if job.deleted:
            if workload.call("GET", f"/api/jobs/{job.id}").status_code != 404:
                wrong.append(f"{job.title} was deleted and is still shown")
            continue
        body = workload.call("GET", f"/api/jobs/{job.id}").json()
        job.status = body["status"]
        attempts = workload.call("GET", f"/api/jobs/{job.id}/attempts", params={"limit": 500}).json()
        if attempts["next_cursor"] is None:
            total = sum(a["cost"]["amount_micros"] for a in attempts["data"])
            if total != body["cost"]["amount_micros"]:
                wrong.append(f"{job.title} costs {body['cost']['amount_micros']}, its attempts {total}")
    run.violations["costs of jobs and attempts agree in the API"] = wrong


def _mounts() -> set[str]:
    return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def _kill_all() -> None:
    """Kill all processes that this program started."""
    for process in list(descendants()):
        process.kill()


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
