"""pandas and pyarrow read tables inside an image through fsspec, without unpacking it."""

from __future__ import annotations

import gzip
import io
import random
from pathlib import Path

import pytest

import lamina
from lamina.errors import ReferenceNotFound, UsageError
from lamina.store.layers import StoredLayer
from support import lamina as cli
from support import write_layout

CSV = b"name,size\na,1\nb,2\n\xc3\xa9,3\n"
ROWS = 50_000


def parquet(**columns: list[object]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), out, compression="none", row_group_size=10_000)
    return out.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("tables")
    noise = random.Random(1)
    words = [noise.randbytes(40) for _ in range(ROWS)]
    lower = [
        ("data/", None),
        ("data/t.csv", b"old\n"),
        ("data/gone.csv", CSV),
        ("data/wide.parquet", parquet(number=list(range(ROWS)), noise=words)),
        ("data/set/", None),
        ("data/set/year=2024/", None),
        ("data/set/year=2024/a.parquet", parquet(value=[1, 2])),
        ("data/set/year=2025/", None),
        ("data/set/year=2025/a.parquet", parquet(value=[4])),
        ("data/set/year=2025/b.parquet", parquet(value=[8])),
    ]
    upper = [
        ("data/t.csv", CSV),
        ("data/.wh.gone.csv", b""),
        ("data/t.csv.gz", gzip.compress(CSV)),
        ("link.csv", "-> data/t.csv"),
        ("data/set/year=2025/.wh.b.parquet", b""),
    ]
    write_layout(top / "l", "app", [lower, upper])
    for name in ("app:1", "localhost:5000/me/app:1"):
        assert cli("copy", f"oci:{top}/l:app", name, root=top / "s").returncode == 0
    return top / "s"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes of layers' tars each opening of one gave."""
    counts: list[int] = []
    opened = StoredLayer.open

    def counting(self: StoredLayer, start: int = 0, end: int | None = None) -> object:
        stream = opened(self, start, end)
        give = stream.read

        class Counted:
            def read(self, size: int = -1, /) -> bytes:
                data = give(size)
                counts.append(len(data))
                return data

            def close(self) -> None:
                stream.close()

        return Counted()

    monkeypatch.setattr(StoredLayer, "open", counting)
    return counts


def test_pandas_reads_by_url(root: Path) -> None:
    import pandas

    options = {"root": str(root)}
    for url in (
        "lamina://app:1//data/t.csv",
        "lamina://localhost:5000/me/app:1//data/t.csv.gz",
        "lamina://app:1//link.csv",
    ):
        frame = pandas.read_csv(url, storage_options=options)
        assert frame.columns.tolist() == ["name", "size"]
        assert frame["size"].tolist() == [1, 2, 3]
        assert frame["name"].tolist() == ["a", "b", "é"]
    frame = pandas.read_csv("lamina:///data/t.csv", storage_options={**options, "image": "app:1"})
    assert len(frame) == 3
    assert len(pandas.read_csv("lamina://app:1~1//data/gone.csv", storage_options=options)) == 3
    chunks = pandas.read_csv("lamina://app:1//data/t.csv", storage_options=options, chunksize=1)
    assert [chunk["size"].item() for chunk in chunks] == [1, 2, 3]
    wide = pandas.read_parquet("lamina://app:1//data/wide.parquet", storage_options=options, columns=["number"])
    assert wide["number"].sum() == ROWS * (ROWS - 1) // 2


def test_pandas_reads_open_files(root: Path) -> None:
    import pandas

    image = lamina.open("app:1", root=root)
    with image.path("/data/t.csv").open() as text:
        assert pandas.read_csv(text)["size"].sum() == 6
    with image.path("/data/wide.parquet").open("rb") as file:
        assert len(pandas.read_parquet(file)) == ROWS
    with image.fs.open("/data/t.csv") as file:
        assert pandas.read_csv(file)["size"].sum() == 6


def test_a_missing_path_is_a_clear_error(root: Path) -> None:
    import pandas

    options = {"root": str(root)}
    with pytest.raises(FileNotFoundError, match=r"/data/gone\.csv was not found"):
        pandas.read_csv("lamina://app:1//data/gone.csv", storage_options=options)
    with pytest.raises(IsADirectoryError):
        pandas.read_csv("lamina://app:1//data", storage_options=options)
    assert (
        pandas.read_csv("lamina://app:1/data/t.csv", storage_options=options)["size"].sum() == 6
    )  # a tag ends the image
    with pytest.raises(ReferenceNotFound, match="write two slashes after the image"):
        pandas.read_csv("lamina://my/app/data/t.csv", storage_options=options)
    with pytest.raises(UsageError, match="no image named"):
        pandas.read_csv("lamina:///data/t.csv", storage_options=options)
    with pytest.raises(OSError, match="read-only"):
        pandas.DataFrame({"a": [1]}).to_csv("lamina://app:1//new.csv", storage_options=options)


def test_pyarrow_reads_parquet_and_little_else(root: Path, read: list[int]) -> None:
    import pyarrow.parquet

    fs = lamina.open("app:1", root=root).fs
    whole = fs.size("/data/wide.parquet")
    assert whole > 2_000_000
    table = pyarrow.parquet.read_table("/data/wide.parquet", filesystem=fs, columns=["number"])
    assert table["number"].to_pylist() == list(range(ROWS))
    column = sum(read)
    assert column < whole / 2
    read.clear()
    with fs.open("/data/wide.parquet") as file:
        metadata = pyarrow.parquet.ParquetFile(file).metadata
    assert (metadata.num_rows, metadata.num_row_groups) == (ROWS, 5)
    assert sum(read) < whole / 4
    read.clear()
    everything = pyarrow.parquet.read_table("/data/wide.parquet", filesystem=fs)
    assert everything.num_rows == ROWS
    assert sum(read) < whole * 1.5


def test_pyarrow_sees_a_partitioned_dataset(root: Path, read: list[int]) -> None:
    import pyarrow.dataset
    import pyarrow.parquet

    fs = lamina.open("app:1", root=root).fs
    found = pyarrow.dataset.dataset("/data/set", filesystem=fs, format="parquet", partitioning="hive")
    assert found.files == ["/data/set/year=2024/a.parquet", "/data/set/year=2025/a.parquet"]
    assert sorted(found.to_table()["value"].to_pylist()) == [1, 2, 4]
    read.clear()
    later = found.to_table(filter=pyarrow.dataset.field("year") == 2025)
    assert later["value"].to_pylist() == [4]
    assert read
    below = lamina.open("app:1~1", root=root).fs
    assert pyarrow.parquet.read_table("/data/set", filesystem=below)["value"].to_pylist() == [1, 2, 4, 8]
    with pytest.raises(FileNotFoundError):
        pyarrow.parquet.read_table("/data/none.parquet", filesystem=fs)
