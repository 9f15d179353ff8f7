"""Members that join, leave, die and come back from the dead while records flow: nothing is lost, no state is wrong."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from qstream.testing.rig import Rig, wait_until
from qstream.testing.sample import Ping, Tally

MakeRig = Callable[..., Rig]
SLOW = {"pause_s": 0.005}


def pings(count: int, seed: int, names: int = 12) -> list[Ping]:
    rng = random.Random(seed)
    return [Ping.of(f"name-{rng.randrange(names)}", rng.randrange(1000)) for _ in range(count)]


def all_exact(rig: Rig, sent: Sequence[Ping]) -> None:
    """Every record was answered, repetitions are known by their ids, and every state saw each record once, in order."""
    wait_until(lambda: rig.committed_records() == len(sent), saying=rig.committed)
    expected = rig.expected_ids(len(sent))
    wait_until(lambda: {event_id for event_id, _ in rig.pongs()} == expected)
    bodies: dict[str, set[bytes]] = {}
    for message, (event_id, _) in zip(rig.tail(rig.sample.pongs), rig.pongs(), strict=False):
        bodies.setdefault(event_id, set()).add(message.value())
    assert {len(found) for found in bodies.values()} == {1}, "a repetition must say the same"
    for name in sorted({ping.name for ping in sent}):
        assert rig.tally(name) == Tally.of(*(ping for ping in sent if ping.name == name)), name
    assert rig.letters() == []


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_member_that_joins_and_leaves_under_load_costs_nothing(make_rig: MakeRig, protocol: str):
    """Classic cooperative-sticky and KIP-848 groups."""
    rig = make_rig(partitions=6, group_protocol=protocol)
    slow, sent = rig.processor(**SLOW), pings(900, seed=1)
    with rig.loop(slow, worker_id="one", max_batch_records=30) as one:
        rig.publish(sent[:300])
        wait_until(lambda: len(rig.pongs()) > 50)
        with rig.loop(slow, worker_id="two", max_batch_records=30) as two:
            wait_until(lambda: len(one.loop.intake.assigned) == len(two.loop.intake.assigned) == 6)
            rig.publish(sent[300:600])
            wait_until(lambda: len(rig.pongs()) > 350)
        rig.publish(sent[600:])
        wait_until(lambda: len(one.loop.intake.assigned) == 12)
        all_exact(rig, sent)


def test_a_worker_killed_under_load_costs_nothing(rig: Rig, tmp_path: Path):
    sent = pings(400, seed=2)
    with rig.program(tmp_path / "one.log", SLOW, worker_id="one", max_batch_records=30) as one:
        rig.publish(sent[:200])
        wait_until(lambda: len(rig.pongs()) > 60, saying=one.log_tail)
        one.kill()
    rig.publish(sent[200:])
    with rig.program(tmp_path / "two.log", worker_id="two"):
        all_exact(rig, sent)


def test_a_worker_that_was_stopped_until_another_took_over_changes_no_state_when_it_goes_on(rig: Rig, tmp_path: Path):
    sent = pings(300, seed=3)
    with rig.program(tmp_path / "zombie.log", {"pause_s": 0.02}, worker_id="zombie", max_batch_records=10) as zombie:
        rig.publish(sent[:150])
        wait_until(lambda: len(rig.pongs()) > 30, saying=zombie.log_tail)
        zombie.pause()
        with rig.loop(worker_id="heir") as heir:
            wait_until(lambda: len(heir.loop.intake.assigned) == 8)
            wait_until(lambda: rig.committed_records() == 150)
            zombie.resume()
            rig.publish(sent[150:])
            all_exact(rig, sent)
            wait_until(lambda: len(heir.loop.intake.assigned) == 4, saying=zombie.log_tail)
            sent += (more := pings(100, seed=4))
            rig.publish(more)
            all_exact(rig, sent)


def test_two_topics_of_one_name_owned_by_two_workers_both_count(rig: Rig):
    """The cooperative assignor gives each worker whole partitions; here a name's pings and gates live with different ones."""
    sent = [Ping.of("a", i) for i in range(200)]
    opens = [Ping.of("a", 1000 + i, act="open") for i in range(40)]
    with rig.loop(worker_id="one", max_batch_records=5) as one, rig.loop(worker_id="two", max_batch_records=5) as two:
        wait_until(lambda: len(one.loop.intake.assigned) == len(two.loop.intake.assigned) == 4)
        names = (rig.sample.pings.name, rig.sample.gates.name)
        owners = {at: worker for worker in (one, two) for at in worker.loop.intake.assigned}
        ping_at = next(at for at in sorted(owners) if at.topic == names[0])
        gate_at = next(at for at in sorted(owners) if at.topic == names[1] and owners[at] is not owners[ping_at])
        for i, ping in enumerate(sent):
            rig.publish_raw(ping_at.topic, ping.encode(), b"a", partition=ping_at.partition)
            if i % 5 == 0:
                rig.publish_raw(gate_at.topic, opens[i // 5].encode(), b"a", partition=gate_at.partition)
        wait_until(lambda: rig.committed_records() == 200 and rig.committed_records(rig.sample.gates) == 40)
    tally = rig.tally("a")
    assert tally is not None
    assert (tally.count, tally.total) == (240, sum(int(ping.values.sum()) for ping in sent + opens))
    assert len({event_id for event_id, _ in rig.pongs()}) == 240
