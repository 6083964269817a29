"""Reading the structures of .blend files: scenes, simulations, and the files that they name.

Imported by the client, which looks for the files on its disk, and by the farm, which looks among the uploads.
This package opens none of the paths that it finds.
"""
