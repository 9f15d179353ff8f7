"""`qstream nvlink place`: jobs of every form on real and drawn fabrics; tables, exports, pages, and what wrong input gets."""

from __future__ import annotations

import csv
import json
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml

from qstream.nvlink import metis
from qstream.nvlink.formats.export import EXPORTERS
from qstream.nvlink.profile import job_profile, job_traffic
from qstream.nvlink.systems import generate
from schemas.fabric import FabricPlan
from schemas.frame import JSON

SIZES = ("--tp", 4, "--pp", 2, "--dp", 4)


def costs(data):
    return {row["name"]: row["cost_us"] for row in data["placements"]}


@pytest.mark.parametrize(
    ("words", "topology"),
    [
        (SIZES, "hgx-h100:6"),
        (("--tp", 8), "dgx-1v"),
        (("--tp", 4, "--ep", 8, "--dp", 18), "gb200-nvl72:2"),
        (("--tp", 2, "--dp", 4), "rccl/topo_8p1h.xml"),
        (("--tp", 2, "--dp", 24), "topograph/small-tree.yaml"),
    ],
)
def test_ours_is_never_above_the_linear_order_nor_random(printed, fabrics, words, topology):
    data = printed("place", *words, "--topology", topology if ":" in topology or "-" in topology[:5] else fabrics / topology)
    cost = costs(data)
    assert cost["qstream"] <= cost["linear"] * (1 + 1e-12)
    assert cost["qstream"] <= cost["random"] * (1 + 1e-12)
    assert ("METIS" in cost) is (metis.is_installed() and len(data["candidates"]) > 2)
    assert data["modelled"]
    assert len(set(data["gpu_of_rank"])) == data["ranks"]


def test_workloads_pairs_matrices_frames_and_sizes_are_jobs(printed, fabrics, tmp_path):
    profile = job_profile({"tp": 4, "pp": 2, "dp": 4}, volumes={"tp": 4e9, "dp": 1e9, "pp": 0.25e9})
    src, dst, nbytes = job_traffic(profile)
    matrix = np.zeros((32, 32))
    matrix[src, dst] = nbytes
    np.save(tmp_path / "m.npy", matrix)
    np.savez(tmp_path / "m.npz", bytes=matrix.reshape(4, 8, 4, 8))
    rows = "\n".join(f"{a},{b},{c:.0f}" for a, b, c in zip(src, dst, nbytes, strict=True))
    (tmp_path / "m.csv").write_text(f"src,dst,bytes\n{rows}\n")
    (tmp_path / "frame.json").write_bytes(profile.encode(JSON))
    files = [tmp_path / name for name in ("m.npy", "m.npz", "m.csv", "frame.json")]
    found = [costs(printed("place", file, "--topology", "hgx-h100:4")) for file in files]
    by_sizes = ("--bytes", "tp=4e9", "--bytes", "dp=1e9", "--bytes", "pp=0.25e9")
    found.append(costs(printed("place", *SIZES, *by_sizes, "--topology", "hgx-h100:4")))
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-6)
    data = printed("place", fabrics / "simai" / "gpt13b_tp8_sp.txt", "--dp", 4, "--topology", "hgx-h100:4")
    assert data["ranks"] == 32
    assert data["job"] == "gpt13b_tp8_sp"


@pytest.mark.parametrize("system", ["hgx-a100", "hgx-h100", "hgx-b200", "gb200-nvl72"])
def test_one_healthy_box_gains_nothing_and_says_why(invoke, printed, system):
    data = printed("place", "--tp", 8, "--topology", system)
    assert data["skip_reason"] == "single tier, nothing blocks"
    assert len(set(costs(data).values())) == 1
    assert data["gpu_of_rank"] == sorted(data["gpu_of_rank"], key=data["gpu_of_rank"].index)
    text = invoke("place", "--tp", 8, "--topology", system).stdout
    assert "the placement stays: single tier, nothing blocks; gain 0" in text


