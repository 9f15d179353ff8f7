"""The two wheels to publish: `qstream-client`, and `qstream-optimizer`, which requires the client and holds all else.

An install from the source tree is complete by itself. From an index both may come into one environment, where a file with two
owners breaks at the next upgrade of either; so the published `qstream-optimizer` leaves the client's files to the client.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ("agents", "qstream", "schemas", "deploy/client", "pyproject.toml", "README.md", "LICENSE")


def main() -> None:
    """Build both into a folder, `dist` by default."""
    parser = argparse.ArgumentParser(description="Build the wheels of qstream-client and qstream-optimizer.")
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "dist")
    parser.add_argument("--offline", action="store_true", help="build with the setuptools that is installed here")
    given = parser.parse_args()
    build(given.folder.resolve(), ["--no-build-isolation"] if given.offline else [])
    print(*sorted(path.name for path in given.folder.glob("*.whl")), sep="\n")  # noqa: T201


def build(folder: Path, pip_options: Sequence[str] = ()) -> None:
    """Build from a copy of the sources: an older `build` folder in the tree would leak into the wheels."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="qstream-wheels-") as name:
        copy = Path(name) / "source"
        for source in SOURCES:
            (copy / source).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, copy / source, ignore=shutil.ignore_patterns("__pycache__", "build"))
            else:
                shutil.copy2(ROOT / source, copy / source)
        client = _wheel(copy / "deploy/client", folder, pip_options)
        whole = _wheel(copy, Path(name) / "whole", pip_options)
        leave_out(client, whole, folder / whole.name)


def leave_out(part: Path, whole: Path, path: Path) -> None:
    """Write to `path` the wheel `whole` without the files of the wheel `part`, which it then requires at its own version."""
    name, version = part.name.split("-")[:2]
    requires = f"Requires-Dist: {name.replace('_', '-')}=={version}\n".encode()
    with zipfile.ZipFile(part) as known, zipfile.ZipFile(whole) as source:
        left = [entry for entry in source.infolist() if entry.filename not in known.namelist()]
        record = next(entry for entry in left if entry.filename.endswith(".dist-info/RECORD"))
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
            lines = []
            for entry in left:
                if entry is record:
                    continue
                data = source.read(entry)
                if entry.filename.endswith(".dist-info/METADATA"):
                    data = data.replace(b"Requires-Dist: ", requires + b"Requires-Dist: ", 1)
                digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
                lines.append(f"{entry.filename},sha256={digest},{len(data)}\n")
                target.writestr(entry, data)
            target.writestr(record, "".join(lines) + f"{record.filename},,\n")


def _wheel(project: Path, folder: Path, pip_options: Sequence[str]) -> Path:
    """Build the wheel of a project; RuntimeError with what pip says if it fails."""
    made = project / "wheel"
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(made), *pip_options, str(project)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{project.name}: pip wheel failed:\n{done.stdout[-3000:]}")
    (wheel,) = made.glob("*.whl")
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy2(wheel, folder))


if __name__ == "__main__":
    main()
