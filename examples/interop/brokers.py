"""How each broker carries a message: section "Transports" of docs/WIRE.md.

Each class publishes one message, and yields messages once `subscribed` was called back.
"""

import asyncio
import base64
import hashlib
import json
import os

import envelope


class Redis:
    """The envelope is the body of PUBLISH."""

    def __init__(self, url):
        import redis

        self.client = redis.Redis.from_url(url)

    @staticmethod
    def channel(topic):
        return "=" + topic if topic.startswith("__redis__") else topic

    def publish(self, topic, message):
        self.client.publish(self.channel(topic), envelope.encode(message))

    def read(self, topic, subscribed):
        subscription = self.client.pubsub()
        subscription.subscribe(self.channel(topic))
        for event in subscription.listen():
            if event["type"] == "subscribe":
                subscribed()
            elif event["type"] == "message":
                yield envelope.decode(event["data"])


class Nats:
    """The envelope is the body."""

    def __init__(self, url):
        import nats

        self.loop = asyncio.new_event_loop()
        self.client = self.loop.run_until_complete(nats.connect(url))

    def publish(self, topic, message):
        self.loop.run_until_complete(self.client.publish(topic, envelope.encode(message)))
        self.loop.run_until_complete(self.client.flush())

    def read(self, topic, subscribed):
        subscription = self.loop.run_until_complete(self.client.subscribe(topic))
        self.loop.run_until_complete(self.client.flush())
        subscribed()
        while True:
            event = self.loop.run_until_complete(subscription.next_msg(timeout=60))
            yield envelope.decode(event.data)


class Postgres:
    """A notification: the envelope in base64, or JSON; long texts in pieces."""

    LONGEST = 7999

    def __init__(self, url):
        import psycopg

        self.connection = psycopg.connect(url, autocommit=True)

    @staticmethod
    def channel(topic):
        if len(topic) <= 63:
            return topic
        return "=" + hashlib.sha224(topic.encode()).hexdigest()

    def publish(self, topic, message):
        channel = self.channel(topic)
        if channel != topic:
            message = {**message, "topic": topic}
        text = base64.b64encode(envelope.encode(message)).decode().rstrip("=")
        with self.connection.transaction():
            for piece in self.pieces(text):
                self.connection.execute("SELECT pg_notify(%s, %s)", (channel, piece))

    def pieces(self, text):
        if len(text) <= self.LONGEST:
            return [text]
        number, room = os.urandom(8).hex(), self.LONGEST - 60
        parts = [text[at : at + room] for at in range(0, len(text), room)]
        return [f"~{number}.{index}.{len(parts)}.{part}" for index, part in enumerate(parts)]

    def read(self, topic, subscribed):
        from psycopg import sql

        self.connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self.channel(topic))))
        subscribed()
        parts = []
        for event in self.connection.notifies(timeout=60):
            text = event.payload
            if text.startswith("~"):
                _, index, count, part = text.split(".", 3)
                parts = parts[: int(index)] + [part]
                if len(parts) < int(count):
                    continue
                text = "".join(parts)
            yield self.message(text)

    @staticmethod
    def message(text):
        if text.startswith('{"hydratecache":'):
            message = json.loads(text)
            if "version" in message:
                message["caller_version"] = message.pop("version")
            return message
        encoded = text.split(".", 1)[0].rstrip("=")
        return envelope.decode(base64.b64decode(encoded + "=" * (-len(encoded) % 4)))


BROKERS = {"redis": Redis, "nats": Nats, "postgres": Postgres}