def test_only_what_is_free_is_used(printed):
    free = "r0h[1-2],r0h4g[0-3],r0h5g7"
    data = printed("place", "--tp", 4, "--dp", 5, "--topology", "hgx-h100:6", "--free", free)
    assert {name[:4] for name in data["gpu_of_rank"]} <= {"r0h1", "r0h2", "r0h4", "r0h5"}
    assert data["free_gpus"] == 21


def test_slices_are_balanced_where_that_is_asked_for(printed):
    data = printed("place", "--dp", 12, "--topology", "hgx-h100:2", "--balanced")
    assert sorted(name[:4] for name in data["gpu_of_rank"]) == ["r0h0"] * 6 + ["r0h1"] * 6


def test_a_placement_in_force_is_read_in_every_form_and_stays_where_nothing_is_won(printed, tmp_path):
    words = ("place", *SIZES, "--topology", "hgx-h100:6")
    first = printed(*words, "--export", "csv", "--out", tmp_path / "now.csv")
    printed(*words, "--export", "rankfile", "--out", tmp_path / "ranks")
    printed(*words, "--export", "json", "--out", tmp_path / "plan.json")
    (tmp_path / "list.json").write_text(json.dumps(first["gpu_of_rank"]))
    for name in ("now.csv", "ranks", "plan.json", "list.json"):
        again = printed(*words, "--current", tmp_path / name, "--set", "rails=false")
        assert again["gpu_of_rank"] == first["gpu_of_rank"]
        assert again["skip_reason"] == "gain_too_small"
        assert {row["name"]: row["moved"] for row in again["placements"]}["qstream"] == 0


def test_a_bad_placement_in_force_is_left(printed, tmp_path):
    names = [f"r0h{host}g{gpu}" for gpu in range(8) for host in range(4)]
    (tmp_path / "now.json").write_text(json.dumps(names))
    data = printed("place", *SIZES, "--topology", "hgx-h100:4", "--current", tmp_path / "now.json")
    assert data["skip_reason"] is None
    assert costs(data)["qstream"] < costs(data)["in force"]
    assert data["score"]["gain"] > 0.5


@pytest.mark.parametrize("name", EXPORTERS)
def test_every_export_is_what_its_reader_reads(invoke, tmp_path, name):
    out = tmp_path / "out"
    result = invoke("place", *SIZES, "--topology", "hgx-h100:4", "--export", name, "--out", out)
    assert result.exit_code == 0, result.output
    body = out.read_text()
    if name == "slurm":
        assert yaml.safe_load(body)[0]["block"]["block_sizes"] == [1, 2, 4]
        assert len((tmp_path / "out.hostfile").read_text().split()) == 32
        assert "--distribution=arbitrary" in (tmp_path / "out.sbatch.args").read_text()
    elif name in ("kueue", "kai"):
        assert yaml.safe_load(body)["metadata"]["annotations"]
    elif name == "rank-cost":
        matrix = np.array(json.loads(body))
        assert matrix.shape == (32, 32)
        assert not matrix.diagonal().any()
    elif name in ("csv", "nccl-tuner"):
        assert list(csv.DictReader(body.splitlines()))
    elif name == "json":
        assert len(FabricPlan.decode(out.read_bytes(), JSON).gpu_of_rank) == 32
    else:
        assert body


