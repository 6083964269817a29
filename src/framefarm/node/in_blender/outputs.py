"""Where a frame's files are written, and which files a complete frame has.

Blender itself makes the names: it numbers them, fills in its templates and adds views and extensions. So each
input of a File Output node writes into a place of its own, which tells afterwards who wrote a file, whatever
its name became; then the files are moved to the names that Blender gave them, below a folder of the node's.
"""

import os
import re
import shutil
import unicodedata

from in_blender import compositor

WRITTEN = ".written"
"""Folder in the frame's folder where Blender writes the files of File Output nodes."""
_MARK = re.compile(r"@(\d+)~farm@")
"""Mark in a path, for the input that wrote the file."""
_DIRECTION_MARKS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that change the writing direction; files with them are refused (node/output_files.py)."""


class _Slot:
    """One input of a File Output node, or all of a multilayer file's. `name`: as the artist wrote it."""

    def __init__(self, name, picture, form):
        self.name = name
        self.picture = picture
        self.form = form


class _Node:
    """A File Output node. `folder`: its folder below the frame's."""

    def __init__(self, scene, node, around, folder):
        self.scene = scene
        self.node = node
        self.folder = folder
        flow = compositor.PictureFlow(scene)
        pictures = [flow.reaches(socket, around) for socket in node.inputs]
        if node.format.file_format == "OPEN_EXR_MULTILAYER":
            self._take_multilayer(max(pictures, default=compositor.NEVER))
        else:
            self._take_slots(pictures)
        self.is_linked = [socket.is_linked for socket in node.inputs]

    def point(self, directory):
        """Let the node write below `directory`."""
        if hasattr(self.node, "directory"):  # 5.0
            self.node.directory = directory
        elif self.is_multilayer:
            self.node.base_path = os.path.join(directory, self._file_name)
        else:
            self.node.base_path = directory

    def slot_of(self, path):
        """(slot, the path without its mark) of a file that the node wrote; slot None for any other file."""
        mark = _MARK.search(path)
        if self.is_multilayer or mark is None:
            return (self.slots[0] if self.is_multilayer else None), path
        number = int(mark[1])
        plain = path[: mark.start()] + path[mark.end() :].removeprefix("" if self._is_5 else "/")
        return (self.slots[number] if number < len(self.slots) else None), plain

    def _take_multilayer(self, picture):
        node = self.node
        self.is_multilayer, self._is_5 = True, hasattr(node, "directory")
        if self._is_5:
            node.file_name = name = _inside(node.file_name)
        else:
            stored = node.base_path.replace("\\", "/")
            name = self._file_name = _inside(stored[stored.rfind("/") + 1 :])
        self.slots = [_Slot(name, picture, node.format)]

    def _take_slots(self, pictures):
        node = self.node
        self.is_multilayer, self._is_5 = False, hasattr(node, "directory")
        self.slots = []
        if self._is_5:
            node.file_name = start = _inside(node.file_name)
            for number, (item, picture) in enumerate(zip(node.file_output_items, pictures, strict=False)):
                form = item.format if item.override_node_format else node.format
                self.slots.append(_Slot(start + item.name, picture, form))
                item.name = f"@{number}~farm@{item.name}"
            return
        for number, (slot, picture) in enumerate(zip(node.file_slots, pictures, strict=False)):
            form = node.format if slot.use_node_format else slot.format
            name = _inside(slot.path)
            self.slots.append(_Slot(name, picture, form))
            slot.path = f"@{number}~farm@/{name}"


