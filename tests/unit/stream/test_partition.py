"""The partition of a key is the one that every Kafka client chooses."""

from __future__ import annotations

from qstream.stream.partition import murmur2, partition_of_key


def test_the_hash_gives_the_values_of_kafkas_own_test():
    vectors = {
        b"21": -973932308,
        b"foobar": -790332482,
        b"a-little-bit-long-string": -985981536,
        b"a-little-bit-longer-string": -1486304829,
        b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
        b"abc": 479470107,
    }
    assert {data: murmur2(data) for data in vectors} == {data: value & 0xFFFFFFFF for data, value in vectors.items()}


def test_every_key_has_a_partition_and_the_partitions_share_the_keys():
    found = [partition_of_key(b"key-%d" % n, 7) for n in range(1000)]
    assert set(found) == set(range(7))
