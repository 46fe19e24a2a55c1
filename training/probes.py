"""Questions to the network that are answered within seconds, whatever is at the other end."""

import queue
import socket
import threading
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")

# HTTP/2's client preface and an empty SETTINGS frame, RFC 9113 sections 3.4 and 6.5.
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_FRAME_HEADER, _TYPE_AT, _SETTINGS = 9, 3, 4


class DeviceError(RuntimeError):
    """The devices asked for are not there; the message says what to do next."""


def within(seconds: float, function: Callable[..., Answer], *args) -> Answer:
    """Returns what `function` returns, or gives up waiting for it.

    Name look-ups and some of TensorFlow's calls take no time limit; the thread that waits for them
    does not keep the process alive.

    Raises:
        TimeoutError: no answer in `seconds`.
    """
    answers: queue.SimpleQueue = queue.SimpleQueue()

    def work():
        try:
            answers.put((function(*args), None))
        except Exception as error:
            answers.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        answer, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer in {seconds:g} seconds") from None
    if error is not None:
        raise error
    return answer


def greet_grpc(host: str, port: int, *, seconds: float = 5.0) -> None:
    """Connects to a port and waits for the first frame of a gRPC server.

    TensorFlow's own connection to an address where nobody listens, or where something listens and
    is silent, never ends.

    Raises:
        OSError: nobody listens, or the name is unknown.
        TimeoutError: nobody answers in time.
        ConnectionError: what answers is no gRPC server.
    """
    first = within(seconds, _first_bytes, host, port, seconds)
    if len(first) < _FRAME_HEADER or first[_TYPE_AT] != _SETTINGS:
        raise ConnectionError("what answers there is no gRPC server")


def _first_bytes(host: str, port: int, seconds: float) -> bytes:
    received = b""
    with socket.create_connection((host, port), timeout=seconds) as connection:
        connection.sendall(_HELLO)
        while len(received) < _FRAME_HEADER:
            data = connection.recv(_FRAME_HEADER - len(received))
            if not data:
                break
            received += data
    return received
