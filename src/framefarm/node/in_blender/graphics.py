"""Program that tells whether EEVEE and Workbench could draw here: by exit code 0 (yes) or `ABSENT` (no).

The runner starts it in the sandbox of a Blender that has crashed, with the same libraries and variables. It
makes an OpenGL context without a window, as Blender does (GHOST_ContextEGL.cc): on the default display, or
else on an EGL device. Any other exit code, or a crash, says nothing.
"""

import ctypes
import os

ABSENT = 90
EGL_OPENGL_API, EGL_NONE = 0x30A2, 0x3038
EGL_PLATFORM_DEVICE_EXT, EGL_PLATFORM_SURFACELESS_MESA = 0x313F, 0x31DD
CONFIG = (0x3033, 0x0001, 0x3040, 0x0008)  # SURFACE_TYPE: PBUFFER, RENDERABLE_TYPE: OPENGL
CORE_4_3 = (0x3098, 4, 0x30FB, 3, 0x30FD, 0x0001)
"""The oldest OpenGL that Blender accepts, from 4.2 on."""
SIZE = (0x3057, 1, 0x3056, 1)
MOST_DEVICES = 16


def has_graphics():
    """Whether any display gives an OpenGL context that Blender can use."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
        egl.eglGetProcAddress.restype = ctypes.c_void_p
        for name in ("eglGetDisplay", "eglCreatePbufferSurface", "eglCreateContext"):
            getattr(egl, name).restype = ctypes.c_void_p
        return any(_makes_context(egl, display) for display in _displays(egl))
    except (OSError, AttributeError):
        return False


def _displays(egl):
    yield egl.eglGetDisplay(None)
    query = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    platform = egl.eglGetProcAddress(b"eglGetPlatformDisplayEXT")
    if not query or not platform:
        return
    pointer, count = ctypes.c_void_p, ctypes.c_int(0)
    get_display = ctypes.CFUNCTYPE(pointer, ctypes.c_uint, pointer, pointer)(platform)
    devices = (pointer * MOST_DEVICES)()
    ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, pointer, pointer)(query)(
        MOST_DEVICES, ctypes.cast(devices, pointer), ctypes.cast(ctypes.byref(count), pointer)
    )
    for device in devices[: count.value]:
        yield get_display(EGL_PLATFORM_DEVICE_EXT, device, None)
    yield get_display(EGL_PLATFORM_SURFACELESS_MESA, None, None)


def _makes_context(egl, address):
    display = ctypes.c_void_p(address)
    if not display or not egl.eglInitialize(display, None, None) or not egl.eglBindAPI(EGL_OPENGL_API):
        return False
    config, count = ctypes.c_void_p(), ctypes.c_int()
    wanted = _attributes(CONFIG)
    egl.eglChooseConfig(display, wanted, ctypes.byref(config), 1, ctypes.byref(count))
    if not count.value:
        return False
    surface = ctypes.c_void_p(egl.eglCreatePbufferSurface(display, config, _attributes(SIZE)))
    context = ctypes.c_void_p(egl.eglCreateContext(display, config, None, _attributes(CORE_4_3)))
    return bool(surface and context and egl.eglMakeCurrent(display, surface, surface, context))


def _attributes(numbers):
    return (ctypes.c_int * (len(numbers) + 1))(*numbers, EGL_NONE)


if __name__ == "__main__":
    os._exit(0 if has_graphics() else ABSENT)
