"""The content digests of a layer, by row."""

from __future__ import annotations

import hashlib
import io

from lamina.layer.entry import Kind
from lamina.layer.file_digests import MAX_HOLES, LayerDigests
from lamina.layer.index import IndexBuilder


def test_digests_by_row_are_those_of_regular_files_with_known_content() -> None:
    contents = {b"a": b"one", b"d/empty": b"", b"d/z": b"x" * 3000}
    builder, tar = IndexBuilder(), b""
    for path in (b"a", b"d", b"d/empty", b"huge", b"d/z"):
        if path == b"d":
            builder.add(path, int(Kind.DIRECTORY))
        elif path == b"huge":
            builder.add(path, int(Kind.FILE), size=MAX_HOLES + 2, offset=len(tar), sparse=[(0, 1)])
            tar += b"h"
        else:
            builder.add(path, int(Kind.FILE), size=len(contents[path]), offset=len(tar))
            tar += contents[path]
    index = builder.finish(len(tar))
    digests = LayerDigests.make(index, lambda start, end: io.BytesIO(tar[start:end]))
    found = {index.path(row): digest for row, digest in digests.by_row().items()}
    assert found == {path: hashlib.sha256(content).digest() for path, content in contents.items()}
    assert {index.path(row): digests.of(row) for row in range(len(index))} == {
        **{path: digest.hex() for path, digest in found.items()},
        b"d": None,
        b"huge": None,
    }
