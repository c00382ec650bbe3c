#!/usr/bin/env python3
"""Writes the golden vectors of envelope v1, byte by byte and without a CBOR library.

usage: generate.py           writes hydratecache/src/wire/golden/envelope-v1.json
       generate.py --check   fails if that file is not what this program writes

Every vector keeps or breaks one rule of docs/WIRE.md. A vector that readers must accept says what
it means; one that they must reject says why.
"""

import json
import struct
import sys
from pathlib import Path

TARGET = Path(__file__).parents[2] / "hydratecache/src/wire/golden/envelope-v1.json"

UINT, NEGATIVE, BYTES, TEXT, ARRAY, MAP, TAG = range(7)
VERSION, KIND, KEY, PAYLOAD, TTL, ORIGIN, SEQUENCE = range(7)
CLOCK_VERSION, CALLER_VERSION, CONTENT_TYPE, SCHEMA, TRACEPARENT, CHUNK, TOPIC, REQUEST = range(7, 15)
ELAPSED, AGE = 15, 16
# A request is a heartbeat with a body.
KINDS = ["put", "remove", "clear", "touch", "heartbeat"]
PUT, REMOVE, CLEAR, TOUCH, HEARTBEAT = range(5)

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
MAX_63 = 2**63 - 1
MAX_64 = 2**64 - 1
# Both sides of every length that an integer can have on the wire.
BOUNDARIES = [1, 23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32, MAX_64]


def head(major, number, width=None):
    """An initial byte with its argument, in `width` bytes or in the fewest."""
    if width is None:
        width = next(w for w in (0, 1, 2, 4, 8) if number < (24 if w == 0 else 256**w))
    if width == 0:
        return bytes([major << 5 | number])
    code = {1: 24, 2: 25, 4: 26, 8: 27}[width]
    return bytes([major << 5 | code]) + number.to_bytes(width, "big")


def uint(number, width=None):
    return head(UINT, number, width)


def text(string, width=None):
    utf8 = string.encode()
    return head(TEXT, len(utf8), width) + utf8


def data(payload, width=None):
    return head(BYTES, len(payload), width) + payload


def array(*items):
    return head(ARRAY, len(items)) + b"".join(items)


def ttl(start, duration):
    return array(uint(start), uint(duration))


def envelope(*fields, count=None, version=uint(1)):
    """Field 0, then `fields` as they come; a number that is bytes is a key written by hand."""
    pairs = [(VERSION, version), *fields]
    count = len(pairs) if count is None else count
    numbered = lambda number: number if isinstance(number, bytes) else uint(number)
    return head(MAP, count) + b"".join(numbered(n) + value for n, value in pairs)


def put(*more, key="k", payload=b"\x01"):
    return [(KIND, uint(PUT)), (KEY, text(key)), (PAYLOAD, data(payload)), *more]


def message(kind, **fields):
    """The meaning of a vector; every number is a decimal string."""
    meaning = dict.fromkeys(
        "kind key payload_hex ttl origin sequence clock_version caller_version content_type"
        " schema traceparent topic request_hex elapsed_us age_us".split()
    )
    meaning["kind"] = KINDS[kind]
    for name, value in fields.items():
        if name == "payload":
            name, value = "payload_hex", value.hex()
        elif name == "request":
            meaning["kind"] = "request"
            name, value = "request_hex", value.hex()
        elif name == "ttl":
            value = {"start_us": str(value[0]), "duration_us": str(value[1])}
        elif isinstance(value, int):
            value = str(value)
        meaning[name] = value
    return meaning


def encode(kind, **fields):
    """The one encoding that a writer makes of this message."""
    writers = {
        "key": (KEY, text),
        "payload": (PAYLOAD, data),
        "ttl": (TTL, lambda both: ttl(*both)),
        "origin": (ORIGIN, uint),
        "sequence": (SEQUENCE, uint),
        "clock_version": (CLOCK_VERSION, uint),
        "caller_version": (CALLER_VERSION, uint),
        "content_type": (CONTENT_TYPE, text),
        "schema": (SCHEMA, uint),
        "traceparent": (TRACEPARENT, text),
        "topic": (TOPIC, text),
        "request": (REQUEST, bytes),
        "elapsed_us": (ELAPSED, uint),
        "age_us": (AGE, uint),
    }
    numbered = ((writers[name], value) for name, value in fields.items())
    pairs = sorted((number, write(value)) for (number, write), value in numbered)
    return envelope((KIND, uint(kind)), *pairs)


