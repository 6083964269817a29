"""The artist's commands: their output for people and programs, and their exit codes."""

from __future__ import annotations

import json
import queue
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from fake_farm import FakeFarm, job
from typer.testing import CliRunner, Result

from framefarm.cli import watch
from framefarm.cli.main import build
from framefarm.cli.submit import OPTIONS
from framefarm.client import Credentials, Login, follow
from framefarm.client.errors import Refused, Unreachable
from framefarm.protocol.api_jobs import JobSubmission


def run(*words: str, input: str | None = None) -> Result:
    return CliRunner().invoke(build(words[0]), list(words), input=input)


@pytest.fixture
def farm(fake: FakeFarm, monkeypatch: pytest.MonkeyPatch) -> FakeFarm:
    """A fake farm with a stored login, followed without pauses."""
    Credentials().save(Login(fake.url, "t0k"))
    for name in ("PACE_SECONDS", "QUIET_SECONDS", "LEAVING_SECONDS", "POLL_SECONDS", "RESUME_SECONDS"):
        monkeypatch.setattr(follow, name, 0.01)
    fake.job = job()
    return fake


def test_login_stores_the_token_for_later_commands(fake: FakeFarm) -> None:
    done = run(
        "login", fake.url, "--email", "ada@studio.example", "--password-file", "-", input="pass word\n"
    )
    assert done.exit_code == 0, done.stderr
    assert fake.received[0].json == {"email": "ada@studio.example", "password": "pass word"}
    assert "t0k" not in done.output
    assert Credentials().login().token == "t0k"


def test_login_without_a_terminal_names_the_missing_option(fake: FakeFarm) -> None:
    done = run("login", fake.url, "--email", "ada@studio.example")
    assert (done.exit_code, "--password-file" in done.stderr) == (1, True)


def test_a_wrong_password_has_its_own_exit_code(fake: FakeFarm) -> None:
    fake.failures = [(401, {}, {"detail": "Wrong email or password."})]
    done = run("login", fake.url, "--email", "a@b.example", "--password", "x")
    assert (done.exit_code, "Wrong email or password." in done.stderr) == (4, True)


def test_logout_forgets_the_login(farm: FakeFarm) -> None:
    assert run("logout").exit_code == 0
    assert farm.requests("POST", "/api/auth/logout")
    done = run("jobs")
    assert (done.exit_code, "framefarm login" in done.stderr) == (4, True)


@pytest.mark.blender
def test_submit_uploads_files_pins_their_hashes_and_warns_of_missing_ones(
    farm: FakeFarm, blends: Path
) -> None:
    done = run("submit", str(blends / "shot.blend"), "--chunk", "2", "--scouts", "fml:3")
    assert done.exit_code == 0, done.stderr
    posted = farm.job
    assert len(posted["upload_paths"]) == 12
    assert len(farm.content) <= len(farm.requests("POST", "/api/uploads/file")) == 12
    assert set(posted["upload_sha256s"]) == set(posted["upload_md5s"]) == set(posted["upload_paths"])
    chosen = ("project", "instance_type", "preemptible", "frame_range", "scout_frames", "chunk_size")
    assert [posted[name] for name in chosen] == ["default", "local-1", True, "5-20x5", "fml:3", 2]
    assert (posted["blender_version"], posted["output_path"]) == ("blender-4-2", "default/shot")
    assert posted["scene_path"] == str(blends / "shot.blend")
    assert "gone.png does not exist" in done.stderr.replace("\n", "")
    assert "job_1" in done.stdout


@pytest.mark.blender
def test_a_second_submit_uploads_nothing(farm: FakeFarm, blends: Path) -> None:
    run("submit", str(blends / "shot.blend"))
    farm.received.clear()
    done = run("submit", str(blends / "shot.blend"), "--json")
    assert farm.requests("POST", "/api/uploads/file") == []
    answer = json.loads(done.stdout)
    assert (answer["sent"], answer["missing_on_disk"]) == (
        {"files": 0, "bytes": 0},
        [str(blends / "textures" / "gone.png")],
    )


@pytest.mark.blender
def test_a_dry_run_sends_and_submits_nothing(farm: FakeFarm, blends: Path) -> None:
    run("submit", str(blends / "shot.blend"), "--dry-run", "--json")
    posts = [(r.path, r.query) for r in farm.received if r.method == "POST"]
    assert posts == [("/api/jobs", {"dry_run": ["true"]})]


