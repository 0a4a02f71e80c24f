"""Archives in any compression, and layers in another compression than their media type states."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable

import pytest

from lamina.errors import InvalidLayer
from lamina.layer.archive_codec import archive_decoder, sniff_archive
from lamina.layer.codec import Decoder, SniffingDecoder, layer_decoder, zstd
from lamina.layer.windowed_decoder import PIECE
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from support import make_tar

TAR = make_tar([("a", b"1" * 3000), ("b", b"2" * 70_000)])
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "gzip": gzip.compress,
    "zstd": lambda data: zstd().compress(data),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
}


def through(decoder: Decoder, data: bytes, step: int) -> bytes:
    pieces = [piece for at in range(0, len(data), step) for piece in decoder.feed(data[at : at + step])]
    decoder.finish()
    assert all(len(piece) <= PIECE for piece in pieces)
    return b"".join(pieces)


@pytest.mark.parametrize("name", PACKERS)
@pytest.mark.parametrize("step", [1, 777, 1 << 20])
def test_an_archive_in_any_known_compression_is_decompressed(name: str, step: int) -> None:
    packed = PACKERS[name](TAR)
    assert sniff_archive(packed[:512]) == name
    decoder = archive_decoder(packed[:512])
    assert (decoder.compression, through(decoder, packed, step)) == (name, TAR)


@pytest.mark.parametrize("name", ["bzip2", "xz"])
def test_streams_follow_each_other_and_zeros_pad_the_last(name: str) -> None:
    pack = PACKERS[name]
    packed = pack(TAR) + pack(b"") + pack(b"more") + bytes(8)
    for step in (1, 1 << 20):
        assert through(archive_decoder(packed[:512]), packed, step) == TAR + b"more"


@pytest.mark.parametrize("name", ["bzip2", "xz", "lzma"])
@pytest.mark.parametrize("harm", ["cut", "garbage", "flipped"])
def test_a_damaged_compressed_archive_is_an_error(name: str, harm: str) -> None:
    packed = bytearray(PACKERS[name](TAR))
    if harm == "cut":
        del packed[-9:]
    elif harm == "garbage":
        packed += b"garbage behind"
    else:
        packed[len(packed) // 2] ^= 0xFF
    if (name, harm) == ("lzma", "flipped"):
        return  # it has no checksum
    with pytest.raises(InvalidLayer, match=name):
        through(archive_decoder(bytes(packed[:512])), bytes(packed), 1 << 20)


def test_a_stream_of_zeros_comes_in_pieces() -> None:
    packed = lzma.compress(bytes(20 << 20))
    decoder = archive_decoder(packed[:512])
    assert sum(len(piece) for piece in decoder.feed(packed)) == 20 << 20
    assert max(map(len, archive_decoder(packed[:512]).feed(packed))) <= PIECE


def test_plain_archive_whose_first_name_looks_compressed_is_plain() -> None:
    for name in (b"\x1f\x8b\x08", b"BZh9", b"]", b"(\xb5/\xfd"):
        tar = make_tar([(name.decode("utf-8", "surrogateescape"), b"x")])
        assert sniff_archive(tar[:512]) == "none"


def test_layer_whose_first_name_begins_as_bzip2_data_do_is_plain() -> None:
    tar = make_tar([("BZh9.txt", b"x")])
    for said in ("none", "gzip"):
        decoder = SniffingDecoder(said)
        assert (through(decoder, tar, 3), decoder.compression) == (tar, "none")


@pytest.mark.parametrize("empty", [bz2.compress(b""), lzma.compress(b"")])
def test_an_empty_layer_in_bzip2_or_xz_is_empty(empty: bytes) -> None:
    assert through(SniffingDecoder("none"), empty, 1) == b""


@pytest.mark.parametrize("said", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("real", ["none", "gzip", "zstd", "bzip2", "xz"])
@pytest.mark.parametrize("step", [1, 300, 1 << 20])
def test_layer_is_decoded_by_its_first_bytes(said: str, real: str, step: int) -> None:
    packed = PACKERS[real](TAR)
    decoder = SniffingDecoder(said)
    assert (through(decoder, packed, step), decoder.compression) == (TAR, real)


@pytest.mark.parametrize("said", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("real", ["gzip", "zstd"])
def test_tiny_layer_is_decoded_by_its_first_bytes(said: str, real: str) -> None:
    assert through(SniffingDecoder(said), PACKERS[real](b""), 1) == b""


@pytest.mark.parametrize(
    ("said", "data"),
    [("gzip", b""), ("gzip", b"\x1f"), ("gzip", b"no tar"), ("zstd", b"abc"), ("zstd", b"x" * 600), ("none", b"abc")],
)
def test_a_blob_that_is_not_a_layer_is_an_error(said: str, data: bytes) -> None:
    with pytest.raises(InvalidLayer):
        through(SniffingDecoder(said), data, 1 << 20)


def test_layer_that_is_its_own_diff_id_is_never_sniffed() -> None:
    tar = make_tar([("\x1f\udc8b", b"x")])
    layer = Descriptor.of(mediatype.OCI_LAYER_GZIP, tar)
    assert through(layer_decoder(layer, Digest.of(tar)), tar, 1 << 20) == tar
