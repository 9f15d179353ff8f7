"""The same work on Quix Streams, with the same validation; run by a Python of its own that has quixstreams 3.28 and pydantic."""

import json
import sys
import tempfile
from typing import Annotated, Any

from pydantic import BaseModel, Field
from quixstreams import Application, State

Finite = Annotated[float, Field(allow_inf_nan=False)]
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class Report(BaseModel):
    """What a node reports each second."""

    node: Annotated[str, Field(min_length=1, max_length=200)]
    ts_ns: Annotated[int, Field(ge=0)]
    power_w: list[Finite]
    counters: list[Int64]


def answer(body: bytes, state: State) -> dict[str, Any]:
    """Add a report to the sums of its node."""
    report = Report.model_validate_json(body)
    sums = state.get("sums") or {"reports": 0, "energy_j": [0.0] * 8, "counters": [0] * 110}
    sums["reports"] += 1
    sums["energy_j"] = [a + b for a, b in zip(sums["energy_j"], report.power_w, strict=True)]
    sums["counters"] = [a + b for a, b in zip(sums["counters"], report.counters, strict=True)]
    state.set("sums", sums)
    return {"node": report.node, "reports": sums["reports"], "power_w": sum(report.power_w)}


def run(kafka: str, source: str, target: str, group: str) -> None:
    """Answer until SIGTERM."""
    with tempfile.TemporaryDirectory(prefix="qstream-quix-") as folder:
        app = Application(
            broker_address=kafka, consumer_group=group, auto_offset_reset="earliest", state_dir=folder, loglevel="WARNING"
        )
        reports = app.topic(source, value_deserializer="bytes", key_deserializer="str")
        answers = app.topic(target, value_serializer="json", key_serializer="str")
        app.dataframe(reports).apply(answer, stateful=True).to_topic(answers)
        app.run()


if __name__ == "__main__":
    run(**json.loads(sys.argv[1]))
