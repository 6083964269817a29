"""Faults injected into a farm: which part, how and when. All choices come from one seeded generator."""

from __future__ import annotations

import contextlib
import heapq
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from itertools import count

import psutil
from farm import DISCONNECTED_SECONDS, LEASE_SECONDS, ChaosFarm, reap, until
from proxy import CUTS, Proxy

FAULTS: dict[tuple[str, str], float] = {
    ("kill", "server"): 3,
    ("kill", "runner"): 6,
    ("kill", "blender"): 8,
    ("kill", "reader"): 2,
    ("freeze", "server"): 1,
    ("freeze", "runner"): 3,
    ("freeze", "blender"): 2,
    ("freeze", "reader"): 0.5,
    ("cut", "network"): 2,
    ("fill", "disk"): 1,
    ("restart", "server"): 1,
}
"""(fault, part) → its relative frequency."""
PAUSE_SECONDS = (0.2, 2.2)
"""Shortest and longest pause between two faults."""
AFTER_FULL_SECONDS = 5.0
"""Time after a full disk within which an exit of the server is blamed on it."""
TRAP_SECONDS = 15.0
"""How long to wait for a scene reader to hit."""


class FaultInjector:
    """Injects faults until enough processes were killed. `log` gets a line for each fault."""

    def __init__(
        self, farm: ChaosFarm, proxy: Proxy, rng: random.Random, log: Callable[[str], None], fill: bool
    ) -> None:
        self.farm, self.proxy, self.rng, self.log = farm, proxy, rng, log
        self.injected: Counter[tuple[str, str]] = Counter()
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()
        self._weights = {fault: weight for fault, weight in FAULTS.items() if fill or fault[0] != "fill"}
        self._trap: tuple[str, float] | None = None
        self._ballast = farm.data / "ballast"
        self._full_until = 0.0
        self._stopped = False
        """The server is down because it was stopped or killed here."""
        self._supervised_at = 0.0
        self.unexpected_exits: list[str] = []
        """A sentence for each exit of the server by itself while the disk was not full."""

    @property
    def kills(self) -> int:
        """Number of processes killed so far."""
        return sum(n for (how, _), n in self.injected.items() if how == "kill")

    def inject(self, kills: int) -> None:
        """Inject faults until `kills` processes were killed."""
        while self.kills < kills:
            self._inject_one()
            self._wait(self.rng.uniform(*PAUSE_SECONDS))

    def recover(self) -> None:
        """End all lasting faults, and wait until the server is ready."""
        self._trap = None
        while self._later:
            heapq.heappop(self._later)[2]()
        self.proxy.mend()
        if not self.farm.up:
            self._start()
        until(self.farm.ready, "the farm is ready after the last fault")

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            while self._later and self._later[0][0] <= now:
                heapq.heappop(self._later)[2]()
            if self.farm.up:
                self.farm.settle()
            self._check_trap(now)
            if now - self._supervised_at > 1:
                self._supervised_at = now
                self._supervise()
            if now >= end:
                return
            time.sleep(0.02)

    def _supervise(self) -> None:
        """Act as the init system: collect ended processes, and restart a server that ended by itself."""
        reap(keep=self.farm.process.pid if self.farm.process else None)
        if not self.farm.up and not self._stopped:
            if not self._ballast.exists() and time.monotonic() > self._full_until + AFTER_FULL_SECONDS:
                self.unexpected_exits.append("the server ended by itself, and the disk was not full")
            self.log("the server has ended by itself and is started again")
            self._start()

    def _start(self) -> None:
        self._stopped = False
        self.farm.start()

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._number), action))

    # -- faults

    def _inject_one(self) -> None:
        how, part = self.rng.choices(list(self._weights), list(self._weights.values()))[0]
        if part == "reader":
            if self._trap is None:
                self._trap = (how, time.monotonic() + TRAP_SECONDS)
        elif part == "server":
            self._hit_server(how)
        elif part == "network":
            self._cut()
        elif part == "disk":
            self._fill()
        else:
            processes = self.farm.runners() if part == "runner" else self.farm.blenders()
            if processes:
                self._hit(how, part, self.rng.choice(processes))

    def _hit(self, how: str, part: str, process: psutil.Process) -> None:
        lease = LEASE_SECONDS
        seconds = self.rng.uniform(1.2 * lease, 3 * lease) if part == "runner" else self.rng.uniform(0.5, 8)
        with contextlib.suppress(psutil.NoSuchProcess):
            if how == "kill":
                process.kill()
                self._count(how, part, f"{part} {process.pid}")
            else:
                process.suspend()
                self._count(how, part, f"{part} {process.pid} for {seconds:.1f} s")
                self._after(seconds, lambda: _resume(process))

    def _hit_server(self, how: str) -> None:
        farm, rng = self.farm, self.rng
        if not farm.up:
            return
        assert farm.process is not None
        if how == "freeze":
            process, seconds = psutil.Process(farm.process.pid), rng.uniform(0.5, 2 * LEASE_SECONDS)
            process.suspend()
            self._count(how, "server", f"server for {seconds:.1f} s")
            self._after(seconds, lambda: _resume(process))
            return
        down_seconds = rng.uniform(0, 1.5)
        if rng.random() < 0.15:  # longer than a lease, perhaps than a runner works without its server
            down_seconds = rng.uniform(LEASE_SECONDS, 1.3 * DISCONNECTED_SECONDS)
        self._stopped = True
        farm.process.send_signal(signal.SIGKILL if how == "kill" else signal.SIGTERM)
        if how != "kill":
            farm.process.send_signal(signal.SIGCONT)
        farm.process.wait(30)
        self._count(how, "server", f"server, down for {down_seconds:.1f} s")
        self._after(down_seconds, lambda: None if farm.up else self._start())

    def _cut(self) -> None:
        if self.proxy.cut_as is None:
            how = self.rng.choice(CUTS)
            seconds = self.rng.uniform(0.2, 1.5 * LEASE_SECONDS)
            if self.rng.random() < 0.15:
                seconds = self.rng.uniform(DISCONNECTED_SECONDS, 1.4 * DISCONNECTED_SECONDS)
            self.proxy.cut(how)
            self._count("cut", "network", f"network, {how}, for {seconds:.1f} s")
            self._after(seconds, self.proxy.mend)

    def _fill(self) -> None:
        if self._ballast.exists():
            return
        seconds = self.rng.uniform(0.5, 6)
        with open(self._ballast, "wb") as file, contextlib.suppress(OSError):
            free = os.statvfs(self.farm.data)
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)
        with open(self._ballast, "ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        self._count("fill", "disk", f"disk for {seconds:.1f} s")
        self._after(seconds, self._empty)

    def _empty(self) -> None:
        self._ballast.unlink(missing_ok=True)
        self._full_until = time.monotonic()

    def _check_trap(self, now: float) -> None:
        if self._trap is None:
            return
        how, deadline = self._trap
        readers = self.farm.readers()
        if readers:
            self._trap = None
            self._hit(how, "reader", self.rng.choice(readers))
        elif now > deadline:
            self._trap = None

    def _count(self, how: str, part: str, text: str) -> None:
        self.injected[how, part] += 1
        self.log(f"{how} {text}")


def _resume(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.resume()
