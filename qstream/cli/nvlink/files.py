"""What commands of nvlink read: fabrics, jobs and matrices, from files, standard input, sizes, or names of products."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from qstream.cli.paths import require_readable
from qstream.errors import ConfigError, ProblemError
from schemas.wording import Shown, must_be

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from schemas.fabric import FabricTopology, JobProfile

STDIN: Final = "-"
SYSTEM: Final = re.compile(r"([a-z0-9]+-[a-z0-9]+)(?::(\d{1,5}))?")  # hgx-h100:4
ARRAYS: Final = (".npy", ".npz", ".pt")
MAX_MATRIX_RANKS: Final = 4096
MAX_CSV_BYTES: Final = 1 << 28
MAX_MATRIX_BYTES: Final = 2.0**62
SOURCE_HELP: Final = "A description of a fabric, - for stdin, or SYSTEM[:N] such as dgx-1v, hgx-h100:4, gb200-nvl72:8."
JOB_HELP: Final = (
    "A JobProfile, a SimAI workload, src,dst,bytes as CSV, a matrix of bytes as .npy, .npz or CSV, or sizes as YAML."
)

Source = Annotated[str, typer.Argument(metavar="FILE", help=SOURCE_HELP)]
GpusPerHost = Annotated[
    int, typer.Option("--gpus-per-host", min=1, max=1024, help="GPUs of a host, where the file knows hosts only.")
]
FormatOption = Annotated[
    str, typer.Option("--format", metavar="NAME", help="What the file is; else found out: nccl, smi-topo, slurm and so on.")
]
Free = Annotated[
    str | None,
    typer.Option("--free", metavar="LIST", help="Free GPUs, hosts or domains, as r0h[0-3],r1h0g2; else as the file says."),
]
Current = Annotated[
    Path | None,
    typer.Option("--current", metavar="FILE", help="Where the job runs: a plan, CSV, rank file, or JSON list of GPUs."),
]


def required_topology(given: str | None) -> str:
    """The option --topology, which what plans a job needs."""
    if given is None:
        raise ConfigError(must_be("--topology", "given: a file, or SYSTEM[:N] such as gb200-nvl72:8", Shown("nothing")))
    return given


def read_fabric(
    source: str,
    *,
    format: str = "auto",  # noqa: A002 the word users know
    gpus_per_host: int = 8,
    name: str = "FILE",
) -> FabricTopology:
    """The fabric of a file, of standard input, or of products by name.

    Raises
    ------
    ConfigError
        There is no such file, or no such format; `name` is the argument.
    ProblemError
        What is wrong with the description: file, field, value and rule.
    """
    from qstream.nvlink.formats.read import FORMATS, MAX_BYTES, read_topology  # noqa: PLC0415 - numpy, not for help

    if format not in FORMATS:
        raise ConfigError(must_be("--format", f"one of {', '.join(FORMATS)}", format))
    if (found := _system(source)) is not None:
        return found
    given: bytes | Path = Path(source)
    if source == STDIN:
        given = sys.stdin.buffer.read(MAX_BYTES + 1)
    else:
        require_readable(name, Path(source))
    try:
        return read_topology(given, format=format, gpus_per_host=gpus_per_host)  # type: ignore[arg-type]
    except ProblemError as exc:
        raise ProblemError(f"{'stdin' if source == STDIN else source}: {exc}") from exc


def _system(source: str) -> FabricTopology | None:
    """The products that a text names, None where it is a file or no such name."""
    from qstream.nvlink.systems import SYSTEMS, generate  # noqa: PLC0415 - as above

    found = SYSTEM.fullmatch(source)
    if found is None or found[1] not in SYSTEMS or Path(source).exists():
        return None
    many = int(found[2] or 1)
    racks, hosts = (many, 1) if found[1] == "gb200-nvl72" else (1, many)
    return generate(found[1], racks=racks, hosts=hosts)  # type: ignore[arg-type]


def read_work(
    job: Path | None,
    sizes: dict[str, int],
    volumes: list[str] | None = None,
    *,
    fabric: str = "fabric",
    order: str = "tp-cp-ep-dp-pp",
) -> JobProfile:
    """The job of a file, with sizes that it leaves open, or of sizes alone.

    A matrix of bytes [ranks, ranks], or [hosts, GPUs, hosts, GPUs], is a job whose pairs are its entries.

    Raises
    ------
    ConfigError
        Neither a file nor a size, no such file, or sizes besides a file that leaves none open.
    ProblemError
        What is wrong with the job: file, field, value and rule.
    """
    from qstream.nvlink.formats.jobs import read_job  # noqa: PLC0415 - numpy, not for help

    given = None if volumes is None else _volumes(volumes)
    if job is None:
        if not sizes:
            raise ConfigError(must_be("JOB", "a file, or sizes such as --tp 8 --dp 4", Shown("neither")))
        return read_job(sizes, volumes=given, order=order, fabric=fabric)
    require_readable("JOB", job)
    try:
        if job.suffix in ARRAYS:
            if sizes or volumes:
                raise ConfigError(
                    must_be("sizes", "absent with a matrix, which says what ranks send", Shown(str(sizes or volumes)))
                )
            return profile_of(read_matrix(job), fabric=fabric, job=job.stem)
        if job.suffix == ".csv" and not sizes and (matrix := csv_matrix(job)) is not None:
            return profile_of(matrix, fabric=fabric, job=job.stem)
        kind: Literal["csv", "auto"] = "csv" if job.suffix == ".csv" else "auto"
        found = read_job(job, format=kind, parallel=sizes, volumes=given, order=order, fabric=fabric)
        if any(found.parallel is None or getattr(found.parallel, name) != size for name, size in sizes.items()):
            raise ConfigError(must_be("sizes", "absent with a job that says what each rank sends", Shown(str(sizes))))
        return found
    except ProblemError as exc:
        raise ProblemError(f"{job}: {exc}") from exc


def read_matrix(path: Path) -> NDArray[np.float64]:
    """The square matrix of a file of arrays, float64 [n, n]: not negative, finite; four axes are taken two by two.

    An .npz has one array, or one that is called ``bytes``, ``matrix`` or ``array``.
    """
    import numpy as np  # noqa: PLC0415 - as above

    from qstream.array_files import read_tree  # noqa: PLC0415 - safetensors, not for help

    arrays = read_tree(path)
    names = [name for name in ("bytes", "nbytes", "matrix", "array") if name in arrays] or (
        list(arrays) if len(arrays) == 1 else []
    )
    if not names:
        raise ProblemError(must_be("arrays of a matrix", "one, or one called bytes", Shown(", ".join(list(arrays)[:8]))))
    found = np.asarray(arrays[names[0]])
    return _square(names[0], found)


def csv_matrix(path: Path) -> NDArray[np.float64] | None:
    """The square matrix of a CSV of numbers alone, float64 [n, n]; None where its first line has words, as src,dst,bytes."""
    import numpy as np  # noqa: PLC0415 - as above

    with path.open(errors="replace") as file:
        first = file.readline().split(",")
    try:
        [float(word) for word in first]
    except ValueError:
        return None
    if path.stat().st_size > MAX_CSV_BYTES:
        raise ProblemError(must_be("a matrix", f"a CSV of at most {MAX_CSV_BYTES} bytes", path.stat().st_size))
    try:
        return _square("rows", np.loadtxt(path, delimiter=",", ndmin=2))
    except ValueError as exc:
        raise ProblemError(must_be("rows", "of as many numbers each, parted by commas", Shown(str(exc)[:200]))) from exc


def _square(name: str, found: NDArray[np.generic]) -> NDArray[np.float64]:
    import numpy as np  # noqa: PLC0415 - as above

    if found.ndim == 4 and found.shape[:2] == found.shape[2:]:
        found = found.reshape(found.shape[0] * found.shape[1], -1)
    if found.ndim != 2 or found.shape[0] != found.shape[1]:
        raise ProblemError(must_be(name, "a square matrix [n, n] or [hosts, GPUs, hosts, GPUs]", Shown(f"shape {found.shape}")))
    if not 1 <= len(found) <= MAX_MATRIX_RANKS:
        raise ProblemError(must_be(f"rows of {name}", f"1 to {MAX_MATRIX_RANKS}", len(found)))
    if found.dtype.kind not in "iufb":
        raise ProblemError(must_be(name, "of numbers", Shown(f"dtype {found.dtype}")))
    values = found.astype(np.float64)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() >= MAX_MATRIX_BYTES:
        raise ProblemError(must_be(name, "finite, at least 0 and below 2**62", Shown(_worst(values))))
    return values


def profile_of(matrix: NDArray[np.float64], *, fabric: str = "fabric", job: str = "job") -> JobProfile:
    """A matrix of bytes [ranks, ranks] as a job; its diagonal is nothing that is sent."""
    import numpy as np  # noqa: PLC0415 - as above

    from schemas.fabric import JobProfile  # noqa: PLC0415 - as above

    src, dst = np.nonzero(matrix * ~np.eye(len(matrix), dtype=np.bool_))
    return JobProfile.build(
        fabric=fabric,
        job=job[:200] or "job",
        num_ranks=len(matrix),
        traffic_src=src.astype(np.int32),
        traffic_dst=dst.astype(np.int32),
        traffic_bytes=np.ceil(matrix[src, dst]).astype(np.int64),
    )


def matrix_of(profile: JobProfile) -> NDArray[np.float64]:
    """What each rank of a job sends to each other in a period, float64 [ranks, ranks] bytes; `ProblemError` above 4,096 ranks."""
    import numpy as np  # noqa: PLC0415 - as above

    from qstream.nvlink.profile import job_traffic  # noqa: PLC0415 - as above

    if profile.num_ranks > MAX_MATRIX_RANKS:
        raise ProblemError(must_be("ranks of a matrix", f"at most {MAX_MATRIX_RANKS}", profile.num_ranks))
    src, dst, nbytes = job_traffic(profile)
    matrix = np.zeros((profile.num_ranks, profile.num_ranks))
    matrix[src, dst] = nbytes
    return matrix


def _volumes(given: list[str]) -> dict[str, Any]:
    """``tp=4e9`` or ``tp.allgather=2e9``; `ProblemError` comes later, from what knows divisions and collectives."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        try:
            nbytes = float(value)
        except ValueError:
            nbytes = -1.0
        if not equals or not nbytes >= 0:
            raise ConfigError(must_be("--bytes", "DIVISION=BYTES, such as tp=4e9 or tp.allgather=2e9", text))
        division, _, collective = name.partition(".")
        known = found.setdefault(division, {} if collective else nbytes)
        if collective and isinstance(known, dict):
            known[collective] = nbytes
    return found


def _worst(values: NDArray[np.float64]) -> str:
    import numpy as np  # noqa: PLC0415 - as above

    bad = values[~np.isfinite(values)]
    return f"{bad[0]:g}" if bad.size else f"{values.min():g} to {values.max():g}"