def saved_by(blends: Path, tmp_path: Path, version: bytes, engine: bytes = b"CYCLES") -> str:
    """The scene as if another Blender had saved it, with another engine of its scenes."""
    content = (blends / "shot.blend").read_bytes()
    assert content[9:12] == b"402"
    path = tmp_path / "other.blend"
    renamed = content[12:].replace(b"BLENDER_EEVEE_NEXT".ljust(32, b"\0"), engine.ljust(32, b"\0"))
    path.write_bytes(content[:9] + version + renamed)
    return str(path)


@pytest.mark.blender
def test_a_dry_run_names_the_blender_that_fits(farm: FakeFarm, blends: Path, tmp_path: Path) -> None:
    newer = saved_by(blends, tmp_path, b"405")
    done = run("submit", newer, "--blender", "4.2", "--dry-run")
    assert done.exit_code == 1 and farm.requests("POST", "/api/jobs") == []
    assert "can install Blender 4.5" in done.stderr.replace("\n", " ")
    farm.packages.append({"id": "blender-5-0", "release": "5.0.1", "status": "available", "lacks": None})
    assert "blender-5-0 fits" in run("submit", newer, "--blender", "4.2").stderr.replace("\n", " ")
    assert run("submit", newer, "--dry-run", "--json").exit_code == 0  # it takes 5.0 by itself
    old = saved_by(blends, tmp_path, b"279", b"BLENDER_RENDER")
    done = run("submit", old, "--dry-run", "--json")
    assert done.exit_code == 0
    warnings = json.loads(done.stdout)["blender_warnings"]
    assert any("Blender Internal" in w for w in warnings) and any("2.79" in w for w in warnings)
    assert "Blender Internal" in done.stderr


@pytest.mark.blender
def test_a_refused_submission_uploads_nothing(farm: FakeFarm, blends: Path) -> None:
    farm.refusals["/api/jobs"] = {"detail": "bad", "errors": [{"field": "chunk_size", "message": "is bad"}]}
    done = run("submit", str(blends / "shot.blend"), "--chunk", "0")
    assert (done.exit_code, "--chunk: is bad" in done.stderr) == (1, True)
    assert not [r for r in farm.received if r.path.startswith("/api/uploads")]


@pytest.mark.blender
def test_every_option_of_submit_reaches_the_job(farm: FakeFarm, blends: Path) -> None:
    given: dict[str, tuple[list[str], str, Any]] = {
        "--frames": (["1-3"], "frame_range", "1-3"),
        "--instance": (["local-2"], "instance_type", "local-2"),
        "--blender": (["4.5"], "blender_version", "4.5"),
        "--project": (["film"], "project", "film"),
        "--title": (["A title"], "job_title", "A title"),
        "--output": (["gs://renders/x"], "output_path", "gs://renders/x"),
        "--on-demand": ([], "preemptible", False),
        "--preemptible-retries": (["4"], "preemptible_retries", 4),
        "--priority": (["70"], "priority", 70),
        "--hold": ([], "hold", True),
        "--engine": (["eevee"], "render_software", "eevee"),
        "--env": (["A=b=c"], "environment_variables", {"A": "b=c"}),
        "--metadata": (["shot=12"], "metadata", {"shot": "12"}),
        "--scene-name": (["Still"], "scene", "Still"),
        "--camera": (["Cam"], "camera", "Cam"),
        "--view-layer": (["Glow"], "view_layers", ["Glow"]),
        "--resolution-percentage": (["50"], "resolution_percentage", 50),
        "--samples": (["16"], "samples", 16),
        "--max-sessions": (["3"], "max_sessions", 3),
        "--task-retries": (["0"], "task_retries", 0),
        "--max-task-runtime": (["60"], "max_task_runtime_seconds", 60),
        "--depends-on": (["job_0"], "depends_on", ["job_0"]),
        "--on-missing-files": (["fail"], "on_missing_files", "fail"),
        "--on-blocked-scripts": (["warn"], "on_blocked_scripts", "warn"),
        "--notify": (["a@b.org"], "notify", {"email": ["a@b.org"], "on": ["failed"]}),
        "--notify-on": (["failed"], "notify", {"email": ["a@b.org"], "on": ["failed"]}),
    }
    words = [word for option, (values, _, _) in given.items() for word in (option, *values)]
    done = run("submit", str(blends / "shot.blend"), "--no-trace", *words)
    assert done.exit_code == 0, done.stderr
    assert {name: farm.job[name] for _, name, _ in given.values()} == {n: v for _, n, v in given.values()}
    assert farm.job["upload_paths"] == [str(blends / "shot.blend")]


