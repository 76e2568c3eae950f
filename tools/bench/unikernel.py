#!/usr/bin/env python3
"""Compares the gateway as a unikernel with the same gateway as a process of the host, on the same work in one run: full
TLS handshakes, keep-alive requests on one and on 64 connections, bulk transfer; CPU time and exits of the machine per
unit; the time from exec to the first TLS answer; memory at idle.

All run in a network namespace made for it. The process stands behind a veth pair, in a namespace of its own, and the
unikernel behind TAP interfaces, so that both are one hop away. Rounds are interleaved, because the machine's speed changes
from minute to minute. CPU time is that of the gateway's whole process tree: for a unikernel tender and guest together.

Needs root, /dev/kvm, openssl, nginx, h2load, and the release builds:

  cargo build --release -p tlstunnel -p tlstunnel-ctl -p hvt-tender -p hvt-image
  target/release/hvt-image build tlstunnel
  tools/bench/unikernel.py                      # everything, three rounds
  tools/bench/unikernel.py --systems process,hvt --only keepalive64 --rounds 5 --json
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time

from gateway import BULK_MB, DOMAIN, Failed, cpu_seconds, pss_kib, run

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BACKEND = "10.72.0.1"
UNITS = {
    "handshake": ("handshakes/s", "CPU us", 1e6),
    "keepalive1": ("requests/s", "CPU us", 1e6),
    "keepalive64": ("requests/s", "CPU us", 1e6),
    "bulk": ("GB/s", "CPU s", 1),
}


class System:
    """A gateway: where it is, and its process."""

    def __init__(self, name, number):
        self.name, self.number = name, number
        self.service, self.private = f"10.70.{number}.2", f"10.71.{number}.2"


class Bench:
    def __init__(self, options, folder):
        self.options, self.folder, self.processes = options, folder, []
        self.systems = [System(name, number + 1) for number, name in enumerate(options.systems.split(","))]

    def spawn(self, *command, log="log", **kw):
        out = open(self.folder / log, "a")
        process = subprocess.Popen([str(c) for c in command], stdout=out, stderr=out, start_new_session=True, **kw)
        self.processes.append(process)
        return process

    def stop(self):
        for process in self.processes:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()

    def prepare(self):
        f = self.folder
        f.chmod(0o755)
        run("ip", "link", "set", "lo", "up")
        run("ip", "address", "add", f"{BACKEND}/32", "dev", "lo")
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "7",
            "-keyout", f / "key.pem", "-out", f / "cert.pem", "-subj", f"/CN=*.{DOMAIN}",
            "-addext", f"subjectAltName=DNS:*.{DOMAIN}")
        run(self.options.ctl, "key", "generate", "--out", f / "admin.key")
        (f / "www").mkdir()
        (f / "www/small").write_text("x" * 64)
        with open(f / "www/bulk", "wb") as bulk:
            for _ in range(BULK_MB):
                bulk.write(os.urandom(1_000_000))
        (f / "backend.conf").write_text(f"""
worker_processes 1; daemon off; pid {f}/backend.pid; error_log {f}/backend.err;
events {{ worker_connections 16000; }}
http {{ access_log off; sendfile on; keepalive_requests 1000000000; keepalive_timeout 3600;
  server {{ listen {BACKEND}:8000 backlog=4096; root {f}/www; }} }}
