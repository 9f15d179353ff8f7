"""The command of a trial: train the model with the settings of the command line, and print the loss as a line of JSON."""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from qstream.demo.hpo.model import SPACE, Settings, train

YIELDING = 10  # steps of niceness: the broker and the agent, which have machines of their own elsewhere, go first
TYPES: dict[str, Any] = {"float": float, "int": int, "categorical": str}


def main(words: list[str] | None = None) -> None:
    """NaN is printed for training that diverged, as a program prints that knows nothing of studies."""
    parser = argparse.ArgumentParser(prog="python -m qstream.demo.hpo.trial")
    parser.add_argument("--text", type=Path, required=True, help="the text, as an array of bytes (.npy)")
    parser.add_argument("--seed", type=int, default=0)
    for parameter in SPACE:
        parser.add_argument(f"--{parameter['name']}", type=TYPES[parameter["type"]], required=True)
    given = vars(parser.parse_args(words))
    text, seed = np.load(given.pop("text")), given.pop("seed")
    loss = train(Settings(**given), text, seed)
    print(json.dumps({"loss": math.nan if loss is None else loss}))  # noqa: T201 - what the worker reads


if __name__ == "__main__":
    os.nice(YIELDING)
    main()
