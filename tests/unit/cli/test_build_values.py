"""The values of `build`'s options."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.build.options import CachePlace, Secret, SshAgent
from lamina.build.outputs import Output
from lamina.cli.build import values
from lamina.errors import LaminaError, NotFound, Unsupported, UsageError
from lamina.spec.platform import Platform


@pytest.mark.parametrize(
    ("word", "output"),
    [
        ("out", Output("local", "out")),
        ("./a=b", Output("local", "./a=b")),
        ("-", Output("tar", "-")),
        ("type=local,dest=out", Output("local", "out")),
        ("type=local,dest=out,platform-split=false", Output("local", "out", split=False)),
        ("type=tar,dest=-", Output("tar", "-")),
        ("type=oci,dest=x.tar", Output("oci", "x.tar")),
        ("type=oci,dest=x,tar=false", Output("oci", "x", is_directory=True)),
        ("type=docker", Output("docker")),
        ("type=docker,dest=x.tar", Output("docker", "x.tar")),
        ("type=image,name=a:1,push=true", Output("image", names=("a:1",), push=True)),
        ('type=image,"name=a:1,b:2"', Output("image", names=("a:1", "b:2"))),
        ("type=registry,name=h/a", Output("image", names=("h/a",), push=True)),
        ("type=registry,store=false", Output("image", push=True, store=False)),
        ("type=image,compression=zstd,compression-level=19", Output("image", compression="zstd", level=19)),
        ("type=image,compression=uncompressed", Output("image", compression="none")),
        ("type=image,oci-mediatypes=false", Output("image", docker=True)),
        ("type=image,annotation.a=b", Output("image", annotations=(("a", "b"),))),
        ("type=image,annotation-index.a=b", Output("image", annotations=(("index:a", "b"),))),
        (
            "type=image,annotation[linux/arm64].a.b=c",
            Output("image", annotations=(("manifest[linux/arm64]:a.b", "c"),)),
        ),
        ("type=cacheonly", Output("cacheonly")),
    ],
)
def test_output_is_read_as_buildx_reads_it(word: str, output: Output) -> None:
    assert values.output(word) == output


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("type=tar", "no dest"),
        ("type=oci", "no dest"),
        ("type=local,dest=-", "standard output"),
        ("type=image,dest=x", "has no dest"),
        ("type=nope,dest=x", "'nope'"),
        ("type=image,nope=1", "'nope'"),
        ("type=image,push=maybe", "'maybe'"),
        ("type=image,compression=lz4", "'lz4'"),
        ("type=image,compression-level=x", "'x'"),
        ("dest=x,name=y", "unknown type ''"),
        ("type=image,name", "'name'"),
        ('type=image,"name=a', "unexpected end"),
        ("type=local,dest=out,mode=delete", "mode=delete"),
        ("type=image,push-by-digest=true", "push-by-digest"),
        ("type=image,compression=zstd,force-compression=true", "keep their compression"),
    ],
)
def test_output_is_refused(word: str, says: str) -> None:
    with pytest.raises((UsageError, Unsupported), match=says):
        values.output(word)


@pytest.mark.parametrize(
    ("output", "there"),
    [
        (Output("image"), True),
        (Output("docker"), True),
        (Output("docker", "x.tar"), False),
        (Output("image", store=False), False),
        (Output("local", "out"), False),
        (Output("cacheonly"), False),
    ],
)
def test_only_these_outputs_keep_the_image_in_the_store(output: Output, there: bool) -> None:
    assert output.in_store is there


def test_a_build_argument_without_a_value_is_none() -> None:
    assert values.build_arguments(["A=1", "B", "C=", "D=a=b", "A=2"]) == {"A": "2", "B": None, "C": "", "D": "a=b"}


def test_a_file_of_build_arguments_has_one_a_line() -> None:
    assert values.argument_file("\ufeffA=1\r\n\n # no\n  B=two words \nC") == ["A=1", "B=two words", "C"]


def test_annotations_have_one_place_each() -> None:
    words = ["a=b", "index,manifest-descriptor:c=d=e", "manifest[linux/aarch64]:f="]
    assert values.annotations_of(words) == {
        "a": "b",
        "index:c": "d=e",
        "manifest-descriptor:c": "d=e",
        "manifest[linux/arm64]:f": "",
    }


def test_contexts_have_names_without_latest() -> None:
    assert values.build_contexts(["alpine:latest=docker-image://x=y", "src=.."]) == {
        "alpine": "docker-image://x=y",
        "src": "..",
    }


def test_secrets_come_from_files_and_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    Path("TOKEN").write_text("x")
    host = {"TOKEN": "t", "OTHER": "o"}
    words = [
        "id=a,src=file",
        "id=b,env=OTHER",
        "id=TOKEN",
        "type=env,id=c,src=OTHER",
        "type=file,id=TOKEN",
        "id=file",
    ]
    assert values.secrets(words, host) == (
        Secret("a", "file"),
        Secret("b", env="OTHER"),
        Secret("TOKEN", "TOKEN"),
        Secret("c", env="OTHER"),
        Secret("file", "file"),
    )
    assert values.secrets(words[2:3], host) == (Secret("TOKEN", env="TOKEN"),)


def test_a_secret_from_a_pipe_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(b"word"))
    writer.start()
    (secret,) = values.secrets([f"id=a,src={path}"], {})
    writer.join()
    assert [secret.read(), secret.read()] == [b"word", b"word"]
    with pytest.raises(UsageError, match="500 KiB"):
        values.secrets(["id=a,src=/dev/zero"], {})


def test_agents_are_sockets_or_keys(tmp_path: Path) -> None:
    path, key = str(tmp_path / "s"), tmp_path / "key"
    key.write_text("x")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        assert values.agents(["default"], {"SSH_AUTH_SOCK": path}) == (SshAgent("default", socket=path),)
        assert values.agents([f"a={path}", f"b={key}"], {}) == (
            SshAgent("a", socket=path),
            SshAgent("b", keys=(str(key),)),
        )


def test_caches_are_registries_directories_or_inline() -> None:
    assert values.caches(["a/b:c,d/e", "type=local,src=dir", "type=inline"], "--cache-from") == (
        CachePlace("registry", {"ref": "a/b:c"}),
        CachePlace("registry", {"ref": "d/e"}),
        CachePlace("local", {"src": "dir"}),
        CachePlace("inline", {}),
    )
    assert values.caches(["type=registry,ref=a,mode=max"], "--cache-to") == (
        CachePlace("registry", {"ref": "a", "mode": "max"}),
    )


def test_platforms_count_once() -> None:
    assert values.platforms(["linux/amd64, linux/arm64", "linux/x86_64"]) == (
        Platform("linux", "amd64"),
        Platform("linux", "arm64"),
    )
    assert values.platforms(["local"]) == (Platform.host(),)


@pytest.mark.parametrize(
    ("word", "call"),
    [
        ("build", values.Call()),
        ("lint", values.Call("check")),
        ("check,format=json", values.Call("check", "json")),
        ("outline,ignorestatus=true", values.Call("outline", "", True)),
    ],
)
def test_call(word: str, call: values.Call) -> None:
    assert values.call(word) == call


@pytest.mark.parametrize(
    ("read", "error", "says"),
    [
        (lambda: values.build_arguments(["=1"]), UsageError, "no name"),
        (lambda: values.build_arguments(["A=caf\udce9"]), UsageError, "UTF-8"),
        (lambda: values.labels(["=x"]), UsageError, "no name"),
        (lambda: values.annotations_of(["a"]), UsageError, "KEY=VALUE"),
        (lambda: values.annotations_of(["nope:a=b"]), UsageError, "'nope'"),
        (lambda: values.annotations_of(["manifest[linux/arm64:a=b"]), UsageError, "arm64"),
        (lambda: values.build_contexts(["x"]), UsageError, "NAME=PLACE"),
        (lambda: values.secrets(["src=x"], {}), UsageError, "no id"),
        (lambda: values.secrets(["id=a,src=b,env=c"], {"c": ""}), UsageError, "a file and a variable"),
        (lambda: values.secrets(["id=a,nope=b"], {}), UsageError, "'nope'"),
        (lambda: values.secrets(["id=a,type=nope"], {}), UsageError, "'nope'"),
        (lambda: values.secrets(["id=a,src=/nowhere"], {}), NotFound, "/nowhere"),
        (lambda: values.secrets(["id=a,env=NOPE"], {}), NotFound, "NOPE"),
        (lambda: values.agents(["default"], {}), NotFound, "SSH_AUTH_SOCK"),
        (lambda: values.agents(["a=/nowhere"], {}), NotFound, "/nowhere"),
        (lambda: values.agents(["a="], {}), UsageError, "empty"),
        (lambda: values.caches(["type=gha"], "--cache-to"), Unsupported, "gha"),
        (lambda: values.caches(["type=local"], "--cache-to"), UsageError, "no dest"),
        (lambda: values.caches(["type=nope"], "--cache-from"), UsageError, "'nope'"),
        (lambda: values.platforms(["linux/amd64,"]), UsageError, "empty"),
        (lambda: values.allowed(["network.all"]), UsageError, "network.all"),
        (lambda: values.call("nope"), UsageError, "'nope'"),
        (lambda: values.call("check,format=xml"), UsageError, "format=xml"),
        (lambda: values.network("container:web"), UsageError, "container:web"),
    ],
)
def test_bad_values_are_refused(read: Callable[[], Any], error: type[LaminaError], says: str) -> None:
    with pytest.raises(error, match=says) as found:
        read()
    assert found.value.hint


def test_what_only_buildx_allows_has_no_effect() -> None:
    assert values.allowed(["network.host,fs.read=/x", "buildx.local.delete"]) == {"network.host"}
