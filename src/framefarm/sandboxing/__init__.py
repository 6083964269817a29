"""Shutting in what is hostile: Blender, and whatever parses a byte that a user or Blender wrote.

Below both the server and the node, which never import each other
(docs/decisions/0014-a-room-for-sandboxes.md). Nothing here knows of jobs, frames or scenes.
"""