def requests():
    """A body of each type of request, and of one that nobody knows."""
    body = lambda *pairs: head(MAP, len(pairs)) + b"".join(uint(n) + value for n, value in pairs)
    origin, first, last = uint(0x0123456789ABCDEF), uint(42), uint(1041)
    return {
        "replay": body((0, uint(1)), (1, origin), (2, first), (3, last)),
        "gone": body((0, uint(2)), (1, origin), (2, first), (3, last)),
        "unsent": body((0, uint(3)), (1, origin), (2, first), (4, text("user:1")), (5, uint(7))),
        "unsent-clear": body((0, uint(3)), (1, origin), (2, first)),
        "who-has": body((0, uint(32)), (1, origin), (2, first), (3, uint(3)), (6, uint(9)), (7, uint(1500))),
        "has": body((0, uint(33)), (1, origin), (6, uint(9)), (8, b"\xf5"), (9, text("api-7"))),
        "has-not": body((0, uint(33)), (1, origin), (6, uint(9)), (8, b"\xf4")),
        "of-unknown-type": body((0, uint(MAX_64)), (99, array(text("x")))),
        "of-no-type": body(),
        "of-4096-bytes": body((0, uint(MAX_64)), (1, data(bytes(4081)))),
    }


def canonical_vectors():
    def vector(name, kind, **fields):
        if kind == PUT:
            fields = {"key": "k", "payload": b"\x01", **fields}
        elif kind in (REMOVE, TOUCH):
            fields = {"key": "k", **fields}
        return accepted(name, encode(kind, **fields), True, message(kind, **fields))

    sender = {"origin": 0x0123456789ABCDEF, "sequence": 42}
    life = (1_700_000_000_000_000, 1_800_000_000)
    clock = 1_700_000_000_000 << 16 | 7
    rare = {"content_type": "application/json", "schema": 0xDEADBEEF, "traceparent": TRACE}

    yield vector("put-minimal", PUT)
    yield vector("put-empty-payload", PUT, payload=b"")
    yield vector(
        "put-typical", PUT, key="user:1", payload=bytes.fromhex("a1646e616d6563416461"),
        ttl=life, clock_version=clock, **sender,
    )
    yield vector("put-caller-version", PUT, caller_version=7, **sender)
    yield vector(
        "put-every-field", PUT, ttl=life, clock_version=clock, topic="shop.users", **sender, **rare
    )
    yield vector("put-origin-without-sequence", PUT, origin=1)
    sent = {"elapsed_us": 86_400_000_000, "age_us": 1_500}
    yield vector("put-sent", PUT, ttl=life, clock_version=clock, **sender, **sent)
    yield vector("put-sent-at-once", PUT, ttl=life, elapsed_us=0, age_us=0, **sender)
    yield vector(
        "put-every-field-sent",
        PUT, ttl=life, clock_version=clock, topic="shop.users", **sender, **rare, **sent,
    )
    yield vector("remove-minimal", REMOVE)
    yield vector("remove-numbered-and-versioned", REMOVE, clock_version=clock, **sender)
    yield vector("remove-every-field", REMOVE, caller_version=9, topic="t", **sender, **rare)
    yield vector("clear-minimal", CLEAR)
    yield vector("clear-numbered-and-versioned", CLEAR, clock_version=clock, **sender)
    yield vector("touch-minimal", TOUCH, ttl=life)
    yield vector("touch-numbered-and-versioned", TOUCH, ttl=life, clock_version=clock, **sender)
    yield vector("heartbeat-probe", HEARTBEAT, origin=1)
    yield vector("heartbeat-last-sequence", HEARTBEAT, **sender)
    yield vector("heartbeat-sent", HEARTBEAT, elapsed_us=86_400_000_000, **sender)
    yield vector("touch-sent", TOUCH, ttl=life, **sender, **sent)
    yield vector("elapsed-longest", PUT, ttl=life, elapsed_us=MAX_63, age_us=MAX_63, **sender)

    for name, body in requests().items():
        yield vector(f"request-{name}", HEARTBEAT, origin=1, request=body)
    yield vector(
        "request-every-field", HEARTBEAT, origin=1, clock_version=clock, topic="t", request=requests()["replay"], **rare
    )

    for length in (1, 23, 24, 255, 256, 1024):
        yield vector(f"key-of-{length}-bytes", PUT, key="k" * length)
    for name, key in {
        "greek": "χρήστης:1",
        "arabic": "مستخدم:١",
        "hebrew": "משתמש:1",
        "devanagari": "उपयोगकर्ता:१",
        "thai": "ผู้ใช้:1",
        "chinese": "用户:1",
        "japanese": "ユーザー:1",
        "korean": "사용자:1",
        "family-emoji": "👩\u200d👩\u200d👧\u200d👦",
        "composed": "caf\u00e9",
        "decomposed": "cafe\u0301",
        "control-characters": "a\x00b\n\x7f",
        "last-code-point": "\U0010ffff",
        "256-of-four-bytes": "🦀" * 256,
    }.items():
        yield vector(f"key-{name}", PUT, key=key)
    for length in (23, 24, 255, 256):
        yield vector(f"payload-of-{length}-bytes", PUT, payload=bytes(i % 256 for i in range(length)))
    for field in ("sequence", "origin"):
        for number in BOUNDARIES:
            yield vector(f"{field}-{number}", PUT, **{**sender, field: number})
    for field in ("clock_version", "caller_version", "schema"):
        for number in [0, *BOUNDARIES]:
            yield vector(f"{field}-{number}".replace("_", "-"), PUT, **{field: number})
    yield vector("ttl-shortest", PUT, ttl=(0, 1))
    yield vector("ttl-longest", PUT, ttl=(0, MAX_63))
    yield vector("ttl-latest", PUT, ttl=(MAX_63 - 1, 1))
    for number in (23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32):
        yield vector(f"ttl-of-{number}-microseconds", TOUCH, ttl=(number, number))
    yield vector("content-type-of-1-byte", PUT, content_type="x")
    yield vector("content-type-of-64-bytes", PUT, content_type="application/" + "x" * 52)
    yield vector("content-type-every-character", PUT, content_type="".join(map(chr, range(33, 97))))
    yield vector("content-type-default-spelt-out", PUT, content_type="application/cbor")
    yield vector("traceparent-all-zero", PUT, traceparent=f"00-{'0' * 32}-{'0' * 16}-00")
    yield vector("topic-of-1-byte", PUT, topic="t")
    yield vector("topic-of-200-bytes", PUT, topic="t" * 200)
    yield vector("topic-every-kind-of-character", PUT, topic="a.Z_9-:/")


