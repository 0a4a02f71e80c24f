"""What instructions make of an image's config."""

from __future__ import annotations

from corpus.case import Case, build, on_base

SETTINGS: dict[str, Case] = {
    "CMD in both forms": build('FROM base AS a\nCMD echo  $HOME  &&  ls\nFROM a\nCMD ["echo", "$HOME"]\n'),
    "the last CMD": on_base('CMD a\nCMD ["b"]\nCMD c d\n'),
    "CMD in the shell form": on_base("CMD echo  $HOME  &&  ls\n"),
    "an empty CMD": on_base("CMD []\n"),
    "CMD of nothing": on_base("CMD\n"),
    "ENTRYPOINT in the shell form": on_base("ENTRYPOINT exec top -b\n"),
    "ENTRYPOINT in the exec form": on_base('ENTRYPOINT ["top", "-b"]\n'),
    "ENTRYPOINT drops the base's CMD": build('FROM config\nENTRYPOINT ["x"]\n'),
    "ENTRYPOINT keeps the stage's CMD": build('FROM config\nCMD ["c"]\nENTRYPOINT ["x"]\n'),
    "CMD keeps the base's ENTRYPOINT": build('FROM config\nCMD ["c"]\n'),
    "an empty ENTRYPOINT": build("FROM config\nENTRYPOINT []\n"),
    "ENTRYPOINT of nothing": build("FROM config\nENTRYPOINT\n"),
    "ENTRYPOINT drops the CMD of a stage below": build('FROM base AS a\nCMD ["c"]\nFROM a\nENTRYPOINT ["x"]\n'),
    "SHELL": on_base('SHELL ["/bin/sh", "-x", "-c"]\nCMD a\n'),
    "SHELL of the base": build("FROM config\nCMD a\nRUN echo $0 >/tmp/out\n"),
    "USER": on_base("USER web\nUSER 33:44\n"),
    "USER with variables": on_base("ARG U=web\nUSER $U:${G:-extra}\n"),
    "USER of nobody that is there": on_base("USER nobody-here\nENV A=1\n"),
    "WORKDIR": on_base("WORKDIR /srv/a/b\nWORKDIR c\nWORKDIR ./../d/\nWORKDIR /srv/work\n"),
    "WORKDIR with variables": on_base("ENV D=/srv/x\nWORKDIR $D/${E:-y}\nWORKDIR z\n"),
    "WORKDIR of a user": on_base("USER web\nWORKDIR /srv/new/deep\n"),
    "WORKDIR of what is there": on_base("WORKDIR /srv/work\nWORKDIR /data\nRUN pwd >/out\n"),
    "WORKDIR through a symlink": on_base("WORKDIR /here/new\nWORKDIR /abs\nRUN pwd >/out; touch x\n"),
    "WORKDIR of a file": on_base("WORKDIR /etc/passwd\n", fails=True),
    "WORKDIR of the base": build("FROM config\nWORKDIR sub\n"),
    "WORKDIR in an empty image": build("FROM scratch\nWORKDIR /a/b\n"),
    "WORKDIR of the root": on_base("WORKDIR /\nWORKDIR .\nWORKDIR ..\n"),
    "WORKDIR with blanks": on_base('WORKDIR /srv/with blank\nWORKDIR "/srv/quoted blank"\n'),
    "WORKDIR twice": on_base("WORKDIR /srv/n\nWORKDIR /srv/n\n"),
    "VOLUME": on_base('VOLUME /a /b\nVOLUME ["/c d", "/e"]\nVOLUME f\nVOLUME /data\nRUN touch /data/new\n'),
    "VOLUME of the base": build("FROM config\nVOLUME /more\n"),
    "EXPOSE": on_base("EXPOSE 80\nEXPOSE 443/tcp 53/udp\nEXPOSE 80/tcp 8000-8003\nEXPOSE 9/SCTP 7/TCP\n"),
    "EXPOSE with an address": on_base("EXPOSE 127.0.0.1:80:8080\nEXPOSE 81:8081\n"),
    "STOPSIGNAL": on_base("STOPSIGNAL SIGTERM\nSTOPSIGNAL 9\nSTOPSIGNAL RTMIN+3\n"),
    "STOPSIGNAL with a variable": on_base("ARG S=SIGUSR1\nSTOPSIGNAL $S\n"),
    "HEALTHCHECK": on_base(
        "HEALTHCHECK --interval=5m --timeout=3s --start-period=1m30s --start-interval=500ms --retries=5 CMD curl -f x || exit 1\n"
    ),
    "HEALTHCHECK in the exec form": on_base('HEALTHCHECK CMD ["check", "$A"]\n'),
    "HEALTHCHECK NONE": build("FROM config\nHEALTHCHECK NONE\n"),
    "HEALTHCHECK of the base": build("FROM config\nENV A=1\n"),
    "the last HEALTHCHECK": on_base("HEALTHCHECK --retries=2 CMD a\nHEALTHCHECK --interval=1h CMD b\n"),
    "HEALTHCHECK with a variable as its time": on_base("ARG I=7s\nHEALTHCHECK --interval=$I CMD a\n", fails=True),
    "LABEL": build("FROM config\nLABEL a=1 b=2\nLABEL base=changed\nLABEL a=3\n"),
    "--label": on_base("LABEL a=1 b=2\n", None, *("--label", "b=given", "--label", "c=d e")),
    "MAINTAINER": on_base("MAINTAINER Somebody <some@example.com>\nMAINTAINER  Other  \n"),
    "ENV": build("FROM config\nENV A=1 PATH=/x:$PATH\nENV BASE=changed A=2\n"),
    "ENV in an empty image": build("FROM scratch\nENV A=1 B=$PATH\n"),
    "all settings at once": on_base(
        """
        LABEL a=b
        ENV C=d
        USER web
        WORKDIR /srv/all
        EXPOSE 80
        VOLUME /srv/volume
        STOPSIGNAL SIGINT
        SHELL ["/bin/sh", "-c"]
        HEALTHCHECK CMD true
        ENTRYPOINT ["e"]
        CMD ["c"]
        ONBUILD RUN true
        """
    ),
}
