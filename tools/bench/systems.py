"""Gateways under test: the same `tlstunnel` as a process of the host or as a unikernel, each one hop away from here.

A script runs in a network namespace made for it ([`enter_namespace`]). The process stands behind a veth pair, in a
namespace of its own, and the unikernel behind TAP interfaces. Backends are at `BACKEND` on the loopback. CPU time and
memory are those of a system's whole process tree: for a unikernel tender and guest together.
"""

import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request

from gateway import DOMAIN, Failed, Processes, cpu_seconds, pss_kib, run

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BACKEND = "10.72.0.1"
KINDS = {
    "process": None,
    "hvt": [],
    "hvt-offload": ["--net-offload:service", "--net-offload:private"],
    "hvt-process": ["--backend=process"],
    # As on a tender without our exchange: Solo5's ring, Solo5's plain calls.
    "hvt-ring": ["--without=exchange"],
    "hvt-plain": ["--without=exchange,ring"],
}


def add_options(parser):
    """Where the programs are."""
    parser.add_argument("--tlstunnel", default=TARGET / "release/tlstunnel")
    parser.add_argument("--ctl", default=TARGET / "release/tlstunnel-ctl")
    parser.add_argument("--hvt", default=TARGET / "release/hvt")
    parser.add_argument("--image", default=TARGET / "hvt/tlstunnel.hvt")


def check_options(options, systems, *programs):
    """Ends with a message when something is missing, or a system is unknown."""
    unknown = [name for name in systems if name not in KINDS]
    if unknown:
        sys.exit(f"unknown: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    missing = [p for p in ("openssl", "ip", *programs) if not shutil.which(p)]
    files = [options.ctl]
    files += [options.tlstunnel] if "process" in systems else []
    files += [options.hvt, options.image] if any(name != "process" for name in systems) else []
    missing += [str(file) for file in files if not pathlib.Path(file).exists()]
    if missing:
        sys.exit(f"missing: {', '.join(missing)}")


def enter_namespace():
    """Starts this script again in a network namespace of its own, unless it is there."""
    if os.environ.get("BENCH_NAMESPACE") != "1":
        os.execvpe("unshare", ["unshare", "--net", sys.executable, *sys.argv], {**os.environ, "BENCH_NAMESPACE": "1"})


class System:
    """One gateway: where it is, and its process."""

    def __init__(self, name, number, folder):
        self.name, self.number, self.folder = name, number, folder
        self.service, self.private = f"10.70.{number}.2", f"10.71.{number}.2"
        self.interface, self.process = f"s{number}", None
        self.log = folder / f"{name}.log"

    def cpu(self):
        return cpu_seconds(self.process.pid)

    def pss_kib(self):
        return pss_kib(self.process.pid)

    def rss_kib(self):
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text).group(1))

    def exits(self):
        """Exits of the machine so far, which the tender tells at SIGUSR1; none where there is no machine."""
        if self.name in ("process", "hvt-process"):
            return None
        before = len(re.findall(r"stats exits=", self.log.read_text()))
        self.process.send_signal(signal.SIGUSR1)
        for _ in range(500):
            found = re.findall(r"stats exits=(\d+)", self.log.read_text())
            if len(found) > before:
                return int(found[-1])
            time.sleep(0.01)
        raise Failed(f"{self.name} tells no counters")

    def metrics(self):
        """What the gateway says of itself: values by name, with the labels as they are written."""
        with urllib.request.urlopen(f"http://{self.private}:9090/metrics", timeout=20) as answer:
            lines = answer.read().decode().splitlines()
        samples = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name.removeprefix("tlstunnel_"): float(value) for name, _, value in samples}

    def addresses(self, *hosts):
        """More addresses of this side, from which clients come."""
        for host in hosts:
            run("ip", "address", "add", f"10.70.{self.number}.{host}/32", "dev", self.interface)
        return [f"10.70.{self.number}.{host}" for host in hosts]


