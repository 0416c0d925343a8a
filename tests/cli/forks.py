"""Commands without the third of a second in which Python reads the same modules again.

One process has them read and forks for each command: `python -m tests.cli.forks SOCKET`. What a test starts and
holds is a small stand-in: it hands over its streams, arguments and environment, hands on its signals, and ends as
the command ends. The command is a process of its own, from the first line of main() to the end of its interpreter.
"""

import atexit
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from cli.main import main

ROOT = Path(__file__).parents[2]
MOST = 1 << 20
"""Bytes of arguments and environment together."""
UP_S = 60.0
STAND_IN = """
import array, os, signal, sys, _socket
link = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
link.connect(sys.argv[1])
words = [os.fsencode(word) for word in sys.argv[2:]]
said = [b"%d" % len(words), *words, *(b"=".join(entry) for entry in os.environb.items())]
link.sendmsg([b"\\0".join(said)], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", (0, 1, 2)))])
child = int(link.recv(64))
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, _: os.kill(child, number))
for stream in (0, 1, 2):
    os.close(stream)
code = int(link.recv(64) or b"70")
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


def stand_in(environment: Mapping[str, str]) -> tuple[str, ...]:
    """What to start in the place of `python -m cli`, in this environment; BROKER_* may be others each time."""
    kept = tuple(sorted((n, v) for n, v in environment.items() if not n.startswith("BROKER_")))
    return (sys.executable, "-I", "-S", "-c", STAND_IN, _forking(kept))


@cache
def _forking(environment: tuple[tuple[str, str], ...]) -> str:
    """Where a process listens that has read the commands in this environment; it ends with this one."""
    folder = tempfile.mkdtemp(prefix="cli-")
    address = f"{folder}/socket"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cli.forks", address],
        cwd=ROOT, env=dict(environment), start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,  # pipes, as a command's are
    )  # fmt: skip

    def end() -> None:
        process.communicate()  # the end of its input is its end
        Path(address).unlink(missing_ok=True)
        Path(folder).rmdir()

    atexit.register(end)
    ends_at = time.monotonic() + UP_S
    while not Path(address).exists():
        assert process.poll() is None, "what forks the commands did not start"
        assert time.monotonic() < ends_at, "what forks the commands did not come up"
        time.sleep(0.01)
    return address


def serve(address: str) -> int:
    """Fork for each stand-in that comes, until the input ends; in the fork the command's exit code."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(f"{address}.new")
    listener.listen(100)
    os.rename(f"{address}.new", address)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait
    while True:
        ready, _, _ = select.select([listener, 0], [], [])
        if 0 in ready:
            listener.close()
            return 0
        link, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return _attend(link)
        link.close()


def _attend(link: socket.socket) -> int:
    """Start the command, wait for its end, tell it. Where nobody is left to tell, the command is killed."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    said, streams, _, _ = socket.recv_fds(link, MOST, 3)
    child = os.fork()
    if child == 0:
        link.close()
        return _run(said, streams)
    for stream in streams:
        os.close(stream)
    link.send(str(child).encode())
    ended = os.pidfd_open(child)
    ready, _, _ = select.select([ended, link], [], [])
    if ended not in ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if ended in ready:
        link.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _run(said: bytes, streams: list[int]) -> int:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    count, *words = said.split(b"\0")
    arguments, environment = words[: int(count)], words[int(count) :]
    os.environ.clear()
    for entry in environment:
        name, _, value = entry.partition(b"=")
        os.environb[name] = value
    sys.argv = [sys.argv[0], *map(os.fsdecode, arguments)]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return main()


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1]))
