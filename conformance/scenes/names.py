"""Names of files, scenes and view layers that are odd, long or in other scripts"""

import bpy
import kit
from declarations import scene


def named(name):
    """A small scene, saved under `name`."""
    found = kit.begin()
    kit.plane(kit.glow(kit.GREEN))
    found.render.filepath = f"//out/{name}_####"
    return kit.save(f"{name}.blend")


@scene(each=["two words", "übung 日本", "dots.in.it", "-dash", "it's 100%"])
def file(name):
    """A .blend of an odd name."""
    return named(name)


@scene(each={"colon": {"value": 'Shot 12: "dusk"?'}, "hash": {"value": "shot_##_v1"}}, safe_names=True)
def file_unsafe(name):
    """A .blend whose name no other system takes: the download has a safe one."""
    found = kit.begin()
    kit.plane(kit.glow(kit.GREEN))
    found.render.filepath = "//out/safe_####"
    return kit.save(f"{name}.blend")


@scene(each={"100": {"value": 100}, "150": {"value": 150}})
def file_long(length):
    """A .blend of a long name."""
    return named("n" * length)


@scene(submit="--scene-name 'Shot: \"12\" / ä'", by_hand={"scene": 'Shot: "12" / ä'})
def scene_chosen():
    """`--scene-name` with a name of odd characters."""
    kit.begin()
    kit.plane(kit.glow(kit.RED))
    other = kit.another_scene('Shot: "12" / ä')
    kit.plane(kit.glow(kit.BLUE, name="Blue"), scene=other)


@scene(submit="--view-layer 'fore / ground'", by_hand={"view_layers": ["fore / ground"]})
def view_layer_chosen():
    """`--view-layer` with a name of odd characters."""
    found = kit.begin()
    kit.plane(kit.glow(kit.RED))
    layer = found.view_layers.new("fore / ground")
    layer.samples = 1
    found.view_layers[0].name = "back"
    extra = bpy.data.collections.new("Extra")
    found.collection.children.link(extra)
    item = kit.plane(kit.glow(kit.BLUE, name="Blue"), at=(0, 0, 1), size=1)
    found.collection.objects.unlink(item)
    extra.objects.link(item)
    found.view_layers["back"].layer_collection.children["Extra"].exclude = True


@scene(submit="--camera 'Kamera Süd.001'", by_hand={"camera": "Kamera Süd.001"})
def camera_chosen():
    """`--camera` with a name of odd characters, beside a marker that binds another one."""
    found = kit.begin()
    kit.plane(kit.glow(kit.GREEN), size=1)
    kit.look(found, width=4, name="Kamera Süd.001", at=(0.3, 0, 5))
    found.timeline_markers.new("Cut", frame=1).camera = found.camera


@scene(each=["objects", "materials"])
def data_blocks(kind):
    """Data-blocks with names of the greatest length, in other scripts."""
    kit.begin()
    item = kit.plane(kit.glow(kit.GREEN))
    target = item if kind == "objects" else item.data.materials[0]
    target.name = "名" * 20
