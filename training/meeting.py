"""The hosts wait for each other before TensorFlow connects them.

TensorFlow's own waiting takes an hour, says nothing, and holds the interpreter, so that neither a
time limit nor Ctrl-C ends it. So the hosts meet first, at the address of the first one, which
TensorFlow's server takes over afterwards.
"""

import contextlib
import select
import socket
import sys
import time
from collections.abc import Sequence

from training.probes import DeviceError

_GO = b"waymark: go\n"
_HELLO = b"waymark: host %d\n"
_LONGEST = 40  # bytes of a message


def meet(addresses: Sequence[str], index: int, *, seconds: float) -> None:
    """Returns when all hosts have called this.

    Args:
        addresses: "host:port" of each host.
        index: this host's place among them.
        seconds: how long to wait.

    Raises:
        DeviceError: the others do not come, or the first one's port is taken.
    """
    end = time.monotonic() + seconds
    if index == 0:
        _receive_all(addresses, end)
    else:
        _join(addresses[0], index, end)


def _receive_all(addresses: Sequence[str], end: float) -> None:
    """Keeps the connection of each other host until all are there."""
    try:
        server = socket.create_server(("", _split(addresses[0])[1]))
    except OSError as error:
        raise DeviceError(
            f"TF_CONFIG: this host cannot listen at {addresses[0]} ({error.strerror}); end what "
            "does, or take another port on all hosts"
        ) from None
    here: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(server)
        _say(f"{addresses[0]} waits for {', '.join(addresses[1:])}")
        while missing := [a for i, a in enumerate(addresses) if i and i not in here]:
            try:
                server.settimeout(max(end - time.monotonic(), 0.001))
                connection, _ = server.accept()
            except TimeoutError:
                raise DeviceError(
                    f"TF_CONFIG: nothing came from {', '.join(missing)}; start the same command "
                    "on every host, each with its own index"
                ) from None
            stack.enter_context(connection)
            number = _number(connection, len(addresses))
            if number is not None:
                here[number] = connection
            here = {i: kept for i, kept in here.items() if not _is_closed(kept)}
        for connection in here.values():
            connection.sendall(_GO)


def _join(address: str, index: int, end: float) -> None:
    """Tells the first host that this one is there, and waits for its sign."""
    _say(f"host {index} waits for {address}")
    while (left := end - time.monotonic()) > 0:
        try:
            with socket.create_connection(_split(address), timeout=min(left, 5.0)) as connection:
                connection.sendall(_HELLO % index)
                connection.settimeout(left)
                answer = connection.recv(_LONGEST)
        except OSError:
            answer = b""
        if answer == _GO:
            return
        if answer:
            raise DeviceError(
                f"TF_CONFIG: another program, or a training that is under way, answers at "
                f"{address}; end it and start the same command on every host"
            )
        time.sleep(0.2)
    raise DeviceError(
        f"TF_CONFIG: the first host, {address}, did not answer, or not all hosts came; start the "
        "same command on every host, each with its own index"
    )


def _number(connection: socket.socket, hosts: int) -> int | None:
    """Returns the number of the host that has connected; None if it is none of ours."""
    connection.settimeout(5.0)
    with contextlib.suppress(OSError):
        text = connection.recv(_LONGEST)
        for number in range(1, hosts):
            if text == _HELLO % number:
                return number
    return None


def _is_closed(connection: socket.socket) -> bool:
    readable, _, _ = select.select([connection], [], [], 0)
    return bool(readable)


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _say(text: str) -> None:
    print(f"{text} ...", file=sys.stderr, flush=True)
