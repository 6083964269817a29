"""Image decoders for tests: a harness that keeps thumbnails, and a decoder for a single picture."""

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
        self._changed = threading.Condition()
        self.decoder = ImageDecoder(folder, self._keep, mode=mode, seconds=seconds)

    def _keep(self, key: object, webp: bytes) -> None:
        with self._changed:
            self.drawn[key] = webp
            self._changed.notify_all()

    def wait(self, count: int) -> None:
        """Wait until so many thumbnails are done."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.drawn) >= count, 60), self.drawn.keys()


def inspect(
    path: Path, *, mode: Mode = "bubblewrap", seconds: float = SECONDS
) -> tuple[Picture | Undecodable, bytes | None]:
    """Decode one picture: (result, thumbnail as WebP or None)."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        harness = DecoderHarness(Path(folder) / "decoder", mode, seconds)
        try:
            name = harness.decoder.request("it", path, thumbnail=True)
            result = harness.decoder.result(name)
        finally:
            harness.decoder.finish(60)
        return result, harness.drawn.get("it")
