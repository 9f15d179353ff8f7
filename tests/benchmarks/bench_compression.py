"""Compression next to its peers on the stick's tensors; sizes are whole, with headers, and speeds compare within one run."""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from qstream.compression import CompressionOptions, compress, compress_tensors, learn_basis, lossy, restore
from qstream.compression.qae import train
from qstream.compression.train_nets import Pair, train_net
from qstream.compression.warm import warm
from tests.benchmarks.bench_learn import Row, cpu_us
from tests.benchmarks.stick import DATA, load_scores

_STICK_DATA = DATA / "compression" / "minilm_tensors.npz"


def rows() -> list[Row]:
    """What was measured, its value, unit and target ("-" for none)."""
    stick = load_scores("compression_stick") if _STICK_DATA.exists() else None
    warm()
    if stick is None:
        return small_blocks()
    tensors = stick.load(_STICK_DATA)
    return [
        *lossless(stick, tensors),
        *deltas(stick, tensors),
        *bounded(stick, tensors),
        *rates(stick, tensors),
        *caches(stick, tensors),
        *gradients(stick, tensors),
        *optimizer(tensors),
        *denoised(stick, tensors),
        *circuits(stick, tensors),
        *small_blocks(),
    ]


def lossless(stick: ModuleType, tensors: dict[str, Any]) -> list[Row]:
    weights = [tensors[name] for name in stick.WEIGHTS]
    found = []
    for level, target in (("small", ">= 1.500"), ("balanced", ">= 1.494")):
        options = CompressionOptions(level=level)
        score = stick.score_lossless(bfloat16(options), decoded, weights)
        found += [
            (f"lossless bf16 weights, {level}: ratio (order-0 bound 1.508)", score["ratio"], "", target),
            ("  encode, decoded and compared", score["encode_mb_s"], "MB/s", "-"),
            ("  decode", score["decode_mb_s"], "MB/s", "-"),
        ]
    return [*found, *encoding_in_turns(weights), *decoding_in_turns(weights)]


def encoding_in_turns(arrays: list[Any]) -> list[Row]:
    """Balanced encoding next to ZipNN's, of which the copies that it is given are made beforehand."""
    copies = [bytearray(array.tobytes()) for array in arrays]
    checked, quick = bfloat16(CompressionOptions()), bfloat16(CompressionOptions(verify=False))
    calls = {
        "decoded and compared": lambda: [checked(array) for array in arrays],
        "without verify": lambda: [quick(array) for array in arrays],
    }
    if importlib.util.find_spec("zipnn") is not None:
        coder = importlib.import_module("zipnn").ZipNN(input_format="byte", bytearray_dtype="bfloat16")
        calls["ZipNN"] = lambda: [coder.compress(bytearray(copy)) for copy in copies]
        calls["copies"] = lambda: [bytearray(copy) for copy in copies]
    if importlib.util.find_spec("blosc2") is not None:
        blosc2 = importlib.import_module("blosc2")
        calls["blosc2"] = lambda: [
            blosc2.compress2(array, typesize=2, codec=blosc2.Codec.ZSTD, clevel=1, nthreads=1) for array in arrays
        ]
    took = in_turns(calls)
    if "ZipNN" in took:
        took["ZipNN"] -= took.pop("copies")  # what it is given must be copied first
    found: list[Row] = [(f"  balanced, encode, {name}", sum(map(_nbytes, arrays)) / us, "MB/s", "-") for name, us in took.items()]
    return found + [
        (f"    {what}, by {name}'s speed", took[name] / took[what], "x", target)
        for name, target in (("ZipNN", ">= 1.2"), ("blosc2", ">= 1"))
        if name in took
        for what in ("decoded and compared", "without verify")
    ]


