"""Exchange: a question on one topic, the answer on another that names it."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest

from qstream.config import Settings
from qstream.errors import DeliveryFailed
from qstream.stream.client import Exchange, Publisher
from qstream.testing.rig import PATIENCE_S, wait_until
from tests.stream.notes import MakeTopic, note, note_topic, subscriber, versions


def test_an_exchange_answers_with_the_plan_that_names_its_question(kafka: str, make_topic: MakeTopic):
    asks, answers = make_topic("asks"), make_topic("answers")
    with subscriber(kafka, asks) as asked, Publisher(kafka) as publisher, subscriber(kafka, answers) as plans:

        def answer() -> None:
            """Answer another question first, as an agent with more customers does."""
            (version,) = versions(asked, 1)
            with Publisher(kafka) as responder:
                responder.publish(answers, note("other", version + 100))
                responder.publish(answers, note("m", version))

        responder = threading.Thread(target=answer)
        responder.start()
        exchange = Exchange(publisher, plans)
        found = exchange.ask(asks, note(version=7), lambda plan: plan.version == 7, PATIENCE_S)
        responder.join()
        assert found == note(version=7)
        assert plans.latest.keys() >= {"m"}

        def goes_unanswered() -> bool:
            with suppress(DeliveryFailed):  # a broker may need longer than that to confirm a question
                return exchange.ask(asks, note(version=8), lambda plan: plan.version == 8, 0.3) is None
            return False

        wait_until(goes_unanswered)


def test_an_exchange_whose_question_is_not_confirmed_says_so(kafka: str, make_topic: MakeTopic, topic_prefix: str):
    answers = make_topic()
    with subscriber(kafka, answers) as plans:
        publisher = Publisher(kafka, settings=Settings(delivery_timeout_ms=500))
        absent = note_topic(f"{topic_prefix}.none.v1")
        with pytest.raises(DeliveryFailed, match="1 records were not confirmed"):
            Exchange(publisher, plans).ask(absent, note(), lambda plan: True, 10.0)
