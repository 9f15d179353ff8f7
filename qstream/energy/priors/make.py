"""Make the bundled priors: ``python -m qstream.energy.priors.make FOLDER``, which holds summary_power_*.csv of ml-energy/zeus."""

from __future__ import annotations

import csv
import io
import sys
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Final

import numpy as np

from qstream.energy.prior import CapPrior, fit_prior
from qstream.energy.sweeps import Sweep

_GPUS: Final = ("p100", "v100", "rtx6000")
_LEAST_LEVELS: Final = 6
_MODELLED: Final = 200
_MHZ: Final = 1980.0
_WATTS: Final = (70.0, 700.0)  # idle, and at full activity and clock
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # of every file of the archive, so that equal arrays give equal bytes


def measured(folder: Path) -> list[Sweep]:
    """Every job of the tables with at least 6 power limits; of repeated rows the first counts."""
    found = []
    for gpu in _GPUS:
        jobs: dict[tuple[str, ...], dict[float, tuple[float, float]]] = defaultdict(dict)
        for row in csv.DictReader((folder / f"summary_power_{gpu}.csv").read_text().splitlines()):
            time_s, power_w = float(row["time_per_epoch"] or "nan"), float(row["average_power"] or "nan")
            if np.isfinite(time_s * power_w):
                job = (row["dataset"], row["network"], row["batch_size"], row["optimizer"])
                jobs[job].setdefault(float(row["power_limit"]), (time_s, power_w))
        for _, points in sorted(jobs.items()):
            if len(points) >= _LEAST_LEVELS:
                time_s, power_w = np.array([points[level] for level in sorted(points)]).T
                found.append(Sweep(gpu, np.array(sorted(points)), time_s, power_w))
    return found


def modelled(count: int, seed: int, clocks: int = 13) -> list[Sweep]:
    """Jobs that spend a part beta of their time waiting for the clock: time beta / x + 1 - beta, power idle + a (linear x + the
    rest x^3)."""
    rng, x = np.random.default_rng(seed), np.linspace(0.4, 1.0, clocks)
    found = []
    for _ in range(count):
        beta, activity, linear = rng.uniform(0.05, 0.95), rng.uniform(0.2, 1.0), rng.uniform(0.2, 0.5)
        power = _WATTS[0] + activity * (_WATTS[1] - _WATTS[0]) * (linear * x + (1 - linear) * x**3)
        found.append(Sweep("modelled", _MHZ * x, beta / x + 1 - beta, power, "sm_clock_mhz"))
    return found


def packed(prior: CapPrior) -> bytes:
    """The prior as a compressed archive of float32 arrays."""
    arrays = {"gpu": np.array(prior.gpu), "draw": prior.draw.astype(np.float32), "curves": prior.curves.astype(np.float32)}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, array in arrays.items():
            one = io.BytesIO()
            np.save(one, array, allow_pickle=False)
            file.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), one.getvalue(), zipfile.ZIP_DEFLATED)
    return archive.getvalue()


def main(folder: Path) -> None:
    """Write both archives next to this file."""
    for sweeps in (measured(folder), modelled(_MODELLED, seed=0)):
        prior = fit_prior(sweeps)
        Path(__file__).with_name(f"{prior.knob}.npz").write_bytes(packed(prior))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
