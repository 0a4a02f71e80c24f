"""ARG, ENV, and the forms of variables."""

from __future__ import annotations

from corpus.case import Case, build, on_base

FORMS = """
ENV set=value empty= path=/usr/local/lib/x.tar.gz words="a b"
LABEL plain=$set braces=${set}x absent=[$nothing] escaped=\\$set
LABEL default=${nothing:-d} default-set=${set:-d} default-empty=${empty:-d} default-nothing=${nothing-d} default-e=${empty-d}
LABEL other=${set:+o} other-absent=${nothing:+o} other-empty=${empty:+o} other-e=${empty+o} other-n=${nothing+o}
LABEL "required"="${set:?must be}" required2=${empty?must}
LABEL nested=${nothing:-${set}} nested2=${nothing:-${empty:-$words}}
LABEL prefix=${path#*/} prefix-long=${path##*/} suffix=${path%.*} suffix-long=${path%%.*} question=${set#?}
LABEL replace=${path/l/L} replace-all=${path//l/L} pattern=${path//l*b/X} slash=${path//\\//_}
LABEL quoted="${words}" single='${words}' half=${words}"$set" tail=$set-$set.x colon=$set:$empty
"""

VARIABLES: dict[str, Case] = {
    "the forms of variables": on_base(FORMS),
    "where variables are expanded": on_base(
        """
        ENV D=/srv/made N=33 P=8080 S=SIGUSR1 W="one two"
        WORKDIR $D/work
        COPY --chown=$N:$N --chmod=6$nothing${N:+00} $nothing${nothing:-a} $D/
        ADD a ${D}/added
        USER $N:${N}
        EXPOSE $P ${P}/udp
        VOLUME $D/volume
        STOPSIGNAL $S
        LABEL $N=$W "x$N"="$W"
        ENV $N=x Y=$W
        CMD echo $W
        ENTRYPOINT ["$D", "${P}"]
        HEALTHCHECK CMD $W
        """,
        {"a": b"1"},
    ),
    "a default behind text in EXPOSE": on_base("EXPOSE 80${PORT:-80}\n"),
    "ARG has a default, and a value": on_base(
        "ARG A=1\nARG B=2\nARG C\nARG D=\nRUN echo $A,$B,$C,$D,${C-unset} >/out\n", None, "--build-arg", "B=given"
    ),
    "ARG is not in the image": on_base("ARG A=1\nENV B=$A\nRUN env | grep -E '^(A|B)=' | sort >/out\n"),
    "ENV wins over ARG": on_base("ENV A=env\nARG A=arg\nRUN echo $A >/out\nENV B=$A\n", None, "--build-arg", "A=x"),
    "ARG after ENV of the base": on_base("ARG FROM_BASE=other\nENV B=$FROM_BASE\nRUN echo $FROM_BASE >/out\n"),
    "ARG sees those above": on_base("ARG A=1\nARG B=${A}2\nARG C=$B-$D\nLABEL c=$C\n"),
    "ARG is known from its line on": on_base("ENV B=[$A]\nARG A=1\nENV C=[$A]\n", None, "--build-arg", "A=2"),
    "ARG again": on_base("ARG A=1\nENV B=$A\nARG A=2\nENV C=$A\nARG A\nENV D=$A\n"),
    "ARG before FROM": build(
        """
        ARG IMAGE=bas VERSION=1
        ARG SUFFIX=e
        FROM ${IMAGE}${SUFFIX} AS one
        ENV A=[$VERSION]
        ARG VERSION
        ENV B=[$VERSION]
        FROM one
        ARG SUFFIX=other
        ENV C=[$VERSION][$SUFFIX]
        """
    ),
    "ARG before FROM, given": build(
        "ARG IMAGE=nowhere\nFROM $IMAGE\nARG IMAGE\nENV A=$IMAGE\n", None, "--build-arg", "IMAGE=base"
    ),
    "ARG of a stage reaches those built on it": build(
        """
        FROM base AS one
        ARG A=1
        ENV B=$A
        FROM one AS two
        RUN echo "[$A][$B]" >/out
        ENV C=[$A]
        """
    ),
    "ARG does not reach other stages": build(
        """
        FROM base AS one
        ARG A=1
        FROM base
        ENV C=[$A]
        COPY --from=one /srv/work /srv/copy
        """,
        None,
        *("--build-arg", "A=2"),
    ),
    "ARG that nobody declares": on_base("ENV A=[$X]\nRUN echo [$X] >/out\n", None, "--build-arg", "X=1"),
    "proxies are known and in no history": on_base(
        "RUN echo $HTTP_PROXY,$no_proxy >/out\nENV A=[$HTTP_PROXY]\n",
        None,
        *("--build-arg", "HTTP_PROXY=http://u:p@proxy.invalid:1", "--build-arg", "no_proxy=*"),
    ),
    "proxies that are declared": on_base(
        "ARG HTTP_PROXY\nRUN echo $HTTP_PROXY >/out\nENV A=[$HTTP_PROXY]\n",
        None,
        *("--build-arg", "HTTP_PROXY=http://proxy.invalid:1"),
    ),
    "platforms": build(
        """
        FROM --platform=$BUILDPLATFORM base
        ARG BUILDPLATFORM
        ARG BUILDOS
        ARG BUILDARCH
        ARG BUILDVARIANT
        ARG TARGETPLATFORM
        ARG TARGETOS
        ARG TARGETARCH
        ARG TARGETVARIANT
        ARG TARGETSTAGE
        RUN echo $BUILDPLATFORM $BUILDOS $BUILDARCH [$BUILDVARIANT] >/out
        RUN echo $TARGETPLATFORM $TARGETOS $TARGETARCH [$TARGETVARIANT] $TARGETSTAGE >>/out
        """
    ),
    "platforms that are not declared": on_base("ENV A=[$TARGETARCH]\nRUN echo [$TARGETARCH] >/out\n"),
    "a platform ARG with a default": on_base("ARG TARGETARCH=other\nENV A=$TARGETARCH\n"),
    "the stage's name as an ARG": build(
        "FROM base AS one\nARG TARGETSTAGE\nENV A=$TARGETSTAGE\nFROM one AS two\nARG TARGETSTAGE\nENV B=$TARGETSTAGE\n",
        None,
        *("--target", "two"),
    ),
    "build arguments in the history": on_base(
        'ARG B=2\nRUN true\nARG A=1\nRUN echo x >/x\nENV B=3\nRUN echo y >/y\nRUN ["touch", "/z"]\n',
        None,
        *("--build-arg", "A=a b"),
    ),
    "variables of the base": on_base("ENV B=$FROM_BASE PATH=$PATH:/more\nRUN echo $PATH >/out\n"),
    "variables in names of files": on_base(
        'ENV EXT=txt\nCOPY *.${EXT} $DIR/srv/\nCOPY ["two.$EXT", "/srv/${EXT}"]\n',
        {"one.txt": b"1", "two.txt": b"2", "three.md": b"3"},
    ),
    "a variable with a blank is one word": on_base("ENV A='a b'\nCOPY $A /srv/\nWORKDIR /srv/d/$A\n", {"a b": b"1"}),
    "EXPOSE and VOLUME of variables with blanks": on_base("ENV A='80 81' B='/x /y'\nEXPOSE $A\nVOLUME $B\n"),
    "an escaped dollar": on_base("ENV A=\\$HOME B='\\$HOME' C=\"\\$HOME\" D=\\\\$PATH\nLABEL a=\\${A}\n"),
    "a dollar alone": on_base('ENV A=$ B=a$ C="$" D=$1 E=$- F=$$\n'),
    "SOURCE_DATE_EPOCH": on_base(
        "COPY a /a\nRUN echo 1 >/b && touch -d '2020-01-01 00:00:00' /c\nENV A=1\n",
        {"a": b"1"},
        *("--build-arg", "SOURCE_DATE_EPOCH=1600000000"),
    ),
}
