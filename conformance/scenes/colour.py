"""Colour management: views, looks, curves, and configurations of OCIO"""

import kit
from declarations import scene

OCIO = """ocio_profile_version: 1
search_path: luts
strictparsing: true
roles:
  default: raw
  reference: raw
  scene_linear: raw
  rendering: raw
  color_picking: raw
  data: raw
  texture_paint: raw
  matte_paint: raw
  color_timing: raw
  compositing_log: raw
  default_byte: raw
  default_float: raw
  default_sequencer: raw
  aces_interchange: raw
  cie_xyz_d65_interchange: raw
  XYZ: raw
displays:
  Studio:
    - !<View> {name: Film, colorspace: graded}
    - !<View> {name: Raw, colorspace: raw}
active_displays: [Studio]
active_views: [Film, Raw]
colorspaces:
  - !<ColorSpace>
    name: raw
    isdata: false
  - !<ColorSpace>
    name: graded
    from_reference: !<FileTransform> {src: grade.spi1d, interpolation: linear}
"""
LUT = "Version 1\nFrom 0.0 1.0\nLength 3\nComponents 1\n{\n0.1\n0.8\n0.9\n}\n"


def stage():
    """A lit cube with bright parts."""
    found = kit.begin()
    kit.sun(6)
    kit.cube(kit.principled((0.9, 0.4, 0.1)))
    return found


@scene(each=["Standard", "Filmic", "AgX"])
def view(name):
    """Each view transform."""
    stage().view_settings.view_transform = name


@scene()
def look():
    """A look of AgX, with exposure and gamma."""
    settings = stage().view_settings
    settings.view_transform = "AgX"
    settings.look, settings.exposure, settings.gamma = "AgX - High Contrast", 0.7, 1.2


@scene()
def curves():
    """Curves of the view."""
    settings = stage().view_settings
    settings.use_curve_mapping = True
    settings.curve_mapping.curves[3].points.new(0.3, 0.7)
    settings.curve_mapping.update()


@scene()
def own_colours_of_the_output():
    """The picture's own colour management."""
    found = stage()
    form = found.render.image_settings
    form.color_management = "OVERRIDE"
    form.view_settings.view_transform = "Filmic"


@scene(ocio="studio.ocio", sent=["grade.spi1d"], submit="--env OCIO=studio.ocio")
def configuration():
    """A configuration of the studio by OCIO, with a LUT."""
    found = stage()
    kit.text("studio.ocio", OCIO)
    kit.text("luts/grade.spi1d", LUT)
    found.display_settings.display_device = "sRGB"


@scene()
def spaces_of_images():
    """The colour spaces of image textures."""
    kit.begin()
    names = ["sRGB", "Non-Color", "Linear Rec.709", "Linear Rec.2020"]
    places, size = kit.cells(len(names), 2)
    for number, (name, at) in enumerate(zip(names, places, strict=True)):
        image = kit.image(f"paint{number}.png", colour=(0.2, 0.6, 0.3))
        material = kit.glow(image=image)
        image.colorspace_settings.name = name
        kit.plane(material, at=at, size=size)