def decoding_in_turns(arrays: list[Any]) -> list[Row]:
    """Balanced decoding, with what was decoded compared, next to blosc2's."""
    coded = [bfloat16(CompressionOptions())(array) for array in arrays]
    calls: dict[str, Callable[[], Any]] = {"ours": lambda: [decoded(data) for data in coded]}
    if importlib.util.find_spec("blosc2") is not None:
        blosc2 = importlib.import_module("blosc2")
        others = [blosc2.compress2(array, typesize=2, codec=blosc2.Codec.ZSTD, clevel=1, nthreads=1) for array in arrays]
        calls["blosc2"] = lambda: [blosc2.decompress2(data) for data in others]
    took = in_turns(calls)
    found: list[Row] = [(f"  balanced, decode, {name}", sum(map(_nbytes, arrays)) / us, "MB/s", "-") for name, us in took.items()]
    return found + [("    by blosc2's speed", took["blosc2"] / took["ours"], "x", ">= 1") for name in took if name == "blosc2"]


def _nbytes(array: Any) -> int:
    return int(array.nbytes)


def in_turns(calls: dict[str, Callable[[], Any]], rounds: int = 40) -> dict[str, float]:
    """CPU time of this process in microseconds, each call's least; it is made twice a turn and timed the second time, so that
    no call pays for what the one before it left in the caches."""
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            begin = time.process_time()
            call()
            least[name] = min(least[name], 1e6 * (time.process_time() - begin))
    return least


def bfloat16(options: CompressionOptions) -> Callable[[Any], bytes]:
    return lambda array: compress(array, options, dtype="bfloat16").data


def decoded(data: bytes) -> Any:
    return restore(data).array


def least_us(call: Callable[[], Any]) -> float:
    """CPU time of this process for a call, the least of 30."""
    call()
    times = []
    for _ in range(30):
        begin = time.process_time()
        call()
        times.append(time.process_time() - begin)
    return 1e6 * min(times)


def deltas(stick: ModuleType, tensors: dict[str, Any]) -> list[Row]:
    options, found = CompressionOptions(mode="delta"), []
    for name, target, whole_target, speed_target in (
        ("lr 1e-6", ">= 370", ">= 260", ">= 800"),
        ("lr 2e-5", ">= 39", ">= 35", ">= 300"),
    ):
        base, new = stick.delta_pair(tensors, name)
        done = compress(new, options, base=base, dtype="bfloat16")
        quick = options.changed({"verify": False})
        if not np.array_equal(restore(done, base=base).array, new):
            raise AssertionError("the delta does not restore the tensor")
        encode_us = least_us(lambda new=new, base=base, quick=quick: compress(new, quick, base=base, dtype="bfloat16"))
        decode_us = least_us(lambda done=done, base=base: restore(done, base=base))
        found += [
            (f"delta {name}: ratio, payload (bound by exponent {stick.delta_bound(base, new, True):.0f})",
             new.nbytes / done.payload_bytes, "", target),
            ("  with the header of one block", done.ratio, "", "-"),
            (f"  archive of 36 such matrices ({max(stick.delta_peers(base, new).values()):.0f} by the best peer)",
             archive_ratio(base, new), "", whole_target),
            ("  encode, without verify", new.nbytes / encode_us, "MB/s", speed_target),
            ("  decode", new.nbytes / decode_us, "MB/s", "-"),
        ]  # fmt: skip
    return found


def archive_ratio(base: Any, new: Any) -> float:
    """36 copies, rolled so that none repeats another's bytes, under names of a transformer's length."""
    names = [f"encoder.layer.{layer}.attention.self.matrix{n}.weight" for layer in range(6) for n in range(6)]
    before = {name: np.roll(base, n, axis=0) for n, name in enumerate(names)}
    after = {name: np.roll(new, n, axis=0) for n, name in enumerate(names)}
    types = dict.fromkeys(names, "bfloat16")
    data = compress_tensors(after, CompressionOptions(mode="delta"), base=before, dtypes=types)
    return 36 * new.nbytes / len(data)


def bounded(stick: ModuleType, tensors: dict[str, Any]) -> list[Row]:
    floats = [stick.floats(tensors[name]) for name in stick.WEIGHTS]
    found = []
    for bound, level, bits, error in ((0.1, "small", "<= 4.42", "<= .058"), (0.05, "balanced", "<= 5.444", "-")):
        options = CompressionOptions(mode="bounded", bound=bound, level=level)
        score = stick.score_lossy(lambda x, options=options: compress(x, options).data, decoded, floats, bound)
        found += [
            (f"bounded {bound} rms, weights, {level}", score["bits"], "bits", bits),
            ("  rel L2", score["rel_l2"], "", error),
            ("  largest error", score["max_error_in_bounds"], "bounds", "<= 1"),
        ]
    return [*found, *bounded_in_turns(floats[0])]


