"""The part of its work that Blender does now, told to the runner as it changes: it places a crash.

The names are those of node/blender_exit.py. Blender calls `composite_pre` only in its window: in a render the
compositor is seen by its statistics.
"""

import bpy


def follow(report):
    """Call `report(phase)` at each change from now on. Opening a scene removes the handlers."""
    last = [None]

    def begin(phase):
        if phase != last[0]:
            last[0] = phase
            report(phase)

    def on_stats(*arguments):
        text = next((a for a in arguments if isinstance(a, str)), "")
        if any(part.startswith("Compositing") for part in text.split(" | ")):
            begin("composite")

    handlers = bpy.app.handlers
    handlers.render_pre.append(lambda *_: begin("render"))
    handlers.render_stats.append(on_stats)
    handlers.render_post.append(lambda *_: begin("finish"))
