"""Command lines of docker, skopeo, crane, podman and dive from tutorials, CI scripts and manuals, each with what
lamina must do if its name replaces theirs.

``e2e/test_habits.py`` runs every line; ``docs/coming-from.md`` shows some of them, and must not show others. A line
runs in a shell, in a directory with the files that ``e2e/test_habits.py`` makes; ``localhost:5000`` is a registry.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Row:
    """One line, and what it must do.

    The store holds ``alpine`` (3.20, latest and 3.21), ``nginx``, ``app:1``, ``app:2`` and an image without a name.
    The container ``old`` has ended with code 3 and wrote /root/note; ``web`` runs nginx.
    """

    theirs: str
    ours: str = ""
    """The line for lamina, if it is different."""
    out: str | None = None
    """All of stdout, without white space around it."""
    has: str | tuple[str, ...] = ()
    """Patterns that stdout contains."""
    lacks: str = ""
    """A pattern that stdout does not contain."""
    err: str = ""
    """A pattern that stderr contains."""
    code: int = 0
    before: str = ""
    """A line that is run before; it must succeed."""
    then: tuple[str, str] = ("", "")
    """A line that is run afterwards, and a pattern that its whole output matches."""
    alone: bool = False
    """Whether it gets its own store, because it changes the store."""
    web: bool = False
    """Whether ``web`` runs in that store; in the shared one it always does."""
    instead: str = ""
    """The name of the verb in lamina: the error for the other name suggests it."""
    todo: str = ""
    """What is still missing; the row is expected to fail."""

    @property
    def line(self) -> str:
        return self.ours or "lamina " + self.theirs.partition(" ")[2]


def _of(program: str, *rows: Row) -> list[Row]:
    return [replace(row, theirs=f"{program} {row.theirs}") for row in rows]


_RUNS = [
    Row("run --rm alpine echo hello", out="hello"),
    Row("run --rm -p 127.0.0.1::80 alpine echo up", out="up"),
    Row("run --rm -p 8080:99999 alpine echo up", code=125, err="'99999' is not a port"),
    Row("port old", out=""),
    Row("run --rm alpine:3.20 cat /etc/os-release", has="Alpine"),
    Row(
        "run hello-world", has="Hello from a registry", then=("lamina images -q hello-world | wc -l", "1"), alone=True
    ),
    Row("run --rm -it alpine sh", code=1, err="is (no|not a) terminal"),
    Row("run -t --rm alpine tty", out="/dev/pts/0"),
    Row("run -ti --rm alpine tty", ours="script -qec 'lamina run -ti --rm alpine tty' /dev/null", has="/dev/pts/0"),
    Row("run --rm -i alpine cat < page.html", out="<p>page</p>"),
    Row("run --rm -i alpine wc -l", ours="printf '1\\n2\\n' | lamina run --rm -i alpine wc -l", out="2"),
    Row("run --rm -e DEBUG=1 alpine sh -c 'echo $DEBUG'", out="1"),
    Row("run --rm --env GREETING='hello world' alpine sh -c 'echo $GREETING'", out="hello world"),
    Row("run --rm -e FROM_HOST alpine sh -c 'echo $FROM_HOST'", before="export FROM_HOST=here", out="here"),
    Row("run --rm --env-file env.list alpine sh -c 'echo $COLOR'", out="blue"),
    Row('run --rm -v "$PWD":/src -w /src alpine ls', has=("app.py", "page.html")),
    Row(
        'run --rm -v "$(pwd)/site:/usr/share/nginx/html:ro" alpine touch /usr/share/nginx/html/x',
        code=1,
        err="Read-only",
    ),
    Row("run --rm -v ./site:/site alpine cat /site/index.html", out="<p>site</p>"),
    Row('run --rm -v "$PWD":/out alpine sh -c "echo made > /out/made"', then=("cat made", "made")),
    Row(
        "run --rm -v data:/data alpine touch /data/kept",
        alone=True,
        then=("lamina run --rm -v data:/data alpine ls /data", "kept"),
    ),
    Row('run --rm --mount type=bind,source="$PWD",target=/src,readonly alpine ls /src', has="app.py"),
    Row(
        "run --rm --mount type=volume,src=data,dst=/data alpine touch /data/kept",
        alone=True,
        then=("lamina run --rm -v data:/data alpine ls /data", "kept"),
    ),
    Row(
        "run --rm --mount type=tmpfs,destination=/cache alpine grep /cache /proc/mounts",
        has="^tmpfs /cache",
    ),
    Row("run --rm --tmpfs /run:size=1m alpine df /run", has=r"tmpfs\s+1024\s"),
    Row("run --rm --read-only --tmpfs /tmp alpine sh -c 'touch /tmp/x && touch /x'", code=1, err="/x: Read-only"),
    Row("run --rm -u 1000:1000 alpine id -u", out="1000"),
    Row('run --rm -u "$(id -u):$(id -g)" -v "$PWD":/w -w /w alpine touch mine', then=("stat -c %u mine", "0")),
    Row("run --rm --user nobody alpine whoami", out="nobody"),
    Row("run --rm --group-add 44 alpine id -G", has=r"\b44\b"),
    Row("run --rm --entrypoint sh nginx -c 'echo $NGINX_VERSION'", out="1.27.0"),
    Row("run --rm --entrypoint /bin/echo nginx hi", out="hi"),
    Row("run --rm --workdir /made/here alpine pwd", out="/made/here"),
    Row("run --rm -h box alpine hostname", out="box"),
    Row("run --rm --hostname box alpine hostname", out="box"),
    Row("run --rm --network none alpine ls /sys/class/net", out="lo"),
    Row("run --rm --net=host alpine ls /sys/class/net", has="^lo$"),
    Row("run --rm --add-host db:10.0.0.5 alpine grep db /etc/hosts", has=r"^10\.0\.0\.5\s+db$"),
    Row(
        "run --rm --dns 9.9.9.9 --dns-search example.com alpine cat /etc/resolv.conf",
        has=("^nameserver 9.9.9.9$", "^search example.com$"),
    ),
    Row("run --rm --pids-limit 100 alpine echo few", out="few"),
    Row(
        "run --rm --cap-drop ALL --cap-add NET_BIND_SERVICE alpine grep CapEff /proc/self/status",
        has=r"CapEff:\s+0000000000000400",
    ),
    Row("run --rm --security-opt no-new-privileges:true alpine grep NoNewPrivs /proc/self/status", has=r"\s1$"),
    Row("run --rm --security-opt seccomp=unconfined alpine grep Seccomp: /proc/self/status", has=r"\s0$"),
    Row("run --rm --privileged alpine grep CapEff /proc/self/status", has="ffffff", err="privileged"),
    Row("run --rm --ulimit nofile=1024:2048 alpine sh -c 'ulimit -n'", out="1024"),
    Row("run --rm --shm-size=128m alpine df /dev/shm", has=r"\s131072\s"),
    Row(
        "run --rm --sysctl net.ipv4.ip_unprivileged_port_start=0 alpine cat "
        "/proc/sys/net/ipv4/ip_unprivileged_port_start",
        out="0",
    ),
    Row("run --rm --device /dev/null:/dev/hole alpine ls /dev/hole", out="/dev/hole"),
    Row("run --rm --gpus all alpine true", code=125, err="nvidia|CDI|GPU"),
    Row("run --rm --ipc=host --pid=host alpine sh -c 'ls /proc | grep -c ^[0-9]'", has=r"^([5-9]|\d\d+)$"),
    Row(
        "run --cidfile id alpine true",
        then=('test "$(cat id)" = "$(lamina ps -aq --no-trunc | head -1)" && echo same', "same"),
        alone=True,
    ),
    Row(
        "run --name job --label stage=test alpine true",
        alone=True,
        then=("lamina ps -a --filter label=stage=test --format '{{.Names}}'", "job"),
    ),
    Row("run --name job alpine true", then=("lamina ps -a --format '{{.Names}}'", "job\nold"), alone=True),
    Row(
        "run --name old alpine true",
        code=125,
        err="old",
        then=("lamina ps -a --format '{{.Names}}'", "old"),
        alone=True,
    ),
    Row("run --rm --stop-signal SIGINT alpine true", out=""),
    Row("run --pull=always --rm alpine echo fresh", has="fresh", alone=True),
    Row("run --pull never --rm nosuch true", code=125, err="nosuch"),
    Row("run --rm nosuch/image true", code=125, err="nosuch/image"),
    Row("run --platform linux/amd64 --rm alpine uname -m", has="x86_64"),
    Row("run --rm alpine sh -c 'exit 3'", code=3),
    Row("run --rm alpine nosuchprogram", code=127, err="nosuchprogram"),
    Row("run --rm alpine /etc/os-release", code=126, err="/etc/os-release"),
    Row("container run --rm alpine echo hello", out="hello"),
]

_EXECS = [
    Row("exec web cat /etc/os-release", has="Alpine"),
    Row(
        "exec -it web sh",
        ours="script -qec \"lamina exec -it web sh -c 'echo typed; tty'\" /dev/null",
        has=("typed", "/dev/pts/"),
    ),
    Row("exec -e COLOR=blue web sh -c 'echo $COLOR'", out="blue"),
    Row("exec -w /etc web pwd", out="/etc"),
    Row("exec -u 1000 web id -u", out="1000"),
    Row("exec web sh -c 'exit 4'", code=4),
    Row("exec web nosuchprogram", code=127, err="nosuchprogram"),
    Row("exec -i web sh < script.sh", out="from a script"),
    Row("exec old ls", code=5, err="old.*not run"),
    Row("exec nosuch ls", code=3, err="nosuch"),
    Row("container exec web echo hello", out="hello"),
]

_LISTS = [
    Row("ps", has=("CONTAINER ID", r"\bweb$"), lacks=r"\bold$"),
    Row("ps -a", has=(r"\bweb$", r"\bold$")),
    Row("ps -q", has=r"\A[0-9a-f]{12}\n\Z"),
    Row("ps -aq", has=r"\A([0-9a-f]{12}\n){2}\Z"),
    Row("ps -q --no-trunc", has=r"\A[0-9a-f]{64}\n\Z"),
    Row("ps -a --format '{{.Names}}\\t{{.Image}}'", has=("^web\tnginx$", "^old\talpine$")),
    Row("ps -a --format 'table {{.Names}}\\t{{.Status}}'", has=(r"^NAMES\s+STATUS$", r"^old\s+Exited \(3\)")),
    Row("ps --format '{{json .}}'", has=('"Names":"web"', '"State":"running"')),
    Row("ps -f name=web --format '{{.Names}}'", out="web"),
    Row("ps -a --filter status=exited --format '{{.Names}}'", out="old"),
    Row("ps -a --filter ancestor=alpine --format '{{.Names}}'", out="old"),
    Row("ps -a --filter exited=3 --format '{{.Names}}'", out="old"),
    Row("ps -n 1", has="web", lacks=r"\bold$"),
    Row("ps -l -q", has=r"\A[0-9a-f]{12}\n\Z"),
    Row("ps -as", has=("SIZE", "old")),
    Row("container ls -a", has=(r"\bweb$", r"\bold$")),
    Row("images", has=("REPOSITORY +TAG +IMAGE ID +CREATED +SIZE", r"^nginx +1\.27 ")),
    Row("images -a", has="^<none> +<none> "),
    Row("images -q alpine:3.20", has=r"\A[0-9a-f]{12}\n\Z"),
    Row("images alpine", has=r"^alpine +3\.20", lacks="nginx"),
    Row("images --digests", has=("DIGEST", "sha256:[0-9a-f]{64}")),
    Row("images --no-trunc -q nginx:1.27", has=r"\Asha256:[0-9a-f]{64}\n\Z"),
    Row("images --format '{{.Repository}}:{{.Tag}}'", has=("^alpine:3.20$", "^app:2$")),
    Row("images --format '{{.ID}}: {{.Size}}' nginx:1.27", has=r"^[0-9a-f]{12}: \d"),
    Row("images --format 'table {{.Repository}}\\t{{.Tag}}\\t{{.CreatedSince}}'", has=r"^REPOSITORY +TAG +CREATED$"),
    Row(
        "images --format '{{json .}}' nginx:1.27",
        has=('"Repository":"nginx"', '"Tag":"1.27"', '"CreatedAt":'),
    ),
    Row("images --format json nginx:1.27", has="nginx"),
    Row("images -q -f dangling=true", has=r"\A[0-9a-f]{12}\n\Z"),
    Row("images --filter reference='ngi*' --format '{{.Repository}}'", has=r"\A(nginx\n)+\Z"),
    Row(
        "images --filter label=stage=prod --format '{{.Repository}}:{{.Tag}}'",
        has=("^app:1$", "^app:2$"),
        lacks="ngi",
    ),
    Row("image ls", has=r"^nginx +1\.27 "),
    Row("image ls -q alpine:3.20", has=r"\A[0-9a-f]{12}\n\Z"),
    Row("history nginx", has=("CREATED BY", "COPY site")),
    Row("history --no-trunc nginx", has="sha256:[0-9a-f]{64}"),
    Row("history -q nginx", has=r"\A([0-9a-f]{12}\n)+\Z"),
    Row("history --format '{{.CreatedBy}}' nginx", has="^COPY site"),
    Row("history --human=false nginx", has=r"\s\d{3,}\b"),
    Row("image history nginx", has="COPY site"),
]

_INSPECTS = [
    Row("inspect alpine", has=('"Id": "sha256:', '"RootFS"', '"RepoTags"')),
    Row("inspect -f '{{.Config.Cmd}}' alpine", out="[/bin/sh]"),
    Row("inspect -f '{{json .Config.Env}}' alpine", has=r'^\["PATH='),
    Row("inspect -f '{{json .Config.Labels}}' alpine", out="null"),
    Row("inspect --format='{{.Id}}' nginx", has="^sha256:[0-9a-f]{64}$"),
    Row("inspect --format '{{.Architecture}}/{{.Os}}' alpine", has="/linux$"),
    Row("inspect --format '{{index .RepoTags 0}}' nginx:1.27", has="^nginx:"),
    Row("inspect --format '{{index .RepoDigests 0}}' nginx:1.27", has="^nginx@sha256:"),
    Row("inspect -f '{{range .Config.Env}}{{println .}}{{end}}' nginx", has="^NGINX_VERSION=1.27.0$"),
    Row("inspect -f '{{index .Config.Labels \"stage\"}}' app:1", out="prod"),
    Row(
        "inspect -f '{{range $port, $_ := .Config.ExposedPorts}}{{$port}} {{end}}' nginx",
        out="80/tcp",
    ),
    Row("inspect -f '{{len .RootFS.Layers}}' nginx", out="3"),
    Row("inspect -f '{{if eq .Os \"linux\"}}yes{{else}}no{{end}}' alpine", out="yes"),
    Row("inspect -f '{{printf \"%.19s\" .Id}}' alpine", has="^sha256:[0-9a-f]{12}$"),
    Row("inspect -f '{{.Config.WorkingDir}}' app:1", out="/app"),
    Row("inspect -f '{{with .Config.User}}{{.}}{{else}}root{{end}}' alpine", out="root"),
    Row("inspect alpine nginx", has=("alpine", "nginx")),
    Row("inspect nosuch", code=3, err="nosuch"),
    Row("inspect --type image web", code=3, err="web"),
    Row("inspect web", has=('"Name": "/web"', '"Status": "running"')),
    Row("inspect -f '{{.State.Status}}' web", out="running"),
    Row("inspect -f '{{.State.Running}}' web", out="true"),
    Row("inspect -f '{{.State.ExitCode}}' old", out="3"),
    Row("inspect -f '{{.State.Pid}}' web", has=r"^[1-9]\d*$"),
    Row("inspect -f '{{.Config.Image}}' web", out="nginx"),
    Row("inspect --type container -s old", has='"SizeRw"'),
    Row("image inspect alpine --format '{{.Os}}'", out="linux"),
    Row("container inspect -f '{{.Name}}' web", out="/web"),
    Row("manifest inspect localhost:5000/team/multi:1", has=('"manifests"', '"arm64"')),
]

_FILES = [
    Row("cp old:/root/note .", then=("cat note", "hello")),
    Row("cp web:/etc/os-release release", then=("grep -c Alpine release", "1")),
    Row("cp old:/etc/. etc", then=("ls etc/os-release", "etc/os-release")),
    Row(
        "cp page.html old:/srv/",
        alone=True,
        then=("lamina cp old:/srv/page.html - | tar -xO", "<p>page</p>"),
    ),
    Row("cp page.html web:/tmp/page.html", then=("lamina exec web cat /tmp/page.html", "<p>page</p>")),
    Row("cp -a site web:/tmp", then=("lamina exec web cat /tmp/site/index.html", "<p>site</p>")),
    Row("cp old:/root/note -", ours="lamina cp old:/root/note - | tar -t", out="note"),
    Row(
        "cp - old:/root",
        ours="tar -c page.html | lamina cp - old:/root",
        alone=True,
        then=("lamina cp old:/root/page.html got && cat got", "<p>page</p>"),
    ),
    Row("cp old:/nosuch .", code=3, err="nosuch"),
    Row("container cp old:/root/note .", then=("cat note", "hello")),
    Row("diff old", has="^A /root/note$"),
    Row("container diff old", has="^A /root/note$"),
    Row("commit old mine:1", has="^sha256:", alone=True, then=("lamina cat mine:1 /root/note", "hello")),
    Row(
        "commit -m 'a note' -a 'Me <me@example.com>' old mine:1",
        alone=True,
        then=("lamina inspect -f '{{.Author}}' mine:1 && lamina history mine:1", "(?s)Me <me@example.com>.*a note.*"),
    ),
    Row(
        'commit --change \'CMD ["cat", "/root/note"]\' old mine:1',
        alone=True,
        then=("lamina run --rm mine:1", "hello"),
    ),
    Row(
        "commit -c 'ENV A=b' -c 'EXPOSE 80' old mine:1",
        alone=True,
        then=("lamina run --rm mine:1 sh -c 'echo $A'", "b"),
    ),
    Row("container commit old mine:1", has="^sha256:", alone=True),
    Row("export old > rootfs.tar", then=("tar -tf rootfs.tar | grep note", "root/note")),
    Row("export -o rootfs.tar old", then=("tar -tf rootfs.tar | grep note", "root/note")),
    Row("export old | gzip > rootfs.tgz", then=("tar -tzf rootfs.tgz | grep note", "root/note")),
    Row(
        "import rootfs.tar mine:1",
        before="lamina export old > rootfs.tar",
        alone=True,
        then=("lamina cat mine:1 /root/note", "hello"),
    ),
    Row(
        "import - mine:1",
        ours="lamina export old | lamina import - mine:1",
        alone=True,
        then=("lamina layers mine:1 --format '{{.Layer}}'", "1"),
    ),
    Row(
        'import --change \'CMD ["/bin/echo", "hi"]\' rootfs.tar mine:1',
        before="lamina export old > rootfs.tar",
        alone=True,
        then=("lamina run --rm mine:1", "hi"),
    ),
    Row(
        "save -o images.tar alpine:3.20 nginx:1.27",
        then=("tar -xOf images.tar manifest.json", r'(?s).*"alpine:3\.20".*"nginx:1\.27".*'),
    ),
    Row("save alpine > alpine.tar", then=("tar -tf alpine.tar | grep -c manifest.json", "1")),
    Row(
        "save alpine:3.20 | gzip > alpine.tar.gz",
        then=("lamina --root new load -i alpine.tar.gz", "loaded .*alpine:3.20"),
    ),
    Row(
        "save alpine:3.20 | ssh host docker load",
        ours="lamina save alpine:3.20 | lamina --root other load",
        has="alpine:3.20",
    ),
    Row("image save -o a.tar alpine", then=("tar -tf a.tar | grep -c manifest.json", "1")),
    Row("load -i saved.tar", has="(?i)loaded.*alpine:3.20", alone=True),
    Row("load < saved.tar", has="(?i)loaded.*alpine:3.20", alone=True),
    Row("load --input saved.tar.gz", has="(?i)loaded.*alpine:3.20", alone=True),
    Row("load -q -i saved.tar.xz", has="alpine:3.20", alone=True),
    Row(
        "load -i saved.tar",
        ours="lamina load -i saved.tar && lamina images --digests --format '{{.Digest}}' alpine | sort -u | wc -l",
        before="lamina rmi alpine:3.20",
        has=r"^2$",
        alone=True,
    ),
    Row("image load -i saved.tar", has="(?i)loaded.*alpine:3.20", alone=True),
]

_REGISTRIES = [
    Row("pull hello-world", alone=True, then=("lamina cat hello-world /message", "Hello from a registry")),
    Row("pull -q hello-world", has="hello-world|sha256:", alone=True),
    Row("pull alpine:3.20", err="already here"),
    Row(
        "pull localhost:5000/team/app:1", alone=True, then=("lamina cat localhost:5000/team/app:1 /app/version", "1")
    ),
    Row(
        "pull -a localhost:5000/team/app",
        alone=True,
        then=("lamina images localhost:5000/team/app --format '{{.Tag}}' | sort", "1\n2\nlatest"),
    ),
    Row(
        "pull --all-tags localhost:5000/team/app",
        alone=True,
        then=("lamina images -q localhost:5000/team/app | wc -l", "2"),
    ),
    Row(
        "pull --platform linux/arm64 localhost:5000/team/multi:1",
        alone=True,
        then=("lamina cat --platform linux/arm64 localhost:5000/team/multi:1 /arch", "arm64"),
    ),
    Row(
        "pull localhost:5000/team/app@$DIGEST",
        before="DIGEST=$(lamina digest localhost:5000/team/app:1)",
        alone=True,
        then=("lamina images --digests --format '{{.Digest}}' localhost:5000/team/app | grep -c sha256", "1"),
    ),
    Row("pull localhost:5000/no/such", code=3, err="no/such"),
    Row("pull nosuchhost.invalid/app", code=8, err="nosuchhost.invalid"),
    Row("image pull localhost:5000/team/app:1", alone=True),
    Row(
        "push localhost:5000/pushed/app:1",
        before="lamina tag app:1 localhost:5000/pushed/app:1",
        alone=True,
        then=("lamina tags localhost:5000/pushed/app", "1"),
    ),
    Row(
        "push -q localhost:5000/quiet/app:1",
        before="lamina tag app:1 localhost:5000/quiet/app:1",
        alone=True,
        then=("lamina tags localhost:5000/quiet/app", "1"),
    ),
    Row(
        "push -a localhost:5000/all/app",
        alone=True,
        before="lamina tag app:1 localhost:5000/all/app:1 && lamina tag app:2 localhost:5000/all/app:2",
        then=("lamina tags localhost:5000/all/app", "1\n2"),
    ),
    Row("push nosuch:1", code=3, err="nosuch"),
    Row("push $ID", before="ID=$(lamina images -q app:1)", code=2, err="is an ID"),
    Row(
        "image push localhost:5000/noun/app:1",
        before="lamina tag app:1 localhost:5000/noun/app:1",
        alone=True,
        then=("lamina tags localhost:5000/noun/app", "1"),
    ),
    Row("login -u me -p secret localhost:6000", has="(?i)login succeeded", err="(?i)--password"),
    Row(
        "login -u me --password-stdin localhost:6000",
        ours="echo secret | lamina login -u me --password-stdin localhost:6000",
        has="(?i)login succeeded",
        then=("grep -c localhost:6000 .docker/config.json", "1"),
    ),
    Row("login localhost:6000 -u me -p wrong", code=9, err="localhost:6000"),
    Row(
        "logout localhost:6000",
        before="lamina login -u me -p secret localhost:6000",
        has="(?i)remov",
        then=("grep -c localhost:6000 .docker/config.json", "0"),
    ),
    Row(
        "manifest create localhost:5000/idx/app:1 localhost:5000/team/app:1 localhost:5000/team/multi:1",
        ours="lamina index create docker://localhost:5000/idx/app:1 docker://localhost:5000/team/multi:1",
        has="^sha256:",
        then=("lamina manifest localhost:5000/idx/app:1", "(?s).*arm64.*"),
    ),
    Row(
        "buildx imagetools inspect localhost:5000/team/multi:1",
        ours="lamina manifest localhost:5000/team/multi:1",
        has="arm64",
    ),
    Row(
        "buildx imagetools create -t localhost:5000/new/multi:1 localhost:5000/team/multi:1",
        ours="lamina copy --all docker://localhost:5000/team/multi:1 docker://localhost:5000/new/multi:1",
        then=("lamina tags localhost:5000/new/multi", "1"),
    ),
]

_LABEL = "lamina inspect -f '{{index .Config.Labels \"stage\"}}' mine:1"
_RUNS_VERSION = "lamina run --rm --network none mine:1"
_BUILDS = [
    Row("build -t mine:1 .", alone=True, then=(_RUNS_VERSION, "1")),
    Row("build --build-arg VERSION=2 -t mine:1 .", alone=True, then=(_RUNS_VERSION, "2")),
    Row("build -t mine:1 -f docker/prod.Dockerfile .", alone=True, then=(_RUNS_VERSION, "prod")),
    Row("build --target base -t mine:1 .", alone=True, then=("lamina ls mine:1 /version /app.py 2>&1", "(?s).*no.*")),
    Row("build --no-cache --pull -t mine:1 .", alone=True, then=(_RUNS_VERSION, "1")),
    Row(
        "build -q .",
        alone=True,
        has="^sha256:[0-9a-f]{64}$",
        then=("lamina images -q -f dangling=true | wc -l", "[12]"),
    ),
    Row(
        "build - < Dockerfile.stdin",
        before="printf 'FROM alpine\\nCMD echo stdin\\n' > Dockerfile.stdin",
        alone=True,
    ),
    Row(
        "build -t mine:1 -f- .",
        ours="printf 'FROM alpine\\nCOPY app.py /x\\n' | lamina build -t mine:1 -f- .",
        alone=True,
        then=("lamina ls mine:1 /x", "/x"),
    ),
    Row(
        "build -t mine:1 - < context.tar.gz",
        before="tar czf context.tar.gz Dockerfile app.py",
        alone=True,
        then=(_RUNS_VERSION, "1"),
    ),
    Row(
        "build --secret id=token,src=env.list -t mine:1 -f docker/secret.Dockerfile .",
        alone=True,
        then=("lamina history --no-trunc mine:1 | grep -c blue; lamina cat mine:1 /size", "0\n[1-9][0-9]*"),
    ),
    Row("build --label stage=test -t mine:1 .", alone=True, then=(_LABEL, "test")),
    Row("build --output out .", alone=True, then=("cat out/version", "1")),
    Row("build -o type=tar,dest=out.tar .", alone=True, then=("tar xOf out.tar version", "1")),
    Row("build --progress=plain -t mine:1 .", alone=True, err=r"#\d+ \[base 2/2\] COPY app.py /app.py"),
    Row("build --check .", out="Check complete, no warnings found."),
    Row("build --iidfile id -t mine:1 .", alone=True, then=("cat id | cut -c1-7", "sha256:")),
    Row(
        "buildx build --platform linux/amd64,linux/arm64 -t localhost:5000/built/multi:1 --push .",
        ours="lamina buildx build --platform linux/amd64,linux/arm64 -t localhost:5000/built/multi:1 "
        "--push -f docker/copy.Dockerfile .",
        alone=True,
        then=("lamina manifest localhost:5000/built/multi:1", "(?s).*amd64.*arm64.*"),
    ),
    Row("buildx build --load -t mine:1 .", alone=True, then=(_RUNS_VERSION, "1")),
    Row(
        "buildx build -o type=oci,dest=mine.tar .",
        alone=True,
        then=("tar tf mine.tar | grep index.json", "index.json"),
    ),
    Row("image build -t mine:1 .", alone=True, then=(_RUNS_VERSION, "1")),
    Row("builder prune -f", alone=True, before="lamina build -q .", has="freed: "),
    Row("buildx du", has="build cache"),
    Row("build -t mine:1 nowhere", code=3, err="nowhere"),
    Row("build -f docker/broken.Dockerfile .", code=1, err="exit code: 3", alone=True),
]

_TIDY = [
    Row("tag alpine:3.20 mine:1", alone=True, then=("lamina images mine --format '{{.Tag}}'", "1")),
    Row(
        "tag app:1 localhost:5000/team/new",
        alone=True,
        then=(
            "lamina images --format '{{.Repository}}:{{.Tag}}' localhost:5000/team/new",
            "localhost:5000/team/new:latest",
        ),
    ),
    Row(
        "tag $(docker images -q app:1) mine:1",
        ours="lamina tag $(lamina images -q app:1) mine:1",
        alone=True,
        then=("lamina cat mine:1 /app/version", "1"),
    ),
    Row("tag nosuch mine:1", code=3, err="nosuch"),
    Row("volume create data", alone=True, out="data", then=("lamina volume ls -q", "data")),
    Row("volume ls", alone=True, has="VOLUME NAME"),
    Row("volume rm nosuch", code=3, err="nosuch"),
    Row("image tag alpine mine:1", alone=True, then=("lamina images -q mine | wc -l", "1")),
    Row("rmi app:1", has="(?i)untagged: .*app:1", alone=True, then=("lamina images app --format '{{.Tag}}'", "2")),
    Row("rmi app:1 app:2", alone=True, then=("lamina images -q app", "")),
    Row("rmi -f app:1", alone=True, then=("lamina images app --format '{{.Tag}}'", "2")),
    Row("rmi nosuch", code=3, err="nosuch"),
    Row(
        "rmi $(docker images -q -f dangling=true)",
        ours="lamina rmi $(lamina images -q -f dangling=true)",
        alone=True,
        then=("lamina images -q -f dangling=true", ""),
    ),
    Row(
        "rmi nginx:1.27 nginx:latest",
        has="untagged",
        alone=True,
        web=True,
        then=("lamina exec web cat /etc/os-release | grep -c Alpine; lamina images -q nginx", "1"),
    ),
    Row("image rm app:1", alone=True, then=("lamina images app --format '{{.Tag}}'", "2")),
    Row("image prune -f", alone=True, then=("lamina images -q -f dangling=true", "")),
    Row("image prune -a -f", alone=True, then=("lamina images -q app", "")),
    Row("rm old", out="old", alone=True, then=("lamina ps -aq", "")),
    Row("rm -v old", out="old", alone=True, then=("lamina ps -aq", "")),
    Row("rm web", code=5, err="web.*run", then=("lamina ps --format '{{.Names}}'", "web")),
    Row("rm -f web", out="web", alone=True, web=True, then=("lamina ps -a --format '{{.Names}}'", "old")),
    Row("rm -f nosuch"),
    Row("rm nosuch", code=3, err="nosuch"),
    Row(
        "rm $(docker ps -aq -f status=exited)",
        ours="lamina rm $(lamina ps -aq -f status=exited)",
        has="^[0-9a-f]{12}$",
        alone=True,
    ),
    Row(
        "ps -aq | xargs docker rm -f",
        ours="lamina ps -aq | xargs lamina rm -f",
        alone=True,
        web=True,
        then=("lamina ps -aq", ""),
    ),
    Row("container rm old", out="old", alone=True),
    Row("pause web", out="web", alone=True, web=True, then=("lamina ps", r"(?s).*\(Paused\).*")),
    Row(
        "pause web && docker unpause web",
        ours="lamina pause web && lamina unpause web",
        out="web\nweb",
        alone=True,
        web=True,
    ),
    Row("top web", has=(r"^UID +PID +PPID +C +STIME +TTY +TIME +CMD$", r"\d\d:\d\d:\d\d ")),
    Row("top web -o pid,args", has=r"^PID +COMMAND$"),
    Row("stats --no-stream", has=(r"^CONTAINER ID +NAME +CPU % +MEM USAGE / LIMIT ", r"\bweb\b")),
    Row("stats --no-stream --format '{{.Name}}' web", out="web"),
    Row("update --memory 256m --restart always web", out="web", alone=True, web=True),
    Row("rename web site", out="", alone=True, web=True, then=("lamina ps --format '{{.Names}}'", "site")),
    Row("container prune -f", alone=True, then=("lamina ps -aq", "")),
    Row("stop web", out="web", alone=True, web=True, then=("lamina ps -q", "")),
    Row("stop -t 1 web", out="web", alone=True, web=True, then=("lamina ps -q", "")),
    Row("stop --timeout 5 web", out="web", alone=True, web=True, then=("lamina ps -q", "")),
    Row("stop nosuch", code=3, err="nosuch"),
    Row(
        "kill web",
        out="web",
        alone=True,
        web=True,
        then=('until [ -z "$(lamina ps -q)" ]; do :; done; echo gone', "gone"),
    ),
    Row("kill -s HUP web", out="web", alone=True, web=True, then=("lamina logs web", "(?s)ready.*")),
    Row("kill --signal=SIGTERM web", out="web", alone=True, web=True),
    Row("container stop web", out="web", alone=True, web=True),
]

_ITSELF = [
    Row("info", has=("store", "(?i)runtime|containers")),
    Row("info --format json", has='"version"'),
    Row("system info", has="store"),
    Row("version", has="lamina"),
    Row("version --format '{{json .}}'", has=r'^\{"lamina":'),
    Row("--version", has=r"lamina,? version \d"),
    Row("-v", has=r"lamina,? version \d"),
    Row("help", has=("images", "run")),
    Row("help run", has="--rm"),
    Row("run --help", has=("--rm", "Example")),
    Row("", has=("images", "run")),
    Row("system df", has=("TYPE", "Local Volumes")),
    Row("system df -v", has="alpine"),
    Row("system prune -f", alone=True, then=("lamina images -q -f dangling=true; lamina ps -aq", "")),
    Row("system prune -a -f --volumes", alone=True, then=("lamina images -q; lamina ps -aq", "")),
    Row("images nosuch -q", out=""),
    Row("imagse", code=2, err="images"),
    Row("pul alpine", code=2, err="pull"),
    Row("images --nosuchflag", code=2, err="--nosuchflag"),
]

_ENDED = "lamina run -d --name bg alpine sh -c 'echo one; echo two' > id && lamina wait bg > code"
_UP = "lamina compose up -d > said"
_LIVING = [
    Row(
        "run -d --name bg nginx",
        alone=True,
        has="^[0-9a-f]{64}$",
        then=("lamina ps --format '{{.Names}} {{.State}}'", "bg running"),
    ),
    Row("run -dit --name bg alpine sh", alone=True, then=("lamina exec bg echo here", "here")),
    Row(
        "run -d --restart=always --name bg nginx",
        alone=True,
        then=("lamina inspect -f '{{.HostConfig.RestartPolicy.Name}}' bg", "always"),
    ),
    Row("run -d nosuchimage/x", code=125, err="nosuchimage"),
    Row("run -d --name bg alpine nosuch", alone=True, code=127, err="nosuch"),
    Row("run --rm -d --restart always alpine true", code=125, err="--rm"),
    Row(
        "create --name c alpine echo made",
        alone=True,
        has="^[0-9a-f]{64}$",
        then=("lamina start -a c", "made"),
    ),
    Row("start old", alone=True, out="old", then=("lamina wait old", "3")),
    Row("start -a old", alone=True, code=3),
    Row("start nosuch", code=3, err="nosuch"),
    Row("restart web", alone=True, web=True, out="web", then=("lamina ps --format '{{.Names}}'", "web")),
    Row("restart -t 1 web", alone=True, web=True, out="web"),
    Row("logs web", out="ready"),
    Row("logs --tail 1 web", out="ready"),
    Row("logs -t web", has=r"^\d{4}-\d\d-\d\dT[0-9:.]+Z ready$"),
    Row("logs -f --tail 100 old", out=""),
    Row("logs -f web", ours="(lamina stop web >&2) & lamina logs -f web", alone=True, web=True, out="ready"),
    Row("logs nosuch", code=3, err="nosuch"),
    Row("attach old", code=5, err="does not run"),
    Row(
        "attach bg",
        before="lamina run -di --name bg alpine sh -c 'read line; echo got $line; exit 4' > id",
        ours="echo hello | lamina attach bg",
        alone=True,
        out="got hello",
        code=4,
    ),
    Row("attach --no-stdin bg", before=_ENDED, alone=True, code=5, err="does not run"),
    Row("wait old", out="3"),
    Row("wait old web", ours="(lamina stop -t 5 web >&2) & lamina wait old web", alone=True, web=True, out="3\n0"),
    Row("logs -f bg", before=_ENDED, alone=True, out="one\ntwo"),
    Row("logs -f --since 1h bg", before="lamina run -d --name bg alpine sh -c 'echo a' > id", alone=True, out="a"),
    Row("logs -n 1 bg", before=_ENDED, alone=True, out="two"),
    Row("container logs web", out="ready"),
    Row("container start old", alone=True, out="old"),
    Row("restart nosuch", code=3, err="nosuch"),
    Row("wait nosuch", code=3, err="nosuch"),
    Row("network ls", has="NETWORK ID"),
    Row("network create front", alone=True, then=("lamina network ls -q --filter name=front | wc -l", "1")),
    Row("network rm nosuch", code=3, err="nosuch"),
    Row("network rm front", before="lamina network create front > id", alone=True, out="front"),
    Row(
        "network inspect -f '{{.Name}} {{.Driver}}' front",
        before="lamina network create front > id",
        alone=True,
        out="front bridge",
    ),
    Row("run --rm --network nosuch alpine true", code=125, err="nosuch"),
    Row(
        "run --rm --network front alpine ls /sys/class/net",
        before="lamina network create front > id",
        alone=True,
        has="^eth0$",
    ),
    Row("events --since 1h --until 0s", alone=True, web=True, has="container start .*name=web"),
    Row(
        "events --since 1h --until 0s -f event=die",
        before="lamina run -d --name bg alpine sh -c 'exit 3' > id && lamina wait bg > code",
        alone=True,
        has="container die .*exitCode=3.*name=bg",
        lacks="container start",
    ),
    Row("compose config -q", out=""),
    Row("compose up -d", alone=True, then=("lamina ps --format '{{.Names}} {{.State}}'", "here_site_1 running")),
    Row("compose ps -q", before=_UP, alone=True, has=r"\A[0-9a-f]+\n\Z"),
    Row("compose logs site", before=_UP, alone=True, has="up$"),
    Row("compose exec -T site cat /etc/os-release", before=_UP, alone=True, has="Alpine"),
    Row("compose down", before=_UP, alone=True, then=("lamina ps -aq --filter name=site", "")),
    Row("compose up nosuch", code=1, err="nosuch"),
    Row("exec -d web touch /made", alone=True, web=True, then=("lamina exec web ls /made", "/made")),
]

DOCKER = _of(
    "docker", *_RUNS, *_EXECS, *_LISTS, *_INSPECTS, *_FILES, *_REGISTRIES, *_BUILDS, *_TIDY, *_ITSELF, *_LIVING
)

_REF = "docker://localhost:5000/team/app:1"
SKOPEO = _of(
    "skopeo",
    Row(f"copy {_REF} docker://localhost:5000/skopeo/app:1", then=("lamina tags localhost:5000/skopeo/app", "1")),
    Row(
        "copy --all docker://localhost:5000/team/multi:1 docker://localhost:5000/skopeo/multi:1",
        then=("lamina manifest localhost:5000/skopeo/multi:1", "(?s).*amd64.*arm64.*"),
    ),
    Row(
        "copy --multi-arch all docker://localhost:5000/team/multi:1 oci:all:multi",
        then=("lamina cat oci:all:multi /arch --platform linux/arm64", "arm64"),
    ),
    Row(f"copy {_REF} oci:layout:app", then=("lamina cat oci:layout:app /app/version", "1")),
    Row(f"copy {_REF} oci-archive:app.tar:app", then=("lamina cat oci-archive:app.tar /app/version", "1")),
    Row(
        f"copy {_REF} docker-archive:app.tar:app:1",
        then=("tar -xOf app.tar manifest.json", '(?s).*"(docker.io/library/)?app:1".*'),
    ),
    Row(
        "copy docker-archive:saved.tar docker://localhost:5000/skopeo/loaded:1",
        then=("lamina tags localhost:5000/skopeo/loaded", "1"),
    ),
    Row(
        "copy oci:layout docker://localhost:5000/skopeo/layout:1",
        before=f"lamina copy -q {_REF} oci:layout:app",
        then=("lamina tags localhost:5000/skopeo/layout", "1"),
    ),
    Row(
        f"copy --dest-tls-verify=false {_REF} docker://localhost:5000/skopeo/tls:1",
        then=("lamina tags localhost:5000/skopeo/tls", "1"),
    ),
    Row(
        f"copy --src-tls-verify=false --dest-creds me:secret {_REF} docker://localhost:6000/skopeo/app:1",
        then=("lamina --root none digest --creds me:secret localhost:6000/skopeo/app:1", "sha256:.*"),
    ),
    Row(f"copy --digestfile digest {_REF} oci:layout:app", then=("cat digest", "sha256:[0-9a-f]{64}")),
    Row(
        f"copy --retry-times 3 {_REF} oci:layout:app",
        then=("lamina cat oci:layout:app /app/version", "1"),
    ),
    Row(
        f"copy --preserve-digests {_REF} oci:layout:app",
        then=("lamina cat oci:layout:app /app/version", "1"),
    ),
    Row(f"copy {_REF} dir:there", then=("lamina cat dir:there /app/version", "1")),
    Row(f"copy {_REF} containers-storage:app:1", code=7, err="containers-storage"),
    Row("copy docker-daemon:app:1 oci:layout", code=7, err="docker-daemon"),
    Row(f"inspect {_REF}", has=('"Digest": "sha256:', '"Architecture"', '"Layers"')),
    Row(f"inspect --raw {_REF}", has='"schemaVersion"'),
    Row(f"inspect --config {_REF}", has='"rootfs"'),
    Row(f"inspect --format '{{{{.Digest}}}}' {_REF}", has="^sha256:[0-9a-f]{64}$"),
    Row(f"inspect --format '{{{{.Name}}}} {{{{.Os}}}}' {_REF}", has="team/app.* linux$"),
    Row(f"inspect --no-tags {_REF}", has='"Digest"'),
    Row(
        "inspect --creds me:secret --tls-verify=false docker://localhost:6000/skopeo/own:1",
        before=f"lamina copy -q --dest-creds me:secret {_REF} docker://localhost:6000/skopeo/own:1",
        has='"Digest"',
    ),
    Row("inspect oci:layout:app", before=f"lamina copy -q {_REF} oci:layout:app", has='"Digest"'),
    Row("inspect docker-archive:saved.tar", has='"Architecture"'),
    Row("list-tags docker://localhost:5000/team/app", has=('"Repository": "localhost:5000/team/app"', '"Tags": ')),
    Row(
        "delete docker://localhost:5000/gone/app:1",
        before=f"lamina copy -q {_REF} docker://localhost:5000/gone/app:1",
        then=("lamina tags localhost:5000/gone/app 2>&1 | grep -cx 1", "0"),
    ),
    Row(
        "sync --src docker --dest docker localhost:5000/team/app localhost:5000/synced",
        then=("lamina search localhost:5000 synced", ".*synced/app"),
    ),
    Row(
        "sync docker://localhost:5000/team/app oci:there",
        then=("lamina cat oci:there:localhost:5000/team/app:2 /app/version", "2"),
    ),
    Row(
        "sync --src yaml --dest docker --scoped sync.yaml localhost:5000/mirror",
        then=("lamina search localhost:5000 mirror", ".*mirror/.*/team/app"),
    ),
    Row(
        "sync --src docker --dest dir localhost:5000/team/app there",
        then=("lamina cat dir:there/app:2 /app/version", "2"),
    ),
    Row(
        "sync --src dir --dest docker there localhost:5000/back",
        before="lamina sync -q 'docker://localhost:5000/team/app:*' dir:there",
        then=("lamina search localhost:5000 back", ".*back/app"),
    ),
    Row("login --username me --password secret localhost:6000", has="(?i)login succeeded"),
    Row("logout localhost:6000", before="lamina login -u me -p secret localhost:6000", has="(?i)remov"),
)

_APP = "localhost:5000/team/app:1"
CRANE = _of(
    "crane",
    Row(f"digest {_APP}", has="^sha256:[0-9a-f]{64}$"),
    Row(f"digest --full-ref {_APP}", has="^localhost:5000/team/app@sha256:[0-9a-f]{64}$"),
    Row("digest --platform linux/arm64 localhost:5000/team/multi:1", has="^sha256:[0-9a-f]{64}$"),
    Row("digest --tarball saved.tar", ours="lamina digest docker-archive:saved.tar", has="^sha256:[0-9a-f]{64}$"),
    Row(f"manifest {_APP}", has='"schemaVersion"'),
    Row("manifest --platform linux/arm64 localhost:5000/team/multi:1", has='"layers"', lacks='"manifests"'),
    Row(f"config {_APP}", has='"rootfs"'),
    Row(
        "blob localhost:5000/team/app@$BLOB > layer.tgz",
        before=f"BLOB=$(lamina manifest {_APP} | grep -o 'sha256:[0-9a-f]*' | tail -1)",
        then=("tar -tzf layer.tgz | grep version", "app/version"),
    ),
    Row("ls localhost:5000/team/app", ours="lamina tags localhost:5000/team/app", out="1\n2\nlatest"),
    Row(
        "ls --full-ref localhost:5000/team/app",
        ours="lamina tags localhost:5000/team/app --format '{{.Name}}'",
        has="^localhost:5000/team/app:latest$",
    ),
    Row("catalog localhost:5000", has="^localhost:5000/team/app$"),
    Row(
        f"pull {_APP} app.tar",
        ours=f"lamina save -o app.tar docker://{_APP}",
        then=("tar -xOf app.tar manifest.json", "(?s).*team/app:1.*"),
    ),
    Row(
        f"pull --format=oci {_APP} layout",
        ours=f"lamina copy docker://{_APP} oci:layout",
        then=("lamina cat oci:layout /app/version", "1"),
    ),
    Row(
        "push saved.tar localhost:5000/crane/saved:1",
        ours="lamina copy docker-archive:saved.tar docker://localhost:5000/crane/saved:1",
        then=("lamina tags localhost:5000/crane/saved", "1"),
    ),
    Row(
        "push layout localhost:5000/crane/layout:1",
        before=f"lamina copy -q docker://{_APP} oci:layout",
        ours="lamina copy oci:layout docker://localhost:5000/crane/layout:1",
        then=("lamina tags localhost:5000/crane/layout", "1"),
    ),
    Row(f"export {_APP} - | tar -tf -", ours=f"lamina export docker://{_APP} | tar -tf -", has="app/version"),
    Row(
        f"export {_APP} rootfs.tar",
        ours=f"lamina export docker://{_APP} -o rootfs.tar",
        then=("tar -tf rootfs.tar | grep version", "app/version"),
    ),
    Row(
        f"append -b {_APP} -f files.tar -t localhost:5000/crane/more:1",
        before=f"lamina pull -q {_APP}",
        ours=f"lamina append {_APP} site:/srv/site -t localhost:5000/crane/more:1 && "
        "lamina push localhost:5000/crane/more:1",
        alone=True,
        then=("lamina cat docker://localhost:5000/crane/more:1 /srv/site/index.html", "<p>site</p>"),
    ),
    Row(
        "mutate app:1 --label stage=test -t app:3",
        alone=True,
        then=("lamina inspect -f '{{.Config.Labels.stage}}' app:3", "test"),
    ),
    Row(
        "mutate app:1 --entrypoint /app/main.sh --env A=b --user 1000 -t app:3",
        alone=True,
        then=("lamina inspect -f '{{.Config.Entrypoint}} {{.Config.User}}' app:3", r"\[/app/main.sh\] 1000"),
    ),
    Row("flatten app:1 -t app:flat", alone=True, then=("lamina inspect -f '{{len .RootFS.Layers}}' app:flat", "1")),
    Row(
        "rebase app:1 --old_base alpine:3.20 --new_base alpine:3.21 -t app:3",
        alone=True,
        ours="lamina rebase app:1 --old-base alpine:3.20 --onto alpine:3.21 -t app:3",
        then=("lamina cat app:3 /etc/os-release /app/version", "(?s).*3.21.*1"),
    ),
    Row(
        f"tag {_APP} newest",
        ours=f"lamina copy docker://{_APP} docker://localhost:5000/tagged/app:newest",
        then=("lamina tags localhost:5000/tagged/app", "newest"),
    ),
    Row(
        f"cp {_APP} localhost:5000/crane/app:1",
        ours=f"lamina copy docker://{_APP} docker://localhost:5000/crane/app:1",
        then=("lamina tags localhost:5000/crane/app", "1"),
    ),
    Row(
        "cp -a localhost:5000/team/app localhost:5000/crane/every",
        instead="",
        ours="lamina sync 'docker://localhost:5000/team/app:*' docker://localhost:5000/every",
        then=("lamina tags localhost:5000/every/app", "1\n2\nlatest"),
    ),
    Row(f"validate --remote {_APP}", has=r"\bok$"),
    Row("validate --tarball saved.tar", ours="lamina validate docker-archive:saved.tar", has=r"\bok$"),
    Row(
        "delete localhost:5000/away/app:1",
        before=f"lamina copy -q docker://{_APP} docker://localhost:5000/away/app:1",
        then=("lamina tags localhost:5000/away/app 2>&1 | grep -cx 1", "0"),
    ),
    Row(
        "index append -m localhost:5000/team/app:1 -m localhost:5000/team/multi:1 -t localhost:5000/crane/index:1",
        ours="lamina index create docker://localhost:5000/crane/index:1 docker://localhost:5000/team/multi:1",
        has="^sha256:",
    ),
    Row(
        "auth login localhost:6000 -u me -p secret",
        ours="lamina login localhost:6000 -u me -p secret",
        has="(?i)login succeeded",
        instead="login",
    ),
    Row(
        "registry serve",
        ours="mkfifo said; lamina serve --port 0 > said & read line < said; echo $line; kill $!",
        has="^serving",
    ),
    Row("version", has="lamina"),
)

PODMAN = _of(
    "podman",
    Row("run --rm --userns=keep-id alpine id -u", code=125, err="keep-id is for plain users"),
    Row("image tree nginx", has="COPY site"),
    Row("image mount alpine", ours="ls $(lamina image mount alpine)/etc", has="os-release", alone=True),
    Row("unshare podman image mount alpine", ours="ls $(lamina mount alpine)/etc", has="os-release", alone=True),
    Row("image diff app:2 app:1", ours="lamina diff app:1 app:2", code=1, has="/app/version"),
    Row("image exists alpine", code=0, out=""),
    Row("build -t mine:1", alone=True, then=(_RUNS_VERSION, "1")),
    Row("build --layers --format docker -t mine:1 .", alone=True, then=(_RUNS_VERSION, "1")),
    Row("build --squash --isolation chroot --jobs 2 -t mine:1 .", alone=True, then=(_RUNS_VERSION, "1")),
    Row("pod create --name site", alone=True, then=("lamina pod ps --format '{{.Name}}'", "site")),
    Row(
        "run -d --pod new:site --network none --name bg nginx",
        alone=True,
        then=("lamina ps --filter pod=site --format '{{.Names}}'", "bg"),
    ),
    Row("pod rm --force site", before="lamina pod create --name site", alone=True, then=("lamina pod ps -q", "")),
    Row("generate systemd --name web", has=(r"^\[Service\]$", r"^ExecStart=.*\bweb$")),
    Row("healthcheck run web", code=5, err="no health check"),
    Row("wait --condition running web", out="-1"),
    Row("system check", ours="lamina fsck", has="the store is intact"),
)

DIVE = _of(
    "dive",
    Row("nginx", ours="lamina layers nginx", has="COPY site"),
    Row("--ci nginx", ours="lamina waste nginx --min-efficiency 0.5", has="(?i)efficien"),
    Row(
        "-j report.json nginx",
        ours="lamina waste nginx --format json > report.json",
        then=("grep -c efficiency report.json", r"\d+"),
    ),
)

ROWS = [*DOCKER, *SKOPEO, *CRANE, *PODMAN, *DIVE]

if __name__ == "__main__":
    for program in ("docker", "skopeo", "crane", "podman", "dive"):
        lines = [row for row in ROWS if row.theirs.startswith(program)]
        print(f"{program:<7} {sum(not row.todo for row in lines)} of {len(lines)} lines do what they must")
