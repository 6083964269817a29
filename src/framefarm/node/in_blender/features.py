"""Try features of this Blender, and print for each whether it works.

Started as `python features.py -- CODE …` or `blender -b --python features.py -- CODE …`, in an empty folder.
For each code it prints `trying CODE`, then `works CODE` or `lacks CODE: why`. A broken feature may end the
process: the caller starts it again with the codes that are left.
"""

import os
import sys

import bpy

try:
    import _cycles
except ImportError:
    _cycles = None


def main():
    for code in sys.argv[sys.argv.index("--") + 1 :]:
        say(f"trying {code}")
        try:
            CHECKS[code]()
        except Exception as error:
            say(f"lacks {code}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
        else:
            say(f"works {code}")
    say("done")
    os._exit(0)


def say(line):
    sys.stdout.flush()
    os.write(1, f"\nframefarm: {line}\n".encode())


class Lacking(Exception):
    pass


def need(condition, why):
    if not condition:
        raise Lacking(why)


# ------------------------------------------------------------------------------ what builds tell


def built_with(option):
    """A try that asks the build; what an old or new Blender does not tell about counts as built in."""
    return lambda: need(getattr(bpy.app.build_options, option, True), f"built without {option}")


def cycles_with(name):
    return lambda: need(getattr(_cycles, name, True), f"Cycles was built {name.replace('with_', 'without ')}")


def all_of(*checks):
    def check_all():
        for check in checks:
            check()

    return check_all


def supported(library):
    def ask():
        found = getattr(bpy.app, library, None)
        need(found is None or found.supported, f"built without {library}")

    return ask


# ---------------------------------------------------------------------------------- real tries


def empty_scene():
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.resolution_x = scene.render.resolution_y = 8
    scene.render.resolution_percentage = 100
    scene.render.filepath = os.path.join(os.getcwd(), "picture")
    return scene


def cube(size=2.0):
    bpy.ops.mesh.primitive_cube_add(size=size)
    return bpy.context.object


def fluid_simulation():
    """Play a tiny smoke. Of the solver's errors Blender prints a line, so that the smoke itself is asked."""
    scene = empty_scene()
    scene.frame_start, scene.frame_end = 1, 3
    domain = cube(4.0).modifiers.new("Domain", "FLUID")
    domain.fluid_type = "DOMAIN"
    settings = domain.domain_settings
    folder = os.path.join(os.getcwd(), "fluid")
    settings.domain_type, settings.resolution_max = "GAS", 8
    settings.cache_directory, settings.cache_type = folder, "REPLAY"
    settings.cache_frame_start, settings.cache_frame_end = 1, 3
    flow = cube(1.0).modifiers.new("Flow", "FLUID")
    flow.fluid_type = "FLOW"
    flow.flow_settings.flow_type, flow.flow_settings.flow_behavior = "SMOKE", "INFLOW"
    for frame in (1, 2, 3):
        scene.frame_set(frame)
        bpy.context.view_layer.update()
    evaluated = domain.id_data.evaluated_get(bpy.context.evaluated_depsgraph_get())
    density = list(evaluated.modifiers["Domain"].domain_settings.density_grid)
    need(any(density), "no smoke after three frames")


def subdivision():
    empty_scene()
    item = cube()
    item.modifiers.new("Subdivision", "SUBSURF").levels = 1
    need(polygons(item) == 24, "a cube subdivided once has no 24 faces")


def ocean():
    empty_scene()
    item = cube()
    modifier = item.modifiers.new("Ocean", "OCEAN")
    modifier.resolution = modifier.viewport_resolution = 2
    need(polygons(item) > 6, "an Ocean modifier changes nothing")


def remesh():
    empty_scene()
    item = cube()
    modifier = item.modifiers.new("Remesh", "REMESH")
    modifier.mode, modifier.octree_depth = "BLOCKS", 2
    need(polygons(item) > 6, "a Remesh modifier changes nothing")


def polygons(item):
    bpy.context.view_layer.update()
    return len(item.evaluated_get(bpy.context.evaluated_depsgraph_get()).data.polygons)


def alembic():
    empty_scene()
    cube()
    path = os.path.join(os.getcwd(), "cube.abc")
    bpy.ops.wm.alembic_export(filepath=path, start=1, end=1)
    empty_scene()
    bpy.ops.wm.alembic_import(filepath=path, as_background_job=False)
    need(len(bpy.data.meshes), "an Alembic file gives no mesh")


def usd():
    empty_scene()
    cube()
    path = os.path.join(os.getcwd(), "cube.usdc")
    bpy.ops.wm.usd_export(filepath=path)
    empty_scene()
    bpy.ops.wm.usd_import(filepath=path)
    need(len(bpy.data.meshes), "a USD file gives no mesh")


def cycles():
    need(_cycles is not None, "there is no module _cycles")
    scene = empty_scene()
    scene.render.engine = "CYCLES"
    scene.cycles.use_denoising = False
    middle(render("CYCLES", scene), None)


def open_shading_language():
    """Render a surface whose colour only its script knows.

    Cycles compiles a script's file itself. Its sockets are made here, since some packages lack the module
    `oslquery`, which makes them in the interface.
    """
    scene = empty_scene()
    item = cube()
    material = bpy.data.materials.new("Script")
    if not material.use_nodes:
        material.use_nodes = True
    tree = material.node_tree
    tree.nodes.clear()
    path = os.path.join(os.getcwd(), "green.osl")
    with open(path, "w") as file:
        file.write("shader green(output color Colour = color(0, 0, 0)) { Colour = color(0, 1, 0); }")
    script = tree.nodes.new("ShaderNodeScript")
    script.mode = "EXTERNAL"
    script.filepath = path
    glow, out = tree.nodes.new("ShaderNodeEmission"), tree.nodes.new("ShaderNodeOutputMaterial")
    colour = script.outputs[0] if len(script.outputs) else script.outputs.new("NodeSocketColor", "Colour")
    tree.links.new(colour, glow.inputs[0])
    tree.links.new(glow.outputs[0], out.inputs[0])
    item.data.materials.append(material)
    scene.render.engine = "CYCLES"
    scene.cycles.shading_system, scene.cycles.use_denoising = True, False
    middle(render("CYCLES", scene), (0, 1, 0))


def denoising():
    scene = empty_scene()
    scene.render.engine = "CYCLES"
    need(getattr(_cycles, "with_openimagedenoise", True), "Cycles was built without OpenImageDenoise")
    scene.cycles.use_denoising = True
    scene.cycles.denoiser = "OPENIMAGEDENOISE"
    cube()
    middle(render("CYCLES", scene), None)


def render(engine, scene):
    scene.render.engine = engine
    scene.render.threads_mode, scene.render.threads = "FIXED", 1
    if engine == "CYCLES":
        scene.cycles.samples = 1
    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    camera.location = (0, 0, 5)
    scene.collection.objects.link(camera)
    scene.camera = camera
    scene.view_settings.view_transform = "Standard"
    if hasattr(scene.render.image_settings, "media_type"):
        scene.render.image_settings.media_type = "IMAGE"
    scene.render.image_settings.file_format = "PNG"
    bpy.ops.render.render(write_still=True)
    return scene.render.filepath + ".png"


def middle(path, colour):
    picture = bpy.data.images.load(path)
    need(picture.size[0] == 8, "no picture of the right size")
    pixels = list(picture.pixels)
    seen = pixels[(4 * 8 + 4) * 4 :][:3]
    if colour is not None:
        need(all(abs(a - b) < 0.1 for a, b in zip(seen, colour, strict=True)), f"the picture is {seen}")


def webp():
    formats = bpy.types.ImageFormatSettings.bl_rna.properties["file_format"].enum_items
    need("WEBP" in formats, "no such format")


CHECKS = {
    "fluid_simulation": all_of(built_with("fluid"), fluid_simulation),
    "rigid_body": built_with("bullet"),
    "ocean": all_of(built_with("mod_oceansim"), ocean),
    "remesh": all_of(built_with("mod_remesh"), remesh),
    "subdivision": subdivision,
    "volumes": supported("openvdb"),
    "alembic": all_of(supported("alembic"), alembic),
    "usd": all_of(supported("usd"), usd),
    "cycles": cycles,
    "open_shading_language": all_of(cycles_with("with_osl"), open_shading_language),
    "denoising": denoising,
    "path_guiding": cycles_with("with_path_guiding"),
    "freestyle": built_with("freestyle"),
    "compositor": built_with("compositor_cpu"),
    "motion_tracking": built_with("libmv"),
    "color_management": supported("ocio"),
    "movies": built_with("codec_ffmpeg"),
    "sound": built_with("codec_sndfile"),
    "openexr": built_with("image_openexr"),
    "jpeg_2000": built_with("image_openjpeg"),
    "webp": webp,
    "tiff": built_with("image_tiff"),
    "cineon": built_with("image_cineon"),
}


if __name__ == "__main__":
    main()
