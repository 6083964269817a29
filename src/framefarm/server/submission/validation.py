"""Every rule of a submission: all its errors are reported together, before anything is stored."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import sqlalchemy as sa
from pydantic import ValidationError

from framefarm.core import frame_grammar as grammar
from framefarm.core.errors import Conflict, FieldError, InvalidInput
from framefarm.core.failure_codes import explain
from framefarm.core.frame_grammar import Pick
from framefarm.core.frame_runs import FrameSpecError
from framefarm.core.frames import FrameSet
from framefarm.core.output_names import problem_of_pattern
from framefarm.core.paths import normalise, normalise_all
from framefarm.protocol.api_jobs import (
    MAX_ENVIRONMENT_BYTES,
    MAX_VALUE_BYTES,
    JobSubmission,
    Notify,
    is_refused,
)
from framefarm.server.accounts.tables import accounts
from framefarm.server.actor import Actor
from framefarm.server.billing import service as billing
from framefarm.server.catalog import destinations
from framefarm.server.catalog import service as catalog
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.files import manifests
from framefarm.server.jobs.tables import job_state, jobs
from framefarm.server.jobs.warnings import JobWarning
from framefarm.server.mail import service as mail
from framefarm.server.projects import service as projects
from framefarm.server.submission.parsing import Submitted
from framefarm.server.tenancy import farmwide, scoped

T = TypeVar("T")
MOST_REUSED = 100
"""Most reused inputs that are warned of one by one."""
_HEX = {"upload_md5s": re.compile(r"[0-9a-f]{32}\Z"), "upload_sha256s": re.compile(r"[0-9a-f]{64}\Z")}
_EMPTY = FrameSet.from_text("")


@dataclass
class Prepared:
    """A submission that passed every rule, ready to be stored."""

    body: JobSubmission
    instance: catalog.Instance
    package: catalog.Package
    destination: destinations.OutputDestination
    paths: list[str]
    pins: manifests.Pins
    scene_path: str | None
    frames: FrameSet | None
    scouts: FrameSet
    depends_on: list[str]
    """Ids of the jobs to wait for."""
    snapshot: manifests.Snapshot
    warnings: list[JobWarning] = field(default_factory=list)
    manifest_sha256: str = ""
    addons: list[str] = field(default_factory=list)


def destination_of(
    tx: Tx, context: AppContext, actor: Actor, submitted: Submitted
) -> destinations.OutputDestination | None:
    """The destination of the frames; None where `prepare` refuses it."""
    if "output_path" in submitted.bad_fields:
        return None
    with contextlib.suppress(InvalidInput):
        return destinations.resolve(tx, context, actor.account_id, submitted.body.output_path)
    return None


def prepare(
    tx: Tx, context: AppContext, actor: Actor, submitted: Submitted, unwritable: InvalidInput | None = None
) -> Prepared:
    """Check every rule. Raises NotAllowed; InvalidInput with every bad field, else Conflict.

    `unwritable`: the error, if the destination of `destination_of` cannot be written. The caller checks that
    outside of any transaction, as it waits for a disk.
    """
    actor.must_write()
    body, check = submitted.body, _Checks(submitted)
    account_id = actor.account_id
    check(lambda: projects.project_for_job(tx, account_id, body.project), "project")
    instance = check(
        lambda: catalog.instance_for(tx, account_id, body.instance_type, actor.is_admin), "instance_type"
    )
    wrapped = context.settings.sandbox == "bubblewrap"
    package = check(
        lambda: catalog.package_for(tx, body.blender_version, bubblewrap=wrapped), "blender_version"
    )
    destination = check(lambda: _destination(tx, context, account_id, body, unwritable), "output_path")
    if instance is not None:
        check(lambda: _preemptible(body, instance), "preemptible")
    frames = check(lambda: _frames(body), "frame_range")
    scouts = check(lambda: _scouts(body, frames), "scout_frames")
    paths = check(lambda: _paths(body), "upload_paths")
    scene_path = check(lambda: _scene(body, paths), "scene_path")
    texts = dict(zip(body.upload_paths, paths, strict=True)) if paths is not None else None
    pins: dict[str, tuple[str | None, str | None]] = {}
    check(lambda: _pins(pins, "upload_md5s", body.upload_md5s, texts), "upload_md5s")
    check(lambda: _pins(pins, "upload_sha256s", body.upload_sha256s, texts), "upload_sha256s")
    depends = check(lambda: _dependencies(tx, actor, body), "depends_on")
    check(lambda: _environment(body, texts), "environment_variables")
    check(lambda: _output_name(body), "output_name")
    check(lambda: _notify(tx, context, account_id, body), "notify")
    addons = check(lambda: _addons(tx, account_id, body, paths), "addons")
    check(lambda: billing.must_have_credit(tx, account_id), "")
    check.done()
    assert instance is not None and package is not None
    assert destination is not None and paths is not None and depends is not None
    snapshot = manifests.snapshot(tx, account_id, actor.user_id, paths, pins)
    prepared = Prepared(
        body, instance, package, destination, paths, pins, scene_path,
        None if isinstance(frames, Pick) else frames, scouts or _EMPTY, depends, snapshot,
        addons=addons or [],
    )  # fmt: skip
    _warn(tx, context, actor, prepared)
    return prepared


def _notify(tx: Tx, context: AppContext, account_id: str, body: JobSubmission) -> None:
    if body.notify is None:
        return
    try:  # beside another bad field it is not parsed yet
        notify = Notify.model_validate(body.notify)
    except ValidationError:
        return  # reported already
    mail.check_addresses(tx, context.settings, account_id, notify.email)


class _Checks:
    """Runs checks of fields that parsed, and collects their errors until `done`."""

    def __init__(self, submitted: Submitted) -> None:
        self._bad_fields = submitted.bad_fields
        self._errors = list(submitted.errors)
        self._conflict: Conflict | None = None

    def __call__(self, work: Callable[[], T], name: str) -> T | None:
        """The check's result; None if the field `name` did not parse, or was refused."""
        if name in self._bad_fields:
            return None
        try:
            return work()
        except InvalidInput as bad:
            self._errors.extend(bad.errors)
        except Conflict as conflict:
            self._conflict = conflict
        return None

    def done(self) -> None:
        """Raise InvalidInput with every bad field, else the Conflict that a check raised, if any."""
        if self._errors:
            raise InvalidInput(self._errors)
        if self._conflict is not None:
            raise self._conflict


