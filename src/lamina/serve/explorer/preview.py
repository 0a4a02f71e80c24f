"""Files of an image for people to look at: text of bounded size, pictures of four types, the head of anything else.

Nothing is ever given a type that a browser would run: text is a value in JSON, a picture has the type that its first
bytes show, and everything else is an attachment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from lamina.errors import NotAFile
from lamina.layer.entry import Kind
from lamina.layer.file_content import Content
from lamina.serve.explorer.asked import Answer, Asked, Refused
from lamina.serve.explorer.listing import entry, node_of

if TYPE_CHECKING:
    from typing import Any

    from lamina.serve.explorer.opened import OpenImage

TEXT = 64 << 10
"""Bytes of a text that are shown at once."""
MAX_TEXT = 1 << 20
HEAD = 512
MAX_PICTURE = 16 << 20
MAX_DOWNLOAD = 1 << 40
SANDBOX = "default-src 'none'; sandbox"
_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))


@dataclass(frozen=True)
class Preview:
    """The entry of a file, and what is shown of it."""

    value: dict[str, Any]

    @property
    def size_in_memory(self) -> int:
        text = self.value["preview"].get("text") or self.value["preview"].get("hex") or ""
        return 5000 + 4 * len(text)


def preview(image: OpenImage, asked: Asked) -> Preview:
    """Return what is shown of a file. Raises Refused, PathNotFound, InvalidContent."""
    node = node_of(image, asked, follow=True)
    most = asked.number("bytes", TEXT, MAX_TEXT, 1)
    shown = entry(image, node)
    kind = image.tree.kind(node)
    value: dict[str, Any] = {"entry": shown, "download": None}
    if kind != Kind.FILE:
        value["preview"] = {"kind": "none", "why": f"a {kind.name.lower()}, not a file"}
        return Preview(value)
    query = _query(asked, node)
    value["download"] = f"/explore/api/download?{query}"
    size = image.tree.entry(node).size
    if not size:
        value["preview"] = {"kind": "empty"}
        return Preview(value)
    with opened(image, node) as content:
        data = content.read(min(size, most))
    picture = picture_type(data)
    if picture and size <= MAX_PICTURE:
        url = f"/explore/api/raw?{query}"
        value["preview"] = {"kind": "image", "media_type": picture, "url": url, "size": size}
        return Preview(value)
    found = None if picture else decoded(data, complete=len(data) == size)
    if found is None:
        head = data[:HEAD]
        value["preview"] = {"kind": "binary", "hex": head.hex(), "shown": len(head), "size": size}
    else:
        encoding, text = found
        value["preview"] = {
            "kind": "text",
            "encoding": encoding,
            "text": text,
            "shown": len(data),
            "size": size,
            "cut": len(data) < size,
        }
    return Preview(value)


def picture(image: OpenImage, asked: Asked) -> tuple[str, bytes]:
    """Return media type and bytes of a picture. Raises Refused, PathNotFound, InvalidContent."""
    node = _file(image, asked)
    size = image.tree.entry(node).size
    if size <= MAX_PICTURE:
        with opened(image, node) as content:
            head = content.read(min(size, 16))
            found = picture_type(head)
            if found:
                return found, head + content.read(size - len(head))
    raise Refused(415, "not_shown", "only png, jpeg, gif and webp files up to 16 MiB are shown", "download the file")


def picture_answer(found: tuple[str, bytes]) -> Answer:
    media_type, data = found
    return Answer(
        200,
        {
            "Content-Type": media_type,
            "Content-Disposition": "inline",
            "Content-Security-Policy": SANDBOX,
            "Cache-Control": "private, no-cache",
        },
        data,
    )


def download(image: OpenImage, asked: Asked) -> Answer:
    """Return a file as an attachment. Raises Refused, PathNotFound, InvalidContent."""
    node = _file(image, asked)
    size = image.tree.entry(node).size
    if size > MAX_DOWNLOAD:
        raise Refused(415, "too_large", "the file is too large to download", "use `lamina cat`")
    name = image.tree.name(node).decode("utf-8", "replace") or "file"
    plain = re.sub(r"[^A-Za-z0-9._+-]", "_", name)[:100]
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name[:200], safe='')}",
        "Content-Security-Policy": SANDBOX,
        "Cache-Control": "private, no-cache",
    }
    return Answer(200, headers, stream=opened(image, node), length=size)


def opened(image: OpenImage, node: int) -> Content:
    """Open a regular file, visible or hidden."""
    stored = image.tree.stored(node)
    return Content(stored.size, stored.offset, stored.sparse, image.stack.layers[stored.layer].open)


def _file(image: OpenImage, asked: Asked) -> int:
    node = node_of(image, asked, follow=True)
    if image.tree.kind(node) != Kind.FILE:
        raise NotAFile("not a regular file", hint="choose a file")
    return node


def _query(asked: Asked, node: int) -> str:
    kept = {key: asked.text(key) for key in ("image", "platform") if asked.text(key)}
    return urlencode({**kept, "node": node})


def picture_type(head: bytes) -> str:
    """Return the media type of a picture by its first bytes; "" if it is none."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return ""


def decoded(data: bytes, *, complete: bool) -> tuple[str, str] | None:
    """Return the encoding and the text; None if it is not text. ``complete``: the end of the data is the end of the
    file, not perhaps within a character."""
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            data = data[len(mark) :]
            if encoding != "utf-8" and len(data) % 2 and not complete:
                data = data[:-1]
            try:
                return encoding, _decoded(data, encoding, complete)
            except UnicodeDecodeError:
                return None
    controls = len(_CONTROLS.findall(data))
    if b"\0" in data or controls * 20 > len(data):
        return None
    try:
        return "utf-8", _decoded(data, "utf-8", complete)
    except UnicodeDecodeError:
        pass
    if controls:
        return None
    return "iso-8859-1", data.decode("iso-8859-1")


def _decoded(data: bytes, encoding: str, complete: bool) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        if complete or error.start < len(data) - 4:
            raise
        return data[: error.start].decode(encoding)
