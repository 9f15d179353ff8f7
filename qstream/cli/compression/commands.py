"""`qstream compression`: files of tensors packed small, given back, and explained, and made of what agents restored."""

from __future__ import annotations

from qstream.cli.compression.codebooks import train
from qstream.cli.compression.collect import collect
from qstream.cli.compression.inspect import inspect
from qstream.cli.compression.pack import pack
from qstream.cli.compression.unpack import unpack
from qstream.cli.options import new_app

app = new_app(
    """Pack files of tensors small, and give them back as promised.

    \b
    Example:
      qstream compression pack model.safetensors
      qstream compression inspect model.safetensors.qsz
      qstream compression unpack model.safetensors.qsz --out model.safetensors
    """
)
app.command()(pack)
app.command()(unpack)
app.command()(inspect)
app.command()(train)
app.command()(collect)
