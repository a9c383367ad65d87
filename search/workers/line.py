"""A connection to a node: the kernel closes it when what listens there dies."""

import socket

PATIENCE_S = 0.2  # to connect; the driver waits meanwhile


class Line:
    """To `port` of `host`. Nothing is said over it; where it is not up, it is tried again at each look."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._socket: socket.socket | None = None
        self.is_dead()

    def is_dead(self) -> bool:
        """Whether nobody listens there any more; not known of what cannot be reached."""
        if self._is_open():
            return False
        try:
            self._socket = socket.create_connection(self._address, PATIENCE_S)
        except ConnectionRefusedError:
            return True
        except OSError:
            pass
        return False

    def _is_open(self) -> bool:
        """Reads off what the other side has said."""
        if self._socket is None:
            return False
        try:
            while self._socket.recv(4096, socket.MSG_DONTWAIT):
                pass
        except BlockingIOError:
            return True
        except OSError:
            pass
        self.close()
        return False

    def close(self) -> None:
        if self._socket:
            self._socket.close()
        self._socket = None