def test_an_export_of_several_files_goes_into_a_folder(printed, tmp_path):
    data = printed("place", *SIZES, "--topology", "hgx-h100:4", "--export", "slurm", "--out", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hostfile", "sbatch.args", "topology.yaml"]
    assert len(data["written"]) == 3


class _Pictures(HTMLParser):
    """Counts pictures, and the text."""

    def __init__(self):
        super().__init__()
        self.svg, self.text, self.tags = 0, "", []

    def handle_starttag(self, tag, attrs):
        self.svg += tag == "svg"
        self.tags.append(tag)
        assert not {"src", "href"} & {name for name, _ in attrs}  # one file, nothing is fetched

    def handle_data(self, data):
        self.text += data


def test_the_page_has_the_table_and_pictures_and_no_other_file(invoke, tmp_path):
    graph = {"nodes": [], "edges": []}
    for gpu in range(4):
        graph["nodes"].append({"id": f"<b>gpu{gpu}</b>", "type": "gpu", "host": f"<script>h{gpu // 2}</script>"})
    for other in (1, 2, 3):
        ends = {"source": "<b>gpu0</b>", "target": f"<b>gpu{other}</b>"}
        graph["edges"].append(ends | {"kind": "nvlink", "bw_gb_s": 25.0 * other})
    (tmp_path / "box.json").write_text(json.dumps(graph))
    for topology, sizes in (("hgx-h100:4", SIZES), (tmp_path / "box.json", ("--tp", 2, "--dp", 2))):
        page = tmp_path / "page.html"
        result = invoke("place", *sizes, "--topology", topology, "--html", page)
        assert result.exit_code == 0, result.output
        found = _Pictures()
        found.feed(page.read_text())
        assert found.svg == 5
        assert "modelled" in found.text
        assert "script" not in found.tags
        again = tmp_path / "again.html"
        invoke("place", *sizes, "--topology", topology, "--html", again)
        assert again.read_bytes() == page.read_bytes()


@pytest.mark.parametrize(
    ("words", "code", "wanted"),
    [
        (("--topology", "hgx-h100"), 2, "JOB must be a file, or sizes such as --tp 8 --dp 4"),
        (("--tp", 8), 2, "--topology must be given"),
        (("--tp", 8, "--topology", "no.json"), 2, "--topology must be a file that can be read"),
        (("no.csv", "--topology", "hgx-h100"), 2, "JOB must be a file that can be read"),
        (("--tp", 16, "--topology", "hgx-h100"), 1, "ranks must be at most the 8 GPUs that are free, got 16"),
        (("--dp", 3, "--ep", 2, "--topology", "hgx-h100"), 1, "Error: ep must be a divisor of tp * cp * dp, 3, got 2"),
        (("--tp", 9, "--topology", "hgx-h100:2", "--max-slices", 1), 1, "at most 1 slices hold them"),
        (("--tp", 8, "--topology", "hgx-h100", "--export", "excel"), 2, "--export must be one of slurm, kueue"),
        (("--tp", 8, "--topology", "hgx-h100", "--out", "x"), 2, "--export must be given with --out"),
        (("--tp", 8, "--topology", "hgx-h100", "--free", "r0h9"), 2, "--free must be names of GPUs, hosts or domains"),
        (("--tp", 8, "--topology", "hgx-h100", "--free", "r0h[9"), 2, "--free must be names of GPUs, hosts or domains"),
        (("--tp", 8, "--topology", "hgx-h100", "--bytes", "tp"), 2, "--bytes must be DIVISION=BYTES"),
        (("--tp", 8, "--topology", "hgx-h100", "--bytes", "zz=1"), 1, "a division of volumes must be one of tp, cp"),
        (("--tp", 8, "--topology", "hgx-h100", "--order", "tp-pp"), 1, "order must be tp, cp, ep, dp, pp in any order"),
        (("--tp", 8, "--topology", "hgx-h100", "--set", "rl=true", "--set", "shares=wcmp"), 2, "option rl must be false"),
        (("--tp", 8, "--topology", "hgx-h100", "--set", "speed=9"), 2, "speed"),
    ],
)
def test_what_is_wrong_is_named_with_the_rule(invoke, words, code, wanted):
    result = invoke("place", *words)
    assert result.exit_code == code
    assert wanted in result.stderr, result.stderr


@pytest.mark.parametrize(
    ("name", "body", "wanted"),
    [
        ("m.npy", np.full((3, 4), 1.0), "square matrix"),
        ("m.npy", np.full((4, 4), -1.0), "at least 0"),
        ("m.npy", np.full((4, 4), np.nan), "finite"),
        ("m.csv", "src,dst\n0,1\n", "src, dst and bytes"),
        ("m.csv", "src,dst,bytes\n0,1,-3\n", "bytes of line 2"),
        ("m.csv", "src,dst,bytes\n0,1.5,3\n", "dst of line 2"),
        ("m.txt", "hello", "must be of one of the formats"),
        ("m.npy", "hello", "m.npy"),
        ("m.json", "{", "JSON"),
    ],
)
def test_a_wrong_job_is_named_with_its_file(invoke, tmp_path, name, body, wanted):
    path = tmp_path / name
    np.save(path, body) if isinstance(body, np.ndarray) else path.write_text(body)
    result = invoke("place", path, "--topology", "hgx-h100")
    assert result.exit_code == 1
    assert wanted in result.stderr, result.stderr
    assert name in result.stderr


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("rank,gpu\n0,r0h0g0\n0,r0h0g1\n", "rank of line 3 must be given once, got 0"),
        ("rank,gpu\n0,r0h0g0\n2,r0h0g1\n", "got no rank 1"),
        ("rank,gpu\n0,r9\n", "GPU of line 2 must be a GPU of the topology, got 'r9'"),
        ("rank 0=r0h0 slot=8\n", "GPU of line 1 must be a GPU of the topology"),
        ('["r0h0g0"]', "for each of 2 ranks"),
        ('["r0h0g0", "r0h0g0"]', "a GPU of its own for each rank"),
        ('["r0h0g0", true]', "GPU of rank 1 must be a GPU of the topology"),
        ("[1", "JSON"),
        ("hello\n", "columns of a placement must be rank and gpu"),
    ],
)
def test_a_wrong_placement_in_force_is_named(invoke, tmp_path, body, wanted):
    (tmp_path / "now").write_text(body)
    result = invoke("place", "--tp", 2, "--topology", "hgx-h100:2", "--current", tmp_path / "now")
    assert result.exit_code == 1
    assert wanted in result.stderr, result.stderr


