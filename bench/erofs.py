"""What showing an image costs: index its tars, merge, write the EROFS image. CPU seconds and peak memory, each round
in a process of its own.

python bench/erofs.py [LAYER.tar ...]     (without: synthetic layers of 46,000 and of 200,000 entries)

The limits of issue 10: 1.0 s CPU for 46,000 entries, 4 s for 200,000; 100 bytes an entry and 60 MB.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

from lamina.layer.index import IndexBuilder, LayerIndex
from lamina.layer.tar import TarParser
from lamina.union.merge import merge
from lamina.view.erofs.read import ErofsImage
from lamina.view.erofs.write import erofs_pieces
from layer_index import CHUNK, synthetic

ROUNDS = 5


def once(tars: list[str]) -> dict[str, float]:
    """As the store does it: the index is written while the tar streams by, and mapped for the merge."""
    spent = [time.process_time()]
    with tempfile.TemporaryDirectory() as scratch:
        indexes = []
        for number, tar in enumerate(tars):
            builder = IndexBuilder()
            parser = TarParser(builder)
            with open(tar, "rb") as file:
                while chunk := file.read(CHUNK):
                    parser.feed(chunk)
            parser.finish()
            path = os.path.join(scratch, str(number))
            with open(path, "wb") as file:
                for piece in builder.chunks(parser.position):
                    file.write(piece)
            del builder, parser
            indexes.append(LayerIndex.load(path))
        spent.append(time.process_time())
        tree = merge(indexes)
        spent.append(time.process_time())
        path = os.path.join(scratch, "image")
        with open(path, "wb") as file:
            file.writelines(erofs_pieces(tree))
        spent.append(time.process_time())
        peak, size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, os.path.getsize(path)
        image = ErofsImage.load(path)
        spent.append(time.process_time())
        seen = sum(1 for _ in image.walk())
        spent.append(time.process_time())
        index, union, write, checked, walk = (after - before for before, after in itertools.pairwise(spent))
        entries = sum(len(index) for index in indexes)
        assert seen == len(tree) + 1
        return {
            "entries": entries,
            "index": index,
            "merge": union,
            "write": write,
            "load": checked,
            "walk": walk,
            "peak": peak,
            "image": size,
        }


def report(name: str, tars: list[str]) -> None:
    rounds = []
    for _ in range(ROUNDS):
        done = subprocess.run([sys.executable, __file__, "--once", *tars], capture_output=True, check=True)
        rounds.append(json.loads(done.stdout))
    median = {key: sorted(one[key] for one in rounds)[ROUNDS // 2] for key in rounds[0]}
    entries = int(median["entries"])
    total = median["index"] + median["merge"] + median["write"]
    print(f"{name}: {entries} entries, image of {median['image'] / 1e6:.1f} MB")
    print(
        f"  CPU: index {median['index']:.2f} s, merge {median['merge']:.2f} s, write {median['write']:.2f} s: "
        f"{total:.2f} s; read back: check {median['load']:.3f} s, walk {median['walk']:.2f} s"
    )
    allowed = 60e6 + 100 * entries
    print(f"  peak memory {median['peak'] / 1e6:.1f} MB (asked: at most {allowed / 1e6:.1f})")


def main() -> None:
    if sys.argv[1:2] == ["--once"]:
        print(json.dumps(once(sys.argv[2:])))
        return
    if sys.argv[1:]:
        report("given", sys.argv[1:])
        return
    for count in (46_000, 200_000):
        with tempfile.NamedTemporaryFile(suffix=".tar") as file:
            for piece in synthetic(count):
                file.write(piece)
            file.flush()
            report("synthetic", [file.name])


if __name__ == "__main__":
    main()
