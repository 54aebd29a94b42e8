"""The table of scripts/bench: each row is measured by `chaleyd bench`, or with a ring of its own and /proc.

A ratio is of figures of one run. A target that is missed is no error; an order that was not one is, and whatever else
keeps a row from being measured (exit code 1). What holds in a smaller sample than the target speaks of is "so far".
"""

import argparse
import contextlib
import functools
import json
import os
import pathlib
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import typing

NODES = 4
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6
# Nothing that a row waits for takes longer, in seconds.
PATIENCE = 600


def main():
    options = arguments()
    if options.check:
        return
    # Two thousand clients have more connections than a shell allows by default.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with contextlib.ExitStack() as cleanup:
        table = Table(options, cleanup)
        table.head()
        failed = [name for name in ROWS if name in (options.rows or ROWS) and not is_measured(table, name)]
    if failed:
        sys.exit(f"error: not measured: {', '.join(failed)}; see above")


def is_measured(table, name):
    """Whether all went well. The other rows are measured all the same."""
    try:
        for row in ROWS[name](table):
            print(f"| {name} | {row.figure} | {row.measured} | {row.target} | {row.reached} |", flush=True)
    except (Failed, subprocess.SubprocessError) as failure:
        print(f"error: {failure}", file=sys.stderr, flush=True)
        return False
    return True


def arguments():
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures rings of a release build, and the bare broker beside them; prints a table in Markdown.",
        epilog=f"Rows (default: all): {', '.join(ROWS)}. The order is judged in all that use chaleyd bench, and in overload.",
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="what to measure")
    parser.add_argument("--rounds", type=positive, default=5, help="of what is measured in turns (default 5)")
    parser.add_argument("--duration", default="2s", help="of each measurement (default 2s)")
    parser.add_argument("--kills", type=positive, default=12, help="of head, middle and tail in turn (default 12)")
    parser.add_argument("--pauses", type=positive, default=6, help="likewise, by SIGSTOP (default 6)")
    parser.add_argument("--messages", type=positive, default=1_000_000, help="of history (default 1000000)")
    parser.add_argument("--sessions", type=positive, default=2000, help="in a quarter as many groups (default 2000)")
    parser.add_argument("--connections", type=natural, default=4, help="that they share, 0: each has its own (default 4)")
    parser.add_argument("--overload", type=positive, default=20, help="seconds of senders that never wait (default 20)")
    parser.add_argument("--minutes", type=float, default=1.0, help="of a machine that is saturated (default 1)")
    parser.add_argument("--programs", default="target/release", help=argparse.SUPPRESS)
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = [row for row in options.rows if row not in ROWS]
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    return options


def positive(text):
    number = natural(text)
    if number < 1:
        raise ValueError
    return number


def natural(text):
    number = int(text)
    if number < 0:
        raise ValueError
    return number


# What targets speak of.
KILLS, PAUSES, MESSAGES, MINUTES, ROUNDS, SESSIONS = 200, 100, 1_000_000, 10, 5, 2000
# In an overload, MB: what a node and a client may have, and the broker with the queue of a listener that does not read.
OVERLOADED_MB = {"a node": 120, "a sender": 40, "the broker": 600}


class Failed(Exception):
    """A program says that something is wrong."""


