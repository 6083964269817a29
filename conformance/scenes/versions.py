"""Files of an older Blender, opened by a newer one"""

import bpy
import kit
from declarations import scene


@scene(since="4.5", made_by="4.2", each=["nodes", "compositor", "pencil", "smooth", "sequencer", "action"])
def saved_by_4_2(what):
    """A scene that 4.2 saved, with things that later Blenders convert."""
    found = kit.begin()
    kit.sun()
    item = kit.cube(kit.principled((0.8, 0.4, 0.2)))
    if what == "nodes":
        _, nodes, links, first, last = kit.geometry_nodes(item)
        kit.paint(nodes, links, first, last, kit.glow(kit.GREEN))
    elif what == "compositor":
        tree, layers, last = kit.compositor(found)
        tree.links.new(layers.outputs["Image"], last)
        kit.file_output(tree, layers.outputs["Image"], "Beauty", ("beauty_",))
    elif what == "pencil":
        bpy.ops.object.gpencil_add(type="MONKEY")
    elif what == "smooth":
        kit.active(item)
        bpy.ops.object.shade_auto_smooth()
    elif what == "sequencer":
        kit.effect(found, "COLOR", 1, 1, 3).color = (0.1, 0.5, 0.3)
    else:
        kit.key(item, "rotation_euler", {0: (0, 0, 0), 2: (0, 1, 1)})
