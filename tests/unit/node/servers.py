"""HTTP servers of tests, on a loopback port or a unix socket: a page, and zeusd's API over modelled GPUs."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import UnixStreamServer
from urllib.parse import parse_qsl, urlsplit

from qstream.node import FakeNvml
from qstream.node.device import DeviceDenied

Answer = Callable[[str, str, dict[str, str]], tuple[int, bytes]]  # method, path, parameters -> status, body


class _OnSocket(UnixStreamServer):
    def get_request(self):
        connection, _ = super().get_request()
        return connection, ("unix", 0)


@contextmanager
def serving(answer: Answer, path: Path | None = None) -> Iterator[str]:
    """A server of these answers; its place."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            status, body = answer(self.command, parts.path, dict(parse_qsl(parts.query)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the name that the base class calls

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler) if path is None else _OnSocket(str(path), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}" if path is None else f"unix://{path}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Zeusd:
    """The daemon's API, as its reference has it, over modelled GPUs; `old` ones do not know limits."""

    def __init__(self, gpus: FakeNvml, *, old: bool = False) -> None:
        self.gpus, self.old = gpus, old
        self.order = list(gpus.uuids)
        self.address = {uuid: f"0000:{at + 1:02X}:00.0" for at, uuid in enumerate(gpus.uuids)}

    def names(self) -> dict[str, str]:
        """Uuid by PCI address."""
        return {address.lower(): uuid for uuid, address in self.address.items()}

    def __call__(self, method: str, path: str, given: dict[str, str]) -> tuple[int, bytes]:
        if method == "POST":
            return self._set(path, given)
        if path == "/discover":
            gpus = [{"id": at, "name": "H100", "pci_address": self.address[uuid]} for at, uuid in enumerate(self.order)]
            return 200, json.dumps({"gpus": gpus, "cpus": [], "enabled_api_groups": ["gpu-read"]}).encode()
        frame = self.gpus.telemetry("d")
        power = frame.value[frame.metric.index("power_w")]
        watts = {uuid: float(power[frame.uuid.index(uuid)]) for uuid in self.order}
        if path == "/gpu/get_power":
            found = {str(at): round(1000 * watts[uuid]) for at, uuid in enumerate(self.order)}
            return 200, json.dumps({"timestamp_ms": 1_762_000_000_000, "power_mw": found}).encode()
        if self.old or "limit" not in path:
            return 404, b"not found"
        least, most, _ = self.gpus.limits_w(self.order[0])
        constraints = {"min_power_limit_mw": round(least * 1000), "max_power_limit_mw": round(most * 1000)}
        limits = [{"power_limit_mw": round(self.gpus.power_limit_w(uuid) * 1000)} for uuid in self.order]
        rows = [constraints] * len(limits) if path.endswith("constraints") else limits
        return 200, json.dumps({str(at): row for at, row in enumerate(rows)}).encode()

    def _set(self, path: str, given: dict[str, str]) -> tuple[int, bytes]:
        uuid = self.order[int(given["gpu_ids"])]
        assert given["block"] == "true"
        try:
            if path == "/gpu/set_power_limit":
                self.gpus.set_power_limit_w(uuid, int(given["power_limit_mw"]) / 1000)
            elif path == "/gpu/set_gpu_locked_clocks":
                assert int(given["min_clock_mhz"]) == self.gpus.kind.lowest_mhz
                self.gpus.set_sm_clock_cap_mhz(uuid, int(given["max_clock_mhz"]))
            elif path == "/gpu/reset_gpu_locked_clocks":
                self.gpus.set_sm_clock_cap_mhz(uuid, None)
        except DeviceDenied as exc:
            return 403, json.dumps({"errors": {given["gpu_ids"]: str(exc)}}).encode()
        return 200, b""
