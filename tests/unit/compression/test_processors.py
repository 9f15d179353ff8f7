"""Blocks through both processors: what comes back, deltas with anchors, gradients that feed back, and what cannot be coded."""

from typing import Any

import numpy as np
import pytest

from qstream.compression.basis import learn_basis
from qstream.compression.codebook import Codebook, codebook_bytes
from qstream.compression.coding import by_policy
from qstream.compression.header import digest
from qstream.compression.processor import CompressionProcessor, DecompressionProcessor
from qstream.compression.stream_options import DecodeOptions, EncodeOptions
from qstream.contract import Batch
from qstream.state.fields import MAX_CHUNK_BYTES, pack
from qstream.testing.checks import check_processor
from qstream.testing.feed import Feed
from schemas.tensors import ITEM_BYTES, CompressedBlock, RestoredBlock, TensorBlock, TensorCodebook, TensorPolicy, TensorSkip

TENSOR = "m/w"


def block(values: Any, step: int, at: int = 0, of: int = 1, **more: Any) -> TensorBlock:
    """Rows `at` of a matrix cut into `of` blocks."""
    matrix = np.ascontiguousarray(values)
    rows = len(matrix) // of
    part = matrix[at * rows : (at + 1) * rows]
    data = part.reshape(-1).view(np.uint8)
    where = {"block": at, "blocks": of, "start": at * part.size, "count": part.size, "dtype": str(matrix.dtype)}
    own = {"tensor_id": TENSOR, "model": "m", "role": "weight", "step": step, "ts_ns": step}
    return TensorBlock(**(own | where | {"shape": matrix.shape, "digest": digest(data), "data": data} | more))


def series(steps: int, rows: int = 8, columns: int = 64) -> list[np.ndarray]:
    """A matrix of which few values change at each step."""
    rng = np.random.default_rng(7)
    found = [rng.standard_normal((rows, columns)).astype(np.float32)]
    for _ in range(steps - 1):
        found.append(found[-1] + (rng.random((rows, columns)) < 0.05).astype(np.float32) * np.float32(1e-3))
    return found


class Both:
    """The two processors, one after the other."""

    def __init__(self, **options: Any) -> None:
        self.into = Feed(CompressionProcessor(EncodeOptions(**options)))
        self.back = Feed(DecompressionProcessor())

    def code(self, frame: TensorBlock) -> CompressedBlock:
        coded = self.into.send(frame, 1000).events[0].frame
        assert isinstance(coded, CompressedBlock)
        return coded

    def restore(self, frame: CompressedBlock) -> RestoredBlock:
        found = self.back.send(frame, 1000).events[0].frame
        assert isinstance(found, RestoredBlock)
        return found


def test_every_step_of_a_delta_series_comes_back_bit_for_bit_with_an_anchor_of_each_so_many():
    both, anchors = Both(mode="delta", anchor_every=4), []
    for step, matrix in enumerate(series(9)):
        for at in (1, 0):
            frame = block(matrix, step, at, 2)
            coded = both.code(frame)
            found = both.restore(coded)
            assert found.data is not None
            assert found.data.tobytes() == frame.data.tobytes()
            assert found.verified
        anchors.append(coded.anchor)
    assert anchors == [True, False, False, False, True, False, False, False, True]


def test_after_a_lost_block_deltas_wait_for_the_next_anchor_and_only_those_of_that_block():
    both = Both(mode="delta", anchor_every=4)
    reasons = []
    for step, matrix in enumerate(series(5)):
        coded = [both.code(block(matrix, step, at, 2)) for at in (0, 1)]
        assert both.restore(coded[1]).skip_reason is None
        reasons.append(None if step == 1 else both.restore(coded[0]).skip_reason)
    assert reasons == [None, None, TensorSkip.NO_BASE, TensorSkip.NO_BASE, None]
    assert not both.back.dead


def test_a_block_that_is_sent_twice_comes_back_twice():
    both = Both(mode="delta")
    first, second = series(2)
    both.restore(both.code(block(first, 0)))
    coded = both.code(block(second, 1))
    assert not coded.anchor
    assert both.restore(coded).data.tobytes() == both.restore(coded).data.tobytes() == second.tobytes()  # type: ignore[union-attr]
    again = both.code(block(second, 1))
    assert again.anchor
    assert both.restore(again).skip_reason is None


def test_another_shape_or_a_lost_state_begins_with_an_anchor():
    both = Both(mode="delta")
    matrix = series(1)[0]
    both.code(block(matrix, 0))
    other = both.code(block(matrix[:, :32], 1))
    assert other.anchor
    assert other.fallback_reason == "shape_changed"
    assert Both(mode="delta").code(block(matrix[:, :32], 2)).anchor


