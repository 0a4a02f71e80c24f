"""Dockerfiles, one or more for each instruction, option and odd rule of the Dockerfile reference. Each is built by
lamina and by other builders, and what they made is compared: ``tests/interop/test_build.py``."""

from __future__ import annotations

from corpus.adding import ADDING
from corpus.case import Case
from corpus.copying import COPYING
from corpus.ignoring import IGNORING
from corpus.language import LANGUAGE
from corpus.refusing import REFUSING
from corpus.running import RUNNING
from corpus.settings import SETTINGS
from corpus.stages import STAGES
from corpus.variables import VARIABLES

FAMILIES: dict[str, dict[str, Case]] = {
    "language": LANGUAGE,
    "variables": VARIABLES,
    "stages": STAGES,
    "copying": COPYING,
    "adding": ADDING,
    "ignoring": IGNORING,
    "running": RUNNING,
    "settings": SETTINGS,
    "refusing": REFUSING,
}
CASES: dict[str, Case] = {
    f"{family}: {name}": case for family, cases in FAMILIES.items() for name, case in cases.items()
}
OLD: dict[str, str] = {
    "language": "instructions in any case; carriage returns; ENV with quotes; ENV in the old form; LABEL with quotes; "
    "words that need quotes in JSON; comments and empty lines; blanks and tabs; a directive after a comment is a comment",
    "variables": "ARG has a default, and a value; ARG is not in the image; ARG sees those above; ENV wins over ARG; "
    "ARG is known from its line on; ARG of a stage reaches those built on it; variables in names of files",
    "stages": "two stages; a stage by its number; a target; ONBUILD is written down; ONBUILD of the base runs; "
    "ONBUILD does not reach grandchildren; copies between stages keep what files are",
    "copying": "a file to a new name; a file into a directory that is missing; a file over a file with two names; "
    "a relative target; a directory; a directory with a slash; a directory onto one that is there; the whole context; "
    "two files; modes and times; hard links; symlinks in a directory; a symlink to a file; a symlink to a directory; "
    "a target that is a symlink to a directory; a target below a symlink that leads out; a star; "
    "question marks and sets; a pattern that fits nothing; --chown of numbers; --chown of names; "
    "--chown makes parents; --chown on a directory that is there; USER does not change who owns copies",
    "adding": "ADD of an archive; ADD of other compressions; ADD knows archives by their content; "
    "ADD of an archive onto what is there; ADD --chown of an archive; ADD of an address",
    "ignoring": "names; two stars; exceptions; all but some; an exception below a directory, taken back; "
    "the Dockerfile and the file itself; dots",
    "settings": "CMD in both forms; ENTRYPOINT drops the base's CMD; ENTRYPOINT keeps the stage's CMD; "
    "CMD keeps the base's ENTRYPOINT; USER; WORKDIR; WORKDIR of a user; VOLUME; EXPOSE; HEALTHCHECK of the base; LABEL; "
    "MAINTAINER; STOPSIGNAL",
    "refusing": "an instruction that is none; COPY of what is not there; COPY of a directory onto a file",
}
OLD_CASES = [f"{family}: {name}" for family, names in OLD.items() for name in names.split("; ")]
"""Those that builders before BuildKit know."""
