"""A connection to a node, and what it tells of it."""

import socket
from collections.abc import Iterator

import pytest

from pared.search.workers.line import Line


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def test_who_listens_lives_and_who_stops_is_dead(server: socket.socket) -> None:
    line = Line(*server.getsockname())
    theirs, _ = server.accept()
    theirs.sendall(b"whatever it says first")
    assert not line.is_dead() and not line.is_dead()
    theirs.close()  # it hangs up on those who say nothing, and lives
    assert not line.is_dead()
    server.accept()[0].close()
    server.close()
    assert line.is_dead() and line.is_dead()
    line.close()


def test_who_cannot_be_reached_is_not_called_dead() -> None:
    line = Line("192.0.2.200", 9)  # for documentation: nobody has this address
    assert not line.is_dead()
    line.close()
