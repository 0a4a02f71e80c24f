"""A user namespace without privileges, as with AppArmor on Ubuntu: the error names the setting."""

from __future__ import annotations

import ctypes
import errno
import sys
from types import SimpleNamespace

import pytest

import lamina.host.libc
from lamina.errors import SystemFailure
from lamina.host import privileges

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="user namespaces are Linux's")
SETTING = "kernel/apparmor_restrict_unprivileged_userns"


@pytest.mark.parametrize(("value", "refused"), [("1", True), ("1", False), ("0", True), ("", True)])
def test_a_user_namespace_without_privileges_names_the_kernel_setting(
    monkeypatch: pytest.MonkeyPatch, value: str, refused: bool
) -> None:
    def mount(*_: object) -> int:
        ctypes.set_errno(errno.EACCES)
        return -1 if refused else 0

    monkeypatch.setattr(privileges, "_value_of", lambda name: value if name == SETTING else "")
    monkeypatch.setattr(lamina.host.libc, "libc", lambda: SimpleNamespace(mount=mount))
    if value != "1" or not refused:
        privileges._check_restriction()
        return
    with pytest.raises(SystemFailure, match="no rights in a user namespace: Permission denied") as caught:
        privileges._check_restriction()
    assert caught.value.hint == "change the host's setting kernel.apparmor_restrict_unprivileged_userns: it is 1"
