"""The demo: images made from programs of this host, and how their layers affect each other.

No network but loopback, no root, no container tool; everything happens in a temporary directory. `make demo` runs it.
With a kernel (`make demo KERNEL=PATH`, which needs QEMU), one of the images is a virtual machine too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import lamina
from lamina.host import privileges
from lamina.layer.entry import Kind
from lamina.places import load_settings
from lamina.serve.server import RegistryServer

PYTHON = os.path.realpath(sys.executable)
LIBRARY = Path(PYTHON).parent.parent / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
REPLACED, DELETED, CLASH = str(LIBRARY / "this.py"), str(LIBRARY / "antigravity.py"), "/srv/notes"
CANNOT_RUN, CAP_SYS_ADMIN = 125, 21


def main() -> None:
    """Run the demo. ``--must-run``: fail if containers can't run here. ``--kernel PATH``: for a virtual machine."""
    parser = argparse.ArgumentParser(prog="demo/demo.py")
    parser.add_argument("--must-run", action="store_true", help="fail if containers can't run here")
    parser.add_argument("--kernel", metavar="PATH", help="boot an image with this kernel")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lamina-demo-") as scratch:
        os.environ["LAMINA_ROOT"] = os.path.join(scratch, "store")
        os.environ.pop("LAMINA_PLATFORM", None)
        make_images(Path(scratch))
        show(Path(scratch), must_run=options.must_run)
        if options.kernel:
            show_machine(options.kernel)


def make_images(scratch: Path) -> None:
    notes = scratch / "notes"
    notes.mkdir()
    (notes / "from-the-os.txt").write_text("the os has a directory here\n")
    poem = scratch / "this.py"
    poem.write_text('print("Layers are better than one big lump.")\n')
    clash = scratch / "note"
    clash.write_text("app-a has a file here\n")
    for name in ("a", "b"):
        (scratch / f"app-{name}.py").write_text(f'print("this is app-{name}")\n')

    say("Four images, made from programs of this host and the libraries that they need")
    run("pack", "sh", "ls", "cat", "--file", f"{notes}:{CLASH}", "-t", "os", "-q")
    run("pack", PYTHON, "--base", "os", "-t", "runtime", "-q")
    command = ("--cmd", f"{PYTHON} /srv/app.py")
    changes = (f"{poem}:{REPLACED}", f"{clash}:{CLASH}", "--remove", DELETED)
    run(
        "append", "runtime", f"{scratch}/app-a.py:/srv/app.py", *changes, *command, "-t", "app-a", "-q", "-m", "app-a"
    )
    run("append", "runtime", f"{scratch}/app-b.py:/srv/app.py", *command, "-t", "app-b", "-q", "-m", "app-b")
    run("images")


def show(scratch: Path, *, must_run: bool) -> None:
    say("1. The manifest: an image is a config and a list of layers, each named by its digest")
    run("inspect", "--raw", "app-a")
    print()
    say("2. The stack: what each layer adds, replaces and hides, and which images share it")
    run("layers", "app-a")
    say("3. Each layer and the union side by side: the top entry wins, a whiteout hides, lower layers do not change")
    side_by_side()
    say(f"4. Blame of the replaced {REPLACED}: the layer that wins, and the entries that it replaced")
    run("blame", "app-a", REPLACED)
    say(f"   ... and of the deleted {DELETED}: not in the union, but still in its layer")
    run("blame", "app-a", DELETED)
    say("5. Hidden, not erased: read the deleted file from the union of the lowest two layers (app-a~2)")
    first_lines("cat", "app-a~2", DELETED)
    over_http(scratch)
    say("7. The disk space of the first store: os and runtime are stored once for all images")
    run("df")
    run_them(must_run=must_run)


def show_machine(kernel: str) -> None:
    """Put a kernel below an image, and boot it."""
    say("9. A kernel below app-a: kernel, os, runtime, application. The layers of app-a are the same")
    run("pack", "--kernel", kernel, "-t", "kernel", "-q")
    run("rebase", "app-a", "--old-base", "scratch", "--onto", "kernel", "-t", "machine", "-q")
    run("layers", "machine")
    (found,) = (path for path in lamina.open("kernel").path("/boot").iterdir() if path.name.startswith("vmlinuz"))
    run("blame", "machine", str(found))
    say("   ... the image as a virtual machine: its layers are the disks")
    run("boot", "--rm", "machine")
    words = (PYTHON, "-c", "import platform; print('Linux', platform.release())")
    run("boot", "--rm", "machine", *words)


