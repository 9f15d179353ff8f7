"""dlq: dead letters of a real worker's making, seen and sent back once."""

from __future__ import annotations

import uuid

import pytest
from confluent_kafka.admin import AdminClient

from qstream.config import load_settings
from qstream.contract import TopicPartition
from qstream.stream.admin import apply_topics
from qstream.stream.client import Publisher
from qstream.stream.decode import ATTEMPTS_HEADER, decode
from qstream.stream.read import read_all
from qstream.stream.redrive import MAX_ATTEMPTS
from qstream.testing.rig import wait_until
from schemas.deadletter import DeadLetter
from schemas.frame import JSON
from schemas.topics import CONTROL, EXPERTS_LOAD, PLACEMENT_ACK, PLACEMENT_PLAN, ROUTING_DLQ

BAD = b'{"model": "z"}\x1b[31m'


@pytest.fixture
def bury(cluster):
    """Publish records, read them, and write those that cannot be decoded to the dead-letter topic, as a worker does."""
    settings = load_settings(bootstrap_servers=cluster)
    seen = {TopicPartition(m.topic(), m.partition()): m.offset() + 1 for m in read_all(settings, EXPERTS_LOAD.name)}

    def run(*records: tuple[bytes | None, bytes | None, list]) -> list[str]:
        with Publisher(cluster) as publisher:
            for key, value, headers in records:
                publisher.publish_raw(EXPERTS_LOAD.name, key, value, headers)
        return bury_new()

    def bury_new() -> list[str]:
        fresh = []
        for message in read_all(settings, EXPERTS_LOAD.name):
            at = TopicPartition(message.topic(), message.partition())
            if message.offset() >= seen.get(at, 0):
                fresh.append(message)
        for message in fresh:
            seen[TopicPartition(message.topic(), message.partition())] = message.offset() + 1
        _, rejected = decode(fresh, {EXPERTS_LOAD.name: EXPERTS_LOAD})
        with Publisher(cluster) as publisher:
            for dead in rejected:
                publisher.publish_raw(ROUTING_DLQ.name, dead.key, dead.value, [*dead.headers, *dead.letter.headers()])
        return [dead.letter.id for dead in rejected]

    run.again = bury_new
    return run


def stored(cluster: str, letter_id: str):
    """The record that a letter speaks of."""
    for message in read_all(load_settings(bootstrap_servers=cluster), EXPERTS_LOAD.name):
        if f"{message.topic()}/{message.partition()}/{message.offset()}" == letter_id:
            return message
    raise AssertionError(letter_id)


def test_a_letter_is_listed_shown_and_redriven_once_with_its_attempts_counted(cluster, bury, answer_of, invoke):
    headers = [("traceparent", b"00-1"), ("none", None), ("traceparent", b"00-2"), (ATTEMPTS_HEADER, b"3")]
    (letter_id,) = bury((b"z", BAD, headers))
    (listed,) = [letter for letter in answer_of("dlq", "list", "-b", cluster) if letter["id"] == letter_id]
    assert (listed["stage"], listed["error"], listed["attempts"], listed["redriven"]) == ("decode", "FrameError", 4, False)
    assert letter_id in invoke("dlq", "list", "-b", cluster).stdout
    shown = invoke("dlq", "show", letter_id, "-b", cluster)
    assert "7b 22 6d 6f 64 65 6c" in shown.stdout
    assert "\x1b" not in shown.stdout
    assert answer_of("dlq", "show", letter_id, "-b", cluster)["headers"]["none"] is None

    assert answer_of("dlq", "redrive", letter_id, "--dry-run", "-b", cluster)["redriven"] == [letter_id]
    assert answer_of("dlq", "redrive", letter_id, "-b", cluster)["redriven"] == [letter_id]
    (second_id,) = bury.again()
    again = stored(cluster, second_id)
    assert (again.key(), again.value()) == (b"z", BAD)
    assert again.headers() == [*headers[:3], (ATTEMPTS_HEADER, b"4")]
    nothing = {"dry_run": False, "redriven": [], "passed_over": [letter_id], "kept": {}}
    assert answer_of("dlq", "redrive", letter_id, "-b", cluster) == nothing

    state = {letter["id"]: letter for letter in answer_of("dlq", "list", "-b", cluster)}
    assert state[letter_id]["redriven"]
    assert (state[second_id]["redriven"], state[second_id]["attempts"]) == (False, 5)

    refused = invoke("dlq", "redrive", second_id, "-b", cluster)
    assert refused.exit_code == 2
    assert f"{second_id} cannot be sent back: its record has failed 5 times, and --max-attempts is 5" in refused.stderr
    assert second_id in answer_of("dlq", "redrive", "--all", "--dry-run", "-b", cluster)["kept"]
    assert answer_of("dlq", "redrive", second_id, "--max-attempts", "6", "-b", cluster)["redriven"] == [second_id]
    assert len(bury.again()) == 1


