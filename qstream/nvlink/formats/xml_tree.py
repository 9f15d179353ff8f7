"""XML from strangers as a small tree: what could grow beyond its bytes, or reach out, is refused before it is expanded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat

from qstream.errors import ProblemError
from schemas.wording import Shown, must_be

MAX_BYTES: Final = 4_000_000
MAX_ELEMENTS: Final = 100_000
MAX_DEPTH: Final = 64


@dataclass(slots=True)
class Element:
    """An element: its name, its attributes, the elements in it, and the text in it."""

    tag: str
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def get(self, name: str, default: str = "") -> str:
        """An attribute."""
        return self.attributes.get(name, default)

    def find(self, *path: str) -> str:
        """The text of the first element that this path of names leads to, empty if there is none."""
        at: Element | None = self
        for tag in path:
            at = next((child for child in at.children if child.tag == tag), None) if at else None
        return at.text.strip() if at else ""

    def walk(self) -> Iterator[Element]:
        """This element and all in it, in the order of the file."""
        stack = [self]
        while stack:
            element = stack.pop()
            yield element
            stack.extend(reversed(element.children))


def read_xml(data: bytes) -> Element:
    """The root of an XML document.

    A DOCTYPE that names a DTD is passed over, as `nvidia-smi` writes one; nothing is fetched.

    Raises
    ------
    ProblemError
        More than 4 MB, 100,000 elements or a depth of 64, entities of its own, or no XML.
    """
    if len(data) > MAX_BYTES:
        raise ProblemError(must_be("size of XML", f"at most {MAX_BYTES} bytes", len(data)))
    root = Element("", {})
    stack = [root]
    seen = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal seen
        seen += 1
        if seen > MAX_ELEMENTS:
            raise ProblemError(must_be("elements of XML", f"at most {MAX_ELEMENTS}", Shown("more")))
        if len(stack) > MAX_DEPTH:
            raise ProblemError(must_be("depth of XML", f"at most {MAX_DEPTH}", Shown("more")))
        element = Element(tag, attributes)
        stack[-1].children.append(element)
        stack.append(element)

    def end(_tag: str) -> None:
        stack.pop()

    def text(data: str) -> None:
        stack[-1].text += data

    def entity(name: str, *_rest: object) -> None:
        raise ProblemError(must_be("XML", "without entities", Shown(f"entity {name!r}")))

    def outside(_context: str, _base: str | None, system: str | None, _public: str | None) -> int:
        raise ProblemError(must_be("XML", "without entities", Shown(f"one from {system!r}")))

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.EntityDeclHandler = entity
    parser.SkippedEntityHandler = entity
    parser.ExternalEntityRefHandler = outside
    try:
        parser.Parse(data, True)
    except expat.ExpatError as exc:
        raise ProblemError(must_be("XML", f"well-formed ({exc})", Shown(f"{len(data)} bytes"))) from exc
    return root.children[0]