def test_a_plan_of_another_fabric_is_refused(invoke, tmp_path):
    invoke("place", "--tp", 8, "--topology", "hgx-h100:2", "--export", "json", "--out", tmp_path / "plan.json")
    result = invoke("place", "--tp", 8, "--topology", "hgx-h100:3", "--current", tmp_path / "plan.json")
    assert result.exit_code == 1
    assert f"topology_digest must be that of the topology, {generate('hgx-h100', hosts=3).digest()}" in result.stderr


def test_sizes_besides_pairs_are_refused_and_not_passed_over(invoke, tmp_path):
    (tmp_path / "m.csv").write_text("src,dst,bytes\n0,1,5\n")
    result = invoke("place", tmp_path / "m.csv", "--tp", 2, "--topology", "hgx-h100")
    assert result.exit_code == 2
    assert "sizes must be absent with a job that says what each rank sends" in result.stderr


def test_a_job_whose_gpu_has_died_is_placed_afresh(invoke, printed, tmp_path):
    words = ("place", "--tp", 8, "--dp", 2, "--topology")
    printed(*words, "hgx-h100:3", "--export", "csv", "--out", tmp_path / "now.csv")
    invoke("convert", "hgx-h100:3", "--to", "networkx", "--out", tmp_path / "pod.json")
    graph = json.loads((tmp_path / "pod.json").read_text())
    next(node for node in graph["nodes"] if node["id"] == "r0h0g3")["health"] = "down"
    (tmp_path / "pod.json").write_text(json.dumps(graph))
    data = printed(*words, tmp_path / "pod.json", "--current", tmp_path / "now.csv")
    assert "r0h0g3" not in data["gpu_of_rank"]
    assert "in force" not in costs(data)
    text = invoke(*words, tmp_path / "pod.json", "--current", tmp_path / "now.csv").stdout
    assert "the placement in force is on GPUs that are down" in text
