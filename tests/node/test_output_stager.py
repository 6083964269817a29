"""Saved frames on their way to staging: checked, reported in order, drawn later."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from blender_harness import BlenderHarness
from PIL import Image

from framefarm.node.output_stager import FrameRefused, FramesStaged, OutputStager, SavedFrame, StagingFolders
from framefarm.protocol import node as msg


@dataclass
class StagerHarness:
    """A stager, its events for the session (`put`) and for the farm (`sent`)."""

    folder: Path
    put: list[object] = field(default_factory=list)
    sent: list[msg.Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "staging").mkdir()
        (self.folder / "thumbnails").mkdir()
        folders = StagingFolders(
            self.folder / "staging", self.folder / "thumbnails", self.folder / "decoder", "shot"
        )
        self.stager = OutputStager(self.put.append, self.sent.append, folders, "bubblewrap")
        self.stager.start()

    def frame(self, number: int, *sizes: tuple[str, str], attempt: str = "a", width: int = 64) -> Path:
        """SavedFrame `number` with a picture for each (ending, colour)."""
        directory = self.folder / f"{attempt}-{number}"
        directory.mkdir()
        for ending, colour in sizes:
            made = Image.new("RGB", (64, 36), colour)
            made.putpixel((0, 0), (1, 2, 3))
            made.save(directory / f"picture_{number:04d}{ending}")
        self.frames = (attempt, number, width)
        return directory

    def add(self, directory: Path) -> None:
        attempt, number, width = self.frames
        frame = SavedFrame(attempt, number, directory, 0, 0.1, 0, (), width, 36 if width else 0)
        self.stager.add(frame)

    def end(self, attempt: str = "a", *, hurry: bool = False) -> None:
        self.stager.add(msg.TaskEnded(attempt=attempt, outcome="success", started_ms=0, ended_ms=1))
        self.stager.finish(hurry=hurry)
        assert not (self.folder / "decoder").exists()

    def saved(self) -> list[int]:
        return [e.frame for e in self.sent if isinstance(e, msg.FrameSaved)]

    def drawn(self) -> dict[int, Image.Image]:
        found = {}
        for event in self.sent:
            if isinstance(event, msg.FrameDrawn):
                path = self.folder / "thumbnails" / f"{event.attempt}-{event.frame}.webp"
                assert path.stat().st_size == event.bytes
                found[event.frame] = Image.open(path)
                assert found[event.frame].format == "WEBP"
        return found


@pytest.fixture
def stager_harness(tmp_path: Path) -> Iterator[StagerHarness]:
    made = StagerHarness(tmp_path)
    yield made
    made.stager.finish(hurry=True)


def test_frames_are_reported_before_their_tasks_end_and_each_is_drawn(stager_harness: StagerHarness) -> None:
    for number in range(1, 41):
        stager_harness.add(stager_harness.frame(number, (".png", "red")))
    stager_harness.end()
    assert stager_harness.saved() == list(range(1, 41))
    reported = [e for e in stager_harness.sent if not isinstance(e, msg.FrameDrawn)]
    assert isinstance(reported[-1], msg.TaskEnded)
    assert sorted(stager_harness.drawn()) == list(range(1, 41))
    assert sum(p.count for p in stager_harness.put if isinstance(p, FramesStaged)) == 40
    assert {e.look.colour for e in stager_harness.sent if isinstance(e, msg.FrameSaved) and e.look} == {None}


def test_picture_damaged_fails_the_attempt_and_keeps_its_earlier_frames(
    stager_harness: StagerHarness,
) -> None:
    for number in (1, 2, 3):
        directory = stager_harness.frame(number, (".png", "red"))
        if number == 2:  # a disk that filled up
            path = directory / "picture_0002.png"
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        stager_harness.add(directory)
    stager_harness.end()
    assert stager_harness.saved() == [1]
    assert not any(isinstance(e, msg.TaskEnded) for e in stager_harness.sent), (
        "the session reports the failure"
    )
    (refused,) = [p for p in stager_harness.put if isinstance(p, FrameRefused)]
    assert (refused.attempt, refused.frame, refused.cause) == ("a", 2, "picture_damaged")
    assert "shot_0002.png" in refused.message
    assert [p.name for p in (stager_harness.folder / "staging" / "a").iterdir()] == ["1.0"]
    assert list(stager_harness.drawn()) == [1]


def test_a_frame_of_another_size_fails_its_attempt_alone(stager_harness: StagerHarness) -> None:
    stager_harness.add(stager_harness.frame(1, (".png", "red"), width=63))
    stager_harness.add(stager_harness.frame(2, (".png", "red"), attempt="b"))
    stager_harness.end("b")
    assert stager_harness.saved() == [2]
    assert [p.cause for p in stager_harness.put if isinstance(p, FrameRefused)] == ["wrong_resolution"]


def test_of_two_eyes_the_left_one_is_drawn(stager_harness: StagerHarness) -> None:
    stager_harness.add(stager_harness.frame(1, ("_R.jpg", "blue"), ("_L.jpg", "red")))
    stager_harness.end()
    (event,) = [e for e in stager_harness.sent if isinstance(e, msg.FrameSaved)]
    assert [f.path for f in event.files] == ["shot_0001_L.jpg", "shot_0001_R.jpg"]
    red, _, blue = stager_harness.drawn()[1].convert("RGB").getpixel((40, 20))  # type: ignore[misc]
    assert red > 200 > 50 > blue


def test_one_damaged_eye_is_enough(stager_harness: StagerHarness) -> None:
    directory = stager_harness.frame(1, ("_R.jpg", "blue"), ("_L.jpg", "red"))
    path = directory / "picture_0001_R.jpg"
    path.write_bytes(path.read_bytes()[:-40])
    stager_harness.add(directory)
    stager_harness.end()
    assert (stager_harness.saved(), list(stager_harness.drawn())) == ([], [])


def test_a_deleted_jobs_folder_is_not_made_again(stager_harness: StagerHarness) -> None:
    (stager_harness.folder / "thumbnails").rmdir()
    stager_harness.add(stager_harness.frame(1, (".png", "red")))
    stager_harness.end()
    assert (stager_harness.saved(), list(stager_harness.drawn())) == ([1], [])
    assert not (stager_harness.folder / "thumbnails").exists()


@pytest.mark.blender
@pytest.mark.parametrize(
    "scene", ["png", "jpeg", "webp", "tiff", "exr", "multilayer", "eyes", "eyes_in_one_exr", "side_by_side"]
)
def test_what_blender_writes_passes_and_is_drawn(
    harness: BlenderHarness, output_scenes: Path, stager_harness: StagerHarness, scene: str
) -> None:
    harness.scenes = output_scenes
    blender = harness.start("outputs", msg.RenderSettings(scene=scene))
    blender.open_scene()
    blender.render(7)
    saved = harness.saved()
    assert saved.width and saved.height
    frame = SavedFrame(
        "a", 7, saved.directory, 0, saved.seconds, 0, saved.warnings, saved.width, saved.height
    )
    stager_harness.stager.add(frame)
    stager_harness.end()
    assert [p for p in stager_harness.put if isinstance(p, FrameRefused)] == []
    (event,) = [e for e in stager_harness.sent if isinstance(e, msg.FrameSaved)]
    assert (event.warnings, event.look) == ([], msg.FrameColour())
    small = stager_harness.drawn()[7].convert("RGB")
    assert small.size == (saved.width, saved.height)
    assert len(small.getcolors(1 << 20) or ()) > 1
