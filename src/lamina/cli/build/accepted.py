"""Options of `docker build` and `podman build` that have no effect here, or that are refused."""

from __future__ import annotations

from lamina.cli.containers.unsupported import UnsupportedOption as _Option

_LIMITS = "limits for RUN are not supported"
_LIMITS_HINT = "limit the whole build: systemd-run --scope -p MemoryMax=2G lamina build ..."
_RUN = "RUN steps can't be changed in this way"
_MOUNT = "use RUN --mount in the Dockerfile"
_DNS = "RUN uses the name servers of this host"
_TRUE = ("true", "1", "")
_NOTHING = "leave it out"

ACCEPTED = (
    _Option(("--rm",), fine=("*",), flag=True),
    _Option(("--force-rm",), fine=("*",), flag=True),
    _Option(("--compress",), fine=("*",), flag=True),
    _Option(("--disable-compression",), fine=("*",), flag=True),
    _Option(("--disable-content-trust",), fine=("*",), flag=True),
    _Option(("--skip-unused-stages",), fine=("*",), flag=True),
    _Option(("--logsplit",), fine=("*",), flag=True),
    _Option(("--http-proxy",), fine=("*",), flag=True),
    _Option(("--identity-label",), fine=("*",), flag=True),
    _Option(("--inherit-labels",), fine=("*",), flag=True),
    _Option(("--inherit-annotations",), fine=("*",), flag=True),
    _Option(("--rewrite-timestamp",), fine=("*",), flag=True),
    _Option(("--isolation",), fine=("*",)),
    _Option(("--log-level",), fine=("*",)),
    _Option(("--builder",), "there are no builders", _NOTHING, ("default", "")),
    _Option(("--from",), "the base comes from the Dockerfile", "use --build-context NAME=docker-image://REF"),
    _Option(("--cap-add",), _RUN, "use RUN --security=insecure, with --allow security.insecure"),
    _Option(("--cap-drop",), _RUN, _NOTHING),
    _Option(("--security-opt",), _RUN, _NOTHING, ("label=disable", "seccomp=unconfined", "apparmor=unconfined")),
    _Option(("--device",), _RUN, _NOTHING),
    _Option(("-v", "--volume"), _RUN, _MOUNT),
    _Option(("--group-add",), _RUN, _NOTHING),
    _Option(("--userns",), _RUN, _NOTHING, ("host", "auto", "")),
    _Option(("--pid",), _RUN, _NOTHING, ("private", "")),
    _Option(("--ipc",), _RUN, _NOTHING, ("private", "")),
    _Option(("--uts",), _RUN, _NOTHING, ("private", "")),
    _Option(("--cgroupns",), _RUN, _NOTHING, ("private", "")),
    _Option(("--cgroup-parent",), _LIMITS, _LIMITS_HINT, ("",)),
    _Option(("-m", "--memory"), _LIMITS, _LIMITS_HINT, ("0",)),
    _Option(("--memory-swap",), _LIMITS, _LIMITS_HINT, ("0", "-1")),
    _Option(("-c", "--cpu-shares"), _LIMITS, _LIMITS_HINT, ("0",)),
    _Option(("--cpu-period",), _LIMITS, _LIMITS_HINT, ("0",)),
    _Option(("--cpu-quota",), _LIMITS, _LIMITS_HINT, ("0",)),
    _Option(("--cpuset-cpus",), _LIMITS, _LIMITS_HINT, ("",)),
    _Option(("--cpuset-mems",), _LIMITS, _LIMITS_HINT, ("",)),
    _Option(("--resource",), _LIMITS, _LIMITS_HINT),
    _Option(("--dns",), _DNS, _NOTHING),
    _Option(("--dns-search",), _DNS, _NOTHING),
    _Option(("--dns-option",), _DNS, _NOTHING),
    _Option(("--no-hosts",), _RUN, _NOTHING, flag=True),
    _Option(("--no-hostname",), _RUN, _NOTHING, flag=True),
    _Option(("--stdin",), "RUN has no standard input", "use a here-document", flag=True),
    _Option(("-e", "--env"), "variables of the image come from the Dockerfile", "write ENV, or use `lamina config`"),
    _Option(("--unsetenv",), "variables of the image come from the Dockerfile", "use `lamina config --env-rm`"),
    _Option(("--unsetlabel",), "labels can't be removed by a build", "use `lamina config --label-rm`"),
    _Option(("--layer-label",), "layers have no labels", "use --label"),
    _Option(("--all-platforms",), "the platforms must be named", "use --platform linux/amd64,linux/arm64", flag=True),
    _Option(("--squash-all",), "the layers of the base stay", "use --squash, or `lamina flatten`", flag=True),
    _Option(("--omit-history",), "images keep their history", _NOTHING, flag=True),
    _Option(("--cache-ttl",), "the age of cached steps can't be limited", "use --no-cache, or `prune --build`"),
    _Option(("--logfile",), "progress goes to standard error", "redirect it: 2>FILE"),
    _Option(("--sign-by",), "signatures are not supported yet", _NOTHING),
    _Option(("--decryption-key",), "encrypted images are not supported", _NOTHING),
    _Option(("--cw",), "encrypted images are not supported", _NOTHING),
    _Option(("--policy",), "policies are not supported", _NOTHING),
    _Option(("--cpp-flag",), "Dockerfile.in files are not preprocessed", "run cpp, and pipe its output: -f -"),
)
"""For ``unsupported_options``."""
