"""Reading layers: the tar parser and index against Python's tarfile, then merge. CPU seconds, in turn.

python bench/layer_index.py [LAYER.tar ...]     (without: a synthetic layer of 46,000 entries, and one of 1,000,000)
"""

from __future__ import annotations

import io
import os
import resource
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

from lamina.layer.entry import Entry, Kind
from lamina.layer.index import IndexBuilder, LayerIndex
from lamina.layer.tar import TarParser
from lamina.layer.tar_write import LayerWriter
from lamina.union.merge import merge

ROUNDS = 5
CHUNK = 1 << 20


def synthetic(count: int) -> Iterator[bytes]:
    """The tar of ``count`` small files, 40 a directory, in pieces."""
    pieces: list[bytes] = []
    writer = LayerWriter(pieces.append)
    for number in range(count):
        path = b"usr/lib/python3/dist-packages/package%05d/module_%07d.py" % (number // 40, number)
        writer.add(Entry(path, Kind.FILE, 0o644, size=100, mtime=1_700_000_000_000_000_000), b"x" * 100)
        if len(pieces) > 3000:
            yield b"".join(pieces)
            pieces.clear()
    writer.close()
    yield b"".join(pieces)


def parse(chunks: Iterator[bytes]) -> tuple[LayerIndex, float]:
    builder = IndexBuilder()
    parser = TarParser(builder)
    spent = 0.0
    for chunk in chunks:
        start = time.process_time()
        parser.feed(chunk)
        spent += time.process_time() - start
    start = time.process_time()
    parser.finish()
    index = builder.finish(parser.position)
    return index, spent + time.process_time() - start


def pieces_of(data: bytes) -> Iterator[bytes]:
    return (data[at : at + CHUNK] for at in range(0, len(data), CHUNK))


def by_tarfile(data: bytes) -> float:
    start = time.process_time()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        sum(1 for _ in tar)
    return time.process_time() - start


def compare(name: str, data: bytes) -> None:
    ours, theirs, merged = [], [], []
    for _ in range(ROUNDS):
        index, spent = parse(pieces_of(data))
        ours.append(spent)
        theirs.append(by_tarfile(data))
        start = time.process_time()
        merge([index])
        merged.append(time.process_time() - start)
    mine, other, union = (sorted(values)[ROUNDS // 2] for values in (ours, theirs, merged))
    size = len(index.buffer) / max(1, len(index))
    print(f"{name}: {len(index)} entries, {len(data)} bytes of tar")
    print(f"  parse and index {mine:.3f} s CPU, tarfile {other:.3f} s: {other / mine:.1f}x; merge {union:.3f} s")
    print(f"  index {size:.1f} bytes an entry")


def million() -> None:
    """As the store does it: parsed as it streams by, the index written from the builder's own memory, then mapped."""
    for _ in synthetic(10_000):
        pass  # warm up, so that only the entries are counted
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    builder = IndexBuilder()
    parser = TarParser(builder)
    for chunk in synthetic(1_000_000):
        parser.feed(chunk)
    parser.finish()
    size = 0
    with open(os.devnull, "wb") as sink:
        for piece in builder.chunks(parser.position):
            sink.write(piece)
            size += len(piece)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(
        f"1,000,000 entries: index {size / len(builder):.1f} bytes an entry, peak memory {grown / len(builder):.0f}"
    )


def main() -> None:
    if sys.argv[1:]:
        for path in sys.argv[1:]:
            compare(path, Path(path).read_bytes())
        return
    million()
    compare("synthetic", b"".join(synthetic(46_000)))


if __name__ == "__main__":
    main()
