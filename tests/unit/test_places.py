"""A place is opened by its transport, and by no other one's reader."""

from __future__ import annotations

from typing import cast

import pytest

from lamina.errors import UsageError
from lamina.light import replace
from lamina.places import reader_for, writer_for
from lamina.spec.name import parse_name
from lamina.transfer.connect import RegistryAccess


def test_a_transport_that_nobody_reads_or_writes_is_refused() -> None:
    name = replace(parse_name("oci:/nowhere"), transport="tape")
    with pytest.raises(UsageError, match="can't read from 'tape'"):
        reader_for(name, cast(RegistryAccess, None))
    with pytest.raises(UsageError, match="can't write to 'tape'"):
        writer_for("tape", "/nowhere")