def run_them(*, must_run: bool) -> None:
    """Run both applications as containers on the shared layers. If containers can't run here, print the reason, and
    fail if ``must_run``."""
    before = lower_digests()
    said, refused = attempt("run", "--network", "none", "--name", "a", "app-a")
    if refused:
        say("8. The applications can't run here")
        print("\n".join(f"   {line}" for line in said.splitlines()))
        if os.geteuid() == 0 and not privileges.capabilities("CapEff") >> CAP_SYS_ADMIN & 1:
            print("   root has no CAP_SYS_ADMIN here. Inside a container, start that container with --privileged.")
        if must_run:
            raise SystemExit("demo: the applications did not run")
        return
    say(f"8. app-a runs, with {runtime()}")
    print("$ lamina run --network none --name a app-a")
    print(said, end="")
    say("   ... a container writes to a file of a lower layer: the file is copied up and changed there")
    change = f"import pathlib; pathlib.Path({REPLACED!r}).write_text('changed by the container')"
    run("run", "--network", "none", "--name", "writer", "app-a", PYTHON, "-B", "-c", change)
    run("diff", "writer")
    containers = Path(os.environ["LAMINA_ROOT"], "containers")
    places = ("upper", "memory/upper")  # in memory where this file system can't hold it
    (upper,) = (path for place in places for path in containers.glob(f"*/{place}{REPLACED}"))
    print(f"   the copy in the upper directory: {upper.read_text()!r}")
    print(f"   the layers below, hashed before and after: {'unchanged' if lower_digests() == before else 'CHANGED'}")
    say("   ... app-a and app-b at the same time: their common layers are mounted once")
    at_once()
    say("   ... an image from the changes of the container: one more layer")
    run("commit", "writer", "app-a:changed")
    run("layers", "app-a:changed")
    run("rm", "--all")


def attempt(*words: str) -> tuple[str, bool]:
    """Run a command; return its output, and whether no container could be made (exit code 125)."""
    command = [sys.executable, "-m", "lamina", *words]
    done = subprocess.run(
        command, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode not in (0, CANNOT_RUN):
        raise SystemExit(f"{done.stdout}demo: lamina {' '.join(words)} ended with {done.returncode}")
    return done.stdout, done.returncode == CANNOT_RUN


def runtime() -> str:
    """Return the runtime of this host."""
    done = subprocess.run(
        [sys.executable, "-m", "lamina", "info", "--format", "json"], check=True, capture_output=True, text=True
    )
    found = json.loads(done.stdout)["runtime"]
    return f"{found['name']} {found['version']} ({found['program']})"


def at_once() -> None:
    """Run two containers at the same time; both wait for the end of their standard input."""
    wait = "import sys; print(open('/srv/app.py').read().strip(), flush=True); sys.stdin.read()"
    command = [sys.executable, "-m", "lamina", "run", "--rm", "-i", "--network", "none"]
    both = [
        subprocess.Popen(
            [*command, "--name", name, name, PYTHON, "-B", "-c", wait], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for name in ("app-a", "app-b")
    ]
    for process in both:
        assert process.stdout is not None
        print(f"   its output: {process.stdout.readline().decode().strip()}", flush=True)
    run("ps")
    for process in both:
        process.communicate()
        if process.returncode:
            raise SystemExit(f"a container ended with {process.returncode}")


def lower_digests() -> dict[str, str]:
    tars = Path(os.environ["LAMINA_ROOT"]).glob("layers/*/*/tar")
    return {str(tar): hashlib.sha256(tar.read_bytes()).hexdigest() for tar in tars}


def over_http(scratch: Path) -> None:
    """Serve this store as a registry, and pull from it into an empty store."""
    store = lamina.open_store(load_settings())
    with RegistryServer(store) as server:
        say(f"6. lamina serve: the store as a registry on {server.url}")
        other = {"LAMINA_ROOT": str(scratch / "other-store")}
        say("   pull app-a over HTTP into an empty store: the manifest first, then every layer")
        run("pull", f"{server.name}/app-a", **other)
        say("   app-b: what a pull would fetch; its lower two layers are in the store already")
        run("plan", "pull", f"{server.name}/app-b", **other)
        run("pull", f"{server.name}/app-b", **other)


def side_by_side() -> None:
    image = lamina.open("app-a")
    watched = [path.lstrip("/") for path in ("/srv/app.py", CLASH, f"{CLASH}/from-the-os.txt", REPLACED, DELETED)]
    columns = [{os.fsdecode(entry.path): shown(entry.kind) for entry in layer} for layer in image.layers]
    union = {}
    for path in watched:
        node = image.tree.find(os.fsencode(path))
        union[path] = "-" if node is None else shown(image.tree.kind(node))
    heads = ["path", "1 os", "2 runtime", "3 app-a", "union"]
    rows = [[f"/{path}", *(column.get(path, "") for column in columns), union[path]] for path in watched]
    widths = [max(len(row[number]) for row in [heads, *rows]) for number in range(len(heads))]
    for row in [heads, *rows]:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def shown(kind: Kind) -> str:
    return kind.name.lower()


def run(*words: str, **environment: str) -> None:
    print("$ lamina", " ".join(words), flush=True)
    command = [sys.executable, "-m", "lamina", *words]
    env = {**os.environ, **environment}
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, env=env)


def first_lines(*words: str) -> None:
    print("$ lamina", " ".join(words), "| head -n 4", flush=True)
    done = subprocess.run([sys.executable, "-m", "lamina", *words], check=True, capture_output=True, text=True)
    print("\n".join(done.stdout.splitlines()[:4]))


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        sys.exit(130)
