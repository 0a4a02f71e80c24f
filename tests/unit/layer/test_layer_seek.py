"""Checkpoints: from each one a layer decompresses to the same bytes, however it was compressed and cut."""

from __future__ import annotations

import random
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import InvalidLayer, StoreDamaged
from lamina.layer.checkpoints import libz
from lamina.layer.checkpoints.checkpoint import Checkpoint, CheckpointZstd
from lamina.layer.checkpoints.file import SeekIndex, checkpoint_decoder, dump
from lamina.layer.checkpoints.libz import CheckpointGzip
from lamina.layer.checkpoints.resume import align_bits, resumed
from lamina.layer.codec import PIECE, decoder, encoder
from lamina.spec.digest import Digest
from support import rounds

SPACING = 20_000
BLOB = Digest.of(b"blob")


def words(size: int, seed: int = 1) -> bytes:
    """Text that compresses about as files do: blocks end anywhere, and refer to what is before."""
    chance = random.Random(seed)
    known = [chance.randbytes(chance.randrange(1, 12)) for _ in range(300)]
    return b"".join(chance.choice(known) for _ in range(size // 6 + 1))[:size]


def gzip(data: bytes, level: int = 6, strategy: int = zlib.Z_DEFAULT_STRATEGY, memory: int = 1) -> bytes:
    """Little memory makes short blocks."""
    made = zlib.compressobj(level, zlib.DEFLATED, 31, memory, strategy)
    return made.compress(data) + made.flush()


def marked(blob: bytes, step: int, spacing: int = SPACING) -> tuple[bytes, list[Checkpoint]]:
    reader = CheckpointGzip(spacing)
    pieces = [piece for at in range(0, len(blob), step) for piece in reader.feed(blob[at : at + step])]
    reader.finish()
    assert max(map(len, pieces), default=0) <= PIECE
    return b"".join(pieces), reader.checkpoints


def from_mark(blob: bytes, mark: Checkpoint, compression: str = "gzip", step: int = 777) -> bytes:
    reader, start = resumed(compression, mark)
    return b"".join(piece for at in range(start, len(blob), step) for piece in reader.feed(blob[at : at + step]))


def own(compression: str, data: bytes) -> bytes:
    made = encoder(compression)
    return made.compress(data) + made.flush()


BLOBS = {
    "one member": gzip,
    "fixed codes": lambda data: gzip(data, strategy=zlib.Z_FIXED),
    "stored": lambda data: gzip(data, 0),
    "long blocks": lambda data: gzip(data, 9, memory=9),
    "members": lambda data: b"".join(gzip(data[at : at + 7001]) for at in range(0, len(data), 7001)),
    "long members and padding": lambda data: gzip(data[:150_000]) + bytes(3) + gzip(data[150_000:]) + bytes(700),
    "lamina's own": lambda data: own("gzip", data),
}


@pytest.mark.parametrize("step", [1000, 1 << 20])
@pytest.mark.parametrize("how", BLOBS)
def test_from_each_checkpoint_the_rest_of_the_tar_can_be_read(how: str, step: int) -> None:
    data = words(400_000)
    blob = BLOBS[how](data)
    out, checkpoints = marked(blob, step)
    assert out == data
    if how not in ("long blocks", "lamina's own"):
        assert len(checkpoints) >= 6
    for mark in checkpoints:
        assert mark.window == data[max(0, mark.at - len(mark.window)) : mark.at]
        assert from_mark(blob, mark) == data[mark.at :]
    assert marked(blob, 1 << 20)[1] == checkpoints  # how it arrived makes no difference


def test_a_checkpoint_may_be_at_any_bit_of_a_byte() -> None:
    data = words(3_000_000)
    blob = gzip(data)
    _, checkpoints = marked(blob, 1 << 20)
    assert {mark.bits % 8 for mark in checkpoints} == set(range(8))
    for mark in checkpoints:
        assert from_mark(blob, mark, step=1 << 16)[:5000] == data[mark.at : mark.at + 5000]


@pytest.mark.parametrize("shift", range(8))
def test_empty_deflate_blocks_before_a_checkpoint_add_no_bytes(shift: int) -> None:
    raw = zlib.compressobj(6, zlib.DEFLATED, -15)
    text = raw.compress(b"hello hello hello") + raw.flush()
    moved = (int.from_bytes(text, "little") << shift).to_bytes(len(text) + 1, "little")
    moved = bytes([moved[0] | ((1 << shift) - 1)]) + moved[1:]  # what is of the block before
    assert zlib.decompressobj(-15).decompress(align_bits(shift, moved)) == b"hello hello hello"


@settings(max_examples=rounds(30), deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=60), st.integers(1, 500), st.integers(1, 3000), st.integers(0, 9))
def test_members_of_any_size_cut_anywhere_have_correct_checkpoints(
    parts: list[bytes], step: int, spacing: int, level: int
) -> None:
    data = b"".join(part * 20 for part in parts)
    blob = b"".join(gzip(part * 20, level) for part in parts) or gzip(b"")
    out, checkpoints = marked(blob, step, spacing)
    assert out == data
    for mark in checkpoints:
        assert from_mark(blob, mark) == data[mark.at :]


@pytest.mark.parametrize("members", [1, 2])
def test_garbage_or_truncation_is_an_error(members: int) -> None:
    blob = gzip(words(50_000)) * members
    flipped = blob[:-6] + bytes([blob[-6] ^ 1]) + blob[-5:]  # the checksum
    for bad in (blob + b"garbage.", blob[:-1], b"no gzip", flipped):
        with pytest.raises(InvalidLayer):
            marked(bad, 100)


def test_many_tiny_blocks_give_few_checkpoints() -> None:
    made = zlib.compressobj(6, zlib.DEFLATED, 31)
    blob = b"".join(made.compress(b"x") + made.flush(zlib.Z_FULL_FLUSH) for _ in range(3000)) + made.flush()
    out, checkpoints = marked(blob, 1 << 20, 1000)
    assert (len(out), len(checkpoints)) == (3000, 2)


def test_zstd_frames() -> None:
    data, frame = words(300_000), 30_000
    blob = b""
    for at in range(0, len(data), frame):
        blob += own("zstd", data[at : at + frame]) + b"\x50\x2a\x4d\x18\x03\0\0\0abc"
    for step in (100, 1 << 20):
        reader = CheckpointZstd(frame)
        assert b"".join(p for at in range(0, len(blob), step) for p in reader.feed(blob[at : at + step])) == data
        assert [mark.at for mark in reader.checkpoints] == list(range(frame, len(data) + 1, frame))
        for mark in reader.checkpoints:
            assert from_mark(blob, mark, "zstd") == data[mark.at :]


def test_the_checkpoint_file_returns_what_was_written(tmp_path: Path) -> None:
    data = words(400_000)
    _, checkpoints = marked(gzip(data), 1 << 20)
    path = tmp_path / "seek"
    path.write_bytes(b"".join(dump(BLOB, "gzip", len(data), checkpoints)))
    index = SeekIndex.load(str(path))
    assert (index.blob, index.compression, index.tar_size) == (BLOB, "gzip", len(data))
    assert list(index.checkpoints()) == checkpoints
    for at in (0, 1, checkpoints[0].at - 1, checkpoints[0].at, checkpoints[3].at + 5, len(data)):
        assert index.before(at) == max([0, *(mark.at for mark in checkpoints if mark.at <= at)])


def test_damage_anywhere_in_the_checkpoint_file_is_detected(tmp_path: Path) -> None:
    _, checkpoints = marked(gzip(words(100_000)), 1 << 20)
    good = b"".join(dump(BLOB, "gzip", 100_000, checkpoints))
    path = tmp_path / "seek"
    for at in range(0, len(good), 97):
        path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        with pytest.raises(StoreDamaged):
            list(SeekIndex.load(str(path)).checkpoints())
        path.write_bytes(good[:at])
        with pytest.raises(StoreDamaged):
            list(SeekIndex.load(str(path)).checkpoints())


def test_without_libz_there_are_no_checkpoints_and_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libz, "_library", lambda: None)
    assert "libz" in libz.refusal()
    data = words(3_000_000)
    blob = gzip(data)
    reader = checkpoint_decoder("gzip", len(blob))
    assert b"".join(reader.feed(blob)) == data
    reader.finish()
    assert reader.checkpoints == []
    assert b"".join(decoder("gzip").feed(blob)) == data
