"""Guide: what a series of blocks tells the coder of the next one, and what the coder tells the series of this one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

Domain = Literal["plain", "basis", "pruned"]


@dataclass(frozen=True, slots=True)
class Guide:
    """What is known before a block is coded.

    Attributes
    ----------
    factors
        What to multiply the planned step by, for domains whose step needs no search: modes rate and gradient.
    share
        Blocks that share a given basis, which then travels with this one; 0: the data name it.
    more_bits
        Bits a value that the header will take, about; they count among the target's.
    """

    factors: Mapping[Domain, float] = field(default_factory=dict)
    share: int = 0
    more_bits: float = 0.0


class Found(NamedTuple):
    """What a domain gave: log2 of its step to the planned one, and bits a value without the header and a shared basis."""

    offset: float
    bits: float


@dataclass(slots=True)
class Measured:
    """What was found while a block was coded; not part of the data.

    Attributes
    ----------
    gains
        Part of the size, or of the squared error, that each option saved that was tried; 0 or less where it does not pay.
    domains
        By domain, in modes rate and gradient.
    """

    gains: dict[str, float] = field(default_factory=dict)
    domains: dict[Domain, Found] = field(default_factory=dict)


NO_GUIDE: Final = Guide()
