"""Which user is at the other end of a loopback connection: asked of the real kernel."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from lamina.host.peer import UNKNOWN, user_of_peer
from support import require_root

CONNECT = """
import encodings.idna, os, socket, sys
os.setuid(int(sys.argv[3]))
with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET) as one:
    one.connect((sys.argv[1], int(sys.argv[2])))
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("host", "named"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("127.0.0.1", "::ffff:127.0.0.1")]
)
def test_the_user_of_each_connection_is_found(host: str, named: str) -> None:
    require_root()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        listener.settimeout(20)
        for user in (0, 12345):
            words = [sys.executable, "-c", CONNECT, named, str(listener.getsockname()[1]), str(user)]
            with subprocess.Popen(words, stdin=subprocess.PIPE):
                connection, _ = listener.accept()
                with connection:
                    assert user_of_peer(connection) == user


def test_a_connection_that_was_closed_belongs_to_nobody() -> None:
    """The kernel lists it as one of root."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        connection, _ = listener.accept()
        with connection:
            assert user_of_peer(connection) == os.getuid()
            client.close()
            assert user_of_peer(connection) == UNKNOWN
