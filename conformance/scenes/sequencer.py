"""The video sequencer: strips of pictures, scenes, movies, text, and effects"""

import bpy
import kit
from declarations import scene
from images import movie


def still(found, name, colour, channel, first, last):
    """An image strip of one colour from frame `first` up to, and without, `last`."""
    kit.picture(f"stills/{name}", colour, size=32)
    strip = kit.strips(found).new_image(name, kit.path("stills", name), channel, first)
    strip.frame_final_duration = last - first
    strip.directory = "//stills/"
    return strip


@scene(frames="1-3", sent=["dawn.png", "noon.png", "zenith at last.png"])
def stills_of_unlike_names():
    """An image strip whose pictures have unlike names."""
    found = kit.begin(camera=False)
    names = ["dawn.png", "noon.png", "zenith at last.png"]
    for name, colour in zip(names, kit.COLOURS, strict=False):
        kit.picture(f"stills/{name}", colour, size=32)
    strip = kit.strips(found).new_image("Stills", kit.path("stills", names[0]), 1, 1)
    for name in names[1:]:
        strip.elements.append(name)
    strip.frame_final_duration = 3
    strip.directory = "//stills/"


@scene(frames="1-3", sent=["shot_001.png", "shot_002.png", "shot_003.png"])
def numbered_stills():
    """An image strip of a numbered sequence."""
    found = kit.begin(camera=False)
    for number in (1, 2, 3):
        kit.picture(f"stills/shot_{number:03d}.png", kit.COLOURS[number], size=32)
    strip = kit.strips(found).new_image("Shot", kit.path("stills/shot_001.png"), 1, 1)
    for number in (2, 3):
        strip.elements.append(f"shot_{number:03d}.png")
    strip.frame_final_duration = 3
    strip.directory = "//stills/"


@scene(frames="1-2")
def scene_strip():
    """A scene strip: frame 1 of the cut is frame 101 of another scene."""
    edit = kit.begin(camera=False)
    shot = kit.another_scene("Shot")
    shot.frame_start, shot.frame_end = 101, 110
    green = kit.plane(kit.glow(kit.GREEN), scene=shot, size=1)
    kit.key(green, "location", {101: (-0.4, 0, 0), 102: (0.4, 0, 0)})
    kit.strips(edit).new_scene("Shot", shot, 1, 1)


@scene(frames="1-2", submit="--scene-name Edit", by_hand={"scene": "Edit"})
def scene_strip_of_a_chosen_scene():
    """`--scene-name` of a cut, beside the active scene that it shows."""
    shot = kit.begin()
    shot.name = "Shot"
    shot.frame_start, shot.frame_end = 101, 110
    kit.key(kit.plane(kit.glow(kit.GREEN), size=1), "location", {101: (-0.4, 0, 0), 102: (0.4, 0, 0)})
    edit = kit.another_scene("Edit", camera=False)
    kit.strips(edit).new_scene("Shot", shot, 1, 1)


@scene()
def scene_strip_with_a_camera_of_its_own():
    """A scene strip that looks through a camera of its own."""
    edit = kit.begin(camera=False)
    shot = kit.another_scene("Shot")
    kit.plane(kit.glow(kit.GREEN), scene=shot, size=1)
    strip = kit.strips(edit).new_scene("Shot", shot, 1, 1)
    strip.scene_camera = kit.look(shot, width=4, name="Wide")


@scene(frames="1-3")
def meta_strip():
    """Strips within a meta strip."""
    found = kit.begin(camera=False)
    meta = kit.strips(found).new_meta("Meta", 1, 1)
    inside = meta.strips if hasattr(meta, "strips") else meta.sequences
    for number in range(3):
        kit.picture(f"stills/{number}.png", kit.COLOURS[number], size=32)
        strip = inside.new_image(str(number), kit.path(f"stills/{number}.png"), 1, number + 1)
        strip.directory, strip.frame_final_duration = "//stills/", 1
    meta.frame_final_duration = 3


@scene(frames="1-12")
def effects_of_two():
    """Effects of two strips, each for two frames."""
    found = kit.begin(camera=False)
    for at, kind in enumerate(("CROSS", "GAMMA_CROSS", "ADD", "MULTIPLY", "WIPE", "ALPHA_OVER")):
        first, last = at * 2 + 1, at * 2 + 3
        one = still(found, f"one_{at}.png", kit.RED, 1, first, last)
        other = still(found, f"other_{at}.png", (0.2, 0.6, 0.9), 2, first, last)
        kit.effect(found, kind, 3, first, last, one, other)


@scene(frames="1-4")
def effects_of_one():
    """A strip that is turned, scaled, cropped, and blurred."""
    found = kit.begin(camera=False)
    one = still(found, "one.png", kit.RED, 1, 1, 5)
    one.transform.rotation, one.transform.scale_x = 0.5, 0.5
    one.crop.min_y = 8
    kit.effect(found, "GAUSSIAN_BLUR", 3, 1, 5, one).size_x = 3


@scene(frames="1-3")
def speed():
    """The speed control of a movie strip."""
    found = kit.begin(camera=False)
    clip = kit.strips(found).new_movie("Clip", movie("clips/walk.mkv"), 1, 1)
    clip.filepath = "//clips/walk.mkv"
    strip = kit.effect(found, "SPEED", 2, 1, 4, clip)
    strip.speed_control, strip.speed_factor = "MULTIPLY", 2


@scene(frames="1-3", sent=["walk.mkv"])
def movie_strip():
    """A movie strip, cut and offset."""
    found = kit.begin(camera=False)
    clip = kit.strips(found).new_movie("Clip", movie("clips/walk.mkv"), 1, 1)
    clip.filepath = "//clips/walk.mkv"


@scene(frames="1-2")
def text_and_colour():
    """A text strip above a colour strip."""
    found = kit.begin(camera=False)
    kit.effect(found, "COLOR", 1, 1, 3).color = (0.1, 0.2, 0.6)
    words = kit.effect(found, "TEXT", 2, 1, 3)
    words.text, words.font_size, words.blend_type = "Ag", 16, "ALPHA_OVER"


@scene(frames="1-2", until="4.5")
def adjustment_and_modifiers():
    """An adjustment layer with a colour modifier. (5.0.1 crashes when a script adds it.)"""
    found = kit.begin(camera=False)
    still(found, "one.png", (0.5, 0.3, 0.2), 1, 1, 3)
    layer = kit.effect(found, "ADJUSTMENT", 2, 1, 3)
    modifier = layer.modifiers.new("Bright", "BRIGHT_CONTRAST")
    modifier.bright = 20


@scene(frames="1-2")
def sequencer_switched_off():
    """Strips of a scene that renders itself, not its sequencer."""
    found = kit.begin()
    kit.plane(kit.glow(kit.BLUE))
    still(found, "one.png", kit.RED, 1, 1, 3)
    found.render.use_sequencer = False


@scene(says=["gone.png"], warns=["missing_file"])
def strip_without_its_file():
    """An image strip whose picture is not there: a warning names it."""
    found = kit.begin(camera=False)
    still(found, "one.png", kit.RED, 1, 1, 2)
    bpy.ops.wm.save_as_mainfile(filepath=kit.path("scene.blend"), relative_remap=False)
    kit.strips(found)["one.png"].elements[0].filename = "gone.png"
