#!/usr/bin/env python3
"""A complete chaley client: python3 client.py URL CLUSTER GROUP USER TEXT. Needs pika (pip install pika)."""
import json, secrets, sys, time
import pika

url, cluster, group, user, text = sys.argv[1:]
session, me = secrets.token_hex(16), None  # the session id is a secret: whoever knows it is this user
prefix = f"chaley.{cluster}."
channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
channel.confirm_delivery()  # a publish that finds no head of the ring raises UnroutableError
queue = prefix + "client." + secrets.token_hex(16)
channel.queue_declare(queue, exclusive=True, arguments={"x-max-length-bytes": 8 << 20, "x-overflow": "drop-head"})
for key in ("view", f"group.{group}"):  # bind first, then join: nothing falls between
    channel.queue_bind(queue, prefix + "deliver", key)
waiting = {n: dict(request, session=session, n=n, group=group) for n, request in enumerate(
    [{"op": "join", "user": user}, {"op": "say", "text": text}, {"op": "leave"}], start=1)}

def send():  # everything unanswered, in order: a number that the ring has seen before has no second effect
    while True:
        try:
            properties = pika.BasicProperties(reply_to=queue)
            return channel.basic_publish(prefix + "requests", "", json.dumps(list(waiting.values())), properties, True)
        except (pika.exceptions.UnroutableError, pika.exceptions.NackError):
            time.sleep(0.05)  # no head just now

send()
for method, _, body in channel.consume(queue, auto_ack=True, inactivity_timeout=0.25):
    events = json.loads(body)["events"] if body else [{"type": "view"}]  # silence: ask again, too
    for event in events:
        if event["type"] == "error" and event["code"] != "expected":
            sys.exit(event["message"])
        if event["type"] == "joined" and method.exchange == "":  # a reply: this is about me
            me = event["member"]
        if event["type"] in ("joined", "message", "left") and me == event["member"]:
            if waiting.pop(event.get("ref"), None) and event["type"] == "message":
                print(f"[{event['seq']}] {event['from']}: {event['text']}", flush=True)
        elif event["type"] == "message":
            print(f"[{event['seq']}] {event['from']}: {event['text']}", flush=True)
    if not waiting:
        break
    if any(event["type"] in ("view", "error") for event in events):
        send()
