"""Install engines' wheels and ours into a throwaway folder, without their dependencies, and run our plug-ins in their code.

It needs a package index, a few GB in the folder for temporary files, and no GPU. Not part of CI.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What `import` of their EPLB needs beyond the demo's torch; found by trying, and without what these need in turn.
NEEDED = [
    "apache-tvm-ffi",
    "cbor2",
    "compressed-tensors",
    "dill",
    "einops",
    "gguf",
    "httpcore2",
    "httpx2",
    "huggingface_hub",
    "ipython",
    "llguidance",
    "loguru",
    "msgspec",
    "openai",
    "openai-harmony",
    "orjson",
    "partial-json-parser",
    "pillow",
    "py-cpuinfo",
    "pybase64",
    "pyzmq",
    "regex",
    "sentencepiece",
    "sniffio",
    "tokenizers",
    "torchvision",
    "traitlets",
    "transformers",
    "truststore",
    "uvloop",
    "xgrammar",
]
VERSIONS = {"vllm": "0.33.0", "sglang": "0.5.23"}


def main() -> None:
    """The engines named as NAME or NAME==VERSION; by default those of `VERSIONS`."""
    wanted = sys.argv[1:] or [f"{name}=={version}" for name, version in VERSIONS.items()]
    with tempfile.TemporaryDirectory(prefix="qstream-engines-") as name:
        folder = Path(name)
        subprocess.run([sys.executable, ROOT / "deploy/wheels.py", folder / "dist"], check=True)
        install(folder / "site", [str(wheel) for wheel in (folder / "dist").glob("*.whl")] + NEEDED)
        failed = [engine for engine in wanted if not right(folder, engine)]
    if failed:
        sys.exit(f"not right: {', '.join(failed)}")


def install(folder: Path, packages: list[str]) -> bool:
    """Whether pip could put them into the folder."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *packages]
    return subprocess.run(command, check=False).returncode == 0


def right(folder: Path, engine: str) -> bool:
    """Install an engine and run its check; one that does not install here is told and passed over."""
    name = engine.partition("==")[0]
    if not install(folder / name, [engine]):
        print(f"{engine}: does not install here, not checked")
        return True
    path = os.pathsep.join(map(str, (folder / "site", folder / name)))
    environment = os.environ | {"PYTHONPATH": path, "QSTREAM_EPLB": "planner"}
    command = [sys.executable, "-W", "ignore", ROOT / f"tests/engines/check_{name}.py"]
    return subprocess.run(command, env=environment, cwd=folder, check=False).returncode == 0


if __name__ == "__main__":
    main()
