#!/usr/bin/env python3
"""Runs mixed load against the gateway as a unikernel for an hour, and says whether anything stays behind.

Clients of many addresses do what clients do, well and badly: full handshakes, kept connections, transfers both ways,
half-closes in both orders, resets in the middle, slow readers, garbage, wrong names, old TLS, redirects; some vanish
without a word (their address is taken away). Names are added and removed meanwhile, one backend dies again and again.
The load is moderate, so that it runs beside other work.

Every few seconds the gateway's own counters are read (memory of the guest's heap, threads, sockets by state, octets in
buffers, timers) and the memory of the whole process as the host sees it. At the end clients stop, and the script waits
until the gateway is at rest. What must hold, or the exit status is 1:

- no client met anything that it should not have met;
- memory is flat: heap and process without what buffers hold, the median of the last third of the time against those of
  the others (judged from ten minutes on; before, it only warms up);
- at rest, sockets, half-open handshakes, buffers, timers, threads and connections are back where they were.

Needs root, /dev/kvm, openssl, and release builds of tlstunnel-ctl, hvt and the image (see unikernel.py).

  tools/bench/soak.py                                         # an hour
  tools/bench/soak.py --seconds 120 --rate 60 --csv soak.csv --json
  tools/bench/soak.py --system process                        # the gateway as a process of the host
"""

import argparse
import collections
import csv
import json
import multiprocessing
import pathlib
import random
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import systems
from gateway import Failed
from soak_backend import serve_backend
from soak_clients import PIECE, SMALL, WEIGHTS, Clients, Unexpected
from tls_client import Truncated

RELIABLE, MORTAL, NOBODY = 8000, 8001, 8002
CLIENTS = range(10, 50)
VANISHING = range(100, 250)
# How long after the last client the gateway may still hold something: the time for vanished clients to answer, then the
# stack's limits for closing.
REST = 420
# A run that is shorter says nothing about memory.
WARM = 600


def of_metric(name, **labels):
    inner = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return f"{name}{{{inner}}}" if inner else name


# What is sampled: its name here, and the gateway's.
SAMPLED = {
    "heap_kib": of_metric("process_memory_bytes", kind="data"),
    "touched_kib": of_metric("process_memory_bytes", kind="resident"),
    "stack_kib": of_metric("process_memory_bytes", kind="stack"),
    "threads": "process_threads",
    "sockets": of_metric("network", of="sockets", count="used"),
    "tcp": of_metric("network", of="tcp", count="inuse"),
    "orphans": of_metric("network", of="tcp", count="orphan"),
    "time_wait": of_metric("network", of="tcp", count="tw"),
    "half_open": of_metric("network", of="netstack", count="half_open"),
    "established": of_metric("network", of="netstack", count="established"),
    "closing": of_metric("network", of="netstack", count="closed_here"),
    "closed_by_peer": of_metric("network", of="netstack", count="closed_by_peer"),
    "buffers": of_metric("network", of="netstack", count="buffers"),
    "timers": of_metric("network", of="netstack", count="timers"),
    "udp": of_metric("network", of="udp", count="inuse"),
    "connections": "connections_open",
    "generation": "config_generation",
}
# What must be at rest as it was at the beginning.
AT_REST = ["sockets", "orphans", "time_wait", "half_open", "established", "closing", "closed_by_peer", "buffers",
           "timers", "udp", "connections", "threads"]


