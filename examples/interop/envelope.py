"""Envelopes of wire format v1, by docs/WIRE.md and nothing else.

A message is a dictionary with `kind`, and where the message has them `key`, `value`, `ttl` (start and
duration in microseconds), `origin`, `sequence`, `clock_version`, `caller_version`, `content_type`.
"""

import json

import cbor2

KINDS = ["put", "remove", "clear", "touch", "heartbeat"]
KEY, PAYLOAD, TTL, CONTENT_TYPE, CHUNK, TOPIC = 2, 3, 4, 9, 12, 13
NUMBERS = {5: "origin", 6: "sequence", 7: "clock_version", 8: "caller_version"}
JSON = "application/json"


class Rejected(Exception):
    """The bytes are no envelope that this reader may use."""


def encode(message):
    """The bytes of a message; a value travels as CBOR, or as JSON where its content type says so."""
    fields = {0: 1, 1: KINDS.index(message["kind"])}
    if "key" in message:
        fields[KEY] = message["key"]
    if message["kind"] == "put":
        fields[PAYLOAD] = payload(message["value"], message.get("content_type"))
    if "ttl" in message:
        fields[TTL] = list(message["ttl"])
    for number, name in NUMBERS.items():
        if name in message:
            fields[number] = message[name]
    if "content_type" in message:
        fields[CONTENT_TYPE] = message["content_type"]
    if "topic" in message:
        fields[TOPIC] = message["topic"]
    return cbor2.dumps(fields, canonical=True)


def decode(body):
    """The message in the bytes."""
    try:
        fields = cbor2.loads(body)
    except Exception as error:
        raise Rejected(f"no CBOR: {error}") from error
    if not isinstance(fields, dict) or next(iter(fields), None) != 0:
        raise Rejected("not an envelope")
    if fields[0] != 1:
        raise Rejected(f"wire version {fields[0]}")
    if CHUNK in fields:
        raise Rejected("a chunk")
    if fields.get(1) not in range(len(KINDS)):
        raise Rejected("an unknown kind")
    message = {"kind": KINDS[fields[1]]}
    if KEY in fields:
        message["key"] = fields[KEY]
    if CONTENT_TYPE in fields:
        message["content_type"] = fields[CONTENT_TYPE]
    if PAYLOAD in fields:
        message["value"] = value(fields[PAYLOAD], fields.get(CONTENT_TYPE))
    if TTL in fields:
        message["ttl"] = fields[TTL]
    if TOPIC in fields:
        message["topic"] = fields[TOPIC]
    for number, name in NUMBERS.items():
        if number in fields:
            message[name] = fields[number]
    return message


def payload(content, content_type):
    if content_type == JSON:
        return json.dumps(content, ensure_ascii=False).encode()
    return cbor2.dumps(content)


def value(body, content_type):
    return json.loads(body) if content_type == JSON else cbor2.loads(body)
