"""Lights and the world"""

import bpy
import kit
from declarations import scene


@scene(each=["each kind", "linked"])
def lamps(kind):
    """Lamps of each kind, and light linking."""
    kit.begin()
    kit.plane(kit.principled(), at=(0, 0, -0.5))
    item = kit.cube(kit.principled((0.8, 0.3, 0.2)))
    if kind == "linked":
        light = kit.sun(5)
        light.light_linking.receiver_collection = bpy.data.collections.new("Lit")
        light.light_linking.receiver_collection.objects.link(item)
    else:
        kit.sun(1)
        for number, sort in enumerate(("POINT", "SPOT", "AREA")):
            kit.lamp(sort, 20, at=(0.6 * number - 0.6, 0.5, 1.5))


@scene(each={"colour": {}, "picture": {"sent": ["sky.hdr"]}, "sky": {}})
def world(kind):
    """A world of one colour, with an HDR picture, with a sky."""
    found = kit.begin()
    kit.cube(kit.principled())
    found.world = bpy.data.worlds.new("World")
    found.world.use_nodes = True
    nodes, links = found.world.node_tree.nodes, found.world.node_tree.links
    back = next(node for node in nodes if node.type == "BACKGROUND")
    back.inputs["Color"].default_value = (0.3, 0.5, 0.9, 1)
    if kind == "picture":
        image = bpy.data.images.new("Sky", 8, 4, float_buffer=True)
        image.pixels = [value for number in range(32) for value in (number / 16, 0.5, 1 - number / 32, 1)]
        image.file_format, image.filepath_raw = "HDR", kit.path("sky.hdr")
        image.save()
        bpy.data.images.remove(image)
        node = nodes.new("ShaderNodeTexEnvironment")
        node.image = kit.image("sky.hdr")
        links.new(node.outputs[0], back.inputs["Color"])
    if kind == "sky":
        links.new(nodes.new("ShaderNodeTexSky").outputs[0], back.inputs["Color"])


@scene(sent=["gobo.png"])
def picture_of_a_lamp():
    """A lamp whose nodes use an image."""
    kit.begin()
    kit.plane(kit.principled())
    light = kit.lamp("SPOT", 100, at=(0, 0, 2))
    light.data.use_nodes = True
    nodes, links = light.data.node_tree.nodes, light.data.node_tree.links
    node = nodes.new("ShaderNodeTexImage")
    node.image = kit.image("gobo.png")
    shine = next(one for one in nodes if one.type == "EMISSION")
    links.new(node.outputs[0], shine.inputs["Color"])
