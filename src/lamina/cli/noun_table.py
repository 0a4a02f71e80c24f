"""docker's other words for lamina's verbs as tables (pure): ``image ls``, ``container rm``, ``system df``; and the
verbs that other engines have and lamina has not yet.
"""

from __future__ import annotations

Verbs = dict[str, str]


NOUNS: dict[str, tuple[str, Verbs]] = {
    # noun: (what it is about, {its verb: lamina's verb, and options that go with it; :name is in noun_verbs})
    "image": (
        "Images of the store.",
        {
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
            "commit": "commit",
            "cp": "cp",
            "diff": "diff",
            "exec": "exec",
            "export": "export",
            "inspect": "inspect --type container",
            "kill": "kill",
            "list": "ps",
            "ls": "ps",
            "exists": ":container_exists",
            "prune": ":container_prune",
            "ps": "ps",
            "rm": "rm",
            "remove": "rm",
            "run": "run",
            "stop": "stop",
        },
    ),
    "system": (
        "The store and this machine.",
        {"check": "fsck", "df": "df", "info": "info", "prune": ":system_prune"},
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
        "What registries have.",
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


OTHERS: Verbs = {"catalog": "search", "list-tags": ":list_tags", "mutate": "config", "unmount": "umount"}
"""Verbs of podman, skopeo and crane that have another name here."""


INSTEAD: Verbs = {"auth": "`lamina login` and `lamina logout`", "context": "`--root DIR`, which chooses a store"}
"""Verbs of theirs whose words mean something else here, and what to type."""


_DETACHED = "containers run in the foreground: `lamina run` ends with its program"


_BUILDING = "`lamina append`, `commit` and `import` make images"


_NETWORKS = "`lamina run --network pasta|none|host` is what there is"


ABSENT: dict[str, str] = {
    # verb of another engine: why, or what does it here
    "attach": _DETACHED,
    "auto-update": "`lamina pull` gets the newest image",
    "bake": _BUILDING,
    "build": _BUILDING,
    "builder": _BUILDING,
    "buildx": _BUILDING,
    "cache": "`lamina prune` frees what no image needs",
    "checkpoint": _DETACHED,
    "compose": "start each container with `lamina run`",
    "create": "`lamina run` makes a container and starts it",
    "events": "`lamina ps -a` shows how containers ended",
    "exists": "`lamina image exists` and `lamina container exists` say it",
    "export-cache": _BUILDING,
    "farm": _BUILDING,
    "generate": "there are no pods",
    "healthcheck": "`lamina exec CONTAINER COMMAND` runs a check",
    "init": "`lamina run` does it",
    "kube": "there are no pods",
    "logs": "a container's output goes to the terminal of its `lamina run`",
    "machine": "there is no virtual machine: containers run on this one",
    "network": _NETWORKS,
    "node": "there is no cluster",
    "pause": "`lamina stop` and `lamina kill` are what there is",
    "play": "there are no pods",
    "plugin": "there are no plugins",
    "pod": "there are no pods",
    "port": "no ports are published; `lamina run --network host` shares the machine's",
    "rename": "`lamina run --name` names a container",
    "restart": "`lamina stop` it, and `lamina run` a new one",
    "restore": _DETACHED,
    "scout": "`lamina packages` lists what is installed, and makes SBOMs",
    "secret": "`lamina run -v FILE:PATH:ro` gives a file",
    "service": "there is no cluster",
    "sign": "`lamina copy --referrers` carries signatures along",
    "stack": "there is no cluster",
    "start": "a container runs once: `lamina run` makes a new one, `lamina commit` keeps what one changed",
    "stats": "`top` and `ps` of this machine show its processes",
    "swarm": "there is no cluster",
    "top": "`ps` of this machine shows its processes",
    "trust": "`lamina copy --referrers` carries signatures along",
    "unpause": "`lamina stop` and `lamina kill` are what there is",
    "unshare": "`lamina mount` and `lamina run` make their namespaces themselves",
    "untag": "`lamina rmi NAME` takes a name away",
    "update": "limits are given to `lamina run`",
    "volume": "`lamina run -v NAME:PATH` makes one and keeps it",
    "wait": _DETACHED,
}
