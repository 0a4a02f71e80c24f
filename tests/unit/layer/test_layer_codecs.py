"""Many members, frames and sparse segments are read correctly however the input is cut."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import pytest

from lamina.errors import InvalidLayer
from lamina.layer.codec import PIECE, ZstdDecoder, decoder, encoder, sniff
from lamina.layer.file_content import open_content
from support import index_of

DATA = bytes(range(256)) * 3


def pack(compression: str, data: bytes) -> bytes:
    made = encoder(compression)
    return made.compress(data) + made.flush()


@pytest.mark.parametrize("step", [1, 7, 1000, 1 << 20])
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_thousands_of_members_or_frames_are_one_stream(compression: str, step: int) -> None:
    skippable = b"\x50\x2a\x4d\x18\x03\0\0\0abc" if compression == "zstd" else b""
    blob = pack(compression, b"x" * (3 * PIECE)) + b"".join(pack(compression, bytes([b])) + skippable for b in DATA)
    if compression == "gzip":
        blob += bytes(5)  # padding
    reader = decoder(compression)
    pieces = [piece for at in range(0, len(blob), step) for piece in reader.feed(blob[at : at + step])]
    reader.finish()
    assert max(map(len, pieces)) <= PIECE
    assert b"".join(pieces) == b"x" * (3 * PIECE) + DATA


def skippable(content: bytes, number: int = 0) -> bytes:
    return bytes([0x50 + number]) + b"\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content


class CountingZstd:
    """The zstd module; ``made`` decompressors so far."""

    def __init__(self, module: Any) -> None:
        self.module, self.made = module, 0
        self.ZstdError = module.ZstdError

    def ZstdDecompressor(self) -> Any:
        self.made += 1
        return self.module.ZstdDecompressor()


@pytest.mark.parametrize("step", [1, 3, 5, 9, 100, 1 << 20])
def test_skippable_zstd_frames_are_passed_over_without_a_decompressor(step: int) -> None:
    """At every position, with every length, and for every split of the stream."""
    frames = [skippable(bytes(size) if size % 2 else b"\x28\xb5\x2f\xfd" * 9, size % 16) for size in range(50)]
    blob = b"".join(frames) + pack("zstd", b"one") + b"".join(frames) + pack("zstd", b"two") + b"".join(frames)
    reader = ZstdDecoder()
    module = reader._module = CountingZstd(reader._module)
    found = b"".join(piece for at in range(0, len(blob), step) for piece in reader.feed(blob[at : at + step]))
    reader.finish()
    assert found == b"onetwo"
    assert module.made == 2
    assert sniff(blob) == "zstd"


@pytest.mark.parametrize("cut", range(1, 11))
def test_a_skippable_zstd_frame_that_is_cut_off_is_an_error(cut: int) -> None:
    reader = decoder("zstd")
    assert b"".join(reader.feed(pack("zstd", b"one") + skippable(b"abc")[:-cut])) == b"one"
    with pytest.raises(InvalidLayer, match="ends too early"):
        reader.finish()


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize("members", [1, 2, 3])
def test_garbage_or_truncation_after_any_member_is_an_error(compression: str, members: int) -> None:
    blob = pack(compression, b"data") * members
    for bad in (blob + b"garbage.", blob[:-1]):
        reader = decoder(compression)
        with pytest.raises(InvalidLayer):
            for at in range(0, len(bad), 3):
                for _ in reader.feed(bad[at : at + 3]):
                    pass
            reader.finish()


def test_a_sparse_file_of_many_segments_reads_right_anywhere() -> None:
    count = 5000
    text = b"%d\n" % count + b"".join(b"%d\n1\n" % (2 * number) for number in range(count))
    text += bytes(-len(text) % 512)
    info = tarfile.TarInfo("s")
    info.size = len(text) + count
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "s",
        "GNU.sparse.realsize": str(2 * count + 100),
    }
    tar = info.tobuf(tarfile.PAX_FORMAT) + text + b"y" * count + bytes(-count % 512) + bytes(1024)
    whole = b"y\0" * count + bytes(100)
    for chunk in (1 << 20, 100):
        index = index_of(tar, chunk)
        with open_content(index, 0, lambda start, end: io.BytesIO(tar[start:end])) as stream:
            assert stream.read() == whole
            for at in (0, 1, 4999, 9999, 10_000, 10_050):
                stream.seek(at)
                assert stream.read(3) == whole[at : at + 3]