def test_a_tensor_above_state_bytes_is_coded_whole_and_nothing_of_it_is_kept():
    both = Both(mode="delta", state_bytes=100)
    for step, matrix in enumerate(series(2)):
        coded = both.code(block(matrix, step))
        assert (coded.anchor, coded.fallback_reason) == (True, "state_limit")
    assert both.into.state(TENSOR) is None
    small = Feed(DecompressionProcessor(DecodeOptions(state_bytes=0)))
    whole = Both(mode="delta")
    coded = [whole.code(block(matrix, step)) for step, matrix in enumerate(series(2))]
    found = [small.send(frame, 1000).events[0].frame.skip_reason for frame in coded]  # type: ignore[attr-defined]
    assert found == [None, TensorSkip.STATE_LIMIT]


def test_what_a_gradient_lost_is_added_to_the_next():
    rng = np.random.default_rng(3)
    gradient = rng.standard_normal((32, 64)).astype(np.float32)
    both, sums = Both(mode="gradient"), []
    total = np.zeros_like(gradient)
    for step in range(24):
        data = both.restore(both.code(block(gradient, step))).data
        assert data is not None
        total += data.view(np.float32).reshape(gradient.shape)
        sums.append(float(np.linalg.norm(total / (step + 1) - gradient) / np.linalg.norm(gradient)))
    assert sums[-1] < 0.3 * sums[0]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64"])
def test_random_bits_pass_every_mode_without_a_warning(dtype):
    rng, shape = np.random.default_rng(11), (12, 16)
    both = Both()
    both.back = Feed(DecompressionProcessor(DecodeOptions(qsvt=True, qft=True)))
    bounds = [TensorPolicy(mode="bounded", bound_kind=kind, bound=0.1) for kind in ("rms", "abs", "range", "point", "l2")]
    for step, policy in enumerate([*(TensorPolicy(mode=mode) for mode in ("rate", "gradient", "gradient", "int8")), *bounds]):
        data = rng.integers(0, 256, 12 * 16 * ITEM_BYTES[dtype], dtype=np.uint8)
        frame = block(data, step, dtype=dtype, shape=shape, count=192, policy=policy)
        found = both.restore(both.code(frame))
        assert found.data is not None
        exact = found.promise == "exact" and policy.mode != "gradient"
        assert not exact or found.data.tobytes() == data.tobytes()


def test_bits_of_the_agent_are_not_those_of_another_mode():
    options = EncodeOptions(mode="rate", target_bits=4.0)
    assert by_policy(options, TensorPolicy(mode="gradient")).bits == 1.0
    assert by_policy(options, TensorPolicy(mode="gradient", target_bits=2.0)).bits == 2.0
    assert by_policy(options, TensorPolicy(mode="rate")).bits == 4.0
    assert by_policy(EncodeOptions(target_bits=4.0), TensorPolicy(mode="rate")).bits == 4.0


def test_a_policy_chooses_in_place_of_the_options():
    both = Both()
    matrix = series(1)[0]
    coded = both.code(block(matrix, 0, policy=TensorPolicy(mode="bounded", bound_kind="abs", bound=0.01)))
    assert coded.promise == "bound"
    data = both.restore(coded).data
    assert data is not None
    assert np.abs(data.view(np.float32).reshape(matrix.shape) - matrix).max() <= 0.01
    assert both.into.state(TENSOR) is None


def test_a_codebook_of_the_topic_is_used_by_both_and_without_it_a_block_waits():
    rng = np.random.default_rng(5)
    mixing = rng.standard_normal((4, 32))
    rows = (rng.standard_normal((600, 4)) @ mixing + 0.01 * rng.standard_normal((600, 32))).astype(np.float32)
    data = np.frombuffer(codebook_bytes(Codebook({"trained": learn_basis(rows[:400])})), np.uint8)
    book = TensorCodebook(tensor_id=TENSOR, model="m", ts_ns=1, kind="basis", digest="0" * 16, data=data)
    both = Both(mode="bounded", bound_kind="l2", bound=0.05)
    alone = both.code(block(rows[400:], 0))
    both.into.send(book, 1000)
    coded = both.code(block(rows[400:], 1))
    assert "transform" in coded.ops
    assert not coded.anchor
    assert coded.quality.bits_per_value < alone.quality.bits_per_value
    assert both.restore(coded).skip_reason is TensorSkip.NO_BASIS
    both.back.send(book, 1000)
    found = both.restore(coded).data
    assert found is not None
    back = found.view(np.float32).reshape(200, 32)
    assert np.linalg.norm(back - rows[400:]) <= 0.0501 * np.linalg.norm(rows[400:])