def bounded_in_turns(x: Any) -> list[Row]:
    """A bound of .05 rms next to SZ3 at the same absolute error, where pysz is installed."""
    options = CompressionOptions(mode="bounded", bound=0.05)
    quick, data = options.changed({"verify": False}), compress(x, options).data
    calls = {
        "encode, decoded and compared": lambda: compress(x, options),
        "encode without verify": lambda: compress(x, quick),
        "decode": lambda: restore(data),
    }
    bits: list[Row] = []
    if importlib.util.find_spec("pysz") is not None:
        pysz = importlib.import_module("pysz")
        config = pysz.szConfig(x.shape)
        config.errorBoundMode = pysz.szErrorBoundMode.ABS
        config.absErrorBound = 0.05 * float(np.sqrt(np.mean(x.astype(np.float64) ** 2)))
        coded, _ = pysz.sz.compress(x, config)
        calls["SZ3 in"] = lambda: pysz.sz.compress(x, config)
        calls["SZ3 out"] = lambda: pysz.sz.decompress(coded, x.dtype, x.shape)
        bits.append(("  SZ3", 8 * len(coded) / x.size, "bits", "-"))
    took = in_turns(calls)
    found: list[Row] = [(f"  .05: {name}", x.nbytes / us, "MB/s", "-") for name, us in took.items()]
    if bits:
        for name, peer, target in (
            ("encode, decoded and compared", "SZ3 in", ">= 3"),
            ("encode without verify", "SZ3 in", ">= 3"),
            ("decode", "SZ3 out", ">= 4"),
        ):
            found.append((f"    {name}, by SZ3's speed", took[peer] / took[name], "x", target))
    return [*bits, *found]


def rates(stick: ModuleType, tensors: dict[str, Any]) -> list[Row]:
    weight, moment = stick.floats(tensors["weight_query3"]), tensors["input_moment_query3"]
    found = []
    for what, more, bits, error in (("with moment", {"moment": moment}, "<= 4.46", "<= 1.0"), ("plain", {}, "-", "-")):
        done = compress(weight, CompressionOptions(mode="rate", target_bits=4.4), **more)
        damage = stick.output_error(weight, restore(done).array, moment)
        found += [
            (f"rate 4.4, query weight, {what}", done.bits_per_value, "bits", bits),
            ("  output error", 1e3 * damage, "1e-3", error),
        ]
    for name, (bits_, back) in stick.block_formats(weight).items():
        if bits_ < 5:
            found.append((f"  {name}, {bits_} bits: output error", 1e3 * stick.output_error(weight, back, moment), "1e-3", "-"))
    return found


def caches(stick: ModuleType, tensors: dict[str, Any]) -> list[Row]:
    train, test = stick.floats(tensors["k3_train"]), stick.floats(tensors["k3_test"])
    basis, found = learn_basis(train), []
    for bound, target, rms in ((0.0289, "<= 3.58", 0.05), (0.1155, "<= 1.75", 0.2)):
        done = compress(test, CompressionOptions(mode="bounded", bound_kind="l2", bound=bound), basis=basis)
        error = stick.relative_mse(test, restore(done, basis=basis).array) ** 0.5
        found += [
            (f"key cache, rel L2 {bound}, basis of other rows", done.bits_per_value, "bits", target),
            ("  rel L2", error, "", f"<= {bound}"),
        ]
        found += [
            (f"  {name} at its own error", bits, "bits", "-")
            for name, (bits, _) in stick.transform_peers(train, test, rms).items()
        ]
    return found


