#!/usr/bin/env python3
"""Holds the golden vectors against two programs that share no code with the Rust crate: `cbor2`
says what accepted bytes mean, and `reader.py` accepts and rejects as docs/WIRE.md says.

Prints "N passed, 0 failed"; exits with 1 if something failed.
"""

import json
import sys
from pathlib import Path

import cbor2

from reader import Rejected, read

VECTORS = Path(__file__).parents[2] / "hydratecache/src/wire/golden/envelope-v1.json"
KINDS = ["put", "remove", "clear", "touch", "heartbeat"]


def decimal(number):
    return None if number is None else str(number)


def microseconds(value):
    """Fields 15 and 16: ignored in another form, and never more than 63 bits hold."""
    is_unsigned = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return str(min(value, 2**63 - 1)) if is_unsigned else None


def meaning(fields):
    """What the fields say, in the spelling of the vectors."""
    ttl, payload, request = fields.get(4), fields.get(3), request_of(fields)
    return {
        "kind": "request" if request else KINDS[fields[1]],
        "key": fields.get(2),
        "payload_hex": None if payload is None else payload.hex(),
        "ttl": None if ttl is None else {"start_us": str(ttl[0]), "duration_us": str(ttl[1])},
        "origin": decimal(fields.get(5)),
        "sequence": decimal(fields.get(6)),
        "clock_version": decimal(fields.get(7)),
        "caller_version": decimal(fields.get(8)),
        "content_type": fields.get(9),
        "schema": decimal(fields.get(10)),
        "traceparent": fields.get(11),
        "topic": fields.get(13),
        "request_hex": request and request.hex(),
        "elapsed_us": microseconds(fields.get(15)),
        "age_us": microseconds(fields.get(16)) if microseconds(fields.get(15)) else None,
    }


def request_of(fields):
    """The body of a request: of a heartbeat that tells of no message."""
    body = fields.get(14)
    if fields[1] != 4 or 6 in fields or not isinstance(body, dict):
        return None
    body = cbor2.dumps(body, canonical=True)
    return body if len(body) <= 4096 else None


def is_accepted(encoded):
    try:
        read(encoded)
    except Rejected:
        return False
    return True


def check_accepted(vector):
    encoded = bytes.fromhex(vector["hex"])
    fields = cbor2.loads(encoded)
    assert next(iter(fields)) == 0 and fields[0] == 1, "field 0 is not version 1, first"
    assert meaning(fields) == vector["message"], f"cbor2 reads {meaning(fields)}"
    most = 14 if request_of(fields) else 13
    sent = (15, 16) if vector["canonical"] else ()
    known = {number: value for number, value in fields.items() if number <= most or number in sent}
    is_canonical = cbor2.dumps(known, canonical=True) == encoded
    assert is_canonical == vector["canonical"], f"canonical according to cbor2: {is_canonical}"
    assert is_accepted(encoded), "the reader rejects it"
    for length in range(len(encoded)):
        assert not is_accepted(encoded[:length]), f"the reader accepts its first {length} bytes"


def check_rejected(vector):
    assert not is_accepted(bytes.fromhex(vector["hex"])), "the reader accepts it"


def main():
    golden = json.loads(VECTORS.read_text(encoding="utf-8"))
    checks = [(check_accepted, vector) for vector in golden["accept"]]
    checks += [(check_rejected, vector) for vector in golden["reject"]]
    failed = 0
    for check, vector in checks:
        try:
            check(vector)
        except Exception as error:  # whatever went wrong, the other vectors are worth checking
            failed += 1
            print(f"failed: {vector['name']}: {type(error).__name__}: {error}", file=sys.stderr)
    print(f"{len(checks) - failed} passed, {failed} failed")
    sys.exit(1 if failed or not checks else 0)


if __name__ == "__main__":
    main()
