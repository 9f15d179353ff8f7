"""TokenBatch: tokens that flow through a mixture-of-experts model, one layer's gate choices with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from schemas.frame import Axes, Frame, FrameError, Name, Names, TimeNs, require
from schemas.wording import Shown, must_be

if TYPE_CHECKING:
    import pandas as pd

MAX_ID_BYTES = 256
GATE_PREFIXES = {"topk_ids": "topk_id_", "topk_weights": "topk_weight_"}


class TokenBatch(Frame):
    """Tokens of one model, in the order in which they arrived.

    With `topk_ids` the model's gate has chosen (of `layer`); without it the router chooses.
    """

    batch_id: Name = Field(description="name of the batch, which its routing plan repeats")
    ts_ns: TimeNs = Field(description="when the tokens arrived, ns since 1970")
    model: Name = Field(description="the model that the tokens flow through")
    layer: int | None = Field(default=None, ge=0, lt=4096, description="the layer whose gate chose `topk_ids`, from 0")
    deadline_ms: float | None = Field(
        default=None, gt=0, description="ms for which the routing plan may be applied; none: without limit"
    )
    label_names: Names = Field(
        default=(), max_length=4096, description="names of the labels that `label` indexes: tasks, tenants or adapters"
    )
    token_names: Names | None = Field(default=None, description="the string ids that were hashed into `token_id`, one a token")
    token_id: Annotated[NDArray[np.uint64], Axes("tokens")] = Field(
        description="id of each token, a number or the 64-bit FNV-1a hash of a string id"
    )
    request_id: Annotated[NDArray[np.uint64], Axes("tokens")] | None = Field(
        default=None, description="the request that each token belongs to"
    )
    position: Annotated[NDArray[np.int32], Axes("tokens")] | None = Field(
        default=None, description="position of each token in its request, from 0"
    )
    cost: Annotated[NDArray[np.float32], Axes("tokens")] | None = Field(
        default=None, description="work of each token in token-equivalents; absent: 1 each"
    )
    src_rank: Annotated[NDArray[np.int32], Axes("tokens")] | None = Field(
        default=None, description="the GPU that holds each token; -1 unknown"
    )
    label: Annotated[NDArray[np.int32], Axes("tokens")] | None = Field(
        default=None, description="index into `label_names`; -1 unknown"
    )
    topk_ids: Annotated[NDArray[np.int32], Axes("tokens", "k")] | None = Field(
        default=None,
        description="the k experts that the gate chose for each token, -1 for no choice (padding); absent: the router chooses",
    )
    topk_weights: Annotated[NDArray[np.float32], Axes("tokens", "k")] | None = Field(
        default=None, description="gate mass of each choice, 0 or more"
    )

    @model_validator(mode="after")
    def _columns_agree(self) -> Self:
        if self.token_id.size == 0:
            raise ValueError(must_be("len(token_id)", "at least 1", 0))
        if self.topk_ids is not None and self.layer is None:
            raise ValueError(must_be("layer", "given with topk_ids, which are those of one layer", None))
        if self.topk_weights is not None and self.topk_ids is None:
            raise ValueError(must_be("topk_ids", "given with topk_weights", None))
        if self.token_names is not None and len(self.token_names) != len(self.token_id):
            raise ValueError(must_be("len(token_names)", f"{len(self.token_id)}, one a token", len(self.token_names)))
        names = len(self.label_names)
        require(self, "topk_ids", -1)
        require(self, "topk_weights", 0)
        require(self, "cost", 0)
        require(self, "position", 0)
        require(self, "src_rank", -1)
        require(self, "label", -1, names - 1, f"-1 to {names - 1}, an index of label_names")
        return self

    @classmethod
    def example(cls) -> Self:
        return cls(
            batch_id="step-7/layer-0",
            ts_ns=1_700_000_000_000_000_000,
            model="demo-moe",
            layer=0,
            label_names=("chat", "code"),
            token_id=np.array([11, 12, 13], np.uint64),
            request_id=np.array([1, 1, 2], np.uint64),
            position=np.array([0, 1, 0], np.int32),
            src_rank=np.array([0, 0, 1], np.int32),
            label=np.array([0, 0, 1], np.int32),
            topk_ids=np.array([[0, 3], [3, 1], [2, 0]], np.int32),
            topk_weights=np.array([[0.75, 0.25], [0.5, 0.5], [0.625, 0.375]], np.float32),
        )


def hash_ids(ids: Sequence[str]) -> NDArray[np.uint64]:
    """64-bit FNV-1a hash of each id's UTF-8 bytes, vectorised over the ids. Ids hold no NUL and at most 256 bytes.

    Source: Fowler, Noll, Vo, draft-eastlake-fnv. Equal ids give equal hashes in every process and language.
    """
    text = "".join(ids)
    if "\0" in text:
        raise FrameError(must_be("token id", "text without NUL characters", Shown("text with one")))
    try:
        encoded = ids if text.isascii() else [name.encode() for name in ids]
    except UnicodeEncodeError as exc:
        raise FrameError(must_be("token id", "text that UTF-8 can hold", Shown(ascii(exc.object)))) from exc
    width = max(map(len, encoded), default=0)
    if width > MAX_ID_BYTES:
        raise FrameError(must_be("token id", f"at most {MAX_ID_BYTES} bytes long", width))
    packed = np.array(encoded, dtype=f"S{max(width, 1)}")
    columns = packed.view(np.uint8).reshape(len(packed), -1) if ids else np.empty((0, 1), np.uint8)
    state = np.full(len(packed), 0xCBF29CE484222325, np.uint64)
    prime = np.uint64(0x100000001B3)
    for column in np.ascontiguousarray(columns.T):
        # Zero bytes are padding behind a shorter id, which its hash must not see.
        state = np.where(column == 0, state, (state ^ column) * prime)
    return state


def from_objects(tokens: Sequence[Mapping[str, Any]], *, batch_id: str, model: str, ts_ns: int) -> TokenBatch:
    """A batch from token objects ``{"id", "metadata": {...}, "complexity": ...}``, converted once.

    `id` is an integer or a string; `metadata` may hold `request_id`, `src_rank`, `position`, `label`; `complexity` is a
    number (the cost) or ``{"cost": ...}``. A column that some tokens lack is filled with its neutral value.
    """
    if not tokens:
        raise FrameError(must_be("len(tokens)", "at least 1", 0))
    for row, token in enumerate(tokens):
        if not isinstance(token, Mapping) or "id" not in token:
            raise FrameError(must_be(f"token {row}", "an object with 'id'", Shown(ascii(token))))
        if not isinstance(token.get("metadata", {}), Mapping):
            raise FrameError(must_be(f"metadata of token {row}", "an object", Shown(ascii(token["metadata"]))))
    columns: dict[str, list[Any]] = {"id": [token["id"] for token in tokens]}
    metadata = [token.get("metadata", {}) for token in tokens]
    for name in ("request_id", "src_rank", "position", "label"):
        if any(name in row for row in metadata):
            columns[name] = [row.get(name) for row in metadata]
    costs = [token.get("complexity", 1.0) for token in tokens]
    columns["cost"] = [cost.get("cost", 1.0) if isinstance(cost, Mapping) else cost for cost in costs]
    return _from_columns(columns, batch_id=batch_id, model=model, ts_ns=ts_ns)


def from_dataframe(table: pd.DataFrame, *, batch_id: str, model: str, ts_ns: int, layer: int | None = None) -> TokenBatch:
    """A batch from a table with a column `id` and optional `request_id`, `position`, `cost`, `src_rank`, `label`.

    Gate choices come from columns ``topk_id_0, topk_id_1, ...`` and ``topk_weight_0, ...``, of `layer`.
    """
    if "id" not in table.columns:
        raise FrameError(must_be("columns of the table", "'id' and others", Shown(list(map(str, table.columns))[:20])))
    if not table.columns.is_unique:
        raise FrameError(must_be("names of columns", "distinct", Shown("two columns of one name")))
    names = [name for name in ("id", "request_id", "position", "cost", "src_rank", "label") if name in table.columns]
    gates = {field: _gate_columns(table, prefix) for field, prefix in GATE_PREFIXES.items()}
    missing = table[names + [name for gate in gates.values() for name in gate]].isna().any()
    if missing.any():
        raise FrameError(must_be(f"column {missing.idxmax()!r}", "filled in every row", Shown("empty cells")))
    arrays: dict[str, Any] = {
        field: [list(row) for row in zip(*(table[name].tolist() for name in gate), strict=True)]
        for field, gate in gates.items()
        if gate
    }
    columns = {name: table[name].tolist() for name in names}
    return _from_columns(columns, batch_id=batch_id, model=model, ts_ns=ts_ns, layer=layer, **arrays)


def _gate_columns(table: pd.DataFrame, prefix: str) -> list[str]:
    """The columns ``prefix0, prefix1, ...`` in order."""
    found = {name for name in table.columns if isinstance(name, str) and name.startswith(prefix)}
    wanted = [f"{prefix}{choice}" for choice in range(len(found))]
    if found != set(wanted):
        raise FrameError(must_be("columns of the gate", f"{prefix}0, {prefix}1 and so on", Shown(sorted(found)[:20])))
    return wanted


def _numbers(name: str, ids: list[Any]) -> list[Any] | NDArray[np.uint64]:
    """Integers as they are, strings hashed; a missing id (None) of a request is 0."""
    given = [value for value in ids if value is not None] if name == "request_id" else ids
    texts = sum(isinstance(value, str) for value in given)
    if texts == 0:
        return ids if given is ids else [0 if value is None else value for value in ids]
    if texts < len(given):
        raise FrameError(must_be(name, "strings or integers", Shown("both kinds")))
    hashes = hash_ids(given)
    if len(given) == len(ids):
        return hashes
    found = iter(hashes.tolist())
    return [0 if value is None else next(found) for value in ids]


def _from_columns(columns: dict[str, list[Any]], **header: Any) -> TokenBatch:
    fields: dict[str, Any] = dict(header)
    ids = columns["id"]
    fields["token_id"] = _numbers("id", ids)
    if ids and isinstance(ids[0], str):
        fields["token_names"] = tuple(ids)
    if "request_id" in columns:
        fields["request_id"] = _numbers("request_id", columns["request_id"])
    for name, neutral in (("position", 0), ("src_rank", -1), ("cost", 1.0)):
        if name in columns:
            fields[name] = [neutral if value is None else value for value in columns[name]]
    if "label" in columns:
        wrong = next((value for value in columns["label"] if not isinstance(value, str | int | np.integer | None)), None)
        if wrong is not None:
            raise FrameError(must_be("label", "a string or an integer", Shown(f"a {type(wrong).__name__}")))
        names = sorted({str(value) for value in columns["label"] if value is not None})
        code = {name: index for index, name in enumerate(names)}
        fields["label_names"] = tuple(names)
        fields["label"] = [-1 if value is None else code[str(value)] for value in columns["label"]]
    return TokenBatch.build(**fields)