class Systems(Processes):
    """All systems of a script, with one certificate, one key and one name `n1` that leads to the backend."""

    def __init__(self, options, folder, names, arguments=(), mem=512):
        super().__init__(folder)
        self.options, self.arguments, self.mem = options, list(arguments), mem
        self.systems = [System(name, number + 1, folder) for number, name in enumerate(names)]

    def spawn(self, *command, log=None, **kw):
        if log is None:
            return super().spawn(*command, **kw)
        with open(log, "a") as out:
            process = subprocess.Popen(
                [str(c) for c in command], stdout=out, stderr=out, start_new_session=True, **kw)
        self.processes.append(process)
        return process

    def prepare(self):
        f = self.folder
        f.chmod(0o755)
        run("ip", "link", "set", "lo", "up")
        run("ip", "address", "add", f"{BACKEND}/32", "dev", "lo")
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "7",
            "-keyout", f / "key.pem", "-out", f / "cert.pem", "-subj", f"/CN=*.{DOMAIN}",
            "-addext", f"subjectAltName=DNS:*.{DOMAIN}")
        run(self.options.ctl, "key", "generate", "--out", f / "admin.key")

    def nginx(self, files):
        """A backend that serves these files, by name."""
        f = self.folder
        (f / "www").mkdir()
        for name, content in files.items():
            (f / "www" / name).write_bytes(content)
        (f / "backend.conf").write_text(f"""
worker_processes 1; daemon off; pid {f}/backend.pid; error_log {f}/backend.err; worker_rlimit_nofile 65000;
events {{ worker_connections 32000; }}
http {{ access_log off; sendfile on; keepalive_requests 1000000000; keepalive_timeout 3600; client_header_timeout 3600;
  server {{ listen {BACKEND}:8000 backlog=4096; root {f}/www; }} }}
""")
        self.spawn("nginx", "-c", f / "backend.conf")

    def start(self):
        for system in self.systems:
            start = self.start_process if system.name == "process" else self.start_unikernel
            system.process = start(system)
            self.wait(system.private, 1234)
            self.ctl(system, "cert", "set", "--cert", self.folder / "cert.pem", "--key", self.folder / "key.pem")
            self.ctl(system, "add", "n1", f"{BACKEND}:8000")

    def ctl(self, system, *command):
        return run(self.options.ctl, "--remote", f"{system.private}:1234", "--key-file", self.folder / "admin.key", *command)

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
                "--metrics", f"{system.private}:9090", "--workers", "1", "--access-log", "off", *self.arguments]

    def start_process(self, system):
        ready, go = self.folder / "namespace", self.folder / "go"
        script = (f"touch {ready}; while ! ip link show p0 >/dev/null 2>&1; do sleep 0.05; done; "
                  f"ip link set lo up; ip address add {system.service}/24 dev s0; ip link set s0 up; "
                  f"ip address add {system.private}/24 dev p0; ip link set p0 up; "
                  f"ip route add default via 10.71.{system.number}.1; while ! [ -e {go} ]; do sleep 0.01; done; "
                  'exec "$@"')
        arguments = [self.options.tlstunnel, *self.common(system, self.folder / "process.img")]
        process = self.spawn("unshare", "--net", "sh", "-c", script, "sh", *arguments, log=system.log)
        while not ready.exists():
            time.sleep(0.01)
        self.networks(system, process)
        time.sleep(0.5)
        go.touch()
        return process

    def start_unikernel(self, system):
        self.networks(system)
        storage = self.folder / f"{system.name}.img"
        with open(storage, "wb") as file:
            file.truncate(64 << 20)
        n = system.number
        return self.spawn(
            self.options.hvt, f"--mem={self.mem}", "--stats", *KINDS[system.name], f"--net:service=s{n}",
            f"--net:private=p{n}", f"--block:storage={storage}", "--", self.options.image,
            f"--ipv4={system.service}/24", f"--private-ipv4={system.private}/24",
            f"--private-ipv4-gateway=10.71.{n}.1", *self.common(system, "/dev/storage"), log=system.log)

    def wait(self, address, port, pause=0.01):
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                socket.create_connection((address, port), 1).close()
                return
            except OSError:
                time.sleep(pause)
        raise Failed(f"nothing listens on {address}:{port}")

    def context(self):
        return ssl.create_default_context(cafile=self.folder / "cert.pem")

    def get(self, system):
        return self.request(socket.create_connection((system.service, 443), 5))

    def request(self, raw):
        """The whole answer to a request over a connection that was just made."""
        with raw, self.context().wrap_socket(raw, server_hostname=f"n1.{DOMAIN}") as tls:
            tls.sendall(f"GET /small HTTP/1.0\r\nHost: n1.{DOMAIN}\r\n\r\n".encode())
            data = b""
            while piece := tls.recv(65536):
                data += piece
            return data
