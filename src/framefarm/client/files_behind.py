"""Files that other files than a .blend name: layers and textures of USD, includes of OSL, materials of
OBJ."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from framefarm.blend.references import Reference

USD_SUFFIXES = (".usd", ".usda", ".usdc")
SUFFIXES = frozenset((*USD_SUFFIXES, ".osl", ".obj", ".mtl"))
"""Ends of the names of files that are read for further names. A .usdz holds all that it names."""
READ_BYTES = 256 << 20
"""Most bytes of a text that are read for names."""
LAYERS = (*USD_SUFFIXES, ".usdz", ".abc", ".vdb")
"""Geometry that a USD names; the rest (textures) is sent and not missed."""

_ASSET = re.compile(rb"@@@(.+?)@@@|@([^@\n]+)@")
_TEMPLATE = re.compile(rb'templateAssetPath\s*=\s*"([^"\n]+)"')
_INCLUDE = re.compile(rb'^[ \t]*#[ \t]*include[ \t]*["<]([^">\n]+)[">]', re.MULTILINE)
_MATERIALS = re.compile(rb"^[ \t]*mtllib[ \t]+(.+?)[ \t\r]*$", re.MULTILINE)
_MAP = re.compile(rb"^[ \t]*(?:map_\w+|bump|disp|decal|refl|norm)[ \t]+(.+?)[ \t\r]*$", re.MULTILINE | re.I)
_MAP_OPTION = re.compile(
    rb"-(?:o|s|t)(?:[ \t]+[-+.\deE]+){1,3}[ \t]+|-mm(?:[ \t]+\S+){2}[ \t]+|-\w+[ \t]+\S+[ \t]+"
)
_COMMENT = re.compile(rb"^[ \t]*#[^\n]*$", re.MULTILINE)


@dataclass(frozen=True)
class Named:
    """Files that a file names, relative to its own folder; and why it could not be searched, else None."""

    references: tuple[Reference, ...] = ()
    why_not: str | None = None


def named_by(path: Path) -> Named:
    """Files that `path` names. Files that cannot be read name none: others report them."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
            suffix = path.suffix.lower()
            if suffix in USD_SUFFIXES:
                if head == b"PXR-USDC":
                    return _binary_usd(path)
                return Named(tuple(_of_usd(_asset_paths(head + file.read(READ_BYTES)), path)))
            return Named(tuple(_of_text(suffix, head + file.read(READ_BYTES), path.name)))
    except OSError:
        return Named()


def _of_text(suffix: str, content: bytes, name: str) -> list[Reference]:
    if suffix == ".osl":
        # Blender's own headers (stdosl.h) are nowhere near.
        return [_file(stored, name) for stored in _INCLUDE.findall(content)]
    if suffix == ".obj":
        return [_file(stored, name) for stored in _MATERIALS.findall(content)]
    return [_file(_MAP_OPTION.sub(b"", stored), name) for stored in _MAP.findall(content)]


def _file(stored: bytes, name: str) -> Reference:
    return Reference(_anchored(stored), "file", name, required=False)


def _anchored(stored: bytes) -> bytes:
    """A path relative to the file that names it, as one of a .blend."""
    return stored if stored.startswith((b"/", b"\\\\")) or stored[1:2] == b":" else b"//" + stored


def _asset_paths(content: bytes) -> list[bytes]:
    """Asset paths in a text layer (`.usda`); in templates of value clips `#` stands for a digit."""
    content = _COMMENT.sub(b"", content)
    found = [long or short for long, short in _ASSET.findall(content)]
    return found + [re.sub(rb"#[#.]*#|#", b"*", template) for template in _TEMPLATE.findall(content)]


def _of_usd(stored_paths: list[bytes], path: Path) -> list[Reference]:
    references = []
    for stored in dict.fromkeys(stored_paths):
        stored = stored.strip()
        package = re.match(rb"(.+\.usdz)\[", stored, re.IGNORECASE)
        plain = package[1] if package else stored
        if not plain or re.match(rb"[a-z][a-z0-9+.-]+:(?!\\)", plain):  # an address of a resolver
            continue
        layer = plain.lower().endswith(tuple(s.encode() for s in LAYERS))
        many = b"*" in plain or b"<UDIM>" in plain
        references.append(Reference(_anchored(plain), "cache", path.name, many, required=layer))
    return references


def _binary_usd(path: Path) -> Named:
    try:
        from pxr import UsdUtils
    except ImportError:
        return Named(
            why_not="is a binary USD: files that it names are not looked for. Send them as FILES, or "
            "install framefarm[usd]"
        )
    try:
        sublayers, referenced, payloads = UsdUtils.ExtractExternalReferences(str(path))
    except Exception as error:  # the library raises its own kinds
        return Named(why_not=f"cannot be read as a USD ({type(error).__name__})")
    return Named(tuple(_of_usd([p.encode() for p in (*sublayers, *referenced, *payloads)], path)))
