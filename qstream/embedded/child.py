"""Child processes that never outlive the program that started them."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, MutableSequence, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path

Child = subprocess.Popen[bytes]

# Below the ephemeral range (32768 and up), where an outgoing connection could take the port of a server that is down.
PORTS = range(12000, 30000)

# Asks the kernel for SIGKILL when the parent dies (prctl 1 = PR_SET_PDEATHSIG), then becomes the server: same pid.
# A launcher instead of preexec_fn, because the latter runs Python between fork and exec and may deadlock when the
# parent has threads (librdkafka's, numba's). The check covers a parent that died before the request.
_LAUNCHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def log_end(log: Path, lines: int) -> list[str]:
    """The last lines of a child's log; empty without a log."""
    return log.read_text(errors="replace").splitlines()[-lines:] if log.exists() else []


def start_child(
    command: Sequence[str], log: Path, folder: Path, *, errors: Path | None = None, environment: Mapping[str, str] | None = None
) -> Child:
    """Start a program that the kernel kills when this process dies, however it dies.

    It runs in a session of its own, so that Ctrl-C reaches the program first, which then closes its servers in order.

    Parameters
    ----------
    command
        Absolute path of the program, then its arguments.
    log
        Appended with standard output, and with standard error unless that goes to `errors`.
    folder
        Working directory.
    errors
        Appended with standard error.
    environment
        All its variables; None: those of this process.

    Raises
    ------
    OSError
        The log, the folder or the launcher cannot be opened.
    """
    started: Future[Child] = Future()
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]

    def start_and_reap() -> None:
        try:
            with log.open("ab") as output, nullcontext(output) if errors is None else errors.open("ab") as error_output:
                child = subprocess.Popen(
                    launcher,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=error_output,
                    cwd=folder,
                    env=environment,
                    start_new_session=True,
                )
        except OSError as exc:
            started.set_exception(exc)
            return
        started.set_result(child)
        child.wait()

    # To the kernel the parent is the thread that forked: one that ended early would take the server with it.
    threading.Thread(target=start_and_reap, name=f"reap {Path(command[0]).name}", daemon=True).start()
    return started.result()


def end_child(child: Child, grace_s: float = 0.0) -> None:
    """End a child, paused or not: SIGTERM if it is given grace, SIGKILL after that; return when it is gone."""
    if grace_s > 0:
        child.send_signal(signal.SIGCONT)
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace_s)
    child.kill()
    child.wait()


def release(owner_pid: int, children: MutableSequence[Child], folder: Path | None) -> None:
    """Kill the children and remove their folder (None: keep it); a forked copy of the owner does nothing."""
    if os.getpid() != owner_pid:
        return
    for child in children:
        end_child(child)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Choose distinct loopback ports that nothing listens on.

    Chosen by the system's randomness, as two programs with one seed must not meet on a port.
    """
    chance = random.SystemRandom()
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port := chance.choice(PORTS)))
                ports.append(port)
        return ports
