"""HTML: the parts that all reports have; a report is one page without any other file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

WIDTH: Final = 860  # of a picture
LEFT: Final = 44  # of its axis
GREY: Final = "#8a8f98"
ORANGE: Final = "#c9822b"
BLUE: Final = "#1b6e8c"
LINE: Final = "#e4e7eb"
STYLE: Final = f"""
body{{font:15px/1.5 system-ui,sans-serif;color:#1c2127;background:#fff;max-width:920px;margin:32px auto;padding:0 20px}}
h1{{font-size:22px;margin:0 0 4px}}h2{{font-size:16px;margin:32px 0 6px}}p{{margin:4px 0 12px;color:#4a525c}}
table{{border-collapse:collapse;width:100%}}th,td{{text-align:right;padding:6px 10px;border-bottom:1px solid {LINE}}}
th{{font-weight:600;color:#4a525c}}th:first-child,td:first-child{{text-align:left}}tr.ours td{{font-weight:600}}
svg{{display:block;width:100%;height:auto}}text{{font:11px system-ui,sans-serif;fill:#4a525c}}
i{{display:inline-block;width:12px;height:12px;border-radius:2px;margin-right:6px;vertical-align:-1px}}
.key span{{margin-right:14px;white-space:nowrap}}.key{{font-size:13px;color:#4a525c}}
""".replace("\n", "")


def document(title: str, body: str) -> str:
    """The page; `title` is text, `body` HTML."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><h1>{escape(title)}</h1>{body}</body></html>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], ours: str) -> str:
    """A table of texts; the row that begins with `ours` stands out."""
    lines = []
    for row in rows:
        mark = ' class="ours"' if row[0] == ours else ""
        lines.append(f"<tr{mark}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>")
    return f"<table><tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>{''.join(lines)}</table>"


def key(entries: Sequence[tuple[str, str]]) -> str:
    """What each colour of a picture stands for."""
    shown = "".join(f'<span><i style="background:{colour}"></i>{escape(name)}</span>' for colour, name in entries)
    return f'<div class="key">{shown}</div>'


def ticks(many: int, most: int) -> range:
    """At most that many of 0..many-1, evenly spread."""
    return range(0, many, -(-many // most))
