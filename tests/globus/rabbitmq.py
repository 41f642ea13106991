"""A private RabbitMQ: own ports, own folder, own name server of Erlang."""

from __future__ import annotations

import socket
import time

from tests.globus.run import Run
from tests.testing.processes import SOON, HeldPort

SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"
_GREETING = b"AMQP\x00\x00\x09\x01"


class RabbitMQ:
    """A RabbitMQ of the run. It can be stopped and started; its queues and what is in them stay."""

    def __init__(self, run: Run) -> None:
        folder = run.folder / "rabbitmq"
        folder.mkdir()
        (folder / "plugins").write_text("[].\n")
        self._port, self._names, self._distribution = HeldPort(), HeldPort(), HeldPort()
        epmd = {"ERL_EPMD_PORT": str(self._names.port), "ERL_EPMD_ADDRESS": "127.0.0.1"}
        settings = {
            **epmd,
            "HOME": str(folder),
            "RABBITMQ_NODENAME": "weft@localhost",
            "RABBITMQ_NODE_PORT": str(self._port.port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(self._distribution.port),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            # One scheduler that does not spin: the machine has other things to do.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
        }
        # RabbitMQ would start one that outlives it.
        self._epmd = run.part("epmd", ["epmd"], epmd)
        self.server = run.part("rabbitmq", [SERVER], settings)
        self.url = f"amqp://guest:guest@127.0.0.1:{self._port.port}/%2F"

    def start(self) -> None:
        """Starts it, and returns when it takes connections: some five seconds."""
        if not self._epmd.running:
            self._epmd.launch()
            _until(self._names.port, b"")
        self.server.launch()
        _until(self._port.port, _GREETING)


def _until(port: int, greeting: bytes) -> None:
    """Waits until the server at a port answers a greeting, or takes a connection if there is none to answer."""
    until = time.monotonic() + 4 * SOON
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as connection:
                connection.sendall(greeting)
                if not greeting or connection.recv(1):
                    return
        except OSError:
            pass
        assert time.monotonic() < until, f"nobody listens on port {port}"
        time.sleep(0.05)