def test_single_letters_are_remembered_among_others_and_all_sends_the_rest(cluster, bury, answer_of):
    answer_of("dlq", "redrive", "--all", "-b", cluster)
    bury.again()
    answer_of("dlq", "redrive", "--all", "-b", cluster)
    bury.again()
    listed = answer_of("dlq", "list", "-b", cluster)
    before = {letter["id"] for letter in listed if not letter["redriven"] and letter["attempts"] < MAX_ATTEMPTS}
    ids = bury(*[(f"k{n}".encode(), BAD, []) for n in range(9)])
    chosen = [ids[2], ids[3], ids[7]]
    assert set(answer_of("dlq", "redrive", *chosen, "-b", cluster)["redriven"]) == set(chosen)
    redriven = {letter["id"] for letter in answer_of("dlq", "list", "-b", cluster) if letter["redriven"]}
    assert redriven & set(ids) == set(chosen)
    rest = set(answer_of("dlq", "redrive", "--all", "-b", cluster)["redriven"])
    assert rest == before | (set(ids) - set(chosen))
    assert answer_of("dlq", "redrive", "--all", "-b", cluster)["redriven"] == []


def test_a_record_that_was_dead_lettered_twice_goes_back_once(cluster, bury, answer_of):
    (letter_id,) = bury((b"z", BAD, []))
    record = stored(cluster, letter_id)
    _, (dead,) = decode([record], {EXPERTS_LOAD.name: EXPERTS_LOAD})
    with Publisher(cluster) as publisher:
        publisher.publish_raw(ROUTING_DLQ.name, dead.key, dead.value, [*dead.headers, *dead.letter.headers()])
    assert answer_of("dlq", "redrive", letter_id, "-b", cluster)["redriven"] == [letter_id]
    assert len(bury.again()) == 1
    assert [letter["redriven"] for letter in answer_of("dlq", "list", "-b", cluster) if letter["id"] == letter_id] == [True, True]


def test_a_record_without_value_or_key_is_shown_and_goes_back_as_it_was(cluster, bury, answer_of):
    (letter_id,) = bury((None, None, []))
    assert answer_of("dlq", "show", letter_id, "-b", cluster)["value"] == "null"
    answer_of("dlq", "redrive", letter_id, "-b", cluster)
    (second_id,) = bury.again()
    again = stored(cluster, second_id)
    assert (again.key(), again.value()) == (None, None)


def test_a_letter_without_its_bytes_is_not_sent_as_nothing(cluster, answer_of, invoke):
    letter = DeadLetter.example().model_copy(
        update={"topic": EXPERTS_LOAD.name, "offset": uuid.uuid4().int >> 80, "omitted_bytes": 999_999}
    )
    with Publisher(cluster) as publisher:
        publisher.publish_raw(ROUTING_DLQ.name, b"m", None, letter.headers())
    result = invoke("dlq", "redrive", letter.id, "-b", cluster)
    assert result.exit_code == 2
    assert letter.id in result.stderr
    assert "999999 bytes" in result.stderr
    assert "999999 bytes" in answer_of("dlq", "show", letter.id, "-b", cluster)["value"]
    answer = answer_of("dlq", "redrive", "--all", "-b", cluster)
    assert letter.id not in answer["redriven"]
    assert "999999 bytes" in answer["kept"][letter.id]


def test_a_letter_that_processing_refused_is_shown_decoded(cluster, answer_of):
    letter = DeadLetter.example().model_copy(
        update={"topic": EXPERTS_LOAD.name, "offset": uuid.uuid4().int >> 80, "stage": "process", "stack_trace": "Traceback\n  x"}
    )
    frame = EXPERTS_LOAD.frame.example()
    with Publisher(cluster) as publisher:
        publisher.publish_raw(ROUTING_DLQ.name, b"m", frame.encode(), letter.headers())
        publisher.publish_raw(ROUTING_DLQ.name, b"m", b"no letter")
    shown = answer_of("dlq", "show", letter.id, "-b", cluster)
    assert EXPERTS_LOAD.frame.decode(shown["frame"].encode(), JSON) == frame
    assert shown["stack_trace"] == "Traceback\n  x"


def test_an_unknown_id_sends_nothing(cluster, bury, answer_of, invoke):
    (letter_id,) = bury((b"z", BAD, []))
    for more in ([], ["--dry-run"]):
        result = invoke("dlq", "redrive", letter_id, "nonesuch/0/1", *more, "-b", cluster)
        assert result.exit_code == 2
        assert "nonesuch/0/1" in result.stderr
        assert result.stdout == ""
    assert bury.again() == []


