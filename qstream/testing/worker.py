"""A sample worker as a program: ``python -m qstream.testing.worker NAME PARTITIONS SETTINGS`` until SIGTERM."""

from __future__ import annotations

import logging
import signal
import sys

from qstream.config import Settings
from qstream.errors import EXIT_FATAL, Fatal
from qstream.state.store import StateStore
from qstream.stream.loop import BatchLoop
from qstream.testing.sample import Sample, Tally


def main(name: str, partitions: str, settings_json: str) -> int:
    """Run the loop; its exit status is that of a real worker."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    settings = Settings.model_validate_json(settings_json)
    sample = Sample(name, int(partitions)).configure(settings.options)
    store = StateStore(settings.redis_url.get_secret_value(), name, Tally, settings.redis_timeout_ms)
    loop = BatchLoop(sample, settings, store)
    signal.signal(signal.SIGTERM, lambda *_: loop.stop())
    try:
        loop.run()
    except Fatal:
        logging.exception("the loop stopped without commit")
        return EXIT_FATAL
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
