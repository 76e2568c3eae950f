#!/usr/bin/env python3
"""Compares the gateway as a unikernel with the same gateway as a process of the host, on the same work in one run: full
TLS handshakes, keep-alive requests on one and on 64 connections, bulk transfer; the time until answers at a fixed rate of
requests and of handshakes, as 50th and 99th percentile; CPU time and exits of the machine per unit; memory at idle and per
idle connection; the time from exec to the first TLS answer.

All run in a network namespace made for it (systems.py). Rounds are interleaved, because the machine's speed changes from
minute to minute. CPU time and memory are those of the gateway's whole process tree: for a unikernel tender and guest
together.

Needs root, /dev/kvm, openssl, nginx, h2load, and the release builds:

  cargo build --release -p tlstunnel -p tlstunnel-ctl -p hvt-tender -p hvt-image
  target/release/hvt-image build tlstunnel
  tools/bench/unikernel.py                      # everything, three rounds
  tools/bench/unikernel.py --systems process,hvt --only keepalive64 --rounds 5 --json
  tools/bench/unikernel.py --systems hvt --only boot --boots 50
"""

import argparse
import errno
import json
import os
import pathlib
import re
import select
import socket
import statistics
import sys
import tempfile
import time

import systems
from gateway import BULK_MB, DOMAIN, Failed, run
from many import ENDING, Loop
from tls_client import Client

# What is counted per second, what the CPU time is in, its factor; whether the time of each unit is known too.
UNITS = {
    "handshake": ("handshakes/s", "CPU us", 1e6),
    "keepalive1": ("requests/s", "CPU us", 1e6),
    "keepalive64": ("requests/s", "CPU us", 1e6),
    "bulk": ("GB/s", "CPU s", 1),
    "latency": ("requests/s at a fixed rate", "CPU us", 1e6),
    "handshake1": ("handshakes/s one after another", "CPU us", 1e6),
}
# Connections and requests per second of `latency`: a quarter to a third of what a core can do.
LATENCY = (100, 1000)
IDLE = 1000


