"""Publishes to hydratecache, and reads from it, without any code of it.

    interop.py publish --transport redis --topic users < messages
    interop.py read --transport redis --topic users --count 5

Messages are lines of JSON, as in envelope.py. `read` prints the line `subscribed` first. The broker's URL
is in HYDRATECACHE_URL: it may hold a password, and arguments are for all to see.
"""

import argparse
import itertools
import json
import os
import sys

from brokers import BROKERS


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command", choices=["publish", "read"])
    parser.add_argument("--transport", choices=sorted(BROKERS), required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--count", type=int, default=1, help="how many messages to read")
    arguments = parser.parse_args()
    url = os.environ.get("HYDRATECACHE_URL")
    if not url:
        parser.error("set HYDRATECACHE_URL to the broker's URL")

    broker = BROKERS[arguments.transport](url)
    if arguments.command == "publish":
        for line in sys.stdin:
            broker.publish(arguments.topic, json.loads(line))
        return
    messages = broker.read(arguments.topic, lambda: print("subscribed", flush=True))
    news = (message for message in messages if message["kind"] != "heartbeat")
    for message in itertools.islice(news, arguments.count):
        print(json.dumps(message, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
