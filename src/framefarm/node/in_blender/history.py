"""Simulations of the open scene: a frame's picture may depend on the frames played before it.

`render` steps nothing that a play would step; `scene.frame_set`, frame by frame, does. Measured in
docs/decisions/0024-simulations-are-played-or-held.md. `blend/simulations.py` finds the same in the file.
"""

import os

import bpy
from in_blender import bakes, engines

WHY = {
    "particles": "Blender itself draws unbaked particles differently, by what was rendered before",
    "dynamic_paint": "unbaked paint depends on what was rendered before",
    "fluid": "a fluid writes its cache into a folder, which a job's files do not take",
    "disk": "its cache is set to lie on disk, and the frames there are not baked",
    "early": "its cache begins before the scene's first frame, from which a render plays",
    "hidden": "it is hidden in the viewport, where Blender plays it, and shown in renders",
    "other_scene": "it is in another scene, which Blender does not play with this one",
}
"""Reasons why a simulation has to be baked; the same as in core/simulations.py."""
CARRIED_ON = {"rigid_body", "cloth", "soft_body", "particles", "geometry_nodes"}
"""Kinds that a render does not disturb: after it, they can be played on. Hair differs in the last bits."""


class History:
    """The frames played since the scene was opened, and what they are played for."""

    def __init__(self, scene, trusted):
        """`trusted`: the farm found none in the file; only the file tells whether bakes are packed in it."""
        self.simulations = find(scene, trusted)
        handlers = _has_handlers()
        self.played = bool(self.simulations) or handlers
        blurred = scene.render.use_motion_blur
        self._ahead = 1 if blurred else 0
        known = {s.kind for s in self.simulations} <= CARRIED_ON
        self._carried_on = known and not blurred and not handlers
        self._start, self._end = scene.frame_start, scene.frame_end
        self._until = None
        self._rendered = False

    def must_reopen(self, frame):
        """Whether the scene has to be opened again before `frame` can be played to."""
        if not self.played or self._until is None:
            return False
        if self._rendered and not self._carried_on:
            return True
        return frame <= self._until or self._until < self._start

    def play(self, scene, frame, tell):
        """Play the scene to `frame`, from its first frame or on from the frame played last.

        With motion blur also the frame after it, which the blur reaches into; `tell` gets a sign of life.
        """
        self._rendered = True
        if not self.played:
            return
        first = min(self._start, frame) if self._until is None else self._until + 1
        last = min(frame + self._ahead, max(frame, self._end))
        for number in range(first, last + 1):
            scene.frame_set(number)
            tell()
        self._until = last


class Simulation:
    """An unbaked simulation. `first` and `last` are its cache's frames; `why`: a key of WHY, or empty."""

    def __init__(self, kind, owner, modifier, first, last, why=""):
        self.kind, self.owner, self.modifier = kind, owner, modifier
        self.first, self.last, self.why = first, last, why

    @property
    def subject(self):
        return f"{self.owner.name}: {self.modifier or 'rigid bodies'}"

    def describe(self):
        """As core/simulations.py does."""
        name = self.kind.replace("_", " ")
        of = f" (modifier {self.modifier})" if self.modifier else ""
        return f"{name} of {self.owner.name}{of}, cache frames {self.first} to {self.last}"


def prepare(opened):
    """Find the scene's simulations, and warn of those that the farm did not read from the file."""
    opened.history = History(opened.scene, trusted=not opened.request["play_history"])
    history = opened.history
    if history.played or _reuses_state():
        # Kept data is state of the frame before: it changes such pictures.
        for scene in bpy.data.scenes:
            scene.render.use_persistent_data = False
    for simulation in history.simulations:
        if simulation.why:
            facts = {"what": simulation.describe(), "why": WHY[simulation.why]}
            opened.warn("simulation_must_be_baked", simulation.subject, **facts)
    played = [s.describe() for s in history.simulations if not s.why]
    if played and not opened.request["play_history"]:
        opened.warn("unbaked_simulation", opened.scene.name, what="; ".join(played[:5]))


def find(scene, trusted=False):
    """The unbaked simulations that pictures of `scene` show."""
    found = []
    shown = _scenes_of_set(scene)
    others = set(engines.rendered_scenes(scene)) - set(shown)
    for one in [*shown, *sorted(others, key=lambda other: other.name)]:
        found += [_judged(s, scene, one in others) for s in _rigid_bodies(one)]
    candidates = [(item, list(_of_object(item, trusted))) for item in bpy.data.objects if item.modifiers]
    candidates = [(item, simulations) for item, simulations in candidates if simulations]
    if candidates:
        here, there = _objects_of(shown, scene), _objects_of(others, None)
        for item, simulations in candidates:
            if item in here or item in there:
                found += [_judged(s, scene, item not in here) for s in simulations]
    return found


# ---------------------------------------------------------------------------------- where they are


def _scenes_of_set(scene):
    """The scene and its background scenes, which Blender plays with it."""
    shown = []
    while scene is not None and scene not in shown:
        shown.append(scene)
        scene = scene.background_set
    return shown


def _objects_of(scenes, evaluated):
    """Objects of the scenes' view layers and of collections instanced there; all that `evaluated` needs."""
    objects = set()
    for scene in scenes:
        for layer in scene.view_layers:
            if layer.use:
                objects.update(layer.objects)
                if scene == evaluated:
                    layer.update()
                if layer.depsgraph is not None:
                    ids = (one.original for one in layer.depsgraph.ids)
                    objects.update(one for one in ids if isinstance(one, bpy.types.Object))
    waiting = [o.instance_collection for o in objects if o.instance_collection is not None]
    seen = set()
    while waiting:
        group = waiting.pop()
        if group not in seen:
            seen.add(group)
            new = set(group.all_objects) - objects
            objects |= new
            waiting += [o.instance_collection for o in new if o.instance_collection is not None]
    return objects


