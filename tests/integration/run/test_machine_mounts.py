"""What a virtual machine has of this host's files: directories, files and volumes by one virtiofsd; tmpfs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from integration.run.test_machine import _tools, boot, root  # noqa: F401  (fixtures)
from lamina.store.store import Store
from support import lamina

pytestmark = pytest.mark.usefixtures("_tools")


def test_files_directories_and_volumes(root: Path, tmp_path: Path) -> None:  # noqa: F811
    file, other, link = tmp_path / "app, x.py", tmp_path / "ro", tmp_path / "link"
    file.write_text("one\n")
    other.write_text("kept\n")
    (tmp_path / "d" / "below").mkdir(parents=True)
    (tmp_path / "d" / "up").symlink_to("..")
    link.symlink_to(tmp_path / "d")
    words = ["-v", f"{file}:/srv/app.py", "-v", f"{other}:/etc/passwd:ro", "-v", f"{link}:/a", "-v", "vol:/a/below"]
    words += ["-v", "/anonymous", "--mount", f"type=bind,src={tmp_path},dst=/r,ro", "--tmpfs", "/run", "-u", "0"]
    words += ["--tmpfs", "/etc/t:size=64k,mode=750,exec", "--tmpfs", "/bin/x", "-v", f"{file}:/bin/sh2:nosuid,nodev"]
    script = """cat /srv/app.py /etc/passwd; echo two >/srv/app.py; ls /srv /r
echo no 2>/dev/null >/etc/passwd || echo refused
mount -o remount,rw /etc/passwd; echo no 2>/dev/null >/etc/passwd || echo refused
echo x >/a/host; echo y >/a/below/volume; mkdir /a/made; chown 7:8 /a/made; ls -d /a/up/app*; touch /anonymous/x
grep -E ' /(etc/t|bin/sh2|run|bin/x) ' /proc/mounts | cut -d ' ' -f 2-4
touch /run/mine; mknod /a/fifo p; cd /a && mv host /a/below/ && ls /a/below"""
    done = boot(root, "--name", "vm", *words, "app", "sh", "-c", script)
    lines = done.stdout.decode().splitlines()
    assert lines[:5] == ["one", "kept", "/r:", "app, x.py", "d"], done
    assert lines.count("refused") == 2
    assert lines[-2:] == ["host", "volume"]
    mounts = {line.split()[0]: line.split()[1:] for line in lines if line.startswith(("/etc/t", "/bin/", "/run"))}
    kinds = {target: kind for target, (kind, _) in mounts.items()}
    assert kinds == {"/bin/sh2": "virtiofs", "/bin/x": "tmpfs", "/etc/t": "tmpfs", "/run": "tmpfs"}
    options = {target: set(words.split(",")) for target, (_, words) in mounts.items()}
    assert {"nosuid", "nodev"} <= options["/bin/sh2"]
    assert {"noexec", "nosuid", "nodev"} <= options["/bin/x"] & options["/run"]
    assert {"size=64k", "mode=750", "nosuid"} <= options["/etc/t"]
    assert "noexec" not in options["/etc/t"]
    # what was written is where it belongs
    assert (file.read_text(), other.read_text()) == ("two\n", "kept\n")
    made = (tmp_path / "d" / "made").stat()
    assert (made.st_uid, made.st_gid) == (7, 8)
    store = Store.open(str(root))
    assert sorted(os.listdir(store.volumes.path("vol"))) == ["host", "volume"]
    assert lamina("diff", "vm", root=root).stdout == b""  # mount points are no changes
    assert len(lamina("volume", "ls", "-q", root=root).stdout.split()) == 2
    assert lamina("rm", "-v", "vm", root=root).returncode == 0
    assert lamina("volume", "ls", "-q", root=root).stdout == b"vol\n"
