"""Versions: they rise, one waits until it is acknowledged, and a wrong clock holds up plans for a while at most."""

from qstream.module.inforce import TIME_MAX_MS, InForce

S = 1_000_000_000


def test_a_version_is_the_time_in_ms_or_one_more_than_the_highest():
    assert InForce().next_version(5 * S) == 5000
    assert InForce(version=7000).next_version(5 * S) == 7001
    assert InForce(version=7, proposed_version=7000).next_version(5 * S) == 7001
    assert InForce(version=7).next_version(TIME_MAX_MS * 1_000_000) == 8


def test_a_proposed_version_waits_until_it_is_acknowledged():
    proposed = InForce(version=3).proposed(9, 5 * S)
    assert (proposed.version, proposed.waiting) == (3, True)
    acknowledged = proposed.acknowledged()
    assert (acknowledged.version, acknowledged.waiting) == (9, False)
    assert acknowledged.holds_up(5 * S, 60) is False


def test_a_proposed_version_holds_up_others_for_its_time_to_live():
    proposed = InForce(version=3).proposed(9, 5 * S)
    assert [proposed.holds_up(at * S, 2) for at in (2, 3, 5, 7, 8)] == [False, True, True, True, False]
