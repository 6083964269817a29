"""Cameras: bound to markers, of other scenes, lenses, depth of field"""

import math

import kit
from declarations import scene


def floor():
    """A tiled floor with a cube, lit."""
    kit.sun()
    kit.plane(kit.textured("ShaderNodeTexChecker"), size=6, at=(0, 0, -0.6))
    return kit.cube(kit.principled((0.8, 0.3, 0.1)))


@scene(frames="1-4", chunk=1, quick=True)
def bound_to_markers():
    """Markers that switch the camera, in tasks of one frame."""
    found = kit.begin()
    floor()
    other = kit.look(found, name="Other", at=(0.5, 0, 5), width=4)
    found.timeline_markers.new("One", frame=1).camera = found.camera
    found.timeline_markers.new("Two", frame=3).camera = other


@scene(frames="5-6", range="1-6", chunk=1)
def bound_to_an_earlier_marker():
    """The marker that binds the camera lies before the frames of the job."""
    found = kit.begin()
    floor()
    other = kit.look(found, name="Other", at=(0.5, 0, 5), width=4)
    found.timeline_markers.new("Two", frame=2).camera = other


@scene()
def of_another_scene():
    """A composing scene without a camera takes the layers of a scene that has one."""
    comp = kit.begin(camera=False)
    shot = kit.another_scene("Shot")
    kit.plane(kit.glow(kit.GREEN), scene=shot, size=1)
    tree, layers, last = kit.compositor(comp)
    layers.scene = shot
    tree.links.new(layers.outputs["Image"], last)


@scene(each=["PERSP", "PANO", "shifted", "blades"])
def lens(kind):
    """Perspective, panorama, shift, and depth of field with blades."""
    found = kit.begin()
    floor()
    camera = found.camera.data
    camera.type = "PANO" if kind == "PANO" else "PERSP"
    if kind == "shifted":
        camera.shift_x, camera.lens, camera.sensor_fit = 0.2, 35, "VERTICAL"
    if kind == "blades":
        camera.dof.use_dof, camera.dof.focus_distance, camera.dof.aperture_fstop = True, 3, 0.5
        camera.dof.aperture_blades, camera.dof.aperture_rotation = 5, 0.3


@scene(frames="1-3")
def animated():
    """An animated camera that tracks an object, with an animated lens."""
    found = kit.begin()
    item = floor()
    found.camera.data.type = "PERSP"
    track = found.camera.constraints.new("TRACK_TO")
    track.target = item
    kit.key(found.camera, "location", {1: (0, -3, 3), 3: (3, 0, 2)})
    kit.key(found.camera.data, "lens", {1: 20, 3: 60})


@scene(sent=["back.png"])
def background_picture():
    """A background picture of the camera, which is sent and not rendered."""
    found = kit.begin()
    floor()
    found.camera.data.show_background_images = True
    found.camera.data.background_images.new().image = kit.image("back.png")


@scene()
def clipped_and_turned():
    """Clip planes, and a camera that is parented and turned."""
    found = kit.begin()
    item = floor()
    found.camera.parent = item
    found.camera.data.clip_end = 5.2
    item.rotation_euler = (0, 0, math.radians(30))
