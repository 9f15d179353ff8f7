"""What nvidia-smi would print of modelled GPUs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

QUERY = "timestamp, uuid, power.draw [W], power.limit [W], power.min_limit [W], power.max_limit [W], power.default_limit [W]"
BEGIN = datetime(2026, 5, 4, 12, tzinfo=UTC)


def csv_of(node, seconds):
    """A row a second for each GPU of a `FakeNvml`."""
    lines = [f"{QUERY}, clocks.current.sm [MHz]"]
    for second in range(seconds):
        node.advance(1)
        frame = node.telemetry("d")
        value = dict(zip(frame.metric, frame.value, strict=True))
        at = (BEGIN + timedelta(seconds=second)).strftime("%Y/%m/%d %H:%M:%S.100")
        for column, uuid in enumerate(frame.uuid):
            least, most, default = node.limits_w(uuid)
            limits = f"{node.power_limit_w(uuid):.2f} W, {least:.2f} W, {most:.2f} W, {default:.2f} W"
            lines.append(f"{at}, {uuid}, {value['power_w'][column]:.2f} W, {limits}, {value['sm_clock_mhz'][column]:.0f} MHz")
    return "\n".join(lines) + "\n"
