"""The demo's language model learns, routes as a mixture of experts must, and repeats itself for equal seeds."""

from __future__ import annotations

import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from qstream.demo.text import Corpus, TextBatch, batches, load_corpus, shards
from qstream.errors import ConfigError

torch = pytest.importorskip("torch", reason="the demo extra is not installed")

from qstream.demo.model import MixtureOfExperts, MoELanguageModel, Shape, TrainStep, recorded_routing, train  # noqa: E402

SMALL = Shape(layers=2, experts=8, width=32, heads=2, hidden=16, context=32)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus()


def small_run(corpus: Corpus, steps: int, seed: int = 0) -> list[TrainStep]:
    text = batches(corpus, 8, SMALL.context, np.random.default_rng(seed))
    return list(train(MoELanguageModel(SMALL, seed=seed), text, steps=steps, learning_rate=1e-2))


def two_phrases() -> Corpus:
    spans = [b"the router sends each token to two experts. " * 40, b"0123456789" * 200]
    bounds = np.cumsum([0, *map(len, spans)])
    return Corpus(np.frombuffer(b"".join(spans), dtype=np.uint8), ("prose", "digits"), bounds)


def routing_bytes(steps: list[TrainStep]) -> list[bytes]:
    return [part.tobytes() for step in steps for r in step.routing for part in (r.topk_ids, r.topk_weights)]


def test_the_default_model_has_about_a_million_parameters() -> None:
    d, h, experts, layers = 96, 96, 16, 3
    attention, moe, norms = 4 * d * d, experts * 2 * d * h + experts * d, 4 * d
    expected = layers * (attention + moe + norms) + 256 * d + 128 * d + 2 * d
    count = sum(parameter.numel() for parameter in MoELanguageModel().parameters())
    assert count == expected
    assert 600_000 <= count <= 1_500_000


def test_every_token_goes_to_distinct_experts_in_range_with_sorted_weights_that_sum_to_one(corpus: Corpus) -> None:
    for step in small_run(corpus, steps=3):
        assert [r.layer for r in step.routing] == [0, 1]
        for r in step.routing:
            assert r.topk_ids.shape == r.topk_weights.shape == (8 * SMALL.context, 2)
            assert r.topk_ids.dtype == np.int32
            assert r.topk_weights.dtype == np.float32
            assert r.topk_ids.min() >= 0
            assert r.topk_ids.max() < SMALL.experts
            assert (r.topk_ids[:, 0] != r.topk_ids[:, 1]).all()
            assert (r.topk_weights[:, 0] >= r.topk_weights[:, 1]).all()
            np.testing.assert_allclose(r.topk_weights.sum(axis=1), 1.0, rtol=1e-6)


