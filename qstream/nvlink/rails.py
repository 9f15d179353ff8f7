"""Rails: which NIC carries which bytes between servers, so that no NIC is fuller than need be and few bytes are relayed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.arguments import real_number
from qstream.errors import ProblemError
from qstream.nvlink.rail_simplex import even_out, first_rails, least_relays, spill
from qstream.nvlink.traffic import speed, traffic_of
from schemas.wording import Shown, must_be

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]
GAP: Final = 2e-4  # of the relayed bytes, within which an answer counts as the least
_WORK: Final = 1e8  # steps of inner loops that pivots may take in all
_PASSES: Final = 8
_MOST_GPUS: Final = 2048  # above, water-filling alone
_NOTHING: Final = 1e-9  # of the bound: no piece


@dataclass(frozen=True, slots=True, eq=False)
class Rails:
    """Pieces of messages and the rail of each, with what that is worth in the model. A GPU is server * g + index.

    A byte is relayed over NVLink at the source if its rail is not the sender's own, at the destination if it is not the
    receiver's.
    """

    src: Ints
    dst: Ints
    rail: Ints
    nbytes: Floats
    nic_us: float  # time of the fullest NIC
    bound_us: float  # time of the fullest server, its NICs evenly full: no rails are faster
    relayed_bytes: float  # over NVLink, counted at each end
    nvlink_us: float  # time that the relays take the fullest NVLink port of a GPU


def balance_rails(
    nbytes: ArrayLike, nic_gb_s: float, nvlink_gb_s: float, *, slack: float = 0.001, min_piece_bytes: float = 0
) -> Rails:
    """Give every byte between servers a rail: no NIC above `1 + slack` times the bound, and of such rails the fewest relays.

    Modelled, not measured. Messages get rails whole, the heaviest first; then a linear program, solved exactly to .02 %, splits
    those for which there is no room. Above 2,048 GPUs, or where it would take too many steps, what is above goes where room is.

    Parameters
    ----------
    nbytes
        Bytes from GPU i of server s to GPU j of server d, [N, g, N, g], finite and at least 0; 0 within a server, where no NIC
        is needed. Rail r joins the NICs r of all servers.
    nic_gb_s, nvlink_gb_s
        GB/s of a NIC and of the NVLinks of a GPU, per direction.
    slack
        Part of the bound that a NIC may be fuller: less relays and fewer pieces for it.
    min_piece_bytes
        Messages are not split into pieces below this; a NIC may be fuller by as much for each.

    Returns
    -------
    Rails
        Sorted by source, destination, rail; their bytes sum to those of each message.

    Raises
    ------
    ProblemError
        An argument has another shape or range.
    """
    sent, speeds = _checked(nbytes, nic_gb_s, nvlink_gb_s)
    real_number("slack", slack, 0.0, 1.0)
    if real_number("min_piece_bytes", min_piece_bytes, 0.0) == np.inf:
        raise ProblemError(must_be("min_piece_bytes", "finite", min_piece_bytes))
    (servers, g), (src, dst) = sent.shape[:2], np.nonzero(sent.reshape(sent.shape[0] * sent.shape[1], -1))
    if not len(src):
        return _made(sent, speeds, src, dst, src, np.zeros(0))
    size = sent.reshape(servers * g, -1)[src, dst]
    unit = _fullest_server(sent) / g
    pieces = _split(src, dst, size / unit, g, servers, slack)
    message, rail, part = _folded(*pieces, size, unit, min_piece_bytes)
    return _made(sent, speeds, src[message], dst[message], rail, part)


def receivers_rails(nbytes: ArrayLike, nic_gb_s: float, nvlink_gb_s: float) -> Rails:
    """What NCCL does (PXN): every message on the rail of its receiver, relayed at the source. The peer of `balance_rails`."""
    g = np.shape(nbytes)[-1] if np.ndim(nbytes) else 0
    return fixed_rails(nbytes, nic_gb_s, nvlink_gb_s, lambda _, dst: (dst % g)[None])


def fixed_rails(nbytes: ArrayLike, nic_gb_s: float, nvlink_gb_s: float, rule: Callable[[Any, Any], Any]) -> Rails:
    """Messages on the rails that a rule gives for their GPUs, int64 [parts, messages], in equal parts."""
    sent, speeds = _checked(nbytes, nic_gb_s, nvlink_gb_s)
    flat = sent.reshape(sent.shape[0] * sent.shape[1], -1)
    src, dst = np.nonzero(flat)
    rail = rule(src, dst)
    parts = len(rail)
    return _made(sent, speeds, np.tile(src, parts), np.tile(dst, parts), rail.ravel(), np.tile(flat[src, dst] / parts, parts))


def _split(src: Any, dst: Any, size: Floats, g: int, servers: int, slack: float) -> tuple[Any, Any, Floats]:
    """Message, rail and size of each piece, sizes in units of the bound of a NIC."""
    gpus = servers * g
    room = np.full((2, gpus), 1 + slack) - np.random.default_rng(0).uniform(0, 0.01 * slack, (2, gpus))  # no ties of NICs
    key = _start(src, dst, size, g, room)
    if _overload(src, dst, size, key, g, room) <= 0 and not ((src % g != key) & (dst % g != key)).any():
        return np.arange(len(src)), key, size
    held, value = size.copy(), np.zeros(2 * gpus)
    basis = np.full((2, 2 * gpus), -1)
    if gpus <= _MOST_GPUS:
        pivots = int(_WORK / ((2 * gpus) ** 2 + 8 * len(src)))
        least_relays(src, dst, size, g, room, key, pivots, GAP, held, basis, value)
    more = np.flatnonzero(basis[0] >= 0)
    message = np.concatenate([np.arange(len(src)), basis[0, more]])
    rails, part = np.concatenate([key, basis[1, more]]), np.concatenate([held, value[more]])
    heaviest = np.argsort(-part, kind="stable")
    spilled = spill(src[message], dst[message], part, rails, heaviest, g, room)
    return np.concatenate([message, message[spilled[0]]]), np.concatenate([rails, spilled[1]]), np.concatenate([part, spilled[2]])


def _start(src: Any, dst: Any, size: Floats, g: int, room: Floats) -> Any:
    """Rails of whole messages: the receivers', the senders', or by room and evened out, whichever overloads NICs least."""
    by_room, order = np.empty(len(src), np.int64), np.argsort(-size, kind="stable")
    first_rails(src, dst, size, order, g, room, by_room)
    evened = by_room.copy()
    even_out(src, dst, size, order, g, evened, _PASSES)
    return min((dst % g, src % g, by_room, evened), key=lambda rail: _overload(src, dst, size, rail, g, room))


def _overload(src: Any, dst: Any, size: Floats, rail: Any, g: int, room: Floats) -> float:
    loads = np.stack([np.bincount(gpu // g * g + rail, size, room.shape[1]) for gpu in (src, dst)])
    return float(np.maximum(loads - room, 0).sum())


def _folded(message: Any, rail: Any, part: Floats, size: Floats, unit: float, min_piece: float) -> tuple[Any, Any, Floats]:
    """Pieces in bytes, one a message and rail; those that are too small go to the largest of their message, exactly."""
    wide = int(rail.max()) + 1
    both, inverse = np.unique(message * wide + rail, return_inverse=True)
    part = np.bincount(inverse, part).astype(np.float64) * unit
    message, rail = np.divmod(both, wide)
    order = np.lexsort((rail, -part, message))
    message, rail, part = message[order], rail[order], part[order]
    largest = np.append(True, message[1:] != message[:-1])
    kept = largest | (part >= max(min_piece, _NOTHING * unit))
    message, rail, part, largest = message[kept], rail[kept], part[kept], largest[kept]
    part[largest] = 0.0
    part[largest] = size - np.bincount(message, part, len(size))
    return message, rail, part


def _made(sent: Floats, speeds: tuple[float, float], src: Any, dst: Any, rail: Any, part: Floats) -> Rails:
    servers, g = sent.shape[:2]
    order = np.lexsort((rail, dst, src))
    src, dst, rail, part = src[order], dst[order], rail[order], part[order]
    out, into = src // g * g + rail, dst // g * g + rail
    sends, takes = (np.bincount(nic, part, servers * g) for nic in (out, into))
    early, late = part * (src != out), part * (dst != into)
    ports = [np.bincount(a, early, servers * g) + np.bincount(b, late, servers * g) for a, b in ((src, into), (out, dst))]
    us = [float(np.max(loads, initial=0.0)) / 1e3 for loads in ((sends, takes), ports)]
    return Rails(
        src=src.astype(np.int32),
        dst=dst.astype(np.int32),
        rail=rail.astype(np.int32),
        nbytes=part,
        nic_us=us[0] / speeds[0],
        bound_us=_fullest_server(sent) / g / speeds[0] / 1e3,
        relayed_bytes=float(early.sum() + late.sum()),
        nvlink_us=us[1] / speeds[1],
    )


def _fullest_server(sent: Floats) -> float:
    between = sent.sum(axis=(1, 3))
    return float(max(between.sum(axis=0).max(), between.sum(axis=1).max()))


def _checked(nbytes: ArrayLike, nic_gb_s: float, nvlink_gb_s: float) -> tuple[Floats, tuple[float, float]]:
    sent = traffic_of(nbytes, "servers gpus servers gpus")
    if sent.shape[:2] != sent.shape[2:] or not sent.size:
        raise ProblemError(must_be("nbytes", "of shape [servers, GPUs, servers, GPUs]", Shown(f"shape {sent.shape}")))
    inside = np.einsum("sisj->s", sent)
    if inside.any():
        server = int(inside.argmax())
        raise ProblemError(must_be(f"nbytes within server {server}", "0, since they take no NIC", float(inside[server])))
    return sent, (speed("nic_gb_s", nic_gb_s), speed("nvlink_gb_s", nvlink_gb_s))
