"""Gate choices by token as vLLM and SGLang return them: counted as choices, never read as counts of windows."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest

from qstream.errors import ProblemError
from qstream.routing.formats.read import from_tree, read_recording

EXPERTS, LAYERS, K = 16, 3, 4
RNG = np.random.default_rng(4)


def routed(tokens: int) -> np.ndarray:
    """Choices [T, L, K]."""
    return RNG.permuted(np.broadcast_to(np.arange(EXPERTS), (tokens, LAYERS, EXPERTS)), axis=2)[:, :, :K].copy()


def counted(*parts: np.ndarray) -> list[list[int]]:
    every = np.concatenate(parts)
    return [np.bincount(every[:, layer].ravel(), minlength=EXPERTS).tolist() for layer in range(LAYERS)]


def as_npy(array: np.ndarray) -> str:
    body = io.BytesIO()
    np.save(body, array.astype(np.int16))
    return base64.b64encode(body.getvalue()).decode()


def as_flat(array: np.ndarray) -> str:
    return base64.b64encode(array.astype("<i4").tobytes()).decode()


def test_an_answer_of_vllm_has_the_choices_of_its_prompt_and_of_each_completion(tmp_path):
    prompt, first, second = routed(9), routed(5), routed(6)
    choices = [{"routed_experts": first.tolist()}, {"routed_experts": as_npy(second)}, {"routed_experts": None}]
    answer = {"prompt_routed_experts": prompt.tolist(), "choices": choices, "usage": {}}
    (tmp_path / "answer.json").write_text(json.dumps(answer))
    found = read_recording(tmp_path / "answer.json", EXPERTS)
    assert found.history.tolist() == [counted(prompt, first, second)]
    assert found.tokens is not None
    assert found.tokens.tolist() == np.concatenate([prompt, first, second]).tolist()


def test_answers_of_sglang_are_flat_bytes_whose_shape_follows_from_their_tokens(tmp_path):
    parts = [routed(7), routed(2)]
    answers = [
        {"text": "", "meta_info": {"routed_experts": as_flat(part), "prompt_tokens": len(part), "completion_tokens": 1}}
        for part in parts
    ]
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    found = read_recording(tmp_path / "answers.json", EXPERTS, top_k=K)
    assert found.history.tolist() == [counted(*parts)]
    with pytest.raises(ProblemError, match=r"top_k must be given for flat routed_experts, .*, got None"):
        read_recording(tmp_path / "answers.json", EXPERTS)
    with pytest.raises(ProblemError, match=r"routed_experts must be int32 \[7 tokens, layers, 5\], got 336 bytes"):
        read_recording(tmp_path / "answers.json", EXPERTS, top_k=5)


def test_arrays_of_choices_are_windows_of_tokens_in_their_order(tmp_path):
    choices = routed(4096)
    np.savez(tmp_path / "choices.npz", routed_experts=choices.astype(np.int16))
    found = read_recording(tmp_path / "choices.npz", EXPERTS)
    assert found.history.tolist() == [counted(part) for part in np.split(choices, 4)]


def test_a_folder_of_answers_is_one_recording(tmp_path):
    parts = [routed(5), routed(4)]
    for number, part in enumerate(parts):
        (tmp_path / f"{number}.json").write_text(json.dumps({"routed_experts": part.tolist()}))
    assert read_recording(tmp_path, EXPERTS).history.tolist() == [counted(*parts)]


def test_choices_without_a_name_are_not_taken_for_counts_and_counts_are(tmp_path):
    np.save(tmp_path / "choices.npy", routed(500))
    with pytest.raises(ProblemError, match=r"array must be counts .*, or named routed_experts for gate choices .*, or history"):
        read_recording(tmp_path / "choices.npy")
    windows = np.stack([counted(routed(50 * (n + 1))) for n in range(40)])
    np.save(tmp_path / "counts.npy", windows)
    assert read_recording(tmp_path / "counts.npy").history.tolist() == windows.tolist()
    np.savez(tmp_path / "named.npz", history=routed(500))
    assert len(read_recording(tmp_path / "named.npz").history) == 500


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"routed_experts": None}, "routed_experts must be given in at least one answer, got none"),
        ({"routed_experts": "?"}, "answer 0, routed_experts must be an array or base64"),
        ({"routed_experts": [[1]]}, "answer 0, routed_experts must be of 3 axes"),
        ({"routed_experts": as_npy(np.zeros((2, 2)))}, "answer 0, routed_experts must be of 3 axes"),
        ({"routed_experts": base64.b64encode(b"\x93NUMPY\x01\x00\xff").decode()}, "routed_experts: not an npy file"),
        ({"routed_experts": as_flat(np.zeros(4))}, "top_k must be given for flat routed_experts"),
        (
            {"prompt_routed_experts": [[[0, 1]]], "routed_experts": [[[0], [1]]]},
            r"answer 0, routed_experts must be \[tokens, 1, 2\], as in the first, got shape \[1, 2, 1\]",
        ),
        ({"meta_info": {"routed_experts": "AAAA", "prompt_tokens": "7"}}, "prompt_tokens must be a whole number"),
        ({"meta_info": {"routed_experts": "", "prompt_tokens": 2, "completion_tokens": 1}}, "int32"),
    ],
)
def test_a_broken_answer_is_named_by_field(answer, message):
    with pytest.raises(ProblemError, match=message):
        from_tree(answer, None, None, 2 if "meta_info" in answer else None)
