"""Failure codes: their sentences, and whose fault each may be."""

from __future__ import annotations

import pytest

from framefarm.core.failure_codes import (
    CAUSES,
    Fault,
    explain,
    fails_everywhere,
    is_node_fault,
    is_scene_fault,
    may_be_node_fault,
)

DOUBTFUL = {
    "all_nan", "crashed", "ended_early", "hung_at_exit", "no_picture", "no_progress", "out_of_memory",
    "render_failed",
}  # fmt: skip
CERTAIN = {
    "bad_frames", "missing_files", "newer_file", "no_camera", "ocio_fallback", "scripts_blocked",
    "too_many_files", "unknown_camera", "unknown_engine", "unknown_scene", "unknown_view_layer",
    "unreadable_scene", "wrong_frame", "wrong_resolution",
}  # fmt: skip
WARNINGS = {
    "bake_too_short", "blocked_scripts", "budget_low", "decoder_died", "eevee_changed", "engine_replaced",
    "feature_lacking", "input_not_reconfirmed", "library_files_missing", "old_file", "package_switched",
    "library_unread", "missing_file", "movie_as_frames", "no_sandbox", "output_shared",
    "picture_too_large", "place_unwritable", "samples_ignored", "scene_guessed", "script_error",
    "simulation_must_be_baked",
    "task_runs_long", "unbaked_simulation", "uniform_picture", "unknown_colours", "upload_waits",
    "output_renamed", "output_without_picture",
}  # fmt: skip


def codes(*faults: Fault) -> set[str]:
    return {code for code, cause in CAUSES.items() if cause.fault in faults}


def test_a_sentence_has_its_facts_and_then_the_remedy() -> None:
    cause = CAUSES["output_shared"]
    assert "{job}" in cause.sentence
    assert explain("output_shared", {"job": 7}) == f"{cause.sentence.format(job=7)} {cause.remedy}"
    assert explain("output_shared") == f"{cause.sentence.format(job='')} {cause.remedy}"
    waits = CAUSES["upload_waits"]
    assert waits.sentence == "{what}"
    assert explain("upload_waits") == waits.remedy
    with pytest.raises(KeyError):
        explain("no_such_code")


def test_codes_are_listed_under_their_own_name() -> None:
    assert all(code == cause.code for code, cause in CAUSES.items())


def test_warnings_are_those_that_end_nothing() -> None:
    assert {code for code, cause in CAUSES.items() if cause.warning} == WARNINGS


def test_certain_codes_end_so_on_every_machine() -> None:
    assert {code for code in CAUSES if fails_everywhere(code)} == CERTAIN
    assert not fails_everywhere("no_such_code")


def test_faults_of_the_machine_are_told_from_those_of_the_scene() -> None:
    assert {code for code in CAUSES if is_node_fault(code)} == codes(Fault.MACHINE)
    assert {code for code in CAUSES if is_scene_fault(code)} == codes(Fault.SCENE, Fault.PERSON) - {
        "rule_runtime"
    }
    assert not is_node_fault("no_such_code") and not is_scene_fault("no_such_code")


def test_an_end_without_a_frame_may_be_the_machines_where_scenes_are_not_certainly_to_blame() -> None:
    speaking = {code for code in CAUSES if may_be_node_fault(code)}
    assert speaking == DOUBTFUL | codes(Fault.MACHINE, Fault.FARM)
    assert not may_be_node_fault("no_such_code")


def test_an_end_after_a_frame_is_the_machines_only_by_its_own_fault() -> None:
    speaking = {code for code in CAUSES if may_be_node_fault(code, committed=True)}
    assert speaking == codes(Fault.MACHINE) - {"machine_lost"}
