#!/usr/bin/env python3
"""Compares unipi with nginx and static-web-server on the same tree in one run: small and large files, clear and TLS, HTTP/1.1 and HTTP/2,
as they are and compressed beforehand, and requests that are answered with 304.

Rounds of all systems are interleaved, because the machine's speed changes from minute to minute. Beside each rate stands
the server's own CPU time per unit of work, from /proc over its whole process tree: that is the figure to compare, since
client and server share the cores. Ratios are against the first peer (the lower the CPU ratio, the better). One worker
each. nginx serves from disk with sendfile and a cache of open files, and gzip and Brotli files made beforehand; so does
static-web-server, which takes part when it is on PATH or named by --static-web-server. It is bound to one processor to
have one worker, and knows no HTTP/2 in clear text.

Needs: openssl, git, brotli, nginx with its module for Brotli files, h2load (nghttp2-client); tools/install-peers installs them.

  tools/bench/unipi.py                              # everything, three rounds
  tools/bench/unipi.py --only small-h2-tls --rounds 5 --json
"""

import argparse
import gzip
import json
import os
import pathlib
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from gateway import Failed, Processes, cpu_seconds, free_port, number, pss_kib, run, wait_port

NAME = "bench.localhost"
PAGES = 1000
LARGE, LARGE_BYTES = 16, 1 << 20
BULK_MB = 100


class Kind:
    """A kind of work: what is asked for, how, and in which unit it is counted."""

    def __init__(self, paths, tls, h2, headers=(), unit="request", clients=("-c", "64")):
        self.paths, self.tls, self.h2, self.headers, self.unit = paths, tls, h2, headers, unit
        self.clients = ("-c", "16", "-m", "8") if h2 else clients

    def place(self):
        """Which of a system's ports serves it."""
        return "tls" if self.tls else "h2c" if self.h2 else "clear"


GZIP = ("accept-encoding: gzip",)
BROTLI = ("accept-encoding: br",)
KINDS = {
    "small-h1": Kind("pages", False, False),
    "small-h1-tls": Kind("pages", True, False),
    "small-h2": Kind("pages", False, True),
    "small-h2-tls": Kind("pages", True, True),
    "gzip-h1-tls": Kind("pages", True, False, GZIP),
    "gzip-h2-tls": Kind("pages", True, True, GZIP),
    "br-h2-tls": Kind("pages", True, True, BROTLI),
    "unchanged-h2-tls": Kind("pages", True, True, ("if-none-match: *",)),
    "large-h1": Kind("large", False, False, unit="GB", clients=("-c", "8")),
    "large-h1-tls": Kind("large", True, False, unit="GB", clients=("-c", "8")),
    "large-h2-tls": Kind("large", True, True, unit="GB"),
    "bulk-h1": Kind("bulk", False, False, unit="GB", clients=("-c", "2")),
    "bulk-h1-tls": Kind("bulk", True, False, unit="GB", clients=("-c", "2")),
}


