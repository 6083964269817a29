"""Caches and geometry from files: Alembic, USD, volumes, meshes, oceans, disk caches, bakes"""

import os
import struct

import bpy
import kit
from declarations import scene
from mathutils import Matrix


def export_square(name, move, kind="alembic", last=1):
    """Export a small square that lies at `move`, and drifts if `last` is above 1."""
    bpy.ops.mesh.primitive_plane_add(size=0.8)
    square = bpy.context.object
    square.name = square.data.name = "Square"
    square.data.transform(Matrix.Translation(move))
    if last > 1:
        kit.key(square, "location", {1: (0, 0, 0), last: (0.5, 0, 0)})
    bpy.context.scene.frame_set(1)
    full = kit.path(name)
    if kind == "alembic":
        bpy.ops.wm.alembic_export(filepath=full, selected=True, as_background_job=False, start=1, end=last)
    else:
        bpy.ops.wm.usd_export(filepath=full, selected_objects_only=True, export_animation=last > 1)
    bpy.data.objects.remove(square)


def cached(name, path):
    """A plane whose shape is read from the cache file `name`."""
    square = kit.plane(kit.glow(kit.GREEN), size=4, name="Square")
    bpy.ops.cachefile.open(filepath=kit.path(name))
    (cache,) = bpy.data.cache_files
    cache.filepath = "//" + name
    modifier = square.modifiers.new("Cache", "MESH_SEQUENCE_CACHE")
    modifier.cache_file, modifier.object_path = cache, path
    return cache


@scene(sent=["base.abc"], frames="1-3")
def alembic():
    """An Alembic cache that moves."""
    kit.begin()
    export_square("cache/base.abc", (0, 0, 0), last=3)
    cached("cache/base.abc", "/Square/Square")


@scene(sent=["base.abc", "fix.abc"])
def alembic_layer():
    """An Alembic cache with an override layer."""
    kit.begin()
    export_square("cache/base.abc", (0.6, 0.6, 0))
    export_square("cache/fix.abc", (-0.6, -0.6, 0))
    cached("cache/base.abc", "/Square/Square").layers.new("//cache/fix.abc")


@scene(sent=["base.usdc"], frames="1-2")
def usd():
    """A binary USD cache."""
    kit.begin()
    export_square("cache/base.usdc", (0.3, 0, 0), kind="usd", last=2)
    cached("cache/base.usdc", "/root/Square/Square")


@scene(sent=["shot.usda", "layout.usda", "square.usda"])
def usd_of_several_files():
    """A USD with a sublayer that references another file."""
    points = ", ".join(f"({x}, {y}, 0)" for x, y in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)))
    kit.text(
        "usd/parts/square.usda",
        f'#usda 1.0\n(\n    defaultPrim = "Square"\n)\ndef Mesh "Square"\n{{\n'
        "    int[] faceVertexCounts = [4]\n    int[] faceVertexIndices = [0, 1, 2, 3]\n"
        f"    point3f[] points = [{points}]\n}}\n",
    )
    reference = "references = @./parts/square.usda@"
    kit.text(
        "usd/layout.usda",
        f'#usda 1.0\ndef Xform "Set"\n{{\n    def "Square" ({reference})\n    {{\n    }}\n}}\n',
    )
    kit.text("usd/shot.usda", "#usda 1.0\n(\n    subLayers = [@./layout.usda@]\n)\n")
    kit.begin()
    cached("usd/shot.usda", "/Set/Square")


def write_volume(name, value):
    """Write a block of fog as an OpenVDB file: what a geometry-nodes tree makes is saved."""
    block = kit.cube(size=1.0, name="Block")
    fog = kit.put(bpy.data.volumes.new("Made"))
    _, nodes, links, _, last = kit.geometry_nodes(fog)
    info, node = nodes.new("GeometryNodeObjectInfo"), nodes.new("GeometryNodeMeshToVolume")
    info.inputs["Object"].default_value = block
    node.inputs["Density"].default_value = value
    links.new(info.outputs["Geometry"], node.inputs["Mesh"])
    links.new(node.outputs[0], last)
    made = fog.evaluated_get(bpy.context.evaluated_depsgraph_get()).data
    if not made.grids.save(filepath=kit.path(name)):
        raise RuntimeError(f"{name} is not written")
    bpy.data.objects.remove(fog)
    bpy.data.objects.remove(block)


