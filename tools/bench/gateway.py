#!/usr/bin/env python3
"""Compares tlstunnel with named peers on the same work in one run: full TLS handshakes, keep-alive requests, bulk
transfer, memory of idle connections.

Rounds of all systems are interleaved, because the machine's speed changes from minute to minute. Beside each rate stands
the gateway's own CPU time per unit of work, from /proc over its whole process tree: that is the figure to compare, since
client, gateway and backend share the cores. Ratios are against the first peer (the lower the CPU ratio, the better).

Needs: openssl, haproxy, nginx with the stream module, h2load (nghttp2-client); tools/install-peers installs them.

  tools/bench/gateway.py                          # everything, three rounds
  tools/bench/gateway.py --only handshake --rounds 5 --json
"""

import argparse
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time

DOMAIN = "bench.localhost"
NAMES = 128
BULK_MB = 100
TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A peer did not do its part; the log of all of them is printed."""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run(*command, **options):
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True, **options).stdout


def wait_port(port, seconds=15):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise Failed(f"nothing listens on port {port} after {seconds} s")


def tree(pid):
    """The process and all its descendants."""
    pids, todo = [], [pid]
    while todo:
        one = todo.pop()
        pids.append(one)
        for task in pathlib.Path(f"/proc/{one}/task").glob("*/children"):
            todo += [int(child) for child in task.read_text().split()]
    return pids


def cpu_seconds(pid):
    total = 0
    for one in tree(pid):
        fields = pathlib.Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
        total += sum(int(f) for f in fields[11:15])  # utime stime cutime cstime
    return total / TICKS


def pss_kib(pid):
    total = 0
    for one in tree(pid):
        for line in pathlib.Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total


class Processes:
    """Programs that end with the benchmark, however that ends: `with` stops them at its end, at exceptions and at signals.
    When one of them has failed, the ends of their logs are printed, and the exit status is 1."""

    def __init__(self, folder):
        self.folder, self.processes = folder, []

    def __enter__(self):
        # Python would go at once and leave them behind.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: sys.exit(128 + number))
        return self

    def __exit__(self, kind, error, trace):
        self.stop()
        if isinstance(error, (Failed, ConnectionError, subprocess.CalledProcessError)):
            sys.exit(f"{self.logs()}\n{pathlib.Path(sys.argv[0]).name}: {error}\n{getattr(error, 'stderr', '') or ''}")

    def spawn(self, *command, **kw):
        log = open(self.folder / "log", "a")
        process = subprocess.Popen([str(c) for c in command], stdout=log, stderr=log, start_new_session=True, **kw)
        self.processes.append(process)
        return process

    def stop(self):
        for process in self.processes:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()

    def logs(self, last=4000):
        """The ends of all logs, for whoever looks at a failure."""
        logs = sorted(file for file in self.folder.glob("*") if file.name == "log" or file.suffix == ".log")
        return "\n".join(f"--- {log.name}\n{log.read_text()[-last:]}" for log in logs)


class Bench(Processes):
    def __init__(self, options, folder):
        super().__init__(folder)
        self.options = options
        self.backend = free_port()
        self.systems = {}

    def prepare(self):
        f = self.folder
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "7",
            "-keyout", f / "key.pem", "-out", f / "cert.pem", "-subj", f"/CN=*.{DOMAIN}",
            "-addext", f"subjectAltName=DNS:*.{DOMAIN}")
        (f / "both.pem").write_text((f / "cert.pem").read_text() + (f / "key.pem").read_text())
        (f / "www").mkdir()
        (f / "www/small").write_text("x" * 64)
        with open(f / "www/bulk", "wb") as bulk:
            for _ in range(BULK_MB):
                bulk.write(os.urandom(1_000_000))
        f.chmod(0o755)
        (f / "backend.conf").write_text(f"""
worker_processes 1; daemon off; pid {f}/backend.pid; error_log {f}/backend.err;
events {{ worker_connections 16000; }}
http {{ access_log off; sendfile on; keepalive_requests 1000000000; keepalive_timeout 3600;
  server {{ listen 127.0.0.1:{self.backend} backlog=4096; root {f}/www; }} }}