class Table:
    """What the rows need: programs, settings, and measurements that several rows share."""

    def __init__(self, options, cleanup):
        self.options = options
        self.cleanup = cleanup
        programs = pathlib.Path(options.programs).absolute()
        self.chaleyd, self.chaley = str(programs / "chaleyd"), str(programs / "chaley")

    def head(self):
        cores, kernel = os.cpu_count(), os.uname().release
        load = os.getloadavg()[0]
        version = subprocess.run([self.chaleyd, "--version"], capture_output=True, text=True, check=True)
        command = " ".join(["scripts/bench", *sys.argv[1:]]).replace(f" --programs {self.options.programs}", "")
        print(f"`{command}`: {version.stdout.strip()}, {cores} cores, Linux {kernel}, load {load:.1f} before.\n")
        print("| row | figure | measured: median (minimum to maximum) | target | reached |")
        print("| --- | --- | --- | --- | --- |", flush=True)

    def bench(self, *arguments):
        """What `chaleyd bench --json` says."""
        command = [self.chaleyd, "bench", "--json", *map(str, arguments)]
        say(" ".join(command[1:]))
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if ran.returncode != 0:
            raise Failed(f"{' '.join(command)}: exit code {ran.returncode}\n{ran.stdout}")
        return json.loads(ran.stdout)

    @functools.cached_property
    def peak(self):
        return self.bench("--nodes", NODES, "--rounds", self.options.rounds, "--duration", self.options.duration)

    def ordered_to_fan_out(self, *arguments):
        """One round's."""
        report = self.bench(*arguments, "--rounds", 1, "--duration", self.options.duration)
        return report["ratios"]["ordered_to_fan_out"]["median"]

    def struck(self, deed, count, every_s):
        places = ["head", "middle", "tail"]
        strikes = [f"{places[number % 3]}@{1 + number * every_s}s" for number in range(count)]
        given = [word for strike in strikes for word in (f"--{deed}", strike)]
        return self.bench("--nodes", NODES, "--duration", "1s", *given)

    @functools.cached_property
    def history(self):
        """A ring with a long history, and how it came about."""
        history = self.cleanup.enter_context(History(self))
        history.fill()
        return history


class Ring:
    """A ring of its own, and its end."""

    def __init__(self, table, nodes=NODES):
        self.table, self.nodes = table, nodes
        self.directory = tempfile.TemporaryDirectory(prefix="chaley-bench-")
        self.place = ["--state-dir", str(pathlib.Path(self.directory.name) / "state")]

    def __enter__(self):
        command = [self.table.chaleyd, "up", "-d", "-n", str(self.nodes), *self.place]
        started = time.monotonic()
        up = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=self.directory.name)
        broker_ready = started
        for line in up.stdout:
            if "the broker is ready" in line:
                broker_ready = time.monotonic()
        ready = time.monotonic()
        if up.wait() != 0:
            self.directory.cleanup()
            raise Failed(f"{' '.join(command)}: exit code {up.returncode}")
        self.up_s, self.up_after_broker_s = ready - started, ready - broker_ready
        return self

    def __exit__(self, *_):
        self.ask("down")
        self.directory.cleanup()

    def ask(self, *arguments):
        command = [self.table.chaleyd, *arguments, *self.place]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout

    def ask_chaley(self, *arguments):
        command = [self.table.chaley, *arguments, *self.place]
        subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE)

    def state(self):
        return json.loads(self.ask("state", "--json"))

    def node_pids(self):
        return [node["pid"] for node in self.state()["nodes"]]

    def supervisor_pid(self):
        return stat(self.node_pids()[0])[1]


class Overload(Ring):
    """Senders that always have a next line, a listener that hears it all, and one that never reads."""

    SENDERS = 4

    def listener(self, user):
        command = [self.table.chaley, "listen", "-g", "1", "-u", user, "--json", *self.place]
        return subprocess.Popen(command, stdout=subprocess.PIPE)

    def sender(self, number):
        lines = subprocess.Popen(["yes", f"{number} " + "x" * 98], stdout=subprocess.PIPE)
        command = [self.table.chaley, "send", "-g", "1", "-u", f"sender{number}", "-", *self.place]
        sent = tempfile.TemporaryFile()
        sending = subprocess.Popen(command, stdin=lines.stdout, stdout=sent)
        lines.stdout.close()
        return lines, sending, sent

    def endure(self, seconds):
        deaf = self.listener("deaf")
        deaf.stdout.readline()
        deaf.send_signal(signal.SIGSTOP)
        ear = Ear(self.listener("ear"))
        senders = [self.sender(number) for number in range(self.SENDERS)]
        nodes, broker = self.node_pids(), descendants(self.supervisor_pid())
        measured = {"a node": nodes, "a sender": [sending.pid for _, sending, _ in senders]}
        measured["the broker"] = [pid for pid in broker if pid not in nodes]
        self.peak_mb = dict.fromkeys(measured, 0.0)
        ending = time.monotonic() + seconds
        while time.monotonic() < ending:
            time.sleep(0.25)
            for whose, pids in measured.items():
                each = [resident_mb(pid) for pid in pids]
                used = sum(each) if whose == "the broker" else max(each)
                self.peak_mb[whose] = max(self.peak_mb[whose], used)
        self.sent = sum(self.acknowledged(*sender) for sender in senders)
        ear.hear_until(self.sent)
        self.silence_s = ear.silence_s
        deaf.send_signal(signal.SIGCONT)
        deaf.stdout.close()
        deaf.wait(timeout=PATIENCE)
        ear.end()

    @staticmethod
    def acknowledged(lines, sending, sent):
        """How many lines of one sender were, once it has no more."""
        lines.kill()
        lines.wait()
        if sending.wait(timeout=PATIENCE) != 0:
            raise Failed(f"chaley send: exit code {sending.returncode} in an overload")
        sent.seek(0)
        return sum(1 for _ in sent)


