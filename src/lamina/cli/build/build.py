"""The verb build: an image from a Dockerfile."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from lamina.build import outputs as out
from lamina.build.errors import DockerfileError, StepFailed
from lamina.build.options import BuildOptions
from lamina.cli import ended_in_order
from lamina.cli.access import retry_options
from lamina.cli.build import values
from lamina.cli.build.accepted import ACCEPTED
from lamina.cli.build.progress import MODES, Display, display
from lamina.cli.build.report import excerpt, reasons, warnings
from lamina.cli.containers.unsupported import unsupported_options
from lamina.cli.format.output import write
from lamina.cli.format.text import clean
from lamina.cli.image_options import epoch
from lamina.cli.option_table import FLAG, MANY, WHOLE, Option
from lamina.cli.options import TEXT, Switch, checked_name, options_of, registry_options
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import LaminaError, Unsupported, UsageError
from lamina.host import privileges

if TYPE_CHECKING:
    from lamina.build.options import Built
    from lamina.build.outputs import Output
    from lamina.build.recipe import Recipe
    from lamina.spec.platform import Platform

_OUTPUT = (
    "Where the image goes: type=image|registry|oci|docker|tar|local[,dest=PATH,...]; a directory for its files; "
    "- for a tar of them (default: the store)."
)
_CACHE = "REF|type=registry,ref=REF|type=local,{}=DIR"
_CALL = "Do this with the Dockerfile instead of building: check, outline, targets."
_SECRET = "Give RUN --mount=type=secret a file or a variable; it never reaches a layer."
_SSH = "Give RUN --mount=type=ssh an agent (default: that of SSH_AUTH_SOCK)."

OPTIONS = (
    Option(("-t", "--tag"), "tags", "Name of the image; may be repeated.", "REF", MANY),
    Option(
        ("-f", "--file"), "file", "The Dockerfile; - is standard input (default: Dockerfile or Containerfile).",
        "FILE",
    ),
    Option(("--ignorefile",), "ignore_file", "Use this ignore file (default: .dockerignore in CONTEXT).", "FILE"),
    Option(("--target",), "target", "Build this stage: its name, or its number from 0.", "STAGE"),
    Option(("--build-arg",), "build_args", "Set an ARG; NAME alone copies your environment's.", "NAME[=VALUE]", MANY),
    Option(("--build-arg-file",), "build_arg_files", "Read values of ARGs from a file, one per line.", "FILE", MANY),
    Option(
        ("--build-context",), "build_contexts",
        "A further context for FROM and --from: a directory, docker-image://REF, oci-layout://DIR[:REF], a URL.",
        "NAME=PLACE", MANY,
    ),
    Option(("--secret",), "secrets", _SECRET, "id=NAME[,src=FILE|,env=VARIABLE]", MANY),
    Option(("--ssh",), "ssh", _SSH, "default|ID[=SOCKET]", MANY),
    Option(("--platform",), "platforms", "Build for these platforms; several make an index.", "OS/ARCH[,...]", MANY),
    Option(("--arch",), "arch", "Build for this architecture.", "ARCH"),
    Option(("--os",), "os", "Build for this operating system.", "OS"),
    Option(("--variant",), "variant", "Build for this variant of the architecture.", "VARIANT"),
    Option(("-o", "--output"), "outputs", _OUTPUT, "DIR|-|type=...", MANY),
    Option(("--push",), "push", "Push the image to the registries of its names.", kind=FLAG),
    Option(("--load",), "load", "Put the image into the store, besides other outputs.", kind=FLAG),
    Option(("--cache-from",), "cache_from", "Also use cached steps from here.", _CACHE.format("src"), MANY),
    Option(("--cache-to",), "cache_to", "Write the cached steps here.", _CACHE.format("dest") + "|type=inline", MANY),
    Option(("--no-cache",), "no_cache", "Run every step again.", kind=FLAG),
    Option(("--no-cache-filter",), "no_cache_filter", "Run every step of these stages again.", "STAGE[,...]", MANY),
    Option(("--iidfile",), "iidfile", "Write the image ID to this file.", "FILE"),
    Option(("--metadata-file",), "metadata_file", "Write digests and names to this file, as JSON.", "FILE"),
    Option(("--annotation",), "annotations", "Add an annotation.", "[manifest|index:]KEY=VALUE", MANY),
    Option(("--network",), "network", "Network of RUN steps.", "default|none|host"),
    Option(("--add-host",), "add_hosts", "Add a line to /etc/hosts of RUN steps.", "NAME:ADDRESS", MANY),
    Option(("--shm-size",), "shm_size", "Size of /dev/shm in RUN steps (default: 64m).", "SIZE"),
    Option(("--ulimit",), "ulimits", "Set a resource limit in RUN steps.", "NAME=SOFT[:HARD]", MANY),
    Option(("--allow",), "allow", "Allow RUN steps to ask for this.", "network.host|security.insecure", MANY),
    Option(("--squash",), "squash", "Join the new layers into one.", kind=FLAG),
    Option(
        ("--format",), "image_format", "Format of the manifest and the config (default: oci).",
        choices=("oci", "docker"), default="oci",
    ),
    Option(("--manifest",), "manifest", "Another name for the image, as in podman.", "REF"),
    Option(("--runtime",), "runtime", "Runtime of RUN steps: crun, runc, bwrap, or a path.", "NAME"),
    Option(("--jobs",), "jobs", "Number of steps that run at the same time.", "N", WHOLE),
    Option(
        ("--timestamp", "--source-date-epoch"), "timestamp",
        "Time for the image and its newer files, in seconds since 1970 (default: SOURCE_DATE_EPOCH, else now).",
        "SECONDS",
    ),
    Option(("--progress",), "progress", "How to show progress (default: BUILDKIT_PROGRESS, else auto).",
        "auto|plain|tty|json|quiet"),
    Option(("-q", "--quiet"), "quiet", "Show no progress; print the image ID.", kind=FLAG),
    Option(
        ("--wheels",), "wheels",
        "Install the Python wheels of uv.lock, pylock.toml or requirements.txt on --base, a layer for each; no "
        "Dockerfile is read.",
        "FILE",
    ),
    Option(("--base",), "base", "The base image for --wheels; it has Python.", "IMAGE"),
    Option(("--check",), "check", "Check the Dockerfile for common mistakes; build nothing.", kind=FLAG),
    Option(("--call",), "call", _CALL, "build|check|outline|targets"),
    Option(("--why",), "why", "Say for each step that ran what differs from the last time.", kind=FLAG),
)  # fmt: skip


@command(
    "build",
    "lamina build -t app:1 .\n"
    "lamina build -t ghcr.io/me/app:1 --platform linux/amd64,linux/arm64 --push .\n"
    "lamina build --target tests --build-arg VERSION=2 -o out .\n"
    "git archive HEAD | lamina build -t app -f docker/Dockerfile -\n"
    "lamina build -t deps:1 --wheels uv.lock --base python:3.12",
)
@click.argument("context", metavar="[DIR|URL|-]", default=".")
@options_of(OPTIONS)
@click.option("--label", "labels", type=TEXT, multiple=True, metavar="NAME[=VALUE]", help="Set a label of the image.")
@click.option("--pull", "pull", cls=Switch, help="Pull base images again, even if the store has them.")
@click.option("--layers", "layers", cls=Switch, help="=false: join the new layers into one, as in podman.")
@click.option(
    "--provenance",
    "provenance",
    metavar="true|false|mode=max",
    help="Attach how the image was built (SLSA); mode=max adds build arguments, steps and the Dockerfile.",
)
@click.option("--sbom", "sbom", metavar="true|false", help="Attach a bill of materials (SPDX).")
@click.option(
    "--attest",
    "attest",
    multiple=True,
    metavar="type=provenance|sbom[,...]",
    help="Attach an attestation; may be repeated.",
)
@click.option("--print", "call", hidden=True)
@unsupported_options(ACCEPTED, UsageError)
@registry_options
@retry_options
@click.pass_obj
def build(session: Session, /, context: str, **given: Any) -> int:
    """Build an image from a Dockerfile. CONTEXT is a directory (default: .), the address of a git repository or of a
    tar, or - for a tar or a Dockerfile on standard input. The image goes into the store, unless --output says
    otherwise. Steps whose inputs are the same as before come from a cache; --why says why others do not."""
    call = values.call("check" if given["check"] else given["call"] or "build")
    outputs = _outputs(given)
    names = _names(given, outputs)
    options = _options(session, given, outputs, names)
    out.check(outputs, len(options.platforms), names)
    if call.name != "build":
        from lamina.cli.build.calls import answer

        try:
            return answer(session, context, options, call)
        except DockerfileError as error:
            _show_source(error)
            raise
    shown = display(_mode(given), quiet=given["quiet"])
    _build(session, context, options, outputs, names, shown, given)
    return 0


def _build(
    session: Session,
    context: str,
    options: BuildOptions,
    outputs: Sequence[Output],
    names: Sequence[str],
    shown: Display,
    given: dict[str, Any],
) -> None:
    from lamina.build.builder import built

    out.check_files(filter(None, (given["iidfile"], given["metadata_file"])))
    if given["iidfile"]:
        out.remove_stale(given["iidfile"])
    store, cancel = session.writable_store, session.cancel
    with suppress(LaminaError):  # it is only needed for RUN, which says why it is refused
        privileges.become_root()  # before there are threads
    try:
        with (
            ended_in_order(),
            shown as progress,
            session.interruptible(),
            built(context, options, store, session.network(progress), on_event=progress, cancel=cancel) as made,
        ):
            for output in outputs:
                if output.in_store and not output.push:
                    out.deliver(made, output, names, out.Places(store, session.network, cancel=cancel))
                    continue
                with progress.vertex(_label(output, names)) as on_event:
                    out.deliver(made, output, names, out.Places(store, session.network, on_event, cancel))
            _write_files(made, names, given)
    except (StepFailed, DockerfileError) as error:
        _show_source(error)
        raise
    if not shown.is_json:
        for line in _remarks(made, is_quiet=type(shown) is Display, why=given["why"]):
            click.echo(line, err=True)
    if given["quiet"] or _mode(given) == "quiet":
        write(out.image_id(made))


def _show_source(error: StepFailed | DockerfileError) -> None:
    """Print the lines of the Dockerfile that an error is about."""
    for line in excerpt(error.source, error.at) if error.source else ():
        click.echo(line, err=True)


def _remarks(made: Built, *, is_quiet: bool, why: bool) -> Iterator[str]:
    """Yield what is said after a build."""
    if not is_quiet:
        yield from (f"lamina: {clean(note)}" for note in made.notes)
        yield from warnings(made.findings)
    if why:
        yield from reasons(made.steps)


def _write_files(made: Built, names: Sequence[str], given: dict[str, Any]) -> None:
    if given["iidfile"]:
        out.write_text(given["iidfile"], out.image_id(made))
    if given["metadata_file"]:
        out.write_metadata(given["metadata_file"], made, names)


def _label(output: Output, names: Sequence[str]) -> str:
    """What progress shows for an output."""
    if output.kind in ("tar", "local"):
        return f"exporting files to {output.path}"
    if output.path:
        return f"exporting to {output.kind} {'layout' if output.is_directory else 'archive'} {output.path}"
    if output.push:
        return f"pushing {', '.join((*names, *output.names))}"
    return "exporting the image"


def _mode(given: dict[str, Any]) -> str:
    mode: str = given["progress"] or os.environ.get("BUILDKIT_PROGRESS") or "auto"
    if given["quiet"] and mode not in ("auto", "quiet", "none"):
        if given["progress"]:
            raise UsageError(f"--progress {mode:.60} contradicts --quiet", hint="leave one of them out")
        return "quiet"
    if mode not in MODES:
        raise UsageError(f"--progress {mode!r:.60} is unknown", hint=f"use {', '.join(MODES)}")
    return mode


def _outputs(given: dict[str, Any]) -> list[Output]:
    """The outputs of --output, --push and --load; the store if nothing is given."""
    found = [values.output(word) for word in given["outputs"] if word]
    if given["push"]:
        if not any(one.kind == "image" for one in found):
            found.append(out.Output("image", push=True))
        found = [_replaced(one, push=True) if one.kind == "image" else one for one in found]
    if (given["load"] or not found) and not any(one.in_store for one in found):
        found.append(out.Output("image"))
    return found


def _replaced(output: Output, **changes: Any) -> Output:
    from lamina.light import replace

    return replace(output, **changes)


def _names(given: dict[str, Any], outputs: Sequence[Output]) -> list[str]:
    """All names of the image, each checked."""
    words = [*given["tags"], *filter(None, [given["manifest"]])]
    for output in outputs:
        words += output.names if output.kind == "image" else ()
    return [*dict.fromkeys(checked_name(word) for word in words if word)]


def _options(
    session: Session, given: dict[str, Any], outputs: Sequence[Output], names: Sequence[str]
) -> BuildOptions:
    from lamina.run.limits import parse_ulimit
    from lamina.run.options import parse_host, parse_size

    settings = session.settings
    arguments = _arguments(given)
    moment = _moment(given, arguments)
    network = values.network(given["network"])
    stays = any(one.in_store for one in outputs)
    compressions = {one.compression for one in outputs if one.compression}
    if len(compressions) > 1:
        raise UsageError("outputs with different compressions", hint="build once for each compression")
    compression = compressions.pop() if compressions else settings.compression
    is_docker = given["image_format"] == "docker" or any(one.docker for one in outputs)
    if is_docker and compression == "zstd":
        raise Unsupported(
            "docker's manifest format has no zstd layers", hint="use --format oci, or compress with gzip"
        )
    levels = [one.level for one in outputs if one.level is not None]
    annotations = values.annotations_of(given["annotations"])
    for output in outputs:
        annotations.update(output.annotations)
    if given["no_cache"] and given["no_cache_filter"]:
        raise UsageError("--no-cache contradicts --no-cache-filter", hint="leave one of them out")
    return BuildOptions(
        file=given["file"],
        ignore_file=given["ignore_file"],
        recipe=_recipe(given),
        target=given["target"],
        tags=tuple(names) if stays else (),
        arguments=arguments,
        contexts=values.build_contexts(filter(None, given["build_contexts"])),
        labels=values.labels(given["labels"]),
        annotations=annotations,
        platforms=_platforms(session, given),
        pull=_pulls(given["pull"]),
        no_cache=given["no_cache"],
        no_cache_filter=tuple(one for word in given["no_cache_filter"] for one in word.split(",") if one),
        cache_from=values.caches(filter(None, given["cache_from"]), "--cache-from"),
        cache_to=values.caches(filter(None, given["cache_to"]), "--cache-to"),
        secrets=values.secrets(filter(None, given["secrets"]), os.environ),
        ssh=values.agents(filter(None, given["ssh"]), os.environ),
        network=network,
        add_hosts=tuple(parse_host(word, network) for word in given["add_hosts"]),
        shm_size=(parse_size(given["shm_size"]) or None) if given["shm_size"] else None,
        ulimits=tuple(map(parse_ulimit, given["ulimits"])),
        allow=values.allowed(given["allow"]),
        attestations=values.attestations(given["provenance"], given["sbom"], given["attest"]),
        squash=given["squash"] or given["layers"] == "false",
        compression=compression,
        level=levels[0] if levels else settings.compression_level if compression == settings.compression else None,
        oci=not is_docker,
        epoch=moment,
        keep=stays,
        jobs=_jobs(given["jobs"]),
        runtime=given["runtime"] or settings.runtime,
        upper_dir=settings.upper_dir or "",
        stdin=sys.stdin.buffer,
    )


def _recipe(given: dict[str, Any]) -> Recipe | None:
    """What --wheels and --base ask for."""
    if not given["wheels"]:
        if given["base"]:
            raise UsageError("--base without --wheels", hint="name the base with FROM in the Dockerfile")
        return None
    if not given["base"]:
        raise UsageError("--wheels without --base", hint="name an image with Python, like --base python:3.12")
    if given["file"] or given["target"] or given["check"] or given["call"]:
        raise UsageError("--wheels reads no Dockerfile", hint="leave out --file, --target, --check and --call")
    from lamina.build.recipe import Recipe

    return Recipe(given["base"]).wheels(given["wheels"])


def _arguments(given: dict[str, Any]) -> dict[str, str | None]:
    from lamina.cli.containers.run_flags import text_of

    found: dict[str, str | None] = {}
    for path in given["build_arg_files"]:
        found |= values.build_arguments(values.argument_file(text_of(path)))
    return found | values.build_arguments(filter(None, given["build_args"]))


def _moment(given: dict[str, Any], arguments: dict[str, str | None]) -> int | None:
    """SOURCE_DATE_EPOCH: of --timestamp, of the build argument, or of the environment, which then becomes a build
    argument as in buildx."""
    text = given["timestamp"] or arguments.get("SOURCE_DATE_EPOCH")
    if text:
        if not (text.isascii() and text.isdigit()) or int(text) > 253_402_300_799:
            raise UsageError(f"not a time: {text!r:.60}", hint="give seconds since 1970")
        return int(text)
    found = epoch()
    if found is not None:
        arguments.setdefault("SOURCE_DATE_EPOCH", str(found))
    return found


def _platforms(session: Session, given: dict[str, Any]) -> tuple[Platform, ...]:
    words = [word for word in given["platforms"] if word]
    parts = [given["os"], given["arch"], given["variant"]]
    if any(parts):
        if words:
            raise UsageError("--platform contradicts --os, --arch and --variant", hint="give only --platform")
        from lamina.spec.platform import Platform

        host = Platform.host()
        parts = [parts[0] or host.os, parts[1] or host.architecture, parts[2]]
        words = ["/".join(filter(None, parts))]
    if not words and os.environ.get("DOCKER_DEFAULT_PLATFORM"):
        words = [os.environ["DOCKER_DEFAULT_PLATFORM"]]
    if words:
        return values.platforms(words)
    asked = session.settings.asked_platform()
    return (asked,) if asked is not None else ()


def _pulls(word: str | None) -> bool:
    """``--pull`` of docker (true, false), and of podman (always, newer, missing, never)."""
    if word in (None, "false", "missing", "ifmissing", "ifnewer"):
        return False
    if word in ("true", "always", "newer"):
        return True
    if word == "never":
        raise Unsupported("--pull=never is not supported", hint="leave it out: an image in the store is not pulled")
    raise UsageError(f"--pull={word:.60} is unknown", hint="use true or false")


def _jobs(count: int | None) -> int | None:
    if count is not None and count < 0:
        raise UsageError(f"--jobs {count} is not a number of steps", hint="give 1 or more; 0 for the default")
    return count or None