""")
        self.spawn("nginx", "-c", f / "backend.conf")
        wait_port(self.backend)

    def start_haproxy(self):
        f, port = self.folder, free_port()
        (f / "haproxy.map").write_text("".join(f"n{i}.{DOMAIN} b\n" for i in range(NAMES)))
        (f / "haproxy.cfg").write_text(f"""
global
  nbthread 1
  maxconn 9000
  ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
frontend f
  bind 127.0.0.1:{port} ssl crt {f}/both.pem
  use_backend %[ssl_fc_sni,map({f}/haproxy.map)]
backend b
  server s 127.0.0.1:{self.backend}
""")
        return port, self.spawn("haproxy", "-db", "-f", f / "haproxy.cfg")

    def start_nginx(self):
        f, port = self.folder, free_port()
        module = next(iter(pathlib.Path("/usr/lib/nginx/modules").glob("ngx_stream_module.so")), None)
        load = f"load_module {module};" if module else ""
        names = "".join(f"n{i}.{DOMAIN} 127.0.0.1:{self.backend};" for i in range(NAMES))
        (f / "nginx.conf").write_text(f"""
{load} worker_processes 1; daemon off; pid {f}/nginx.pid; error_log {f}/nginx.err;
events {{ worker_connections 32000; }}
stream {{
  map_hash_bucket_size 128;
  map $ssl_server_name $to {{ {names} }}
  server {{ listen 127.0.0.1:{port} ssl backlog=4096; ssl_certificate {f}/cert.pem; ssl_certificate_key {f}/key.pem;
    ssl_protocols TLSv1.2 TLSv1.3; proxy_timeout 1h; proxy_pass $to; }} }}
