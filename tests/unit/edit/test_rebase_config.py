"""Three configs become one: values of the image are kept, the rest comes from the new base."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.edit.rebase_config import BaseDifference, merged_run_config
from support import rounds


def test_the_new_bases_environment_is_used_where_the_image_kept_the_old_bases() -> None:
    old = {"Env": ["PATH=/bin", "LANG=C", "GONE=1", "KEEP=1"], "User": "root", "Entrypoint": ["/old"]}
    new = {"Env": ["PATH=/bin:/new", "LANG=C.UTF-8", "KEEP=1", "NEW=1"], "User": "app", "Entrypoint": ["/new"]}
    own = {"Env": ["PATH=/bin:/srv", "LANG=C", "GONE=1", "MINE=x"], "User": "root", "Entrypoint": ["/mine"]}
    run, drift = merged_run_config(old, new, own)
    assert run == {
        "Env": ["PATH=/bin:/srv", "LANG=C.UTF-8", "NEW=1", "MINE=x"],  # KEEP was removed by the image itself
        "User": "app",
        "Entrypoint": ["/mine"],
    }
    assert sorted(drift, key=lambda one: one.field) == [
        BaseDifference("Entrypoint", ["/old"], ["/new"], ["/mine"], False),
        BaseDifference("Env GONE", "GONE=1", None, "GONE=1", False),
        BaseDifference("Env LANG", "LANG=C", "LANG=C.UTF-8", "LANG=C", False),
        BaseDifference("Env NEW", None, "NEW=1", None, False),
        BaseDifference("Env PATH", "PATH=/bin", "PATH=/bin:/new", "PATH=/bin:/srv", True),
        BaseDifference("User", "root", "app", "root", False),
    ]


def test_unknown_fields_and_nulls_are_kept() -> None:
    old = {"Healthcheck": {"Test": ["CMD", "a"]}, "Labels": {"a": "1", "b": "1"}, "Volumes": None, "Shell": ["x"]}
    new = {"Healthcheck": {"Test": ["CMD", "b"]}, "Labels": {"a": "2", "b": "2"}, "Volumes": {"/new": {}}}
    own = {**old, "Labels": {"a": "1", "b": "mine"}, "OnBuild": ["RUN x"]}
    run, _ = merged_run_config(old, new, own)
    assert run == {
        "Healthcheck": {"Test": ["CMD", "b"]},
        "Labels": {"a": "2", "b": "mine"},
        "Volumes": {"/new": {}},
        "OnBuild": ["RUN x"],
    }


runs: Any = st.fixed_dictionaries(
    {},
    optional={
        "Env": st.dictionaries(st.sampled_from("ABC"), st.sampled_from("12")).map(
            lambda env: [f"{name}={value}" for name, value in env.items()]
        ),
        "Labels": st.dictionaries(st.sampled_from("xyz"), st.sampled_from("12"), min_size=1),
        "User": st.sampled_from(["a", "b"]),
        "Cmd": st.lists(st.sampled_from("pq"), min_size=1, max_size=2),
    },
)


@settings(max_examples=rounds(300), deadline=None)
@given(runs, runs, runs)
def test_merging_run_configs_with_equal_sides_changes_nothing(old: Any, new: Any, own: Any) -> None:
    def plain(run: Any) -> Any:
        return {key: sorted(value) if key == "Env" else value for key, value in run.items() if value}

    assert plain(merged_run_config(old, new, old)[0]) == plain(new)  # nothing of its own: the new base's
    assert plain(merged_run_config(old, old, own)[0]) == plain(own)  # the same base: as it was
    assert merged_run_config(old, old, own)[1] == []
    assert plain(merged_run_config(own, new, new)[0]) == plain(new)
