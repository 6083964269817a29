"""Save the demo's scene: a still life on a turntable that turns once in eight frames.

    PYTHON script/demo_scene.py OUTDIR

PYTHON is a Python with `bpy` (4.2 or later). Writes OUTDIR/turntable.blend and, beside it, the texture that
the scene's floor refers to by a relative path: OUTDIR/textures/petals.png. The result is always the same.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import bpy
import numpy as np

FRAMES = 8
WIDTH, HEIGHT = 480, 270
SAMPLES = 7

TEAL = (0.012, 0.085, 0.105)
CREAM = (0.72, 0.60, 0.42)
CORAL = (0.56, 0.13, 0.07)


# ------------------------------------------------------------------------------ the texture


def petals(size: int = 1024, cells: int = 4) -> np.ndarray:
    """A tile pattern of overlapping circles, with dots in the gaps. Shape: rows × columns × RGBA floats."""
    position = (np.arange(size) + 0.5) / size * cells
    u, v = np.meshgrid(position % 1.0, position % 1.0)
    softness = 1.5 * cells / size

    def inside(signed_distance: np.ndarray) -> np.ndarray:
        return np.clip(0.5 - signed_distance / softness, 0.0, 1.0)

    radius = math.sqrt(0.5)
    covered = np.zeros_like(u)
    for x in (0.0, 1.0):
        for y in (0.0, 1.0):
            covered += inside(np.hypot(u - x, v - y) - radius)
    petal = np.clip(covered - 1.0, 0.0, 1.0)
    vein = np.minimum.reduce([np.abs(u - 0.5), np.abs(v - 0.5), u, 1 - u, v, 1 - v]) < 0.012
    dot = inside(np.hypot(u - 0.5, v - 0.5) - 0.075)
    ring = inside(np.abs(np.hypot(u - 0.5, v - 0.5) - 0.125) - 0.012)

    picture = np.ones((size, size, 4), dtype=np.float32)
    shade = (
        0.92
        + 0.08 * np.sin(position * math.pi * 2)[None, :, None] * np.sin(position * math.pi)[:, None, None]
    )
    picture[..., :3] = np.array(TEAL) * shade
    for mask, colour in ((petal, CREAM), (petal * vein, CORAL), (dot, CORAL), (ring, CREAM)):
        picture[..., :3] += (np.array(colour) - picture[..., :3]) * mask[..., None]
    return picture


def write_texture(path: Path) -> None:
    picture = petals()
    linear = picture[..., :3]
    picture[..., :3] = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = bpy.data.images.new("petals", picture.shape[1], picture.shape[0])
    image.pixels.foreach_set(picture.ravel())
    image.filepath_raw = str(path)
    image.file_format = "PNG"
    image.save()
    bpy.data.images.remove(image)


# ---------------------------------------------------------------------------- the materials


def material(
    name: str, colour: tuple[float, float, float], roughness: float, **inputs: float
) -> bpy.types.Material:
    made = bpy.data.materials.new(name)
    made.use_nodes = True
    surface = made.node_tree.nodes["Principled BSDF"]
    surface.inputs["Base Color"].default_value = (*colour, 1.0)
    surface.inputs["Roughness"].default_value = roughness
    for key, value in inputs.items():
        surface.inputs[key.replace("_", " ")].default_value = value
    return made


def floor_material(texture: Path) -> bpy.types.Material:
    made = material("Floor", CREAM, 0.42, Specular_IOR_Level=0.15)
    nodes, links = made.node_tree.nodes, made.node_tree.links
    surface = nodes["Principled BSDF"]
    picture = nodes.new("ShaderNodeTexImage")
    picture.image = bpy.data.images.load(str(texture))
    mapping = nodes.new("ShaderNodeMapping")
    mapping.inputs["Scale"].default_value = (7.0, 7.0, 7.0)
    mapping.inputs["Rotation"].default_value = (0.0, 0.0, math.radians(45))
    where = nodes.new("ShaderNodeTexCoord")
    links.new(where.outputs["UV"], mapping.inputs["Vector"])
    links.new(mapping.outputs["Vector"], picture.inputs["Vector"])
    links.new(picture.outputs["Color"], surface.inputs["Base Color"])
    return made


def banded_material(name: str) -> bpy.types.Material:
    """Glazed clay with slightly irregular bands."""
    made = material(name, CREAM, 0.22, Coat_Weight=0.6, Coat_Roughness=0.08)
    nodes, links = made.node_tree.nodes, made.node_tree.links
    where = nodes.new("ShaderNodeTexCoord")
    wave = nodes.new("ShaderNodeTexWave")
    wave.bands_direction = "Z"
    wave.inputs["Scale"].default_value = 1.1
    wave.inputs["Distortion"].default_value = 0.9
    wave.inputs["Detail"].default_value = 2.0
    ramp = nodes.new("ShaderNodeValToRGB")
    ramp.color_ramp.elements[0].position, ramp.color_ramp.elements[0].color = 0.30, (0.03, 0.14, 0.19, 1)
    ramp.color_ramp.elements[1].position, ramp.color_ramp.elements[1].color = 0.62, (*CREAM, 1)
    middle = ramp.color_ramp.elements.new(0.46)
    middle.color = (0.05, 0.27, 0.31, 1)
    links.new(where.outputs["Object"], wave.inputs["Vector"])
    links.new(wave.outputs["Fac"], ramp.inputs["Fac"])
    links.new(ramp.outputs["Color"], nodes["Principled BSDF"].inputs["Base Color"])
    return made


# -------------------------------------------------------------------------------- the things


def mesh(name: str, vertices: list, faces: list, surface: bpy.types.Material) -> bpy.types.Object:
    data = bpy.data.meshes.new(name)
    data.from_pydata(vertices, [], faces)
    data.update()
    for polygon in data.polygons:
        polygon.use_smooth = True
    data.materials.append(surface)
    made = bpy.data.objects.new(name, data)
    bpy.context.collection.objects.link(made)
    return made


def lathe(name: str, profile: list[tuple[float, float]], surface: bpy.types.Material, around: int = 72):
    """A body of revolution from (radius, height) points, with `around` faces on its circumference."""
    vertices = [
        (r * math.cos(a), r * math.sin(a), z)
        for r, z in profile
        for a in (2 * math.pi * i / around for i in range(around))
    ]
    faces = [
        (
            row * around + i,
            row * around + (i + 1) % around,
            (row + 1) * around + (i + 1) % around,
            (row + 1) * around + i,
        )
        for row in range(len(profile) - 1)
        for i in range(around)
    ]
    return mesh(name, vertices, faces, surface)


def smooth_profile(points: list[tuple[float, float]], steps: int = 10) -> list[tuple[float, float]]:
    """Points of a Catmull-Rom curve through the given points, `steps` for each of them."""
    padded = [points[0], *points, points[-1]]
    curve = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        for i in range(steps):
            t = i / steps
            curve.append(
                tuple(
                    0.5
                    * (
                        2 * q
                        + (r - p) * t
                        + (2 * p - 5 * q + 4 * r - s) * t**2
                        + (3 * q - p - 3 * r + s) * t**3
                    )
                    for p, q, r, s in zip(a, b, c, d, strict=True)
                )
            )
    return [(max(radius, 0.0), height) for radius, height in [*curve, points[-1]]]


def torus_knot(name: str, surface: bpy.types.Material, p: int = 2, q: int = 3) -> bpy.types.Object:
    curve = bpy.data.curves.new(name, "CURVE")
    curve.dimensions = "3D"
    curve.bevel_depth = 0.105
    curve.bevel_resolution = 6
    spline = curve.splines.new("POLY")
    count = 220
    spline.points.add(count - 1)
    for i, point in enumerate(spline.points):
        t = 2 * math.pi * i / count
        r = 0.40 + 0.17 * math.cos(q * t)
        point.co = (r * math.cos(p * t), 0.17 * 1.5 * math.sin(q * t), r * math.sin(p * t), 1.0)
    spline.use_cyclic_u = True
    curve.materials.append(surface)
    made = bpy.data.objects.new(name, curve)
    bpy.context.collection.objects.link(made)
    return made


def sphere(name: str, radius: float, surface: bpy.types.Material) -> bpy.types.Object:
    bpy.ops.mesh.primitive_uv_sphere_add(radius=radius, segments=64, ring_count=32)
    made = bpy.context.object
    made.name = name
    bpy.ops.object.shade_smooth()
    made.data.materials.append(surface)
    return made


def monkey(surface: bpy.types.Material) -> bpy.types.Object:
    bpy.ops.mesh.primitive_monkey_add(size=1.05)
    made = bpy.context.object
    made.modifiers.new("Smooth", "SUBSURF").render_levels = 2
    bpy.ops.object.shade_smooth()
    made.data.materials.append(surface)
    return made


def build_still_life(turntable: bpy.types.Object) -> None:
    gold = material("Gold", (0.95, 0.58, 0.20), 0.16, Metallic=1.0)
    chrome = material("Chrome", (0.86, 0.89, 0.93), 0.05, Metallic=1.0)
    lacquer = material("Lacquer", CORAL, 0.25, Coat_Weight=1.0, Coat_Roughness=0.04)
    porcelain = material("Porcelain", (0.78, 0.76, 0.72), 0.18, Coat_Weight=0.8, Coat_Roughness=0.05)
    walnut = material("Disc", (0.020, 0.022, 0.027), 0.16, Coat_Weight=0.7, Coat_Roughness=0.06)

    disc = lathe(
        "Disc",
        [
            (0.0, 0.16),
            (1.86, 0.16),
            (1.91, 0.155),
            (1.94, 0.13),
            (1.95, 0.10),
            (1.95, 0.03),
            (1.90, 0.0),
            (0.0, 0.0),
        ],
        walnut,
        around=128,
    )
    rim = lathe("Rim", [(1.952, 0.065), (1.985, 0.075), (1.985, 0.115), (1.952, 0.125)], gold, around=128)
    vase = lathe(
        "Vase",
        smooth_profile(
            list(
                zip(
                    (0.0, 0.26, 0.36, 0.52, 0.44, 0.19, 0.15, 0.27, 0.24, 0.11, 0.12),
                    (0.0, 0.0, 0.10, 0.50, 0.92, 1.28, 1.48, 1.68, 1.68, 1.46, 1.20),
                    strict=True,
                )
            )
        ),
        banded_material("Clay"),
    )
    vase.location = (-0.62, 0.70, 0.16)
    knot = torus_knot("Knot", gold)
    knot.location = (0.85, 0.62, 0.90)
    knot.rotation_euler = (0.0, 0.0, math.radians(35))
    head = monkey(porcelain)
    head.location = (0.38, -0.92, 0.70)
    head.rotation_euler = (math.radians(-14), 0.0, math.radians(22))
    mirror = sphere("Mirror ball", 0.40, chrome)
    mirror.location = (-0.98, -0.42, 0.56)
    berry = sphere("Berry", 0.21, lacquer)
    berry.location = (-0.28, -1.12, 0.37)
    bead = sphere("Bead", 0.14, gold)
    bead.location = (-0.55, -1.40, 0.30)
    pearl = sphere("Pearl", 0.27, lacquer)
    pearl.location = (1.42, -0.10, 0.43)
    for thing in (disc, rim, vase, knot, head, mirror, berry, bead, pearl):
        thing.parent = turntable


def animate(turntable: bpy.types.Object) -> None:
    for frame in (1, FRAMES + 1):
        turntable.rotation_euler = (0.0, 0.0, math.radians(-18) + 2 * math.pi * (frame - 1) / FRAMES)
        turntable.keyframe_insert("rotation_euler", index=2, frame=frame)
    for curve in turntable.animation_data.action.fcurves:
        for key in curve.keyframe_points:
            key.interpolation = "LINEAR"


# ------------------------------------------------------------------------ the light and camera


def area_light(name: str, location, target, size: float, watts: float, colour) -> None:
    data = bpy.data.lights.new(name, "AREA")
    data.size, data.energy, data.color = size, watts, colour
    made = bpy.data.objects.new(name, data)
    bpy.context.collection.objects.link(made)
    made.location = location
    aim(made, target)


def aim(thing: bpy.types.Object, target) -> None:
    from mathutils import Vector

    thing.rotation_euler = (Vector(target) - thing.location).to_track_quat("-Z", "Y").to_euler()


def light_and_camera(scene: bpy.types.Scene) -> None:
    area_light("Key, warm", (-4.2, -3.4, 4.6), (0, 0, 0.5), 2.6, 420, (1.0, 0.72, 0.46))
    area_light("Rim, cool", (4.4, 3.2, 3.0), (0, 0, 0.6), 2.2, 420, (0.36, 0.60, 1.0))
    area_light("Fill, cool", (1.2, -7.4, 5.4), (0, 0, 0.4), 2.4, 90, (0.55, 0.72, 1.0))
    area_light("Top", (0.0, 0.6, 5.2), (0, 0, 0), 1.6, 110, (1.0, 0.90, 0.80))

    world = bpy.data.worlds.new("Dusk")
    world.use_nodes = True
    world.node_tree.nodes["Background"].inputs["Color"].default_value = (0.012, 0.020, 0.034, 1.0)
    scene.world = world

    data = bpy.data.cameras.new("Camera")
    data.lens = 58
    data.dof.use_dof = True
    data.dof.aperture_fstop = 1.6
    camera = bpy.data.objects.new("Camera", data)
    bpy.context.collection.objects.link(camera)
    camera.location = (0.0, -8.2, 3.3)
    aim(camera, (0.0, 0.0, 0.62))
    data.dof.focus_distance = 7.6
    scene.camera = camera


def render_settings(scene: bpy.types.Scene) -> None:
    scene.frame_start, scene.frame_end, scene.frame_step = 1, FRAMES, 1
    scene.render.fps = 8
    scene.render.engine = "CYCLES"
    scene.render.resolution_x, scene.render.resolution_y = WIDTH, HEIGHT
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode = "RGB"
    scene.view_settings.view_transform = "AgX"
    scene.view_settings.look = "AgX - Medium High Contrast"
    cycles = scene.cycles
    cycles.device = "CPU"
    cycles.samples = SAMPLES
    cycles.use_adaptive_sampling = False
    cycles.use_denoising = True
    cycles.denoiser, cycles.denoising_prefilter = "OPENIMAGEDENOISE", "FAST"
    cycles.max_bounces, cycles.diffuse_bounces, cycles.glossy_bounces = 3, 1, 3
    cycles.caustics_reflective = cycles.caustics_refractive = False
    cycles.sample_clamp_indirect = 4.0


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1]).resolve()
    scene_path, texture = folder / "turntable.blend", folder / "textures" / "petals.png"
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    write_texture(texture)

    bpy.ops.mesh.primitive_plane_add(size=40)
    bpy.context.object.name = "Floor"
    bpy.context.object.data.materials.append(floor_material(texture))
    turntable = bpy.data.objects.new("Turntable", None)
    bpy.context.collection.objects.link(turntable)
    build_still_life(turntable)
    animate(turntable)
    light_and_camera(scene)
    render_settings(scene)

    bpy.ops.wm.save_as_mainfile(filepath=str(scene_path))
    bpy.ops.file.make_paths_relative()
    bpy.context.preferences.filepaths.save_version = 0  # no turntable.blend1 beside it
    bpy.ops.wm.save_as_mainfile(filepath=str(scene_path), compress=True)
    print(scene_path)
    sys.stdout.flush()
    os._exit(0)  # bpy 4.2 may crash while Python tears down; everything is written


main()
