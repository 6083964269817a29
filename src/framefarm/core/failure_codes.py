"""The table of failure and warning codes.

A code is stable: scripts may rely on it. Artists read the result of `explain(code, facts)`: a sentence and
the remedy. docs/failures.md shows the table; tests/docs_sync checks that each code is used in the source, is
in the docs, and has a test of its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """Origin of a failure: where it can be corrected."""

    SCENE = "scene"
    PERSON = "person"
    MACHINE = "machine"
    """One node only: its frames go to another node, and the attempt is not charged."""
    FARM = "farm"


@dataclass(frozen=True)
class Cause:
    """One failure or warning code. `sentence` is a template with named facts in braces; `remedy` names the
    next step."""

    code: str
    title: str
    sentence: str
    remedy: str
    fault: Fault
    warning: bool = False
    """True for a warning about a frame or job, which ends nothing."""


class _Facts(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return ""


def explain(code: str, facts: Mapping[str, object] | None = None) -> str:
    """Sentence of `code` filled with `facts` (a missing fact is left out), then its remedy.

    Raises KeyError for an unknown code.
    """
    cause = CAUSES[code]
    sentence = cause.sentence.format_map(_Facts({name: str(value) for name, value in (facts or {}).items()}))
    return f"{sentence} {cause.remedy}".strip()


def is_node_fault(code: str) -> bool:
    """Whether `code` is the fault of the node alone."""
    return code in CAUSES and CAUSES[code].fault is Fault.MACHINE


def may_be_node_fault(code: str, *, committed: bool = False) -> bool:
    """Whether a node on which different jobs fail with `code` is suspect.

    `committed`: the attempt committed a frame, so the node can render; then only a fault of the node itself
    counts.
    """
    if code not in CAUSES:
        return False
    if is_node_fault(code) and code != "machine_lost":
        return True
    return not committed and (code in _MAYBE_NODE or CAUSES[code].fault in {Fault.MACHINE, Fault.FARM})


def is_scene_fault(code: str) -> bool:
    """Whether `code`, if it occurs on several nodes, is the fault of the scene or of the submission."""
    return code in CAUSES and CAUSES[code].fault in {Fault.SCENE, Fault.PERSON} and code != "rule_runtime"


def fails_everywhere(code: str) -> bool:
    """Whether the same scene fails with `code` on every node, in every attempt."""
    return code in _EVERYWHERE


def is_known_at_opening(code: str) -> bool:
    """Whether a scene that fails with `code` while it is opened fails so for every task of its job."""
    return code in _AT_OPENING


_S, _P, _M, _F = Fault.SCENE, Fault.PERSON, Fault.MACHINE, Fault.FARM

_FAILURES = [
    # The file
    Cause("unreadable_scene", "Scene cannot be read", "The scene file is damaged or is no .blend.",
          "Save it again and upload it.", _S),
    Cause("cannot_open", "Scene cannot be opened", "Blender {blender} cannot open {file}: {what}.",
          "Open it in Blender on your machine, save it again and upload it.", _S),
    Cause("newer_file", "Saved by a newer Blender", "{file} was saved by Blender {saved}, which is newer than"
          " the Blender {blender} asked for.{fits}",
          "Choose a newer blender_version, or save the file for the older one.", _S),
    Cause("missing_files", "Files missing", "The scene wants {count} that the job does not have: {named}.",
          "Upload them and submit again, or let the job go on without: on_missing_files warn.", _P),
    Cause("scripts_blocked", "Scripts not allowed",
          "The scene holds scripts or drivers that this farm does not run, and the job said to fail then.",
          "Bake what they do, or ask the farm's operator to allow scripts for your account.", _P),
    Cause("bad_addon", "Add-on refused", "The add-on {file} cannot be installed: {what}.",
          "Upload the zip as its maker ships it.", _P),
    Cause("addon_failed", "Add-on failed", "The add-on {file} could not be enabled: {what}.",
          "Choose the version of it that fits this Blender.", _P),
    Cause("bad_frames", "Frames do not fit", "The frames asked for do not fit the scene: {what}.",
          "Submit again with other frames.", _P),
    # Scene, camera, engine
    Cause("unknown_scene", "No such scene", "The file has no scene {name}; it has: {has}.",
          "Name one of these, or none.", _P),
    Cause("unknown_camera", "No such camera", "The scene has no camera {name}; it has: {has}.",
          "Name one of these, or none.", _P),
    Cause("unknown_view_layer", "No such view layer", "The scene has no view layer {name}; it has: {has}.",
          "Name one of these, or none.", _P),
    Cause("unknown_engine", "No such render engine", "Blender {blender} has no render engine {name}.",
          "Choose cycles, eevee or workbench, or none.", _P),
    Cause("no_camera", "No camera", "The scene {scene} has no camera{where}.",
          "Add one, or make it the active camera.", _S),
    Cause("ocio_fallback", "Colour configuration not used",
          "Blender could not use the colour configuration {path} (OCIO) and went on with its own.",
          "Upload the configuration with all files of its folder, or correct OCIO.", _P),
    # While it renders
    Cause("render_failed", "Render failed", "Blender could not render{where}: {what}.",
          "Read the task's log; try the frame in Blender on your machine.", _S),
    Cause("wrong_frame", "Another frame was rendered",
          "Blender rendered frame {seen} when frame {frame} was asked for.",
          "A script or handler of the scene changes the frame: take it out.", _S),
    Cause("out_of_memory", "Out of memory", "Memory ran out{where}{memory}.",
          "Choose an instance type with more memory, or make the scene smaller.", _S),
    Cause("crashed", "Blender crashed", "Blender crashed{where} ({signal}).{last}",
          "Read the task's log; try another blender_version, or simplify what is new in this frame.", _S),
    Cause("ended_early", "Blender ended by itself", "Blender ended{where} with code {code}.{last}",
          "Look in the task's log for what ended it; a script of the scene can.", _S),
    Cause("killed_outside", "Killed from outside",
          "Blender was killed{where} by something on its machine, and not because memory ran out.",
          "Retry the task; if it happens again, tell the farm's operator.", _F),
    Cause("not_started", "Blender did not start", "Blender did not start (code {code}).{last}",
          "Tell the farm's operator: this Blender is not installed as it should be.", _F),
    Cause("hung_at_exit", "Blender hung", "Blender stopped talking{where} and did not end; it was ended.",
          "Retry the task; if it happens again, try another blender_version.", _S),
    Cause("task_timed_out", "Took too long",
          "The task ran into the job's limit of {limit} seconds{where}.",
          "Raise max_task_runtime_seconds, use smaller chunks, or make the frame lighter.", _P),
    Cause("no_progress", "Stuck", "Blender showed no progress for {limit} seconds{where}; it was ended.",
          "Retry the task; if it stops there again, try the frame in Blender on your machine.", _S),
    Cause("no_gl", "No graphics for EEVEE",
          "EEVEE and Workbench need OpenGL, which this machine does not have.",
          "Choose an instance type with a GPU, or render with cycles.", _P),
    Cause("gpu_absent", "No GPU", "The machine should have a GPU, but Blender sees none.",
          "The farm tries another machine; if none works, tell its operator.", _M),
    Cause("blender_broken", "Blender could not be driven", "The farm could not drive this Blender: {what}.",
          "Tell the farm's operator, with the task's log.", _F),
    Cause("bad_report", "False reports", "The program inside Blender broke off its reports: {what}.",
          "A script of the scene disturbs the farm: take it out.", _S),
    # Its outputs
    Cause("no_picture", "No picture", "Blender wrote no picture of frame {frame}.",
          "Check the scene's output settings; a script may have changed them.", _S),
    Cause("file_missing", "Outputs missing", "Frame {frame} is not whole, Blender did not write: {files}.",
          "Check the compositor's File Output nodes and the scene's stereo views.", _S),
    Cause("output_unwritable", "Output cannot be written", "Blender cannot write its pictures: {what}.",
          "The farm tries another machine; its operator should look at this one.", _M),
    Cause("disk_full", "Disk full", "The disk of the machine is full: {what}.",
          "The farm tries another machine; its operator should make room on this one.", _M),
    Cause("staging_failed", "Output cannot be stored", "The output {path} cannot be stored: {what}.",
          "The farm tries another machine; its operator should look at this one.", _M),
    Cause("bad_output", "Output refused", "The frame's outputs cannot be taken: {what}.",
          "Look for scripts of the scene that write files of their own, and at File Output nodes.", _S),
    Cause("too_many_files", "Too many outputs", "A frame may have {limit} files at most.",
          "Take out File Output nodes, or use multilayer EXR.", _S),
    Cause("output_too_large", "Outputs too large", "The outputs of a frame are too large: {path}.",
          "Render fewer passes or a smaller picture.", _S),
    Cause("too_much_written", "Too much written", "Blender filled {name} beyond its limit of {limit}{where}.",
          "Bake caches into files of the job, or write fewer extra outputs.", _S),
    Cause("picture_damaged", "Picture damaged", "The picture {path} cannot be read to its end: {what}",
          "Retry the task; if it stays so, try another file format.", _F),
    Cause("not_a_picture", "No picture", "{path} is no picture that can be checked: {what}",
          "Choose PNG, JPEG, WebP, TIFF or EXR.", _S),
    Cause("wrong_resolution", "Wrong size", "The picture {path} is {is} pixels, not {asked}.",
          "Check the scene's resolution; a script may change it while it renders.", _S),
    Cause("all_nan", "No numbers in the picture", "Every pixel of {path} is NaN.",
          "Look for materials that divide by zero.", _S),
    # The farm's side
    Cause("frames_missing", "Frames missing", "The machine said it was done, but not every frame arrived.",
          "Nothing: the farm renders the missing ones again.", _F),
    Cause("machine_lost", "Machine lost", "The machine was lost while it rendered.",
          "Nothing: the frames go to another machine, and you do not pay.", _M),
    Cause("rule_runtime", "Stopped by a rule", "A rule of the account stopped it: {what}",
          "Make the frame lighter or the chunks smaller, or ask an admin of the account about the rule.", _P),
    Cause("upload_stalled", "Upload stalled", "A rule of the account failed the job: {what}",
          "Upload what is missing and submit it again.", _P),
    Cause("machine_unfit", "Machine unfit", "The machine cannot do this job: {what}",
          "Nothing: the frames go to another machine, and you do not pay.", _M),
]  # fmt: skip

_WARNINGS = [
    Cause("missing_file", "File missing", "The scene wants {path}{wanted_by}, which was not uploaded.",
          "Upload it with the job, or take it out of the scene.", _P, True),
    Cause("library_files_missing", "Files of a library missing",
          "The linked library {path} names {files} that the job does not have: {named}.",
          "Nothing, if the scene does not use them; Blender tells when it opens the scene.", _P, True),
    Cause("library_unread", "Library cannot be read",
          "The linked library {path} could not be looked into: {what}.",
          "Save it again and upload it.", _S, True),
    Cause("blocked_scripts", "Scripts not run",
          "The scene holds scripts or drivers that this farm does not run; the picture may differ.",
          "Bake what they do, or ask the farm's operator to allow scripts for your account.", _S, True),
    Cause("script_error", "Script failed", "A script of the scene failed: {what}; the picture may differ.",
          "Correct the script, or take it out.", _S, True),
    Cause("movie_as_frames", "Movie as frames",
          "The scene asks for a movie ({format}); it is rendered as PNG frames.",
          "Make the movie from the frames.", _S, True),
    Cause("unknown_colours", "Colours not known",
          "Blender does not know the {what} and took another; the colours may differ.",
          "Send the colour configuration that the scene was made with: environment variable OCIO.", _S, True),
    Cause("samples_ignored", "Samples ignored", "The number of samples is for Cycles and EEVEE only.",
          "Leave it out.", _P, True),
    Cause("unbaked_simulation", "Simulation not baked",
          "Unbaked simulations are played from the scene's first frame before each task{frames}: {what}.",
          "Bake them, and a task begins at once.", _S, True),
    Cause("simulation_must_be_baked", "Simulation must be baked", "It must be baked: {what}; {why}.",
          "Bake it and submit the scene again, or lift the hold to render it as it is.", _S, True),
    Cause("bake_too_short", "Bake too short",
          "The bake does not cover frames {frames} of the job: {what}.",
          "Bake the whole range, if it should move there.", _S, True),
    Cause("old_file", "Saved before Blender 2.80",
          "{file} was saved by Blender {saved}: Blender {blender} converts it as it opens it, and materials,"
          " lights and layers of that time may look different.",
          "Open it in Blender on your machine, check it and save it again.", _S, True),
    Cause("engine_replaced", "Another render engine",
          "The scene {scene} was made for {engine}, which Blender {blender} does not have: EEVEE would"
          " render it.",
          "Choose an engine for the job (render_software), bring the add-on, or lift the hold to render it"
          " so.",
          _P, True),
    Cause("eevee_changed", "Another EEVEE",
          "The scene {scene} was made for the EEVEE of Blender {saved}: since 4.2 EEVEE is another engine,"
          " with other lights and shadows.",
          "Look at a scout before you render all of it.", _S, True),
    Cause("feature_lacking", "Blender lacks a feature",
          "{blender} lacks a feature that the scene needs for {what}. {lack} {fits}",
          "Choose a package that has it, or ask the farm's operator for an official Blender:"
          " framefarm blender install --archive.", _P, True),
    Cause("package_switched", "Another package",
          "{package} renders the job in the place of {asked}, which lacks a feature that the scene needs for"
          " {what}.",
          "Nothing; name an exact release to have that one.", _F, True),
    Cause("scene_guessed", "Scene guessed", "Several files could be the scene; {path} was taken.",
          "Name it in scene_path.", _P, True),
    Cause("input_not_reconfirmed", "Old upload used",
          "{path} was used by an earlier job and was not uploaded again for this one.",
          "Upload it before you submit, or pin its hash.", _P, True),
    Cause("no_sandbox", "No sandbox", "This farm renders without a sandbox: its operator switched it off.",
          "Nothing, if all scenes on this farm are trusted: each could read the others' files.", _F, True),
    Cause("place_unwritable", "Output place cannot be written", "{place} cannot be written ({what}).",
          "Nothing: finished frames are kept by the farm and delivered as soon as it can be.", _F, True),
    Cause("output_shared", "Output shared",
          "Job {job} has the same output_path: the job that writes a file last keeps the place.",
          "Give each job an output_path of its own.", _P, True),
    Cause("picture_too_large", "Picture not checked", "The picture {path} is too large to be checked: {what}",
          "Look at it yourself.", _S, True),
    Cause("decoder_died", "Picture not checked", "The picture {path} could not be checked: {what}",
          "Look at it yourself.", _S, True),
    Cause("budget_low", "Budget nearly spent", "{spent} of the budget's {amount} are spent.",
          "An admin of the account can raise it; jobs are held when it is used up.", _P, True),
    Cause("task_runs_long", "Task runs long", "A rule of the account points at it: {what}",
          "Look at the task; cancel the job if it should not run so long.", _P, True),
    Cause("upload_waits", "Upload waits", "{what}",
          "Go on with the upload, or cancel the job.", _P, True),
    Cause("output_renamed", "Output renamed",
          "The output {path} has a name that another one has, or that cannot be kept: it is {name}.",
          "Give each output of the File Output nodes, and each view, a name of its own.", _S, True),
    Cause("output_without_picture", "Output without a picture",
          "The output {path} is not written: no picture reaches it.",
          "Enable the pass or view layer that it takes, or unlink it.", _S, True),
    Cause("uniform_picture", "One colour only", "Every pixel of {path} is the same.",
          "Look at it: a hidden collection or a camera inside an object does this.", _S, True),
]  # fmt: skip

_MAYBE_NODE = frozenset(
    {"all_nan", "crashed", "ended_early", "hung_at_exit", "no_picture", "no_progress", "out_of_memory",
     "render_failed"}
)  # fmt: skip
"""Usually the scene's fault; if different jobs fail so on one node, the node's (bad memory, for example)."""
_EVERYWHERE = frozenset(
    {"bad_frames", "missing_files", "newer_file", "no_camera", "ocio_fallback", "scripts_blocked",
     "too_many_files", "unknown_camera", "unknown_engine", "unknown_scene", "unknown_view_layer",
     "unreadable_scene", "wrong_frame", "wrong_resolution"}
)  # fmt: skip
_AT_OPENING = frozenset(
    {"addon_failed", "bad_addon", "cannot_open", "missing_files", "newer_file", "no_camera", "ocio_fallback",
     "scripts_blocked", "unknown_camera", "unknown_engine", "unknown_scene", "unknown_view_layer"}
)  # fmt: skip

CAUSES: dict[str, Cause] = {cause.code: cause for cause in [*_FAILURES, *_WARNINGS]}
