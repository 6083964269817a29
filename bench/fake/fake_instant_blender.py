#!/usr/bin/python3
"""A stand-in for Blender that writes a 1 KB PNG at once, for load. Its protocol: node/blender_protocol.py."""

import json
import os
import socket
import struct
import sys
import time
import zlib


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


HEADER = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0))
PIXELS = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + os.urandom(48) for _ in range(16)), 0))
PICTURE = b"\x89PNG\r\n\x1a\n" + HEADER + PIXELS + chunk(b"tEXt", b"x\0" + b"-" * 150) + chunk(b"IEND", b"")

farm = socket.socket(fileno=int(sys.argv[-1]))
for line in farm.makefile("rb"):
    request = json.loads(line)
    if request["do"] == "open":
        time.sleep(float(os.environ.get("FAKE_OPEN_SECONDS", "0")))
        farm.sendall(b'{"is": "opened", "blender": "0.0.0"}\n')
    elif request["do"] == "render":
        time.sleep(float(os.environ.get("FAKE_FRAME_SECONDS", "0")))
        os.mkdir(request["directory"])
        fd = os.open(f"{request['directory']}/{request['picture']}.png", os.O_WRONLY | os.O_CREAT, 0o644)
        os.write(fd, PICTURE)
        os.close(fd)
        farm.sendall(b'{"is": "saved", "frame": %d}\n' % request["frame"])
    else:
        break