def tolerated_vectors():
    """What no writer makes and every reader accepts."""
    plain = message(PUT, key="k", payload=b"\x01")

    def vector(name, encoded, meaning=plain):
        return accepted(name, encoded, False, meaning)

    deep = lambda opening, levels, closing=b"": opening * levels + b"\x00" + closing * levels
    for name, value in {
        "integer": uint(7),
        "negative": b"\x3b" + b"\xff" * 8,
        "bytes": data(b"\x00" * 300),
        "text": text("grüße"),
        "array": array(uint(1), text("a"), array()),
        "map": b"\xa2\x00\x01\x61a\xa0",
        "32-levels": deep(b"\x81", 32),
        "32-levels-of-tags": deep(b"\xd9\xfe\x00", 32),
        "half-float": b"\xf9\x3c\x00",
        "single-float": b"\xfa" + struct.pack(">f", 1.5),
        "double-float": b"\xfb" + struct.pack(">d", 1e300),
        "nan": b"\xf9\x7e\x00",
        "null": b"\xf6",
        "undefined": b"\xf7",
        "simple-value": b"\xf0",
        "simple-value-in-two-bytes": b"\xf8\xff",
        "tag": b"\xd9\xfe\x00\x61x",
        "indefinite-text": b"\x7f\x61a\x61b\xff",
        "indefinite-bytes": b"\x5f\x41\x00\x40\xff",
        "indefinite-array": b"\x9f\x01\x02\xff",
        "indefinite-map": b"\xbf\x01\x02\xff",
        "indefinite-32-levels": deep(b"\x9f", 32, b"\xff"),
        "same-numbers-as-the-envelope": b"\xa2\x00\x02\x02\x61x",
    }.items():
        yield vector(f"unknown-field-{name}", envelope(*put((14, value))))
    for number in (23, 24, 62, 63, 64, 255, 256, 65536, 2**32, MAX_64):
        yield vector(f"unknown-field-number-{number}", envelope(*put((number, uint(0)))))
    yield vector("unknown-fields-several", envelope(*put((14, uint(0)), (15, text("x")), (99, uint(2)))))
    # Fields that only a request has, where they mean nothing.
    probe, last = message(HEARTBEAT, origin=1), message(HEARTBEAT, origin=1, sequence=2)
    replay = requests()["replay"]
    yield vector("request-with-a-sequence", envelope((KIND, uint(HEARTBEAT)), (ORIGIN, uint(1)), (SEQUENCE, uint(2)), (REQUEST, replay)), last)
    yield vector("request-in-a-put", envelope(*put((REQUEST, replay))))
    for name, value in {
        "array": array(uint(1)), "integer": uint(1), "bytes": data(replay), "tag": b"\xd9\xfe\x00" + replay,
        "4097-bytes": b"\xa2\x00\x01\x01" + data(bytes(4090)),
    }.items():
        yield vector(f"request-of-{name}", envelope((KIND, uint(HEARTBEAT)), (ORIGIN, uint(1)), (REQUEST, value)), probe)
    yield vector("unknown-field-first", envelope((14, uint(0)), *put()))

    life = (TTL, ttl(1, 2))
    dated = message(PUT, key="k", payload=b"\x01", ttl=(1, 2))
    yield vector("sent-in-another-form", envelope(*put(life, (ELAPSED, text("a")), (AGE, b"\xf6"))), dated)
    yield vector("age-without-elapsed", envelope(*put(life, (AGE, uint(7)))), dated)
    yield vector(
        "age-in-another-form",
        envelope(*put(life, (ELAPSED, uint(7)), (AGE, b"\x20"))),
        message(PUT, key="k", payload=b"\x01", ttl=(1, 2), elapsed_us=7),
    )
    most = message(PUT, key="k", payload=b"\x01", ttl=(1, 2), elapsed_us=MAX_63, age_us=MAX_63)
    yield vector("sent-beyond-the-limit", envelope(*put(life, (ELAPSED, uint(MAX_64)), (AGE, uint(MAX_63 + 1)))), most)

    yield vector("reordered-descending", envelope(*reversed(put())))
    sender = [(ORIGIN, uint(5)), (SEQUENCE, uint(6))]
    yield vector(
        "reordered-sender-first",
        envelope(*reversed(sender), *put()),
        message(PUT, key="k", payload=b"\x01", origin=5, sequence=6),
    )
    yield vector(
        "reordered-kind-last",
        envelope((TTL, ttl(1, 2)), (KEY, text("k")), (KIND, uint(TOUCH))),
        message(TOUCH, key="k", ttl=(1, 2)),
    )

    yield vector("long-map-header", b"\xbb" + (4).to_bytes(8, "big") + envelope(*put())[1:])
    yield vector("long-field-numbers", envelope(*((uint(n, 8), v) for n, v in put())))
    yield vector("long-first-field", b"\xa4\x18\x00\x18\x01" + envelope(*put())[3:])
    for width in (1, 2, 4, 8):
        kind, key = (KIND, uint(PUT, width)), (KEY, text("k", width))
        payload = (PAYLOAD, data(b"\x01", width))
        yield vector(f"long-integers-{width}", envelope(kind, key, payload))
        long_ttl = head(ARRAY, 2, width) + uint(1, width) + uint(2, width)
        yield vector(
            f"long-ttl-{width}",
            envelope(*put((TTL, long_ttl))),
            message(PUT, key="k", payload=b"\x01", ttl=(1, 2)),
        )
    numbers = {"origin": ORIGIN, "sequence": SEQUENCE, "clock_version": CLOCK_VERSION, "schema": SCHEMA}
    yield vector(
        "long-numbers",
        envelope(*put(*((number, uint(number, 8)) for number in numbers.values()))),
        message(PUT, key="k", payload=b"\x01", **numbers),
    )