@scene(
    frames="1-2",
    each={"single": {"sent": ["fog_01.vdb"]}, "sequence": {"sent": ["fog_01.vdb", "fog_02.vdb"]}},
)
def volume(kind):
    """An OpenVDB volume, or a sequence of them."""
    kit.begin()
    kit.sun(10)
    write_volume("fog/fog_01.vdb", 2.0)
    write_volume("fog/fog_02.vdb", 9.0)
    made = bpy.data.volumes.new("Fog")
    made.filepath = "//fog/fog_01.vdb"
    if kind == "sequence":
        made.is_sequence, made.frame_duration, made.frame_start = True, 2, 1
    material, nodes, links = kit.bare_material("Fog")
    links.new(nodes.new("ShaderNodeVolumePrincipled").outputs[0], nodes["Material Output"].inputs["Volume"])
    kit.put(made, material=material)


@scene(frames="1-3", each={"pc2": {"sent": ["move.pc2"]}, "mdd": {"sent": ["move.mdd"]}})
def mesh_cache(kind):
    """A mesh cache file of a modifier."""
    kit.begin()
    item = kit.plane(kit.glow(kit.GREEN), size=0.8)
    points = [tuple(vertex.co) for vertex in item.data.vertices]
    moved = [[(x + step * 0.3, y, z) for x, y, z in points] for step in range(3)]
    with open(kit.path(f"cache/move.{kind}"), "wb") as file:
        if kind == "pc2":
            file.write(struct.pack("<12siiffi", b"POINTCACHE2\0", 1, 4, 1.0, 1.0, 3))
            file.write(b"".join(struct.pack("<3f", *point) for step in moved for point in step))
        else:
            file.write(struct.pack(">ii3f", 3, 4, 0.0, 1 / 24, 2 / 24))
            file.write(b"".join(struct.pack(">3f", *point) for step in moved for point in step))
    modifier = item.modifiers.new("Cache", "MESH_CACHE")
    modifier.cache_format, modifier.filepath, modifier.frame_start = kind.upper(), f"//cache/move.{kind}", 1


@scene(frames="2-3", range="1-3")
def ocean_baked():
    """An ocean whose waves are baked into files."""
    kit.begin()
    kit.sun()
    item = kit.plane(kit.principled((0.1, 0.3, 0.8)))
    modifier = item.modifiers.new("Ocean", "OCEAN")
    modifier.geometry_mode, modifier.resolution, modifier.spatial_size, modifier.use_foam = (
        "GENERATE",
        2,
        4,
        True,
    )
    modifier.frame_start, modifier.frame_end, modifier.filepath = 1, 3, "//waves/"
    kit.key(modifier, "time", {1: 1.0, 3: 3.0})
    kit.save()
    with bpy.context.temp_override(object=kit.active(item), active_object=item):
        bpy.ops.object.ocean_bake(modifier="Ocean")


@scene(each={"lamp": {"sent": ["lamp.ies"]}, "group": {"sent": ["lamp.ies"]}})
def ies(where):
    """An IES profile of a lamp, or within a node group."""
    kit.begin()
    kit.text(
        "lamp.ies",
        "IESNA:LM-63-1995\nTILT=NONE\n1 1000 1 3 1 1 2 -0.1 -0.1 0\n1 1 100\n0 45 90\n0\n900 500 0\n",
    )
    kit.plane(kit.principled())
    data = kit.lamp("POINT", 50, at=(0, 0, 1)).data
    data.use_nodes = True
    nodes, links = data.node_tree.nodes, data.node_tree.links
    shine = next(node for node in nodes if node.type == "EMISSION")
    if where == "group":
        group = bpy.data.node_groups.new("Profile", "ShaderNodeTree")
        group.interface.new_socket("Fac", in_out="OUTPUT", socket_type="NodeSocketFloat")
        profile = group.nodes.new("ShaderNodeTexIES")
        group.links.new(profile.outputs[0], group.nodes.new("NodeGroupOutput").inputs[0])
        node = nodes.new("ShaderNodeGroup")
        node.node_tree = group
    else:
        profile = node = nodes.new("ShaderNodeTexIES")
    profile.mode, profile.filepath = "EXTERNAL", "//lamp.ies"
    links.new(node.outputs[0], shine.inputs["Strength"])


@scene(
    made_by="4.2",
    each={"alone": {"sent": ["stripes.osl"]}, "with an include": {"sent": ["stripes.osl", "tools.h"]}},
)
def osl(kind):
    """An OSL script from a file, with or without an include. (Later wheels cannot make its sockets.)"""
    found = kit.begin()
    found.cycles.shading_system = True
    material, nodes, links = kit.bare_material("Script")
    include = '#include "tools.h"\n' if kind == "with an include" else "#define HALF 0.5\n"
    kit.text("shaders/tools.h", "#define HALF 0.5\n")
    kit.text(
        "shaders/stripes.osl",
        include + "shader stripes(output color Result = color(0, 1, 0))\n{\n"
        "    Result = color(0, step(0, P[0]) * HALF, HALF);\n}\n",
    )
    script, shine = nodes.new("ShaderNodeScript"), nodes.new("ShaderNodeEmission")
    script.mode, script.filepath = "EXTERNAL", kit.path("shaders/stripes.osl")
    links.new(script.outputs[0], shine.inputs["Color"])
    script.filepath = "//shaders/stripes.osl"
    links.new(shine.outputs[0], nodes["Material Output"].inputs["Surface"])
    kit.plane(material)


