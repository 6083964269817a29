"""EEVEE and Workbench, and settings of the engines"""

import bpy
import kit
from declarations import scene


def things():
    """A lit cube above a plane."""
    kit.sun()
    kit.plane(kit.principled(kit.BLUE, "Floor"), at=(0, 0, -0.5))
    return kit.cube(kit.principled((0.8, 0.3, 0.1)))


@scene(
    engine="eevee",
    frames="1-2",
    seconds=600,
    tolerance=0.02,
    reason="EEVEE draws with noise of its own on Mesa",
)
def eevee():
    """EEVEE with light, shadow and a material."""
    kit.begin()
    kit.key(things(), "location", {1: (-0.3, 0, 0), 2: (0.3, 0, 0)})


@scene(engine="workbench", frames="1-2", seconds=600)
def workbench():
    """Workbench with material colours, cavity and outlines."""
    found = kit.begin()
    found.display.shading.color_type = "MATERIAL"
    found.display.shading.show_cavity = True
    things()


@scene(submit="--engine workbench", by_hand={"engine": "workbench"}, seconds=600)
def workbench_chosen():
    """`--engine workbench` for a scene of Cycles."""
    kit.begin()
    things()


@scene(submit="--samples 3", by_hand={"samples": 3})
def samples_chosen():
    """`--samples` replaces the scene's number of samples."""
    kit.begin()
    things()


@scene(submit="--resolution-percentage 50", by_hand={"resolution_percentage": 50})
def resolution_chosen():
    """`--resolution-percentage` replaces the scene's own."""
    kit.begin()
    things()


@scene(each=["denoise", "adaptive", "tiled", "seeded", "transparent"])
def cycles(what):
    """Settings of Cycles: denoiser, adaptive sampling, tiles, seed, film."""
    found = kit.begin()
    things()
    found.cycles.samples = 2
    if what == "denoise":
        found.cycles.use_denoising = True
        found.cycles.denoiser = "OPENIMAGEDENOISE"
    if what == "adaptive":
        found.cycles.use_adaptive_sampling, found.cycles.samples = True, 8
    if what == "tiled":
        found.cycles.use_auto_tile, found.cycles.tile_size = True, 16
    if what == "seeded":
        found.cycles.use_animated_seed = True
    if what == "transparent":
        found.render.film_transparent = True
        found.render.image_settings.color_mode = "RGBA"
        bpy.data.objects["Plane"].hide_render = True
