"""A sample of tokens: bounded, the same for any split into batches, even, fading by age; its pairs are those of the tokens."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qstream.errors import ProblemError
from qstream.routing import colocate as dense
from qstream.routing.colocate import colocate
from qstream.routing.sample import COUNT_MAX, MAX_BYTES, MAX_ROWS, add_pairs, empty_sample, sample_tokens, sampled_coactivation
from qstream.routing.score import nodes_per_token

Sample = tuple[np.ndarray, np.ndarray]


def tokens(rng: np.random.Generator, count: int, experts: int, k: int) -> np.ndarray:
    return rng.random((count, experts)).argsort(1)[:, :k].astype(np.int32)


def numbered(count: int) -> np.ndarray:
    """Tokens [T, 2] whose two experts spell their number in base 256."""
    number = np.arange(count)
    return np.stack([number % 256, number // 256], 1).astype(np.int32)


def sampled(batches: list[np.ndarray], experts: int, horizon: int, rows: int | None = None) -> Sample:
    sample, seen = empty_sample(1, experts, batches[0].shape[1]), np.zeros(1, np.int64)
    sample = np.ascontiguousarray(sample[:, :rows])
    for batch in batches:
        sample_tokens(batch, 0, horizon, sample, seen, experts)
    return sample, seen


@pytest.mark.parametrize(
    ("layers", "experts", "k"), [(26, 64, 6), (58, 256, 8), (94, 128, 8), (61, 384, 8), (1, 2, 1), (4096, 65536, 8)]
)
def test_any_model_has_a_sample_within_the_bound(layers: int, experts: int, k: int) -> None:
    sample = empty_sample(layers, experts, k)
    assert sample.shape[0] == layers
    assert 0 < sample.shape[1] <= MAX_ROWS
    assert sample.nbytes <= MAX_BYTES
    bytes_a_token = k if experts <= 256 else 2 * k
    assert sample.shape[1] == MAX_ROWS or sample.nbytes + layers * bytes_a_token > MAX_BYTES


@settings(max_examples=50)
@given(cuts=st.lists(st.integers(0, 300), max_size=6), horizon=st.integers(1, 400), seed=st.integers(0, 99))
def test_any_split_into_batches_gives_the_same_sample(cuts: list[int], horizon: int, seed: int) -> None:
    ids = tokens(np.random.default_rng(seed), 300, 9, 3)
    whole = sampled([ids], 9, horizon, rows=20)
    parts = sampled([ids[:0], *np.split(ids, sorted(cuts))], 9, horizon, rows=20)
    assert [a.tobytes() for a in whole] == [a.tobytes() for a in parts]


@pytest.mark.parametrize("experts", [7, 256, 300, 65536])
def test_tokens_that_all_fit_are_counted_set_by_set(experts: int) -> None:
    rng = np.random.default_rng(0)
    few = np.concatenate([[0], rng.choice(experts - 1, 5, replace=False) + 1, [experts - 1]])[:7]
    ids = few[tokens(rng, 50, len(few), 3)].astype(np.int32)
    if experts > 300:
        sample, _ = sampled([ids], experts, 50)
        np.testing.assert_array_equal(sample.view("<u2")[0, :50], ids)
        return
    want = np.zeros((1, experts, experts), np.int64)
    for chosen in ids:
        distinct = np.unique(chosen)
        want[0][np.ix_(distinct, distinct)] += 1
    np.testing.assert_array_equal(sampled_coactivation(*sampled([ids], experts, 50), experts, 50), want)


def test_layers_do_not_mix_and_one_without_a_token_counts_none() -> None:
    rng = np.random.default_rng(0)
    first, last = tokens(rng, 30, 6, 2), tokens(rng, 40, 6, 2)
    sample, seen = empty_sample(3, 6, 2), np.zeros(3, np.int64)
    sample_tokens(first, 0, 100, sample, seen, 6)
    sample_tokens(last, 2, 100, sample, seen, 6)
    assert seen.tolist() == [30, 0, 40]
    got = sampled_coactivation(sample, seen, 6, 100)
    want = [dense.coactivation(ids[:, None], 6)[0] for ids in (first, first[:0], last)]
    np.testing.assert_array_equal(got, want)


def test_the_tokens_before_the_horizon_are_sampled_evenly() -> None:
    """Of 4,000 tokens 1,000 rows: in each tenth of them 100 are kept, give or take five standard deviations."""
    sample, _ = sampled([numbered(4000)], 256, 1 << 20, rows=1000)
    kept = sample[0, :, 0] + 256 * sample[0, :, 1].astype(np.int64)
    assert len(np.unique(kept)) == 1000
    per_tenth = np.bincount(kept // 400, minlength=10)
    assert abs(per_tenth - 100).max() < 5 * np.sqrt(400 * 0.25 * 0.75)


def test_older_tokens_fade_by_the_exponential_of_their_age() -> None:
    count, horizon, rows = 40_000, 8000, 2000
    sample, _ = sampled([numbered(count)], 256, horizon, rows=rows)
    age = count - 1 - (sample[0, :, 0] + 256 * sample[0, :, 1].astype(np.int64))
    for far in (0.25, 1.0, 2.0):
        expected = np.exp(-far)
        assert abs((age > far * horizon).mean() - expected) < 5 * np.sqrt(expected * (1 - expected) / rows)


def test_counts_stand_for_the_tokens_within_the_horizon() -> None:
    """1,000 tokens for 4,000: each of 6 pairs is in 167 of them, with a standard deviation of 7.5 %."""
    ids = tokens(np.random.default_rng(0), 6000, 4, 2)
    got = sampled_coactivation(*sampled([ids], 4, 4000, rows=1000), 4, 4000)
    assert np.einsum("lee->", got) == 2 * 4000
    assert abs(got[0][np.triu_indices(4, 1)] / (4000 / 6) - 1).max() < 0.38
    np.testing.assert_array_equal(got, got.transpose(0, 2, 1))


def test_a_batch_with_more_or_fewer_choices_than_the_sample_counts_as_a_set() -> None:
    sample, seen = empty_sample(1, 5, 2), np.zeros(1, np.int64)
    sample_tokens(np.array([[3], [4]], np.int32), 0, 9, sample, seen, 5)
    sample_tokens(np.array([[0, 1, 2]], np.int32), 0, 9, sample, seen, 5)
    want = np.zeros((5, 5), np.int64)
    want[[3, 4, 0, 0, 1, 1], [3, 4, 0, 1, 0, 1]] = 1
    np.testing.assert_array_equal(sampled_coactivation(sample, seen, 5, 9)[0], want)


@pytest.mark.parametrize("keep", [np.tril, np.triu, np.array])
def test_pairs_that_a_producer_counts_are_added_whichever_half_it_fills(keep: Callable[[np.ndarray], np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    ids = tokens(rng, 90, 7, 3)
    windows = [dense.coactivation(part[:, None], 7) for part in np.split(ids, [30, 50])]
    counted = None
    for window in windows[:2]:
        counted = add_pairs(counted, np.stack([keep(layer) for layer in window]))
    assert counted is not None
    assert counted.dtype == np.int32
    np.testing.assert_array_equal(counted, windows[0] + windows[1])
    sample, seen = sampled([ids[50:]], 7, 100)
    np.testing.assert_array_equal(sampled_coactivation(sample, seen, 7, 100, counted), sum(windows))


def test_pair_counts_stop_at_the_largest_integer_and_large_models_keep_none() -> None:
    most = add_pairs(None, np.full((1, 2, 2), 2**53, np.int64))
    assert most is not None
    again = add_pairs(most, np.ones((1, 2, 2), np.int64))
    assert again is not None
    assert again.tolist() == most.tolist() == [[[COUNT_MAX] * 2] * 2]
    assert add_pairs(None, np.ones((58, 256, 256), np.int64)) is None


def test_blocks_of_256_experts_are_found_from_918_tokens() -> None:
    """Each token draws its 8 experts from one of 4 hidden blocks of 64, each of which fits on a node."""
    rng = np.random.default_rng(0)
    hidden = rng.permutation(256).reshape(4, 64)
    ids = np.stack([rng.choice(hidden[block], 8, replace=False) for block in rng.integers(0, 4, 3000)]).astype(np.int32)
    sample, seen = sampled([ids], 256, 8192, rows=918)
    node = colocate(sampled_coactivation(sample, seen, 256, 8192), np.full(4, 64), eps=0.2, steps=160_000)[0]
    assert nodes_per_token(ids, node) == 1.0


def test_a_sample_of_another_model_is_refused() -> None:
    with pytest.raises(ProblemError, match=r"^sample must be "):
        sampled_coactivation(*sampled([np.array([[5]], np.int32)], 6, 9), 5, 9)


def test_real_tokens_touch_as_few_nodes_by_a_sample_as_by_all_tokens(stick: ModuleType) -> None:
    """With 904 rows, a ninth of the tokens, at least nine tenths of what all tokens save."""
    traces = stick.load()
    first, second = (np.concatenate([np.array_split(t["ids"], 2)[half] for t in traces.values()]) for half in (0, 1))
    first = first[np.random.default_rng(0).permutation(len(first))]
    touched: dict[str, list[float]] = {"all": [], "sample": [], "even": []}
    for layer in (0, 10, 20):
        ids, unseen = np.ascontiguousarray(first[:, layer], np.int32), np.ascontiguousarray(second[:, layer], np.int32)
        every = dense.coactivation(ids[:, None], 64)
        some = sampled_coactivation(*sampled([ids], 64, 32768, rows=904), 64, 32768)
        for name, together, steps in (("all", every, 40_000), ("sample", some, 40_000), ("even", every, 0)):
            node = colocate(together, np.full(4, 16), load=every[0].diagonal()[None].astype(np.float64), steps=steps)
            touched[name].append(nodes_per_token(unseen, node[0]))
    means = {name: np.mean(values) for name, values in touched.items()}
    assert means["even"] > 3.2
    assert means["even"] - means["sample"] > 0.9 * (means["even"] - means["all"])
