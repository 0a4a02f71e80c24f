"""The verb `serve`: a registry on this host that serves the store or another place."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

import click

from lamina.cli.registry.mirror_options import mirror_of, mirror_options
from lamina.cli.registry.serve_access import Protection, protection_options
from lamina.cli.registry.storage_options import storage_of, storage_options
from lamina.cli.registry.store_options import apply_store_options, store_options
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import UsageError
from lamina.spec.name import parse_name

if TYPE_CHECKING:
    from lamina.source.served import Readable


@command(
    "serve",
    "lamina serve --port 5000\nlamina serve --writable --workers 2\nlamina serve oci:./layout\n"
    "lamina serve --mirror docker.io --mirror-size 50g\nlamina serve --writable --gc 6h\n"
    "lamina serve --host 0.0.0.0 --writable --htpasswd users --tls-self-signed registry.lan",
)
@click.argument("source", required=False, default="")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "-p",
    "--port",
    type=click.IntRange(0, 65535),
    default=5000,
    show_default=True,
    help="Port to listen on; 0 means any free port.",
)
@click.option(
    "--listen",
    multiple=True,
    metavar="ADDRESS",
    help="Listen here instead: HOST:PORT, [IPV6]:PORT or unix:PATH (repeatable).",
)
@storage_options
@click.option("--writable", is_flag=True, help="Allow clients to push and delete.")
@click.option(
    "--plain-http", is_flag=True, help="Listen without TLS on an address that other machines reach (behind a proxy)."
)
@click.option(
    "--anonymous-push", is_flag=True, help="With --writable, let other machines push and delete without a login."
)
@click.option(
    "--trusted-proxy",
    multiple=True,
    metavar="NETWORK",
    help="Believe X-Forwarded-For, -Proto and -Host of these proxies: 10.0.0.0/8, or unix (repeatable).",
)
@click.option(
    "--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Number of processes that serve."
)
@click.option(
    "--connections-per-address",
    type=click.IntRange(0),
    default=1024,
    show_default=True,
    metavar="N",
    help="Connections at once from one address, in all processes; 0 means no limit. Trusted proxies have none.",
)
@click.option(
    "--uploads-per-client",
    type=click.IntRange(0),
    default=500,
    show_default=True,
    metavar="N",
    help="Uploads that a user, or an address without a login, may have open, at all servers; 0 means no limit.",
)
@click.option(
    "--grace-period",
    type=click.IntRange(0, 3600),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="How long requests may still run after SIGTERM or Ctrl-C; a second signal ends them at once.",
)
@click.option(
    "--max-blob",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    metavar="GIB",
    help="Refuse the body of a request that is larger.",
)
@click.option("--access-log", metavar="FILE", help="Write a line for each request; - means standard error.")
@click.option(
    "--log-format", type=click.Choice(["json", "text"]), default="json", show_default=True, help="Of the access log."
)
@click.option(
    "--metrics-from",
    multiple=True,
    metavar="NETWORK",
    help="Who may read /metrics besides this machine (repeatable).",
)
@click.option(
    "--explorer/--no-explorer",
    default=True,
    show_default=True,
    help="Show the images in a browser, at / of the same address.",
)
@click.option(
    "--explorer-cache",
    metavar="DIR",
    help="Keep indexes of layers here, at most 2 GiB (default: lamina/explorer in the cache directory of the user).",
)
@store_options
@mirror_options
@protection_options
@click.pass_obj
def serve(
    session: Session,
    source: str,
    host: str,
    port: int,
    listen: tuple[str, ...],
    storage: str,
    gc: str,
    redirect: bool,
    writable: bool,
    plain_http: bool,
    anonymous_push: bool,
    trusted_proxy: tuple[str, ...],
    workers: int,
    connections_per_address: int,
    uploads_per_client: int,
    grace_period: int,
    max_blob: int,
    access_log: str | None,
    log_format: str,
    metrics_from: tuple[str, ...],
    explorer: bool,
    explorer_cache: str | None,
    gc_grace: str,
    keep_uploads: str,
    mirror: tuple[str, ...],
    mirror_dir: str | None,
    mirror_size: str | None,
    mirror_age: int,
    mirror_fetches: int,
    mirror_ttl: str,
    protection: Protection,
) -> None:
    """Serve the store (or a layout or archive) as an OCI registry. Clients pull `app` as HOST:PORT/app, and
    ghcr.io/me/app as HOST:PORT/ghcr.io/me/app. Ctrl-C stops it.

    Without `pip install 'lamina[serve]'` a small server runs, for this machine only."""
    from lamina.cli.registry.serving import Settings, run_service, run_small, service_is_installed, whole_service

    if storage and protection.has_users and not (protection.token_key or protection.state_dir):
        raise UsageError(
            "users of --storage need a key for tokens, the same at all servers", hint="give --token-key FILE"
        )
    place: Readable | None = storage_of(storage, source, gc, redirect=redirect, writable=writable)
    if place is None:
        place = _place(session, source, writable, create=writable or bool(mirror))
    settings = Settings(
        host=host,
        port=port,
        listen=listen,
        writable=writable,
        plain_http=plain_http,
        anonymous_push=anonymous_push,
        trusted=trusted_proxy,
        workers=workers,
        connections_each=connections_per_address,
        uploads_each=uploads_per_client,
        grace=grace_period,
        max_blob=max_blob << 30,
        access_log=access_log,
        log_format=log_format,
        metrics_from=metrics_from,
        explorer=explorer,
        explorer_cache=explorer_cache,
        gc_every=apply_store_options(place, gc, gc_grace, keep_uploads, max_blob << 30, storage=bool(storage)),
        mirror=mirror_of(
            session, mirror, mirror_dir, mirror_size, mirror_age, mirror_ttl, mirror_fetches, has_store=not storage
        ),
        protection=protection,
        state=protection.state_dir or ("" if source or storage else os.path.join(session.settings.root, "serve")),
    )
    if service_is_installed():
        with whole_service():
            run_service(place, settings)
    else:
        run_small(place, settings)


def _place(session: Session, source: str, writable: bool, *, create: bool) -> Readable:
    """Open what is to be served. ``create``: make a store if there is none."""
    from lamina.places import reader_for

    if source:
        name = parse_name(source)
        if not name.transport or name.transport == "docker" or name.name:
            raise UsageError(
                f"can't serve {source!r:.200}",
                hint="give oci:DIR, oci-archive:FILE or docker-registry:DIR, or nothing for the store",
            )
        return cast("Readable", reader_for(name, session.network()))
    store = session.writable_store if create else session.store
    if not writable and store.layers.origins():
        # blobs that the store does not keep are fetched from their registry
        from lamina.transfer.connect import StoreAndRegistries

        return cast("Readable", StoreAndRegistries(store, session.network()))
    return cast("Readable", store)
