#!/usr/bin/env python3
"""Compares unipi as a unikernel with the same unipi as a process of the host, on the same site in one run: small files
over HTTP/1.1, clear and TLS, on one and on 64 connections; the time from exec to the first page of a site that was kept;
memory at idle; and the latency of small pages while every file of a larger site changes.

All run in a network namespace made for it. The process stands behind a veth pair, in a namespace of its own, and the
unikernel behind a TAP interface, so that both are one hop away. Rounds are interleaved, because the machine's speed
changes from minute to minute. CPU time is that of the server's whole process tree: for a unikernel tender and guest
together.

Needs root, /dev/kvm, git, h2load, and the release builds:

  cargo build --release -p unipi -p hvt-tender -p hvt-image
  target/release/hvt-image build unipi
  tools/bench/sites.py                      # everything, three rounds
  tools/bench/sites.py --systems process,hvt --only clear64 --rounds 5 --json
"""

import argparse
import http.client
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from gateway import Failed, Processes, cpu_seconds, pss_kib, run
from refresh import Asking, percentile

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
HERE, GIT_PORT, NAME = "10.72.0.1", 9418, "bench.test"
PAGES = 200
PICTURE = 400_000
# Name → whether over TLS, and connections.
KINDS = {"clear1": (False, 1), "clear64": (False, 64), "tls1": (True, 1), "tls64": (True, 64)}
EXTRA = {"hvt": [], "hvt-offload": ["--net-offload:service"], "hvt-process": ["--backend=process"]}


class System:
    """A site server: where it is, how it is started, and its process."""

    def __init__(self, name, number):
        self.name, self.number, self.address = name, number, f"10.70.{number}.2"


