"""The table of transports: each is parsed, opened, and offered where it can be used."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import pytest

from lamina.errors import NotFound, UsageError
from lamina.light import replace
from lamina.places import reader_for, writer_for
from lamina.spec.name import parse_name
from lamina.spec.transport import IN_FILES, Transport
from lamina.transfer.connect import RegistryAccess


@pytest.mark.parametrize("transport", IN_FILES, ids=lambda one: one.name)
def test_names_of_a_transport_are_parsed_and_opened_by_its_own_classes(transport: Transport, tmp_path: Path) -> None:
    place = str(tmp_path / "place")
    name = parse_name(f"{transport.prefix}{place}:app:1~2")
    assert (name.transport, name.high) == (transport.name, 2)
    assert (name.location, name.name) == ((place, "app:1") if transport.holds_many else (f"{place}:app:1", ""))
    assert str(name) == f"{transport.prefix}{place}:app:1~2"
    assert transport.usage.startswith(transport.prefix)
    with pytest.raises(NotFound, match=re.escape(place)):
        reader_for(replace(name, location=place), cast(RegistryAccess, None))
    if transport.writer:
        assert writer_for(transport.name, place).location == transport.prefix + place
    else:
        with pytest.raises(UsageError, match="it is only read"):
            writer_for(transport.name, place)
    with pytest.raises(UsageError) as caught:
        parse_name(transport.prefix)
    assert caught.value.hint == f"write it as {transport.usage}"


def test_an_unknown_transport_is_refused_with_the_known_ones() -> None:
    name = replace(parse_name("oci:/nowhere"), transport="tape")
    with pytest.raises(UsageError, match="can't read from 'tape': unknown transport") as caught:
        reader_for(name, cast(RegistryAccess, None))
    assert caught.value.hint == "use docker, oci, docker-archive, oci-archive, dir or docker-registry"
    with pytest.raises(UsageError, match="can't write to 'tape'"):
        writer_for("tape", "/nowhere")