class Soak:
    def __init__(self, options, bench):
        self.options, self.bench, self.system = options, bench, bench.systems[0]
        self.visits, self.errors = collections.Counter(), collections.Counter()
        self.lock, self.over = threading.Lock(), threading.Event()
        self.samples, self.mortal, self.stopping = [], None, False

    def visit(self, clients, kind):
        """One visit, counted by what came of it."""
        outcome = kind
        try:
            if note := getattr(clients, kind)():
                outcome = f"{kind}: {note}"
        except Exception as error:  # whatever it is, it is what this script is there to find
            with self.lock:
                self.errors[f"{kind}: {type(error).__name__}: {str(error)[:120]}"] += 1
            print(f"{time.monotonic() - self.begin:8.1f} {kind}: {error!r}", file=sys.stderr, flush=True)
            return
        with self.lock:
            self.visits[outcome] += 1

    def worker(self, clients):
        kinds, weights = list(WEIGHTS), list(WEIGHTS.values())
        every = self.options.workers / self.options.rate
        due = time.monotonic() + random.uniform(0, every)
        while not self.over.wait(max(0, due - time.monotonic())):
            self.visit(clients, random.choices(kinds, weights)[0])
            due = max(due, time.monotonic() - every) + random.expovariate(1 / every)

    def keeper(self, clients):
        while not self.over.is_set():
            self.visit(clients, "kept")

    def vanisher(self, clients):
        """Takes an address away under open connections: idle, in the middle of answers, and of handshakes."""
        hosts = iter(list(VANISHING) * 1000)
        while not self.over.wait(self.options.vanish):
            host = next(hosts)
            try:
                [address] = self.system.addresses(host)
                idle = [clients.connect(source=address) for _ in range(3)]
                busy = [clients.connect(source=address) for _ in range(2)]
                for client in busy:
                    client.send(f"GET {PIECE * 2}\n".encode())
                    client.receive()
                begun = socket.create_connection(clients.address, 30, (address, 0))
                begun.sendall(b"\x16\x03\x01\x02\x00")
                systems.run("ip", "address", "del", f"{address}/32", "dev", self.system.interface)
                for client in idle + busy:
                    client.socket.close()
                begun.close()
                outcome = "vanished"
            except (OSError, subprocess.CalledProcessError, Truncated) as error:
                with self.lock:
                    self.errors[f"vanish: {error!r}"[:160]] += 1
                continue
            with self.lock:
                self.visits[outcome] += 6

    def administrator(self, clients):
        """Adds a name, uses it, removes it, and looks whether it is gone."""
        number = 0
        while not self.over.wait(self.options.change):
            number += 1
            name = f"t{number}"
            try:
                self.bench.ctl(self.system, "add", name, f"{systems.BACKEND}:{RELIABLE}")
                client = clients.connect(name)
                clients.ask(client, SMALL)
                self.bench.ctl(self.system, "remove", name)
                # The connection is there and stays.
                clients.ask(client, SMALL)
                client.close()
            except (OSError, subprocess.CalledProcessError, Truncated, Unexpected, ssl.SSLError) as error:
                detail = getattr(error, "stderr", "") or ""
                with self.lock:
                    self.errors[f"change: {error!r} {detail}"[:300]] += 1
                continue
            with self.lock:
                self.visits["change"] += 1

    def reaper(self):
        """Kills the mortal backend and starts it again."""
        while not self.over.is_set():
            self.mortal = multiprocessing.get_context("spawn").Process(target=serve_backend, args=(MORTAL,), daemon=True)
            self.mortal.start()
            self.over.wait(random.uniform(10, 20))
            self.mortal.kill()
            self.mortal.join()
            self.over.wait(random.uniform(0, 2))

    def sample(self):
        metrics = self.system.metrics()
        row = {"seconds": round(time.monotonic() - self.begin, 1), "pss_kib": self.system.pss_kib(),
               "rss_kib": self.system.rss_kib(), "cpu_seconds": round(self.system.cpu(), 2)}
        for name, metric in SAMPLED.items():
            value = metrics.get(metric)
            row[name] = None if value is None else int(value / 1024) if name.endswith("_kib") else int(value)
        return row

    def sampler(self):
        while not self.over.wait(self.options.sample):
            try:
                self.keep(self.sample())
            except (OSError, Failed) as error:
                with self.lock:
                    self.errors[f"sample: {error!r}"[:160]] += 1

    def keep(self, row):
        self.samples.append(row)
        if self.options.csv:
            fresh = not self.options.csv.exists()
            with open(self.options.csv, "a", newline="") as file:
                writer = csv.DictWriter(file, row)
                if fresh:
                    writer.writeheader()
                writer.writerow(row)
        if self.system.process.poll() is not None:
            self.over.set()

    def run(self):
        backend = multiprocessing.get_context("spawn").Process(target=serve_backend, args=(RELIABLE,), daemon=True)
        backend.start()
        self.bench.ctl(self.system, "add", "mortal", f"{systems.BACKEND}:{MORTAL}")
        self.bench.ctl(self.system, "add", "nobody", f"{systems.BACKEND}:{NOBODY}")
        self.bench.wait(systems.BACKEND, RELIABLE)
        clients = Clients(self.system, self.bench.folder, self.system.addresses(*CLIENTS), self.over)
        self.begin = time.monotonic()
        self.visit(clients, "handshake")
        base = self.rest(None)
        threads = [threading.Thread(target=self.worker, args=(clients,)) for _ in range(self.options.workers)]
        threads += [threading.Thread(target=self.keeper, args=(clients,)) for _ in range(self.options.kept)]
        threads += [threading.Thread(target=actor, args=(clients,)) for actor in (self.vanisher, self.administrator)]
        threads += [threading.Thread(target=self.reaper), threading.Thread(target=self.sampler)]
        for thread in threads:
            thread.daemon = True
            thread.start()
        self.over.wait(self.options.seconds)
        self.over.set()
        for thread in threads:
            thread.join(200)
        end = self.rest(base) if self.system.process.poll() is None else None
        if end is not None:
            self.visit(clients, "handshake")
        backend.kill()
        return self.result(base, end)

    def rest(self, base):
        """Waits until nothing moves any more, or is back at the base; the last sample, and how long that took."""
        begin, before = time.monotonic(), None
        while True:
            row = self.sample()
            row["rest_seconds"] = round(time.monotonic() - begin, 1)
            if base is None:
                numbers = [row[name] for name in AT_REST]
                if numbers == before or time.monotonic() - begin > 90:
                    return row
                before = numbers
            elif not left_behind(base, row) or time.monotonic() - begin > REST:
                return row
            time.sleep(5)

    def result(self, base, end):
        seconds = self.options.seconds
        failures = [f"{count} x {what}" for what, count in self.errors.items()]
        memory = {name: growth(self.samples, name) for name in ("heap_kib", "pss_kib")}
        for name, found in memory.items():
            if found and seconds >= WARM and found["growth_kib"] > max(self.options.growth, found["medians_kib"][1] * 0.03):
                failures.append(f"{name} grew by {found['growth_kib']:.0f} KiB")
        if end is None:
            failures.append(f"the gateway ended with {self.system.process.poll()}")
        else:
            failures += [f"{name} is {end[name]} at rest and was {base[name]}" for name in left_behind(base, end)]
        cpu = [row["cpu_seconds"] for row in self.samples]
        return {
            "system": self.system.name, "seconds": seconds, "visits": dict(sorted(self.visits.items())),
            "cpu_share": (cpu[-1] - cpu[0]) / (self.samples[-1]["seconds"] - self.samples[0]["seconds"]) if len(cpu) > 1 else None,
            "memory": memory, "peak_kib": max((row["heap_kib"] or 0 for row in self.samples), default=0),
            "base": base, "end": end, "failures": failures,
        }


