"""Jobs expand to what their collectives send, by the formulas of rings, and files of trainers and simulators are read whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qstream.errors import ProblemError
from qstream.nvlink import job_profile, job_traffic, read_job
from qstream.nvlink.profile import parallel_of
from schemas.fabric import GROUP_KINDS, JobProfile, ParallelSizes


def dense(profile) -> np.ndarray:
    """Bytes [ranks, ranks]."""
    src, dst, nbytes = job_traffic(profile)
    sent = np.zeros((profile.num_ranks,) * 2)
    np.add.at(sent, (src, dst), nbytes)
    return sent


def slow(profile) -> np.ndarray:
    """The same, group by group and rank by rank."""
    sent = np.zeros((profile.num_ranks,) * 2)
    for number, kind in enumerate(profile.group_kind.tolist()):
        ranks = profile.group_rank[profile.group_first[number] : profile.group_first[number + 1]].tolist()
        m, size = len(ranks), int(profile.group_bytes[number])
        for at, rank in enumerate(ranks):
            following = ranks[(at + 1) % m]
            if GROUP_KINDS[kind] == "alltoall":
                for other in ranks:
                    sent[rank, other] += size / m
            elif GROUP_KINDS[kind] == "p2p":
                sent[rank, following] += size if at < m - 1 else 0
            else:
                sent[rank, following] += size * (m - 1) / m * (2 if GROUP_KINDS[kind] == "allreduce" else 1)
    np.fill_diagonal(sent, 0)
    return sent


def published(tp: int, pp: int, dp: int) -> np.ndarray:
    """Rank = (pp_i * dp + dp_i) * tp + tp_i: rings of 4 GB (tp) and 1 GB (dp), .25 GB between stages both ways."""
    rank = np.arange(tp * pp * dp).reshape(pp, dp, tp)
    sent = np.zeros((rank.size,) * 2)
    for axis, size, volume in ((2, tp, 4e9), (1, dp, 1e9)):
        if size > 1:
            np.add.at(sent, (rank.ravel(), np.roll(rank, -1, axis).ravel()), volume * 2 * (size - 1) / size)
    np.add.at(sent, (rank[:-1].ravel(), rank[1:].ravel()), 0.25e9)
    np.add.at(sent, (rank[1:].ravel(), rank[:-1].ravel()), 0.25e9)
    return sent


@pytest.mark.parametrize(("tp", "pp", "dp"), [(8, 2, 4), (1, 4, 2), (4, 1, 2), (2, 3, 1)])
def test_a_megatron_job_sends_what_is_published_of_one(tp, pp, dp):
    profile = job_profile({"tp": tp, "pp": pp, "dp": dp}, volumes={"tp": 4e9, "dp": 1e9, "pp": 0.25e9})
    assert profile.num_ranks == tp * pp * dp
    np.testing.assert_allclose(dense(profile), published(tp, pp, dp))


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries({name: st.integers(1, 3) for name in ("tp", "cp", "dp", "pp")}),
    st.permutations(["tp", "cp", "ep", "dp", "pp"]),
    st.fixed_dictionaries({}, optional={
        name: st.fixed_dictionaries({}, optional={kind: st.integers(1, 10**12) for kind in GROUP_KINDS})
        for name in ("tp", "cp", "ep", "dp", "pp")
    }),
    st.data(),
)  # fmt: skip
def test_groups_expand_as_rank_by_rank_and_every_division_is_a_partition(sizes, order, volumes, data):
    stage = sizes["tp"] * sizes["cp"] * sizes["dp"]
    sizes["ep"] = data.draw(st.sampled_from([size for size in range(1, stage + 1) if stage % size == 0]))
    profile = job_profile(sizes, volumes=volumes, order="-".join(order))
    np.testing.assert_allclose(dense(profile), slow(profile))
    assert JobProfile.decode(profile.encode()) == profile
    for name in sizes:
        alone = job_profile(sizes, volumes={name: {"allgather": 1}}, order="-".join(order))
        ranks = alone.group_rank.reshape(-1, sizes[name]) if sizes[name] > 1 else np.zeros((0, 1))
        assert sorted(ranks.ravel().tolist()) == (list(range(profile.num_ranks)) if sizes[name] > 1 else [])


def test_experts_are_shared_by_neighbours_or_by_ranks_far_apart_as_the_order_says():
    sizes = {"tp": 2, "dp": 4, "pp": 2, "ep": 4}
    near = job_profile(sizes, volumes={"ep": 1e9})
    far = job_profile(sizes, volumes={"ep": 1e9}, order="tp-cp-dp-ep-pp")
    assert near.group_rank.reshape(-1, 4)[:2].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert far.group_rank.reshape(-1, 4)[:2].tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]
    np.testing.assert_allclose(dense(near).sum(), 16 * 1e9 * 3 / 4)


def test_pairs_and_groups_add_up_and_a_rank_sends_nothing_to_itself():
    profile = JobProfile.example()
    sent = dense(profile)
    assert sent[0, 3] == 1_048_576
    assert sent[0, 1] == 4e9
    assert (np.diag(sent) == 0).all()
    src, dst, nbytes = job_traffic(profile)
    assert (src.dtype, dst.dtype, nbytes.dtype) == (np.int32, np.int32, np.float64)
    assert sorted(zip(src.tolist(), dst.tolist(), strict=True)) == list(zip(src.tolist(), dst.tolist(), strict=True))
    assert [len(column) for column in job_traffic(JobProfile.build(fabric="f", job="j", num_ranks=1))] == [0, 0, 0]


def test_rules_of_the_job_are_carried():
    profile = job_profile(
        ParallelSizes(tp=4), volumes={"tp": 1}, atomic=[[0, 1], [2, 3]], pins={3: 7, 1: 5}, max_slices=2, balanced=True,
        gpu_of_rank=np.arange(4), period_us=10.0,
    )  # fmt: skip
    assert profile.atomic_first.tolist() == [0, 2, 4]
    assert (profile.pin_rank.tolist(), profile.pin_gpu.tolist()) == ([1, 3], [5, 7])
    assert (profile.max_slices, profile.balanced, profile.period_us) == (2, True, 10.0)


@pytest.mark.parametrize(
    ("parallel", "more", "message"),
    [
        ({"tp": 0}, {}, "tp must be greater than or equal to 1, got 0"),
        ({"tp": 2, "ep": 3}, {}, "ep must be a divisor of tp \\* cp \\* dp, 2, got 3"),
        ({"xp": 2}, {}, "a size of parallel must be one of tp, cp, ep, dp, pp, got 'xp'"),
        ({"tp": 2}, {"volumes": {"zp": 1}}, "a division of volumes must be one of"),
        ({"tp": 2}, {"volumes": {"tp": {"gossip": 1}}}, "a collective of volumes of tp must be one of allreduce"),
        ({"tp": 2}, {"volumes": {"tp": -1}}, "bytes of allreduce of tp must be 0 to 2\\*\\*62, got -1"),
        ({"tp": 2}, {"volumes": {"tp": float("nan")}}, "bytes of allreduce of tp must be 0 to 2\\*\\*62, got nan"),
        ({"tp": 2}, {"order": "tp-pp"}, "order must be tp, cp, ep, dp, pp in any order"),
        ({"tp": 2}, {"pins": {5: 1}}, "pin_rank must be a rank, 0 to 1"),
        ({"tp": 131_072}, {"volumes": {"tp": {"alltoall": 1}}}, "pairs of ranks in groups must be at most 20000000"),
    ],
)
def test_jobs_that_break_a_rule_are_refused_by_name(parallel, more, message):
    with pytest.raises(ProblemError, match=message):
        job_traffic(job_profile(parallel, **({"volumes": {"tp": 1}} | more)))


@pytest.mark.parametrize(("name", "tp"), [("gpt13b_tp8_sp", 8), ("llama7b_tp2", 2)])
def test_a_simai_workload_sends_the_bytes_of_its_lines(fabrics, name, tp):
    lines = (fabrics / "simai" / f"{name}.txt").read_text().splitlines()
    rows = [line.split("\t") for line in lines[2:]]
    profile = read_job(fabrics / "simai" / f"{name}.txt", parallel={"dp": 3})
    assert profile.job == name
    assert profile.parallel == ParallelSizes(tp=tp, dp=3)
    factor = {"ALLREDUCE": 2 * (tp - 1) / tp, "BROADCAST": (tp - 1) / tp}
    whole = ("grad_norm", "layernorm")
    want = sum(
        int(row[at + 1]) * factor.get(row[at], (tp - 1) / tp)
        for row in rows
        for at in (3, 6)
        if row[0] not in whole and row[at] != "NONE"
    )
    sent = dense(profile)
    within = sum(sent[r, s] for r in range(tp) for s in range(tp))
    assert within == pytest.approx(want * tp, rel=1e-6)
    across = [row for row in rows if row[0] in whole]
    factor = {"ALLREDUCE": 4 / 3}
    want = sum(int(row[at + 1]) * factor.get(row[at], 2 / 3) for row in across for at in (3, 6, 9) if row[at] != "NONE")
    assert sent[0, tp] == pytest.approx(want, rel=1e-6)


def test_sizes_are_read_by_the_names_of_trainers():
    assert parallel_of({"tensor_parallel_size": 4, "pipeline-parallel-size": 2, "lr": 0.1}) == ParallelSizes(tp=4, pp=2)
    assert parallel_of({"tensor_model_parallel_size": 8, "expert_parallel_size": 8}) == ParallelSizes(tp=8, ep=8)
    assert read_job("tp: 2\ndp: 4\n").num_ranks == 8
    assert read_job('{"tp": 2, "dp": 4}', job="x").job == "x"
    assert read_job({"tp": 2}, parallel={"pp": 3}).parallel == ParallelSizes(tp=2, pp=3)
    with pytest.raises(ProblemError, match="size of tp must be given once, got 'tensor_parallel' too"):
        parallel_of({"tp": 2, "tensor_parallel": 2})
    with pytest.raises(ProblemError, match=r"sizes of a job must be one of tp, .* at least"):
        parallel_of({"lr": 1})


def test_lists_of_pairs_are_read_in_any_order_of_columns(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("bytes,src,dst\n1000,0,2\n500,2,1\n1000,0,2\n")
    profile = read_job(path, fabric="f")
    assert (profile.num_ranks, profile.job, profile.fabric) == (3, "pairs", "f")
    assert dense(profile).tolist() == [[0, 0, 2000], [0, 0, 0], [0, 500, 0]]
    assert read_job(profile.encode()) == profile
    assert read_job(profile.encode("application/json")) == profile


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("src,dst,bytes\n", "a list of pairs must be one with rows, got none"),
        ("src,dst,bytes\n1,2,x\n", "line 2 of a list of pairs must be three numbers"),
        ("src,dst,bytes\n1,2,nan\n", "bytes of line 2 must be 0 to"),
        ("src,dst,bytes\n-1,2,3\n", "src of line 2 must be 0 to 131072, got '-1'"),
        ("HYBRID_TRANSFORMER x\n3\n", "layers of a SimAI workload must be 3, as line 2 says, got 0"),
        ("HYBRID_TRANSFORMER x\nthree\n", "line 2 of a SimAI workload must be the number of layers"),
        ("HYBRID_TRANSFORMER tp: 2\n1\na -1 0 GOSSIP 3 1 NONE 0 1 NONE 0 1\n", "collective of line 3 must be NONE or one of"),
        ("hello\n", "a job must be of one of the formats sizes, simai, csv, frame"),
    ],
)  # fmt: skip
def test_what_is_no_job_is_refused_by_name(text, message):
    with pytest.raises(ProblemError, match=message):
        read_job(text)
