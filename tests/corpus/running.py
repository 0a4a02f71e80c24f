"""RUN: how programs run, what of their work is kept, mounts."""

from __future__ import annotations

from corpus.case import Case, build, on_base

RIGHTS = "grep -E '^(Uid|Gid|Groups|CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status"

RUNNING: dict[str, Case] = {
    "the shell form": on_base("RUN echo $0 one | tr a-z A-Z >/out && pwd >>/out\n"),
    "the exec form": on_base('RUN ["sh", "-c", "echo $0 $1 $FROM_BASE >/out", "a", "b c"]\n'),
    "the exec form does no expansion": on_base('ARG A=1\nRUN ["touch", "/srv/$A", "/srv/*"]\n'),
    "the environment": on_base(
        "ENV A=1\nARG B=2\nUSER web\nWORKDIR /srv/work\nRUN env | grep -vE '^(HOSTNAME|OTEL_|TRACEPARENT)' | sort >/tmp/out\n"
    ),
    "the environment of root": on_base(
        "RUN env | grep -vE '^(HOSTNAME|OTEL_|TRACEPARENT)' | sort >/out; umask >>/out\n"
    ),
    "an environment without PATH": build(
        "FROM bare\nRUN env | grep -vE '^(HOSTNAME|OTEL_|TRACEPARENT)' | sort >/out\n"
    ),
    "a user": on_base(
        "USER web\nRUN id >/tmp/out; touch /tmp/file\nUSER 1234:5678\nRUN id >/tmp/two\nUSER :44\nRUN id >/tmp/3\n"
    ),
    "a user of a group": on_base("USER web:extra\nRUN id >/tmp/out\nUSER deploy\nRUN id >/tmp/out2\n"),
    "a user that an earlier step made": on_base(
        "RUN echo new:x:77:88::/new:/bin/sh >>/etc/passwd\nUSER new\nRUN id >/tmp/o; echo $HOME >>/tmp/o\n"
    ),
    "rights": on_base(f"RUN {RIGHTS} >/out\nUSER web\nRUN {RIGHTS} >/tmp/out\n"),
    "a working directory": on_base("WORKDIR /srv/new/deep\nRUN pwd >out\nWORKDIR ../other\nRUN pwd >out\n"),
    "another shell": on_base(
        """
        SHELL ["/bin/sh", "-ec"]
        RUN false || true; echo $- >/out
        CMD echo cmd
        ENTRYPOINT entry
        SHELL ["/bin/busybox", "sh", "-c"]
        RUN echo $0 >>/out
        HEALTHCHECK CMD check
        """
    ),
    "another shell and a here-document": on_base('SHELL ["/bin/sh", "-ec"]\nRUN <<EOF\necho $- >/out\nEOF\n'),
    "nothing is changed": on_base("RUN true\nRUN echo x >/tmp/x && rm /tmp/x\nENV A=1\nRUN cat /etc/passwd\n"),
    # what is kept
    "a file is removed": on_base("RUN rm /data/file\nRUN rm -r /srv/work\n"),
    "a directory is replaced": on_base(
        "RUN rm -r /srv/work && echo file >/srv/work\nRUN rm /data/link && mkdir /data/link\n"
    ),
    "a directory is made anew": on_base("RUN rm -r /data && mkdir /data && touch /data/new\n"),
    "removed, then made in a later step": on_base("RUN rm -r /data\nRUN mkdir -m 700 /data && touch /data/file\n"),
    "made and removed in steps": on_base(
        "RUN mkdir /n && touch /n/a /n/b\nRUN rm /n/a\nRUN rm -r /n\nRUN mkdir /n\n"
    ),
    "attributes alone": on_base("RUN chmod 600 /data/file && chown 1:2 /srv && chmod 1700 /srv/work\n"),
    "hard links": on_base("RUN ln /data/file /srv/third && echo a >/srv/a && ln /srv/a /srv/b\n"),
    "hard links to one that is there": on_base("RUN ln /srv/plain /srv/other\n"),
    "a hard link's content is changed": on_base("RUN echo more >>/data/twin\n"),
    "a rename": on_base("RUN mv /srv/plain /srv/renamed && mv /srv/work /srv/moved && mv /data /srv/data\n"),
    "symlinks, pipes, devices": on_base(
        "RUN ln -s a /srv/l && ln -sf /etc/group /data/link && mkfifo /srv/p && mknod /srv/n c 1 3\n"
    ),
    "times": on_base(
        "RUN touch -d '2001-02-03 04:05:06' /srv/old /data/file && mkdir /srv/d && touch -d '2002-02-03 04:05:06' /srv/d\n"
    ),
    "further bits": on_base("RUN touch /srv/s && chmod 6755 /srv/s && mkdir -m 2775 /srv/g && touch /srv/g/in\n"),
    "odd names": on_base(
        "RUN cd /srv && touch 'a b' \"q'q\" .wh $(printf 'n\\nl') $(printf '\\377') && mkdir ä && touch ä/ö\n"
    ),
    "a sparse file": on_base("RUN dd if=/dev/zero of=/srv/sparse bs=1 count=1 seek=1000000 2>/dev/null\n"),
    "files of the sandbox are not kept": on_base(
        "RUN echo 1.2.3.4 x >>/etc/hosts; echo nameserver 1.2.3.4 >>/etc/resolv.conf; ls -A /proc | head -1 >/dev/null\n"
        "RUN grep -c 1.2.3.4 /etc/hosts /etc/resolv.conf >/out; true\n"
    ),
    "a file in /dev is not kept": on_base("RUN touch /dev/x /dev/shm/y; mkdir /run/z; ls /dev >/dev/null\n"),
    "the root's own attributes": on_base("RUN chmod 700 /\n"),
    # options
    "no network": on_base("RUN --network=none ls /sys/class/net >/out; cat /proc/net/dev | wc -l >>/out\n"),
    "the default network by name": on_base("RUN --network=default true && echo 1 >/out\n"),
    "the host's network, allowed": on_base("RUN --network=host echo 1 >/out\n", None, "--allow", "network.host"),
    "no network for all": on_base("RUN ls /sys/class/net >/out\n", None, "--network", "none"),
    "--add-host": on_base("RUN grep example /etc/hosts >/out\n", None, "--add-host", "example.test:1.2.3.4"),
    "--ulimit and --shm-size": on_base(
        "RUN ulimit -n >/out; df -k /dev/shm | tail -1 | awk '{print $2}' >>/out\n",
        None,
        *("--ulimit", "nofile=333:444", "--shm-size", "32m"),
    ),
    "--security=sandbox": on_base("RUN --security=sandbox echo 1 >/out\n"),
    # mounts
    "a bind of the context": on_base(
        "RUN --mount=target=/c cat /c/a /c/d/b >/out; touch /c/x 2>/dev/null; echo $? >>/out\n",
        {"a": b"1", "d/b": b"2"},
    ),
    "a bind of a part of the context": on_base(
        "RUN --mount=type=bind,source=d,dst=/c ls /c >/out\nRUN --mount=type=bind,src=d/b,target=/srv/f cat /srv/f >/two\n",
        {"a": b"1", "d/b": b"2"},
    ),
    "a bind that may be written, whose changes are lost": on_base(
        "RUN --mount=target=/c,rw echo 2 >/c/a && cat /c/a >/out\nRUN --mount=target=/c cat /c/a >>/out\n",
        {"a": b"1\n"},
    ),
    "a bind of a stage": build(
        "FROM base AS a\nRUN echo 1 >/one\nFROM base\nRUN --mount=from=a,target=/a cat /a/one >/out && ls /a/data >>/out\n"
    ),
    "a bind of an image": on_base(
        "RUN --mount=from=base,source=/data,target=/m ls -ln /m | awk '{print $1,$3,$4,$9}' >/out\n"
    ),
    "a bind of a named context": on_base(
        "RUN --mount=from=extra,target=/m cat /m/x >/out\n", None, contexts={"extra": {"x": b"1"}}
    ),
    "a bind on a directory that is there": on_base(
        "RUN --mount=target=/data ls /data >/srv/out\nRUN ls /data >>/srv/out\n", {"a": b"1"}
    ),
    "a bind at a relative place": on_base("WORKDIR /srv\nRUN --mount=target=c cat c/a >out\n", {"a": b"1"}),
    "a mount's target with variables": on_base(
        "ARG D=/c\nARG S=d\nRUN --mount=type=bind,source=$S,target=${D}/x ls /c/x >/out\n", {"d/b": b"2"}
    ),
    "a cache keeps nothing in the image": on_base(
        "RUN --mount=type=cache,target=/cache echo 1 >/cache/file; ls /cache >/out\nRUN ls -d /cache >>/out 2>&1; true\n"
    ),
    "a cache is kept from step to step": on_base(
        "RUN --mount=type=cache,id={unique},target=/c echo 1 >/c/file\nRUN --mount=type=cache,id={unique},target=/d cat /d/file >/out\n"
    ),
    "a cache with owner and mode": on_base(
        "RUN --mount=type=cache,id={unique},target=/c,uid=33,gid=44,mode=0700 stat -c '%a %u:%g' /c >/out\n"
        "USER web\nRUN --mount=type=cache,id={unique},target=/c,uid=33,gid=44,mode=0700 touch /c/x && ls /c >/tmp/out\n"
    ),
    "a cache begins as a stage's directory": build(
        "FROM base AS a\nFROM base\n"
        "RUN --mount=type=cache,id={unique},from=a,source=/data,target=/c ls -ln /c | awk '{print $1,$3,$4,$9}' >/out\n"
    ),
    "caches that are shared in three ways": on_base(
        "RUN --mount=type=cache,id={unique},target=/c,sharing=locked touch /c/1\n"
        "RUN --mount=type=cache,id={unique},target=/c,sharing=locked ls /c >/out\n"
        "RUN --mount=type=cache,id={unique}p,target=/c,sharing=private touch /c/1; ls /c >>/out\n"
    ),
    "a read-only cache": on_base(
        "RUN --mount=type=cache,id={unique},target=/c,ro touch /c/1 2>/dev/null; echo $? >/out\n"
    ),
    "a tmpfs": on_base(
        "RUN --mount=type=tmpfs,target=/t,size=1048576 df -k /t | tail -1 | awk '{print $1,$2}' >/out; touch /t/x\nRUN ls -d /t >>/out 2>&1; true\n"
    ),
    "a tmpfs on a directory that is there": on_base(
        "RUN --mount=type=tmpfs,target=/data ls /data >/out; touch /data/x\n"
    ),
    "a secret": on_base(
        "RUN --mount=type=secret,id=key cat /run/secrets/key | tr a-z A-Z >/out; stat -c '%a %u:%g' /run/secrets/key >>/out\n"
        "RUN ls -A /run >>/out\n",
        None,
        *("--secret", "id=key,src={d}/beside/key"),
        beside={"key": b"abc\n"},
    ),
    "a secret's place, owner and mode": on_base(
        "RUN --mount=type=secret,id=key,target=/etc/key,uid=33,gid=44,mode=0440 stat -c '%a %u:%g %s' /etc/key >/out\n"
        "RUN --mount=type=secret,id=key,dst=relative/key cat relative/key | wc -c >>/out\nRUN ls /relative >>/out 2>&1; true\n",
        None,
        *("--secret", "id=key,src={d}/beside/key"),
        beside={"key": b"abc\n"},
    ),
    "a secret as a variable": on_base(
        "RUN --mount=type=secret,id=key,env=KEY echo ${#KEY} >/out; ls /run/secrets >>/out 2>&1; true\n"
        "RUN --mount=type=secret,id=key,env=KEY,target=/key echo ${#KEY} >>/out; wc -c </key >>/out\n",
        None,
        *("--secret", "id=key,src={d}/beside/key"),
        beside={"key": b"abc"},
    ),
    "a secret that is not there": on_base(
        "RUN --mount=type=secret,id=key ls /run/secrets/key 2>/dev/null; echo $? >/out\n"
    ),
    "a secret that must be there": on_base("RUN --mount=type=secret,id=key,required=true true\n", fails=True),
    "an agent": on_base(
        "RUN --mount=type=ssh test -S $SSH_AUTH_SOCK && echo $SSH_AUTH_SOCK >/out; stat -c '%a %u:%g' $SSH_AUTH_SOCK >>/out\n"
        "RUN echo [$SSH_AUTH_SOCK] >>/out\n",
        None,
        *("--ssh", "default={agent}"),
    ),
    "an agent that is not there": on_base("RUN --mount=type=ssh echo [$SSH_AUTH_SOCK] >/out\n"),
    "an agent that must be there": on_base("RUN --mount=type=ssh,required true\n", fails=True),
    "several mounts": on_base(
        "RUN --mount=type=bind,target=/c --mount=type=tmpfs,target=/c/t --mount=type=cache,id={unique},target=/c/k ls /c >/out\n",
        {"a": b"1", "t/x": b"2", "k/y": b"3"},
    ),
    "mount points in directories that are there": on_base(
        "RUN --mount=type=tmpfs,target=/srv/m/n true\nRUN --mount=type=bind,target=/data/m true\nRUN find /srv /data | sort >/tmp/out\n"
    ),
    "a mount and a here-document": on_base(
        """
        RUN --mount=type=bind,target=/c <<EOF
        cat /c/a >/out
        EOF
        """,
        {"a": b"1"},
    ),
    # failures
    "an exit code": on_base("RUN exit 7\n", fails=True),
    "a program that is not there": on_base('RUN ["/nothing"]\n', fails=True),
    "a command line of nothing": on_base("RUN\n"),
    "RUN without a shell": build("FROM scratch\nRUN true\n", fails=True),
    "a user that is not there": on_base("USER nobody-here\nRUN true\n", fails=True),
    "the host's network, not allowed": on_base("RUN --network=host true\n", fails=True),
    "--security=insecure, not allowed": on_base("RUN --security=insecure true\n", fails=True),
    "a step after one that fails": on_base("RUN false\nRUN true\n", fails=True),
    "a bind of what is not there": on_base("RUN --mount=source=nothing,target=/c true\n", fails=True),
}
