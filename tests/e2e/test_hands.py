"""ls with the flags of GNU ls; inspect, images and history with the fields of docker."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lamina.cli import run
from lamina.run.container.life import create
from lamina.run.options import ContainerOptions
from lamina.spec.platform import Platform
from lamina.store.store import Store
from support import Member, lamina, require_root, require_tool, write_layout

FILES: list[Member] = [
    ("d/", None),
    ("d/.hidden", b"1", {"mtime": 1_700_000_300}),
    ("d/big", b"x" * 123_456, {"mtime": 1_700_000_100}),
    ("d/new", b"12", {"mtime": 1_700_000_400}),
    ("d/twin", "= d/new"),
    ("d/old", b"123", {"mtime": 1_600_000_000}),
]
CONFIG: dict[str, Any] = {
    "created": "2024-01-02T00:00:00Z",
    "config": {"Cmd": ["/bin/sh"], "Labels": {"stage": "prod", "a.b/c-d": "x"}, "ExposedPorts": {"80/tcp": {}}},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("hands")
    write_layout(top / "l", "app:1", [FILES], config=CONFIG)
    write_layout(
        top / "l", "app:2", [FILES, [("d/more", b"m" * 500_000)]], config={"created": "2025-01-02T00:00:00Z"}
    )
    write_layout(top / "l", "small", [[("a", b"")]], config={"created": "2023-01-02T00:00:00Z"})
    assert lamina("load", "-i", str(top / "l"), root=top / "s").returncode == 0
    assert lamina("tag", "app:1", "host.example:5000/app:one", root=top / "s").returncode == 0
    return top / "s"


@pytest.fixture
def out(root: Path, capfd: pytest.CaptureFixture[str]) -> Any:
    """Run a command that must succeed; returns its standard output."""

    def call(*words: str, code: int = 0) -> str:
        capfd.readouterr()
        assert run(["--root", str(root), *words]) == code
        told = capfd.readouterr()
        assert told.err == "" or code
        return told.out if not code else told.err

    return call


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ("", [".hidden", "big", "new", "old", "twin"]),
        ("-a", [".hidden", "big", "new", "old", "twin"]),
        ("-A1", [".hidden", "big", "new", "old", "twin"]),
        ("-r", ["twin", "old", "new", "big", ".hidden"]),
        ("-t", ["new", "twin", ".hidden", "big", "old"]),
        ("-tr", ["old", "big", ".hidden", "twin", "new"]),
        ("-S", ["big", "old", "new", "twin", ".hidden"]),
        ("-Sr", [".hidden", "twin", "new", "old", "big"]),
        ("-d", ["/d"]),
        ("-R -S", ["big", "old", "new", "twin", ".hidden"]),
    ],
)
def test_ls_sorts_and_accepts_the_flags_of_gnu_ls(out: Any, flags: str, names: list[str]) -> None:
    assert out("ls", *flags.split(), "app:1", "/d").split() == names


def test_ls_shows_readable_sizes_and_hardlinks(out: Any) -> None:
    rows = {line.split()[-1]: line.split() for line in out("ls", "-la", "app:1", "/d").splitlines()}
    assert rows["big"][3] == "123456"
    for flags in ("-lh", "-lah", "-hl"):
        rows = {line.split()[-1]: line.split() for line in out("ls", flags, "app:1", "/d").splitlines()}
        assert (rows["big"][3], rows["new"][3]) == ("123kB", "2B")
    numbers = {
        name: number for number, name in (line.split() for line in out("ls", "-i", "app:1", "/d").splitlines())
    }
    assert numbers["new"] == numbers["twin"] != numbers["old"]
    rows = {line.split()[-1]: line.split() for line in out("ls", "-li", "app:1", "/d").splitlines()}
    assert (rows["new"][0], rows["new"][2]) == (rows["twin"][0], "2")
    assert out("ls", "-n", "app:1", "/d") == out("ls", "-l", "app:1", "/d")


def test_ls_of_a_template_has_no_json_in_its_json(out: Any) -> None:
    rows = [json.loads(line) for line in out("ls", "app:1", "/d", "--format", "{{json .}}").splitlines()]
    assert [row["Name"] for row in rows] == [".hidden", "big", "new", "old", "twin"]
    assert "json" not in rows[0]


def test_inspect_has_the_fields_of_docker(out: Any) -> None:
    (value,) = json.loads(out("inspect", "app:1"))
    assert value["RepoTags"] == ["app:1", "host.example:5000/app:one"]
    assert value["RepoDigests"] == [f"{name}@{value['Digest']}" for name in ("app", "host.example:5000/app")]
    assert value["RootFS"]["Type"] == "layers"
    assert "GraphDriver" not in value
    assert (value["Created"], value["Os"]) == ("2024-01-02T00:00:00Z", "linux")
    assert value["Config"] == CONFIG["config"]
    digest = value["RepoDigests"][0]
    assert json.loads(out("inspect", digest))[0]["RepoTags"] == value["RepoTags"]
    assert json.loads(out("inspect", value["Id"][7:19]))[0]["RepoTags"] == value["RepoTags"]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{json .Config.Env}} {{json .Config.Volumes}}", "null null"),
        ("{{.Config.User}}|{{.Config.WorkingDir}}|{{.Config.Entrypoint}}", "||[]"),
        ('{{index .Config.Labels "a.b/c-d"}}', "x"),
        ("{{range $p, $_ := .Config.ExposedPorts}}{{$p}} {{end}}", "80/tcp "),
        ("{{.ID}}", None),
        ("{{index .RepoTags 0}}", "app:1"),
        ("{{len .RootFS.Layers}} {{.Config.Healthcheck}}", "1 <no value>"),
        ('{{if eq .Os "linux"}}yes{{else if .Os}}no{{end}}', "yes"),
    ],
)
def test_inspect_accepts_templates_of_docker(out: Any, template: str, text: str | None) -> None:
    told = out("inspect", "-f", template, "app:1").removesuffix("\n")
    assert told == (text if text is not None else json.loads(out("inspect", "app:1"))[0]["Id"])


@pytest.mark.parametrize(
    ("words", "code", "err"),
    [
        (("inspect", "-f", "{{.Config.Nonsense}}", "app:1"), 2, "no field .Nonsense"),
        (("inspect", "-f", "{{.Nonsense}}", "app:1"), 2, "known fields: Annotations, Architecture, Author, "),
        (("images", "--format", "jsn"), 2, "unknown format 'jsn' (use json, table, or a template"),
        (("inspect", "app:1", "--format", "yaml"), 2, "unknown format 'yaml' (use json, table, or a template"),
        (("copy", "app:1", "x", "--format", "yaml"), 2, "unknown format 'yaml' (use json, table, oci, v2s1, v2s2"),
        (("images", "--format", "{{.ID"), 2, "not closed, at character 1"),
        (("images", "--format", "{{.Name}"), 2, "at character"),
        (("images", "--format", "table {{nope .ID}}"), 2, "'nope' is not a field or function"),
        (("inspect", "--type", "container", "app:1"), 3, "no container 'app:1'"),
        (("inspect", "--type", "image", "apq:1"), 3, "did you mean 'app:1'? else pull it with `lamina pull apq:1`"),
        (("inspect", "nothing"), 3, "no container or image 'nothing'"),
        (("ls", "smal"), 3, "did you mean 'small'?"),
        (("tag", "smal", "x"), 3, "did you mean 'small'?"),
        (("inspect", "--type", "container", "--raw", "x"), 2, "--raw and --config are for images"),
    ],
)
def test_an_error_is_one_clear_line(out: Any, words: tuple[str, ...], code: int, err: str) -> None:
    told = out(*words, code=code)
    assert err in told
    assert told.count("\n") == 1


def test_json_of_images_has_the_fields_of_docker(out: Any) -> None:
    (row,) = [json.loads(line) for line in out("images", "app:2", "--format", "{{json .}}").splitlines()]
    assert set(row) == {
        *("Containers", "CreatedAt", "CreatedSince", "Digest", "ID", "Repository"),
        *("SharedSize", "Size", "Tag", "UniqueSize"),
    }
    assert (row["Repository"], row["Tag"]) == ("app", "2")
    assert re.fullmatch(r"[0-9a-f]{12}", row["ID"])
    assert re.fullmatch(r"2025-01-0\d \d\d:\d\d:\d\d [+-]\d{4} \S+", row["CreatedAt"])
    more = '{{.Name}} {{.Labels}} {{.Label "stage"}} {{.Layers}}'
    assert out("images", "app:1", "--format", more) == "app:1 a.b/c-d=x,stage=prod prod 1\n"
    table = out("images", "app:1", "--format", r"table {{.ID}}\t{{.CreatedAt}}\t{{.Platform}}").splitlines()
    assert re.split(r"\s{2,}", table[0]) == ["IMAGE ID", "CREATED AT", "PLATFORM"]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ["app:2", "app:1", "host.example:5000/app:one", "small:latest"]),
        (["--sort", "size"], ["app:2", "app:1", "host.example:5000/app:one", "small:latest"]),
        (["--sort", "repository"], ["app:1", "app:2", "small:latest", "host.example:5000/app:one"]),
        (["--sort", "tag"], ["app:1", "app:2", "small:latest", "host.example:5000/app:one"]),
        (["app"], ["app:2", "app:1"]),
        (["--filter", "label=stage"], ["app:1", "host.example:5000/app:one"]),
        (["--filter", "label=stage=test"], []),
        (["--filter", "since=app:1"], ["app:2"]),
        (["--filter", "before=app:1"], ["small:latest"]),
        (["--filter", "dangling=true"], []),
        (["--filter", "reference=app*"], ["app:2", "app:1"]),
    ],
)
def test_images_sorts_and_filters(out: Any, words: list[str], names: list[str]) -> None:
    assert out("images", *words, "--format", "{{.Name}}").splitlines() == names


def test_before_and_since_accept_an_id(out: Any) -> None:
    ident = out("images", "-q", "app:1").strip()
    assert out("images", "--filter", f"since={ident}", "--format", "{{.Name}}") == "app:2\n"


def test_an_image_without_a_tag_is_listed_by_its_repository(root: Path, out: Any, tmp_path: Path) -> None:
    digest = json.loads(out("inspect", "app:1"))[0]["Digest"]
    store = Store.open(str(root))
    name = f"host.example:5000/bare@{digest}"
    store.tag(name, store.resolve("app:1"))
    try:
        assert out("images", "host.example:5000/bare", "--format", "{{.Repository}} {{.Tag}}") == (
            "host.example:5000/bare <none>\n"
        )
    finally:
        store.untag(name)


@pytest.mark.parametrize("flag", ["--human=false", "--no-human"])
def test_history_may_show_bytes_and_times(out: Any, flag: str) -> None:
    told = out("history", flag, "app:1", "--format", "{{.CreatedSince}} {{.Size}}")
    assert re.fullmatch(r"2024-01-01T00:00:00Z \d+\n", told)


def test_inspect_of_a_container_that_never_ran(root: Path, out: Any) -> None:
    store = Store.open(str(root))
    one = create(store, store.stack("app:1", Platform.host()), ContainerOptions(name="job"))
    (value,) = json.loads(out("inspect", "job"))
    assert (value["Id"], value["Name"], value["Path"]) == (one.id, "/job", "/bin/sh")
    assert value["State"]["Status"] == "created"
    assert value["Config"]["Labels"]["stage"] == "prod"
    assert value["Config"]["Image"] == "app:1"
    assert value["Image"] == json.loads(out("inspect", "app:1"))[0]["Id"]
    assert out("inspect", "-f", "{{.State.Running}} {{json .Mounts}} {{json .Config.OnBuild}}", "job") == (
        "false [] null\n"
    )
    (row,) = [json.loads(line) for line in out("ps", "-a", "--format", "{{json .}}").splitlines()]
    assert set(row) == {
        *("Command", "CreatedAt", "ID", "Image", "Labels", "LocalVolumes", "Mounts"),
        *("Names", "Networks", "Ports", "RunningFor", "Size", "State", "Status"),
    }
    assert (row["Names"], row["State"], row["Image"]) == ("job", "created", "app:1")
    table = out("ps", "-a", "--format", r"table {{.ID}}\t{{.RunningFor}}\t{{.LocalVolumes}}").splitlines()
    assert re.split(r"\s{2,}", table[0]) == ["CONTAINER ID", "CREATED", "LOCAL VOLUMES"]
    assert json.loads(out("inspect", one.id[:12], "app:1"))[1]["RepoTags"][0] == "app:1"
    assert json.loads(out("container", "inspect", "job"))[0]["Id"] == one.id
    assert out("container", "exists", "job") == ""
    assert out("inspect", "--type", "image", "job", code=3)
    Path(store.containers.path(one.id, "volumes/kept")).mkdir(parents=True)
    Path(store.containers.path(one.id, "container.json")).write_text("{")
    assert json.loads(out("inspect", "job"))[0]["State"]["Status"] == "damaged"
    assert out("rm", one.id) == f"{one.id}\n"


def test_inspect_shows_the_options_of_the_container(root: Path, tmp_path: Path) -> None:
    require_root()
    require_tool("runc", "busybox")
    from support import busybox

    shell = [("bin/", None), ("bin/sh", busybox(), {"mode": 0o755})]
    write_layout(tmp_path / "l", "sh", [shell], config={"config": {"Cmd": ["sh"], "Volumes": {"/cache": {}}}})
    store = tmp_path / "s"
    assert lamina("load", "-i", str(tmp_path / "l"), root=store).returncode == 0
    (tmp_path / "src").mkdir()
    words = ["--name", "job", "--network", "none", "-v", f"{tmp_path}/src:/src:ro", "-v", "data:/data", "-u", "7:8"]
    words += [
        "--read-only",
        "--tmpfs",
        "/tmp",
        "-e",
        "A=b",
        "-w",
        "/src",
        "--hostname",
        "box",
        "--cap-add",
        "SYS_TIME",
    ]
    done = lamina("run", *words, "--pids-limit", "50", "-m", "64m", "sh", "sh", "-c", "exit 3", root=store)
    assert done.returncode == 3, done.stderr
    (value,) = json.loads(lamina("inspect", "-s", "job", root=store).stdout)
    assert value["State"]["ExitCode"] == 3
    assert value["State"]["Status"] == "exited"
    assert value["State"]["FinishedAt"] > value["State"]["StartedAt"] > "2026"
    mounts = {mount["Destination"]: mount for mount in value["Mounts"]}
    assert set(mounts) == {"/src", "/data", "/cache"}
    assert (mounts["/src"]["Type"], mounts["/src"]["RW"]) == ("bind", False)
    assert (mounts["/data"]["Type"], mounts["/data"]["Name"], mounts["/data"]["RW"]) == ("volume", "data", True)
    assert mounts["/cache"]["Type"] == "volume"
    assert value["HostConfig"]["Tmpfs"] == {"/tmp": ""}
    host = value["HostConfig"]
    assert (host["Memory"], host["PidsLimit"], host["ReadonlyRootfs"]) == (64 << 20, 50, True)
    assert (host["NetworkMode"], host["CapAdd"], host["Runtime"]) == ("none", ["CAP_SYS_TIME"], "runc")
    assert f"{tmp_path}/src:/src:ro" in host["Binds"]
    config = value["Config"]
    assert (config["User"], config["WorkingDir"], config["Hostname"]) == ("7:8", "/src", "box")
    assert "A=b" in config["Env"]
    assert (value["Path"], value["Args"]) == ("sh", ["-c", "exit 3"])
    assert value["SizeRootFs"] > value["SizeRw"] >= 0
