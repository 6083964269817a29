"""Scenes that cannot render as they are: told before a machine starts, or warned of"""

import os

import bpy
import kit
from declarations import scene


@scene(ends="stopped", starts=1, frames="1-12", chunk=1, says=["(?i)camera"], quick=True)
def no_camera():
    """A scene without a camera."""
    kit.begin(camera=False)
    kit.plane(kit.glow())


@scene(ends="stopped", submit="--camera Nobody", says=["Nobody"])
def unknown_camera():
    """`--camera` names an object that is none of the scene's cameras."""
    kit.begin()
    kit.plane(kit.glow())


@scene(ends="stopped", submit="--scene-name Nowhere", says=["Nowhere"], quick=True)
def unknown_scene():
    """`--scene-name` names a scene that the file does not have."""
    kit.begin()
    kit.plane(kit.glow())


@scene(ends="stopped", submit="--view-layer Nothing", says=["Nothing"])
def unknown_view_layer():
    """`--view-layer` names a view layer that the scene does not have."""
    kit.begin()
    kit.plane(kit.glow())


@scene(
    each={
        "missing": {"value": None, "warns": ["missing_file"]},
        "empty": {"value": ""},
        "pointer": {"value": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"},
        "page": {"value": "<!DOCTYPE html><html><body>404</body></html>\n"},
    },
    says=["gone.png"],
    ends="either",
)
def picture(content):
    """A texture that is not there, or that is no picture: warned of by its path."""
    kit.begin()
    kit.plane(kit.glow(image=kit.image("textures/gone.png")))
    saved = kit.save()
    if content is None:
        os.unlink(kit.path("textures/gone.png"))
    else:
        kit.text("textures/gone.png", content)
    return saved


@scene(ends="stopped", submit="--on-missing-files hold", says=["gone.png"])
def missing_picture_that_holds():
    """`--on-missing-files hold` and a texture that is not there."""
    kit.begin()
    kit.plane(kit.glow(image=kit.image("textures/gone.png")))
    saved = kit.save()
    os.unlink(kit.path("textures/gone.png"))
    return saved


@scene(ends="either", says=["(?i)script"], warns=["blocked_scripts"])
def blocked_script():
    """A driver with a Python expression, which the account may not run."""
    kit.begin()
    item = kit.plane(kit.glow())
    item.driver_add("location", 0).driver.expression = "__import__('os').getpid() * 0 + 1"


@scene(ends="stopped", made_by="5.0", until="4.5", says=["5\\.0", "newer"])
def saved_by_a_newer_blender():
    """A file of 5.0 for an older Blender."""
    kit.begin()
    kit.plane(kit.glow())


@scene(ends="stopped", says=["(?i)fluid|mantaflow"], frames="3", range="1-3")
def fluid():
    """A gas domain that is not baked, which the Blender of the packages cannot simulate."""
    kit.begin()
    item = kit.cube(size=1.6, turn=(0, 0, 0))
    modifier = item.modifiers.new("Fluid", "FLUID")
    modifier.fluid_type = "DOMAIN"
    modifier.domain_settings.domain_type = "GAS"
    modifier.domain_settings.resolution_max = 8
    flow = kit.cube(size=0.4, name="Flow")
    modifier = flow.modifiers.new("Fluid", "FLUID")
    modifier.fluid_type = "FLOW"
    modifier.flow_settings.flow_type = "SMOKE"
    bpy.context.view_layer.update()
