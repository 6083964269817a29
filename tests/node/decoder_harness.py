"""One picture, one decoder: for tests of what is said of pictures."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

from framefarm.node.image_decoder import SECONDS, ImageDecoder, Picture, Undecodable
from framefarm.sandboxing.bubblewrap import Mode


class DecoderHarness:
    """A decoder whose thumbnails are kept: `drawn[key]`."""

    def __init__(self, folder: Path, mode: Mode = "bubblewrap", seconds: float = SECONDS) -> None:
        self.drawn: dict[object, bytes] = {}
        self._there = threading.Condition()
        self.decoder = ImageDecoder(folder, self._keep, mode=mode, seconds=seconds)

    def _keep(self, key: object, webp: bytes) -> None:
        with self._there:
            self.drawn[key] = webp
            self._there.notify_all()

    def wait(self, count: int) -> None:
        """Until so many thumbnails are there."""
        with self._there:
            assert self._there.wait_for(lambda: len(self.drawn) >= count, 60), self.drawn.keys()


def inspect(
    path: Path, *, mode: Mode = "bubblewrap", seconds: float = SECONDS
) -> tuple[Picture | Undecodable, bytes | None]:
    """What is on the picture, and its thumbnail."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        looking = DecoderHarness(Path(folder) / "decoder", mode, seconds)
        try:
            name = looking.decoder.request("it", path, thumbnail=True)
            found = looking.decoder.result(name)
        finally:
            looking.decoder.finish(60)
        return found, looking.drawn.get("it")
