"""A trial's program for the tests: ``train.py --lr LR [--mode MODE]``; prints its loss as the last line of JSON."""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, required=True)
parser.add_argument("--mode", default="train")
parser.add_argument("--ready", help="a file that is made once it trains")
given = parser.parse_args()

print("step 1", flush=True)
if given.mode == "fail":
    sys.exit("no data")
if given.mode == "oom":
    raise MemoryError
if given.mode == "nan":
    print(json.dumps({"loss": math.nan}))
if given.mode == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if given.mode in ("hang", "stubborn", "family"):
    if given.mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) if given.mode == "family" else None
    if given.ready:
        with open(given.ready, "w") as file:
            file.write(str(child.pid if child else os.getpid()))
    time.sleep(600)
if given.mode == "train":
    print(json.dumps({"loss": (math.log10(given.lr) + 2) ** 2, "ms": 3, "trial": os.environ["HPO_TRIAL"]}))
    print("bye")
