"""Pictures and other files that a scene is made of."""

import os
import shutil
import wave

import bpy
import kit
from declarations import scene


@scene(sent=["paint.png"], quick=True)
def beside_the_file():
    """An image texture by a path relative to the file."""
    kit.begin()
    kit.plane(kit.glow(image=kit.image("textures/paint.png")))


@scene(sent=["paint.png"])
def by_an_absolute_path():
    """An image texture by its full path."""
    kit.begin()
    kit.plane(kit.glow(image=kit.image("textures/paint.png", stored=kit.path("textures/paint.png"))))


@scene(sent=["paint.png"])
def in_a_folder_above():
    """The scene lies in a folder of its own, and its image in one beside it, with `..` in the path."""
    kit.begin()
    kit.plane(kit.glow(image=kit.image("textures/paint.png", stored="//../textures/paint.png")))
    bpy.context.scene.render.filepath = kit.path("out", "scene_####")
    return kit.save("shots/scene.blend")


@scene(sent=["Paint.PNG"], right="right.blend")
def in_other_case():
    """The scene was made on a system that knows no case: it wants `TEXTURES/paint.png`, and there is
    `Textures/Paint.PNG`; the farm finds it, as Blender on that system does."""
    kit.begin()
    made = kit.image("Textures/Paint.PNG")
    kit.plane(kit.glow(image=made))
    kit.save("right.blend")
    made.filepath = "//TEXTURES/paint.png"


@scene(sent=["paint.png"])
def by_a_windows_path():
    """Backslashes in a relative path."""
    kit.begin()
    kit.plane(kit.glow(image=kit.image("textures/paint.png", stored="//textures\\paint.png")))


@scene(quick=True)
def of_odd_names():
    """Image files whose names have spaces, other scripts, `%`, `#`, quotes, a dash first."""
    kit.begin()
    names = [
        "a name with spaces",
        "übung-日本",
        "per%cent#1",
        "-dash",
        "it's",
        'qu"ote',
        "semi;colon",
        "..dots",
    ]
    places, size = kit.cells(len(names), 3)
    for name, at, colour in zip(names, places, kit.COLOURS * 2, strict=False):
        kit.plane(kit.glow(image=kit.image(f"textures/{name}.png", colour=colour)), at=at, size=size)


@scene(frames="1-3")
def sequences_with_their_number_anywhere():
    """Image sequences, the number at the end, in the middle, without zeros, after digits, alone."""
    kit.begin()
    patterns = [
        "walk_{:04d}.png",
        "walk.{:03d}.beauty.png",
        "walk{}.png",
        "v2/walk_12_{:04d}.png",
        "plain/{}.png",
    ]
    places, size = kit.cells(len(patterns), 3)
    for pattern, at in zip(patterns, places, strict=True):
        material = kit.glow(image=kit.sequence(f"frames/{pattern}"))
        texture = next(node for node in material.node_tree.nodes if node.type == "TEX_IMAGE")
        texture.image_user.frame_duration, texture.image_user.use_auto_refresh = 3, True
        kit.plane(material, at=at, size=size)


@scene(frames="1-4")
def sequence_with_an_offset_that_cycles():
    """An image sequence that starts late, repeats, and is offset."""
    kit.begin()
    material = kit.glow(image=kit.sequence("frames/walk_{:04d}.png", count=3, first=7))
    user = next(node for node in material.node_tree.nodes if node.type == "TEX_IMAGE").image_user
    user.frame_duration, user.frame_offset, user.use_cyclic, user.use_auto_refresh = 3, 6, True, True
    kit.plane(material)


@scene(sent=["tile.1001.png", "tile.1002.png", "tile.1011.png"], each={"UDIM": {}, "UVTILE": {"sent": []}})
def tiles(kind):
    """A tiled image, with its tiles named by UDIM or by UVTILE."""
    kit.begin()
    names = {"UDIM": ("1001", "1002", "1011"), "UVTILE": ("u1_v1", "u2_v1", "u1_v2")}[kind]
    for number, (name, colour) in enumerate(zip(names, kit.COLOURS, strict=False)):
        kit.picture(f"tiles/tile.{name}.png", colour)
        if not number:
            found = kit.image(f"tiles/tile.{name}.png")
    found.source = "TILED"
    found.filepath = f"//tiles/tile.<{kind}>.png"
    for tile in (1002, 1011):
        found.tiles.new(tile_number=tile)
    item = kit.plane(kit.glow(image=found))
    for loop in item.data.uv_layers[0].data:
        loop.uv *= 1.99


@scene()
def packed():
    """An image that is packed into the file."""
    kit.begin()
    found = kit.image("textures/paint.png")
    kit.plane(kit.glow(image=found))
    kit.save()
    found.pack()
    os.unlink(kit.path("textures/paint.png"))


@scene()
def generated():
    """An image that Blender makes itself."""
    kit.begin()
    found = bpy.data.images.new("Grid", 32, 32)
    found.generated_type = "COLOR_GRID"
    kit.plane(kit.glow(image=found))


@scene()
def of_each_format():
    """An image texture of each file format."""
    kit.begin()
    ends = {
        "JPEG": "jpg",
        "TIFF": "tif",
        "OPEN_EXR": "exr",
        "HDR": "hdr",
        "WEBP": "webp",
        "TARGA": "tga",
        "BMP": "bmp",
    }
    places, size = kit.cells(len(ends), 3)
    for at, (kind, end) in zip(places, ends.items(), strict=True):
        found = bpy.data.images.new("Paint", 4, 4, float_buffer=kind in ("OPEN_EXR", "HDR"))
        found.pixels = [0.2, 0.7, 0.4, 1.0] * 16
        found.file_format = kind
        found.filepath_raw = kit.path(f"textures/paint.{end}")
        found.save()
        bpy.data.images.remove(found)
        kit.plane(kit.glow(image=kit.image(f"textures/paint.{end}")), at=at, size=size)


