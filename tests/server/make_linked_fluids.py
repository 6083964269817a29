"""Makes fluids that lie in libraries of libraries: `python make_linked_fluids.py DIR`, with bpy.

`lib/smoke ä.blend` (compressed) has a domain in the collection Smoke, and a plain rock; `sets/set.blend`
links Smoke into its collection Set. Each scene shows them in another way, and is a file of that name.
"""

import os
import sys

import bpy

FOLDER = os.path.abspath(sys.argv[1])


def empty():
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    scene.collection.objects.link(scene.camera)
    return scene


def save(name, compress=False):
    path = os.path.join(FOLDER, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    bpy.ops.wm.save_as_mainfile(filepath=path, relative_remap=False, compress=compress)
    return path


def link(path, stored, **names):
    with bpy.data.libraries.load(path, link=True) as (_, wanted):
        for kind, name in names.items():
            setattr(wanted, kind, [name])
    bpy.data.libraries[-1].filepath = stored
    return [getattr(bpy.data, kind)[name] for kind, name in names.items()]


def instance(collection, group):
    place = bpy.data.objects.new("Place", None)
    place.instance_type, place.instance_collection = "COLLECTION", group
    collection.objects.link(place)


def smoke():
    scene = empty()
    group = bpy.data.collections.new("Smoke")
    scene.collection.children.link(group)
    for name, kind in (("Domain", "DOMAIN"), ("Flow", "FLOW"), ("Rock", None), ("Unused", None)):
        item = bpy.data.objects.new(name, bpy.data.meshes.new(name))
        (scene.collection if kind is None else group).objects.link(item)
        if kind is not None:
            item.modifiers.new("Fluid", "FLUID").fluid_type = kind
    bpy.data.objects["Unused"].modifiers.new("Fluid", "FLUID").fluid_type = "DOMAIN"
    bpy.data.objects["Unused"].hide_render = True
    return save("lib/smoke ä.blend", compress=True)


def main():
    lib = smoke()
    empty().name = "Stage"
    own = bpy.data.collections.new("Set")
    bpy.context.scene.collection.children.link(own)
    own.children.link(*link(lib, "//../lib/smoke ä.blend", collections="Smoke"))
    middle = save("sets/set.blend")

    for name, kind in (("object", "Domain"), ("dry", "Rock"), ("unseen", "Unused")):
        [item] = link(lib, "//lib/smoke ä.blend", objects=kind) if empty() else []
        bpy.context.scene.collection.objects.link(item)
        save(f"{name}.blend")
    [group] = link(lib, "//lib/smoke ä.blend", collections="Smoke") if empty() else []
    bpy.context.scene.collection.children.link(group)
    save("child.blend")
    [group] = link(middle, "//sets/set.blend", collections="Set") if empty() else []
    inner = bpy.data.collections.new("Inner")
    instance(inner, group)
    instance(bpy.context.scene.collection, inner)
    save("instances.blend")
    scene = empty()
    [scene.background_set] = link(middle, "//sets/set.blend", scenes="Stage")
    save("background.blend")
    scene = empty()
    [other] = link(middle, "//sets/set.blend", scenes="Stage")
    editor = scene.sequence_editor_create()
    strips = editor.strips if hasattr(editor, "strips") else editor.sequences
    strips.new_scene("Set", other, 1, 1)
    save("cut.blend")
    empty()
    bpy.data.materials.new("Plain").use_fake_user = True
    [_] = link(lib, "//lib/smoke ä.blend", objects="Domain")
    save("aside.blend")


main()
sys.stdout.flush()
os._exit(0)
