"""What `build --check` reports (pure): BuildKit's rules, under its names.

A rule is skipped by ``# check=skip=Rule`` at the top of the file, or right above an instruction for that one only.
Rules that are experimental in BuildKit (``InvalidDefinitionDescription``) must be asked for. With ``error=true`` a
finding makes the build fail.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lamina.build import instructions as i
from lamina.build.addresses import git_repository, is_address
from lamina.build.dockerfile.arguments import declare, platform_arguments
from lamina.build.dockerfile.ports import split_port
from lamina.build.dockerfile.syntax import parse_instruction
from lamina.build.dockerfile.words import SPACES, Total, document_expansion, expansion
from lamina.build.errors import Finding
from lamina.build.planning.image_settings import PATH, ImageSettings
from lamina.build.run_mounts import run_mounts
from lamina.errors import LaminaError, UsageError
from lamina.spec.platform import Platform
from lamina.spec.reference import Reference
from lamina.text import clean

if TYPE_CHECKING:
    from lamina.spec.image_config import ImageConfig

RULES = {
    "StageNameCasing": "Stage names should be lower case",
    "FromAsCasing": "AS should be written in the case of FROM",
    "NoEmptyContinuation": "An instruction should not contain empty lines",
    "ConsistentInstructionCasing": "All instructions should be written in the same case",
    "DuplicateStageName": "Stage names should be unique",
    "ReservedStageName": "A stage should not be named scratch or context",
    "JSONArgsRecommended": "A JSON list for CMD and ENTRYPOINT lets the program get signals",
    "MaintainerDeprecated": "MAINTAINER is deprecated: use a label",
    "UndefinedArgInFrom": "FROM should use arguments that are declared",
    "WorkdirRelativePath": "A relative WORKDIR depends on the base image",
    "UndefinedVar": "Variables should be defined before their use",
    "MultipleInstructionsDisallowed": "Only the last CMD, ENTRYPOINT or HEALTHCHECK of a stage counts",
    "LegacyKeyValueFormat": "ENV and LABEL should be written with =",
    "InvalidBaseImagePlatform": "The base image should be for the platform of the build",
    "RedundantTargetPlatform": "The platform $TARGETPLATFORM is the default in FROM",
    "SecretsUsedInArgOrEnv": "ARG and ENV should not hold secrets: they stay in the image",
    "InvalidDefaultArgInFrom": "FROM should have a valid image without build arguments",
    "FromPlatformFlagConstDisallowed": "The platform of FROM should not be constant",
    "CopyIgnoredFile": "COPY and ADD should not name what the ignore file excludes",
    "InvalidDefinitionDescription": "A comment right above a stage or an ARG should begin with its name",
    "ExposeProtoCasing": "The protocol in EXPOSE should be lower case",
    "ExposeInvalidFormat": "EXPOSE should not have addresses or ports of the host",
}
"""Name and description of each rule."""
EXPERIMENTAL = frozenset({"InvalidDefinitionDescription"})
VARIABLE = "BUILDKIT_DOCKERFILE_CHECK"
"""The build argument that replaces the directive ``check``."""

_SECRET = re.compile(r"(?i)(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)")
_PUBLIC = re.compile(r"(?i)(?:_|^)public(?:_|$)")
_OPTION = re.compile(rf"check[{SPACES}]*=[{SPACES}]*(.+)", re.IGNORECASE)
_NOT_IN_ENV = ("BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE")
_NEAR = 3
_LONGEST = 100
_WITH_HINTS = 100
_NAMES = 1000
_SCRATCH = "scratch"

ConfigOf = Callable[[str, Platform], "ImageConfig | None"]
"""The config of a base image; None: it is not known, so its variables can't be checked."""


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """Which rules count. ``is_error``: a finding makes the build fail."""

    skipped: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    is_error: bool = False

    @classmethod
    def parse(cls, text: str) -> CheckOptions:
        """Parse ``skip=A,B;error=true;experimental=all``. Raises UsageError."""
        found = cls()
        for part in text.strip(SPACES).split(";", 2) if text.strip(SPACES) else ():
            key, equals, value = part.partition("=")
            key, value = key.strip(SPACES), value.strip(SPACES)
            if key in ("skip", "experimental") and equals:
                names = frozenset(RULES if value == "all" else (name.strip(SPACES) for name in value.split(",")))
                found = replace(found, skipped=names) if key == "skip" else replace(found, experimental=names)
            elif key == "error" and value in ("1", "t", "T", "TRUE", "true", "True"):
                found = replace(found, is_error=True)
            elif key == "error" and value in ("0", "f", "F", "FALSE", "false", "False"):
                found = replace(found, is_error=False)
            else:
                raise UsageError(
                    f"not an option of check: {part!r:.100}", hint="write skip=RULE,RULE;error=true, or skip=all"
                )
        return found

    def counts(self, rule: str) -> bool:
        return rule in self.experimental if rule in EXPERIMENTAL else rule not in self.skipped

    def with_comments(self, comments: Iterable[str]) -> CheckOptions:
        """The options for the instruction below these comments."""
        for comment in comments:
            found = _OPTION.fullmatch(comment)
            if found is not None:
                try:
                    other = CheckOptions.parse(found[1].partition(" ")[0])
                except UsageError:
                    break
                skipped, experimental = self.skipped | other.skipped, self.experimental | other.experimental
                return replace(self, skipped=skipped, experimental=experimental)
        return self