def rejected_vectors():
    vector = lambda name, encoded, reason, detail=None: rejected(name, encoded, reason, detail)

    foreign = "not-an-envelope"
    yield vector("no-bytes", b"", foreign)
    yield vector("json", b'{"key":"k"}', foreign)
    yield vector("text", text("k"), foreign)
    yield vector("integer", uint(1), foreign)
    yield vector("array", array(uint(0), uint(1)), foreign)
    yield vector("tagged-envelope", b"\xd9\xd9\xf7" + envelope(*put()), foreign)
    yield vector("empty-map", b"\xa0", foreign)
    yield vector("first-key-is-text", b"\xa1\x61k\x01", foreign)
    yield vector("first-field-is-not-0", b"\xa2\x01\x00\x00\x01", foreign)
    for version in (0, 2, 24, MAX_64):
        yield vector(
            f"version-{version}", envelope(*put(), version=uint(version)), "unknown-wire-version", str(version)
        )

    whole = envelope(*put((TTL, ttl(1, 2))))
    yield vector("ends-before-the-version", whole[:2], "truncated")
    yield vector("ends-in-an-integer", b"\xa2\x00\x01\x01\x18", "truncated")
    yield vector("ends-in-the-key", envelope((KIND, uint(PUT)), (KEY, text("key")[:-1])), "truncated")
    yield vector("ends-in-the-payload", envelope(*put()[:2], (PAYLOAD, data(b"ab")[:-1])), "truncated")
    yield vector("ends-in-the-ttl", whole[:-1], "truncated")
    yield vector("ends-between-fields", envelope(*put(), count=5), "truncated")
    yield vector("ends-in-an-unknown-field", envelope(*put((14, b"\x82\x00"))), "truncated")
    yield vector("map-length-bomb", head(MAP, MAX_64) + envelope(*put())[1:], "truncated")
    yield vector("key-length-bomb", envelope((KIND, uint(PUT)), (KEY, head(TEXT, MAX_64))), "truncated")
    yield vector("payload-length-bomb", envelope(*put()[:2], (PAYLOAD, head(BYTES, MAX_64))), "truncated")
    for name, major in {"bytes": BYTES, "text": TEXT, "array": ARRAY, "map": MAP}.items():
        for length in (2**31, MAX_63, MAX_64):
            yield vector(
                f"unknown-field-{name}-length-bomb-{length}", envelope(*put((14, head(major, length)))), "truncated"
            )

    yield vector("byte-after-the-end", envelope(*put()) + b"\x00", "trailing-bytes")
    yield vector("two-envelopes", envelope(*put()) * 2, "trailing-bytes")
    yield vector("map-length-too-small", envelope(*put((14, uint(0))), count=4), "trailing-bytes")

    broken = "malformed"
    yield vector("indefinite-map", b"\xbf" + envelope(*put())[1:] + b"\xff", broken)
    yield vector("indefinite-key", envelope((KIND, uint(PUT)), (KEY, b"\x7f\x61k\xff"), put()[2]), broken)
    yield vector("indefinite-payload", envelope(*put()[:2], (PAYLOAD, b"\x5f\x41\x01\xff")), broken)
    yield vector("indefinite-ttl", envelope(*put((TTL, b"\x9f\x01\x02\xff"))), broken)
    yield vector("field-number-text", envelope((text("1"), uint(PUT))), broken)
    yield vector("field-number-negative", envelope(*put((b"\x20", uint(0)))), broken)
    yield vector("version-text", envelope(*put(), version=text("1")), broken)
    yield vector("kind-text", envelope((KIND, text("put")), *put()[1:]), broken)
    yield vector("kind-negative", envelope((KIND, b"\x20"), *put()[1:]), broken)
    yield vector("key-bytes", envelope((KIND, uint(PUT)), (KEY, data(b"k")), put()[2]), broken)
    yield vector("key-null", envelope((KIND, uint(PUT)), (KEY, b"\xf6"), put()[2]), broken)
    for name, utf8 in {"cut": b"\xc3", "overlong": b"\xc0\xaf", "surrogate": b"\xed\xa0\x80"}.items():
        key = (KEY, head(TEXT, len(utf8)) + utf8)
        yield vector(f"key-{name}-utf-8", envelope((KIND, uint(PUT)), key, put()[2]), broken)
    yield vector("payload-text", envelope(*put()[:2], (PAYLOAD, text("v"))), broken)
    yield vector("ttl-integer", envelope(*put((TTL, uint(1)))), broken)
    yield vector("ttl-of-floats", envelope(*put((TTL, array(b"\xf9\x3c\x00", uint(1))))), broken)
    yield vector("origin-text", envelope(*put((ORIGIN, text("1")))), broken)
    yield vector("sequence-float", envelope(*put((ORIGIN, uint(1)), (SEQUENCE, b"\xf9\x3c\x00"))), broken)
    yield vector("clock-version-negative", envelope(*put((CLOCK_VERSION, b"\x20"))), broken)
    yield vector("caller-version-bignum", envelope(*put((CALLER_VERSION, b"\xc2\x41\x01"))), broken)
    yield vector("content-type-bytes", envelope(*put((CONTENT_TYPE, data(b"x")))), broken)
    yield vector("schema-bytes", envelope(*put((SCHEMA, data(b"\x01")))), broken)
    yield vector("traceparent-bytes", envelope(*put((TRACEPARENT, data(TRACE.encode())))), broken)
    yield vector("topic-integer", envelope(*put((TOPIC, uint(1)))), broken)
    for name, value in {
        "reserved-byte": b"\x1c",
        "reserved-length": b"\x5d",
        "break": b"\xff",
        "short-simple-value-in-two-bytes": b"\xf8\x18",
        "break-twice": b"\xff\xff",
        "indefinite-integer": b"\x1f\xff",
        "indefinite-tag": b"\xdf\xff",
        "segment-of-another-type": b"\x7f\x41a\xff",
        "segment-of-indefinite-length": b"\x5f\x5f\x41a\xff\xff",
        "key-without-a-value": b"\xbf\x00\xff",
    }.items():
        yield vector(f"unknown-field-{name}", envelope(*put((14, value))), broken)

    for name, opening in {"arrays": b"\x81", "maps": b"\xa1\x00", "tags": b"\xc1", "indefinite": b"\x9f"}.items():
        yield vector(f"unknown-field-33-levels-of-{name}", envelope(*put((14, opening * 33 + b"\x00"))), "too-deep")
        yield vector(f"unknown-field-{name}-depth-bomb", envelope(*put((14, opening * 1000))), "too-deep")

    twice = "duplicate-field"
    yield vector("version-twice", envelope((VERSION, uint(1)), *put()), twice, "0")
    for number, value in put((TTL, ttl(1, 2)), (ORIGIN, uint(1)), (CALLER_VERSION, uint(1)), (TOPIC, text("t"))):
        yield vector(f"field-{number}-twice", envelope(*put(), (number, value), (number, value)), twice, str(number))
    for number in (14, 63):
        both = [(number, uint(0)), (number, uint(0))]
        yield vector(f"unknown-field-{number}-twice", envelope(*put(*both)), twice, str(number))

    for kind in (5, 24, MAX_64):
        yield vector(f"kind-{kind}", envelope((KIND, uint(kind)), *put()[1:]), "unknown-kind", str(kind))

    key, payload, life = (KEY, text("k")), (PAYLOAD, data(b"\x01")), (TTL, ttl(1, 2))
    origin, sequence = (ORIGIN, uint(1)), (SEQUENCE, uint(1))
    of = lambda kind, *fields: envelope((KIND, uint(kind)), *fields)
    missing = "missing-field"
    yield vector("no-kind", envelope(), missing, "kind")
    yield vector("no-kind-but-all-else", envelope(key, payload), missing, "kind")
    yield vector("put-without-key", of(PUT, payload), missing, "key")
    yield vector("put-without-payload", of(PUT, key), missing, "payload")
    yield vector("remove-without-key", of(REMOVE), missing, "key")
    yield vector("touch-without-key", of(TOUCH, life), missing, "key")
    yield vector("touch-without-ttl", of(TOUCH, key), missing, "ttl")
    yield vector("heartbeat-without-origin", of(HEARTBEAT), missing, "origin")
    for kind, needed in ((PUT, [key, payload]), (REMOVE, [key]), (CLEAR, []), (TOUCH, [key, life]), (HEARTBEAT, [])):
        encoded = of(kind, *needed, sequence)
        yield vector(f"{KINDS[kind]}-sequence-without-origin", encoded, missing, "origin")

    illegal = "invalid-field"
    names = {KEY: "key", PAYLOAD: "payload", TTL: "ttl"}
    for kind, needed, forbidden in (
        (REMOVE, [key], [payload, life]),
        (CLEAR, [], [key, payload, life]),
        (TOUCH, [key, life], [payload]),
        (HEARTBEAT, [origin], [key, payload, life]),
    ):
        for field in forbidden:
            fields = sorted([*needed, field])
            yield vector(f"{KINDS[kind]}-with-{names[field[0]]}", of(kind, *fields), illegal, names[field[0]])
    yield vector("key-empty", envelope(*put(key="")), illegal, "key")
    yield vector("key-of-1025-bytes", envelope(*put(key="k" * 1025)), illegal, "key")
    yield vector("origin-zero", envelope(*put((ORIGIN, uint(0)))), illegal, "origin")
    yield vector("sequence-zero", envelope(*put(origin, (SEQUENCE, uint(0)))), illegal, "sequence")
    yield vector("both-versions", envelope(*put((CLOCK_VERSION, uint(1)), (CALLER_VERSION, uint(1)))), illegal, "version")
    for name, value in {
        "zero": ttl(1, 0),
        "overflow": ttl(MAX_63, 1),
        "duration-overflow": ttl(0, MAX_63 + 1),
        "wrap-around": ttl(MAX_64, MAX_64),
        "of-no-part": array(),
        "of-one-part": array(uint(1)),
        "of-three-parts": array(uint(1), uint(2), uint(3)),
    }.items():
        yield vector(f"ttl-{name}", envelope(*put((TTL, value))), illegal, "ttl")
    for name, value in {
        "empty": "", "of-65-bytes": "x" * 65, "with-a-space": "text/x y", "not-ascii": "text/é", "with-del": "x\x7f",
    }.items():
        yield vector(f"content-type-{name}", envelope(*put((CONTENT_TYPE, text(value)))), illegal, "content type")
    for name, value in {
        "empty": "", "upper-case": TRACE.upper(), "short": TRACE[:-1], "long": TRACE + "-", "version-01": "01" + TRACE[2:],
        "wrong-separator": TRACE.replace("-", "_"), "not-hex": TRACE.replace("4b", "4g"),
    }.items():
        yield vector(f"traceparent-{name}", envelope(*put((TRACEPARENT, text(value)))), illegal, "traceparent")
    for name, value in {
        "empty": "", "of-201-bytes": "t" * 201, "with-a-space": "a b", "with-a-wildcard": "users.*", "not-ascii": "é",
        "empty-first-token": ".a", "empty-last-token": "a.", "empty-middle-token": "a..b",
    }.items():
        yield vector(f"topic-{name}", envelope(*put((TOPIC, text(value)))), illegal, "topic")

    yield vector("chunk", envelope(*put((CHUNK, array(uint(1), uint(0), uint(2))))), "chunk-unsupported")
    yield vector("chunk-of-any-type", envelope(*put((CHUNK, b"\xf6"))), "chunk-unsupported")


def accepted(name, encoded, canonical, meaning):
    return {"name": name, "hex": encoded.hex(), "canonical": canonical, "message": meaning}


def rejected(name, encoded, reason, detail):
    return {"name": name, "hex": encoded.hex(), "reason": reason, "detail": detail}


def document():
    """The file: one vector a line, so that a change shows as the vectors that it changes."""
    accept = [*canonical_vectors(), *tolerated_vectors()]
    reject = [*rejected_vectors()]
    for vectors in (accept, reject):
        names = [vector["name"] for vector in vectors]
        assert len(names) == len(set(names)), "two vectors share a name"
    lines = lambda vectors: ",\n".join("    " + json.dumps(v, ensure_ascii=False) for v in vectors)
    return f'{{\n  "version": 1,\n  "accept": [\n{lines(accept)}\n  ],\n  "reject": [\n{lines(reject)}\n  ]\n}}\n'


def main():
    if sys.argv[1:] == ["--check"]:
        if TARGET.read_text(encoding="utf-8") != document():
            sys.exit(f"{TARGET} is not what this program writes; run {sys.argv[0]}")
    elif not sys.argv[1:]:
        TARGET.write_text(document(), encoding="utf-8")
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