def test_a_codebook_that_is_none_is_left_out(caplog):
    feed = Feed(CompressionProcessor())
    feed.send(TensorCodebook.example().model_copy(update={"tensor_id": TENSOR}), 1000)
    assert len(feed.send(block(series(1)[0], 0), 1000).events) == 1
    assert "the codebook of 'm/w' is not used" in caplog.text


def test_an_exact_block_between_deltas_leaves_what_they_step_on_and_without_deltas_nothing_is_kept():
    both = Both(mode="delta")
    first, second, third = series(3)
    both.restore(both.code(block(first, 0)))
    both.restore(both.code(block(second, 1, policy=TensorPolicy(mode="lossless"))))
    coded = both.code(block(third, 2))
    assert (coded.anchor, coded.base_step) == (False, 0)
    assert both.restore(coded).data.tobytes() == third.tobytes()  # type: ignore[union-attr]
    plain = Both()
    plain.restore(plain.code(block(first, 0)))
    assert plain.back.state(TENSOR) is None


def test_blocks_that_change_nothing_of_what_is_kept_write_no_state():
    processor = CompressionProcessor(EncodeOptions(mode="delta"))
    feed: Feed[Any] = Feed(processor)
    first, second = series(2)
    feed.send(block(first, 0), 1000)
    record = feed.record(block(second, 1, policy=TensorPolicy(mode="lossless")), 1000)
    assert processor.process(Batch(TENSOR, [record]), feed.state(TENSOR), 0).state is None


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"digest": "0" * 16}, "checksum: "),
        ({"policy": TensorPolicy(mode="bounded", bound_kind="l2", bound=2.0)}, "bad_frame: option bound must be below 1"),
    ],
)
def test_a_block_that_cannot_be_coded_is_a_dead_letter_that_says_why(change, code):
    feed = Feed(CompressionProcessor())
    sent = feed.send(block(series(1)[0], 0, **change), 1000)
    assert not sent.events
    assert sent.dead[0].error_message.startswith(code)


def test_a_step_that_goes_back_is_a_dead_letter_and_the_series_goes_on():
    feed = Feed(CompressionProcessor(EncodeOptions(mode="delta")))
    first, second, third = series(3)
    feed.send(block(first, 5), 1000)
    assert feed.send(block(second, 4), 1000).dead[0].error_message == "bad_frame: step of block 0 must be 5 or more, got 4"
    assert feed.send(block(third, 6), 1000).events[0].frame.base_step == 5  # type: ignore[attr-defined]


def test_damaged_and_lying_blocks_are_dead_letters():
    both = Both()
    coded = both.code(block(series(1)[0], 0))
    damaged = np.array(coded.data)
    damaged[-1] ^= 1
    lies = [coded.model_copy(update=change) for change in ({"data": damaged}, {"dtype": "int32"}, {"base_digest": "0" * 16})]
    messages = [both.back.send(frame, 1000).dead[0].error_message.split(":")[0] for frame in lies]
    assert messages == ["checksum", "dtype", "bad_frame"]


@pytest.mark.parametrize("mode", ["delta", "gradient"])
def test_any_split_into_batches_gives_the_same_bytes(mode):
    frames = [block(matrix, step, at, 2) for step, matrix in enumerate(series(4)) for at in (0, 1)]
    frames[3] = frames[3].model_copy(update={"digest": "0" * 16})
    into, back = CompressionProcessor(EncodeOptions(mode=mode)), DecompressionProcessor()
    feed: Feed[Any] = Feed(into)
    check_processor(into, [feed.record(frame, 1000 + n) for n, frame in enumerate(frames)], splits=3)
    coded = [feed.send(frame, 1000).events for frame in frames]
    other: Feed[Any] = Feed(back)
    check_processor(back, [other.record(events[0].frame, 1000) for events in coded if events], splits=3)


def test_the_state_of_the_largest_tensor_is_kept_in_small_fields():
    feed: Feed[Any] = Feed(CompressionProcessor(EncodeOptions(mode="delta")))
    matrix = np.zeros((1024, 256), np.float32)
    for at in range(2):
        feed.send(block(matrix, 0, at, 2), 1000)
    fields = pack(feed.state(TENSOR))
    assert max(map(len, fields.values())) <= MAX_CHUNK_BYTES
    assert sum(map(len, fields.values())) <= 2_500_000
