"""Partition: where a key's records lie, as every Kafka client with the murmur2 partitioner computes it."""

from __future__ import annotations

_WORD = 0xFFFFFFFF
_MULTIPLIER = 0x5BD1E995
_SEED = 0x9747B28C


def partition_of_key(key: bytes, partitions: int) -> int:
    """The partition of `key` on a topic with so many partitions.

    >>> partition_of_key(b"demo-moe", 8)
    2
    """
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(key: bytes) -> int:
    """32-bit MurmurHash2 with Kafka's seed. Source: org.apache.kafka.common.utils.Utils.murmur2."""
    state = _SEED ^ len(key)
    whole = len(key) & ~3
    for start in range(0, whole, 4):
        word = int.from_bytes(key[start : start + 4], "little") * _MULTIPLIER & _WORD
        word = (word ^ word >> 24) * _MULTIPLIER & _WORD
        state = (state * _MULTIPLIER & _WORD) ^ word
    if len(key) > whole:
        state = (state ^ int.from_bytes(key[whole:], "little")) * _MULTIPLIER & _WORD
    state = (state ^ state >> 13) * _MULTIPLIER & _WORD
    return state ^ state >> 15
