#!/usr/bin/env python3
"""check.py DIRECTORY: reads the transcripts of clients, DIRECTORY/*.jsonl, and says whether what they heard is one history.

It knows nothing of the product but what clients are promised, and reads nothing but what clients did and heard. A
transcript has one JSON object a line, in the order of what happened, each with its time as "at_us":

    {"client": "writer" | "reader" | "repeater", "group": G, "user": U}     the first line
    {"said": TEXT}               a writer handed this line over
    {"acknowledged": SEQ}        a writer was told the number of its next line
    {"heard": EVENT}             a reader was told this
    {"asked": "to leave"}        a reader was asked to leave
    {"end": "left" | "killed"}   the last line; any other end is a violation

A repeater says again, under the same keys, what a writer of that name had said before it was killed.

What is promised, and checked, in each group:
    joined    a reader first hears its own join
    gap       a reader hears the numbers one after another: none missing, none twice, none out of order
    order     all readers are told the same under one number
    digest    each event's digest continues the one before it: sha256(previous + canonical)[:16], from 16 zero bytes
    lost      what was acknowledged under a number is told under that number, and to every reader that was there
    twice     no line is told under two numbers
    forged    every line that is told was said by the writer that it names
    sender    the lines of a writer are told in the order in which it said them, none left out
    client    a client that nobody killed ends well, and has not left for being lost
Exit code 0: all of it holds. 1: it does not, and each violation is printed. 2: these are no transcripts.
"""
import hashlib, json, pathlib, sys
from collections import Counter, defaultdict
from datetime import datetime, timedelta, timezone

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
SHOWN = 20  # violations that are printed in full; the others are counted


class Client:
    """One transcript."""

    def __init__(self, path):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        self.kind, self.group, self.user = (lines[0][key] for key in ("client", "group", "user"))
        self.said = [line["said"] for line in lines if "said" in line]
        self.acknowledged = [(line["acknowledged"], line["at_us"]) for line in lines if "acknowledged" in line]
        self.heard = [line["heard"] for line in lines if "heard" in line and "seq" in line["heard"]]
        self.asked_us = next((line["at_us"] for line in lines if "asked" in line), None)
        self.end = lines[-1]
        # A SIGKILL may cut the last line in two, and no other one.
        self.garbled = [line for line in lines if "garbled" in line]
        if self.end.get("end") == "killed" and len(lines) > 1 and "garbled" in lines[-2]:
            self.garbled.pop()


def canonical(event):
    """The bytes that an event adds to the chain of digests."""
    moment = datetime.fromisoformat(event["ts"].replace("Z", "+00:00"))
    time_ms = (moment - EPOCH) // timedelta(milliseconds=1)
    user = event["from"] if event["type"] == "message" else event["user"]
    text = {"message": event.get("text"), "left": event.get("reason")}.get(event["type"]) or ""
    return f"{event['type']}\n{event['seq']}\n{event['member']}\n{user}\n{time_ms}\n{text}".encode()


def continues(event, before):
    """Whether the digest of an event follows that of the one before it."""
    previous = bytes.fromhex(before["digest"]) if before else bytes(16)
    return hashlib.sha256(previous + canonical(event)).digest()[:16].hex() == event["digest"]


def fact(event):
    """What everybody is told alike."""
    return tuple(event.get(key) for key in ("type", "seq", "member", "from", "user", "text", "reason", "ts", "digest"))


def check_readers(readers):
    """Yields violations of joined, gap and order; returns the group's history by number."""
    history = {}
    for reader in readers:
        if reader.heard and (reader.heard[0]["type"], reader.heard[0].get("user")) != ("joined", reader.user):
            yield f"joined: {reader.user} first heard {reader.heard[0]}"
        for before, event in zip(reader.heard, reader.heard[1:]):
            if event["seq"] != before["seq"] + 1:
                yield f"gap: {reader.user} heard {event['seq']} after {before['seq']}"
        for event in reader.heard:
            known = history.setdefault(event["seq"], event)
            if fact(event) != fact(known):
                yield f"order: {reader.user} heard {event}, another one {known}"
    return history


def check_digests(history):
    for seq, event in history.items():
        if seq == 1 or seq - 1 in history:
            if not continues(event, history.get(seq - 1)):
                yield f"digest: event {seq} does not follow the one before it: {event}"