def _judged(simulation, scene, elsewhere):
    """The simulation with the reason why it has to be baked, if there is one."""
    own = simulation.why
    if elsewhere:
        simulation.why = "other_scene"
    elif not own and simulation.kind != "geometry_nodes":
        if simulation.first < scene.frame_start:
            simulation.why = "early"
        elif simulation.kind != "rigid_body" and _is_hidden(simulation, scene):
            simulation.why = "hidden"
    return simulation


def _is_hidden(simulation, scene):
    item = simulation.owner
    modifier = item.modifiers.get(simulation.modifier)
    if item.hide_viewport or (modifier is not None and not modifier.show_viewport):
        return True
    layers = [layer for layer in scene.view_layers if layer.use and item.name in layer.objects]
    return bool(layers) and not any(item.visible_get(view_layer=layer) for layer in layers)


def _has_handlers():
    """Whether scripts act on each frame."""
    return bool(bpy.app.handlers.frame_change_pre or bpy.app.handlers.frame_change_post)


def _reuses_state():
    """Whether something starts from the state that it had in the frame before, if that is kept."""
    poses = (item.pose for item in bpy.data.objects if item.type == "ARMATURE" and item.pose)
    return any(pose.ik_solver == "ITASC" for pose in poses)


# ------------------------------------------------------------------------------------ what they are


def _rigid_bodies(scene):
    world = scene.rigidbody_world
    if world is None or not world.enabled or world.collection is None or _is_baked(world.point_cache):
        return
    for item in sorted(world.collection.all_objects, key=lambda one: one.name):
        body = item.rigid_body
        if body is not None and body.type == "ACTIVE" and (not body.kinematic or _is_animated(item)):
            yield _of_cache("rigid_body", item, "", world.point_cache)
            return


def _is_animated(item):
    return item.animation_data is not None


def _of_object(item, trusted):
    for modifier in item.modifiers:
        if modifier.show_render:
            yield from _of_modifier(item, modifier, trusted)


def _of_modifier(item, modifier, trusted):
    kind = modifier.type
    if kind == "CLOTH":
        yield from _unbaked("cloth", item, modifier, modifier.point_cache)
    elif kind == "SOFT_BODY":
        yield from _unbaked("soft_body", item, modifier, modifier.point_cache)
    elif kind == "PARTICLE_SYSTEM":
        yield from _particles(item, modifier)
    elif kind == "DYNAMIC_PAINT" and modifier.canvas_settings is not None:
        for surface in modifier.canvas_settings.canvas_surfaces:
            if surface.is_active and surface.surface_format != "IMAGE":
                yield from _unbaked("dynamic_paint", item, modifier, surface.point_cache, "dynamic_paint")
    elif kind == "FLUID" and modifier.fluid_type == "DOMAIN":
        domain = modifier.domain_settings
        if not domain.has_cache_baked_data:
            first, last = domain.cache_frame_start, domain.cache_frame_end
            yield Simulation("fluid", item, modifier.name, first, last, "fluid")
    elif kind == "NODES":
        trees = set()
        unbaked = _simulates(modifier.node_group, trees) and not _nodes_baked(modifier)
        read = trusted and item.library is None and all(tree.library is None for tree in trees)
        if unbaked and not read:
            yield Simulation("geometry_nodes", item, modifier.name, *_nodes_range(modifier))


def _particles(item, modifier):
    system = modifier.particle_system
    settings = None if system is None else system.settings
    if settings is None:
        return
    if settings.type == "HAIR":
        if system.use_hair_dynamics:
            yield from _unbaked("hair", item, modifier, system.point_cache)
    elif settings.physics_type != "NO":
        yield from _unbaked("particles", item, modifier, system.point_cache, "particles")


def _unbaked(kind, item, modifier, cache, why=""):
    if not _is_baked(cache):
        yield _of_cache(kind, item, modifier.name, cache, why)


def _of_cache(kind, item, modifier, cache, why=""):
    if not why and cache.use_disk_cache:
        why = "disk"
    return Simulation(kind, item, modifier, cache.frame_start, cache.frame_end, why)


def _is_baked(cache):
    return cache is None or cache.is_baked or cache.use_external


def _simulates(tree, seen):
    """Whether the tree, or a group in it, has a simulation zone; `seen` gets all of them."""
    if tree is None or tree in seen:
        return False
    seen.add(tree)
    groups = [n.node_tree for n in tree.nodes if n.bl_idname == "GeometryNodeGroup"]
    own = any(n.bl_idname == "GeometryNodeSimulationOutput" for n in tree.nodes)
    return any([own, *(_simulates(group, seen) for group in groups)])


def _nodes_range(modifier):
    own = [b for b in getattr(modifier, "bakes", ()) if b.use_custom_simulation_frame_range]
    if own:
        return min(b.frame_start for b in own), max(b.frame_end for b in own)
    return bpy.context.scene.frame_start, bpy.context.scene.frame_end


def _nodes_baked(modifier):
    """Whether all bakes of the modifier are in folders. Blender does not tell of packed ones."""
    entries = list(getattr(modifier, "bakes", ()))
    return bool(entries) and all(_has_files(modifier, bake) for bake in entries)


def _has_files(modifier, bake):
    folder = bakes.folder_of(modifier, bake)
    meta = os.path.join(folder, "meta")
    return bool(folder) and os.path.isdir(meta) and bool(os.listdir(meta))
