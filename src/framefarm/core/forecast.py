"""Expected time and cost of the rest of a job, from its finished frames. Pure statistics.

The `n` finished frames are a sample of all frames (scouts are spread over the range on purpose). The
remaining `m` frames take `m` times the mean of the sample, with a standard error of `s · √(m + m²/n)`. The
80% interval around it is that of Student's t distribution with `n - 1` degrees of freedom.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from framefarm.core.money import MS_PER_HOUR

Z_90 = 1.2815515655446004
"""The normal distribution's 90th percentile: 80% lie between it and its mirror."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Running sums over a job's finished frames. Times in milliseconds; `timed_squares` in milliseconds
    squared."""

    timed_frames: int
    timed_ms: int
    timed_squares: float
    billed_frames: int = 0
    billed_ms: int = 0
    """Billed time of all ended attempts, failed ones, loading and saving included."""
    loads: int = 0
    """How often a session has opened the scene."""
    load_ms: int = 0
    """Total time from a session's hello until its scene was open."""


@dataclass(frozen=True, slots=True)
class Span:
    """Expected value and the ends of its 80% interval, which are None while fewer than 2 frames are done."""

    expected: float
    low: float | None
    high: float | None

    def times(self, factor: float) -> Span:
        low = None if self.low is None else self.low * factor
        return Span(self.expected * factor, low, None if self.high is None else self.high * factor)

    def plus(self, constant: float) -> Span:
        low = None if self.low is None else self.low + constant
        return Span(self.expected + constant, low, None if self.high is None else self.high + constant)


@dataclass(frozen=True, slots=True)
class Forecast:
    """Forecast of a job. `seconds`: time until its last frame is done; `cost_micros`: cost of the remaining
    frames.

    Both are None before the first frame is done.
    """

    frames_left: int
    based_on_frames: int
    machines: int
    """Sessions assumed to work on it: those it has now, at least one, at most one for each frame."""
    seconds: Span | None
    cost_micros: Span | None


def t_90(freedom: int) -> float:
    """90th percentile of Student's t distribution. Exact for 1 and 2 degrees of freedom, within 0.005 from 3
    on.

    Raises ValueError for fewer than 1. The series for 3 and more: Abramowitz and Stegun, 26.7.5.
    """
    if freedom < 1:
        raise ValueError("needs at least one degree of freedom")
    if freedom == 1:
        return math.tan(0.4 * math.pi)
    if freedom == 2:
        return 0.8 * math.sqrt(2 / (1 - 0.8 * 0.8))
    z, v = Z_90, freedom
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )


def rest_ms(sums: Sums, frames_left: int) -> Span | None:
    """Render time of the remaining frames one after the other, in milliseconds; None before the first is
    done."""
    n, m = sums.timed_frames, frames_left
    if not n:
        return None
    mean = sums.timed_ms / n
    if n == 1:
        return Span(mean * m, None, None)
    variance = max(0.0, (sums.timed_squares - n * mean * mean) / (n - 1))
    around = t_90(n - 1) * math.sqrt(variance * (m + m * m / n))
    return Span(mean * m, max(0.0, mean * m - around), mean * m + around)


def forecast(
    sums: Sums, *, frames_left: int, machines: int, warm: bool, price_micros_per_hour: int
) -> Forecast:
    """Forecast of the rest of a job.

    `machines`: sessions that work on it now. `warm`: one of them has opened the scene, so that no loading
    time is added. `price_micros_per_hour`: price of one session in micro-dollars.
    """
    at_work = max(1, min(machines, frames_left))
    render = rest_ms(sums, frames_left)
    if render is None:
        return Forecast(frames_left, 0, at_work, None, None)
    if frames_left == 0:
        nothing = Span(0.0, 0.0, 0.0)
        return Forecast(0, sums.timed_frames, at_work, nothing, nothing)
    mean = sums.timed_ms / sums.timed_frames
    billed = max(0, sums.billed_ms - sums.load_ms) / sums.billed_frames if sums.billed_frames else mean
    overhead = max(0.0, billed - mean)  # billed time of a frame beyond its rendering
    whole = render.plus(overhead * frames_left)
    loading = 0.0 if warm or not sums.loads else sums.load_ms / sums.loads
    rounds = math.ceil(frames_left / at_work) * at_work / frames_left  # the last round may be uneven
    seconds = whole.times(rounds / at_work / 1000).plus(loading / 1000)
    cost = whole.plus(loading * at_work).times(price_micros_per_hour / MS_PER_HOUR)
    return Forecast(frames_left, sums.timed_frames, at_work, seconds, cost)
