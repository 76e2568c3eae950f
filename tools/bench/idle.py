#!/usr/bin/env python3
"""Measures what idle TLS connections cost the others, and themselves: latency, CPU time and exits of requests on a thousand
active connections while none and while ten thousand others are idle, and memory per idle connection.

A round is: active ones alone, idle ones beside them, alone again. Requests come at a fixed rate that does not depend on
answers. What must hold, or the exit status is 1: every connection stands to the end, and in the median of the rounds the
50th and 99th percentiles with idle connections are within 1.5 times those without, of the same round.

Clients have several addresses, because of the gateway's limit per client. Idle and active ones are held by processes of
their own. Needs root, /dev/kvm, openssl, nginx, and release builds of tlstunnel, tlstunnel-ctl, hvt and the image (see
unikernel.py).

  tools/bench/idle.py
  tools/bench/idle.py --systems hvt,process --idle 2000 --active 200 --rounds 5 --json
"""

import argparse
import json
import pathlib
import resource
import statistics
import sys
import tempfile
import time

import systems
from gateway import DOMAIN, Failed
from many import ENDING, Loop

# Half of the default limit of connections per client for each address.
PER_ADDRESS = 500
MOST = 1.5
# Seconds within which the gateway must have noticed that clients have gone: a burst of ends overflows the queue of a TAP, and
# the lost ones come again later and later.
QUIET = 180


def percentile(times, share):
    times = sorted(times)
    return times[min(len(times) - 1, int(len(times) * share))]