class Ear:
    """What one `chaley listen --json` prints, read at once: no number is left out, no sender's line twice."""

    def __init__(self, process):
        self.process = process
        self.next_seq, self.messages, self.silence_s = None, 0, 0.0
        self.heard = threading.Condition()
        self.failure = None
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        rest, before = b"", None
        while chunk := os.read(self.process.stdout.fileno(), 1 << 20):
            now = time.monotonic()
            *lines, rest = (rest + chunk).split(b"\n")
            with self.heard:
                if before is not None and self.messages:
                    self.silence_s = max(self.silence_s, now - before)
                for line in lines:
                    self.take(line)
                self.heard.notify()
            before = now

    def take(self, line):
        event = json.loads(line)
        if "seq" not in event:
            return
        if event["seq"] != (self.next_seq or event["seq"]):
            self.failure = f"chaley listen heard {event['seq']} where {self.next_seq} was to come"
        self.next_seq = event["seq"] + 1
        self.messages += event["type"] == "message"

    def hear_until(self, messages):
        with self.heard:
            all_heard = self.heard.wait_for(lambda: self.failure or self.messages >= messages, PATIENCE)
            if self.failure or not all_heard or self.messages != messages:
                raise Failed(self.failure or f"{messages} messages were acknowledged, and {self.messages} heard")

    def end(self):
        self.process.terminate()
        self.process.wait()
        self.reader.join()


class History(Ring):
    """`chaley send -` says it all, while one `chaley listen` hears it."""

    def fill(self):
        time.sleep(2)
        self.idle_mb = [resident_mb(pid) for pid in self.node_pids()]
        messages = self.table.options.messages
        say(f"{messages} messages through chaley send")
        # Its own join, the sender's join and leave, every message, and the join of one more, who ends it.
        count = str(messages + 4)
        listen = [self.table.chaley, "listen", "-g", "1", "-u", "ear", "--json", "--count", count, *self.place]
        ear = subprocess.Popen(listen, stdout=subprocess.PIPE)
        ear.stdout.readline()
        # The rest is read and thrown away by somebody else.
        sink = subprocess.Popen(["wc", "-l"], stdin=ear.stdout, stdout=subprocess.PIPE)
        ear.stdout.close()
        send = [self.table.chaley, "send", "-g", "1", "-u", "mouth", "-", *self.place]
        lines = subprocess.Popen(["sh", "-c", f"yes {'x' * 100} | head -n {messages}"], stdout=subprocess.PIPE)
        started = time.monotonic()
        sent = subprocess.run(send, stdin=lines.stdout, stdout=subprocess.PIPE, timeout=PATIENCE)
        self.sent_per_s = messages / (time.monotonic() - started)
        if sent.returncode != 0 or sent.stdout.count(b"\n") != messages:
            raise Failed(f"chaley send: exit code {sent.returncode}, not every line is acknowledged")
        time.sleep(1)
        self.client_mb = resident_mb(ear.pid)
        self.ask_chaley("send", "-g", "1", "-u", "last", "bye")
        if int(sink.communicate()[0]) != int(count) - 1 or ear.wait() != 0:
            raise Failed("chaley listen did not hear everything")
        lines.wait()
        self.full_mb = [resident_mb(pid) for pid in self.node_pids()]


# ---- rows ------------------------------------------------------------------------------------------------------------


class Row(typing.NamedTuple):
    figure: str
    measured: str
    target: str = ""
    holds: bool | None = None
    # How much was measured, and of how much the target speaks.
    sample: float = 1
    whole: float = 1

    @property
    def reached(self):
        if self.holds is None:
            return ""
        if not self.holds:
            return "no"
        return "yes" if self.sample >= self.whole else "so far"


