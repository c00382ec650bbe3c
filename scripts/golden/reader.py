"""A reader of envelope v1, written from docs/WIRE.md alone. It only says whether to accept."""

import re

UINT, NEGATIVE, BYTES, TEXT, ARRAY, MAP, TAG, SIMPLE = range(8)
TYPES = {0: UINT, 1: UINT, 2: TEXT, 3: BYTES, 4: ARRAY, 9: TEXT, 11: TEXT, 13: TEXT}
NEEDED = [{2, 3}, {2}, set(), {2, 4}, {5}]
FORBIDDEN = [set(), {3, 4}, {2, 3, 4}, {3}, {2, 3, 4}]
TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
TOPIC = re.compile(r"[A-Za-z0-9_:/-]+(\.[A-Za-z0-9_:/-]+)*")


class Rejected(Exception):
    """The bytes are not an envelope that a reader accepts."""


def need(condition, rule):
    if not condition:
        raise Rejected(rule)


class Cursor:
    def __init__(self, encoded):
        self.encoded, self.at = encoded, 0

    def take(self, length):
        need(length <= len(self.encoded) - self.at, "ends early")
        self.at += length
        return self.encoded[self.at - length : self.at]

    def head(self):
        """Major type and argument; the argument of an indefinite length is None."""
        initial = self.take(1)[0]
        major, info = initial >> 5, initial & 31
        if info == 31 and major not in (UINT, NEGATIVE, TAG):
            return major, None
        need(info < 28, "reserved initial byte")
        number = info if info < 24 else int.from_bytes(self.take(1 << info - 24), "big")
        need(major != SIMPLE or info != 24 or number >= 32, "short simple value in two bytes")
        return major, number

    def of(self, wanted):
        major, number = self.head()
        need(major == wanted and number is not None, "another type, or an indefinite length")
        return number

    def skip(self, levels=32):
        """One item of any type; True if it was a break."""
        major, number = self.head()
        if major == SIMPLE:
            return number is None
        if major in (BYTES, TEXT) and number is not None:
            self.take(number)
        elif major > NEGATIVE:
            need(levels > 0, "too deep")
            if number is None:
                self.skip_indefinite(major, levels - 1)
            else:
                for _ in range({ARRAY: number, MAP: 2 * number, TAG: 1}[major]):
                    need(not self.skip(levels - 1), "break in a definite length")
        return False

    def skip_indefinite(self, major, levels):
        items = 0
        while self.encoded[self.at : self.at + 1] != b"\xff":
            if major in (BYTES, TEXT):
                self.take(self.of(major))
            else:
                self.skip(levels)
            items += 1
        self.take(1)
        need(major != MAP or items % 2 == 0, "key without a value")


def read_field(cursor, number):
    """The value of field 0 to 13, checked by itself."""
    wanted = TYPES.get(number, UINT)
    value = cursor.of(wanted)
    if wanted == ARRAY:
        need(value == 2, "a TTL of not two parts")
        start, duration = cursor.of(UINT), cursor.of(UINT)
        need(duration > 0 and start + duration < 2**63, "TTL outside its limits")
    if wanted in (BYTES, TEXT):
        value = cursor.take(value)
    if wanted == TEXT:
        try:
            value.decode("utf-8", "strict")
        except UnicodeDecodeError:
            raise Rejected("invalid UTF-8") from None
    need(number != 0 or value == 1, "unknown wire version")
    need(number != 1 or value < 5, "unknown kind")
    need(number != 2 or 1 <= len(value) <= 1024, "key outside its limits")
    need(number not in (5, 6) or value > 0, "zero")
    need(number != 9 or (1 <= len(value) <= 64 and all(33 <= b <= 126 for b in value)), "content type")
    need(number != 11 or TRACEPARENT.fullmatch(value.decode()), "traceparent")
    need(number != 13 or (len(value) <= 200 and TOPIC.fullmatch(value.decode())), "topic")
    return value


def read(encoded):
    """The fields of an envelope by number, or `Rejected`."""
    cursor, fields = Cursor(encoded), {}
    for pair in range(cursor.of(MAP)):
        number = cursor.of(UINT)
        need(pair > 0 or number == 0, "field 0 is not first")
        need(number != 12, "chunk")
        need(number not in fields, "duplicate")
        if number < 14:
            fields[number] = read_field(cursor, number)
        else:
            need(not cursor.skip(), "break in a definite length")
            fields[number] = None
    need(0 in fields and 1 in fields, "no kind")
    need(cursor.at == len(encoded), "trailing bytes")
    need(NEEDED[fields[1]] <= fields.keys(), "a field that the kind needs is missing")
    need(not FORBIDDEN[fields[1]] & fields.keys(), "a field that the kind forbids")
    need(6 not in fields or 5 in fields, "sequence without origin")
    need(not {7, 8} <= fields.keys(), "two versions")
    return fields
