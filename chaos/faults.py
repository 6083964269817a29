"""The blows: which part is hit how, and when. Every choice comes from one seeded generator."""

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
from farm import DISCONNECTED_SECONDS, LEASE_SECONDS, Farm, reap, until
from proxy import CUTS, Proxy

BLOWS = {
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
PAUSE_SECONDS = (0.2, 2.2)
FULL_SECONDS = 5.0
"""How long after the disk was full a server may be found that ended of it."""
TRAP_SECONDS = 15.0
"""How long to wait for a scene to be read."""


class FaultInjector:
    """Strikes until `kills` processes were killed. `say` gets a line per action."""

    def __init__(
        self, farm: Farm, proxy: Proxy, rng: random.Random, say: Callable[[str], None], fill: bool
    ) -> None:
        self.farm, self.proxy, self.rng, self.say = farm, proxy, rng, say
        self.struck: Counter[tuple[str, str]] = Counter()
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()
        self._blows = {blow: weight for blow, weight in BLOWS.items() if fill or blow[0] != "fill"}
        self._trap: tuple[str, float] | None = None
        self._ballast = farm.data / "ballast"
        self._full_until = 0.0
        self._away = False
        """The server is down because it was struck."""
        self._looked = 0.0
        self.deaths: list[str] = []
        """When the server ended by itself though the disk was not full."""

    @property
    def kills(self) -> int:
        return sum(n for (how, _), n in self.struck.items() if how == "kill")

    def rage(self, kills: int) -> None:
        while self.kills < kills:
            self._strike()
            self._rest(self.rng.uniform(*PAUSE_SECONDS))

    def calm(self) -> None:
        """Take back what still lasts."""
        self._trap = None
        while self._later:
            heapq.heappop(self._later)[2]()
        self.proxy.mend()
        if not self.farm.up:
            self._start()
        until(self.farm.ready, "the farm is ready after the storm")

    def _rest(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            while self._later and self._later[0][0] <= now:
                heapq.heappop(self._later)[2]()
            if self.farm.up:
                self.farm.settle()
            self._look_at_trap(now)
            if now - self._looked > 1:
                self._looked = now
                self._supervise()
            if now >= end:
                return
            time.sleep(0.02)

    def _supervise(self) -> None:
        """What the system does: bury the dead, and start a service again that has ended."""
        reap(keep=self.farm.process.pid if self.farm.process else None)
        if not self.farm.up and not self._away:
            if not self._ballast.exists() and time.monotonic() > self._full_until + FULL_SECONDS:
                self.deaths.append("the server ended by itself, and the disk was not full")
            self.say("the server has ended by itself and is started again")
            self._start()

    def _start(self) -> None:
        self._away = False
        self.farm.start()

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._number), action))

    # -- blows

    def _strike(self) -> None:
        how, part = self.rng.choices(list(self._blows), list(self._blows.values()))[0]
        if part == "reader":
            if self._trap is None:
                self._trap = (how, time.monotonic() + TRAP_SECONDS)
        elif part == "server":
            self._strike_server(how)
        elif part == "network":
            self._cut()
        elif part == "disk":
            self._fill()
        else:
            found = self.farm.runners() if part == "runner" else self.farm.blenders()
            if found:
                self._hit(how, part, self.rng.choice(found))

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

    def _strike_server(self, how: str) -> None:
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
        away = rng.uniform(0, 1.5)
        if rng.random() < 0.15:  # longer than a lease, perhaps than any runner works on alone
            away = rng.uniform(LEASE_SECONDS, 1.3 * DISCONNECTED_SECONDS)
        self._away = True
        farm.process.send_signal(signal.SIGKILL if how == "kill" else signal.SIGTERM)
        if how != "kill":
            farm.process.send_signal(signal.SIGCONT)
        farm.process.wait(30)
        self._count(how, "server", f"server, away for {away:.1f} s")
        self._after(away, lambda: None if farm.up else self._start())

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

    def _look_at_trap(self, now: float) -> None:
        if self._trap is None:
            return
        how, until_then = self._trap
        found = self.farm.readers()
        if found:
            self._trap = None
            self._hit(how, "reader", self.rng.choice(found))
        elif now > until_then:
            self._trap = None

    def _count(self, how: str, part: str, text: str) -> None:
        self.struck[how, part] += 1
        self.say(f"{how} {text}")


def _resume(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.resume()
