"""Patterns of secrets (data only). Expressions repeat only single characters, with limits, so that none is slow."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern. One of the ``anchors`` (in lower case with ``fold``) must occur in the text. The first group is the
    secret, of which ``shown`` characters may be shown. ``where`` restricts it to files with such a path, written with
    a leading slash; these expressions begin with a slash, which makes them fast."""

    name: str
    anchors: tuple[bytes, ...]
    expression: re.Pattern[bytes]
    shown: int = 0
    where: re.Pattern[bytes] | None = None
    fold: bool = False


def _pattern(
    name: str, anchors: str, expression: bytes, shown: int = 0, *, where: bytes = b"", fold: bool = False
) -> Pattern:
    return Pattern(
        name,
        tuple(anchors.encode().split()),
        re.compile(expression, re.IGNORECASE if fold else 0),
        shown,
        re.compile(rb"/(?:" + where + rb")$") if where else None,
        fold,
    )


_NOT_INSIDE = rb"(?<![A-Za-z0-9_-])"  # at the beginning of a word
_END = rb"(?![A-Za-z0-9_-])"
_IS = rb"['\"]?[^\S\n]{0,4}[=:][^\S\n]{0,4}['\"]?"

ANYWHERE = (
    _pattern(
        "private-key",
        "PRIVATE",
        rb"(-----BEGIN (?:[A-Z0-9]{1,10} )?PRIVATE KEY(?: BLOCK)?-----)"
        rb"(?:\s|\\n|\\r){1,8}(?:[A-Za-z-]{1,20}: [^\n]{0,200}\n\s{0,4}){0,4}[A-Za-z0-9+/=]{40}",
        100,
    ),
    _pattern("aws-access-key", "AKIA ASIA ABIA ACCA", _NOT_INSIDE + rb"(A(?:KIA|SIA|BIA|CCA)[A-Z2-7]{16})" + _END, 4),
    _pattern(
        "aws-secret-key",
        "aws",
        rb"aws[_-]?(?:secret|session)?[_-]?(?:access)?[_-]?key" + _IS + rb"([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])",
        fold=True,
    ),
    _pattern("gcp-api-key", "AIza", _NOT_INSIDE + rb"(AIza[A-Za-z0-9_-]{35})" + _END, 4),
    _pattern("google-oauth", "ya29. GOCSPX-", _NOT_INSIDE + rb"((?:ya29\.|GOCSPX-)[A-Za-z0-9_-]{20,200})", 5),
    _pattern("github-token", "ghp_ gho_ ghu_ ghs_ ghr_", _NOT_INSIDE + rb"(gh[pousr]_[A-Za-z0-9]{36,255})", 4),
    _pattern("github-token", "github_pat_", _NOT_INSIDE + rb"(github_pat_[A-Za-z0-9_]{60,255})", 11),
    _pattern(
        "gitlab-token",
        "glpat- gldt- glrt- glcbt- glptt-",
        _NOT_INSIDE + rb"(gl(?:pat|dt|rt|cbt|ptt)-[A-Za-z0-9_-]{20,255})",
        6,
    ),
    _pattern("slack-token", "xox", _NOT_INSIDE + rb"(xox[abeoprs]-[A-Za-z0-9-]{10,255})", 5),
    _pattern(
        "slack-webhook",
        "hooks.slack.com",
        rb"(https://hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/_-]{20,120})",
        24,
    ),
    _pattern("npm-token", "npm_", _NOT_INSIDE + rb"(npm_[A-Za-z0-9]{36})" + _END, 4),
    _pattern("pypi-token", "pypi-AgE", _NOT_INSIDE + rb"(pypi-AgE[A-Za-z0-9_-]{50,255})", 5),
    _pattern("stripe-key", "k_live_", _NOT_INSIDE + rb"([sr]k_live_[A-Za-z0-9]{20,120})", 8),
    _pattern("docker-token", "dckr_pat_ dckr_oat_", _NOT_INSIDE + rb"(dckr_[po]at_[A-Za-z0-9_-]{20,120})", 9),
    _pattern("sendgrid-key", "SG.", _NOT_INSIDE + rb"(SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43})" + _END, 3),
    _pattern("openai-key", "T3BlbkFJ", _NOT_INSIDE + rb"(sk-[A-Za-z0-9_-]{10,180}T3BlbkFJ[A-Za-z0-9_-]{10,180})", 3),
    _pattern("anthropic-key", "sk-ant-", _NOT_INSIDE + rb"(sk-ant-[A-Za-z0-9_-]{32,255})", 7),
    _pattern("huggingface-token", "hf_", _NOT_INSIDE + rb"(hf_[A-Za-z]{34})" + _END, 3),
    _pattern("digitalocean-token", "dop_v1_ doo_v1_ dor_v1_", _NOT_INSIDE + rb"(do[opr]_v1_[a-f0-9]{64})", 7),
    _pattern("azure-storage-key", "AccountKey=", rb"AccountKey=([A-Za-z0-9+/]{86}==)"),
    _pattern(
        "json-web-token",
        "eyJ",
        _NOT_INSIDE + rb"(eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,2000})",
        3,
    ),
)
"""For every text: secrets with a recognisable format."""

