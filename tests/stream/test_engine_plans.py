"""What an engine reads of the agent's placements, and what it says back, against a real broker."""

from __future__ import annotations

import time
import uuid
from contextlib import closing

from qstream.config import Settings
from qstream.engines.plans import Plans
from qstream.stream.client import Publisher
from qstream.stream.read import frame_of, read_all
from qstream.testing.rig import wait_until
from schemas.placement import PlacementAck, PlacementPlan
from schemas.plan import SkipReason
from schemas.topics import PLACEMENT_ACK, PLACEMENT_PLAN


def test_an_engine_has_the_newest_placement_though_later_plans_are_skipped_and_acknowledges_it(registry_kafka: str) -> None:
    settings, model = Settings(bootstrap_servers=registry_kafka), f"moe-{uuid.uuid4()}"
    first = PlacementPlan.example().model_copy(update={"model": model, "ts_ns": time.time_ns(), "version": 7})
    skipped = first.model_copy(
        update={
            **{
                name: None
                for name in PlacementPlan.model_fields
                if name.startswith(("move_", "logical_", "physical_", "replica_"))
            },
            "skip_reason": SkipReason.GAIN_TOO_SMALL,
            "plan_id": "skipped",
            "version": 8,
        }
    )
    with Publisher(registry_kafka, settings=settings) as publisher, closing(Plans(model, settings)) as plans:
        publisher.publish(PLACEMENT_PLAN, first)
        publisher.publish(PLACEMENT_PLAN, skipped)
        publisher.flush()
        wait_until(lambda: plans.newest() is not None)
        assert (found := plans.newest()) is not None
        assert found.version == 7
        publisher.publish(PLACEMENT_PLAN, first.model_copy(update={"version": 9, "plan_id": "third"}))
        publisher.flush()
        wait_until(lambda: (now := plans.newest()) is not None and now.version == 9)
        plans.acknowledge(9)

        def acknowledged() -> list[int]:
            return [frame_of(message, PlacementAck).applied_version for message in read_all(settings, PLACEMENT_ACK.name, model)]

        wait_until(lambda: acknowledged() == [9])
