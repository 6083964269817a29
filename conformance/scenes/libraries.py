"""Linked libraries, direct and nested, overrides and packed ones."""

import os

import bpy
import kit
from declarations import scene


def prop(name="libs/prop.blend", colour=kit.GREEN, texture=None):
    """Save a library with an object `Prop` in a collection `Props`, with an image or a colour."""
    kit.begin(camera=False)
    collection = bpy.data.collections.new("Props")
    bpy.context.scene.collection.children.link(collection)
    image = texture and kit.image(texture, stored="//../" + texture)
    item = kit.plane(kit.glow(colour, image=image), name="Prop")
    bpy.context.scene.collection.objects.unlink(item)
    collection.objects.link(item)
    kit.save(name)
    return name


@scene(sent=["prop.blend"], quick=True)
def linked_object():
    """An object of a library beside the scene."""
    name = prop()
    kit.begin()
    kit.show(kit.link(name, "objects", "Prop"))


@scene(sent=["prop.blend", "paint.png"])
def texture_of_a_library():
    """A library's own texture, by a path relative to the library."""
    name = prop(texture="textures/paint.png")
    kit.begin()
    kit.show(kit.link(name, "objects", "Prop"))


@scene(sent=["prop.blend"])
def by_an_absolute_path():
    """A library by its full path."""
    name = prop()
    kit.begin()
    kit.show(kit.link(name, "objects", "Prop", stored=kit.path(name)))


@scene(sent=["prop.blend"])
def by_a_windows_path():
    """Backslashes in the path of a library."""
    name = prop()
    kit.begin()
    kit.show(kit.link(name, "objects", "Prop", stored="//libs\\prop.blend"))


@scene(sent=["a prop für alle.blend"])
def of_an_odd_name():
    """A library with spaces and an umlaut in its name."""
    name = prop("libs/a prop für alle.blend")
    kit.begin()
    kit.show(kit.link(name, "objects", "Prop"))


@scene(sent=["prop.blend", "set.blend", "paint.png"])
def nested():
    """A library of a library, with a texture."""
    inner = prop(texture="textures/paint.png")
    kit.begin(camera=False)
    collection = bpy.data.collections.new("Set")
    bpy.context.scene.collection.children.link(collection)
    for item in kit.link(inner, "objects", "Prop", stored="//prop.blend"):
        collection.objects.link(item)
    kit.save("libs/set.blend")
    kit.begin()
    (collection,) = kit.link("libs/set.blend", "collections", "Set")
    bpy.context.scene.collection.children.link(collection)


@scene(sent=["prop.blend"])
def collection_instance():
    """An instance of a linked collection."""
    name = prop()
    kit.begin()
    empty = bpy.data.objects.new("Instance", None)
    empty.instance_type = "COLLECTION"
    (empty.instance_collection,) = kit.link(name, "collections", "Props")
    kit.show([empty])


@scene(sent=["prop.blend"])
def override():
    """A library override that moves the linked object."""
    name = prop()
    kit.begin()
    (item,) = kit.link(name, "objects", "Prop")
    kit.show([item])
    own = item.override_create()
    bpy.context.scene.collection.objects.unlink(item)
    kit.show([own])
    own.location = (0.6, 0.4, 0)


@scene(sent=["prop.blend"])
def linked_material():
    """A linked material on an object of the file."""
    name = prop(colour=kit.BLUE)
    kit.begin()
    kit.plane(kit.link(name, "materials", "Glow")[0])


@scene(sent=["prop.blend"])
def linked_geometry_nodes():
    """A geometry-nodes group of a library."""
    kit.begin(camera=False)
    group = kit.geometry_nodes(kit.plane())
    kit.paint(group[1], group[2], group[3], group[4], kit.glow(kit.BLUE))
    kit.save("libs/prop.blend")
    kit.begin()
    item = kit.plane(kit.glow(kit.RED))
    (item.modifiers.new("Nodes", "NODES").node_group,) = kit.link("libs/prop.blend", "node_groups", "Nodes")


@scene(sent=["prop.blend"])
def linked_world():
    """A world of a library."""
    kit.begin(camera=False)
    world = bpy.data.worlds.new("Sky")
    world.use_nodes = True
    world.node_tree.nodes["Background"].inputs["Color"].default_value = (0.2, 0.4, 0.9, 1)
    world.use_fake_user = True
    kit.save("libs/prop.blend")
    kit.begin()
    (bpy.context.scene.world,) = kit.link("libs/prop.blend", "worlds", "Sky")


@scene(sent=["prop.blend"])
def linked_scene_of_the_compositor():
    """A linked scene that a Render Layers node takes."""
    kit.begin()
    bpy.context.scene.name = "Shot"
    kit.plane(kit.glow(kit.BLUE))
    kit.save("libs/prop.blend")
    first = kit.begin()
    tree, layers, last = kit.compositor(first)
    (layers.scene,) = kit.link("libs/prop.blend", "scenes", "Shot")
    tree.links.new(layers.outputs["Image"], last)


@scene(sent=["paint.png"])
def packed_into_the_file():
    """A library that was packed into the file; its texture still lies outside."""
    name = prop(texture="textures/paint.png")
    kit.begin()
    kit.show(kit.link(name, "objects", "Prop"))
    kit.save()
    bpy.ops.file.pack_libraries()
    saved = kit.save()
    os.unlink(kit.path(name))
    return saved


@scene(since="5.0")
def packed_data_blocks():
    """Linked data-blocks that are packed into the file (5.0), without their library."""
    name = prop()
    kit.begin()
    with bpy.data.libraries.load(kit.path(name), link=True, pack=True) as (_, wanted):
        wanted.objects = ["Prop"]
    kit.show(item for item in bpy.data.objects if item.name == "Prop")
    saved = kit.save()
    os.unlink(kit.path(name))
    return saved


@scene(warns=["missing_file"], says=["prop.blend"])
def missing():
    """A library that is not there: it renders without it, with a warning that names it."""
    name = prop()
    kit.begin()
    kit.show(kit.link(name, "objects", "Prop"))
    kit.plane(kit.glow(kit.GREEN), at=(0, 0, -1), size=1)
    saved = kit.save()
    os.unlink(kit.path(name))
    return saved