class Bench(Processes):
    def __init__(self, options, folder):
        super().__init__(folder)
        self.options = options
        self.systems = [System(name, number + 1) for number, name in enumerate(options.systems.split(","))]

    def git(self, *arguments):
        return run("git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "-C", self.folder / "www",
                   *arguments)

    def write(self, seed, megabytes):
        """Small pages, and pictures up to so many megabytes."""
        words, site = random.Random(seed), self.folder / "www"
        vocabulary = ["".join(words.choices("etaoinshrdlucmfwypvbgk", k=words.randint(2, 9))) for _ in range(2000)]
        for kind in ("pages", "pictures"):
            (site / kind).mkdir(parents=True, exist_ok=True)
        for number in range(PAGES):
            (site / f"pages/{number}.html").write_text(" ".join(words.choices(vocabulary, k=words.randint(200, 1000))))
        for number in range(int(megabytes * 1_000_000 / PICTURE)):
            (site / f"pictures/{number}.png").write_bytes(words.randbytes(PICTURE))

    def push(self, message):
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)
        self.git("push", "-q", "origin", "HEAD:main")
        return self.git("rev-parse", "HEAD").strip()

    def prepare(self):
        f = self.folder
        run("ip", "link", "set", "lo", "up")
        run("ip", "address", "add", f"{HERE}/32", "dev", "lo")
        run("git", "init", "-q", "--bare", "-b", "main", f / "site.git")
        (f / "www").mkdir()
        self.git("init", "-q", "-b", "main")
        self.git("remote", "add", "origin", f / "site.git")
        self.write(1, 0)
        self.commit = self.push("one")
        self.spawn("git", "daemon", "--export-all", f"--base-path={f}", f"--listen={HERE}", f"--port={GIT_PORT}",
                   "--reuseaddr", f)

    def start(self, system):
        """Its network, its storage, and the first start."""
        n, f = system.number, self.folder
        tap = f"s{n}"
        storage = f / f"{system.name}.img"
        with open(storage, "wb") as file:
            file.truncate(1 << 30)
        common = ["--remote", f"git://{HERE}/site.git#main", "--self-signed", "--hostname", NAME, "--no-redirect",
                  "--hook-open", "--status-path", "/status", "--log-level", "warn"]
        if system.name == "process":
            holder = self.spawn("unshare", "--net", "sleep", "infinity")
            inside = ["nsenter", f"--net=/proc/{holder.pid}/ns/net", "--"]
            own = os.readlink("/proc/self/ns/net")
            while os.readlink(f"/proc/{holder.pid}/ns/net") == own:
                time.sleep(0.01)
            run("ip", "link", "add", tap, "type", "veth", "peer", "name", "s0", "netns", str(holder.pid))
            for words in (["link", "set", "lo", "up"], ["address", "add", f"{system.address}/24", "dev", "s0"],
                          ["link", "set", "s0", "up"]):
                run(*inside, "ip", *words)
            system.command = [*inside, self.options.unipi, *common, "--storage", storage]
        else:
            offload = ["vnet_hdr"] if "offload" in system.name else []
            run("ip", "tuntap", "add", tap, "mode", "tap", *offload)
            system.command = [
                self.options.hvt, "--mem=512", "--stats", *EXTRA[system.name], f"--net:service={tap}",
                f"--block:storage={storage}", "--", self.options.image, f"--ipv4={system.address}/24",
                f"--ipv4-gateway=10.70.{n}.1", *common, "--storage", "/dev/storage"]
        run("ip", "address", "add", f"10.70.{n}.1/24", "dev", tap)
        run("ip", "link", "set", tap, "up")
        if system.name == "process":
            run(*inside, "ip", "route", "add", "default", "via", f"10.70.{n}.1")
        self.spawn_system(system)
        self.wait_live(system, self.commit)
        self.wait_quiet(system)

    def spawn_system(self, system):
        out = open(self.folder / f"{system.name}.log", "a")
        system.process = subprocess.Popen([str(word) for word in system.command], stdout=out, stderr=out,
                                          start_new_session=True)
        self.processes.append(system.process)

    def get(self, system, path, timeout=20):
        connection = http.client.HTTPConnection(system.address, 80, timeout=timeout)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def wait_live(self, system, commit):
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                status, body = self.get(system, "/status.json")
                if status == 200 and (json.loads(body)["commit"] or {}).get("id") == commit:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise Failed(f"{commit} does not go live in {system.name}")

    def wait_quiet(self, system):
        """Until storage and compression are done: hardly any processor time for a while."""
        still = 0
        while still < 5:
            before = cpu_seconds(system.process.pid)
            time.sleep(0.2)
            still = still + 1 if cpu_seconds(system.process.pid) - before < 0.02 else 0

    def exits(self, system):
        """Exits of the machine so far, which the tender tells at SIGUSR1."""
        if system.name in ("process", "hvt-process"):
            return None
        log = self.folder / f"{system.name}.log"
        before = len(re.findall(r"stats exits=", log.read_text()))
        system.process.send_signal(signal.SIGUSR1)
        for _ in range(200):
            found = re.findall(r"stats exits=(\d+)", log.read_text())
            if len(found) > before:
                return int(found[-1])
            time.sleep(0.01)
        raise Failed(f"{system.name} tells no counters")

    def load(self, system, kind):
        tls, connections = KINDS[kind]
        port = 443 if tls else 80
        uris = self.folder / "uris"
        uris.write_text("".join(f"{'https' if tls else 'http'}://{NAME}/pages/{n}.html\n" for n in range(PAGES)))
        out = run("h2load", "--h1", "-c", str(connections), "-D", str(self.options.seconds),
                  f"--connect-to={system.address}:{port}", "-i", uris)
        done, failed = map(int, re.search(r"(\d+) succeeded, (\d+) failed", out).groups())
        wrong = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", out)
        if failed or not done or any(int(wrong[n]) for n in (2, 3, 4)):
            raise Failed(f"requests failed: {out}")
        return done

    def measure(self, kind):
        rows = {system.name: [] for system in self.systems}
        for _ in range(self.options.rounds):
            for system in self.systems:
                pid = system.process.pid
                exits, cpu, start = self.exits(system), cpu_seconds(pid), time.monotonic()
                units = self.load(system, kind)
                seconds = time.monotonic() - start
                cpu = (cpu_seconds(pid) - cpu) / units
                per_unit = None if exits is None else (self.exits(system) - exits) / units
                rows[system.name].append((units / seconds, cpu, per_unit))
        return rows

    def boot(self, system):
        """Seconds from exec to the first page, of a site that was kept."""
        system.process.kill()
        system.process.wait()
        start = time.monotonic()
        self.spawn_system(system)
        while time.monotonic() - start < 20:
            try:
                if self.get(system, "/pages/0.html", 0.05)[0] == 200:
                    return time.monotonic() - start
            except (OSError, http.client.HTTPException):
                pass
        raise Failed(f"{system.name} does not start again")

    def refresh(self, system, seed):
        """Latencies at rest and from the order of a refresh on, in which every file changes."""
        ask = Asking((system.address, 80), self.options)
        try:
            ask.orders.put(self.options.refresh_seconds)
            rest, failed = ask.results.get()
            self.write(seed, self.options.mb)
            commit = self.push("everything")
            ask.orders.put(self.options.refresh_seconds)
            time.sleep(0.5)
            start = time.perf_counter()
            self.get(system, "/hook")
            self.wait_live(system, commit)
            live = time.perf_counter() - start
            during, more = ask.results.get()
        finally:
            ask.end()
        times = lambda rows: [took for _, took in rows]
        return {"live": live, "failed": len(failed) + len(more), "rest": times(rest),
                "during": [took for asked, took in during if asked >= start]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", default="process,hvt,hvt-offload")
    parser.add_argument("--only", choices=[*KINDS, "boot", "memory", "refresh"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="of each round")
    parser.add_argument("--mb", type=int, default=20, help="of the site that is fetched under load")
    parser.add_argument("--rate", type=int, default=100, help="requests per second meanwhile")
    parser.add_argument("--connections", type=int, default=8, help="that these come on")
    parser.add_argument("--refresh-seconds", type=int, default=10, help="for which latencies are taken")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--unipi", default=TARGET / "release/unipi")
    parser.add_argument("--hvt", default=TARGET / "release/hvt")
    parser.add_argument("--image", default=TARGET / "hvt/unipi.hvt")
    options = parser.parse_args()
    if os.environ.get("BENCH_NAMESPACE") != "1":
        os.execvpe("unshare", ["unshare", "--net", sys.executable, *sys.argv], {**os.environ, "BENCH_NAMESPACE": "1"})
    missing = [p for p in ("git", "h2load", "ip", "nsenter") if not shutil.which(p)]
    missing += [str(p) for p in (options.unipi, options.hvt, options.image) if not pathlib.Path(p).exists()]
    if missing:
        sys.exit(f"missing: {', '.join(missing)}")
    wanted = lambda kind: options.only in (None, kind)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, pathlib.Path(folder))
        try:
            bench.prepare()
            for system in bench.systems:
                bench.start(system)
            if wanted("boot"):
                boots = {s.name: [bench.boot(s) for _ in range(options.rounds)] for s in bench.systems}
                results["boot"] = {name: statistics.median(times) for name, times in boots.items()}
                for system in bench.systems:
                    bench.wait_quiet(system)
            if wanted("memory"):
                results["memory"] = {s.name: pss_kib(s.process.pid) for s in bench.systems}
            for kind in KINDS:
                if wanted(kind):
                    results[kind] = bench.measure(kind)
            if wanted("refresh"):
                results["refresh"] = {s.name: bench.refresh(s, 2 + s.number) for s in bench.systems}
        except (Failed, subprocess.CalledProcessError, socket.error) as error:
            for log in bench.folder.glob("*log"):
                print(f"--- {log.name}\n{log.read_text()[-2000:]}", file=sys.stderr)
            sys.exit(f"{error}\n{getattr(error, 'stderr', '') or ''}")
        finally:
            bench.stop()
    if options.json:
        print(json.dumps(results, indent=1))
        return
    for kind in filter(results.get, KINDS):
        print(f"\n{kind}: requests/s (least, median), CPU us and exits per request (medians)")
        first = None
        for name, rows in results[kind].items():
            rates = [row[0] for row in rows]
            cost = statistics.median(row[1] for row in rows) * 1e6
            exits = [row[2] for row in rows if row[2] is not None]
            first = first or (statistics.median(rates), cost)
            print(f"  {name:<12}{min(rates):>10.0f}{statistics.median(rates):>10.0f}{cost:>10.1f}"
                  f"{statistics.median(exits) if exits else float('nan'):>10.3f}"
                  f"   rate x{statistics.median(rates) / first[0]:.2f}, CPU x{cost / first[1]:.2f}")
    for name, kib in results.get("memory", {}).items():
        print(f"memory at idle: {name:<12}{kib / 1024:>8.1f} MiB")
    for name, seconds in results.get("boot", {}).items():
        print(f"exec to first page: {name:<12}{seconds * 1000:>8.1f} ms")
    for name, row in results.get("refresh", {}).items():
        rest, during = percentile(row["rest"], 0.99), percentile(row["during"], 0.99)
        print(f"refresh of {options.mb} MB: {name:<12} live after {row['live']:.2f} s; p99 {rest * 1e3:.2f} ms at rest, "
              f"{during * 1e3:.2f} ms meanwhile ({during / rest:.1f} times), max {max(row['during']) * 1e3:.1f} ms, "
              f"{row['failed']} failed")


if __name__ == "__main__":
    main()
