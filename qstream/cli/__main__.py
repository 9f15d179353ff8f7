"""Run the command as ``python -m qstream.cli``."""

from qstream.cli.main import app

app(prog_name="qstream")
