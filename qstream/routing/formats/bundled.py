"""The recording that is shipped with qstream, to try things with."""

from __future__ import annotations

from pathlib import Path
from typing import Final

# qstream is installed as files, never as a zip: numba's caches and the Lua script need that too.
BUNDLED: Final = Path(__file__).parents[1] / "recordings" / "esft.npz"