def movie(name, count=3):
    """Write a movie of `count` frames of unlike colours, by Blender itself; returns its path."""
    maker = bpy.data.scenes.new("Maker")
    kit.prepare(maker, 32)
    maker.frame_start, maker.frame_end = 1, count
    maker.render.use_file_extension = False
    maker.render.filepath = kit.path(name)
    kit.image_format(maker.render.image_settings, "FFMPEG")
    maker.render.ffmpeg.format, maker.render.ffmpeg.codec = "MKV", "FFV1"
    for number in range(count):
        still = kit.picture(f"maker/{number}.png", kit.COLOURS[number], size=32)
        kit.strips(maker).new_image(str(number), still, 1, number + 1).frame_final_duration = 1
    bpy.ops.render.render(animation=True, scene="Maker")
    bpy.data.scenes.remove(maker)
    shutil.rmtree(kit.path("maker"))
    return kit.path(name)


@scene(frames="1-3", sent=["walk.mkv"])
def movie_as_a_texture():
    """A movie file as an image texture."""
    kit.begin()
    found = bpy.data.images.load(movie("clips/walk.mkv"))
    found.filepath = "//clips/walk.mkv"
    material = kit.glow(image=found)
    user = next(node for node in material.node_tree.nodes if node.type == "TEX_IMAGE").image_user
    user.frame_duration, user.use_auto_refresh = 3, True
    kit.plane(material)


@scene(sent=["face.woff2"])
def font():
    """A font file of a text object."""
    kit.begin()
    fonts = os.path.join(bpy.utils.system_resource("DATAFILES"), "fonts")
    source = next(name for name in sorted(os.listdir(fonts)) if "Mono" in name)
    shutil.copy(os.path.join(fonts, source), kit.path("fonts/face.woff2"))
    curve = bpy.data.curves.new("Word", "FONT")
    curve.body, curve.align_x, curve.font = "gq", "CENTER", bpy.data.fonts.load(kit.path("fonts/face.woff2"))
    curve.font.filepath = "//fonts/face.woff2"
    kit.put(curve, material=kit.glow())


@scene(sent=["beep.wav"])
def sound():
    """A sound file of a speaker, which no picture shows and a farm sends anyway."""
    kit.begin()
    with wave.open(kit.path("sounds/beep.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(b"\0\0" * 800)
    speaker = bpy.data.speakers.new("Speaker")
    speaker.sound = bpy.data.sounds.load(kit.path("sounds/beep.wav"))
    speaker.sound.filepath = "//sounds/beep.wav"
    kit.put(speaker)
    kit.plane(kit.glow(kit.GREEN))


@scene(sent=["paint.png"])
def behind_a_symbolic_link():
    """The texture folder is a symbolic link to a folder elsewhere."""
    kit.begin()
    kit.picture("studio/textures/paint.png", kit.GREEN)
    os.symlink("studio/textures", kit.path("textures"))
    kit.plane(kit.glow(image=kit.image("textures/paint.png")))


@scene(sent=["paint.png", "bump.png"])
def in_nested_node_groups():
    """Image textures in node groups within node groups."""
    kit.begin()
    material = kit.glow(image=kit.image("textures/paint.png"))
    inner, outer = (bpy.data.node_groups.new(name, "ShaderNodeTree") for name in ("Inner", "Outer"))
    for group in (inner, outer):
        group.interface.new_socket("Color", in_out="OUTPUT", socket_type="NodeSocketColor")
    texture = inner.nodes.new("ShaderNodeTexImage")
    texture.image = kit.image("textures/bump.png", colour=kit.BLUE)
    inner.links.new(texture.outputs[0], inner.nodes.new("NodeGroupOutput").inputs[0])
    nested = outer.nodes.new("ShaderNodeGroup")
    nested.node_tree = inner
    outer.links.new(nested.outputs[0], outer.nodes.new("NodeGroupOutput").inputs[0])
    node = material.node_tree.nodes.new("ShaderNodeGroup")
    node.node_tree = outer
    shine = next(one for one in material.node_tree.nodes if one.type == "EMISSION")
    material.node_tree.links.new(node.outputs[0], shine.inputs["Color"])
    kit.plane(material)


@scene(sent=["bumps.png"])
def legacy_texture_of_a_modifier():
    """A texture data-block of a displace modifier."""
    kit.begin()
    kit.sun()
    texture = bpy.data.textures.new("Bumps", "IMAGE")
    texture.image = kit.image("textures/bumps.png")
    kit.picture("textures/bumps.png", rows=[[kit.WHITE, (0, 0, 0)], [(0, 0, 0), kit.WHITE]])
    item = kit.plane(kit.principled(), cuts=8)
    modifier = item.modifiers.new("Displace", "DISPLACE")
    modifier.texture, modifier.texture_coords, modifier.strength = texture, "UV", 0.5


@scene(sent=["brush.png", "paint.png"])
def of_a_file_that_is_compressed():
    """A compressed file: the structures are read through Zstandard."""
    kit.begin()
    kit.plane(kit.glow(image=kit.image("textures/paint.png")))
    kit.image("textures/brush.png").use_fake_user = True
    return kit.save(compress=True)