@dataclass(frozen=True, slots=True)
class Checked:
    """``fails``: there are findings, and they count as errors."""

    findings: tuple[Finding, ...]
    fails: bool


def check(
    dockerfile: i.Dockerfile,
    *,
    arguments: Mapping[str, str] | None = None,
    target: str = "",
    platform: Platform | None = None,
    build_platform: Platform | None = None,
    config_of: ConfigOf | None = None,
    is_ignored: Callable[[str], bool] | None = None,
) -> Checked:
    """Check all stages. ``arguments``: those of the call. ``platform``: None is the host's. ``is_ignored``: whether
    the ignore file excludes a path; None where there is none, or it has exceptions.

    What a build would refuse (a bad word, an unknown image) is left for the build to report. Raises UsageError (bad
    options of check)."""
    host = build_platform or Platform.host()
    checker = _Checker(dockerfile, arguments or {}, target, platform or host, host, config_of, is_ignored)
    checker.run()
    findings = sorted(dict.fromkeys(checker.findings), key=lambda one: (one.at.line, one.at.last))
    return Checked(tuple(findings), bool(findings) and checker.options.is_error)


@dataclass(slots=True)
class _Stage:
    """What is known in a stage. ``env`` is in the order of the last assignments. ``is_known``: no variable of a base
    is missing in it. ``declared``: the names of ARGs. ``last``: the CMD, ENTRYPOINT and HEALTHCHECK seen last."""

    env: dict[str, str] = field(default_factory=dict)
    is_known: bool = True
    declared: set[str] = field(default_factory=set)
    has_workdir: bool = False
    has_shell: bool = False
    triggers: list[str] = field(default_factory=list)
    last: dict[str, i.At] = field(default_factory=dict)

    def set(self, name: str, value: str) -> None:
        self.env.pop(name, None)
        self.env[name] = value


