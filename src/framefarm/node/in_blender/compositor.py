"""The compositor of a scene: its File Output nodes, and which of their inputs get a picture."""

NEVER, PERHAPS, SURELY = 0, 1, 2
"""Whether a picture reaches an input. Blender writes no file for an input that gets only a value."""

FILE_OUTPUT = "CompositorNodeOutputFile"

_VALUES = frozenset(
    "CompositorNode" + name
    for name in ("ImageInfo", "Levels", "RGB", "RelativeToPixel", "SceneTime", "Time", "TrackPos", "Value")
) | {"ShaderNodeValue"}
"""Nodes that give values and no pictures, whatever their inputs are (measured with 4.2 and 4.5)."""
_PICTURES = frozenset("CompositorNode" + name for name in ("BokehImage", "BoxMask", "EllipseMask"))
"""Nodes that give a picture without any input."""
_UNSURE = frozenset(
    "CompositorNode" + name
    for name in (
        "CornerPin", "Cryptomatte", "CryptomatteV2", "KeyingScreen", "MapUV", "PlaneTrackDeform", "Split",
        "Texture",
    )
)  # fmt: skip
"""Nodes whose pictures depend on more than their inputs, or on Blender's version."""
_SWITCHES = frozenset(
    ("CompositorNodeSwitch", "CompositorNodeSwitchView", "GeometryNodeMenuSwitch", "GeometryNodeIndexSwitch")
)


def tree_of(scene):
    """The scene's node tree; None without one."""
    if hasattr(scene, "compositing_node_group"):  # 5.0
        return scene.compositing_node_group
    return scene.node_tree if scene.use_nodes else None


def composites(scene, with_sequencer):
    """Whether rendering the scene runs its node tree. `with_sequencer`: if it has strips, they are rendered
    instead; a scene that is itself shown by a strip is rendered without its own strips."""
    if not scene.render.use_compositing or tree_of(scene) is None:
        return False
    return not (with_sequencer and shows_strips(scene))


def shows_strips(scene):
    """Whether the sequencer renders the scene: it has a strip that is neither a sound nor muted."""
    editor = scene.sequence_editor
    if not scene.render.use_sequencer or editor is None:
        return False
    strips = editor.strips if hasattr(editor, "strips") else editor.sequences
    channels = dict(enumerate(editor.channels))
    return any(
        strip.type != "SOUND" and not strip.mute and not getattr(channels.get(strip.channel), "mute", False)
        for strip in strips
    )


def writes_picture(scene):
    """Whether rendering the scene writes a picture of its own.

    Without an output node, and without a Render Layers node of the scene itself, Blender renders the scenes
    that the tree names and writes the files of the File Output nodes alone (measured with 4.2, 4.5, 5.0).
    """
    if not composites(scene, with_sequencer=True):
        return True
    tree = tree_of(scene)
    if hasattr(scene, "compositing_node_group"):
        if any(node.bl_idname == "NodeGroupOutput" and len(node.inputs) > 1 for node in tree.nodes):
            return True  # the last input is the one that makes new ones
    elif any(node.bl_idname == "CompositorNodeComposite" for node, _ in nodes_in(tree)):
        return True
    return any(
        node.bl_idname == "CompositorNodeRLayers" and node.scene in (None, scene)
        for node, _ in nodes_in(tree)
    )


def scene_without_camera(scene):
    """Name of a scene that lacks the camera that Blender needs of it to render `scene`; None if none does.

    As Blender 4.2 to 5.0 do it, which may end without saying so: a scene that composites needs the cameras of
    the scenes in its Render Layers nodes alone, and one that shows strips needs none.
    """
    if shows_strips(scene):
        return None
    if not composites(scene, with_sequencer=False):
        return None if _has_camera(scene) else scene.name
    layers = [node for node, _ in nodes_in(tree_of(scene)) if node.bl_idname == "CompositorNodeRLayers"]
    return next((one.name for node in layers if not _has_camera(one := node.scene or scene)), None)


def _has_camera(scene):
    return scene.camera is not None or any(marker.camera for marker in scene.timeline_markers)


def nodes_in(tree, around=()):
    """(node, the group nodes around it) for each node that is not muted, those in groups included."""
    for node in tree.nodes:
        if node.mute:
            continue
        yield node, around
        inner = getattr(node, "node_tree", None)
        if inner is not None:
            yield from nodes_in(inner, (*around, node))