def left_behind(base, row):
    """What is there that was not there before. A sample leaves an end of its own, and the pool keeps threads for a while."""
    slack = {"timers": 4, "threads": 1, "buffers": 4096, "time_wait": 8}
    return [name for name in AT_REST
            if base[name] is not None and row[name] > base[name] + slack.get(name, 0)]


def growth(samples, name):
    """Medians of the three thirds of the time, and by how much the last is above both others: what goes up and down is no
    growth. Octets in the stack's buffers are left out, since they follow the speed of the machine, and are counted by
    themselves at rest."""
    values = [(row["seconds"], row[name] - (row["buffers"] or 0) / 1024) for row in samples if row[name] is not None]
    third = len(values) // 3
    if third < 4:
        return None
    # The first clients are still coming at the beginning of the first third.
    thirds = [values[third // 4:third], values[third:2 * third], values[2 * third:]]
    medians = [statistics.median(value for _, value in part) for part in thirds]
    slope = statistics.linear_regression(*zip(*values[third // 4:])).slope
    return {"medians_kib": medians, "growth_kib": medians[2] - max(medians[:2]), "kib_per_hour": slope * 3600,
            "max_kib": max(value for _, value in values)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", default="hvt", help=f"one of {', '.join(systems.KINDS)}")
    parser.add_argument("--seconds", type=float, default=3600, help="how long the load lasts")
    parser.add_argument("--rate", type=float, default=20, help="visits per second")
    parser.add_argument("--workers", type=int, default=48, help="clients at the same time")
    parser.add_argument("--kept", type=int, default=40, help="clients that stay for a minute, beside those")
    parser.add_argument("--vanish", type=float, default=30, help="seconds between addresses that vanish")
    parser.add_argument("--change", type=float, default=5, help="seconds between changes of the names")
    parser.add_argument("--sample", type=float, default=10, help="seconds between samples")
    parser.add_argument("--growth", type=float, default=1024, help="KiB of growth that are none; more if 3 %% are more")
    parser.add_argument("--mem", type=int, default=256, help="MiB of the guest's memory")
    parser.add_argument("--csv", type=pathlib.Path, help="where the samples go, line by line")
    parser.add_argument("--json", action="store_true")
    systems.add_options(parser)
    options = parser.parse_args()
    systems.check_options(options, [options.system])
    systems.enter_namespace()
    if options.csv:
        options.csv.unlink(missing_ok=True)
    # Short times and history, so that what these hold is at its level within minutes.
    arguments = ["--history", "50", "--keepalive", "30s", "--peer-timeout", "2m"]
    with tempfile.TemporaryDirectory() as folder, systems.Systems(
            options, pathlib.Path(folder), [options.system], arguments, options.mem) as bench:
        bench.prepare()
        bench.start()
        result = Soak(options, bench).run()
        if result["failures"]:
            print(bench.logs(), file=sys.stderr)
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        show(result)
    sys.exit(1 if result["failures"] else 0)


def show(result):
    print(f"{result['system']}, {result['seconds']:.0f} s, {sum(result['visits'].values())} visits, "
          f"{(result['cpu_share'] or 0) * 100:.0f} % of a core")
    print("  " + ", ".join(f"{kind} {count}" for kind, count in result["visits"].items()))
    for name, found in result["memory"].items():
        if found:
            medians = ", ".join(f"{kib:.0f}" for kib in found["medians_kib"])
            print(f"{name} without buffers: medians of the thirds {medians}, {found['kib_per_hour']:+.0f} per hour, "
                  f"at most {found['max_kib']:.0f}")
    print(f"{'':18}{'before':>10}{'at rest':>10}")
    for name in ["heap_kib", "pss_kib", *AT_REST]:
        print(f"{name:<18}{result['base'][name]!s:>10}{(result['end'] or {}).get(name)!s:>10}")
    if result["end"]:
        print(f"at rest after {result['end']['rest_seconds']:.0f} s")
    for failure in result["failures"]:
        print(f"FAILED: {failure}")


if __name__ == "__main__":
    main()