class _Checker:
    def __init__(
        self,
        dockerfile: i.Dockerfile,
        arguments: Mapping[str, str],
        target: str,
        platform: Platform,
        host: Platform,
        config_of: ConfigOf | None,
        is_ignored: Callable[[str], bool] | None,
    ) -> None:
        self._dockerfile = dockerfile
        self._escape = dockerfile.escape
        self._given = arguments
        self._total = Total()
        self._platform = platform
        self._config_of = config_of
        self._is_ignored = is_ignored
        self._from_platforms = platform_arguments(dockerfile, target, platform, host, arguments)
        self._globals = dict(self._from_platforms)
        self._declared: set[str] = set()
        self._stages: dict[str, _Stage] = {}
        written = [one.value for one in dockerfile.directives if one.name == "check"]
        text = arguments.get(VARIABLE) or (written[0].partition(" ")[0] if written else "")
        self.options = CheckOptions.parse(text)
        self.findings: list[Finding] = []

    def run(self) -> None:
        for at in self._dockerfile.blanks:
            self._report("NoEmptyContinuation", "Empty continuation line", at, self.options)
        self._names()
        self._cases()
        for arg in self._dockerfile.arguments:
            self._describes(arg, "ARG", [name for name, _ in arg.items])
        self._defaults()
        for arg in self._dockerfile.arguments:
            self._declared.update(name for name, _ in arg.items)
            try:
                declare(self._globals, arg, self._given, self._escape)
            except UsageError:
                return
        for stage in self._dockerfile.stages:
            self._from(stage)

    def _report(self, rule: str, text: str, at: i.At, options: CheckOptions) -> None:
        if options.counts(rule):
            self.findings.append(Finding(rule, RULES[rule], clean(text), at))

    def _tell(self, rule: str, text: str, instruction: i.Instruction, at: i.At | None = None) -> None:
        self._report(rule, text, at or instruction.at, self.options.with_comments(instruction.comments))

    def _nearest(self, word: str, known: Iterable[str]) -> str:
        """As the function, for the first findings only: many names take long."""
        return _nearest(word, known) if len(self.findings) < _WITH_HINTS else ""

    # --- the whole file

    def _names(self) -> None:
        seen = set()
        for stage in self._dockerfile.stages:
            name, at = stage.base.name, stage.base.at
            if name in ("scratch", "context"):
                self._report(
                    "ReservedStageName",
                    f'Stage name should not use the same name as reserved stage "{name}"',
                    at,
                    self.options,
                )
            if name and name in seen:
                text = f'Duplicate stage name "{name}", stage names should be unique'
                self._report("DuplicateStageName", text, at, self.options)
            seen.add(name)

    def _cases(self) -> None:
        every = [one for stage in self._dockerfile.stages for one in (stage.base, *stage.instructions)]
        words = [(_keyword(one), one.at) for one in every]
        lower = sum(word == word.lower() for word, _ in words)
        upper = sum(word == word.upper() for word, _ in words)
        wanted = "lowercase" if lower > upper else "uppercase"
        for word, at in words:
            if word != (word.lower() if lower > upper else word.upper()):
                self._report(
                    "ConsistentInstructionCasing",
                    f"Command '{word}' should match the case of the command majority ({wanted})",
                    at,
                    self.options,
                )

    def _describes(self, instruction: i.Instruction, kind: str, names: Sequence[str]) -> None:
        """A comment right above begins with the name of what it describes."""
        if instruction.comments and names and instruction.comments[-1].split(" ")[0] not in names:
            name = names[0] if len(names) == 1 else "<arg_key>"
            text = f"Comment for {kind} should follow the format: `# {name} <description>`"
            self._tell("InvalidDefinitionDescription", text, instruction)

    def _defaults(self) -> None:
        """The image of each FROM without arguments of the call."""
        found = dict(self._from_platforms)
        try:
            for arg in self._dockerfile.arguments:
                declare(found, arg, {}, self._escape)
            for stage in self._dockerfile.stages:
                name = expansion(stage.base.image, found.get, self._escape).text
                if not _is_image(name):
                    text = f"Default value for ARG {stage.base.image} results in empty or invalid base image name"
                    self._report("InvalidDefaultArgInFrom", text, stage.base.at, self.options)
        except UsageError:
            return

    # --- stages

    def _from(self, written: i.Stage) -> None:
        base = written.base
        words = base.text.split()
        if base.name:
            if words[-1] != words[-1].lower():
                self._tell("StageNameCasing", f"Stage name '{words[-1]}' should be lowercase", base)
            self._as_case(base, words[0], words[-2])
            self._describes(base, "FROM", [base.name])
        try:
            name = self._in_from(base, base.image)
            platform = self._from_platform(base)
        except UsageError:
            return
        stage, triggers = self._begun(base, name, platform)
        for trigger in triggers:
            try:
                self._instruction(stage, parse_instruction(trigger, base.at))
            except UsageError:
                continue
        for one in written.instructions:
            try:
                self._instruction(stage, one)
            except UsageError:
                continue
        if base.name:
            self._stages[base.name] = stage

    def _as_case(self, base: i.From, keyword: str, word: str) -> None:
        if (keyword == keyword.lower() and word != word.lower()) or (
            keyword == keyword.upper() and word != word.upper()
        ):
            self._tell("FromAsCasing", f"'{word}' and '{keyword}' keywords' casing do not match", base)

    def _in_from(self, base: i.From, text: str) -> str:
        found = expansion(text, self._globals.get, self._escape)
        known = {*self._globals, *self._declared}
        for name in sorted(found.missing - known):
            near = self._nearest(name, sorted(known))
            hint = f" (did you mean {near}?)" if near else ""
            self._tell("UndefinedArgInFrom", f"FROM argument '{name}' is not declared{hint}", base)
        return found.text

    def _from_platform(self, base: i.From) -> Platform:
        if not base.platform:
            return self._platform
        text = self._in_from(base, base.platform)
        found = expansion(base.platform, self._globals.get, self._escape)
        platform = Platform.parse(text)
        if found.found == {"TARGETPLATFORM"} and not found.missing and text == self._globals["TARGETPLATFORM"]:
            self._tell(
                "RedundantTargetPlatform",
                f"Setting platform to predefined {base.platform} in FROM is redundant as this is the default "
                "behavior",
                base,
            )
        is_constant = not found.found and not found.missing
        if is_constant and platform.os not in base.name and platform.architecture not in base.name:
            self._tell(
                "FromPlatformFlagConstDisallowed",
                f'FROM --platform flag should not use constant value "{text}"',
                base,
            )
        return platform

    def _begun(self, base: i.From, name: str, platform: Platform) -> tuple[_Stage, Sequence[str]]:
        """What a stage knows before its first instruction, and the triggers that run first."""
        below = self._stages.get(name.lower())
        if below is not None:
            copied = replace(below, env=dict(below.env), declared=set(below.declared), triggers=[], last={})
            return copied, below.triggers
        stage = _Stage()
        triggers: Sequence[str] = ()
        config = self._config_of(name, platform) if self._config_of and name != _SCRATCH else None
        if config is not None:
            settings = ImageSettings(config, platform)
            for key, value in settings.env:
                stage.set(key, value)
            stage.has_shell = bool(settings.run.get("Shell"))
            triggers = settings.take_triggers()
            actual = config.stated_platform
            if (actual.os, actual.architecture) != (platform.os, platform.architecture):
                self._tell(
                    "InvalidBaseImagePlatform",
                    f'Base image {name} was pulled with platform "{actual.normalized()}", '
                    f'expected "{platform.normalized()}" for current build',
                    base,
                )
        elif name != _SCRATCH:
            stage.is_known = False
        if "PATH" not in stage.env:
            stage.set("PATH", PATH)
        return stage, triggers

    # --- instructions

    def _instruction(self, stage: _Stage, one: i.Instruction) -> None:
        match one:
            case i.Arg():
                self._describes(one, "ARG", [name for name, _ in one.items])
                for name, default in one.items:
                    self._arg(stage, one, name, default)
            case i.Env() | i.Label():
                self._pairs(stage, one)
            case i.Maintainer():
                self._tell(
                    "MaintainerDeprecated", "Maintainer instruction is deprecated in favor of using label", one
                )
            case i.Copy() | i.Add():
                self._copy(stage, one)
            case i.Run():
                run_mounts(one.mounts, lambda text: self._expanded(stage, one, text))
            case i.Shell():
                stage.has_shell = True
            case i.User():
                self._expanded(stage, one, one.name)
            case i.StopSignal():
                self._expanded(stage, one, one.signal)
            case i.Workdir():
                self._workdir(stage, one)
            case i.Volume():
                for path in one.paths:
                    self._expanded(stage, one, path)
            case i.Expose():
                for text in one.ports:
                    for port in expansion(text, stage.env.get, self._escape).words:
                        self._port(one, port)
            case i.Cmd() | i.Entrypoint():
                self._once(stage, one)
                if one.command.is_shell and not stage.has_shell:
                    self._tell(
                        "JSONArgsRecommended",
                        f"JSON arguments recommended for {_keyword(one)} to prevent unintended behavior related "
                        "to OS signals",
                        one,
                    )
            case i.Healthcheck():
                self._once(stage, one)
            case i.OnBuild():
                stage.triggers.append(one.trigger)

    def _expanded(self, stage: _Stage, one: i.Instruction, text: str, *, is_document: bool = False) -> str:
        """Expand a text, and report variables that are not defined."""
        found = (
            document_expansion(text, stage.env.get) if is_document else expansion(text, stage.env.get, self._escape)
        )
        self._total.count(found.text)
        if stage.is_known:
            for name in sorted(found.missing - stage.declared):
                if name not in _NOT_IN_ENV:
                    near = self._nearest(name, list(stage.env)[-_NAMES:])
                    hint = f" (did you mean ${near}?)" if near else ""
                    self._tell("UndefinedVar", f"Usage of undefined variable '${name}'{hint}", one)
        return found.text

    def _arg(self, stage: _Stage, one: i.Arg, name: str, default: str | None) -> None:
        self._secret(one, "ARG", name)
        value = self._given.get(name)
        if value is None:
            value = self._globals.get(name) if default is None else self._expanded(stage, one, default)
        if value is not None and name not in _NOT_IN_ENV:
            stage.set(name, value)
        stage.declared.add(name)

    def _pairs(self, stage: _Stage, one: i.Env | i.Label) -> None:
        items = [(self._expanded(stage, one, key), self._expanded(stage, one, value)) for key, value in one.items]
        if one.old_form:
            word = _keyword(one)
            text = f'"{word} key=value" should be used instead of legacy "{word} key value" format'
            self._tell("LegacyKeyValueFormat", text, one)
        if isinstance(one, i.Env):
            for key, value in items:
                self._secret(one, "ENV", key)
                stage.set(key, value)

    def _secret(self, one: i.Instruction, kind: str, name: str) -> None:
        if _SECRET.search(name) and not _PUBLIC.search(name):
            text = f'Do not use ARG or ENV instructions for sensitive data ({kind} "{name}")'
            self._tell("SecretsUsedInArgOrEnv", text, one)

    def _copy(self, stage: _Stage, one: i.Copy | i.Add) -> None:
        is_add = isinstance(one, i.Add)
        self._expanded(stage, one, one.chown)
        self._expanded(stage, one, one.chmod)
        if isinstance(one, i.Add):
            self._expanded(stage, one, one.checksum)
        sources = [self._expanded(stage, one, source) for source in one.sources]
        self._expanded(stage, one, one.target)
        for document in one.documents:
            if document.expand:
                self._expanded(stage, one, document.content, is_document=True)
        if self._is_ignored is None or (isinstance(one, i.Copy) and one.from_):
            return
        for source in sources:
            path = posixpath.normpath(source)
            if is_address(source) or git_repository(source):
                continue
            # the whole context is ignored by patterns that ignore any name, and so a star too
            if self._is_ignored("*" if path.strip("/") in ("", ".") else path):
                verb = "Add" if is_add else "Copy"
                text = f'Attempting to {verb} file "{path}" that is excluded by .dockerignore'
                self._tell("CopyIgnoredFile", text, one)

    def _workdir(self, stage: _Stage, one: i.Workdir) -> None:
        path = self._expanded(stage, one, one.path)
        if not stage.has_workdir and not path.startswith("/"):
            text = f'Relative workdir "{path}" can have unexpected results if the base image changes'
            self._tell("WorkdirRelativePath", text, one)
        stage.has_workdir = True

    def _port(self, one: i.Expose, port: str) -> None:
        address, host, inside = split_port(port)
        protocol = inside.partition("/")[2]
        if protocol != protocol.lower():
            text = f"Defined protocol '{port}' in EXPOSE instruction should be lowercase"
            self._tell("ExposeProtoCasing", text, one)
        if address or host:
            text = f"EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
            self._tell("ExposeInvalidFormat", text, one)

    def _once(self, stage: _Stage, one: i.Instruction) -> None:
        """The instruction above is the one that does not count."""
        kind = type(one).__name__
        above = stage.last.get(kind)
        if above is not None:
            text = (
                f"Multiple {_keyword(one)} instructions should not be used in the same stage because only the last "
                "one will be used"
            )
            self._tell("MultipleInstructionsDisallowed", text, one, above)
        stage.last[kind] = one.at


def _keyword(instruction: i.Instruction) -> str:
    """The name of the instruction as it was written."""
    return instruction.text.split(maxsplit=1)[0]


def _is_image(name: str) -> bool:
    try:
        Reference.parse(name)
    except LaminaError:
        return False
    return True


def _nearest(word: str, known: Iterable[str]) -> str:
    """The known word with the fewest edits, if there are less than three; "" if none is near."""
    best, found = _NEAR, ""
    for one in known:
        if abs(len(one) - len(word)) < best and (distance := _distance(word[:_LONGEST], one[:_LONGEST])) < best:
            best, found = distance, one
    return found


def _distance(one: str, other: str) -> int:
    """The number of letters to insert, remove or replace."""
    above = list(range(len(other) + 1))
    for row, letter in enumerate(one, 1):
        current = [row]
        for column, another in enumerate(other, 1):
            current.append(min(above[column] + 1, current[-1] + 1, above[column - 1] + (letter != another)))
        above = current
    return above[-1]
