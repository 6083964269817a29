"""Simulations that are not baked: told, or as Blender plays them; and those that are baked in the file"""

import bpy
import kit
from caches import simulation
from declarations import scene


def fallen(kind):
    """A scene in which something falls or swings in the plane of the picture."""
    found = kit.begin()
    found.gravity = (0, -9.81, 0)
    if kind.startswith("rigid"):
        rigid(found, kind)
    elif kind == "nodes":
        simulation(kit.plane(kit.glow(kit.GREEN), size=0.6))
    else:
        item = kit.plane(kit.glow(), size=0.6, at=(0, 0.5, 0), cuts=6)
        {"cloth": cloth, "soft": soft, "particles": particles, "hair": hair, "paint": paint}[kind](item)
    return found


def rigid(found, kind):
    item = kit.cube(kit.glow(), size=0.4, at=(0, 0.7, 0), turn=(0, 0, 0.2))
    with bpy.context.temp_override(scene=found, object=kit.active(item)):
        bpy.ops.rigidbody.world_add()
        found.rigidbody_world.collection = bpy.data.collections.new("Bodies")
        found.rigidbody_world.collection.objects.link(item)
    found.rigidbody_world.point_cache.frame_start, found.rigidbody_world.point_cache.frame_end = 1, 12
    if kind == "rigid-on-floor":
        floor = kit.cube(kit.glow(kit.RED, name="Red"), size=1, at=(0, -0.7, 0), turn=(0, 0, 0), name="Floor")
        found.rigidbody_world.collection.objects.link(floor)
        floor.rigid_body.type = "PASSIVE"
    item.rigid_body.type = "ACTIVE"


def cloth(item):
    modifier = item.modifiers.new("Cloth", "CLOTH")
    group = item.vertex_groups.new(name="Pin")
    group.add(range(42, 49), 1.0, "REPLACE")
    modifier.settings.vertex_group_mass = "Pin"
    modifier.point_cache.frame_start, modifier.point_cache.frame_end = 1, 12


def soft(item):
    item.modifiers.new("Soft", "SOFT_BODY")
    item.soft_body.use_goal = False


def particles(item):
    item.modifiers.new("Dust", "PARTICLE_SYSTEM")
    settings = item.particle_systems[0].settings
    settings.count, settings.frame_start, settings.frame_end, settings.lifetime = 40, 1, 6, 50
    settings.render_type, settings.particle_size = "OBJECT", 0.2
    ball = kit.cube(kit.glow(kit.RED, name="Red"), size=0.5, at=(9, 9, 0), name="Grain")
    settings.instance_object = ball


def hair(item):
    item.modifiers.new("Hair", "PARTICLE_SYSTEM")
    system = item.particle_systems[0]
    system.settings.type, system.settings.count, system.settings.hair_length = "HAIR", 60, 0.6
    system.use_hair_dynamics = True


def paint(item):
    modifier = item.modifiers.new("Canvas", "DYNAMIC_PAINT")
    with bpy.context.temp_override(object=kit.active(item), active_object=item):
        bpy.ops.dpaint.type_toggle(type="CANVAS")
    surface = modifier.canvas_settings.canvas_surfaces[0]
    surface.surface_type, surface.frame_start, surface.frame_end = "DISPLACE", 1, 12
    brush = kit.cube(kit.glow(kit.RED, name="Red"), size=0.3, name="Brush")
    kit.key(brush, "location", {1: (-0.6, 0.5, 0), 8: (0.6, 0.5, 0)})
    modifier = brush.modifiers.new("Brush", "DYNAMIC_PAINT")
    modifier.ui_type = "BRUSH"
    with bpy.context.temp_override(object=kit.active(brush), active_object=brush):
        bpy.ops.dpaint.type_toggle(type="BRUSH")


@scene(
    range="1-9",
    frames="4-9",
    ends="either",
    fresh=True,
    warns_of=["unbaked_simulation"],
    each={
        "rigid one by one": {"value": "rigid", "chunk": 1},
        "rigid by three": {"value": "rigid", "chunk": 3, "quick": True},
        "rigid on a floor": {"value": "rigid-on-floor"},
        "cloth": {},
        "soft": {},
        "particles": {},
        "particles by two": {"value": "particles", "chunk": 2},
        "hair": {},
        "paint": {},
        "nodes": {},
        "nodes by two": {"value": "nodes", "chunk": 2},
    },
)
def unbaked(kind):
    """A simulation without a bake, from its middle on."""
    fallen(kind)


@scene(
    range="1-9",
    frames="5-6",
    fresh=True,
    chunk=1,
    warns_of=["unbaked_simulation"],
    each=["rigid", "cloth", "soft", "particles", "hair"],
)
def baked_in_the_file(kind):
    """A simulation whose cache is baked in memory and saved in the file."""
    found = fallen(kind)
    for frame in range(1, 10):
        found.frame_set(frame)
    bpy.ops.ptcache.bake_all(bake=True)
