"""Unpack the job's add-ons into Blender's user folder, and enable them.

The zips and their code are hostile; the boundary is the sandbox. The checks here only give clear messages for
zips that would fail later.
"""

import os
import re
import shutil
import stat
import sys
import zipfile

import bpy
from in_blender.failure import Failure

MAX_FILES = 50_000
MAX_BYTES = 2 << 30
MANIFEST = "blender_manifest.toml"
REPOSITORY = "user_default"
_enabled = set()


def enable(zips):
    """Install and enable the add-ons, each once per Blender process. Raises Failure."""
    for path in zips:
        if path not in _enabled:
            _enable(os.path.basename(path), _install(path))
            _enabled.add(path)


def _install(path):
    """Unpack one add-on; returns the name of the module to enable."""
    file = os.path.basename(path)
    try:
        with zipfile.ZipFile(path) as zipped:
            return _unpack(file, zipped)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise _bad(file, f"it is no whole zip ({error})") from None
    except OSError as error:
        raise _bad(file, error.strerror or str(error)) from None


def _unpack(file, zipped):
    entries = [
        entry for entry in zipped.infolist() if not entry.is_dir() and not _is_system_file(entry.filename)
    ]
    _check_entries(file, entries)
    names = {entry.filename for entry in entries}
    base = _common_folder(names)
    if base + MANIFEST in names:
        module, folder = _extension(file, zipped, base)
    elif base + "__init__.py" in names and base:
        module, base, folder = base.rstrip("/"), "", _user_folder("SCRIPTS", "addons")
    else:
        loose = [name for name in names if "/" not in name and name.endswith(".py")]
        if len(loose) != 1:
            raise _bad(file, f"it has neither a {MANIFEST} nor a folder with an __init__.py")
        module, base, folder = loose[0][:-3], "", _user_folder("SCRIPTS", "addons")
    if not re.fullmatch(r"[A-Za-z_][\w.]*", module):
        raise _bad(file, f"{module!r} is no name that can be imported")
    if folder not in sys.path and not module.startswith("bl_ext."):
        sys.path.append(folder)
    remaining_bytes = MAX_BYTES
    for entry in entries:
        target = os.path.join(folder, entry.filename[len(base) :])
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with zipped.open(entry) as source, open(target, "wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
            remaining_bytes -= out.tell()
        if remaining_bytes < 0:
            raise _bad(file, "it is larger unpacked than it says")
    return module


def _check_entries(file, entries):
    if len(entries) > MAX_FILES:
        raise _bad(file, f"it has more than {MAX_FILES} files")
    if sum(entry.file_size for entry in entries) > MAX_BYTES:
        raise _bad(file, f"it is larger than {MAX_BYTES >> 30} GiB unpacked")
    for entry in entries:
        parts = entry.filename.split("/")
        if "\\" in entry.filename or any(part in ("", ".", "..") for part in parts):
            raise _bad(file, f"it holds {entry.filename[:100]!r}, which leads out of its folder")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise _bad(file, f"it holds {entry.filename[:100]!r}, which is a link")


def _is_system_file(name):
    return name.startswith("__MACOSX/") or name.endswith(".DS_Store")


def _common_folder(names):
    """The one folder that holds all entries, with a slash at its end; empty if there is none."""
    tops = {name.partition("/")[0] + "/" for name in names}
    return tops.pop() if len(tops) == 1 and all("/" in name for name in names) else ""


def _extension(file, zipped, base):
    if bpy.app.version < (4, 2):
        raise _bad(file, "it is an extension, which Blender knows from 4.2 on")
    import tomllib

    try:
        manifest = tomllib.loads(zipped.read(base + MANIFEST).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _bad(file, f"its {MANIFEST} cannot be read ({error})") from None
    name = manifest.get("id")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise _bad(file, f"its {MANIFEST} has no id that can be imported")
    if manifest.get("type", "add-on") != "add-on":
        raise _bad(file, f"it is a {manifest['type']!s:.40}, not an add-on")
    return f"bl_ext.{REPOSITORY}.{name}", os.path.join(_user_folder("EXTENSIONS", REPOSITORY), name)


def _user_folder(kind, path):
    folder = bpy.utils.user_resource(kind, path=path, create=True)
    if not folder:
        raise Failure("blender_broken", what="it has no user folder for add-ons")
    return folder


def _enable(file, module):
    import addon_utils

    errors = []
    if module.startswith("bl_ext."):
        repos = bpy.context.preferences.extensions.repos
        if not any(repo.module == REPOSITORY for repo in repos):
            repos.new(name="User Default", module=REPOSITORY)
    addon_utils.modules_refresh()
    loaded = addon_utils.enable(module, default_set=True, persistent=True, handle_error=errors.append)
    if loaded is None or errors:
        why = f"{type(errors[0]).__name__}: {errors[0]}" if errors else "Blender does not say why"
        raise Failure("addon_failed", file=file, what=" ".join(why.split())[:500].rstrip("."))


def _bad(file, what):
    return Failure("bad_addon", file=file, what=what.rstrip("."))
