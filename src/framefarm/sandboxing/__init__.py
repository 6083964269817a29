"""Sandboxes for hostile programs: Blender, and our own programs that parse bytes from a user or from Blender.

Imported by both the server and the node, which never import each other
(docs/decisions/0014-a-room-for-sandboxes.md). This package does not know jobs, frames or scenes.
"""