def gradients(stick: ModuleType, tensors: dict[str, Any]) -> list[Row]:
    given = [stick.floats(tensors[name]) for name in stick.GRADIENTS]
    done = [compress(x, CompressionOptions(mode="gradient")) for x in given]
    errors = [stick.relative_mse(x, restore(each).array) for x, each in zip(given, done, strict=True)]
    found = [
        ("gradients at target 1.0", max(each.bits_per_value for each in done), "bits", "<= 1.05"),
        ("  relative squared error restored", float(np.mean(errors)), "", "<= .105"),
    ]
    for what, names, target in (
        ("gradients", stick.GRADIENTS, "<= .46"),
        ("key cache", ("k3_test",), "<= .58"),
        ("weights", ("weight_query3",), "-"),
    ):
        gain = [refined(stick.floats(tensors[name])) for name in names]
        found.append((f"spectral refiner, eps .5, {what}: squared error x", float(np.mean(gain)), "", target))
    return found


def refined(x: Any) -> float:
    """What the spectral refiner leaves of the squared error of steps of one rms; 1 where the gate leaves it out."""
    domain = lossy.domain_of(x.reshape(-1), "float32", x.shape)
    trial = lossy.attempt(domain, lossy.rms_of(x.reshape(-1)), table=False, spectral=True)
    return trial.gains.get("spectral", 1.0)


def optimizer(tensors: dict[str, Any]) -> list[Row]:
    v, found = tensors["adam_v_query3"], []
    for bound, target in ((0.125, "<= 4.6"), (0.01, "<= 8.25")):
        done = compress(v, CompressionOptions(mode="bounded", bound_kind="point", bound=bound, level="small"))
        worst = float(np.max(np.abs(restore(done).array.astype(np.float64) - v) / np.abs(v))) / bound
        found += [
            (f"Adam v within {bound} of each value", done.bits_per_value, "bits", target),
            ("  largest error", worst, "bounds", "<= 1"),
        ]
    return found


def denoised(stick: ModuleType, tensors: dict[str, Any]) -> list[Row]:
    """A convolution trained on GELU outputs in groups of 128 that share an int4 scale, on those of another text."""
    train_, test = (stick.floats(tensors[name]) for name in ("gelu3_train", "gelu3_test"))
    (y, step), (other, other_step) = int4(train_), int4(test)
    net = train_net([Pair(train_, y, step)], "denoiser")
    left = float(np.square(net.correct(other, other_step) - test).sum() / np.square(other - test).sum())
    speed_ = test.nbytes / cpu_us(lambda: net.correct(other, other_step), 1)
    return [
        ("GELU, int4 groups, convolution: squared error x (table .84)", left, "", "<= .65"),
        ("  corrects", speed_, "MB/s", "-"),
    ]


def int4(x: Any) -> tuple[Any, float]:
    """Restored values, and their mean step."""
    groups = x.reshape(-1, 128)
    scale = np.abs(groups).max(axis=1, keepdims=True) / 7
    unit = np.where(scale > 0, scale, 1)
    return (np.rint(groups / unit).clip(-7, 7) * unit).reshape(x.shape), float(scale.mean())


def circuits(stick: ModuleType, tensors: dict[str, Any]) -> list[Row]:
    """Circuits trained on keys: what they lose by what PCA loses."""
    rows_, found = stick.floats(tensors["k3_train"]).astype(np.float64), []
    for width, kept, target, limit in ((16, 4, "<= 1.002", "<= 4"), (64, 16, "<= 1.04", "<= 25")):
        centred = rows_[:, :width] - rows_[:, :width].mean(axis=0)
        begin = time.process_time()
        trained = train(centred.T @ centred / len(centred), kept)
        seconds = time.process_time() - begin
        found += [
            (
                f"QAE ({width}, {kept}), {trained.parameters} angles: relative squared error by PCA's",
                trained.relative,
                "x",
                target,
            ),
            ("  random angles", trained.control, "x", "-"),
            ("  training", seconds, "s of CPU", limit),
        ]
    return found


def small_blocks() -> list[Row]:
    values = (np.arange(64) % 7 - 3).astype(np.float32).view(np.uint16)[1::2].copy()
    data = compress(values, dtype="bfloat16").data
    begin = time.perf_counter()
    warm()
    return [
        ("64 values: compress", cpu_us(lambda: compress(values, dtype="bfloat16"), 200), "us", "<= 150"),
        ("64 values: restore", cpu_us(lambda: restore(data), 200), "us", "<= 80"),
        ("warming with kernels in the cache on disk", 1e3 * (time.perf_counter() - begin), "ms", "-"),
    ]