def throughput(table):
    ratios, figures, rounds = table.peak["ratios"], table.peak["figures"], table.options.rounds
    fan_out, stream = ratios["ordered_to_fan_out"], ratios["ordered_to_stream"]
    yield Row("ordered messages/s", told(figures["ordered_per_s"]))
    yield Row("to fan-out", told(fan_out), "at least 6", fan_out["median"] >= 6, rounds, ROUNDS)
    yield Row("to a stream", told(stream), "above 1", stream["median"] > 1, rounds, ROUNDS)


def lone(table):
    ratios, figures, rounds = table.peak["ratios"], table.peak["figures"], table.options.rounds
    to_hops, spread = ratios["lone_p50_to_its_hops_p50"], ratios["lone_p99_to_lone_p50"]
    yield Row("p50, ms", told(figures["lone_p50_ms"]))
    yield Row(f"p50 to {NODES + 1} hops", told(to_hops), "at most 1.2", to_hops["median"] <= 1.2, rounds, ROUNDS)
    yield Row("p99 to p50", told(spread), "at most 3", spread["median"] <= 3, rounds, ROUNDS)


def half(table):
    p99, rounds = table.peak["figures"]["half_of_peak_p99_ms"], table.options.rounds
    yield Row("p99 at half of peak, ms", told(p99), "at most 25", p99["median"] <= 25, rounds, ROUNDS)


def kills(table):
    silence = table.struck("kill", table.options.kills, 2)["figures"]["kill_silence_ms"]
    count, p50, p99 = len(silence["values"]), silence["median"], silence["p99"]
    what = f"silence around each of {count} SIGKILLs, ms"
    yield Row(what, told(silence), "p50 at most 20", at_most(p50, 20), count, KILLS)
    yield Row("its p99, ms", number(p99), "at most 75", at_most(p99, 75), count, KILLS)


def pauses(table):
    silence = table.struck("pause", table.options.pauses, 6)["figures"]["pause_silence_ms"]
    count, p99 = len(silence["values"]), silence["p99"]
    what = f"silence around each of {count} SIGSTOPs, ms"
    yield Row(what, told(silence), "p99 at most 500", at_most(p99, 500), count, PAUSES)


def nodes(table):
    """Three and nine in turns, each to the fan-out of its own run."""
    rounds, costs = table.options.rounds, []
    for _ in range(rounds):
        few, many = (table.ordered_to_fan_out("--nodes", count) for count in (3, 9))
        costs.append(100 * (1 - many / few))
    cost = described(costs)
    yield Row("cost of 9 nodes instead of 3, %", told(cost), "at most 25", cost["median"] <= 25, rounds, ROUNDS)