class FileOutputs:
    """All File Output nodes that a render of `scene` may run: its own, and those of the file's other scenes,
    which the sequencer may show. Made once for an open scene; it changes the nodes."""

    def __init__(self, scene, scenes):
        _tell_views_apart(scenes)
        self._scene = scene
        others = sorted((one for one in scenes if one != scene), key=lambda one: one.name)
        compositor.separate_groups([scene, *others])
        self._nodes = []
        taken = {WRITTEN}
        for one in [scene, *others]:
            tree = compositor.tree_of(one)
            for node, around in compositor.nodes_in(tree) if tree is not None else ():
                if node.bl_idname == compositor.FILE_OUTPUT:
                    self._nodes.append(_Node(one, node, around, _folder(node, taken)))

    def without_picture(self):
        """Linked files of the scene's own nodes that Blender will not write: no picture reaches them."""
        if not compositor.composites(self._scene, with_sequencer=True):
            return []
        return [
            f"{node.folder}/{slot.name}"
            for node in self._nodes
            if node.scene == self._scene and any(node.is_linked)
            for slot, linked in zip(node.slots, node.is_linked, strict=False)
            if slot.picture == compositor.NEVER and (linked or node.is_multilayer)
        ]

    def point(self, directory):
        """Let all nodes write below `directory`, the frame's."""
        for number, node in enumerate(self._nodes):
            node.point(os.path.join(directory, WRITTEN, str(number)))

    def gather(self, directory, rendered):
        """Move what Blender wrote to its place in `directory`. `rendered`: scene's name → its frame.

        Returns (missing files, [(wanted, written)] of files that had to take another name, files that may be
        missing), as paths below `directory`.
        """
        missing, renamed, perhaps = [], [], []
        taken = {name.casefold() for name in os.listdir(directory)}
        for number, node in enumerate(self._nodes):
            counts = dict.fromkeys(node.slots, 0)
            root = os.path.join(directory, WRITTEN, str(number))
            frame = rendered.get(node.scene.name)
            for path in _files(root):
                slot, plain = node.slot_of(path)
                if slot is not None:
                    counts[slot] += 1
                    plain = self._numbered(node, slot, plain, frame)
                wanted = f"{node.folder}/{plain}"
                written = _free(_safe(wanted), taken, frame)
                taken.add(written.casefold())
                target = os.path.join(directory, written)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                os.rename(os.path.join(root, path), target)
                if written != wanted:
                    renamed.append((wanted, written))
            if frame is None or not compositor.composites(node.scene, node.scene == self._scene):
                continue
            for slot, count in counts.items():
                if count < _expected(node.scene, slot.form) and slot.picture != compositor.NEVER:
                    which = missing if slot.picture == compositor.SURELY else perhaps
                    which.append(f"{node.folder}/{slot.name}")
        shutil.rmtree(os.path.join(directory, WRITTEN), ignore_errors=True)
        return missing, renamed, perhaps

    def _numbered(self, node, slot, path, frame):
        """`path` with the frame's number, which 5.0 leaves out in a scene that a strip shows: it would
        overwrite the file of the frame before."""
        if node.scene == self._scene or frame is None or not node._is_5 or "#" in slot.name:
            return path
        stem, ending = os.path.splitext(path)
        suffix = next((s for s in _suffixes(node.scene, slot.form) if s and stem.endswith(s)), "")
        number = f"{'-' if frame < 0 else ''}{abs(frame):04d}"
        return f"{stem[: len(stem) - len(suffix)]}{number}{suffix}{ending}"


def missing_pictures(scene, directory, picture):
    """The frame's own pictures that Blender did not write: one for each view. None of a scene that writes
    none."""
    written = [name for name in os.listdir(directory) if re.match(re.escape(picture) + r"(?!\d)", name)]
    if not written and not compositor.writes_picture(scene):
        return []
    suffixes = _suffixes(scene, scene.render.image_settings)
    if len(written) >= len(suffixes):
        return []
    absent = [s for s in suffixes if not any(name.startswith(f"{picture}{s}.") for name in written)]
    return [picture + suffix for suffix in absent] or [picture]