class Bench(Processes):
    def __init__(self, options, folder):
        super().__init__(folder)
        self.options = options
        self.systems = {}

    def prepare(self):
        f = self.folder
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "7",
            "-keyout", f / "key.pem", "-out", f / "cert.pem", "-subj", f"/CN={NAME}",
            "-addext", f"subjectAltName=DNS:{NAME}")
        site = f / "www"
        (site / "pages").mkdir(parents=True)
        words = random.Random(1)
        vocabulary = ["".join(words.choices("etaoinshrdlucmfwypvbgk", k=words.randint(2, 9))) for _ in range(2000)]
        paths = {"pages": [], "large": [], "bulk": ["bulk.bin"]}
        for number_ in range(PAGES):
            length, text = words.randint(1024, 8192), "<!doctype html><p>"
            while len(text) < length:
                text += words.choice(vocabulary) + " "
            path = f"pages/{number_}.html"
            (site / path).write_text(text)
            paths["pages"].append(path)
        for number_ in range(LARGE):
            path = f"large{number_}.bin"
            (site / path).write_bytes(os.urandom(LARGE_BYTES))
            paths["large"].append(path)
        with open(site / "bulk.bin", "wb") as bulk:
            for _ in range(BULK_MB):
                bulk.write(os.urandom(1_000_000))
        git = ["git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "-C", site]
        run("git", "init", "-q", "-b", "main", site)
        run(*git, "add", "-A")
        run(*git, "commit", "-q", "-m", "bench")
        run("git", "clone", "-q", "--bare", site, f / "site.git")
        shutil.rmtree(site / ".git")
        for path in paths["pages"]:
            (site / f"{path}.gz").write_bytes(gzip.compress((site / path).read_bytes(), 7))
            run("brotli", "-q", "7", site / path)
        self.git_port = free_port()
        self.spawn("git", "daemon", "--export-all", f"--base-path={f}", "--listen=127.0.0.1",
                   f"--port={self.git_port}", "--reuseaddr", f)
        wait_port(self.git_port)
        f.chmod(0o755)
        self.paths = paths

    def start_nginx(self):
        f, clear, tls, h2c = self.folder, free_port(), free_port(), free_port()
        (f / "nginx.conf").write_text(f"""
load_module /usr/lib/nginx/modules/ngx_http_brotli_static_module.so;
worker_processes 1; daemon off; pid {f}/nginx.pid; error_log {f}/nginx.err;
events {{ worker_connections 16000; }}
http {{ include /etc/nginx/mime.types; access_log off; sendfile on; tcp_nopush on; gzip_static on; brotli_static on; gzip_vary on;
  keepalive_requests 1000000000; keepalive_timeout 3600; open_file_cache max=4000;
  ssl_certificate {f}/cert.pem; ssl_certificate_key {f}/key.pem; ssl_protocols TLSv1.2 TLSv1.3; root {f}/www;
  server {{ listen 127.0.0.1:{clear} backlog=4096; }}
  server {{ listen 127.0.0.1:{h2c} backlog=4096 http2; }}
  server {{ listen 127.0.0.1:{tls} backlog=4096 ssl http2; }} }}
""")
        return {"clear": clear, "tls": tls, "h2c": h2c}, self.spawn("nginx", "-c", f / "nginx.conf")

    def start_unipi(self):
        f, clear, tls = self.folder, free_port(), free_port()
        process = self.spawn(
            self.options.unipi, "--remote", f"git://127.0.0.1:{self.git_port}/site.git#main",
            "--listen-http", f"127.0.0.1:{clear}", "--listen-https", f"127.0.0.1:{tls}", "--no-redirect",
            "--cert", f / "cert.pem", "--cert-key", f / "key.pem", "--log-level", "warn")
        return {"clear": clear, "tls": tls, "h2c": clear}, process

    def start_sws(self):
        f, clear, tls = self.folder, free_port(), free_port()
        common = ["taskset", "-c", "0", self.options.static_web_server, "--host", "127.0.0.1", "--root", f / "www",
                  "--log-level", "error", "--compression-static", "true", "--threads-multiplier", "1"]
        first = self.spawn(*common, "--port", str(clear))
        second = self.spawn(*common, "--port", str(tls), "--http2", "true", "--http2-tls-cert", f / "cert.pem",
                            "--http2-tls-key", f / "key.pem")
        return {"clear": clear, "tls": tls}, {"clear": first, "tls": second}

    def start(self):
        for name in self.options.systems.split(","):
            ports, started = getattr(self, f"start_{name}")()
            for port in ports.values():
                wait_port(port)
            processes = started if isinstance(started, dict) else {place: started for place in ports}
            self.systems[name] = (ports, {place: process.pid for place, process in processes.items()})
            for kind in self.kinds().values():
                if kind.place() in ports:
                    self.wait_right(name, kind)

    def kinds(self):
        return {name: KINDS[name] for name in self.options.only or KINDS}

    def url(self, name, kind, path):
        port = self.systems[name][0][kind.place()]
        return port, f"{'https' if kind.tls else 'http'}://{NAME}:{port}/{path}"

    def wait_right(self, name, kind):
        """Until the answer is right: a site may be on its way, and compression goes on behind it."""
        path = self.paths[kind.paths][-1]
        port, url = self.url(name, kind, path)
        version = ("--http2" if kind.tls else "--http2-prior-knowledge") if kind.h2 else "--http1.1"
        arguments = [part for header in kind.headers for part in ("-H", header)]
        wanted = (self.folder / "www" / path).read_bytes()
        end = time.monotonic() + 120
        while time.monotonic() < end:
            got = subprocess.run(
                ["curl", "-s", "--noproxy", "*", "--compressed", version, "--cacert", self.folder / "cert.pem",
                 "--resolve", f"{NAME}:{port}:127.0.0.1", "-D", self.folder / "head", *arguments, url],
                capture_output=True)
            head = (self.folder / "head").read_text().lower() if got.returncode == 0 else ""
            unchanged = "if-none-match: *" in kind.headers
            coding = re.search("content-encoding: (.*)", head)
            coded = kind.headers == () or unchanged
            if got.returncode == 0 and (unchanged and " 304" in head or got.stdout == wanted and (coded or coding)):
                return
            time.sleep(0.2)
        raise Failed(f"{name} does not answer {url} as it should: {head}{got}")

    def work(self, name, kind):
        """One round; gives the units done."""
        port, _ = self.url(name, kind, "")
        uris = self.folder / "uris"
        uris.write_text("".join(self.url(name, kind, path)[1] + "\n" for path in self.paths[kind.paths]))
        headers = [part for header in kind.headers for part in ("-H", header)]
        if kind.paths == "pages":
            amount = ["-n", str(self.options.requests)]
        else:
            amount = ["-n", str(4 if kind.paths == "bulk" else 8 * LARGE * 4)]
        protocol = [] if kind.h2 else ["--h1"]
        out = run("h2load", *protocol, *kind.clients, *amount, *headers, f"--connect-to=127.0.0.1:{port}", "-i", uris)
        done, failed = map(int, re.search(r"(\d+) succeeded, (\d+) failed", out).groups())
        wrong = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", out)
        if failed or not done or int(wrong[3]) or int(wrong[4]):
            raise Failed(f"requests failed: {out}")
        if kind.unit == "GB":
            return done * (BULK_MB * 1e6 if kind.paths == "bulk" else LARGE_BYTES) / 1e9
        return done

    def measure(self, kind):
        able = {name: pids[kind.place()] for name, (_, pids) in self.systems.items() if kind.place() in pids}
        rows = {name: [] for name in able}
        for _ in range(self.options.rounds):
            for name, pid in able.items():
                cpu, start = cpu_seconds(pid), time.monotonic()
                units = self.work(name, kind)
                seconds = time.monotonic() - start
                rows[name].append((units / seconds, (cpu_seconds(pid) - cpu) / units))
        return rows


def table(name, kind, rows, first):
    rate, cpu, scale = ("GB/s", "CPU s/GB", 1) if kind.unit == "GB" else ("requests/s", "CPU us/request", 1e6)
    base = statistics.median(cpu for _, cpu in rows[first])
    print(f"\n{name}: median [min..max]")
    print(f"{'system':<12}{rate:>32}{cpu:>32}{'CPU ratio':>12}")
    for system, samples in rows.items():
        rates, cpus = sorted(r for r, _ in samples), sorted(c * scale for _, c in samples)
        show = lambda v: " ".join((number(statistics.median(v)), f"[{number(v[0])}..{number(v[-1])}]"))
        print(f"{system:<12}{show(rates):>32}{show(cpus):>32}{statistics.median(cpus) / scale / base:>12.2f}")


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    release = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target")) / "release"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", help="in the order of their rounds [default: nginx, unipi, and sws if it is there]")
    parser.add_argument("--static-web-server", default=shutil.which("static-web-server"), metavar="FILE")
    parser.add_argument("--only", choices=KINDS, action="append", help="repeatable")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=30_000, help="requests for small files in a round")
    parser.add_argument("--unipi", default=release / "unipi")
    parser.add_argument("--json", action="store_true", help="print samples as JSON at the end")
    options = parser.parse_args()
    options.systems = options.systems or "nginx,unipi" + (",sws" if options.static_web_server else "")
    missing = [p for p in ("openssl", "git", "nginx", "h2load", "curl", "brotli") if not shutil.which(p)]
    if "sws" in options.systems.split(",") and not options.static_web_server:
        missing.append("static-web-server")
    if missing:
        sys.exit(f"unipi.py: missing: {', '.join(missing)} (tools/install-peers installs them)")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, pathlib.Path(folder))
        try:
            bench.prepare()
            bench.start()
            for name, (_, pids) in bench.systems.items():
                print(f"{name}: {sum(map(pss_kib, set(pids.values()))) / 1024:.0f} MiB of memory (PSS)")
            for name, kind in bench.kinds().items():
                result[name] = bench.measure(kind)
                table(name, kind, result[name], next(iter(bench.systems)))
        except Failed as failure:
            sys.exit(f"{(bench.folder / 'log').read_text()[-4000:]}\nunipi.py: {failure}")
        finally:
            bench.stop()
    if options.json:
        json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