def write_shape(kind, corners):
    """Write a square as `shapes/square.<kind>`."""
    if kind == "obj":
        content = "".join(f"v {x} {y} {z}\n" for x, y, z in corners) + "f 1 2 3 4\n"
    elif kind == "stl":
        facets = ""
        for face in ((0, 1, 2), (0, 2, 3)):
            points = "".join("vertex {} {} {}\n".format(*corners[n]) for n in face)
            facets += f"facet normal 0 0 1\nouter loop\n{points}endloop\nendfacet\n"
        content = f"solid s\n{facets}endsolid s\n"
    else:
        head = "".join(f"property float {axis}\n" for axis in "xyz")
        content = f"ply\nformat ascii 1.0\nelement vertex 4\n{head}element face 1\n"
        content += "property list uchar int vertex_indices\nend_header\n"
        content += "".join(f"{x} {y} {z}\n" for x, y, z in corners) + "4 0 1 2 3\n"
    kit.text(f"shapes/square.{kind}", content)


@scene(since="5.0", sent=["square.stl", "square.obj", "square.ply"])
def import_nodes():
    """Geometry nodes that import a shape by its path."""
    kit.begin()
    places, _ = kit.cells(3, 2)
    for kind, (x, y, _) in zip(("stl", "obj", "ply"), places, strict=True):
        write_shape(
            kind, [(x + dx, y + dy, 0) for dx, dy in ((-0.4, -0.4), (0.4, -0.4), (0.4, 0.4), (-0.4, 0.4))]
        )
        item = kit.plane(kit.glow(kit.RED, name="Red"))
        _, nodes, links, _, last = kit.geometry_nodes(item)
        node = nodes.new("GeometryNodeImport" + kind.upper())
        node.inputs["Path"].default_value = f"//shapes/square.{kind}"
        kit.paint(nodes, links, node.outputs[0], last, kit.glow(kit.GREEN))


@scene(frames="4-6", range="1-6", sent=["drop_000006_00.bphys"])
def point_cache_on_disk():
    """A soft body that is baked into the disk cache."""
    found = kit.begin()
    found.gravity = (0, -9.81, 0)
    item = kit.plane(kit.glow(), size=0.5, at=(0, 0.7, 0), cuts=4)
    item.modifiers.new("Soft", "SOFT_BODY")
    item.soft_body.use_goal = False
    cache = (
        item.soft_body.point_cache
        if hasattr(item.soft_body, "point_cache")
        else item.modifiers[0].point_cache
    )
    cache.name, cache.frame_start, cache.frame_end = "drop", 1, 6
    kit.save()
    cache.use_disk_cache = True
    with bpy.context.temp_override(point_cache=cache):
        bpy.ops.ptcache.bake(bake=True)


def simulation(item):
    """A simulation zone that lifts the geometry a step in every frame; returns the modifier."""
    modifier, nodes, links, first, last = kit.geometry_nodes(item)
    begin, end = nodes.new("GeometryNodeSimulationInput"), nodes.new("GeometryNodeSimulationOutput")
    begin.pair_with_output(end)
    move = nodes.new("GeometryNodeTransform")
    move.inputs["Translation"].default_value = (0.1, 0, 0)
    links.new(first, begin.inputs["Geometry"])
    links.new(begin.outputs["Geometry"], move.inputs["Geometry"])
    links.new(move.outputs[0], end.inputs["Geometry"])
    links.new(end.outputs["Geometry"], last)
    return modifier


@scene(frames="4-5", range="1-5", each={"disk": {}, "packed": {"since": "4.5"}})
def nodes_bake(target):
    """A baked simulation of geometry nodes, on disk or packed."""
    kit.begin()
    item = kit.plane(kit.glow(kit.GREEN), size=0.6)
    modifier = simulation(item)
    if hasattr(modifier, "bake_target"):  # 4.3
        modifier.bake_target = target.upper()
    modifier.bake_directory = "//bakes"
    bpy.context.view_layer.update()
    kit.save()
    bake = modifier.bakes[0]
    if target == "packed":
        bake.bake_target = "PACKED"
    kit.active(item)
    bpy.ops.object.geometry_node_bake_single(
        session_uid=item.session_uid, modifier_name=modifier.name, bake_id=bake.bake_id
    )
    if target == "disk" and not os.listdir(kit.path("bakes")):
        raise RuntimeError("nothing was baked")
