"""Builds scenes by script, renders them on a farm and with plain Blender, and compares both pixel by pixel.

script/conformance                               every scene, with 4.2, 4.5, 5.0 and 5.2
script/conformance --blender 4.2 images outputs  some features, or scenes as images/packed, with one Blender
script/conformance --list                        the declared scenes

A run of every scene of a Blender goes into docs/conformance.md; `--table` writes it from the last results.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import farm as farms
import plain
import table
from declarations import Scene, declared
from verdicts import Verdict, judge

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "conformance-out" / "results.json"
SUBMITS_AT_ONCE = 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", help="features or scenes; default all")
    parser.add_argument("--blender", action="append", metavar="4.2", help="a series; repeatable; default all")
    parser.add_argument("--quick", action="store_true", help="only the short part, which script/test runs")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep scenes and pictures in DIR")
    parser.add_argument("--list", action="store_true", help="list the declared scenes")
    parser.add_argument(
        "--table", action="store_true", help="write docs/conformance.md from the last results"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results of this run to FILE")
    options = parser.parse_args()
    scenes = [one for one in declared() if _wanted(one, options.names) and (one.quick or not options.quick)]
    if not scenes:
        parser.error("no scene of this name; --list prints all")
    if options.list:
        print("\n".join(f"{one.id:<50} {one.about}" for one in scenes))
        return 0
    if options.table:
        table.write(declared(), table.read(RESULTS))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # exits normally, so that the farm is stopped
    verdicts = run(scenes, options.blender or list(table.VERSIONS), options.keep)
    if options.json:
        options.json.write_text(json.dumps([one.as_dict() for one in verdicts], indent=1))
    table.store(RESULTS, verdicts)
    if not options.names and not options.quick:
        table.write(declared(), table.read(RESULTS))
    count = Counter(one.outcome for one in verdicts)
    print(", ".join(f"{number} {name}" for name, number in sorted(count.items())))
    return 1 if count["wrong"] else 0


def _wanted(scene: Scene, names: list[str]) -> bool:
    return not names or any(scene.feature == name or scene.id.startswith(name) for name in names)


def run(scenes: list[Scene], versions: list[str], keep: Path | None = None) -> list[Verdict]:
    """The verdicts on the scenes with each Blender; prints a line for each."""
    work = Path(keep or tempfile.mkdtemp(prefix="conformance-", dir="/var/tmp")).resolve()
    work.mkdir(parents=True, exist_ok=True)
    os.chmod(work, 0o755)
    blenders = plain.blenders()
    verdicts: list[Verdict] = []
    try:
        with farms.running(work) as farm, ThreadPoolExecutor(1) as builder:
            built = {
                version: builder.submit(_build, scenes, version, blenders, work)
                for version in versions
                if version in blenders
            }
            for version in versions:
                if version not in blenders:
                    print(f"{version}  not run: this Blender is not installed", flush=True)
                    verdicts += [
                        Verdict(one.id, version, "not run") for one in scenes if one.applies(version)
                    ]
                    continue
                began = time.monotonic()
                found = Round(farm, scenes, version, blenders, work, built[version]).run()
                verdicts += found
                table.store(RESULTS, found)
                print(f"{version}  {len(found)} scenes in {time.monotonic() - began:.0f} s", flush=True)
    finally:
        if keep is None:
            shutil.rmtree(work, ignore_errors=True)
    return verdicts


def _build(
    scenes: list[Scene], version: str, blenders: dict[str, plain.Installed], work: Path
) -> dict[str, plain.Done]:
    """Build the scenes of a version, each by the Blender that makes it."""
    found: dict[str, plain.Done] = {}
    makers: dict[str, list[Scene]] = {}
    for one in scenes:
        if one.applies(version):
            makers.setdefault(one.made_by or version, []).append(one)
    for maker, those in makers.items():
        if maker in blenders:
            folder = work / version
            folder.mkdir(parents=True, exist_ok=True)
            found |= plain.build(blenders[maker], those, folder)
    return found


class Round:
    """All scenes with one Blender: submitted, then played in place while the farm renders, then judged."""

    def __init__(
        self,
        farm: farms.Farm,
        scenes: list[Scene],
        version: str,
        blenders: dict[str, plain.Installed],
        work: Path,
        built: Future[dict[str, plain.Done]],
    ) -> None:
        self.farm, self.version, self.blender = farm, version, blenders[version]
        self.work, self.verdicts, self.built = work / version, [], built.result()  # type: list[Verdict]
        farm.register(self.blender)
        self.scenes = [one for one in scenes if one.applies(version)]

    def run(self) -> list[Verdict]:
        ready = []
        for one in self.scenes:
            done = self.built.get(one.id)
            if done is None:
                self.tell(Verdict(one.id, self.version, "not run", f"Blender {one.made_by} is not installed"))
            elif done.error:
                self.tell(Verdict(one.id, self.version, "wrong", f"not built: {done.error}"))
            else:
                ready.append(one)
        with ThreadPoolExecutor(SUBMITS_AT_ONCE) as pool, ThreadPoolExecutor(1) as player:
            try:
                self._run(ready, pool, player)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # ends early: nothing that waits is begun
                raise
        return self.verdicts

    def _run(self, ready: list[Scene], pool: ThreadPoolExecutor, player: ThreadPoolExecutor) -> None:
        jobs = {one.id: pool.submit(self.submit, one) for one in ready}
        for future in jobs.values():
            future.result()  # what is played in place may leave files beside the scene
        paths = {one.id: self.built[one.id].path for one in ready}
        played = player.submit(plain.play, self.blender, ready, paths, self.work)
        waiting = [(one, jobs[one.id].result()) for one in ready]
        judged: list[Future[None]] = []
        while waiting:
            self.farm.refresh([job for _, job in waiting])
            for one, job in waiting:
                if not job.ended and time.monotonic() - job.since > one.seconds + len(ready) * 10:
                    self.farm.cancel(job)
            if played.done():
                judged += [
                    pool.submit(self.judge, one, job, played.result()) for one, job in waiting if job.ended
                ]
                waiting = [(one, job) for one, job in waiting if not job.ended]
            time.sleep(0.5)
        for verdict in judged:
            verdict.result()

    def submit(self, scene: Scene) -> farms.Submitted:
        return self.farm.submit(scene, Path(self.built[scene.id].path), self.blender)

    def judge(self, scene: Scene, job: farms.Submitted, played: dict[str, plain.Done]) -> None:
        folder = self.work / scene.feature / scene.name
        self.tell(judge(self.farm, scene, self.version, job, played[scene.id], folder))

    def tell(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)
        files = f"{verdict.files} files" if verdict.files else ""
        print(
            f"{verdict.version}  {verdict.outcome:<8} {verdict.scene:<48} {verdict.detail or files}",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