class Idle:
    def __init__(self, options, bench, system):
        self.options, self.system = options, system
        count = (options.idle + options.active) // PER_ADDRESS + 1
        addresses = system.addresses(*range(10, 10 + count))
        common = (f"n1.{DOMAIN}", addresses, str(bench.folder / "cert.pem"))
        self.holder, self.asker = (Loop((system.service, 443), *common) for _ in range(2))

    def phase(self, idle):
        """The active ones' figures; they are opened after the idle ones and ask a second's worth before it counts."""
        options = self.options
        cpu = self.system.cpu()
        opened = self.asker.open(options.active, options.parallel)
        open_cpu = (self.system.cpu() - cpu) / options.active
        self.asker.ask_at_rate(options.rate, 1)
        cpu, exits = self.system.cpu(), self.system.exits()
        times = self.asker.ask_at_rate(options.rate, options.seconds)
        cpu = self.system.cpu() - cpu
        exits = None if exits is None else (self.system.exits() - exits) / len(times)
        if (standing := self.asker.look()) != options.active:
            raise Failed(f"{standing} of {options.active} active connections stand")
        self.asker.close()
        if idle and (standing := self.holder.look()) != idle:
            raise Failed(f"{standing} of {idle} idle connections stand")
        return {"idle": idle, "p50_us": percentile(times, 0.5) * 1e6, "p99_us": percentile(times, 0.99) * 1e6,
                "cpu_us": cpu / len(times) * 1e6, "exits": exits, "requests": len(times),
                "open_cpu_us": open_cpu * 1e6, "opened_per_second": options.active / opened}

    def quiet(self, connections):
        """Waits until the gateway has no more connections than these."""
        end = time.monotonic() + QUIET
        while (still := self.system.metrics()["connections_open"]) > connections:
            if time.monotonic() > end:
                raise Failed(f"{still:.0f} connections stay open")
            time.sleep(0.2)

    def memory(self):
        time.sleep(2)  # what the heap wants no more goes back to the host after a second
        heap = self.system.metrics().get('process_memory_bytes{kind="data"}')
        return {"pss_kib": self.system.pss_kib(), "heap_kib": heap / 1024}

    def round(self):
        options = self.options
        phases = [self.phase(0)]
        self.quiet(0)
        before = self.memory()
        seconds = self.holder.open(options.idle, options.parallel)
        after = self.memory()
        phases.append(self.phase(options.idle))
        self.holder.close()
        self.quiet(0)
        phases.append(self.phase(0))
        alone = {key: statistics.mean(phase[key] for phase in (phases[0], phases[2])) for key in ("p50_us", "p99_us", "cpu_us", "open_cpu_us")}
        return {"phases": phases, "opened_per_second": options.idle / seconds,
                "ratio": {key: phases[1][key] / alone[key] for key in alone},
                "kib_per_idle": {key: (after[key] - before[key]) / options.idle for key in before}}

    def stop(self):
        self.holder.stop()
        self.asker.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", default="hvt", help=f"of {', '.join(systems.KINDS)}")
    parser.add_argument("--idle", type=int, default=10_000)
    parser.add_argument("--active", type=int, default=1_000)
    parser.add_argument("--rate", type=float, default=500, help="requests per second of all active ones together")
    parser.add_argument("--parallel", type=int, default=64, help="handshakes at the same time")
    parser.add_argument("--seconds", type=float, default=8, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mem", type=int, default=1024, help="MiB of the guest's memory")
    parser.add_argument("--json", action="store_true")
    systems.add_options(parser)
    options = parser.parse_args()
    names = options.systems.split(",")
    systems.check_options(options, names, "nginx")
    systems.enter_namespace()
    # A process of the host needs two descriptors for each connection, the unikernel none.
    hard, connections = resource.getrlimit(resource.RLIMIT_NOFILE)[1], options.idle + options.active
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if "process" in names and hard < 2 * connections + 100:
        sys.exit(f"{connections} connections need {2 * connections + 100} open files, and {hard} are allowed (ulimit -Hn)")
    results, failures = {}, []
    with tempfile.TemporaryDirectory() as folder, systems.Systems(
            options, pathlib.Path(folder), names, mem=options.mem) as bench:
        bench.prepare()
        bench.nginx({"small": ENDING})
        bench.start()
        clients = {system.name: Idle(options, bench, system) for system in bench.systems}
        for _ in range(options.rounds):
            for name, idle in clients.items():
                results.setdefault(name, []).append(found := idle.round())
                print(name, json.dumps(found), file=sys.stderr, flush=True)
        for idle in clients.values():
            idle.stop()
    for name, rounds in results.items():
        for key in ("p50_us", "p99_us"):
            ratio = statistics.median(found["ratio"][key] for found in rounds)
            if ratio > MOST:
                failures.append(f"{name}: {key} is {ratio:.2f} times that without idle connections")
    if options.json:
        print(json.dumps({"rounds": results, "failures": failures}, indent=1))
    else:
        show(options, results, failures)
    sys.exit(1 if failures else 0)


def show(options, results, failures):
    print(f"{options.active} active connections, {options.rate:.0f} requests/s; medians of {options.rounds} rounds")
    for name, rounds in results.items():
        median = lambda pick: statistics.median(pick(found) for found in rounds)
        for phase, idle in enumerate((0, options.idle, 0)):
            row = {key: median(lambda found: found["phases"][phase][key] or 0) for key in ("p50_us", "p99_us", "cpu_us", "exits", "open_cpu_us")}
            print(f"  {name:<12}{idle:>7} idle: p50 {row['p50_us']:>8.0f} us, p99 {row['p99_us']:>8.0f} us, "
                  f"CPU {row['cpu_us']:>6.0f} us, {row['exits']:.2f} exits per request, "
                  f"CPU {row['open_cpu_us']:>5.0f} us per connection opened")
        first = rounds[0]["kib_per_idle"]  # a process keeps what it had, so later rounds show nothing
        ratios = ", ".join(f"{key.removesuffix('_us')} x{median(lambda found: found['ratio'][key]):.2f}" for key in ("p50_us", "p99_us", "cpu_us", "open_cpu_us"))
        print(f"  {name:<12}with idle against without: {ratios}; {first['pss_kib']:.1f} KiB per "
              f"idle connection (heap {first['heap_kib']:.1f}), "
              f"opened {median(lambda f: f['opened_per_second']):.0f} per second")
    for failure in failures:
        print(f"FAILED: {failure}")


if __name__ == "__main__":
    main()