IN_FILES = (
    _pattern(
        "docker-auth",
        '"auth" "identitytoken"',
        rb'"(?:auth|identitytoken)"\s{0,8}:\s{0,8}"([A-Za-z0-9+/=._-]{8,4000})"',
        where=rb"\.docker/config\.json|\.dockercfg|\.dockerconfigjson|containers/auth\.json",
    ),
    _pattern("netrc-password", "password", rb"\bpassword\s{1,8}(\S{1,500})", where=rb"[._]netrc"),
    _pattern(
        "npm-token",
        "_auth _password",
        rb"_(?:authToken|auth|password)[^\S\n]{0,4}=[^\S\n]{0,4}['\"]?([^\s'\"$][^\s'\"]{3,1000})",
        where=rb"\.npmrc",
    ),
    _pattern(
        "pypi-password",
        "password",
        rb"\bpassword[^\S\n]{0,4}[=:][^\S\n]{0,4}([^\s%$][^\n]{0,500})",
        where=rb"\.pypirc",
    ),
    _pattern(
        "pgpass-password",
        ":",
        rb"(?m)^[^#:\n]{1,255}:[^:\n]{1,10}:[^:\n]{1,255}:[^:\n]{1,255}:([^\n]{1,255})$",
        where=rb"\.pgpass",
    ),
    _pattern(
        "url-password",
        "://",
        rb"://[^\s:@/'\"]{0,255}:([^\s@/'\"$]{1,500})@",
        where=rb"\.git-credentials|git/credentials|\.git/config|\.gitconfig|\.?pip(?:/pip)?\.(?:conf|ini)"
        rb"|\.env[^/]{0,40}|auth\.json|apt/(?:sources\.list|auth\.conf)(?:\.d/[^/]{1,200})?",
    ),
    _pattern(
        "password-hash",
        "$",
        rb"(?m)^[^:\n]{1,64}:(\$(?:1|2[abxy]|5|6|7|y|gy|apr1)\$[^:\n]{8,300})",
        3,
        where=rb"g?shadow-?|master\.passwd|\.?htpasswd|passwd-?",
    ),
    _pattern(
        "kube-config",
        "client-key-data token:",
        rb"(?:client-key-data|token)[^\S\n]{0,4}:[^\S\n]{0,4}([A-Za-z0-9+/=._-]{16,8000})",
        where=rb"\.kube/config|kubeconfig|admin\.conf|kubelet\.conf",
    ),
)
"""For files with these names, whose format tells what is secret."""

ASSIGNED = _pattern(
    "password",
    "pass secret token key credential",
    rb"(?<![A-Za-z0-9_.-])[A-Za-z0-9_.-]{0,60}(?:passw(?:or)?d|passphrase|secret|token|api_?key|access_?key"
    rb"|private_?key|credential|auth_?key)s?[A-Za-z0-9_.-]{0,60}[^\S\n]{0,2}=[^\S\n]{0,2}"
    rb"['\"]?([^\s'\"$\\;,&|<>(){}][^\s'\"\\;,&|<>(){}]{2,2000})",
    fold=True,
)
"""``DB_PASSWORD=...``: in texts, and in .env files."""

IN_WORDS = (
    ASSIGNED,
    _pattern(
        "password",
        "--pass --token --secret --api",
        rb"--(?:password|passwd|passphrase|token|secret|api-?key)[= ]['\"]?"
        rb"([^\s'\"$\\;&|<>()-][^\s'\"\\;&|<>()]{2,500})",
        fold=True,
    ),
    _pattern(
        "authorization-header",
        "authorization",
        rb"authorization['\"]?\s{0,4}[:=]\s{0,4}['\"]?(?:bearer|basic|token)\s{1,4}([A-Za-z0-9._~+/=-]{8,4000})",
        fold=True,
    ),
    _pattern("url-password", "://", rb"://[^\s:@/'\"]{0,255}:([^\s@/'\"$]{1,500})@"),
)
"""For variables, labels and build steps."""

DOTENV = re.compile(rb"/(?:\.env(?:\.[^/]{1,40})?|[^/]{1,200}\.env)$")
KEY_STORE = re.compile(rb"\.(?:p12|pfx|jks|kdbx|ppk)$")
HARMLESS_NAME = re.compile(
    rb"_(?:FILE|PATH|DIR|URL|URI|NAME|TYPE|LENGTH|VERSION|SHA\d{0,3}|ENABLED)['\"]?\s{0,2}=", re.IGNORECASE
)
"""``DB_PASSWORD_FILE=`` gives a location, not a secret."""
HARMLESS_VALUE = re.compile(
    rb"(?:true|false|yes|no|none|null|undefined|changeme|example|placeholder|x{3,}|\*{3,}|\.{3,}|/.*|\d{1,5}"
    rb"|<.*|\[.*|your[-_].*|[a-z_]{1,10}\(.*)$",
    re.IGNORECASE,
)
