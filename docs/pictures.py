"""Draws the pictures of these pages from what the product prints: `python -m docs.pictures NAME`, all without a name."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

HOME = Path(__file__).parent
PICTURES = HOME / "pages" / "pictures"
COLUMNS: Final = 92
WIDTH: Final = 920
SVG: Final = re.compile(r'<svg viewBox="([-\d. ]+)"[^>]*>(.*?)</svg>', re.DOTALL)


def placement() -> None:
    """The balance of each layer above the heat maps, side by side, as `qstream routing place --html` draws them."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "placement.html"
        shape = ("--gpus", "8", "--slots", "72")
        subprocess.run(["qstream", "routing", "place", "--example", *shape, "--html", str(page)], check=True)
        html = page.read_text()
    keys = [_key(text) for text in re.findall(r'<div class="key">(.*?)</div>', html)]
    (lines, *maps), names = SVG.findall(html), re.findall(r"<h2>(.*?)</h2>", html)[2:]
    gap, top = 20.0, 290.0
    wide = (WIDTH - gap * (len(maps) + 1)) / len(maps)
    parts = [
        _title("Balancedness of each layer", gap, 22),
        _shown(keys[0], gap + 230, 22),
        _placed(lines, gap, 34, WIDTH - 2 * gap),
    ]
    parts += [_title("Load of each GPU over the mean of its layer", gap, top), _shown(keys[1], gap, top + 22, 84)]
    for number, (found, name) in enumerate(zip(maps, names, strict=True)):
        left = gap + number * (wide + gap)
        parts += [_title(name, left, top + 56), _placed(found, left, top + 64, wide)]
    height = top + 64 + max(_height(found, wide) for found in maps) + gap
    _written("placement.svg", height, "load of each GPU", parts)


def power() -> None:
    """Watts of the domain above the limit of each GPU, as `qstream energy cap --html` draws them."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        subprocess.run(["qstream", "energy", "cap", "--example", "--html", str(page)], check=True)
        html = page.read_text()
    keys = [_key(text) for text in re.findall(r'<div class="key">(.*?)</div>', html)]
    parts, top = list[str](), 26.0
    for title, key, found in zip(re.findall(r"<h2>(.*?)</h2>", html), keys, SVG.findall(html), strict=True):
        parts += [_title(title, 20, top), _shown(key, 250, top), _placed(found, 20, top + 14, WIDTH - 40)]
        top += _height(found, WIDTH - 40) + 48
    _written("power.svg", top - 20, "power limits of a modelled rack", parts)


def _written(name: str, height: float, label: str, parts: list[str]) -> None:
    style = "text{font:11px system-ui,sans-serif;fill:#4a525c}.title{font-size:14px;font-weight:600;fill:#1c2127}"
    (PICTURES / name).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{label}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _key(text: str) -> list[tuple[str, str]]:
    return re.findall(r"background:(#\w+)\"></i>(.*?)</span>", text)


def _title(text: str, x: float, y: float) -> str:
    return f'<text class="title" x="{x:.0f}" y="{y:.0f}">{text}</text>'


def _shown(key: list[tuple[str, str]], x: float, y: float, step: float = 110) -> str:
    cells = []
    for number, (colour, name) in enumerate(key):
        left = x + number * step
        cells.append(f'<rect x="{left:.0f}" y="{y - 10:.0f}" width="11" height="11" fill="{colour}" stroke="#ddd"/>')
        cells.append(f'<text x="{left + 16:.0f}" y="{y:.0f}">{name}</text>')
    return "".join(cells)


def _height(found: tuple[str, str], wide: float) -> float:
    _, _, width, height = map(float, found[0].split())
    return wide * height / width


def _placed(found: tuple[str, str], x: float, y: float, wide: float) -> str:
    box, body = found
    return f'<svg x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{_height(found, wide):.1f}" viewBox="{box}">{body}</svg>'


def demo() -> None:
    """The demo in a terminal: its live panel near the end, and what it prints last."""
    printed = _in_terminal(["qstream", "demo", "--seconds", "30"]).replace("\r\n", "\n")
    panels = re.findall(r"╭.*?╯", printed, re.DOTALL)
    if panels:
        _terminal("demo-live.svg", "qstream demo, while it runs", panels[-1])
    _terminal("demo.svg", "qstream demo, at its end", printed[printed.rindex("qstream demo:") :].split("\nPlacement:")[0])


def _in_terminal(command: list[str]) -> str:
    """What a command prints when a terminal reads it."""
    size = {"COLUMNS": str(COLUMNS), "LINES": "50", "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env={**os.environ, **size}) as process:
        os.close(theirs)
        parts = []
        try:
            while part := os.read(ours, 65536):
                parts.append(part)
        except OSError:  # so Linux says that the other side has closed the terminal
            pass
        os.close(ours)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {b''.join(parts[-3:]).decode()}")
    return b"".join(parts).decode()


def _terminal(name: str, title: str, text: str) -> None:
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True, color_system="truecolor")
        console.print(Text.from_ansi(text), soft_wrap=True)
    # No font from elsewhere: the reader's own monospace font draws it.
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title=title), flags=re.DOTALL)
    (PICTURES / name).write_text("\n".join(line.rstrip() for line in drawn.splitlines()) + "\n")


DRAWN: Mapping[str, Callable[[], None]] = {"placement": placement, "power": power, "demo": demo}


def main(names: list[str]) -> None:
    """Draw the pictures of those names, all without any."""
    for name in names or DRAWN:
        DRAWN[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
