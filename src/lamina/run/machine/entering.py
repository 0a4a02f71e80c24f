"""A program that changes its user and becomes another program (pure).

A static busybox sets no supplementary groups, and an image may have nothing that does. This program is a list of
system calls, which it makes one after the other; then it executes what its arguments say. A call that fails ends it.
"""

from __future__ import annotations

import struct

from lamina.errors import Unsupported
from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

_CODE = {
    "amd64": bytes.fromhex(
        "488d1d710000004c8d6310498b04244885c0781c498b7c2408498b742410498b5424180f054885c0781e4983c420ebdb"
        "488b0c24488d742410488b3e488d54cc10b83b0000000f05bd7e0000004883f8fe7502ffc5bf02000000488b33488b53"
        "08b8010000000f0589efb83c0000000f050f1f8000000000"
    ),
    "arm64": bytes.fromhex(
        "5303001074420091880240f9e800f8b7808640a9820e40f9010000d42001f8b794820091f9ffff17e30340f9e1430091"
        "200040f9220c038ba81b80d2010000d4d50f80d21f0800b1b516959a400080d2610a40a9080880d2010000d4e00315aa"
        "a80b80d2010000d4"
    ),
    "riscv64": bytes.fromhex(
        "17040000130404089304040183b8040063c0080203b5840083b5040103b684017300000063440502938404026ff01ffe"
        "833601009305010103b50500939636003386d5009308d00d730000001309e0079302e0ff631455001309190013052000"
        "83350400033684009308000473000000130509009308d0057300000013000000"
    ),
    "ppc64le": bytes.fromhex(
        "05000048a602c87f8400de3b1000fe3b00001fe80000202c2000804108007fe810009fe81800bfe80200004428008341"
        "2000ff3bdcffff4b0000c1e810008138000064e8241fc6781432a47c0b000038020000447e00a03b0200232c08008240"
        "0100bd3b0200603800009ee80800bee8040000380200004478eba37f010000380200004400004260"
    ),
    "s390x": bytes.fromhex(
        "c0c00000004841b0c010e310b0000004b9020011a7440014e320b0080004e330b0100004e340b01800040a00b9020022"
        "a744001641b0b020a7f4ffe9e350f00000044130f010e32030000004eb550003000d41453000a719000b0a00a7a9007e"
        "a72ffffea7740004a7ab0001a7290002e330c0000004e340c0080004a71900040a00b904002aa71900010a0007070707"
    ),
}
"""Read as assembler: the data follow; they are the address and the length of a message, and for each system call its
number and three arguments, then -1. ::

    for each entry of the list: load number and arguments, call; on an error go to `failed`
    execve(argv[1], argv + 1, envp)
    failed: code = 127 if the error is ENOENT, else 126; write(2, message, length); exit(code)
"""
_MACHINES = {"amd64": 62, "arm64": 183, "riscv64": 243, "ppc64le": 21, "s390x": 22}  # elf(5)
_NUMBERS = {  # close, chdir, setgroups, setresgid, setresuid
    "amd64": (3, 80, 116, 119, 117),
    "arm64": (57, 49, 159, 149, 147),
    "riscv64": (57, 49, 159, 149, 147),
    "ppc64le": (6, 12, 81, 169, 164),
    "s390x": (6, 12, 206, 210, 208),
}
_ADDRESS, _ALIGNED = 0x1000_0000, 0x1_0000
_HEAD, _PROGRAM_HEAD = 64, 56
_ABI = {"ppc64le": 2}  # the second ELF ABI


def entering(
    architecture: str,
    *,
    uid: int,
    gid: int,
    groups: Sequence[int] = (),
    cwd: bytes = b"/",
    closed: Sequence[int] = (),
    message: bytes,
) -> bytes:
    """The ELF file. Its arguments are the path and the arguments of the program. ``closed``: descriptors that it
    closes. ``message``: written to standard error where the program can't be executed. Raises Unsupported."""
    code = _CODE.get(architecture)
    if code is None:
        raise Unsupported(f"no machine for the architecture {architecture!r:.50}", hint="use another image")
    order: Literal["<", ">"] = ">" if architecture == "s390x" else "<"
    close, chdir, setgroups, setresgid, setresuid = _NUMBERS[architecture]
    calls = (5 + len(closed)) * 32  # bytes of the list
    start = _ADDRESS + _HEAD + _PROGRAM_HEAD
    strings = start + len(code) + 16 + calls
    ids = struct.pack(f"{order}{len(groups)}I", *groups)
    path, text = cwd + b"\0", message
    at_path, at_text = strings + len(ids), strings + len(ids) + len(path)
    entries = (
        (chdir, at_path, 0, 0),  # as root: a user may lack the right to look into the directory
        (setgroups, len(groups), strings, 0),
        (setresgid, gid, gid, gid),
        (setresuid, uid, uid, uid),
        *((close, number, 0, 0) for number in closed),
        (-1, 0, 0, 0),
    )
    data = struct.pack(f"{order}QQ", at_text, len(text))
    data += b"".join(struct.pack(f"{order}qQQQ", *entry) for entry in entries) + ids + path + text
    size = _HEAD + _PROGRAM_HEAD + len(code) + len(data)
    identity = b"\x7fELF\x02" + (b"\x02" if order == ">" else b"\x01") + b"\x01" + bytes(9)
    head = identity + struct.pack(
        f"{order}HHIQQQIHHHHHH",
        *(2, _MACHINES[architecture], 1, start, _HEAD, 0, _ABI.get(architecture, 0)),
        *(_HEAD, _PROGRAM_HEAD, 1, 0, 0, 0),
    )
    segment = struct.pack(f"{order}IIQQQQQQ", 1, 5, 0, _ADDRESS, _ADDRESS, size, size, _ALIGNED)
    return head + segment + code + data
