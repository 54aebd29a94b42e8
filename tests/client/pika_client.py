#!/usr/bin/env python3
"""A complete chaley client: python3 client.py URL CLUSTER GROUP USER TEXT   (pip install pika)"""
import json, secrets, sys, time, pika

url, cluster, group, user, text = sys.argv[1:]
session, prefix, me, seen = secrets.token_hex(16), f"chaley.{cluster}.", None, set()  # keep the session secret
waiting = dict(enumerate([{"op": "join", "user": user}, {"op": "say", "text": text}, {"op": "leave"}], start=1))
channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
channel.confirm_delivery()  # makes publish() learn that it found no head of the ring
queue = prefix + "client." + secrets.token_hex(16)
channel.queue_declare(queue, exclusive=True, arguments={"x-max-length-bytes": 8 << 20})
for key in ("view", f"group.{group}"):  # bind first, join then: nothing falls between
    channel.queue_bind(queue, prefix + "deliver", key)

def publish():  # everything unanswered, in order; a number that the ring has seen has no second effect
    body = json.dumps([dict(request, n=n, session=session, group=group) for n, request in waiting.items()])
    try:
        channel.basic_publish(prefix + "requests", "", body, pika.BasicProperties(reply_to=queue), mandatory=True)
    except (pika.exceptions.UnroutableError, pika.exceptions.NackError):
        time.sleep(0.05)  # no head just now: the silence that follows makes it go again

publish()
for method, _, body in channel.consume(queue, auto_ack=True, inactivity_timeout=0.25):
    events = json.loads(body)["events"] if body else []
    for event in events:
        if event["type"] == "error" and event["code"] != "expected":
            sys.exit(event["message"])
        if event["type"] == "joined" and method.exchange == "":  # a reply, to me alone: this is my member number
            me = event["member"]
        if event["type"] == "message" and event["seq"] not in seen:  # what was asked for twice may come twice
            print(f"[{event['seq']}] {event['from']}: {event['text']}", flush=True)
        seen.add(event.get("seq"))
        if me is not None and event.get("member") == me:  # my own event is the acknowledgement
            waiting.pop(event.get("ref"), None)
    if not waiting:
        break
    if not events or any(event["type"] in ("view", "error") for event in events):
        publish()