def _refuse(errors: list[FieldError]) -> None:
    if errors:
        raise InvalidInput(errors)


def _destination(
    tx: Tx, context: AppContext, account_id: str, body: JobSubmission, unwritable: InvalidInput | None
) -> destinations.OutputDestination:
    destination = destinations.resolve(tx, context, account_id, body.output_path)
    if unwritable is not None:
        raise unwritable
    return destination


def _preemptible(body: JobSubmission, instance: catalog.Instance) -> None:
    if body.preemptible and instance.preemptible_price_micros is None:
        sentence = f"must be false: {instance.id} has no preemptible price"
        raise InvalidInput.of("preemptible", sentence, True)


def _frames(body: JobSubmission) -> FrameSet | Pick:
    try:
        return grammar.parse(body.frame_range)
    except FrameSpecError as error:
        raise InvalidInput.of("frame_range", str(error), body.frame_range[:200]) from None


def _scouts(body: JobSubmission, frames: FrameSet | Pick | None) -> FrameSet | None:
    """The scouts; None while the frames are unknown: then only the grammar is checked."""
    try:
        if isinstance(frames, FrameSet):
            return grammar.resolve_scouts(body.scout_frames, frames)
        if body.scout_frames:
            grammar.parse_frames(body.scout_frames)
    except FrameSpecError as error:
        raise InvalidInput.of("scout_frames", str(error), body.scout_frames[:200]) from None
    return None


def _paths(body: JobSubmission) -> list[str]:
    """The upload paths, normalised, in their order."""
    paths, errors = normalise_all(body.upload_paths)
    _refuse(errors)
    if body.scene_path is None and not any(p.lower().endswith(".blend") for p in paths):
        sentence = "none of them is a .blend: upload the scene, or name it in scene_path"
        errors.append(FieldError("upload_paths", sentence, paths[0]))
    _refuse(errors)
    return paths


def _scene(body: JobSubmission, paths: list[str] | None) -> str | None:
    """The scene's path; None if it may be one of several .blends."""
    if body.scene_path is None:
        blends = [p for p in paths or () if p.lower().endswith(".blend")]
        return blends[0] if len(blends) == 1 else None
    return _one_of(paths, body.scene_path, "scene_path")


def _one_of(paths: Collection[str] | None, given: str, field: str) -> str:
    """The upload path that `given` names; `given` normalised, if the upload paths did not parse."""
    try:
        path = normalise(given)
    except ValueError as error:
        raise InvalidInput.of(field, str(error), given[:200]) from None
    if paths is None or path.text in paths:
        return path.text
    if path.kind != "posix":  # Windows ignores case
        for candidate in paths:
            if candidate.lower() == path.text.lower():
                return candidate
    raise InvalidInput.of(field, "must be one of upload_paths", given[:200])


def _addons(tx: Tx, account_id: str, body: JobSubmission, paths: Collection[str] | None) -> list[str]:
    """The add-ons' upload paths. Enabling one runs its code."""
    if not body.addons:
        return []
    account = sa.select(accounts.c.allow_scripts).where(accounts.c.id == account_id)
    if not tx.conn.execute(farmwide(account)).scalar_one():
        sentence = "an add-on is code, and this account's jobs may not run any: ask the farm's operator"
        raise InvalidInput.of("addons", sentence, body.addons[0][:200])
    errors: list[FieldError] = []
    addons: list[str] = []
    for index, given in enumerate(body.addons):
        try:
            addons.append(_one_of(paths, given, f"addons[{index}]"))
        except InvalidInput as bad:
            errors += bad.errors
    _refuse(errors)
    return list(dict.fromkeys(addons))


