"""Own code that replaces a module to save its import: it must behave like that module."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lamina.errors import InvalidDocument
from lamina.spec import json as spec_json
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.reference import is_domain, is_path, is_tag

VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUE)
@example({"a": ("b", 1), "é": "\ud800"})
def test_json_is_written_as_the_standard_library_writes_it(value: Any) -> None:
    text = spec_json.write_own(value)
    assert text == json.dumps(value)
    assert repr(spec_json.read_own(f" {text}\n")) == repr(json.loads(text))


@given(st.text(alphabet='{}[]",:0123456789 \n\t-.eENaInfity\\u"truesl', max_size=12))
@example("")
@example("[1,]")
@example('{"a":1} x')
@example("NaN")
@example("-Infinity")
def test_json_that_is_wrong(text: str) -> None:
    try:
        wanted: Any = json.loads(text)
    except ValueError as error:
        with pytest.raises(ValueError, match=re.escape(str(error))):
            spec_json.read_own(text)
        with pytest.raises(InvalidDocument):
            spec_json.load(text.encode(), "x")
    else:
        assert repr(spec_json.read_own(text)) == repr(wanted)


def test_json_says_what_it_cant_write() -> None:
    with pytest.raises(TypeError):
        spec_json.write_own({"a": object()})


def test_json_without_its_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec_json, "_C", None)
    assert spec_json.read_own(spec_json.write_own({"a": [1, None]})) == {"a": [1, None]}
    assert spec_json.load(b'{"a": 1}', "x") == {"a": 1}


LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
DOMAIN = rf"(?:{LABEL}(?:\.{LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
PATH = rf"{COMPONENT}(?:/{COMPONENT})*"
TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"


@given(st.text(alphabet="aAz09.-_:[]/ \n\u0661é?", max_size=12))
@example("a__b.c-d---e/f")
@example("a___b")
@example("[::1]:5000")
@example("[::1]x")
@example("a:")
@example("host.example:5000")
@example("-")
@example("")
def test_components_of_names_follow_the_grammar_of_distribution(text: str) -> None:
    assert is_domain(text) == bool(re.fullmatch(DOMAIN, text))
    assert is_path(text) == bool(re.fullmatch(PATH, text))
    assert is_tag(text) == bool(re.fullmatch(TAG, text))


@given(st.text(max_size=5) | st.sampled_from(["a" * 255, "a" * 256, "a b", " a", "a ", "a\x7f", "~!"]))
def test_media_types_hold_no_control(text: str) -> None:
    value = {"mediaType": text, "digest": f"sha256:{'0' * 64}", "size": 1}
    if re.fullmatch(r"[!-~](?:[ -~]{0,253}[!-~])?", text):
        assert Descriptor.from_json(value, "x").media_type == text
    else:
        with pytest.raises(InvalidDocument):
            Descriptor.from_json(value, "x")


@pytest.mark.parametrize("size", [0, 1, 1 << 15, (1 << 15) + 1])
def test_hashes_without_openssl(size: int) -> None:
    code = (
        "import sys\nfrom lamina.spec.digest import Digest\n"
        f"print(Digest.of(bytes({size})), 'hashlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"sha256:{hashlib.sha256(bytes(size)).hexdigest()}", str(size > 1 << 15)]
    assert Digest.of(bytes(size)).encoded == hashlib.sha256(bytes(size)).hexdigest()


@pytest.mark.parametrize("text", ['{"a": nonsense}', '{"a": "', "{", '{"a": 1} x'])
def test_json_that_is_wrong_where_json_was_not_loaded(text: str) -> None:
    code = (
        "import sys\nfrom lamina.spec.json import load\nfrom lamina.errors import InvalidDocument\n"
        "assert 'json' not in sys.modules\n"
        f"try:\n    load({text.encode()!r}, 'x')\nexcept InvalidDocument as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("x is not a valid document: ")
    assert ", line 1 column " in done.stdout
