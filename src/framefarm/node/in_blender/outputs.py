"""Inside the sandbox: where a frame's files go, and which ones make it whole."""

import os
import re


def point_file_outputs(scene, directory):
    """Each File Output node into `<directory>/<its name>`, so that no two of them meet."""
    taken = set()
    for node in output_nodes(scene):
        folder = _plain(node.name) or "File Output"
        if folder.casefold().startswith("picture_"):  # the frame's own name
            folder = "_" + folder
        while folder.casefold() in taken:
            folder += "_"
        taken.add(folder.casefold())
        place = os.path.join(directory, folder)
        if hasattr(node, "directory"):  # 5.0
            node.directory = place
            node.file_name = _plain_path(node.file_name)
            _rename(node.file_output_items, "name", allow_empty=True)
            continue
        if node.format.file_format == "OPEN_EXR_MULTILAYER":
            last = _plain(os.path.basename(node.base_path.rstrip("/\\"))) or "image"
            if not node.get("framefarm_name"):
                node["framefarm_name"] = last
            node.base_path = os.path.join(place, node["framefarm_name"])
            continue
        node.base_path = place
        _rename(node.file_slots, "path")


def missing_files(scene, directory, picture, frame):
    """What the frame should have left below `directory` and did not: relative paths without extension."""
    have = _files(directory)
    lacking = [p for p in _pictures(scene, picture) if not _there(have, p)]
    if scene.render.use_compositing:
        for node in output_nodes(scene):
            for stem, form in _written(node):
                path = os.path.relpath(_numbered(stem, frame), directory)
                lacking += [p for p in _views(scene, form, path) if not _there(have, p)]
    return sorted(set(lacking))


def size(scene):
    """(width, height) of the picture in pixels; (0, 0) where a crop makes it depend on rounding."""
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


def output_nodes(scene):
    """The File Output nodes of the scene's compositor, in groups too, in an order that stays."""
    tree = getattr(scene, "compositing_node_group", None)  # 5.0
    if tree is None and getattr(scene, "use_nodes", False):
        tree = getattr(scene, "node_tree", None)
    seen = set()

    def walk(group):
        if group is None or group.name_full in seen:
            return
        seen.add(group.name_full)
        for node in group.nodes:
            if node.bl_idname == "CompositorNodeOutputFile":
                yield node
            elif getattr(node, "node_tree", None) is not None:
                yield from walk(node.node_tree)

    yield from walk(tree)


# --------------------------------------------------------------------------------- what is written


def _pictures(scene, picture):
    return _views(scene, scene.render.image_settings, picture)


def _views(scene, form, path):
    """One file for each eye, or one for all. With one eye left, Blender does the one or the other."""
    views = [view for view in scene.render.views if view.use]
    if scene.render.views_format == "STEREO_3D":
        views = [view for view in views if view.name in ("left", "right")]
    if not scene.render.use_multiview or form.views_format != "INDIVIDUAL" or len(views) < 2:
        return [path]
    return [path + view.file_suffix for view in views]


def _written(node):
    """(path without frame number, format) of each file that the node writes: only what is linked is."""
    if node.mute:
        return
    five = hasattr(node, "directory")
    if node.format.file_format == "OPEN_EXR_MULTILAYER":
        if any(_live(socket) for socket in node.inputs):
            yield (os.path.join(node.directory, node.file_name) if five else node.base_path), node.format
        return
    items = node.file_output_items if five else node.file_slots
    for item, socket in zip(items, node.inputs, strict=False):
        if not _live(socket):
            continue
        if five:
            form = item.format if item.override_node_format else node.format
            yield os.path.join(node.directory, node.file_name + item.name), form
        else:
            yield (
                os.path.join(node.base_path, item.path),
                node.format if item.use_node_format else item.format,
            )


def _live(socket):
    """Whether a picture comes in: a node without its image gives none."""
    for link in socket.links:
        source = link.from_node
        empty = source.bl_idname in ("CompositorNodeImage", "CompositorNodeMovieClip", "CompositorNodeMask")
        if link.is_valid and not link.is_muted and not (empty and _pictureless(source)):
            return True
    return False


def _pictureless(node):
    return not any(getattr(node, name, None) for name in ("image", "clip", "mask"))


def _numbered(stem, frame):
    folder, name = os.path.split(stem)
    digits = lambda count: f"{'-' if frame < 0 else ''}{abs(frame):0{count}d}"  # noqa: E731
    found = list(re.finditer("#+", name))
    if not found:
        return os.path.join(folder, name + digits(4))
    last = found[-1]
    return os.path.join(folder, name[: last.start()] + digits(len(last[0])) + name[last.end() :])


def _files(directory):
    found = set()
    for folder, _, names in os.walk(directory):
        found.update(os.path.relpath(os.path.join(folder, name), directory) for name in names)
    return found


def _there(have, path):
    """An eye's name without its suffix counts where Blender writes all eyes into one file (EXR)."""
    return any(name == path or name.startswith((path + ".", path + "_")) for name in have)


# ------------------------------------------------------------------------------------------ names


def _rename(items, attribute, allow_empty=False):
    taken = set()
    for item in items:
        name = _plain_path(getattr(item, attribute)) or ("" if allow_empty else "image")
        while name.casefold() in taken:
            name += "_"
        taken.add(name.casefold())
        if getattr(item, attribute) != name:
            setattr(item, attribute, name)


def _plain(name):
    name = "".join(c if c.isprintable() and c not in '/\\{}#<>:"|?*' else "_" for c in name).strip(" .")
    return name.encode()[:200].decode(errors="ignore")


def _plain_path(path):
    """`path` without what would lead out of the frame's folder; `#` stays, it numbers the file."""
    path = path.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".", "..") and not part.endswith(":")]
    return "/".join(parts) + ("/" if path.endswith("/") and parts else "")