def _pins(
    pins: dict[str, tuple[str | None, str | None]],
    name: str,
    given: Mapping[str, str],
    texts: Mapping[str, str] | None,
) -> None:
    """Add one kind of digest to `pins`: (MD5, SHA-256) by path. `texts` is {path as given: normalised}."""
    errors: list[FieldError] = []
    known = set(texts.values()) if texts is not None else None
    fits, is_md5 = _HEX[name].match, name == "upload_md5s"
    for path, digest in given.items():
        text = texts.get(path) if texts is not None else None
        if text is None:
            try:
                text = normalise(path).text
            except ValueError as error:
                errors.append(FieldError(f"{name}.{path[:200]}", str(error), path[:200]))
                continue
            if known is not None and text not in known:
                errors.append(FieldError(f"{name}.{path[:200]}", "is not one of upload_paths", path[:200]))
        value = manifests.md5_hex(digest) if is_md5 else digest.lower()
        if value is None or not fits(value):
            allowed = "32 hex digits, or 24 characters of base64" if is_md5 else "64 hex digits"
            errors.append(FieldError(f"{name}.{path[:200]}", f"must be {allowed}", digest[:100]))
            continue
        md5, sha = pins.get(text, (None, None))
        pins[text] = (value, sha) if is_md5 else (md5, value)
    _refuse(errors)


def _environment(body: JobSubmission, texts: Mapping[str, str] | None) -> None:
    variables = body.environment_variables
    errors: list[FieldError] = []
    for name, text in variables.items():
        where = f"environment_variables.{name[:200]}"
        if is_refused(name):
            errors.append(FieldError(where, "is the farm's own and may not be set: leave it out", text))
        if "\0" in text or len(text.encode()) > MAX_VALUE_BYTES:
            sentence = f"must have at most {MAX_VALUE_BYTES >> 10} KiB, and no NUL character"
            errors.append(FieldError(where, sentence, text))
    if sum(len(n) + len(v.encode()) for n, v in variables.items()) > MAX_ENVIRONMENT_BYTES:
        sentence = f"all names and values together must have at most {MAX_ENVIRONMENT_BYTES >> 10} KiB"
        errors.append(FieldError("environment_variables", sentence, len(variables)))
    _refuse(errors)
    if "OCIO" in variables and texts is not None:
        _one_of(texts.values(), variables["OCIO"], "environment_variables.OCIO")


def _output_name(body: JobSubmission) -> None:
    if body.output_name is not None and (problem := problem_of_pattern(body.output_name)) is not None:
        raise InvalidInput.of("output_name", problem, body.output_name[:200])


def _dependencies(tx: Tx, actor: Actor, body: JobSubmission) -> list[str]:
    """The jobs to wait for, sorted. No job waits for a new one, so a cycle cannot be submitted."""
    wanted = list(dict.fromkeys(body.depends_on))
    if not wanted:
        return []
    query = scoped(sa.select(jobs.c.id), jobs, actor.account_id).where(
        jobs.c.id.in_(wanted), jobs.c.deleted_ms.is_(None)
    )
    known = set(tx.conn.execute(query).scalars())
    unknown = sorted(set(wanted) - known)
    _refuse([FieldError("depends_on", "there is no such job in your account", u) for u in unknown])
    return sorted(known)


def _warn(tx: Tx, context: AppContext, actor: Actor, prepared: Prepared) -> None:
    if context.settings.sandbox == "none":
        _add_warning(prepared, "no_sandbox", explain("no_sandbox"), "")
    used = [path for path in prepared.snapshot.used if path not in prepared.pins]
    for path in used[:MOST_REUSED]:
        text = "An earlier job used this file, and nothing was uploaded for it since."
        _add_warning(prepared, "input_not_reconfirmed", text, path)
    if len(used) > MOST_REUSED:
        text = f"Earlier jobs used {len(used) - MOST_REUSED:,} more of its files, also without a new upload."
        _add_warning(prepared, "input_not_reconfirmed", text, "")
    shared = (
        scoped(sa.select(jobs.c.id), jobs, actor.account_id)
        .join(job_state, job_state.c.job_id == jobs.c.id)
        .where(jobs.c.output_url == prepared.destination.url, jobs.c.deleted_ms.is_(None))
    )
    other = tx.conn.execute(shared.order_by(jobs.c.id.desc()).limit(1)).scalar()
    if other is not None:
        text = f"Job {other} has the same output_path: of two files with the same name the later one is kept."
        _add_warning(prepared, "output_shared", text, other)


def _add_warning(prepared: Prepared, code: str, message: str, subject: str) -> None:
    prepared.warnings.append(JobWarning(code=code, message=message, subject=subject))
