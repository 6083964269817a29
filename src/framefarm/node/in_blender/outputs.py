"""Where a frame's files are written, and which files a complete frame has."""

import os
import re


def point_file_outputs(scene, directory):
    """Set each File Output node to `<directory>/<its name>`, so that no two nodes write the same file."""
    taken = set()
    for node in output_nodes(scene):
        folder = _plain(node.name) or "File Output"
        if folder.casefold().startswith("picture_"):  # reserved for the frame's own pictures
            folder = "_" + folder
        while folder.casefold() in taken:
            folder += "_"
        taken.add(folder.casefold())
        path = os.path.join(directory, folder)
        if hasattr(node, "directory"):  # 5.0
            node.directory = path
            node.file_name = _plain_path(node.file_name)
            _rename(node.file_output_items, "name", allow_empty=True)
            continue
        if node.format.file_format == "OPEN_EXR_MULTILAYER":
            last = _plain(os.path.basename(node.base_path.rstrip("/\\"))) or "image"
            if not node.get("framefarm_name"):
                node["framefarm_name"] = last
            node.base_path = os.path.join(path, node["framefarm_name"])
            continue
        node.base_path = path
        _rename(node.file_slots, "path")


def missing_files(scene, directory, picture, frame):
    """Files of the frame that Blender did not write below `directory`: relative paths without extension."""
    existing = _files(directory)
    missing = [p for p in _pictures(scene, picture) if not _was_written(existing, p)]
    if scene.render.use_compositing:
        for node in output_nodes(scene):
            for stem, form in _files_of_node(node):
                path = os.path.relpath(_numbered(stem, frame), directory)
                missing += [p for p in _views(scene, form, path) if not _was_written(existing, p)]
    return sorted(set(missing))


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


def output_nodes(scene):
    """The File Output nodes of the scene's compositor, groups included, in a stable order."""
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


# --------------------------------------------------------------------------------- expected files


def _pictures(scene, picture):
    return _views(scene, scene.render.image_settings, picture)


def _views(scene, form, path):
    """The path with each view's suffix; the path itself if all views are in one file or only one is used."""
    views = [view for view in scene.render.views if view.use]
    if scene.render.views_format == "STEREO_3D":
        views = [view for view in views if view.name in ("left", "right")]
    if not scene.render.use_multiview or form.views_format != "INDIVIDUAL" or len(views) < 2:
        return [path]
    return [path + view.file_suffix for view in views]


def _files_of_node(node):
    """(path without frame number, format) of each file that the node writes: one per linked input."""
    if node.mute:
        return
    is_blender_5 = hasattr(node, "directory")
    if node.format.file_format == "OPEN_EXR_MULTILAYER":
        if any(_has_picture(socket) for socket in node.inputs):
            yield (
                (os.path.join(node.directory, node.file_name) if is_blender_5 else node.base_path),
                node.format,
            )
        return
    items = node.file_output_items if is_blender_5 else node.file_slots
    for item, socket in zip(items, node.inputs, strict=False):
        if not _has_picture(socket):
            continue
        if is_blender_5:
            form = item.format if item.override_node_format else node.format
            yield os.path.join(node.directory, node.file_name + item.name), form
        else:
            yield (
                os.path.join(node.base_path, item.path),
                node.format if item.use_node_format else item.format,
            )


def _has_picture(socket):
    """Whether the input gets a picture: a source node without its image gives none."""
    for link in socket.links:
        source = link.from_node
        empty = source.bl_idname in ("CompositorNodeImage", "CompositorNodeMovieClip", "CompositorNodeMask")
        if link.is_valid and not link.is_muted and not (empty and _is_empty(source)):
            return True
    return False


def _is_empty(node):
    return not any(getattr(node, name, None) for name in ("image", "clip", "mask"))


def _numbered(stem, frame):
    """The path with the frame's number in place of its last run of `#`, or at its end."""
    folder, name = os.path.split(stem)
    digits = lambda count: f"{'-' if frame < 0 else ''}{abs(frame):0{count}d}"  # noqa: E731
    runs = list(re.finditer("#+", name))
    if not runs:
        return os.path.join(folder, name + digits(4))
    last = runs[-1]
    return os.path.join(folder, name[: last.start()] + digits(len(last[0])) + name[last.end() :])


def _files(directory):
    paths = set()
    for folder, _, names in os.walk(directory):
        paths.update(os.path.relpath(os.path.join(folder, name), directory) for name in names)
    return paths


def _was_written(existing, path):
    """Whether `path` exists with an extension, or with a suffix of a view before it."""
    return any(name == path or name.startswith((path + ".", path + "_")) for name in existing)


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
    """`name` as a name of a folder: at most 200 bytes."""
    name = "".join(c if c.isprintable() and c not in '/\\{}#<>:"|?*' else "_" for c in name).strip(" .")
    return name.encode()[:200].decode(errors="ignore")


def _plain_path(path):
    """`path` without parts that lead out of the frame's folder; `#` stays, since it numbers the file."""
    path = path.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".", "..") and not part.endswith(":")]
    return "/".join(parts) + ("/" if path.endswith("/") and parts else "")
