"""YAML from strangers: no aliases, which could grow beyond their bytes, no key twice, and no more than a megabyte."""

from __future__ import annotations

from typing import Any, Final

import yaml

from qstream.errors import ProblemError
from schemas.wording import Shown, must_be

MAX_BYTES: Final = 1_000_000


class _Loader(yaml.SafeLoader):
    """SafeLoader without aliases, that takes numbers in names for text and refuses a key that stands twice."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ProblemError(must_be("YAML", "without aliases", Shown("one")))
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        texts = [str(key) for key in keys]
        if len(set(texts)) < len(texts):
            raise ProblemError(must_be("keys of a mapping", "distinct", Shown(f"one of {texts[:8]} twice")))
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """What YAML holds; `ProblemError` if it is none, or larger than 1 MB."""
    if len(text) > MAX_BYTES:
        raise ProblemError(must_be("size of YAML", f"at most {MAX_BYTES} bytes", len(text)))
    try:
        return yaml.load(text, _Loader)
    except ProblemError:
        raise
    except (ValueError, TypeError, yaml.YAMLError, RecursionError) as exc:
        raise ProblemError(must_be("YAML", f"well-formed ({' '.join(str(exc).split())[:120]})", Shown("other text"))) from exc