def test_more_single_letters_than_the_broker_remembers_are_refused_before_any_is_sent(cluster, answer_of, invoke):
    first = uuid.uuid4().int >> 80
    letters = [DeadLetter.example().model_copy(update={"topic": EXPERTS_LOAD.name, "offset": first + n}) for n in range(3000)]
    with Publisher(cluster) as publisher:
        for letter in letters:
            publisher.publish_raw(ROUTING_DLQ.name, b"m", BAD, letter.headers())
    result = invoke("dlq", "redrive", *[letter.id for letter in letters[1::2]], "-b", cluster)
    assert result.exit_code == 2
    assert "--all" in result.stderr
    assert len(answer_of("dlq", "redrive", "--all", "--dry-run", "-b", cluster)["redriven"]) >= len(letters)


def forge(cluster: str, topic: str, value: bytes) -> str:
    """A letter that no agent has written."""
    letter = DeadLetter.example().model_copy(update={"topic": topic, "offset": uuid.uuid4().int >> 80})
    with Publisher(cluster) as publisher:
        publisher.publish_raw(ROUTING_DLQ.name, b"m", value, letter.headers())
    return letter.id


def test_a_forged_letter_goes_to_no_topic_but_the_inputs_of_its_agent(cluster, bury, answer_of, invoke):
    topics = [CONTROL.name, PLACEMENT_PLAN.name, ROUTING_DLQ.name, "payments", "no.such.topic"]
    forged = {topic: forge(cluster, topic, b"forged") for topic in topics}
    (genuine,) = bury((b"z", BAD, []))
    for topic, letter_id in forged.items():
        refused = invoke("dlq", "redrive", letter_id, "-b", cluster)
        assert refused.exit_code == 2
        assert f"its topic must be an input of agent routing, got '{topic}'" in refused.stderr
    answer = answer_of("dlq", "redrive", "--all", "-b", cluster)
    assert genuine in answer["redriven"]
    assert set(forged.values()) <= answer["kept"].keys()
    assert answer_of("dlq", "redrive", "--all", "-b", cluster)["redriven"] == []
    redriven = {letter["id"]: letter["redriven"] for letter in answer_of("dlq", "list", "-b", cluster)}
    assert [redriven[letter_id] for letter_id in (genuine, *forged.values())] == [True] + [False] * 5
    for topic in (CONTROL.name, PLACEMENT_PLAN.name):
        assert b"forged" not in [message.value() for message in read_all(load_settings(bootstrap_servers=cluster), topic)]


def test_forged_letters_between_genuine_ones_do_not_fill_the_memory(cluster, answer_of):
    answer_of("dlq", "redrive", "--all", "-b", cluster)
    first, ids = uuid.uuid4().int >> 80, []
    with Publisher(cluster) as publisher:
        for n in range(1200):
            letter = DeadLetter.example().model_copy(
                update={"topic": EXPERTS_LOAD.name if n % 2 else "payments", "offset": first + n, "partition": 0}
            )
            publisher.publish_raw(ROUTING_DLQ.name, b"m", BAD, letter.headers())
            ids += [letter.id] if n % 2 else []
    assert set(ids) <= set(answer_of("dlq", "redrive", "--all", "-b", cluster)["redriven"])
    assert answer_of("dlq", "redrive", "--all", "-b", cluster)["redriven"] == []


def test_a_missing_topic_holds_up_no_other_and_what_went_is_not_sent_again(cluster, bury, answer_of, invoke):
    while answer_of("dlq", "redrive", "--all", "-b", cluster)[
        "redriven"
    ]:  # what other tests left, until its attempts are used up
        bury.again()
    lost = forge(cluster, PLACEMENT_ACK.name, b"x")
    (genuine,) = bury((b"z", BAD, []))
    admin = AdminClient({"bootstrap.servers": cluster})
    admin.delete_topics([PLACEMENT_ACK.name])[PLACEMENT_ACK.name].result(120)
    wait_until(lambda: PLACEMENT_ACK.name not in admin.list_topics(timeout=60).topics)
    result = invoke("dlq", "redrive", "--all", "-b", cluster)
    assert result.exit_code == 1
    assert f"the cluster lacks {PLACEMENT_ACK.name}" in result.stderr
    assert genuine in result.stdout
    assert len(bury.again()) == 1
    state = {letter["id"]: letter["redriven"] for letter in answer_of("dlq", "list", "-b", cluster)}
    assert (state[genuine], state[lost]) == (True, False)
    apply_topics(admin, [PLACEMENT_ACK], timeout_s=60.0)
    assert lost in answer_of("dlq", "redrive", "--all", "-b", cluster)["redriven"]
