"""Models on a real broker: workers that start before and after they are published use the same ones."""

import threading

import numpy as np
from confluent_kafka.admin import AdminClient

from qstream.config import Settings
from qstream.learn.model import Model, parts
from qstream.learn.registry import Registry, Want
from qstream.stream.admin import apply_topics
from qstream.stream.client import Publisher
from qstream.stream.tables import Tables
from qstream.testing.rig import wait_until
from schemas.model import ModelPart
from schemas.topics import MODELS


def model(version, size):
    arrays = {"0.weight": np.full((1, size), 1.0 + version), "0.bias": np.zeros(1)}
    names = tuple(f"f{index}" for index in range(size))
    return Model(module="meter", name="next", version=version, kind="mlp", arrays=arrays, feature_names=names)


def test_workers_that_start_before_and_after_a_model_of_several_parts_use_the_same(kafka):
    apply_topics(AdminClient({"bootstrap.servers": kafka}), [MODELS], 1)
    settings, size = Settings(bootstrap_servers=kafka), 4000
    wide = Model(
        module="meter",
        name="next",
        version=1,
        kind="mlp",
        arrays={"0.weight": np.ones((60, size)), "0.bias": np.zeros(60), "1.weight": np.ones((1, 60)), "1.bias": np.zeros(1)},
        feature_names=tuple(f"f{index}" for index in range(size)),
    )
    wants = {"next": Want(("mlp",), wide.feature_names, 1)}
    early, late = (Tables(settings, [MODELS]) for _ in range(2))
    registries = [Registry("meter", wants) for _ in range(2)]

    def newest(tables, registry):
        tables.changes()
        return registry.taken(tables.rows[MODELS.name]).newest("next")

    with Publisher(kafka) as publisher:
        try:
            early.read(threading.Event())
            assert newest(early, registries[0]) is None
            sent = parts(wide)
            assert len(sent) > 1
            for part in sent[::-1]:
                publisher.publish(MODELS, part)
            publisher.publish(MODELS, parts(model(2, size))[0])
            publisher.flush()
            late.read(threading.Event())
            assert newest(late, registries[1]) == 2
            wait_until(lambda: newest(early, registries[0]) == 2)
            assert registries[0].taken(early.rows[MODELS.name]).get("next", 1) is not None
            ended = {"retired": True, "data": np.zeros(0, np.uint8)}
            last = parts(model(2, size))[0]
            publisher.publish(MODELS, ModelPart.build(**{name: getattr(last, name) for name in ModelPart.model_fields} | ended))
            publisher.flush()
            wait_until(lambda: newest(early, registries[0]) == 1 == newest(late, registries[1]))
        finally:
            early.close()
            late.close()
