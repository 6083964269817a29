"""Files that a Blender looked for in vain, as warnings with the artist's own paths."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from framefarm.core import missed_lookups
from framefarm.node import blender_protocol
from framefarm.node.inputs import Layout
from framefarm.protocol.node import FoundBy, NodeWarning
from framefarm.sandboxing.lookup_watch import LookupWatch, WatchedPlaces

MOST_WARNINGS = 100
"""Most warnings of the opening, and of each frame; one more counts the others."""
MOST_USERS = 2000
"""Most known paths that a Blender may name, with their users."""


class BlenderLookups:
    """The watch of one Blender, translated. All methods but `close` raise WatchLost."""

    def __init__(self, watch: LookupWatch, places: WatchedPlaces, layout: Layout) -> None:
        self._watch, self._places, self._layout = watch, places, layout
        self._known: dict[str, str] = {}
        """Path in the sandbox → the artist's path, of files that the scene itself names."""
        self._users: dict[str, str] = {}
        self._lasting: list[str] = []
        self.refused = ""
        """Why there is no watch; empty if there is one."""

    def of_opening(
        self, users: Sequence[tuple[str, str, str]], named: Collection[str]
    ) -> tuple[NodeWarning, ...]:
        """Files missed since Blender started, without those `named` by the artist's path.

        `users`: used files by their paths in the sandbox, with users and artist's paths; foreign text.
        """
        users = users[:MOST_USERS]
        self._known = {path: shown for path, _, shown in users}
        self._users = missed_lookups.by_sequence((path, user) for path, user, _ in users)
        self._lasting = []
        # The scene's paths are corrected once it is open: before, Blender looks for the uncorrected ones.
        lacking = self._lacking(self._places.in_any_case())
        lacking = [p for p in lacking if missed_lookups.counts_at_opening(p, self._users)]
        return tuple(w for w in self._warnings(lacking, "opened") if w.subject not in named)

    def of_frame(self) -> tuple[NodeWarning, ...]:
        """Files missed since the last call: while one frame was rendered.

        A file that every frame needs is named for each of the frames, since Blender looks for it once.
        """
        lacking = self._lacking(self._places.exists)
        lasting = [path for path in lacking if missed_lookups.is_lasting(path, self._known)]
        self._lasting = list(dict.fromkeys([*self._lasting, *lasting]))[: 2 * MOST_WARNINGS]
        return self._warnings(sorted({*self._lasting, *lacking}), "rendered")

    def wait(self) -> None:
        """Wait until the watch ends: with `close`, or too early."""
        self._watch.wait()

    def close(self) -> None:
        """End the watch, after Blender has ended."""
        self._watch.close()

    def _lacking(self, exists: Callable[[str], bool]) -> list[str]:
        seen = self._watch.take()
        self.refused = seen.refused
        return missed_lookups.lacking(seen.missed, exists)

    def _warnings(self, paths: Sequence[str], found_by: FoundBy) -> tuple[NodeWarning, ...]:
        warnings = [
            blender_protocol.missing_file(
                self._known.get(path) or self._layout.artists_path(path),
                missed_lookups.wanted_by(path, self._users),
                found_by,
            )
            for path in paths[:MOST_WARNINGS]
        ]
        if len(paths) > MOST_WARNINGS:
            more = blender_protocol.missing_file(f"{len(paths) - MOST_WARNINGS} more files", "", found_by)
            more.subject = ""
            warnings.append(more)
        return tuple(warnings)
