#!/usr/bin/env python3
"""Measures what a refresh of unipi costs those who are being served: latency, failed requests and memory.

A site (100 MB by default: pictures, which do not compress, and pages, which do) is refreshed in two ways: with one page
changed, and with every file changed. Clients ask for small pages at a fixed rate on kept connections, at rest and during
each refresh, so that a slow answer delays nobody else's question. A refresh is: fetch, unpack, verify, build, swap,
keep, and compress. The peak of memory is the kernel's own (VmHWM), against the size of the site.

What is to hold: no failed request, the 99th percentile during a refresh within twice that at rest, memory within 2.5
times the size of the site. The exit status says whether it did.

  tools/bench/refresh.py
  tools/bench/refresh.py --mb 20 --rate 200
"""

import argparse
import http.client
import json
import multiprocessing
import os
import pathlib
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
import urllib.request

from gateway import Failed, Processes, free_port, run, wait_port

PAGE_SHARE = 0.3
PAGE, PICTURE = 20_000, 400_000
TARGET_P99, TARGET_MEMORY = 2.0, 2.5


def clients(address, rate, connections, orders, results):
    """A process that asks at a fixed rate; each order is how long, each result the times that it took and the failures."""
    for seconds in iter(orders.get, None):
        times, failures, lock = [], [], threading.Lock()

        def client(number):
            every, own = connections / rate, []
            connection = http.client.HTTPConnection(*address, timeout=20)
            begin = time.perf_counter() + every * number / connections
            for turn in range(int(seconds / every)):
                due = begin + turn * every
                time.sleep(max(0, due - time.perf_counter()))
                asked = time.perf_counter()
                try:
                    connection.request("GET", f"/pages/{(number + turn) % 50}.html")
                    answer = connection.getresponse()
                    answer.read()
                    if answer.status != 200:
                        raise OSError(f"status {answer.status}")
                    own.append((asked, time.perf_counter() - asked))
                except (OSError, http.client.HTTPException) as error:
                    with lock:
                        failures.append(repr(error))
                    connection.close()
            with lock:
                times.extend(own)

        threads = [threading.Thread(target=client, args=(n,)) for n in range(connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        results.put((times, failures))


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class Refresh(Processes):
    def __init__(self, options, folder):
        super().__init__(folder)
        self.options = options
        self.size = options.mb * 1_000_000

    def write(self, seed):
        words = random.Random(seed)
        vocabulary = ["".join(words.choices("etaoinshrdlu", k=words.randint(2, 9))) for _ in range(3000)]
        site = self.folder / "www"
        for kind in ("pages", "pictures"):
            (site / kind).mkdir(parents=True, exist_ok=True)
        for number in range(int(self.size * PAGE_SHARE / PAGE)):
            text = " ".join(words.choices(vocabulary, k=PAGE // 6))
            (site / f"pages/{number}.html").write_text(text)
        for number in range(int(self.size * (1 - PAGE_SHARE) / PICTURE)):
            (site / f"pictures/{number}.png").write_bytes(words.randbytes(PICTURE))

    def git(self, *arguments):
        return run("git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0",
                   "-c", "maintenance.auto=false", "-C", self.folder / "www", *arguments)

    def push(self, message):
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)
        self.git("push", "-q", "origin", "HEAD:main")
        return self.git("rev-parse", "HEAD").strip()

    def start(self):
        f = self.folder
        run("git", "init", "-q", "--bare", "-b", "main", f / "site.git")
        run("git", "-C", f / "site.git", "config", "receive.autogc", "false")
        (f / "www").mkdir()
        self.git("init", "-q", "-b", "main")
        self.git("remote", "add", "origin", f / "site.git")
        git_port, self.port, self.metrics = free_port(), free_port(), free_port()
        self.write(1)
        commit = self.push("one")
        self.spawn("git", "daemon", "--export-all", f"--base-path={f}", "--listen=127.0.0.1", f"--port={git_port}",
                   "--reuseaddr", f)
        wait_port(git_port)
        storage = ["--storage", f / "site.img", "--storage-size", "4GiB"] if self.options.storage else []
        self.unipi = self.spawn(
            self.options.unipi, "--remote", f"git://127.0.0.1:{git_port}/site.git#main", "--max-site-size", "1GiB",
            "--listen-http", f"127.0.0.1:{self.port}", "--hook-open", "--status-path", "/status", *storage)
        wait_port(self.port)
        self.wait_live(commit)
        self.wait_quiet()

    def wait_live(self, commit):
        end = time.monotonic() + 180
        while time.monotonic() < end:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/status.json", timeout=20) as answer:
                    if (json.load(answer)["commit"] or {}).get("id") == commit:
                        return
            except OSError:
                pass
            time.sleep(0.05)
        raise Failed(f"{commit} does not go live")

    def cpu(self):
        fields = pathlib.Path(f"/proc/{self.unipi.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    def wait_quiet(self):
        """Until storage and compression are done: no processor time for a while."""
        still = 0
        while still < 10:
            before = self.cpu()
            time.sleep(0.1)
            still = still + 1 if self.cpu() == before else 0

    def memory(self, field):
        for line in pathlib.Path(f"/proc/{self.unipi.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
        raise Failed(f"no {field}")

    def during(self, ask, what):
        """Latencies from the order of a refresh until everything is quiet again."""
        pathlib.Path(f"/proc/{self.unipi.pid}/clear_refs").write_text("5")
        begin = time.perf_counter()
        commit = what()
        ask.orders.put(self.options.seconds)
        time.sleep(0.5)
        started = time.perf_counter()
        urllib.request.urlopen(f"http://127.0.0.1:{self.port}/hook", timeout=20).read()
        self.wait_live(commit)
        live = time.perf_counter()
        self.quiet_under_load(ask)
        ended = time.perf_counter()
        times, failures = ask.results.get()
        inside = [took for asked, took in times if started <= asked <= ended]
        return {"live": live - started, "all": ended - started, "times": inside, "failures": failures,
                "peak": self.memory("VmHWM")}

    def quiet_under_load(self, ask):
        """Until the processor time of the server is that of serving again."""
        calm = 0
        while calm < 3 and ask.results.empty():
            before = self.cpu()
            time.sleep(0.5)
            calm = calm + 1 if self.cpu() - before <= ask.rest_ticks * 1.5 + 2 else 0


class Asking:
    def __init__(self, address, options):
        self.orders, self.results = multiprocessing.Queue(), multiprocessing.Queue()
        self.process = multiprocessing.Process(
            target=clients, args=(address, options.rate, options.connections, self.orders, self.results), daemon=True)
        self.process.start()
        self.rest_ticks = 0

    def end(self):
        self.orders.put(None)
        self.process.join(5)


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    release = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target")) / "release"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=100, help="size of the site")
    parser.add_argument("--rate", type=int, default=200, help="requests per second")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=int, default=20, help="length of each measurement; longer than a refresh")
    parser.add_argument("--storage", action="store_true", help="keep the site on a block device too")
    parser.add_argument("--unipi", default=release / "unipi")
    options = parser.parse_args()
    if not shutil.which("git"):
        sys.exit("refresh.py: git is missing")
    good = True
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        bench = Refresh(options, pathlib.Path(folder))
        ask = None
        try:
            bench.start()
            ask = Asking(("127.0.0.1", bench.port), options)
            size = bench.size
            print(f"site {size / 1e6:.0f} MB; memory at rest {bench.memory('VmRSS') / size:.2f} times that")
            ticks = bench.cpu()
            ask.orders.put(options.seconds)
            times, failures = ask.results.get()
            ask.rest_ticks = (bench.cpu() - ticks) * 0.5 / options.seconds
            rest = percentile([took for _, took in times], 0.99)
            print(f"at rest: p50 {statistics.median(t for _, t in times) * 1e3:.2f} ms, p99 {rest * 1e3:.2f} ms, "
                  f"{len(times)} requests, {len(failures)} failed")

            def one():
                (bench.folder / "www/pages/0.html").write_text(f"changed {time.time()} " * 800)
                return bench.push("one page")

            seeds = iter(range(2, 100))

            def everything():
                bench.write(next(seeds))
                return bench.push("everything")

            for name, change in [("one page", one)] + 4 * [("every file", everything)]:
                row = bench.during(ask, change)
                bench.wait_quiet()
                p99 = percentile(row["times"], 0.99)
                held = not row["failures"] and p99 <= TARGET_P99 * rest and row["peak"] <= TARGET_MEMORY * size
                good &= held
                print(f"{name}: live after {row['live']:.2f} s, quiet after {row['all']:.2f} s; "
                      f"p50 {statistics.median(row['times']) * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms ({p99 / rest:.2f} times), "
                      f"max {max(row['times']) * 1e3:.1f} ms, {len(row['failures'])} failed; "
                      f"memory peak {row['peak'] / size:.2f} times{'' if held else '   <-- not held'}")
                for failure in row["failures"][:3]:
                    print("   ", failure)
        except Failed as failure:
            sys.exit(f"{(bench.folder / 'log').read_text()[-4000:]}\nrefresh.py: {failure}")
        finally:
            if ask:
                ask.end()
            bench.stop()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