@pytest.mark.blender
def test_addons_and_a_colour_configuration_with_its_luts_are_uploaded(
    farm: FakeFarm, blends: Path, tmp_path: Path
) -> None:
    (tmp_path / "luts").mkdir()
    text = "search_path: luts\nx: !<FileTransform> {src: a.spi1d}\ny: !<FileTransform> {src: b}\n"
    for name, content in {"config.ocio": text, "luts/a.spi1d": "", "luts/other": "", "tint.zip": ""}.items():
        (tmp_path / name).write_text(content)
    words = ["--no-trace", "--env", f"OCIO={tmp_path}/config.ocio", "--addon", str(tmp_path / "tint.zip")]
    done = run("submit", str(blends / "shot.blend"), *words)
    assert done.exit_code == 0, done.stderr
    names = ["tint.zip", "config.ocio", "luts/a.spi1d", "luts/other"]
    assert farm.job["upload_paths"] == [str(blends / "shot.blend"), *(str(tmp_path / n) for n in names)]
    assert farm.job["addons"] == [str(tmp_path / "tint.zip")]
    assert (
        f"{tmp_path}/luts/b does not exist; colour configuration config.ocio wants it."
        in done.stderr.replace("\n", "")
    )


def test_a_colour_configuration_that_is_set_here_alone_or_not_there_is_told(
    farm: FakeFarm, blends: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCIO", "/studio/config.ocio")
    done = run("submit", str(blends / "shot.blend"), "--no-trace")
    assert "--env OCIO=/studio/config.ocio" in done.stderr.replace("\n", " ")
    done = run("submit", str(blends / "shot.blend"), "--no-trace", "--env", f"OCIO={tmp_path}/no.ocio")
    assert f"{tmp_path}/no.ocio does not exist" in done.stderr.replace("\n", "")
    assert "is set here" not in done.stderr


def test_a_scene_that_does_not_exist_is_an_error_without_any_request(farm: FakeFarm, tmp_path: Path) -> None:
    done = run("submit", str(tmp_path / "no.blend"))
    assert (done.exit_code, "does not exist" in done.stderr, farm.received) == (1, True, [])


def test_a_path_that_is_no_blend_is_reported_in_a_sentence(farm: FakeFarm, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no scene")
    for name, sentence in (("", "is a folder"), ("notes.txt", "is no .blend")):
        done = run("submit", str(tmp_path / name))
        assert (done.exit_code, "Errno" in done.output, farm.received) == (1, False, [])
        assert sentence in done.stderr.replace("\n", "")


def test_every_field_of_a_submission_is_known_by_its_option() -> None:
    """Errors name a field by its option. The fields left out here have none."""
    without_option = {"upload_paths", "upload_md5s", "upload_sha256s", "scene_path", "hold"}
    assert set(OPTIONS) - {"notify.on"} == set(JobSubmission.model_fields) - without_option
    shown = run("submit", "--help").stdout
    assert [option for option in OPTIONS.values() if option not in shown] == []


@pytest.mark.parametrize("filter_", ["--project", "--user", "--search", "--status"])
def test_an_empty_list_of_jobs_names_a_filter_or_suggests_submit(fake: FakeFarm, filter_: str) -> None:
    fake.no_jobs = True
    Credentials().save(Login(fake.url, "t0k"))
    assert "No jobs match" in run("jobs", filter_, "x").stderr
    assert "framefarm submit" in run("jobs").stderr


@pytest.mark.parametrize(
    ("final_state", "code"),
    [
        ({"status": "success", "frames": {"total": 8, "done": 8}}, 0),
        ({"status": "failed", "message": "The scene has no camera."}, 1),
        ({"status": "cancelled"}, 1),
        ({"status": "holding", "hold_reasons": ["scouts"]}, 3),
    ],
)
def test_watch_ends_with_the_job_and_exits_with_its_code(
    farm: FakeFarm, final_state: dict[str, Any], code: int
) -> None:
    farm.states = [{"status": "pending"}, {"status": "running"}, final_state]
    done = run("watch", "job_1")
    assert done.exit_code == code
    assert str(final_state["status"]) in done.stdout
    assert str(final_state.get("message", "")) in done.stdout
    assert "\x1b" not in done.output


def test_watch_waits_for_running_tasks_before_it_calls_a_job_holding(farm: FakeFarm) -> None:
    holding = {"status": "holding", "hold_reasons": ["user"]}
    busy = {"tasks": {"total": 8, "success": 0, "running": 1}}
    quiet = {"tasks": {"total": 8, "success": 1, "running": 0}}
    farm.states = [holding | busy, holding | busy, holding | quiet]
    assert run("watch", "job_1").exit_code == 3
    assert farm.states == []


def test_watch_continues_through_holds_on_request(farm: FakeFarm) -> None:
    farm.states = [{"status": "holding", "hold_reasons": ["scouts"]}, {"status": "success"}]
    assert run("watch", "job_1", "--through-holds").exit_code == 0


def event(number: int, event_type: str, **data: Any) -> dict[str, Any]:
    return {"number": number, "type": event_type, "data": data}


def frame_done(frame: int) -> dict[str, Any]:
    return event(frame, "frame.done", frame=frame, task=frame, seconds=1.5)


def test_watch_resumes_the_event_stream_after_the_last_event(farm: FakeFarm) -> None:
    running = {"status": "running"}
    cut, rest = [frame_done(1), frame_done(2)], [frame_done(3), event(4, "job.status", status="success")]
    farm.streams = [cut, rest]
    farm.states = [running] * 2
    resumed = []

    def finish_at_resume(request: Any) -> None:
        """Make the job a success once its stream is resumed."""
        if request.path.endswith("/events") and request.headers.get("last-event-id") == "2":
            resumed.append(True)
            farm.states = [{"status": "success"}]

    farm.on_request = finish_at_resume
    watched = run("watch", "job_1")
    assert (watched.exit_code, resumed) == (0, [True])
    last_ids = [r.headers.get("last-event-id") for r in farm.received if r.path.endswith("/events")]
    assert last_ids[:2] == [None, "2"]
    assert [line for line in watched.stderr.splitlines() if "frame" in line and "of" not in line] == [
        "  frame 1      1.5 s",
        "  frame 2      1.5 s",
        "  frame 3      1.5 s",
    ]


def test_watch_polls_without_an_event_stream_and_reports_that_once(farm: FakeFarm) -> None:
    farm.states = [{"status": "running"}] * 5 + [{"status": "success"}]
    watched = run("watch", "job_1")
    assert watched.exit_code == 0
    assert watched.stderr.count("There is no event stream") == 1
    assert len([r for r in farm.received if r.path.endswith("/events")]) == 1


@pytest.mark.parametrize("error", [Refused(404, {}), Unreachable("The connection broke.")])
def test_a_failed_event_stream_does_not_end_a_watch(error: Exception) -> None:
    """A proxy may hold back the stream's headers for ever, while other requests work."""
    items: Any = queue.SimpleQueue()
    notes: list[str] = []
    items.put(error)
    inbox = follow._EventInbox(items, notes.append)
    assert inbox.collect(60.0) == []
    assert (len(notes), inbox.is_behind({"status": "success"})) == (1, False)


def test_watch_prints_a_line_for_each_event_and_one_for_many_frames() -> None:
    failed = event(3, "task.attempt_ended", task=2, outcome="failed", status="pending", message="No camera.")
    assert list(watch.event_lines([frame_done(7), failed])) == [
        "  frame 7      1.5 s",
        "  an attempt of task 002 ended (failed, the task is retried): No camera.",
    ]
    assert list(watch.event_lines([frame_done(n) for n in range(1, 481)])) == ["  480 frames done: 1-480"]


def test_an_interrupt_ends_watch_without_a_traceback(farm: FakeFarm, monkeypatch: pytest.MonkeyPatch) -> None:
    farm.states = [{"status": "running"}]

    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(follow._EventInbox, "collect", interrupt)
    watched = run("watch", "job_1")
    assert (watched.exit_code, "Traceback" in watched.output) == (130, False)
    assert not [t for t in threading.enumerate() if t.name == "events" and t.is_alive()]


def test_notify_on_needs_an_address(farm: FakeFarm, blends: Path) -> None:
    done = run("submit", str(blends / "shot.blend"), "--no-trace", "--notify-on", "failed")
    assert (done.exit_code, "--notify EMAIL" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("words", "body"),
    [
        (["hold", "job_1"], {"action": "hold"}),
        (["hold", "job_1", "--now"], {"action": "hold", "drain": False}),
        (["unhold", "job_1"], {"action": "unhold"}),
        (["cancel", "job_1"], {"action": "cancel"}),
        (["priority", "job_1", "80"], {"priority": 80}),
    ],
)
def test_commands_that_change_a_job_send_its_new_state(
    farm: FakeFarm, words: list[str], body: dict[str, Any]
) -> None:
    farm.job |= {"priority": 50}
    assert run(*words).exit_code == 0
    assert farm.received[-1].json == body


def test_download_exits_with_an_error_that_names_the_file(farm: FakeFarm, tmp_path: Path) -> None:
    farm.rendered("a.png", b"one")
    farm.rendered("b.png", b"two")
    farm.spoiled["b.png"] = b"twi"
    done = run("download", "job_1", str(tmp_path / "out"))
    assert (done.exit_code, "b.png" in done.stderr) == (1, True)
    farm.spoiled.clear()
    done = run("download", "job_1", str(tmp_path / "out"), "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["already_there"] == ["a.png"]


def test_files_of_a_deleted_job_are_downloaded_and_changed_names_are_printed(
    farm: FakeFarm, tmp_path: Path
) -> None:
    farm.rendered('Shot 12: "dusk"?_0001.png', b"one")
    farm.failures = [(404, {}, {"title": "Not found", "detail": "There is no job job_1."})]
    done = run("download", "job_1", str(tmp_path / "out"))
    assert done.exit_code == 0
    assert 'Shot 12: "dusk"?_0001.png is here Shot 12_ _dusk___0001.png' in done.stdout
    assert (tmp_path / "out" / "Shot 12_ _dusk___0001.png").read_bytes() == b"one"


def test_every_bad_field_is_shown_with_what_was_given(farm: FakeFarm) -> None:
    errors = [
        {"field": "priority", "message": "must be between 0 and 100", "given": 900},
        {"field": "action", "message": "is\x1b[2J unknown", "given": None},
    ]
    farm.failures = [(422, {}, {"title": "Bad input", "detail": "two", "errors": errors})]
    done = run("priority", "job_1", "900")
    assert done.exit_code == 1
    assert "priority: must be between 0 and 100 (given: 900)" in done.stderr
    assert "action: is unknown" in done.stderr


def test_errors_are_json_with_the_json_option(farm: FakeFarm) -> None:
    farm.failures = [(404, {}, {"status": 404, "detail": "There is no such job."})]
    done = run("job", "job_x", "--json")
    assert (done.exit_code, done.stdout) == (1, "")
    assert json.loads(done.stderr)["error"]["status"] == 404


def test_a_job_s_id_cannot_lead_to_another_path(farm: FakeFarm) -> None:
    run("job", "../billing/current-period", "--json")
    assert farm.received[-1].path == "/api/jobs/%2E%2E%2Fbilling%2Fcurrent-period"


def test_every_command_takes_json_and_shows_an_example() -> None:
    app = build("jobs")
    for command in app.registered_commands:
        shown = run(str(command.name), "--help").stdout
        assert "--json" in shown, command.name
        assert f"framefarm {command.name}" in shown, command.name


def test_artists_commands_import_no_package_of_the_server() -> None:
    heavy = {"fastapi", "sqlalchemy", "uvicorn", "pydantic", "msgspec", "psutil", "framefarm.server"}
    import subprocess

    code = (
        "import sys; from framefarm.cli.main import build; build('submit');"
        f"print(sorted(set(sys.modules) & {heavy!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_server_command_names_the_packages_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [n for n in sys.modules if n.startswith("framefarm.cli.")]:
        if name.rpartition(".")[2] in {"serve", "admin", "blender"}:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "framefarm.cli.serve", None)
    done = run("serve", "--data", "x")
    assert (done.exit_code, "framefarm[server,node]" in done.stderr) == (1, True)
