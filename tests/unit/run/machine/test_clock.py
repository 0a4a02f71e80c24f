"""How fast the counter of this host's processor runs."""

from __future__ import annotations

import platform

import pytest

from lamina.run.machine import clock


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs a TSC")
def test_the_counter_is_measured() -> None:
    found = clock.tsc_khz()
    assert 100_000 < found < 20_000_000


def test_other_processors_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock.platform, "machine", lambda: "aarch64")
    assert clock.tsc_khz() == 0


def test_a_host_that_lets_nobody_make_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(clock.mmap, "mmap", refused)
    assert clock.tsc_khz() == 0
