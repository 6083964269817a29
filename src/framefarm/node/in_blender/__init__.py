"""Modules that run in Blender's Python (3.10 and later), in the sandbox: the standard library and `bpy` only.

`node/blender.py` copies this package into the sandbox and starts `main.py`; nothing of framefarm imports it.
"""
