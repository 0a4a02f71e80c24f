"""Health checks: what is run, and what its results mean. The expected values are docker's."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lamina
from lamina.cli.containers.families import health as family
from lamina.errors import UsageError
from lamina.run.health import (
    MAX_OUTPUT,
    Check,
    Health,
    Result,
    after,
    check_json,
    duration_text,
    health_json,
    merged,
    next_wait,
    parse_test,
    read_check,
    read_health,
    ready,
    shown_output,
    too_slow,
)
from lamina.run.options import HealthCheck

_S = 10**9
_CHECK = Check(("true",), retries=2, start_period=10.0)


def _run(codes: str, ages: list[float], check: Check = _CHECK) -> Health:
    health = Health()
    for code, age in zip(codes, ages, strict=True):
        health = after(health, Result(0, _S, int(code)), check, age)
    return health


@pytest.mark.parametrize(
    ("codes", "ages", "status", "streak"),
    [
        ("", [], "starting", 0),
        ("1", [1], "starting", 0),  # a failure in the start period does not count
        ("1", [10], "starting", 1),
        ("11", [10, 11], "unhealthy", 2),
        ("111", [1, 2, 3], "starting", 0),
        ("0", [1], "healthy", 0),
        ("01", [1, 2], "healthy", 1),  # the start period ends with the first success
        ("011", [1, 2, 3], "unhealthy", 2),
        ("110", [10, 11, 12], "healthy", 0),
        ("0101", [1, 2, 3, 4], "healthy", 1),
        ("111", [11, 12, 13], "unhealthy", 3),
    ],
)
def test_status_after_results(codes: str, ages: list[float], status: str, streak: int) -> None:
    found = _run(codes, ages)
    assert (found.status, found.streak) == (status, streak)


@given(st.lists(st.tuples(st.integers(-1, 2), st.floats(0, 20)), max_size=12), st.integers(1, 4))
def test_unhealthy_means_that_many_failures_in_a_row(results: list[tuple[int, float]], retries: int) -> None:
    check = Check(("true",), retries=retries)
    health = Health()
    for code, age in results:
        health = after(health, Result(0, 1, code), check, age)
    failures = 0
    for code, _ in reversed(results):
        if code == 0:
            break
        failures += 1
    ever = any(code == 0 for code, _ in results)
    assert health.streak == failures
    assert health.status == ("unhealthy" if failures >= retries else "healthy" if ever else "starting")
    assert len(health.log) == min(5, len(results))


def test_the_log_has_the_last_five_results_in_dockers_form() -> None:
    health = Health()
    for number in range(7):
        health = after(health, Result(number * _S, number * _S + 5, 0, f"out {number}"), _CHECK, 1)
    log = health_json(health)["Log"]
    assert [one["Output"] for one in log] == [f"out {number}" for number in range(2, 7)]
    assert log[0] == {
        "Start": "1970-01-01T00:00:02.000000000Z",
        "End": "1970-01-01T00:00:02.000000005Z",
        "ExitCode": 0,
        "Output": "out 2",
    }
    assert read_health(health_json(health)) == health


@pytest.mark.parametrize("value", [None, [], {"Status": 3, "FailingStreak": "x", "Log": [1, {}]}, {"Log": {}}])
def test_a_malformed_health_file_is_read_as_starting(value: object) -> None:
    assert read_health(value).status == "starting"


@pytest.mark.parametrize(
    ("health", "age", "wait"),
    [(Health(), 1, 0.5), (Health(), 10, 30), (Health("healthy"), 1, 30), (Health("unhealthy"), 1, 30)],
)
def test_the_next_check_comes_after_the_interval(health: Health, age: float, wait: float) -> None:
    check = Check(("true",), interval=30, start_interval=0.5, start_period=10)
    assert next_wait(health, check, age) == wait
    assert next_wait(health, Check(("true",), interval=7, start_period=10), age) == 7


def test_long_output_is_cut_and_bytes_that_are_no_text_are_replaced() -> None:
    assert shown_output(b"x" * MAX_OUTPUT) == "x" * 4096
    assert shown_output(b"x" * (MAX_OUTPUT + 1)) == "x" * 4096 + "..."
    assert shown_output(b"a\xff") == "a\ufffd"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(30, "30s"), (90, "1m30s"), (3600, "1h0m0s"), (0.2, "200ms"), (1.5, "1.5s"), (0.001, "1ms"), (60, "1m0s")],
)
def test_a_check_that_is_too_slow_names_its_timeout_as_go_prints_it(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
    assert too_slow(Check(("x",), timeout=seconds), "o") == f"Health check exceeded timeout ({text}): o"


_IMAGE = {"Test": ["CMD-SHELL", "curl x"], "Interval": 5 * _S, "Timeout": 2 * _S, "StartPeriod": _S, "Retries": 4}


@pytest.mark.parametrize(
    ("wanted", "of_image", "expected"),
    [
        (HealthCheck(), None, None),
        (HealthCheck(), _IMAGE, _IMAGE),
        (HealthCheck(test=("CMD", "a")), None, {"Test": ["CMD", "a"]}),
        (HealthCheck(test=("CMD", "a"), retries=1), _IMAGE, {**_IMAGE, "Test": ["CMD", "a"], "Retries": 1}),
        (HealthCheck(interval=1.5), _IMAGE, {**_IMAGE, "Interval": 1_500_000_000}),
        (HealthCheck(interval=1.5), None, None),  # a time alone is no check
        (HealthCheck(test=("NONE",)), _IMAGE, {**_IMAGE, "Test": ["NONE"]}),
        (HealthCheck(), {"Test": "curl", "Interval": 3}, None),
        (HealthCheck(), {"Test": ["CMD", 1]}, None),
        (HealthCheck(), {"Test": ["CMD", "a\0b"]}, None),
        (
            HealthCheck(),
            {"Test": ["CMD", "a"], "Interval": -1, "Timeout": "x", "Retries": True},
            {"Test": ["CMD", "a"]},
        ),
        (HealthCheck(), {"Test": ["CMD", "a"], "Interval": 1}, {"Test": ["CMD", "a"], "Interval": 1_000_000}),
        (HealthCheck(), [1], None),
    ],
)
def test_options_and_image_together(wanted: HealthCheck, of_image: Any, expected: Any) -> None:
    assert merged(wanted, of_image) == expected


@pytest.mark.parametrize(
    ("docker", "shell", "words"),
    [
        (None, None, None),
        ({"Test": ["NONE"]}, None, None),
        ({"Test": ["CMD"]}, None, None),
        ({"Test": ["RUN", "x"]}, None, None),
        ({"Test": ["CMD", "ready", "-q"]}, ["/bin/bash", "-c"], ("ready", "-q")),
        ({"Test": ["CMD-SHELL", "a || b"]}, None, ("/bin/sh", "-c", "a || b")),
        ({"Test": ["CMD-SHELL", "a"]}, ["/bin/bash", "-lc"], ("/bin/bash", "-lc", "a")),
        ({"Test": ["CMD-SHELL", "a"]}, [1], ("/bin/sh", "-c", "a")),
    ],
)
def test_the_command_that_is_run(docker: Any, shell: Any, words: Any) -> None:
    found = ready(docker, shell)
    assert (found and found.words) == words


def test_defaults_are_dockers() -> None:
    check = ready({"Test": ["CMD", "a"]})
    assert check == Check(("a",), 30.0, 30.0, 0.0, 0.0, 3, "none")
    assert read_check(check_json(check)) == check
    assert ready(_IMAGE, None, "kill") == Check(("/bin/sh", "-c", "curl x"), 5.0, 2.0, 1.0, 0.0, 4, "kill")


@pytest.mark.parametrize(
    ("word", "test"),
    [
        ("curl -f x || exit 1", ("CMD-SHELL", "curl -f x || exit 1")),
        ('["CMD-SHELL", "a b"]', ("CMD-SHELL", "a b")),
        ('["cmd", "a", "b"]', ("CMD", "a", "b")),
        ('["pg_isready", "-U", "x"]', ("CMD", "pg_isready", "-U", "x")),
        ('["curl x"]', ("CMD-SHELL", "curl x")),
        ("[ -e /ready ]", ("CMD-SHELL", "[ -e /ready ]")),
        ("[]", ("CMD-SHELL", "[]")),
        ("none", ("NONE",)),
        ('["NONE"]', ("NONE",)),
    ],
)
def test_health_cmd(word: str, test: tuple[str, ...]) -> None:
    assert parse_test(word) == test


@pytest.mark.parametrize("word", [" ", "a\0b", "[1]", '["CMD"]', '["a\\u0000"]', '["a", 1]'])
def test_a_health_cmd_that_is_no_command_is_refused(word: str) -> None:
    with pytest.raises(UsageError):
        parse_test(word)


_GIVEN = {**{option.argument: option.start for option in family.OPTIONS}, "restart": ""}


def test_options_of_run() -> None:
    given = {"health_cmd": "a", "health_interval": "1m", "health_start_interval": "100ms", "health_retries": "5"}
    assert family.parsed({**_GIVEN, **given})["health"] == HealthCheck(
        ("CMD-SHELL", "a"), interval=60.0, start_interval=0.1, retries=5
    )
    assert family.parsed({**_GIVEN, "health_interval": "0s"})["health"] == HealthCheck()
    assert family.parsed({**_GIVEN, "no_healthcheck": True})["health"] == HealthCheck(("NONE",))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"health_interval": "soon"}, "--health-interval"),
        ({"health_start_period": "-1s"}, "--health-start-period"),
        ({"health_timeout": "1us"}, "--health-timeout"),
        ({"health_retries": "-1"}, "--health-retries"),
        ({"health_on_failure": "reboot"}, "--health-on-failure"),
        ({"health_on_failure": "restart", "restart": "always"}, "--restart"),
        ({"no_healthcheck": True, "health_cmd": "a"}, "--no-healthcheck"),
    ],
)
def test_bad_options_are_named(given: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError) as error:
        family.parsed({**_GIVEN, **given})
    assert named in error.value.message


def test_a_monitor_loads_little_for_it() -> None:
    source = os.path.dirname(os.path.dirname(lamina.__file__))
    code = f"import sys; sys.path.insert(0, {source!r}); import lamina.run.health; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    heavy = {"dataclasses", "typing", "re", "subprocess", "asyncio", "logging", "datetime", "json", "pathlib"}
    assert not heavy & set(done.stdout.split())