def test_dispatch_equals_running_every_expert_on_every_token() -> None:
    model = MoELanguageModel(SMALL, seed=3)
    layer = model.blocks[0].moe
    assert isinstance(layer, MixtureOfExperts)
    x = torch.randn(50, SMALL.width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        weights, ids, _ = layer.router(x)
        hidden = torch.nn.functional.silu(torch.einsum("td,edh->teh", x, layer.up))
        dense = torch.einsum("teh,ehd->ted", hidden, layer.down)
        gate = torch.zeros(50, SMALL.experts).scatter(1, ids, weights)
        torch.testing.assert_close(layer(x)[0], (gate[:, :, None] * dense).sum(dim=1))


def test_balance_loss_is_one_when_the_router_scores_all_experts_alike() -> None:
    router = MoELanguageModel(SMALL).blocks[0].moe.router
    with torch.no_grad():
        router.score.weight.zero_()
        *_, balance_loss = router(torch.ones(10, SMALL.width))
    assert float(balance_loss) == pytest.approx(1.0)


def test_equal_seeds_give_equal_losses_and_routing_byte_for_byte_and_other_seeds_do_not(corpus: Corpus) -> None:
    first, again, other = (small_run(corpus, steps=5, seed=seed) for seed in (7, 7, 8))
    assert [step.loss for step in first] == [step.loss for step in again]
    assert routing_bytes(first) == routing_bytes(again)
    assert routing_bytes(first) != routing_bytes(other)


def test_loss_starts_at_chance_and_falls_to_the_little_that_two_phrases_hold() -> None:
    losses = [step.loss for step in small_run(two_phrases(), steps=150)]
    assert losses[0] == pytest.approx(np.log(256), abs=1.0)
    assert np.mean(losses[-10:]) < 1.0


def test_tokens_are_named_once_in_a_run_and_carry_their_sequence_place_and_domain(corpus: Corpus) -> None:
    text = list(islice(batches(corpus, 8, SMALL.context, np.random.default_rng(0)), 3))
    steps = list(train(MoELanguageModel(SMALL), text))
    tokens = 8 * SMALL.context
    assert len(np.unique(np.concatenate([step.token_id for step in steps]))) == 3 * tokens
    for step, batch in zip(steps, text, strict=True):
        assert (step.token_id >> np.uint64(20) == step.step).all()
        grid = (8, SMALL.context)
        assert (step.request_id.reshape(grid) == batch.request_id[:, None]).all()
        assert (step.position.reshape(grid) == np.arange(SMALL.context)).all()
        assert (step.label.reshape(grid) == batch.domain[:, None]).all()
        assert step.label_names == corpus.domains


def test_recording_stops_with_its_block_and_leaves_the_output_unchanged() -> None:
    model = MoELanguageModel(SMALL)
    tokens = torch.arange(SMALL.context)[None]
    plain = model(tokens)[0]
    with recorded_routing(model) as routing:
        recorded = model(tokens)[0]
    model(tokens)
    assert torch.equal(plain, recorded)
    assert len(routing) == SMALL.layers


def test_each_sequence_is_consecutive_text_of_its_own_domain(corpus: Corpus) -> None:
    batch = next(batches(corpus, 16, 64, np.random.default_rng(1)))
    for inputs, targets, domain in zip(batch.inputs, batch.targets, batch.domain, strict=True):
        assert (inputs[1:] == targets[:-1]).all()
        span = corpus.text[corpus.bounds[domain] : corpus.bounds[domain + 1]].tobytes()
        assert inputs.astype(np.uint8).tobytes() + bytes([targets[-1]]) in span


def test_shards_read_their_own_domain_in_every_step(corpus: Corpus) -> None:
    domain = np.array([1, 0, 1, 1])
    text = list(islice(shards(corpus, domain, 64, np.random.default_rng(1)), 3))
    assert len({batch.inputs.tobytes() for batch in text}) == 3
    for batch in text:
        assert batch.domain.tolist() == domain.tolist()
        for inputs, of in zip(batch.inputs, batch.domain, strict=True):
            assert inputs.astype(np.uint8).tobytes() in corpus.text[corpus.bounds[of] : corpus.bounds[of + 1]].tobytes()


def test_one_domain_rules_most_of_a_batch_and_the_ruler_changes_every_few_dozen_steps(corpus: Corpus) -> None:
    def majority(batch: TextBatch) -> int:
        return int(np.bincount(batch.domain, minlength=len(corpus.domains)).argmax())

    text = list(islice(batches(corpus, 32, 8, np.random.default_rng(2), dominance=0.8), 2000))
    rulers = np.array([majority(batch) for batch in text])
    share = np.mean([(batch.domain == ruler).mean() for batch, ruler in zip(text, rulers, strict=True)])
    domains = len(corpus.domains)
    assert share == pytest.approx(0.8 + 0.2 / domains, abs=0.02)
    changes = np.count_nonzero(np.diff(rulers))
    expected = 2000 / 40 * (1 - 1 / domains)  # a Markov regime of mean length 40 that may draw the same ruler again
    assert abs(changes - expected) < 4 * np.sqrt(expected)


def test_a_library_without_sources_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path)):
        load_corpus(root=tmp_path)


def test_importing_qstream_does_not_import_torch() -> None:
    program = "import sys, qstream, qstream.demo, qstream.demo.text; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