def check_writers(writers, history):
    """Yields violations of lost, twice, forged and sender."""
    told = defaultdict(list)
    for seq in sorted(history):
        if history[seq]["type"] == "message":
            told[history[seq]["from"]].append((seq, history[seq]["text"]))
    for writer in writers:
        lines = told.pop(writer.user, [])
        texts = [text for _, text in lines]
        for text in sorted({text for text in texts if texts.count(text) > 1} if len(set(texts)) < len(texts) else ()):
            yield f"twice: {writer.user}'s line {text!r} is told under {[seq for seq, t in lines if t == text]}"
        for text in sorted(set(texts) - set(writer.said)):
            yield f"forged: {writer.user} never said {text!r}"
        if texts != writer.said[: len(texts)]:
            yield f"sender: {writer.user}'s lines are told in another order, or some are left out"
        for text, (seq, _) in zip(writer.said, writer.acknowledged):
            if (history.get(seq, {}).get("from"), history.get(seq, {}).get("text")) != (writer.user, text):
                yield f"lost: {writer.user}'s line {text!r} is acknowledged as {seq}, told was {history.get(seq)}"
        if len(writer.acknowledged) > len(writer.said):
            yield f"forged: {writer.user} got more acknowledgements than it said lines"
        if writer.end.get("end") == "left" and len(writer.acknowledged) != len(writer.said):
            yield f"lost: {writer.user} ended well with {len(writer.acknowledged)} of {len(writer.said)} lines acknowledged"
    for user, lines in told.items():
        yield f"forged: nobody is {user}, who is told to have said {lines[0]}"


def check_repeaters(repeaters, history):
    """Yields violations of lost: a line that was said again is told under the number with which that was acknowledged."""
    for repeater in repeaters:
        for text, (seq, _) in zip(repeater.said, repeater.acknowledged):
            if (history.get(seq, {}).get("from"), history.get(seq, {}).get("text")) != (repeater.user, text):
                yield f"lost: {repeater.user}'s line {text!r}, said again, is acknowledged as {seq}, told was {history.get(seq)}"
        if repeater.end.get("end") == "left" and len(repeater.acknowledged) != len(repeater.said):
            yield f"lost: {repeater.user} repeated {len(repeater.said)} lines, {len(repeater.acknowledged)} were acknowledged"


def check_presence(readers, writers):
    """Yields violations of lost: a reader that was there to the end has heard all that was acknowledged by then."""
    acknowledged = [pair for writer in writers for pair in writer.acknowledged]
    for reader in readers:
        if reader.asked_us is None:
            continue
        last = max((seq for seq, at_us in acknowledged if at_us < reader.asked_us), default=0)
        heard = reader.heard[-1]["seq"] if reader.heard else 0
        if heard < last:
            yield f"lost: {reader.user} was there, and was told nothing after {heard}; {last} was acknowledged"


def check_clients(clients, history):
    lost = Counter(event["user"] for event in history.values() if event["type"] == "left" and event["reason"] == "lost")
    for client in clients:
        if client.end.get("end") not in ("left", "killed"):
            yield f"client: {client.user} ended like this: {client.end}"
        # The writer that a repeater follows was killed, and is told to be lost once.
        if client.end.get("end") == "left" and lost[client.user] > (client.kind == "repeater"):
            yield f"client: {client.user} was there all the time, and is told to be lost"
        if client.garbled:
            yield f"client: {client.user} printed {client.garbled[0]}"


def check_group(clients):
    """Returns the violations in one group, and how many acknowledgements and readers' events there are."""
    readers = [client for client in clients if client.kind == "reader"]
    writers = [client for client in clients if client.kind == "writer"]
    violations, history = [], {}
    found = check_readers(readers)
    while True:
        try:
            violations.append(next(found))
        except StopIteration as stop:
            history = stop.value
            break
    violations += check_digests(history)
    repeaters = [client for client in clients if client.kind == "repeater"]
    violations += check_writers(writers, history)
    violations += check_repeaters(repeaters, history)
    violations += check_presence(readers, writers + repeaters)
    violations += check_clients(clients, history)
    return violations, sum(len(writer.acknowledged) for writer in writers), sum(len(reader.heard) for reader in readers)


def main():
    groups = defaultdict(list)
    try:
        for path in sorted(pathlib.Path(sys.argv[1]).glob("*.jsonl")):
            client = Client(path)
            groups[client.group].append(client)
    except (IndexError, KeyError, OSError, TypeError, ValueError) as why:
        print(f"these are no transcripts: {why!r}", file=sys.stderr)
        return 2
    if not any(client.kind == "reader" for clients in groups.values() for client in clients):
        print("these are no transcripts: nobody heard anything", file=sys.stderr)
        return 2
    violations, acknowledged, heard = [], 0, 0
    for name, clients in sorted(groups.items()):
        found, of_writers, of_readers = check_group(clients)
        violations += [f"group {name}: {violation}" for violation in found]
        acknowledged, heard = acknowledged + of_writers, heard + of_readers
    for violation in violations[:SHOWN]:
        print(violation)
    if not acknowledged:
        print("these prove nothing: nothing was acknowledged", file=sys.stderr)
        return 2
    count = sum(len(clients) for clients in groups.values())
    print(f"{acknowledged} messages acknowledged, {heard} events heard, {count} clients in {len(groups)} groups:", end=" ")
    print(f"{len(violations)} violations" if violations else "one history, nothing lost, doubled or out of order")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