""")
        self.spawn("nginx", "-c", f / "backend.conf")

    def networks(self, system, process=None):
        """The host's side: TAPs for a unikernel, ends of veth pairs whose others a process's namespace gets."""
        for kind, net in (("s", 70), ("p", 71)):
            name = f"{kind}{system.number}"
            if process is None:
                run("ip", "tuntap", "add", name, "mode", "tap", *(["vnet_hdr"] if "offload" in system.name else []))
            else:
                run("ip", "link", "add", name, "type", "veth", "peer", "name", f"{kind}0", "netns", str(process.pid))
            run("ip", "address", "add", f"10.{net}.{system.number}.1/24", "dev", name)
            run("ip", "link", "set", name, "up")

    def common(self, system, storage):
        key = (self.folder / "admin.key").read_text().strip()
        return ["--storage", storage, "--domains", DOMAIN, "--key", key, "--control", f"{system.private}:1234",
                "--workers", "1", "--access-log", "off", "--max-connections-per-client", "0"]

    def start_process(self, system):
        ready = self.folder / "namespace"
        script = (f"touch {ready}; while ! ip link show p0 >/dev/null 2>&1; do sleep 0.05; done; "
                  f"ip link set lo up; ip address add {system.service}/24 dev s0; ip link set s0 up; "
                  f"ip address add {system.private}/24 dev p0; ip link set p0 up; "
                  f"ip route add default via 10.71.{system.number}.1; while ! [ -e {self.folder}/go ]; do sleep 0.01; done; "
                  'exec "$@"')
        arguments = [self.options.tlstunnel, *self.common(system, self.folder / "process.img")]
        process = self.spawn("unshare", "--net", "sh", "-c", script, "sh", *arguments)
        while not ready.exists():
            time.sleep(0.01)
        self.networks(system, process)
        time.sleep(0.5)
        (self.folder / "go").touch()
        return process

    def start_unikernel(self, system, *extra):
        self.networks(system)
        storage = self.folder / f"{system.name}.img"
        with open(storage, "wb") as file:
            file.truncate(64 << 20)
        n = system.number
        return self.spawn(
            self.options.hvt, "--mem=512", "--stats", *extra, f"--net:service=s{n}", f"--net:private=p{n}",
            f"--block:storage={storage}", "--", self.options.image, f"--ipv4={system.service}/24",
            f"--private-ipv4={system.private}/24", f"--private-ipv4-gateway=10.71.{n}.1",
            *self.common(system, "/dev/storage"), log=f"{system.name}.log")

    def start(self):
        extra = {"hvt": [], "hvt-offload": ["--net-offload:service", "--net-offload:private"],
                 "hvt-process": ["--backend=process"]}
        for system in self.systems:
            if system.name == "process":
                system.process = self.start_process(system)
            else:
                system.process = self.start_unikernel(system, *extra[system.name])
            self.wait(system.private, 1234)
            ctl = [self.options.ctl, "--remote", f"{system.private}:1234", "--key-file", self.folder / "admin.key"]
            run(*ctl, "cert", "set", "--cert", self.folder / "cert.pem", "--key", self.folder / "key.pem")
            run(*ctl, "add", "n1", f"{BACKEND}:8000")
            if b"x" * 64 not in self.get(system):
                raise Failed(f"{system.name} does not forward")

    def wait(self, address, port, pause=0.01):
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                socket.create_connection((address, port), 1).close()
                return
            except OSError:
                time.sleep(pause)
        raise Failed(f"nothing listens on {address}:{port}")

    def get(self, system):
        context = ssl.create_default_context(cafile=self.folder / "cert.pem")
        with socket.create_connection((system.service, 443), 5) as raw:
            with context.wrap_socket(raw, server_hostname=f"n1.{DOMAIN}") as tls:
                tls.sendall(f"GET /small HTTP/1.0\r\nHost: n1.{DOMAIN}\r\n\r\n".encode())
                data = b""
                while piece := tls.recv(65536):
                    data += piece
                return data

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
        return units

    def keepalive1(self, system):
        return self.h2load(system, "small", "-c", "1", "-D", str(self.options.seconds))

    def keepalive64(self, system):
        return self.h2load(system, "small", "-c", "64", "-D", str(self.options.seconds))

    def bulk(self, system):
        return self.h2load(system, "bulk", "-n", "2", "-c", "1") * BULK_MB / 1000

    def measure(self, kind):
        rows = {system.name: [] for system in self.systems}
        for _ in range(self.options.rounds):
            for system in self.systems:
                pid = system.process.pid
                exits, cpu, start = self.exits(system), cpu_seconds(pid), time.monotonic()
                units = getattr(self, kind)(system)
                seconds = time.monotonic() - start
                cpu = (cpu_seconds(pid) - cpu) / units
                per_unit = None if exits is None else (self.exits(system) - exits) / units
                rows[system.name].append((units / seconds, cpu, per_unit))
        return rows

    def boot(self, system):
        """Seconds from exec to the first TLS answer, with a store that has the route and the certificate."""
        system.process.kill()
        system.process.wait()
        if system.name == "process":
            return None
        command, start = system.process.args, time.monotonic()
        system.process = self.spawn(*command, log=f"{system.name}.log")
        while True:
            try:
                with socket.create_connection((system.service, 443), 0.05) as raw:
                    raw.settimeout(2)
                    context = ssl.create_default_context(cafile=self.folder / "cert.pem")
                    context.wrap_socket(raw, server_hostname=f"n1.{DOMAIN}")
                    return time.monotonic() - start
            except OSError:
                if time.monotonic() - start > 20:
                    raise Failed(f"{system.name} does not start again")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", default="process,hvt,hvt-offload,hvt-process")
    parser.add_argument("--only", choices=[*UNITS, "boot", "memory"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--tlstunnel", default=TARGET / "release/tlstunnel")
    parser.add_argument("--ctl", default=TARGET / "release/tlstunnel-ctl")
    parser.add_argument("--hvt", default=TARGET / "release/hvt")
    parser.add_argument("--image", default=TARGET / "hvt/tlstunnel.hvt")
    options = parser.parse_args()
    if os.environ.get("BENCH_NAMESPACE") != "1":
        os.execvpe("unshare", ["unshare", "--net", sys.executable, *sys.argv], {**os.environ, "BENCH_NAMESPACE": "1"})
    missing = [p for p in ("openssl", "nginx", "h2load", "ip") if not shutil.which(p)]
    missing += [str(p) for p in (options.tlstunnel, options.ctl, options.hvt, options.image) if not pathlib.Path(p).exists()]
    if missing:
        sys.exit(f"missing: {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, pathlib.Path(folder))
        results = {}
        try:
            bench.prepare()
            bench.start()
            if options.only in (None, "memory"):
                results["memory"] = {s.name: pss_kib(s.process.pid) for s in bench.systems}
            for kind in UNITS:
                if options.only in (None, kind):
                    results[kind] = bench.measure(kind)
            if options.only in (None, "boot"):
                boots = {s.name: [bench.boot(s) for _ in range(options.rounds)] for s in bench.systems
                         if s.name != "process"}
                results["boot"] = {name: statistics.median(times) for name, times in boots.items()}
        except (Failed, subprocess.CalledProcessError) as error:
            for log in bench.folder.glob("*log"):
                print(f"--- {log.name}\n{log.read_text()[-2000:]}", file=sys.stderr)
            sys.exit(f"{error}\n{getattr(error, 'stderr', '') or ''}")
        finally:
            bench.stop()
    if options.json:
        print(json.dumps(results, indent=1))
        return
    for kind, (rate, cpu, factor) in UNITS.items():
        if kind not in results:
            continue
        print(f"\n{kind}: {rate} (least, median), {cpu} and exits per unit (medians)")
        first = None
        for name, rows in results[kind].items():
            rates = [row[0] for row in rows]
            cost = statistics.median(row[1] for row in rows) * factor
            exits = [row[2] for row in rows if row[2] is not None]
            first = first or (statistics.median(rates), cost)
            print(f"  {name:<12}{min(rates):>10.2f}{statistics.median(rates):>10.2f}{cost:>10.2f}"
                  f"{statistics.median(exits) if exits else float('nan'):>10.3f}"
                  f"   rate x{statistics.median(rates) / first[0]:.2f}, CPU x{cost / first[1]:.2f}")
    for name, kib in results.get("memory", {}).items():
        print(f"memory at idle: {name:<12}{kib / 1024:>8.1f} MiB")
    for name, seconds in results.get("boot", {}).items():
        print(f"exec to first TLS answer: {name:<12}{seconds * 1000:>8.1f} ms")


if __name__ == "__main__":
    main()