def separate_groups(scenes):
    """Give each use of a group that holds File Output nodes a copy of its own.

    A group that is used twice runs twice, and its second run would overwrite the files of the first.
    """
    used = set()

    def own(tree):
        for node in tree.nodes:
            inner = getattr(node, "node_tree", None)
            if inner is None or node.mute or not _has_file_output(inner):
                continue
            if inner in used:
                node.node_tree = inner = inner.copy()
            used.add(inner)
            own(inner)

    for scene in scenes:
        tree = tree_of(scene)
        if tree is None or not _has_file_output(tree):
            continue
        if hasattr(scene, "compositing_node_group"):  # may be shared by scenes
            if tree in used:
                scene.compositing_node_group = tree = tree.copy()
            used.add(tree)
        own(tree)


def _has_file_output(tree):
    return any(node.bl_idname == FILE_OUTPUT for node, _ in nodes_in(tree))


class PictureFlow:
    """Follows the links of one scene's tree upstream, to the pictures that reach an input."""

    def __init__(self, scene):
        self._scene = scene
        self._known = {}

    def reaches(self, socket, around):
        """NEVER, PERHAPS or SURELY: whether a picture reaches the input. `around`: its group nodes."""
        try:
            return self._input(socket, around)
        except RecursionError:
            return PERHAPS

    def _input(self, socket, around):
        key = (socket.as_pointer(), *(node.as_pointer() for node in around))
        if key not in self._known:
            self._known[key] = NEVER  # where links go in a circle
            links = [link for link in socket.links if link.is_valid and not link.is_muted]
            found = [self._output(link.from_node, link.from_socket, around) for link in links]
            self._known[key] = max(found, default=NEVER)
        return self._known[key]

    def _output(self, node, socket, around):
        kind = node.bl_idname
        if node.mute and kind != "NodeReroute":
            through = [link.from_socket for link in node.internal_links if link.to_socket == socket]
            return max((self._input(one, around) for one in through), default=NEVER)
        if kind == "NodeGroupInput":
            if not around:
                return PERHAPS
            return self._same(around[-1].inputs, socket, around[:-1])
        if getattr(node, "node_tree", None) is not None:
            ends = [
                n for n in node.node_tree.nodes if n.bl_idname == "NodeGroupOutput" and n.is_active_output
            ]
            return max((self._same(end.inputs, socket, (*around, node)) for end in ends), default=NEVER)
        source = self._source(node, socket)
        if source is not None:
            return source
        found = [self._input(one, around) for one in node.inputs if one.enabled and one.is_linked]
        if kind in _SWITCHES and found and min(found) < max(found):
            return PERHAPS
        if not found and not len(node.inputs):
            return PERHAPS
        return max(found, default=NEVER)

    def _same(self, sockets, wanted, around):
        """The same for the one of `sockets` that stands for `wanted` on the other side of a group."""
        found = [self._input(one, around) for one in sockets if one.identifier == wanted.identifier]
        return max(found, default=NEVER)

    def _source(self, node, socket):
        """The same for a node that makes pictures or values by itself; None for any other node."""
        kind = node.bl_idname
        if kind in _VALUES:
            return NEVER
        if kind in _PICTURES or kind.startswith("ShaderNodeTex"):
            return SURELY
        if kind in _UNSURE:
            return PERHAPS
        if kind == "CompositorNodeRLayers":
            layers = (node.scene or self._scene).view_layers
            layer = layers.get(node.layer)
            return SURELY if socket.enabled and layer is not None and layer.use else NEVER
        if kind == "CompositorNodeImage":
            return _of_file(node.image) if socket.enabled else NEVER
        if kind == "CompositorNodeMovieClip":
            return _of_file(node.clip) if socket.name in ("Image", "Alpha") else NEVER
        if kind == "CompositorNodeMask":
            return SURELY if node.mask is not None else NEVER
        return None


def _of_file(image):
    if image is None:
        return NEVER
    if image.source in ("SEQUENCE", "MOVIE"):
        return PERHAPS  # it may not reach to this frame
    return SURELY if all(image.size) else PERHAPS  # no size: not found, or known only when it is rendered
