"""What a registry says about a request that it refuses (distribution-spec, "Error Codes")."""

from __future__ import annotations

from lamina.errors import InvalidContent, LaminaError, Unsupported
from lamina.light import Value
from lamina.remote.http import Answer, RequestFailed
from lamina.spec.json import load

MAX_ERROR = 64 << 10


class Complaint(Value):
    """The ``codes`` of an answer, its messages in one short line, and all its text."""

    codes: frozenset[str] = frozenset()
    said: str = ""
    text: str = ""

    @classmethod
    def of(cls, answer: Answer) -> Complaint:
        """Read the answer to its end. A body that is not in the form of the specification says nothing."""
        with answer:
            try:
                raw = answer.read_all(MAX_ERROR, "error")
                value = load(raw, "error", known=frozenset())
            except (RequestFailed, InvalidContent, Unsupported, LaminaError):
                return cls()
        errors = value.get("errors") if isinstance(value, dict) else None
        codes, said = set(), []
        for error in errors[:3] if isinstance(errors, list) else []:
            if isinstance(error, dict):
                codes.add(str(error.get("code")))
                words = [str(error.get(key)) for key in ("code", "message") if error.get(key)]
                said.append(" ".join(words)[:400])
        return cls(frozenset(codes), "; ".join(filter(None, said)), raw.decode("utf-8", "replace"))
