"""Lists of names as Slurm and topograph write them: ``node[01-03,07],login1``, there and back."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from qstream.errors import ProblemError
from schemas.wording import Shown, must_be

MAX_NAMES: Final = 65_536
_PART: Final = re.compile(r"[^,\[\]]+|\[[^\[\]]*\]|,")
_RANGE: Final = re.compile(r"(\d{1,12})(?:-(\d{1,12}))?$")


def expand(text: str) -> list[str]:
    """The names that a list means, in its order; `ProblemError` where it is none, or means more than 65,536.

    >>> expand("n[08-10,12],x")
    ['n08', 'n09', 'n10', 'n12', 'x']
    """
    text = text.replace(" ", "")
    names: list[str] = []
    partial = [""]
    used = 0
    for part in (*_PART.findall(text), ","):
        if part == ",":
            names += [name for name in partial if name]
            partial = [""]
        elif part[0] == "[":
            numbers = [number for item in part[1:-1].split(",") for number in _numbers(item, text)]
            _limit(len(names) + len(partial) * len(numbers))
            partial = [before + number for before in partial for number in numbers]
        else:
            partial = [before + part for before in partial]
        used += len(part)
    if used != len(text) + 1:
        raise ProblemError(must_be("a list of names", "names with ranges in brackets", text))
    _limit(len(names))
    return names


def _numbers(item: str, text: str) -> list[str]:
    found = _RANGE.match(item)
    if found is None:
        raise ProblemError(must_be("a range of names", "a number, or two with - between", Shown(f"{item!r} in {text[:80]!r}")))
    low, high = int(found[1]), int(found[2] or found[1])
    if high < low:
        raise ProblemError(must_be("a range of names", "rising", item))
    _limit(high - low + 1)
    return [f"{number:0{len(found[1])}d}" for number in range(low, high + 1)]


def _limit(count: int) -> None:
    if count > MAX_NAMES:
        raise ProblemError(must_be("a list of names", f"at most {MAX_NAMES} names", Shown(f"{count}")))


def compress(names: Iterable[str]) -> str:
    """The names in Slurm's short form, in their order: what `expand` turns back into them.

    >>> compress(["n08", "n09", "n10", "x"])
    'n[08-10],x'
    """
    parts: list[str] = []
    run: list[str] = []
    before = ""
    for name in (*names, ""):
        found = re.match(r"(.*?)(\d{1,12})$", name)
        prefix, digits = (found[1], found[2]) if found else (name, "")
        if run and digits and prefix == before and digits == f"{int(run[-1]) + 1:0{len(run[0])}d}":
            run.append(digits)
            continue
        if run:
            parts.append(before + (run[0] if len(run) == 1 else f"[{run[0]}-{run[-1]}]"))
        elif before:
            parts.append(before)
        before, run = prefix, [digits] if digits else []
    return ",".join(parts)
