"""FROM, several stages, ONBUILD."""

from __future__ import annotations

from corpus.case import Case, build, on_base

STAGES: dict[str, Case] = {
    "FROM alone": build("FROM base\n"),
    "FROM scratch": build("FROM scratch\nCOPY a /a\n", {"a": b"1"}),
    "FROM scratch with settings only": build("FROM scratch\nENV A=1\nLABEL b=2\n"),
    "a base with all settings": build("FROM config\nRUN id -u >/tmp/out; pwd >>/tmp/out\n"),
    "two stages": build(
        """
        FROM base AS build
        WORKDIR /src
        COPY a .
        RUN cat a a >b
        FROM scratch
        COPY --from=build /src/b /b
        """,
        {"a": b"1"},
    ),
    "a stage by its number": build(
        "FROM base\nRUN echo 1 >/one\nFROM base\nRUN echo 2 >/two\nFROM scratch\n"
        "COPY --from=0 /one /\nCOPY --from=1 /two /\n"
    ),
    "a stage on a stage": build("FROM base AS a\nENV A=1\nUSER web\nFROM a AS b\nENV B=$A\nFROM b\nLABEL c=d\n"),
    "names of stages in any case": build(
        "FROM base as Build\nRUN echo 1 >/one\nFROM scratch\nCOPY --from=BUILD /one /\n"
    ),
    "the last of two stages of one name": build(
        "FROM base AS x\nRUN echo 1 >/one\nFROM base AS x\nRUN echo 2 >/one\nFROM scratch\nCOPY --from=x /one /\n"
    ),
    "a target": build("FROM base AS a\nENV A=1\nFROM a AS b\nENV B=1\nFROM b\nENV C=1\n", None, "--target", "b"),
    "a target in another case": build("FROM base AS a\nENV A=1\nFROM a\nENV C=1\n", None, "--target", "A"),
    "a stage that nobody needs does not run": build("FROM base AS bad\nRUN false\nFROM base\nENV A=1\n"),
    "stages with one step in common": build(
        """
        FROM base AS common
        RUN echo common >/common
        FROM common AS left
        RUN echo left >/side
        FROM common AS right
        RUN echo right >/side
        FROM scratch
        COPY --from=left /common /side /left/
        COPY --from=right /side /right/
        """
    ),
    "COPY from an image": build("FROM scratch\nCOPY --from=base /data/file /etc/passwd /x/\n"),
    "a named context instead of an image": build(
        "FROM scratch\nCOPY --from=extra one /one\n", None, contexts={"extra": {"one": b"1"}}
    ),
    "a named context instead of a stage": build(
        "FROM base AS extra\nRUN false\nFROM scratch\nCOPY --from=extra one /one\n",
        None,
        contexts={"extra": {"one": b"1"}},
    ),
    "a named context as a base": build(
        "FROM extra\nCOPY a /a\n", {"a": b"1"}, contexts={"extra": {"one": b"1", "dir/two": b"2"}}
    ),
    "a named context with its own .dockerignore": build(
        "FROM scratch\nCOPY --from=extra . /\n",
        {".dockerignore": b"b\n"},
        contexts={"extra": {".dockerignore": b"a\n", "a": b"1", "b": b"2"}},
    ),
    "FROM for the build's platform": build("FROM --platform=$BUILDPLATFORM base\nENV A=1\n"),
    "FROM for the target's platform": build("ARG P=linux\nFROM --platform=$P/amd64 base\nENV A=1\n"),
    "ONBUILD is written down": on_base(
        'ONBUILD ENV A=1\nONBUILD COPY --chown=1 . /app\nonbuild run echo $A >/x\nONBUILD CMD ["a"]\n'
    ),
    "ONBUILD of the base runs": build("FROM onbuild\nENV LAST=1\n", {"a": b"1"}),
    "ONBUILD of a stage runs": build(
        """
        FROM base AS one
        ONBUILD RUN echo triggered >/t
        ONBUILD ENV T=1
        FROM one
        RUN cat /t >/u
        """
    ),
    "ONBUILD does not reach grandchildren": build("FROM onbuild AS one\nFROM one\nENV A=1\n", {"a": b"1"}),
    "ONBUILD with a copy from a stage": build(
        "FROM base AS src\nRUN echo 1 >/one\nFROM base AS trigger\nONBUILD COPY --from=src /one /one\nFROM trigger\n"
    ),
    "a stage copies from one below": build(
        """
        FROM base AS a
        RUN echo a >/a
        FROM a AS b
        RUN rm /a && echo b >/b
        FROM a
        COPY --from=b /b /data /srv/
        COPY --from=a /data/twin /srv/twin
        """
    ),
    "copies between stages keep what files are": build(
        """
        FROM base AS a
        RUN mkdir -p /d/sub && cd /d && echo 1 >one && ln one two && ln -s one three && ln -s /etc/passwd abs \\
            && mkfifo pipe && mkdir sticky && chmod 1777 sticky && chown 33:44 one sub && chmod 4755 one \\
            && touch -d '2001-02-03 04:05:06' one sub
        FROM scratch
        COPY --from=a /d /copy
        """
    ),
    "copies between stages never see what is removed": build(
        """
        FROM base AS a
        RUN rm /data/file && rm -r /srv/work && mkdir /srv/work && echo new >/srv/work/new
        FROM scratch
        COPY --from=a /data /data
        COPY --from=a /srv /srv
        """
    ),
}
