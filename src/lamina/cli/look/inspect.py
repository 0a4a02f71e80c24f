"""The verb `inspect`: details of images and containers, with docker's field names."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import click

from lamina.cli.access import identity_options, retry_options
from lamina.cli.containers.several import latest_option, newest
from lamina.cli.format.output import emit_json, emit_template
from lamina.cli.format.rows import repository_of
from lamina.cli.format.template_record import NO_LIST, NO_MAP, Record
from lamina.cli.options import image_argument, named_once, platform_option, registry_options, short_format_option
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import LaminaError, NotFound, ReferenceNotFound, UsageError
from lamina.spec.name import parse_name
from lamina.spec.reference import Reference

if TYPE_CHECKING:
    from lamina.image import Image
    from lamina.store.containers import Container

IMAGE, CONTAINER = "image", "container"
_MAY_LACK: dict[str, Any] = {
    # fields that a template may ask for although a Config does not have them, with their values
    **dict.fromkeys(("Hostname", "Domainname", "User", "Image", "WorkingDir", "StopSignal", "MacAddress"), ""),
    **dict.fromkeys(("Env", "Cmd", "Entrypoint", "OnBuild", "Shell"), NO_LIST),
    **dict.fromkeys(("Volumes", "ExposedPorts", "Labels"), NO_MAP),
    **dict.fromkeys(("AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce"), False),
    **dict.fromkeys(("ArgsEscaped", "NetworkDisabled"), False),
    "Healthcheck": None,
    "StopTimeout": None,
}
_HOST_MAY_LACK: dict[str, Any] = {
    # the same of a HostConfig
    **dict.fromkeys(("Annotations", "StorageOpt", "Sysctls", "Tmpfs"), NO_MAP),
    "Init": None,
    "Mounts": NO_LIST,
}


@command(
    "inspect",
    "lamina inspect debian:12\n"
    "lamina inspect debian:12 --format '{{json .Config.Env}}'\n"
    "lamina inspect --type container web -f '{{.State.Status}} {{.State.ExitCode}}'",
)
@image_argument("names", nargs=-1, metavar="IMAGE|CONTAINER...")
@click.option(
    "-t",
    "--type",
    "kind",
    type=click.Choice([IMAGE, CONTAINER]),
    help="Type of the names (default: a container if there is one, else an image).",
)
@latest_option
@click.option("-s", "--size", is_flag=True, help="Also show how much a container has written.")
@click.option("--raw", is_flag=True, help="Print the exact bytes of the manifest.")
@click.option("--config", "raw_config", is_flag=True, help="Print the exact bytes of the config.")
@click.option("-n", "--no-tags", is_flag=True, help="Accepted as in skopeo; tags are never listed.")
@platform_option
@registry_options
@identity_options
@retry_options
@short_format_option
@click.pass_obj
def inspect(
    session: Session,
    names: tuple[str, ...],
    kind: str | None,
    latest: bool,
    size: bool,
    raw: bool,
    raw_config: bool,
    no_tags: bool,
    format: str | None,
) -> None:
    """Show details of images and containers as JSON, with docker's field names. If a name means both an image and a
    container, the container is shown, as in docker; --type chooses."""
    named_once(bool(names), "images and containers", latest=latest)
    if latest:
        names, kind = (newest(session),), CONTAINER
    if raw or raw_config:
        if kind == CONTAINER:
            raise UsageError("--raw and --config are for images; a container has no manifest", hint="leave them out")
        from lamina.cli.format.content import write_contents

        opened = [session.image(name) for name in names]
        documents = [(image.name, image.manifest.raw if raw else image.config.raw) for image in opened]
        write_contents((name, io.BytesIO(document)) for name, document in documents)
        return
    values = [_found(session, name, kind, size) for name in names]
    if format in (None, "json", "table"):
        emit_json(values)
    else:
        emit_template(values, {}, format or "")


def _found(session: Session, name: str, kind: str | None, size: bool) -> Record:
    if kind != IMAGE:
        one = _container(session, name, must=kind == CONTAINER)
        if one is not None:
            return _container_record(session, one, size)
    try:
        return _image_record(session, name, session.image(name))
    except ReferenceNotFound as error:
        if kind == IMAGE or parse_name(name).transport:
            raise
        raise NotFound(error.message.replace("no image", "no container or image", 1), hint=error.hint) from None


def _container(session: Session, name: str, *, must: bool) -> Container | None:
    store = session.store_if_any
    if store is None:
        if must:
            raise NotFound(f"no container {name!r:.100}", hint="see `lamina ps -a`")
        return None
    if not must and set(name) & set(":/~@"):
        return None  # not the name of a container
    try:
        return store.containers.get(name, damaged=True)
    except NotFound:
        if must:
            raise
        return None


def _container_record(session: Session, container: Container, size: bool) -> Record:
    from lamina.run.container.user_namespace import enter
    from lamina.run.inspection.document import describe, sizes

    value = describe(session.store, container)
    if size:
        enter()  # files in a container may belong to other IDs of this user
        value |= sizes(session.store, container)
    health = value["State"].get("Health")
    value["State"] = Record(value["State"], {"Health": None, "Healthcheck": health})  # the latter is podman's
    value["HostConfig"] = Record(value["HostConfig"], _HOST_MAY_LACK)
    value["NetworkSettings"] = Record(value["NetworkSettings"])
    value["Config"] = Record(value["Config"], {**_MAY_LACK, "Annotations": NO_MAP})
    return Record(value, {"SizeRw": None, "SizeRootFs": None})


def _image_record(session: Session, name: str, image: Image) -> Record:
    config, manifest = image.config, image.manifest
    tags, digests = _names(session, name, image)
    value: dict[str, Any] = {
        "Id": str(image.id),
        "RepoTags": tags,
        "RepoDigests": digests,
        "Comment": config.history[-1].comment if config.history else "",
        "Created": config.created,
        "Author": config.author,
        "Config": Record(config.json.get("config") or {}, _MAY_LACK),
        "Architecture": config.architecture,
        "Variant": config.variant,
        "Os": config.os,
        "Size": sum(layer.size for layer in manifest.layers),
        "RootFS": Record({"Type": "layers", "Layers": [str(diff_id) for diff_id in image.stack.diff_ids]}),
        "Name": image.name,
        "Digest": str(image.digest),
        "MediaType": manifest.media_type,
        "Layers": [
            {
                "MediaType": layer.descriptor.media_type,
                "Digest": str(layer.descriptor.digest),
                "Size": layer.descriptor.size,
            }
            for layer in image.stack.layers
        ],
        "Annotations": dict(manifest.annotations),
        "History": config.json.get("history") or [],
    }
    absent = {"Parent": "", "DockerVersion": "", "OsVersion": config.os_version, "Labels": dict(config.labels)}
    return Record(value, {**absent, "VirtualSize": value["Size"], "Metadata": NO_MAP})


def _names(session: Session, name: str, image: Image) -> tuple[list[str], list[str]]:
    """docker's RepoTags and RepoDigests: all names that the image has in the store."""
    if parse_name(name).transport:
        return [], []
    store = session.store
    same = {image.digest}
    try:
        same.add(store.resolve(parse_name(name).name).digest)  # an index has another digest than its images
    except LaminaError:
        pass  # an alias of registries.conf
    tags, digests = [], []
    for known, descriptor in store.names():
        if known and descriptor.digest in same:
            reference = Reference.parse(known)
            if reference.tag:
                tags.append(reference.familiar)
            digests.append(f"{repository_of(reference)}@{descriptor.digest}")
    return sorted(tags), sorted(dict.fromkeys(digests))
