"""How the event loop of the server treats clients before they are clients."""

from __future__ import annotations

import asyncio
import resource
import ssl

import pytest

from lamina.serve.asgi import running


def test_who_does_not_finish_the_handshake_of_tls_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "HANDSHAKE", 0.1)

    async def held() -> bytes:
        loop = asyncio.get_running_loop()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=context)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"\x16\x03\x01")
            found = await asyncio.wait_for(reader.read(), 20)
            writer.close()
            return found

    with asyncio.Runner(loop_factory=running.loop_factory()) as runner:
        assert runner.run(held()) == b""


def test_a_server_may_have_more_open_files_than_a_shell() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        running.allow_files(300)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 300
        running.allow_files(200)  # never fewer
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
