"""A TCP relay to a device's port: it counts, it can be cut at a byte, and it can lose what the device says."""

from __future__ import annotations

import contextlib
import getpass
import socket
import threading
from collections.abc import Callable, Iterator

from tests.sshd import Sshd

Carry = Callable[[socket.socket, bytes], None]


class Cable:
    """A way to 127.0.0.1:port that is not a good one.

    Attributes:
        port: where to connect instead.
        sent: bytes that went to the device so far.
        mute: what the device says is lost, as long as this is set.
    """

    def __init__(self, port: int):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.sent = 0
        self.mute = False
        self._left: int | None = None
        self._lock = threading.Lock()
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, args=(port,), daemon=True)]
        self._threads[0].start()

    @classmethod
    @contextlib.contextmanager
    def to(cls, server: Sshd) -> Iterator[Cable]:
        """A cable to a server, whose host key is known at its end too."""
        cable = cls(server.port)
        known = server.known_hosts.read_text()
        server.known_hosts.write_text(known + server.host_key_line.replace(str(server.port), str(cable.port)))
        try:
            yield cable
        finally:
            cable.cut()
            server.known_hosts.write_text(known)

    @property
    def host(self) -> str:
        """What --host would be."""
        return f"{getpass.getuser()}@127.0.0.1:{self.port}"

    def cut_after(self, count: int) -> None:
        """Carry `count` more bytes to the device, then nothing ever."""
        with self._lock:
            self._left = count

    def cut(self) -> None:
        """Carry nothing more, in no direction; both ends see it. May be called again."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._shut()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(10)
        for end in self._ends:
            end.close()

    def _shut(self) -> None:
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self, port: int) -> None:
        with contextlib.suppress(OSError):
            while True:
                pair = self._listener.accept()[0], socket.create_connection(("127.0.0.1", port))
                self._ends += pair
                for source, sink, carry in ((*pair, self._to_device), (*pair[::-1], self._to_host)):
                    self._threads.append(threading.Thread(target=self._pump, args=(source, sink, carry), daemon=True))
                    self._threads[-1].start()

    def _pump(self, source: socket.socket, sink: socket.socket, carry: Carry) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                carry(sink, data)

    def _to_device(self, sink: socket.socket, data: bytes) -> None:
        with self._lock:
            over = self._left is not None and len(data) >= self._left
            data = data[: self._left]
            if self._left is not None:
                self._left -= len(data)
            self.sent += len(data)
        sink.sendall(data)
        if over:
            self._shut()

    def _to_host(self, sink: socket.socket, data: bytes) -> None:
        if not self.mute:
            sink.sendall(data)
