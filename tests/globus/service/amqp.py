"""The service's side of AMQP: one connection to RabbitMQ on the event loop, made again whenever it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.3


class BrokerAwayError(Exception):
    """RabbitMQ is not connected at this moment."""


class Broker:
    """Publishes, and consumes from durable topic exchanges, each with a queue of its own name."""

    def __init__(self, url: str, consumers: Mapping[str, Callable[[bytes], None]]) -> None:
        self.url = url
        self.connected = asyncio.Event()
        self._consumers = consumers
        self._channel: Channel | None = None

    async def run(self) -> None:
        """Keeps the connection until it is cancelled."""
        while True:
            try:
                await self._connection()
            except BrokerAwayError as away:
                log.warning("RabbitMQ is away: %s", away)
            await asyncio.sleep(RETRY_SECONDS)

    async def declare(self, queue: str) -> None:
        """Makes a durable queue, if it is not there. Raises `BrokerAwayError`."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def declared(_: object) -> None:
            if not done.done():
                done.set_result(None)

        self._open().queue_declare(queue, durable=True, callback=declared)
        try:
            await asyncio.wait_for(done, 5)
        except TimeoutError:
            raise BrokerAwayError("it does not answer") from None

    def publish(self, queue: str, body: bytes, **properties: Any) -> None:
        """Puts a message that outlives RabbitMQ's restart into a queue. Raises `BrokerAwayError`."""
        self._open().basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2, **properties))

    def _open(self) -> Channel:
        if self._channel is None or not self._channel.is_open:
            raise BrokerAwayError("it is not connected")
        return self._channel

    async def _connection(self) -> None:
        """One connection, from its beginning to its end. Raises `BrokerAwayError` with the reason of the end."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Any] = loop.create_future()

        def end(_: object, reason: object) -> None:
            if not ended.done():
                ended.set_result(reason)

        def opened(_: object) -> None:
            connection.channel(on_open_callback=self._opened)

        connection = AsyncioConnection(
            pika.URLParameters(self.url),
            on_open_callback=opened,
            on_open_error_callback=end,
            on_close_callback=end,
            custom_ioloop=loop,
        )
        try:
            raise BrokerAwayError(str(await ended))
        finally:
            self._channel = None
            self.connected.clear()
            if connection.is_open:
                connection.close()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(ended), 2)

    def _opened(self, channel: Channel) -> None:
        """A channel answers its requests in order: what is asked first is there when the last is answered."""
        for name, consume in self._consumers.items():
            channel.exchange_declare(name, "topic", durable=True)
            channel.queue_declare(name, durable=True)
            channel.queue_bind(name, name, "#")
            channel.basic_consume(name, _consumer(consume))

        def usable(_: object) -> None:
            self._channel = channel
            self.connected.set()

        channel.basic_qos(prefetch_count=100, callback=usable)


def _consumer(consume: Callable[[bytes], None]) -> Callable[..., None]:
    def received(channel: Channel, method: Any, _: object, body: bytes) -> None:
        try:
            consume(body)
        except ValueError as error:  # nobody would understand it the second time either
            log.warning("A message that nobody understands: %s", error)
        channel.basic_ack(method.delivery_tag)

    return received
