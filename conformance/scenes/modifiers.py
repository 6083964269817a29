"""Modifiers of meshes and geometry nodes"""

import bpy
import kit
from declarations import scene


@scene(
    each={
        "shape": {
            "value": [
                "SUBSURF",
                "BEVEL",
                "ARRAY",
                "MIRROR",
                "SOLIDIFY",
                "WIREFRAME",
                "REMESH",
                "DECIMATE",
                "SCREW",
            ]
        },
        "bend": {
            "value": [
                "BOOLEAN",
                "LATTICE",
                "CAST",
                "SIMPLE_DEFORM",
                "SKIN",
                "MULTIRES",
                "SHRINKWRAP",
            ]
        },
    }
)
def that(kinds):
    """Modifiers that make or bend shapes, one of each."""
    kit.begin(size=64)
    kit.sun()
    places, size = kit.cells(len(kinds), 3)
    for kind, at in zip(kinds, places, strict=True):
        item = kit.cube(kit.principled((0.8, 0.4, 0.2)), size=size * 0.5, at=at)
        modify(item, kind, at, size)


def modify(item, kind, at, size):
    """Give the item a modifier of a kind, with what it needs."""
    modifier = item.modifiers.new("It", kind)
    values = {
        "SUBSURF": {"render_levels": 2},
        "BEVEL": {"width": 0.1, "segments": 2},
        "ARRAY": {"count": 2},
        "SOLIDIFY": {"thickness": 0.2},
        "REMESH": {"mode": "SMOOTH", "octree_depth": 3},
        "DECIMATE": {"ratio": 0.5},
        "CAST": {"factor": 0.7},
        "SIMPLE_DEFORM": {"deform_method": "TWIST", "angle": 1.0},
        "SCREW": {"steps": 6, "render_steps": 6},
    }
    for name, value in values.get(kind, {}).items():
        setattr(modifier, name, value)
    if kind in ("BOOLEAN", "SHRINKWRAP"):
        other = kit.cube(size=size * 0.4, at=(at[0] + 0.1, at[1] + 0.1, 0.1), name="Other")
        other.hide_render = True
        setattr(modifier, "object" if kind == "BOOLEAN" else "target", other)
    if kind == "LATTICE":
        modifier.object = kit.put(bpy.data.lattices.new("Lattice"), at=at)
        modifier.object.data.points[0].co_deform.x -= 0.4
    if kind == "MULTIRES":
        kit.active(item)
        bpy.ops.object.multires_subdivide(modifier="It")


@scene(frames="1-2", quick=True)
def geometry_nodes():
    """A geometry-nodes modifier that sets a material and follows the frame."""
    kit.begin()
    item = kit.plane(kit.glow(kit.RED, name="Red"), size=0.8)
    _, nodes, links, first, last = kit.geometry_nodes(item)
    move, time = nodes.new("GeometryNodeTransform"), nodes.new("GeometryNodeInputSceneTime")
    links.new(time.outputs["Seconds"], move.inputs["Translation"])
    links.new(first, move.inputs["Geometry"])
    kit.paint(nodes, links, move.outputs[0], last, kit.glow(kit.GREEN))


@scene(since="4.2")
def shade_auto_smooth():
    """Shade Auto Smooth, which adds a node group of Blender's own."""
    kit.begin()
    kit.sun()
    bpy.ops.mesh.primitive_uv_sphere_add(segments=8, ring_count=6, radius=0.8)
    item = bpy.context.object
    item.data.materials.append(kit.principled((0.8, 0.4, 0.2)))
    kit.active(item)
    bpy.ops.object.shade_auto_smooth()


@scene()
def scattered_instances():
    """Points on faces with instances of a collection."""
    kit.begin()
    item = kit.plane(kit.glow(kit.RED, name="Red"))
    grain = kit.cube(kit.glow(kit.GREEN), size=0.15, at=(9, 9, 9), name="Grain")
    _, nodes, links, first, last = kit.geometry_nodes(item)
    spread, put = nodes.new("GeometryNodeDistributePointsOnFaces"), nodes.new("GeometryNodeInstanceOnPoints")
    spread.inputs["Density"].default_value = 8
    info = nodes.new("GeometryNodeObjectInfo")
    info.inputs["Object"].default_value = grain
    links.new(first, spread.inputs[0])
    links.new(spread.outputs["Points"], put.inputs["Points"])
    links.new(info.outputs["Geometry"], put.inputs["Instance"])
    links.new(put.outputs[0], last)


@scene(sent=["map.png"])
def image_of_geometry_nodes():
    """An image that a geometry-nodes tree reads."""
    kit.begin()
    item = kit.plane(kit.glow(kit.GREEN), cuts=8)
    _, nodes, links, first, last = kit.geometry_nodes(item)
    kit.picture("map.png", rows=[[kit.WHITE, (0, 0, 0)], [(0, 0, 0), kit.WHITE]])
    texture, cut = nodes.new("GeometryNodeImageTexture"), nodes.new("GeometryNodeDeleteGeometry")
    texture.inputs["Image"].default_value = kit.image("map.png")
    position = nodes.new("GeometryNodeInputPosition")
    links.new(position.outputs[0], texture.inputs["Vector"])
    links.new(texture.outputs["Color"], cut.inputs["Selection"])
    links.new(first, cut.inputs["Geometry"])
    links.new(cut.outputs[0], last)


@scene(frames="1-2")
def repeat_zone():
    """A repeat zone, with a node's value that is animated."""
    kit.begin()
    item = kit.plane(kit.glow(kit.GREEN), size=0.4)
    _, nodes, links, first, last = kit.geometry_nodes(item)
    start, end = nodes.new("GeometryNodeRepeatInput"), nodes.new("GeometryNodeRepeatOutput")
    start.pair_with_output(end)
    start.inputs["Iterations"].default_value = 3
    move, way = nodes.new("GeometryNodeTransform"), nodes.new("ShaderNodeCombineXYZ")
    links.new(first, start.inputs["Geometry"])
    links.new(start.outputs["Geometry"], move.inputs["Geometry"])
    links.new(way.outputs[0], move.inputs["Translation"])
    links.new(move.outputs[0], end.inputs["Geometry"])
    links.new(end.outputs["Geometry"], last)
    kit.key(way.inputs["X"], "default_value", {1: 0.1, 2: 0.2})