def size(scene):
    """(width, height) of the picture in pixels; (0, 0) if a crop makes it depend on rounding."""
    render = scene.render
    if render.use_border and render.use_crop_to_border:
        return 0, 0
    width = render.resolution_x * render.resolution_percentage // 100
    height = render.resolution_y * render.resolution_percentage // 100
    settings = render.image_settings
    if render.use_multiview and settings.views_format == "STEREO_3D":
        stereo = settings.stereo_3d_format
        if stereo.display_mode == "SIDEBYSIDE" and not stereo.use_squeezed_frame:
            width *= 2
        if stereo.display_mode == "TOPBOTTOM" and not stereo.use_squeezed_frame:
            height *= 2
    return width, height


# ------------------------------------------------------------------------------------------ views


def _suffixes(scene, form):
    """The suffixes of the files of one picture, without duplicates; [""] where all views are in one file."""
    render = scene.render
    if not render.use_multiview or form.views_format != "INDIVIDUAL":
        return [""]
    views = [view for view in render.views if view.use]
    if render.views_format == "STEREO_3D":
        views = [view for view in views if view.name in ("left", "right")]
    return list(dict.fromkeys(view.file_suffix for view in views)) or [""]


def _expected(scene, form):
    return len(_suffixes(scene, form))


def _tell_views_apart(scenes):
    """Give views whose files would overwrite each other, or leave their folder, suffixes of their own."""
    for scene in scenes:
        if not scene.render.use_multiview:
            continue
        taken = set()
        for view in scene.render.views:
            suffix = _safe_part(view.file_suffix.replace("/", "_"), "")
            if view.use and suffix.casefold() in taken:
                suffix += "_" + _safe_part(view.name.replace("/", "_"), "view")
            if view.file_suffix != suffix:
                view.file_suffix = suffix
            if view.use:
                taken.add(suffix.casefold())


# ------------------------------------------------------------------------------------------ names


def _folder(node, taken):
    """Name of the node's folder: at most 200 bytes, unlike those in `taken`, to which it is added."""
    name = "".join(c if c.isprintable() and c not in '/\\{}#<>:"|?*' else "_" for c in node.name).strip(" .")
    name = name.encode()[:200].decode(errors="ignore") or "File Output"
    if name.casefold().startswith("picture_"):  # reserved for the frame's own pictures
        name = "_" + name
    while name.casefold() in taken:
        name += "_"
    taken.add(name.casefold())
    return name


def _inside(path):
    """`path` without parts that lead out of the node's folder; Blender fills in the rest."""
    path = path.replace("\\", "/")
    path = re.sub(r"\A[A-Za-z]:/", "/", path)
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return "/".join(parts) + ("/" if path.endswith("/") and parts else "")


def _safe(path):
    """`path` as the farm takes it: no part is empty or leads elsewhere, no character is unprintable."""
    return "/".join(_safe_part(part, "_") for part in path.split("/") if part)


def _safe_part(part, otherwise):
    kept = "".join("_" if _is_unsafe(c) else c for c in part)
    return "_" * len(kept) if kept in (".", "..") else kept or otherwise


def _is_unsafe(character):
    category = unicodedata.category(character)
    return character == "\\" or category in ("Cc", "Cs", "Zl", "Zp") or character in _DIRECTION_MARKS


def _free(path, taken, frame):
    """`path`; if another file has it in any case of letters, with underscores before the frame's number."""
    number = str(abs(frame or 0)).lstrip("0")
    while path.casefold() in taken:
        folder, _, name = path.rpartition("/")
        numbers = [run for run in re.finditer(r"-?\d+", name) if run[0].lstrip("-0") == number]
        at = numbers[-1].start() if numbers else len(os.path.splitext(name)[0])
        path = f"{folder}/{name[:at]}_{name[at:]}"
    return path


def _files(directory):
    """Paths of all files below `directory`, relative to it, sorted by the number in their mark."""
    found = []
    for folder, _, names in os.walk(directory):
        found += [os.path.relpath(os.path.join(folder, name), directory) for name in names]
    return sorted(found, key=lambda path: (int(mark[1]) if (mark := _MARK.search(path)) else -1, path))
