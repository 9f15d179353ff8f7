"""The process that has PennyLane loaded and forks the processes of devices: a new one costs milliseconds, not seconds.

It is a program of its own rather than ``multiprocessing``'s fork server, which runs the user's main module again, belongs to
the whole application, and cannot be started with other threads settings than the application's.

It takes requests as JSON, one a packet: ``{"spawn": DEVICE}`` with the device's end of a channel, answered in order by
``{"pid": N}``, and ``{"kill": N}``. It says ``{"ready": true}`` once, and ``{"gone": N}`` of each process that ended. When the
channel closes, it kills all and ends; when it ends, the kernel kills them.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import json
import os
import select
import signal
import socket
import sys
import time
from dataclasses import replace

from qstream.quantum.devices.channel import ChannelClosed, receive, send
from qstream.quantum.devices.circuits import PROBE
from qstream.quantum.devices.pool import DeviceSpec
from qstream.quantum.devices.sample import open_device, sample
from qstream.quantum.record import Refused

PACKET = 1 << 16
PRELOAD = ("pennylane", "pennylane_lightning.lightning_qubit")
_PDEATHSIG = 1


def main() -> None:
    """Serve on the socket whose number is the first argument; the second is the pid of the process to serve."""
    control = socket.socket(fileno=int(sys.argv[1]))
    die_with(int(sys.argv[2]))
    for name in PRELOAD:
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            importlib.import_module(name)
    gc.freeze()
    control.send(b'{"ready": true}')
    wake, alarm = os.pipe()
    os.set_blocking(alarm, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
    children: set[int] = set()
    try:
        while True:
            readable, _, _ = select.select([control.fileno(), wake], [], [])
            if wake in readable:
                os.read(wake, 4096)
                reap(children, control)
            if control.fileno() in readable and not obey(control, children):
                return
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        for pid in children:
            os.waitpid(pid, 0)


def obey(control: socket.socket, children: set[int]) -> bool:
    """Do what one packet asks; False at the end of the channel."""
    packet, descriptors, _, _ = socket.recv_fds(control, PACKET, 1)
    if not packet:
        return False
    request = json.loads(packet)
    if "kill" in request:
        # A child that was not reaped yet keeps its pid, so that no other process can be hit.
        if request["kill"] in children:
            os.kill(request["kill"], signal.SIGKILL)
        return True
    nursery, pid = os.getpid(), os.fork()
    if pid == 0:
        become_device(nursery, control, descriptors[0], request["spawn"])
    os.close(descriptors[0])
    children.add(pid)
    try:
        control.send(json.dumps({"pid": pid}).encode())
    except OSError:
        return False
    return True


def reap(children: set[int], control: socket.socket) -> None:
    """Take leave of the children that ended."""
    while children:
        pid, _ = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        children.discard(pid)
        with contextlib.suppress(OSError):
            control.send(json.dumps({"gone": pid}).encode())


def become_device(nursery: int, control: socket.socket, descriptor: int, spec: object) -> None:
    """In the forked process: serve one device, and never return."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        die_with(nursery)
        control.close()
        with socket.socket(fileno=descriptor) as channel:
            serve(channel, DeviceSpec.model_validate(spec))
    finally:
        os._exit(0)


def serve(channel: socket.socket, spec: DeviceSpec) -> None:
    """Say whether the device is ready, then answer circuits with `Samples` or ``(reason, detail)`` until the channel closes."""
    with contextlib.suppress(ChannelClosed):
        try:
            # A circuit of a machine that answers late is a job in somebody's queue, and may cost money: open it only.
            open_device(spec, PROBE.n, 0) if spec.mode == "late" else sample(spec, PROBE)
        except Refused as refused:
            send(channel, (refused.reason, refused.detail))
            return
        send(channel, "ready")
        while True:
            circuit = receive(channel)
            try:
                before_s = time.process_time()
                found = sample(spec, circuit)
                send(channel, replace(found, cpu_s=time.process_time() - before_s))
            except Refused as refused:
                send(channel, (refused.reason, refused.detail))


def die_with(parent: int) -> None:
    """Ask the kernel for SIGKILL when the parent ends; end now if it has ended already."""
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


if __name__ == "__main__":
    main()
