"""Requests one by one, for a gateway: the worker that holds a prompt's prefix, unless its recent work makes another cheaper."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from qstream.errors import ProblemError
from schemas.wording import Shown, must_be

_SLACK = 0.25  # room of a worker above the mean load
_MOST = 2.0**53  # tokens, up to which a float64 holds every integer
_FLOOR = 2.0  # load is seen on top of so many times the request


class PrefixCache:
    """What one worker's KV cache holds: block hashes, the least recently used one leaves first.

    Blocks of a request are in the order of its prompt, and a hash stands for its block and all before it.
    """

    def __init__(self, blocks: int) -> None:
        if blocks < 1:
            raise ProblemError(must_be("blocks", ">= 1", blocks))
        self._blocks = blocks
        self._held: OrderedDict[int, None] = OrderedDict()

    def overlap(self, hashes: Sequence[int]) -> int:
        """Leading blocks of a prompt that are held."""
        return next((i for i, block in enumerate(hashes) if block not in self._held), len(hashes))

    def use(self, hashes: Sequence[int]) -> list[int]:
        """Hold these blocks, as the newest: the prompt's first block leaves last. Returns the blocks that left for them."""
        held = self._held
        for block in reversed(hashes):
            held[block] = None
            held.move_to_end(block)
        return [held.popitem(last=False)[0] for _ in range(len(held) - self._blocks)]


class PrefixRouter:
    """Which worker serves the next request, by the prefixes that workers hold and the work that they were given lately.

    The worker with the least price: the work that it has left to do for the request, times the cube of its load. So a prefix
    is worth a detour in proportion to what it saves, and requests without one go to the emptiest. The price has no unit: it
    is the same for any number of workers, size of blocks and rate of requests. Load is work given, fading with `horizon_s`,
    plus twice the request itself, so that an idle cluster keeps sessions where they are. A worker that has 1.25 times the
    mean and twice the request more is passed over, so a prefix that is too much for one worker is soon held by two. Ties go
    to the emptier worker, then to the lower number. The same calls give the same workers. Not for several threads at once.

    What workers hold is what they were given, least recently used out first: no message from them is needed. Time and memory
    of a call grow with the blocks of the prompt, so hash blocks of some hundred tokens.
    Source: prices that grow with load (Aspnes, Azar, Fiat, Plotkin, Waarts 1997), bounded loads (Mirrokni et al. 2018),
    prefix index as in SGLang's and NVIDIA Dynamo's routers.

    Parameters
    ----------
    workers : int
        N, >= 1.
    cache_blocks : int
        Blocks that the KV cache of a worker holds, >= 1.
    block_tokens : int
        Tokens of a block, >= 1.
    horizon_s : float
        Work fades to 1/e in this time, > 0: a few times the span over which load should be even.

    Raises
    ------
    ProblemError
        An argument breaks a rule above.

    >>> router = PrefixRouter(workers=2, cache_blocks=100, block_tokens=16)
    >>> [router.choose(prompt, 48, 20, 0.0) for prompt in ([1, 2, 3], [7, 8, 9], [1, 2, 3])]
    [0, 1, 0]
    """

    def __init__(self, workers: int, cache_blocks: int, *, block_tokens: int = 512, horizon_s: float = 120.0) -> None:
        if workers < 1:
            raise ProblemError(must_be("workers", ">= 1", workers))
        if block_tokens < 1:
            raise ProblemError(must_be("block_tokens", ">= 1", block_tokens))
        if not 0.0 < horizon_s < math.inf:
            raise ProblemError(must_be("horizon_s", "finite and > 0", horizon_s))
        self._cache_blocks = cache_blocks
        self._block_tokens = block_tokens
        self._horizon_s = horizon_s
        self._caches = [PrefixCache(cache_blocks) for _ in range(workers)]
        self._holders: dict[int, int] = {}  # block -> bit n is set if worker n holds it
        self._speed = [1.0] * workers
        self._load = [0.0] * workers
        self._now_s = -math.inf

    def choose(self, hashes: Sequence[int], prompt_tokens: float, output_tokens: float, now_s: float) -> int:
        """The worker for a request, which counts as given to it.

        Parameters
        ----------
        hashes : ints
            One a block of the prompt, each of its block and all before it; a part of the prompt may be left out at its end.
        prompt_tokens, output_tokens : float
            Tokens to read and to write, 0..2**53. Where the output is not known, what is usual.
        now_s : float
            Any clock; an earlier time than before counts as the same.

        Raises
        ------
        ProblemError
            A number is out of range, or no worker has speed.
        """
        for field, value in (("prompt_tokens", prompt_tokens), ("output_tokens", output_tokens)):
            if not 0.0 <= value <= _MOST:
                raise ProblemError(must_be(field, "0 to 2**53", value))
        if not any(self._speed):
            raise ProblemError(must_be("speed", "above 0 for at least one worker", Shown("0 for all")))
        self._fade(now_s)
        best, least, emptiest, work = -1, 0.0, 0.0, 0.0
        floor = _FLOOR * (prompt_tokens + output_tokens)
        limit = (1.0 + _SLACK) * sum(self._load) / sum(self._speed) + floor
        for n, (held, load, speed) in enumerate(zip(self.overlap(hashes), self._load, self._speed, strict=True)):
            level = load / speed if speed else math.inf
            if level > limit:
                continue
            left = max(prompt_tokens - held * self._block_tokens, 1.0) + output_tokens
            busy = level + floor
            price = left * busy * busy * busy
            if best < 0 or price < least or (price == least and level < emptiest):
                best, least, emptiest, work = n, price, level, left
        self._load[best] += work
        self._give(best, hashes)
        return best

    def overlap(self, hashes: Sequence[int]) -> list[int]:
        """Leading blocks of a prompt that each worker holds."""
        found = [0] * len(self._caches)
        holding = (1 << len(found)) - 1
        for i, block in enumerate(hashes):
            lost = holding & ~self._holders.get(block, 0)
            holding ^= lost
            while lost:
                found[(lost & -lost).bit_length() - 1] = i
                lost &= lost - 1
            if not holding:
                return found
        return [len(hashes) if holding >> n & 1 else blocks for n, blocks in enumerate(found)]

    def set_speed(self, worker: int, speed: float) -> None:
        """Let a worker take work in proportion to `speed`, 1 for a usual one; 0 takes it out, and forgets what it holds.

        Raises
        ------
        ProblemError
            There is no such worker, or `speed` is not finite and >= 0.
        """
        if not 0 <= worker < len(self._speed):
            raise ProblemError(must_be("worker", f"0 to {len(self._speed) - 1}", worker))
        if not 0.0 <= speed < math.inf:
            raise ProblemError(must_be("speed", "finite and >= 0", speed))
        self._speed[worker] = speed
        if speed == 0.0:
            self._caches[worker] = PrefixCache(self._cache_blocks)
            self._load[worker] = 0.0
            others = ((block, held & ~(1 << worker)) for block, held in self._holders.items())
            self._holders = {block: held for block, held in others if held}

    def _fade(self, now_s: float) -> None:
        if not math.isfinite(now_s):
            raise ProblemError(must_be("now_s", "finite", now_s))
        if now_s > self._now_s:
            kept = math.exp((self._now_s - now_s) / self._horizon_s)
            self._load = [load * kept for load in self._load]
            self._now_s = now_s

    def _give(self, worker: int, hashes: Sequence[int]) -> None:
        bit, holders = 1 << worker, self._holders
        for block in hashes:
            holders[block] = holders.get(block, 0) | bit
        for block in self._caches[worker].use(hashes):
            holders[block] ^= bit
            if not holders[block]:
                del holders[block]