def sessions(table):
    """Likewise."""
    count, connections, ratios = table.options.sessions, table.options.connections, []
    shared = ("--connections", connections) if connections else ()
    for _ in range(table.options.rounds):
        many = table.ordered_to_fan_out("--clients", count, "--groups", max(1, count // 4), *shared)
        ratios.append(many / table.ordered_to_fan_out("--clients", 4))
    ratio = described(ratios)
    on = f" on {connections} connections" if connections else ""
    what = f"{count} sessions{on}, 4 in a group, to 4 in 1"
    yield Row(what, told(ratio), "at least 0.8", ratio["median"] >= 0.8, count, SESSIONS)


def ready(table):
    cold, warm = [], []
    for _ in range(table.options.rounds):
        with Ring(table) as ring:
            cold.append(ring.up_s)
            warm.append(ring.up_after_broker_s)
    cold, warm = described(cold), described(warm)
    yield Row("READY once the broker runs, s", told(warm), "at most 1", warm["median"] <= 1)
    yield Row("READY with a broker that is cold, s", told(cold), "at most 8", cold["median"] <= 8)


def idle(table):
    with Ring(table) as ring:
        time.sleep(5)
        # The nodes, the broker and what belongs to it; the supervisor itself stays out.
        pids = descendants(ring.supervisor_pid())
        values = []
        for _ in range(table.options.rounds):
            before, started = cpu_s(pids), time.monotonic()
            time.sleep(4)
            values.append(100 * (cpu_s(pids) - before) / (time.monotonic() - started))
    used = described(values)
    what = f"CPU of {NODES} idle nodes and the broker, % of a core"
    yield Row(what, told(used), "at most 8", used["median"] <= 8)


def send(table):
    rate, messages = table.history.sent_per_s, table.options.messages
    yield Row(f"lines/s of one chaley send -, {messages} lines", number(rate), "at least 30000", rate >= 30_000)


def memory(table):
    ring, messages = table.history, table.options.messages
    for whose, values, most, sample in (
        ("of an idle node", ring.idle_mb, 25, MESSAGES),
        (f"of a node after {messages} messages", ring.full_mb, 80, messages),
        ("of a client that listened to them", [ring.client_mb], 15, messages),
    ):
        what = f"resident memory {whose}, MB"
        yield Row(what, told(described(values)), f"at most {most}", max(values) <= most, sample, MESSAGES)


def rejoin(table):
    strikes = [word for at, place in ((1, "head"), (4, "middle"), (7, "tail")) for word in ("--kill", f"{place}@{at}s")]
    figures = table.bench("--running", *strikes, *table.history.place)["figures"]
    back, silence, messages = figures["kill_back_ms"], figures["kill_back_silence_ms"], table.options.messages
    what = f"killed, started, a member again, {messages} messages of history, ms"
    yield Row(what, told(back), "at most 3000", back["max"] <= 3000, messages, MESSAGES)
    what = "longest silence meanwhile, ms"
    yield Row(what, told(silence), "at most 100", silence["max"] <= 100, messages, MESSAGES)


def overload(table):
    with Overload(table) as ring:
        ring.endure(table.options.overload)
    rate = ring.sent / table.options.overload
    yield Row(f"acknowledged/s of {Overload.SENDERS} senders that never wait, 0 of {ring.sent} lost", number(rate))
    what = "longest silence of a listener beside one that never reads, s"
    yield Row(what, number(ring.silence_s), "at most 1", ring.silence_s <= 1)
    for whose, most in OVERLOADED_MB.items():
        peak = ring.peak_mb[whose]
        yield Row(f"resident memory of {whose} meanwhile, MB", number(peak), f"at most {most}", peak <= most)


def suspicions(table):
    """Views that changed although nobody died, all cores saturated by others."""
    minutes = table.options.minutes
    with Ring(table) as ring:
        before = ring.state()["epoch"]
        busy = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(os.cpu_count() or 1)]
        try:
            time.sleep(60 * minutes)
        finally:
            for process in busy:
                process.kill()
                process.wait()
        changes = ring.state()["epoch"] - before
    what = f"false suspicions in {minutes:g} min, cores saturated"
    yield Row(what, str(changes), "0 in 10 min", changes == 0, minutes, MINUTES)


# In the order of their being measured. The ring with a long history, of which the last three tell, runs until the end.
ROWS = {
    row.__name__: row
    for row in (
        throughput, lone, half, kills, pauses, nodes, sessions, ready, idle, overload, suspicions, send, memory,
        rejoin,
    )
}  # fmt: skip


# ---- figures and processes ------------------------------------------------------------------------------------------


def described(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "values": values}


def told(series):
    if len(series["values"]) == 1:
        return number(series["median"])
    return f"{number(series['median'])} ({number(series['min'])} to {number(series['max'])})"


def number(value):
    """A silence without an end has no number."""
    if value is None:
        return "no end"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def at_most(value, most):
    return value is not None and value <= most


def say(text):
    print(f"==> {text}", file=sys.stderr, flush=True)


def stat(pid):
    """State, parent, and seconds of CPU of a process and of its children that it has waited for."""
    text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    fields = text[text.rindex(")") + 2 :].split()
    return fields[0], int(fields[1]), sum(map(int, fields[11:15])) / TICKS_PER_S


def cpu_s(pids):
    return sum(stat(pid)[2] for pid in pids)


def descendants(pid):
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                parents[int(entry.name)] = stat(entry.name)[1]
    found = [pid]
    for ancestor in found:
        found += [child for child, parent in parents.items() if parent == ancestor]
    return found[1:]


def resident_mb(pid):
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_MB


if __name__ == "__main__":
    main()
