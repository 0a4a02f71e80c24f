"""What the process of a server may have."""

from __future__ import annotations

import resource

from lamina.serve.asgi import running


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