class Bench(systems.Systems):
    def prepare_all(self):
        self.prepare()
        self.nginx({"small": ENDING, "bulk": os.urandom(BULK_MB * 1_000_000)})
        self.start()
        for system in self.systems:
            if ENDING not in self.get(system):
                raise Failed(f"{system.name} does not forward")
            addresses = system.addresses(10, 11)
            arguments = ((system.service, 443), f"n1.{DOMAIN}", addresses, str(self.folder / "cert.pem"))
            system.loops = [Loop(*arguments), Loop(*arguments)]

    # One round of each kind of work; each gives the units done, and the seconds of each if it knows them.
    def h2load(self, system, path, *arguments):
        out = run("h2load", "--h1", f"--connect-to={system.service}:443", *arguments, f"https://n1.{DOMAIN}/{path}")
        done, failed = re.search(r"(\d+) succeeded, (\d+) failed", out).groups()
        if int(failed) or not int(done):
            raise Failed(f"requests failed: {out}")
        return int(done)

    def handshake(self, system):
        # As many connections as requests: each needs a full handshake (h2load resumes nothing).
        end, units = time.monotonic() + self.options.seconds, 0
        while time.monotonic() < end:
            units += self.h2load(system, "small", "-n", "128", "-c", "128")
        return units, None

    def keepalive1(self, system):
        return self.h2load(system, "small", "-c", "1", "-D", str(self.options.seconds)), None

    def keepalive64(self, system):
        return self.h2load(system, "small", "-c", "64", "-D", str(self.options.seconds)), None

    def bulk(self, system):
        return self.h2load(system, "bulk", "-n", "2", "-c", "1") * BULK_MB / 1000, None

    def latency(self, system):
        loop, (connections, rate) = system.loops[0], LATENCY
        if loop.look() == 0:
            loop.open(connections, 64)
        times = loop.ask_at_rate(rate, self.options.seconds)
        return len(times), times

    def handshake1(self, system):
        end, times, context = time.monotonic() + self.options.seconds, [], self.context()
        while time.monotonic() < end:
            begin = time.perf_counter()
            Client(context, (system.service, 443), f"n1.{DOMAIN}").close()
            times.append(time.perf_counter() - begin)
        return len(times), times

    def measure(self, kind):
        rows = {system.name: [] for system in self.systems}
        for _ in range(self.options.rounds):
            for system in self.systems:
                exits, cpu, start = system.exits(), system.cpu(), time.monotonic()
                units, times = getattr(self, kind)(system)
                seconds = time.monotonic() - start
                row = {"rate": units / seconds, "cpu": (system.cpu() - cpu) / units}
                row["exits"] = None if exits is None else (system.exits() - exits) / units
                if times:
                    times.sort()
                    row |= {"p50_us": times[len(times) // 2] * 1e6, "p99_us": times[len(times) * 99 // 100] * 1e6}
                rows[system.name].append(row)
        return rows

    def memory(self, system):
        """MiB at idle, and KiB for each idle connection that has carried a request."""
        before = system.pss_kib()
        loop = system.loops[1]
        loop.open(IDLE, 64)
        time.sleep(2)  # what the guest's heap wants no more goes back to the host after a second
        after = system.pss_kib()
        loop.close()
        return {"mib": before / 1024, "kib_per_connection": (after - before) / IDLE}

    def boot(self, system):
        """Seconds from exec to a connection, and to the last byte of an answer over TLS that came through the backend, with
        a store that has the route and the certificate and was not closed in good order."""
        system.process.kill()
        system.process.wait()
        command, start = system.process.args, time.monotonic()
        system.process = self.spawn(*command, log=system.log)
        raw = first_connection((system.service, 443), start + 20)
        connected = time.monotonic() - start
        if b"x" * 64 not in self.request(raw):
            raise Failed(f"{system.name} does not forward after its start")
        return connected, time.monotonic() - start


def first_connection(address, end):
    """A new attempt every millisecond, because one that is made too early is lost and repeated only a second later."""
    attempts, poll = {}, select.poll()
    while time.monotonic() < end:
        attempt = socket.socket()
        attempt.setblocking(False)
        if attempt.connect_ex(address) in (0, errno.EINPROGRESS):
            attempts[attempt.fileno()] = attempt
            poll.register(attempt, select.POLLOUT)
        for number, _ in poll.poll(1):
            poll.unregister(number)
            done = attempts.pop(number)
            if done.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                done.settimeout(5)
                return done
    raise Failed(f"{address} does not start again")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", default="process,hvt,hvt-offload,hvt-process")
    parser.add_argument("--only", choices=[*UNITS, "boot", "memory"], action="append", help="repeatable")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--boots", type=int, default=20, help="starts of each unikernel")
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    systems.add_options(parser)
    options = parser.parse_args()
    names = options.systems.split(",")
    systems.check_options(options, names, "nginx", "h2load")
    systems.enter_namespace()
    wanted = lambda kind: not options.only or kind in options.only
    arguments, results = ["--max-connections-per-client", "0"], {}
    with tempfile.TemporaryDirectory() as folder, Bench(options, pathlib.Path(folder), names, arguments) as bench:
        bench.prepare_all()
        # Memory first: a process that has been busy keeps some, and the growth would not show.
        if wanted("memory"):
            results["memory"] = {system.name: bench.memory(system) for system in bench.systems}
        for kind in filter(wanted, UNITS):
            results[kind] = bench.measure(kind)
        if wanted("boot"):
            unikernels = [system for system in bench.systems if system.name != "process"]
            results["boot"] = {system.name: [] for system in unikernels}
            for _ in range(options.boots):
                for system in unikernels:
                    results["boot"][system.name].append(bench.boot(system))
    if options.json:
        print(json.dumps(results, indent=1))
    else:
        show(results)


def show(results):
    for kind, (rate_name, cpu_name, factor) in UNITS.items():
        if kind not in results:
            continue
        print(f"\n{kind}: {rate_name} (least, median), {cpu_name} and exits per unit, percentiles in us (medians)")
        first = None
        for name, rows in results[kind].items():
            median = lambda key: statistics.median([row[key] for row in rows if row.get(key) is not None] or [float("nan")])
            rate, cost = median("rate"), median("cpu") * factor
            first = first or (rate, cost, median("p50_us"), median("p99_us"))
            line = f"  {name:<12}{min(row['rate'] for row in rows):>10.2f}{rate:>10.2f}{cost:>10.2f}{median('exits'):>10.3f}"
            ratios = f"   rate x{rate / first[0]:.2f}, CPU x{cost / first[1]:.2f}"
            if "p50_us" in rows[0]:
                p50, p99 = median("p50_us"), median("p99_us")
                line += f"   p50 {p50:>7.0f}, p99 {p99:>7.0f}"
                ratios += f", p50 x{p50 / first[2]:.2f}, p99 x{p99 / first[3]:.2f}"
            print(line + ratios)
    for name, found in results.get("memory", {}).items():
        print(f"memory: {name:<12}{found['mib']:>8.1f} MiB at idle{found['kib_per_connection']:>8.1f} KiB per idle connection")
    for name, times in results.get("boot", {}).items():
        for what, values in zip(("connection", "TLS answer"), zip(*times)):
            low, middle, high = (f(values) * 1000 for f in (min, statistics.median, max))
            print(f"exec to first {what:<10} {name:<12}{middle:>8.1f} ms [{low:.1f}..{high:.1f}]")


if __name__ == "__main__":
    main()
