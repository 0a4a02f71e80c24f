"""What web pages may ask of the server, and who may see the page of `lamina ui`."""

from __future__ import annotations

import logging

import pytest

from lamina.serve.explorer.asked import Refused
from lamina.serve.explorer.loopback import check_user, own_users
from lamina.serve.origin import check_page
from lamina.serve.routes import ApiError
from lamina.serve.server_log import OneLine


@pytest.mark.parametrize(
    ("method", "headers", "allowed"),
    [
        ("PUT", {}, True),
        ("GET", {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, True),
        ("GET", {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}, True),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, True),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, False),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, False),
        ("GET", {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}, False),
        ("HEAD", {"Sec-Fetch-Site": "cross-site"}, False),
        ("POST", {"Sec-Fetch-Site": "same-origin"}, False),
        ("POST", {"Origin": "null"}, False),
    ],
)
def test_pages_of_other_sites_only_link_here_and_no_page_changes_anything(
    method: str, headers: dict[str, str], allowed: bool
) -> None:
    if allowed:
        check_page(method, headers)
        return
    with pytest.raises(ApiError) as told:
        check_page(method, headers)
    assert told.value.status == 403


def test_a_log_message_is_one_line_whatever_others_put_into_it() -> None:
    record = logging.LogRecord("lamina", logging.WARNING, "", 1, "%s", ("up said: \x1b[2J\nforged line",), None)
    assert OneLine().format(record) == "up said: \\x1b[2J\\nforged line"
    try:
        raise ValueError("a\n\x1b]0;b\x07")
    except ValueError as error:
        record.exc_info = (ValueError, error, error.__traceback__)
    text = OneLine().format(record)
    assert "\x1b" not in text
    assert "Traceback" in text.split("\n")[1]


def test_the_page_is_for_the_user_who_starts_it_and_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", "1000")
    monkeypatch.setattr("os.getuid", lambda: 0)
    assert own_users() == {0, 1000}
    monkeypatch.setattr("os.getuid", lambda: 7)
    assert own_users() == {0, 7}  # anybody may set the variable

    seen: list[int | None] = [0, 7, None]
    monkeypatch.setattr("lamina.serve.explorer.loopback.user_of_peer", lambda connection: seen.pop(0))
    for _ in range(3):
        check_user(None, own_users())  # type: ignore[arg-type]
    seen += [8, -1]
    for _ in range(2):
        with pytest.raises(Refused) as told:
            check_user(None, own_users())  # type: ignore[arg-type]
        assert told.value.status == 403
