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


class Kafka:
    """No envelope: the record's key and value, and headers of text."""

    OWN = {"__cluster_metadata", "__consumer_offsets", "__remote_log_metadata", "__share_group_state", "__transaction_state"}
    NUMBERS = {"hc-clock": "clock_version", "hc-version": "caller_version"}

    def __init__(self, url):
        import confluent_kafka

        self.kafka = confluent_kafka
        self.settings = {"bootstrap.servers": url.removeprefix("kafka://").rstrip("/")}

    @classmethod
    def topic(cls, topic):
        if ":" not in topic and "/" not in topic and topic not in cls.OWN:
            return topic
        changed = topic.replace(":", "-").replace("/", "_")
        bits = "".join(str(int(old != new)) for old, new in zip(topic, changed) if new in "-_")
        bits += "0" * (-len(bits) % 5)
        digits = (int(bits[at : at + 5], 2) for at in range(0, len(bits), 5))
        return changed + ".." + "".join("abcdefghijklmnopqrstuvwxyz234567"[digit] for digit in digits)

    def publish(self, topic, message):
        name, producer = self.topic(topic), self.kafka.Producer(self.settings)
        partitions = len(producer.list_topics(name, timeout=10).topics[name].partitions)
        key, value, headers = self.record(message)
        everywhere = message["kind"] == "clear"
        if everywhere and partitions > 1:
            headers.append(("hc-copy", str(int.from_bytes(os.urandom(8), "big"))))
        own = murmur2(message["key"].encode()) % partitions if "key" in message else 0
        for partition in range(partitions) if everywhere else [own]:
            producer.produce(name, key=key, value=value, partition=partition, headers=headers, on_delivery=delivered)
        if producer.flush(10):
            raise TimeoutError("the broker did not answer")

    @staticmethod
    def record(message):
        kind, key, value = message["kind"], message.get("key", "").encode(), b""
        headers = []
        if kind == "put":
            value = envelope.payload(message["value"], message.get("content_type"))
        elif kind == "remove":
            value = None
        elif kind == "touch":
            key = b"\xfft" + key
        else:
            key = b"\xffc" if kind == "clear" else b"\xffh" + message["origin"].to_bytes(8, "big")
        if kind not in ("put", "remove"):
            headers.append(("hc-kind", kind))
        if "origin" in message:
            headers.append(("hc-position", f"{message['origin']:016x}:{message['sequence']}"))
        for header, name in Kafka.NUMBERS.items():
            if name in message:
                headers.append((header, str(message[name])))
        if "ttl" in message:
            headers.append(("hc-ttl", "{}/{}".format(*message["ttl"])))
        if "content_type" in message:
            headers.append(("content-type", message["content_type"]))
        return key, value, headers

    def read(self, topic, subscribed):
        name = self.topic(topic)
        # A group is named because the client wants one; nobody joins it.
        consumer = self.kafka.Consumer({**self.settings, "group.id": "interop", "enable.auto.commit": False})
        places = []
        for partition in consumer.list_topics(name, timeout=10).topics[name].partitions:
            place = self.kafka.TopicPartition(name, partition)
            place.offset = consumer.get_watermark_offsets(place, timeout=10)[1]
            places.append(place)
        consumer.assign(places)
        subscribed()
        copies = set()
        # A record without a value is false.
        while (record := consumer.poll(60)) is not None:
            if record.error():
                raise self.kafka.KafkaException(record.error())
            headers = {name: value.decode() for name, value in record.headers() or []}
            copy = headers.get("hc-copy")
            if copy is None or copy not in copies:
                copies.add(copy)
                yield self.message(record.key(), record.value(), headers)

    @classmethod
    def message(cls, key, value, headers):
        if headers.get("hc-wire", "1") != "1":
            raise envelope.Rejected(f"wire version {headers['hc-wire']}")
        kind = headers.get("hc-kind", "put" if value else "remove")
        message = {"kind": kind}
        if kind in ("put", "remove"):
            message["key"] = key.decode()
        elif kind == "touch":
            message["key"] = key.removeprefix(b"\xfft").decode()
        if kind == "put":
            message["value"] = envelope.value(value, headers.get("content-type"))
        if "content-type" in headers:
            message["content_type"] = headers["content-type"]
        if "hc-ttl" in headers:
            message["ttl"] = [int(number) for number in headers["hc-ttl"].split("/")]
        if "hc-position" in headers:
            origin, sequence = headers["hc-position"].split(":")
            message["origin"], message["sequence"] = int(origin, 16), int(sequence)
        for header, name in cls.NUMBERS.items():
            if header in headers:
                message[name] = int(headers[header])
        return message


def delivered(error, _):
    if error:
        raise RuntimeError(f"not delivered: {error}")


def murmur2(data):
    """MurmurHash2 with Kafka's seed, without its sign."""
    mix, mask = 0x5BD1E995, 0xFFFFFFFF
    state = 0x9747B28C ^ len(data)
    whole = len(data) - len(data) % 4
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * mix & mask
        word = (word ^ word >> 24) * mix & mask
        state = state * mix & mask ^ word
    if rest := data[whole:]:
        state = (state ^ int.from_bytes(rest, "little")) * mix & mask
    state = (state ^ state >> 13) * mix & mask
    return (state ^ state >> 15) & 0x7FFFFFFF


BROKERS = {"redis": Redis, "nats": Nats, "postgres": Postgres, "kafka": Kafka}
