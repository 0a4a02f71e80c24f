"""Tables of docker's names for the verbs of lamina (pure): ``image ls``, ``container rm``, ``system df``; and of
verbs that other engines have and lamina does not support yet.
"""

from __future__ import annotations

Verbs = dict[str, str]


NOUNS: dict[str, tuple[str, Verbs]] = {
    # noun: (help, {its verb: the verb of lamina and its options; :name is a function in noun_verbs})
    "image": (
        "Images in the store.",
        {
            "build": "build",
            "cp": "copy",
            "diff": "diff",
            "exists": ":image_exists",
            "history": "history",
            "import": "import",
            "inspect": "inspect --type image",
            "list": "images",
            "load": "load",
            "ls": "images",
            "mount": "mount",
            "prune": "prune",
            "pull": "pull",
            "push": "push",
            "remove": "rmi",
            "rm": "rmi",
            "save": "save",
            "search": "search",
            "tag": "tag",
            "tree": "layers",
            "umount": "umount",
            "unmount": "umount",
        },
    ),
    "container": (
        "Containers.",
        {
            "attach": "attach",
            "create": "create",
            "restart": "restart",
            "start": "start",
            "wait": "wait",
            "commit": "commit",
            "cp": "cp",
            "diff": "diff",
            "exec": "exec",
            "export": "export",
            "inspect": "inspect --type container",
            "kill": "kill",
            "logs": "logs",
            "list": "ps",
            "ls": "ps",
            "exists": ":container_exists",
            "prune": ":container_prune",
            "pause": "pause",
            "port": "port",
            "ps": "ps",
            "rename": "rename",
            "rm": "rm",
            "remove": "rm",
            "run": "run",
            "stop": "stop",
            "stats": "stats",
            "top": "top",
            "unpause": "unpause",
            "update": "update",
        },
    ),
    "system": (
        "The store and this host.",
        {"check": "fsck", "df": ":system_df", "events": "events", "info": "info", "prune": ":system_prune"},
    ),
    "builder": (
        "The build cache (`lamina build` builds).",
        {"build": "build", "du": "df", "prune": ":builder_prune"},
    ),
    "buildx": (
        "docker buildx: builds and their cache.",
        {"b": "build", "build": "build", "du": "df", "prune": ":builder_prune"},
    ),
    "manifest": (
        "Manifests and indexes (`lamina manifest REF` prints one).",
        {
            "add": "index add",
            "create": "index create",
            "inspect": "manifest",
            "push": "push",
            "rm": "rmi",
        },
    ),
    "registry": (
        "Registries.",
        {
            "blob": "blob",
            "catalog": "search",
            "config": "config",
            "delete": "delete",
            "digest": "digest",
            "login": "login",
            "logout": "logout",
            "ls": "search",
            "manifest": "manifest",
            "rm": "delete",
            "rmi": "delete",
            "search": "search",
            "serve": "serve",
            "tags": "tags",
            "validate": "validate",
        },
    ),
}


OTHERS: Verbs = {
    "bud": "build",
    "catalog": "search",
    "list-tags": ":list_tags",
    "mutate": "config",
    "unmount": "umount",
}
"""Verbs of podman, skopeo and crane that have another name in lamina."""


INSTEAD: Verbs = {"auth": "`lamina login` and `lamina logout`", "context": "`--root DIR`, which chooses a store"}
"""Verbs of other tools for which there is no single verb, and what to use instead."""


_KUBE = "use `lamina compose` or `lamina pod`"
_MEMORY = "`lamina commit` keeps the files of a container, but nothing keeps its memory"


_BUILDING = "use `lamina build` for each image"


_NO_BUILDERS = "there are no builders to set up: leave the line out"


ABSENT_IN_NOUN: dict[tuple[str, str], str] = {
    # (noun, its verb in docker): the reason, or what to use instead
    **{("buildx", verb): _NO_BUILDERS for verb in ("create", "inspect", "install", "ls", "rm", "stop", "use")},
    ("buildx", "bake"): _BUILDING,
    ("buildx", "imagetools"): "use `lamina manifest REF`, `lamina index create` or `lamina copy --all`",
    ("buildx", "history"): "`lamina build --metadata-file` writes what a build made",
}
"""Where the reason in ``ABSENT`` does not fit."""


ABSENT: dict[str, str] = {
    # verb of another engine: the reason, or what to use instead
    "auto-update": "use `lamina pull` to get the newest image",
    "bake": _BUILDING,
    "cache": "use `lamina prune` to delete what no image needs",
    "checkpoint": _MEMORY,
    "exists": "use `lamina image exists` or `lamina container exists`",
    "export-cache": _BUILDING,
    "farm": _BUILDING,
    "init": "`lamina run` does this itself",
    "kube": _KUBE,
    "machine": "lamina uses no virtual machine; containers run on this host",
    "node": "there is no cluster",
    "play": _KUBE,
    "plugin": "there are no plugins",
    "restore": _MEMORY,
    "scout": "use `lamina packages` to list what is installed, or to make an SBOM",
    "secret": "use `lamina run -v FILE:/run/secrets/NAME:ro` to pass a file",
    "service": "there is no cluster",
    "sign": "`lamina copy --referrers` copies existing signatures",
    "stack": "there is no cluster",
    "swarm": "there is no cluster",
    "trust": "`lamina copy --referrers` copies existing signatures",
    "unshare": "`lamina mount` and `lamina run` create their namespaces themselves",
    "untag": "use `lamina rmi NAME` to remove a name",
}
