"""Gate choices by token, ``routed_experts`` [tokens, layers, k]: what vLLM and SGLang return with the answer to a request."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import whole_number
from qstream.array_files import MAX_COUNT, Tree, check_size, numbers, read_npy
from qstream.errors import ProblemError
from qstream.routing.formats.choices import ALL, Part, in_windows, recorded
from qstream.routing.formats.recording import Recording
from schemas.wording import Shown, must_be

FIELD: Final = "routed_experts"
PROMPT: Final = "prompt_routed_experts"
MAX_TOP_K: Final = 4096
_NPY: Final = b"\x93NUMPY"


def answers_of(tree: Tree) -> list[Tree]:
    """The answers in a file, one or a list of them, if such is what it holds; else none."""
    listed = tree.get("array")
    found = listed if isinstance(listed, list) else [tree]
    return found if all(isinstance(answer, Mapping) and _is_answer(answer) for answer in found) else []


def read_answers(answers: Sequence[Tree], experts: int | None, top_k: int | None, phase: str = ALL) -> Recording:
    """Their tokens one after the other, as windows of 1,024 tokens or more.

    An answer holds ``routed_experts`` [T, L, K] and ``prompt_routed_experts``, itself or in ``choices`` (vLLM); or, in
    ``meta_info``, bytes of int32 in base64 (SGLang), whose shape follows from ``prompt_tokens``, ``completion_tokens`` and
    `top_k`. Base64 of an npy file has its own shape. Tokens of the prompt are of the phase prefill, those after it of decode.

    Raises
    ------
    ProblemError
        An array is broken, of another shape than the first, or flat without `top_k`; or no answer has one.
    """
    parts: list[Part] = []
    first: tuple[int, ...] = ()
    for number, answer in enumerate(answers):
        for array in _arrays(answer):
            name = f"answer {number}, {array.name}"
            choices = _choices(name, array.value, array.tokens, top_k)
            first = first or choices.shape
            if choices.shape[1:] != first[1:]:
                allowed = f"[tokens, {first[1]}, {first[2]}], as in the first"
                raise ProblemError(must_be(name, allowed, Shown(f"shape {list(choices.shape)}")))
            parts += _by_phase(name, choices.transpose(1, 0, 2), array)
    if not parts:
        raise ProblemError(must_be(FIELD, "given in at least one answer", Shown("none")))
    check_size(FIELD, (sum(part.tokens for part in parts), *first[1:]))
    return recorded("routed experts", FIELD, in_windows(parts, phase), experts, phase)


def refuse_choices(field: str, counts: NDArray[np.int64]) -> None:
    """`ProblemError` if an array without a name of its own looks like gate choices [tokens, layers, k], not like counts.

    The choices of a token differ from each other, and their sum means nothing; counts of a window have about the same sum in
    each layer, which every token passes.
    """
    if counts.ndim != 3 or counts.shape[1] < 2 or counts.shape[2] < 2:
        return
    in_order = np.sort(counts, axis=2)
    if (in_order[:, :, 1:] == in_order[:, :, :-1]).any():
        return
    sums = counts.sum(2)
    if np.mean(np.ptp(sums, axis=1) > 0.2 * sums.mean(1)) > 0.5:
        allowed = (
            f"counts [windows, layers, experts], or named {FIELD} for gate choices [tokens, layers, k], or history for counts"
        )
        raise ProblemError(must_be(field, allowed, Shown("rows of distinct numbers whose sums differ between layers")))


def _is_answer(answer: Tree) -> bool:
    within = [answer, answer.get("meta_info"), *(answer["choices"] if isinstance(answer.get("choices"), list) else [])]
    return any(isinstance(part, Mapping) and (FIELD in part or PROMPT in part) for part in within)


@dataclass(frozen=True, slots=True)
class _Array:
    """Choices in an answer: their tokens where their own shape may not say them, and how many of those are of the prompt."""

    name: str
    value: Any
    tokens: int | None = None
    prompt: int | None = None
    phase: str | None = None


def _arrays(answer: Tree) -> Iterator[_Array]:
    """The arrays of an answer, the prompt's first."""
    meta = answer.get("meta_info")
    if isinstance(meta, Mapping) and meta.get(FIELD) is not None:
        prompt, answered = (whole_number(name, meta.get(name), 0, MAX_COUNT) for name in ("prompt_tokens", "completion_tokens"))
        yield _Array(FIELD, meta[FIELD], prompt + answered - 1, prompt)  # nothing was computed from the last token
    choices = answer.get("choices")
    apart = answer.get(PROMPT) is not None  # else a choice's own array may begin with the prompt
    for part in (answer, *(choices if isinstance(choices, list) else ())):
        for name in (PROMPT, FIELD):
            if isinstance(part, Mapping) and part.get(name) is not None:
                yield _Array(name, part[name], phase="prefill" if name == PROMPT else "decode" if apart else None)


def _by_phase(name: str, choices: NDArray[np.int64], array: _Array) -> list[Part]:
    """Choices [L, T, K] of one array, cut behind the prompt where it is known how long that is."""
    if array.prompt is None:
        return [Part(name, choices, phase=array.phase)]
    cut = ((choices[:, : array.prompt], "prefill"), (choices[:, array.prompt :], "decode"))
    return [Part(name, some, phase=phase) for some, phase in cut if some.shape[1]]


def _choices(name: str, value: Any, tokens: int | None, top_k: int | None) -> NDArray[np.int64]:
    """Gate choices int64 [T, L, K] of one array."""
    if not isinstance(value, str):
        return numbers(name, value, 3, least=-1)
    try:
        body = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise ProblemError(must_be(name, "an array or base64", Shown(str(exc)))) from exc
    if body.startswith(_NPY):
        return numbers(name, read_npy(name, io.BytesIO(body)), 3, least=-1)
    if tokens is None or tokens < 1 or top_k is None:
        allowed = "given for flat routed_experts, next to prompt_tokens and completion_tokens"
        raise ProblemError(must_be("top_k", allowed, top_k))
    whole_number("top_k", top_k, 1, MAX_TOP_K)
    if not body or len(body) % (4 * tokens * top_k):
        raise ProblemError(must_be(name, f"int32 [{tokens} tokens, layers, {top_k}]", Shown(f"{len(body)} bytes")))
    return numbers(name, np.frombuffer(body, "<i4").reshape(tokens, -1, top_k), 3, least=-1)
