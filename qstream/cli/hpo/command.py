"""Command: what runs a trial, from a text with placeholders; values go in as words of their own, and no shell reads them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from qstream.errors import ConfigError
from schemas.control import Scalar
from schemas.wording import Shown, must_be

FACTS: Final = ("trial", "attempt", "slot", "study", "worker", "params", "params_file")
ARGS: Final = "args"  # a word of its own: all parameters as --name=value
SHELLS: Final = ("sh", "bash", "dash", "zsh", "ksh", "fish")
_TOKEN: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_SHELL_WORDS: Final = frozenset({"|", "||", "&", "&&", ";", "<", ">", ">>", "2>", "2>&1", "&>"})
_ASSIGNMENT: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_VARIABLE: Final = re.compile(r"\$[A-Za-z_{(]")
_PLAIN: Final = re.compile(r"[\w.,:/+=@%-]*")  # what no shell takes for anything but itself
SHELL_RULE: Final = "one program and its arguments, as no shell reads them (or: sh -c '...')"


@dataclass(frozen=True, slots=True)
class Command:
    """Words with placeholders, and variables that are set for them: ``NAME=value program argument ...``.

    A placeholder is ``{name}`` of a parameter, or one of `FACTS`; ``{args}`` as a word of its own is all parameters as
    ``--name=value``. ``{{`` and ``}}`` are braces.
    """

    words: tuple[str, ...]
    variables: tuple[tuple[str, str], ...] = ()

    @property
    def is_shell(self) -> bool:
        """Whether the program is a shell, which takes more than plain values for commands."""
        return PurePath(self.words[0]).name in SHELLS

    @property
    def placeholders(self) -> frozenset[str]:
        """The names between braces, `ARGS` included."""
        texts = (*self.words, *(text for _, text in self.variables))
        return frozenset(found for text in texts for found in _TOKEN.findall(text) if found)

    def filled(self, params: Mapping[str, Scalar], facts: Mapping[str, Scalar]) -> tuple[list[str], dict[str, str]]:
        """The words and variables of one trial; `ConfigError` for a value that is missing, or that a shell would read."""
        values = {name: text_of(value) for name, value in {**facts, **params}.items()}
        if self.is_shell:
            _require_plain((name, values[name]) for name in sorted(self.placeholders & params.keys()))
        words: list[str] = []
        for word in self.words:
            if word == f"{{{ARGS}}}" and ARGS not in params:
                words += [f"--{name}={values[name]}" for name in params]
            else:
                words.append(_filled(word, values))
        return words, {name: _filled(text, values) for name, text in self.variables}


def parse_command(text: str) -> Command:
    """The command of a text, split into words as a shell would; `ConfigError` for what only a shell could run."""
    try:
        words = shlex.split(text)
    except ValueError as exc:
        raise ConfigError(must_be("--command", f"words with closed quotes ({exc})", text)) from exc
    variables: list[tuple[str, str]] = []
    while words and (found := _ASSIGNMENT.fullmatch(words[0])):
        variables.append((found[1], found[2]))
        del words[0]
    if not words:
        raise ConfigError(must_be("--command", SHELL_RULE, text))
    command = Command(tuple(words), tuple(variables))
    for word in (*words, *(value for _, value in variables)):
        _require_braces(word)
        if not command.is_shell and (word in _SHELL_WORDS or _VARIABLE.search(word)):
            raise ConfigError(must_be("--command", SHELL_RULE, word))
    return command


def require_names(command: Command, names: Sequence[str], conditional: Iterable[str] = ()) -> None:
    """`ConfigError` for a placeholder that is no parameter, or one that some trials do not have."""
    known = {*names, *FACTS, ARGS}
    for name in sorted(command.placeholders):
        if name not in known:
            rule = f"a parameter ({', '.join(names)}) or one of {', '.join((*FACTS, ARGS))}; {{{{ and }}}} are braces"
            raise ConfigError(must_be("a placeholder of --command", rule, Shown(f"{{{name}}}")))
        if name in {*conditional}:
            rule = "of a parameter that every trial has (for one with a condition: {args} or {params_file})"
            raise ConfigError(must_be("a placeholder of --command", rule, Shown(f"{{{name}}}")))
    if any(f"{{{ARGS}}}" in word and word != f"{{{ARGS}}}" for word in command.words) and ARGS not in names:
        raise ConfigError(must_be("{args} in --command", "a word of its own", Shown("a part of one")))


def require_choices(command: Command, choices: Mapping[str, Sequence[Scalar]]) -> None:
    """`ConfigError` for choices of a parameter that the command would hand to a shell as more than plain text."""
    if command.is_shell:
        _require_plain((name, text_of(value)) for name in command.placeholders & choices.keys() for value in choices[name])


def text_of(value: Scalar) -> str:
    """A value as commands take it: text as it is, all else as JSON writes it (true, 0.001, 32)."""
    return value if isinstance(value, str) else json.dumps(value)


def _require_plain(values: Iterable[tuple[str, str]]) -> None:
    for name, value in values:
        if not _PLAIN.fullmatch(value):
            rule = "letters, digits and any of .,:/+=@%-_ in a shell's command (or read $HPO_PARAMS_FILE there)"
            raise ConfigError(must_be(f"a value of {name}", rule, value))


def _require_braces(word: str) -> None:
    for found in _TOKEN.finditer(word):
        if found[0] in ("{", "}"):
            raise ConfigError(must_be("--command", "with {NAME} for values, and {{ or }} for a brace", word))


def _filled(text: str, values: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        if found[0] in ("{{", "}}"):
            return found[0][0]
        try:
            return values[found[1]]
        except KeyError as exc:
            raise ConfigError(must_be("a placeholder of --command", f"one of {', '.join(values)}", Shown(found[0]))) from exc

    return _TOKEN.sub(value, text)
