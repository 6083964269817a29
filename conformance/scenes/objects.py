"""Objects that are no meshes, instances, and visibility"""

import bpy
import kit
from declarations import scene


@scene()
def curves_and_surfaces():
    """A curve, a text, metaballs, a NURBS surface."""
    kit.begin(size=64)
    kit.sun()
    material = kit.principled((0.2, 0.6, 0.9))
    places, _ = kit.cells(4, 2)
    curve = bpy.data.curves.new("Curve", "CURVE")
    curve.dimensions, curve.bevel_depth = "3D", 0.15
    spline = curve.splines.new("BEZIER")
    spline.bezier_points.add(1)
    spline.bezier_points[0].co, spline.bezier_points[1].co = (-0.3, 0, 0), (0.3, 0.3, 0)
    kit.put(curve, at=places[0], material=material)
    words = bpy.data.curves.new("Text", "FONT")
    words.body, words.extrude, words.align_x, words.size = "aß", 0.1, "CENTER", 0.8
    kit.put(words, at=places[1], material=material)
    balls = bpy.data.metaballs.new("Balls")
    balls.render_resolution = 0.1
    for at in (-0.4, 0.4):
        balls.elements.new().co = (at, 0, 0)
    kit.put(balls, at=places[2], material=material).scale = (0.3, 0.3, 0.3)
    bpy.ops.surface.primitive_nurbs_surface_sphere_add(radius=0.4, location=places[3])
    bpy.context.object.data.materials.append(material)


@scene()
def hair_points_and_fog():
    """Hair curves, a point cloud and a volume."""
    kit.begin(size=64)
    kit.sun()
    material = kit.principled((0.2, 0.6, 0.9))
    places, size = kit.cells(3, 2)
    curves = bpy.data.hair_curves.new("Hair")
    curves.add_curves([4] * 6)
    for number, point in enumerate(curves.points):
        point.position = ((number // 4) * 0.12 - 0.3, (number % 4) * 0.2 - 0.3, 0.1 * (number % 4))
        point.radius = 0.03
    kit.put(curves, at=places[0], material=material)
    _, nodes, links, first, last = kit.geometry_nodes(kit.plane(material, at=places[1], size=size))
    node = nodes.new("GeometryNodeMeshToPoints")
    node.inputs["Radius"].default_value = 0.2
    links.new(first, node.inputs[0])
    kit.paint(nodes, links, node.outputs[0], last, material)
    _, nodes, links, first, last = kit.geometry_nodes(kit.cube(at=places[2]))
    node = nodes.new("GeometryNodeMeshToVolume")
    links.new(first, node.inputs[0])
    fog, inside, wires = kit.bare_material("Fog")
    wires.new(inside.new("ShaderNodeVolumePrincipled").outputs[0], inside["Material Output"].inputs["Volume"])
    kit.paint(nodes, links, node.outputs[0], last, fog)


@scene()
def pencil():
    """Blender's own grease-pencil monkey."""
    kit.begin(size=64)
    kit.sun()
    kit.grease_pencil("MONKEY")


@scene(each=["COLLECTION", "VERTS", "FACES"])
def instances(what):
    """Instances of a collection, at vertices, on faces."""
    kit.begin()
    grain = kit.cube(kit.glow(kit.GREEN), size=0.3, name="Grain")
    if what == "COLLECTION":
        collection = bpy.data.collections.new("Grains")
        bpy.context.scene.collection.objects.unlink(grain)
        collection.objects.link(grain)
        for at in (-0.5, 0.5):
            empty = bpy.data.objects.new("Instance", None)
            empty.instance_type, empty.instance_collection, empty.location = (
                "COLLECTION",
                collection,
                (at, 0, 0),
            )
            kit.show([empty])
        return
    item = kit.plane(size=1.2, cuts=2)
    grain.parent, item.instance_type = item, what
    item.show_instancer_for_render = False


@scene(each=["holdout", "indirect", "catcher", "camera ray", "excluded"])
def visibility(what):
    """Holdout, indirect only, shadow catcher, ray visibility, excluded collections."""
    found = kit.begin()
    kit.sun()
    found.render.film_transparent = True
    found.render.image_settings.color_mode = "RGBA"
    floor = kit.plane(kit.principled(), at=(0, 0, -0.6))
    item = kit.cube(kit.principled((0.9, 0.2, 0.1)), size=0.6)
    collection = bpy.data.collections.new("Part")
    found.collection.children.link(collection)
    found.collection.objects.unlink(item)
    collection.objects.link(item)
    layer = found.view_layers[0].layer_collection.children["Part"]
    if what == "holdout":
        layer.holdout = True
    elif what == "indirect":
        layer.indirect_only = True
    elif what == "catcher":
        floor.is_shadow_catcher = True
    elif what == "camera ray":
        item.visible_camera = False
    else:
        layer.exclude = True


@scene(sent=["stroke.png"], until="4.2")
def pencil_with_a_texture():
    """A grease-pencil material with a texture."""
    kit.begin()
    bpy.ops.object.gpencil_add(type="STROKE")
    material = bpy.context.object.data.materials[0]
    material.grease_pencil.stroke_style = "TEXTURE"
    material.grease_pencil.stroke_image = kit.image("stroke.png")


@scene(each=["freestyle", "line art"])
def lines(what):
    """Lines by Freestyle, and by the Line Art modifier."""
    found = kit.begin()
    kit.sun()
    kit.cube(kit.principled())
    if what == "freestyle":
        found.render.use_freestyle = True
        found.view_layers[0].use_freestyle = True
        lines = found.view_layers[0].freestyle_settings.linesets
        made = lines[0] if len(lines) else lines.new("Lines")
        made.linestyle = made.linestyle or bpy.data.linestyles.new("Line")
    else:
        kit.grease_pencil("LINEART_SCENE")