""")
        return port, self.spawn("nginx", "-c", f / "nginx.conf")

    def start_tlstunnel(self):
        f, port, control = self.folder, free_port(), free_port()
        process = self.spawn(
            self.options.tlstunnel, "--storage", f / "gateway.img", "--key-file", f / "admin.key", "--workers", "1",
            "--cert", f / "cert.pem", "--cert-key", f / "key.pem", "--listen-https", f"127.0.0.1:{port}",
            "--listen-http", f"127.0.0.1:{free_port()}", "--control", f"127.0.0.1:{control}",
            "--metrics", f"127.0.0.1:{free_port()}", "--access-log", "off", "--max-connections-per-client", "0")
        wait_port(control)
        document = "".join(
            f'[routes."n{i}.{DOMAIN}"]\nbackends = ["127.0.0.1:{self.backend}"]\n' for i in range(NAMES))
        (f / "routes.toml").write_text(document)
        run(self.options.ctl, "--remote", f"127.0.0.1:{control}", "--key-file", f / "admin.key",
            "apply", "-f", f / "routes.toml")
        return port, process

    def start(self):
        for name in self.options.systems.split(","):
            port, process = getattr(self, f"start_{name}")()
            wait_port(port)
            self.systems[name] = (port, process.pid)
            answer = self.get(port)
            if b"x" * 64 not in answer:
                raise Failed(f"{name} does not forward: {answer[:200]!r}")

    def context(self):
        context = ssl.create_default_context(cafile=self.folder / "cert.pem")
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return context

    def get(self, port):
        with socket.create_connection(("127.0.0.1", port), 5) as raw:
            with self.context().wrap_socket(raw, server_hostname=f"n1.{DOMAIN}") as tls:
                tls.sendall(f"GET /small HTTP/1.0\r\nHost: n1.{DOMAIN}\r\n\r\n".encode())
                data = b""
                while piece := tls.recv(65536):
                    data += piece
                return data

    # One round of each kind of work; each gives the units done.
    def h2load(self, port, path, *arguments):
        out = run("h2load", "--h1", f"--connect-to=127.0.0.1:{port}", *arguments, f"https://n1.{DOMAIN}:{port}/{path}")
        done, failed = re.search(r"(\d+) succeeded, (\d+) failed", out).groups()
        if int(failed) or not int(done):
            raise Failed(f"requests failed: {out}")
        return int(done)

    def handshake(self, port):
        # As many connections as requests: each request needs a full handshake (h2load resumes nothing).
        end, units = time.monotonic() + self.options.seconds, 0
        while time.monotonic() < end:
            units += self.h2load(port, "small", "-n", "256", "-c", "256")
        return units

    def keepalive(self, port):
        return self.h2load(port, "small", "-c", "64", "-D", str(self.options.seconds))

    def bulk(self, port):
        return self.h2load(port, "bulk", "-n", "4", "-c", "1") * BULK_MB / 1000  # GB

    def idle(self, name):
        """KiB of memory per idle connection that has carried one request."""
        port, pid = self.systems[name]
        before, context, held = pss_kib(pid), self.context(), []
        for _ in range(self.options.idle):
            raw = socket.create_connection(("127.0.0.1", port), 10)
            tls = context.wrap_socket(raw, server_hostname=f"n1.{DOMAIN}")
            tls.sendall(f"GET /small HTTP/1.1\r\nHost: n1.{DOMAIN}\r\n\r\n".encode())
            data = b""
            while b"x" * 64 not in data:
                data += tls.recv(65536)
            held.append(tls)
        time.sleep(1)
        after = pss_kib(pid)
        for tls in held:
            tls.close()
        return (after - before) / self.options.idle

    def measure(self, kind):
        rows = {name: [] for name in self.systems}
        for _ in range(self.options.rounds):
            for name, (port, pid) in self.systems.items():
                cpu, start = cpu_seconds(pid), time.monotonic()
                units = getattr(self, kind)(port)
                seconds = time.monotonic() - start
                rows[name].append((units / seconds, (cpu_seconds(pid) - cpu) / units))
        return rows


UNITS = {
    "handshake": ("handshakes/s", "CPU us/handshake", 1e6),
    "keepalive": ("requests/s", "CPU us/request", 1e6),
    "bulk": ("GB/s", "CPU s/GB", 1),
}


def number(value):
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def table(kind, rows, first):
    rate_name, cpu_name, scale = UNITS[kind]
    base = statistics.median(cpu for _, cpu in rows[first])
    print(f"\n{kind}: median [min..max]")
    print(f"{'system':<12}{rate_name:>32}{cpu_name:>32}{'CPU ratio':>12}")
    for name, samples in rows.items():
        rates, cpus = sorted(r for r, _ in samples), sorted(c * scale for _, c in samples)
        show = lambda v: " ".join((number(statistics.median(v)), f"[{number(v[0])}..{number(v[-1])}]"))
        print(f"{name:<12}{show(rates):>32}{show(cpus):>32}{statistics.median(cpus) / scale / base:>12.2f}")


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    release = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target")) / "release"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", default="haproxy,nginx,tlstunnel", help="in the order of their rounds")
    parser.add_argument("--only", choices=[*UNITS, "idle"], action="append", help="repeatable")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="length of one round")
    parser.add_argument("--idle", type=int, default=2000, help="idle connections")
    parser.add_argument("--tlstunnel", default=release / "tlstunnel")
    parser.add_argument("--ctl", default=release / "tlstunnel-ctl")
    parser.add_argument("--json", action="store_true", help="print samples as JSON at the end")
    options = parser.parse_args()
    missing = [p for p in ("openssl", "haproxy", "nginx", "h2load") if not shutil.which(p)]
    if missing:
        sys.exit(f"gateway.py: missing: {', '.join(missing)} (tools/install-peers installs them)")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    result = {}
    with tempfile.TemporaryDirectory() as folder, Bench(options, pathlib.Path(folder)) as bench:
        bench.prepare()
        bench.start()
        # Idle connections first: a process that has been busy keeps its memory, and the growth would not show.
        for kind in options.only or ["idle", *UNITS]:
            if kind == "idle":
                print(f"\nidle: KiB of PSS per connection, {options.idle} connections")
                for name in bench.systems:
                    result.setdefault("idle", {})[name] = kib = bench.idle(name)
                    print(f"{name:<12}{kib:>10.1f}")
            else:
                result[kind] = bench.measure(kind)
                table(kind, result[kind], next(iter(bench.systems)))
    if options.json:
        json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
