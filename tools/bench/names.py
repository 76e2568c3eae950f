#!/usr/bin/env python3
"""Shows that a change costs the same with ten names and with a million: for each number of names, how long `add` takes at
the control port until it is answered, how soon the new name serves, and what a TLS connection costs meanwhile.

  tools/bench/names.py                       # 10, 10,000 and 200,000 names
  tools/bench/names.py --names 1000000       # takes a quarter of an hour to fill
"""

import argparse
import importlib.util
import os
import pathlib
import socket
import ssl
import statistics
import tempfile
import threading
import time

from gateway import DOMAIN, Failed, Processes, free_port

ROOT = pathlib.Path(__file__).resolve().parents[2]
AT_ONCE = 200_000


def load_client():
    """The control client in Python; one connection for many requests, so that process starts are not measured."""
    file = ROOT / "config-proto/examples/tlstunnel_ctl.py"
    spec = importlib.util.spec_from_file_location("tlstunnel_ctl", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def backend():
    """Answers each connection with one byte and closes it."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)

    def serve():
        while True:
            connection, _ = listener.accept()
            connection.sendall(b"!")
            connection.close()

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]


def median_ms(values):
    values = sorted(values)
    return f"{statistics.median(values) * 1000:.2f} [{values[0] * 1000:.2f}..{values[-1] * 1000:.2f}]"


def main():
    release = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", type=int, action="append", help="repeatable")
    parser.add_argument("--changes", type=int, default=200, help="changes that are timed")
    parser.add_argument("--tlstunnel", default=release / "tlstunnel")
    parser.add_argument("--ctl", default=release / "tlstunnel-ctl")
    options = parser.parse_args()
    port = backend()
    client = load_client()
    print(f"{'names':>10}{'add, ms':>28}{'name serves after, ms':>28}{'TLS connection, ms':>28}{'RSS, MiB':>10}{'store, MiB':>12}")
    for names in options.names or [10, 10_000, 200_000]:
        with tempfile.TemporaryDirectory() as folder, Processes(pathlib.Path(folder)) as processes:
            measure(options, client, port, names, processes)


def measure(options, client, port, names, processes):
    https, control, folder = free_port(), free_port(), processes.folder
    gateway = processes.spawn(
        options.tlstunnel, "--storage", folder / "store", "--storage-size", "4GiB", "--key-file", folder / "key",
        "--domains", DOMAIN, "--self-signed", "--workers", "1", "--access-log", "off", "--log-level", "warn",
        "--listen-https", f"127.0.0.1:{https}", "--listen-http", f"127.0.0.1:{free_port()}",
        "--control", f"127.0.0.1:{control}", "--ready-file", folder / "ready", "--history", "10",
        "--max-connections-per-client", "0")
    while not (folder / "ready").exists():
        if gateway.poll() is not None:
            raise Failed("the gateway did not start")
        time.sleep(0.01)
    session = client.Connection(f"127.0.0.1:{control}", *client.read_key(folder / "key"))
    settings = {"backends": [f"127.0.0.1:{port}"]}

    def ask(request):
        reply = session.request(request)
        if "ok" not in reply:
            raise Failed(reply)

    def add(name):
        ask({"op": "add", "name": name, "settings": settings, "replace": True})

    # One document fits into a frame up to about this size; the rest is added name by name.
    at_once = min(names, AT_ONCE)
    routes = {f"n{i}.{DOMAIN}": settings for i in range(at_once)}
    ask({"op": "apply", "document": {"routes": routes}})
    for i in range(at_once, names):
        add(f"n{i}.{DOMAIN}")
    context = ssl.create_default_context(cafile=f"{folder}/store-ca.pem")

    def connect(name):
        with socket.create_connection(("127.0.0.1", https)) as raw:
            with context.wrap_socket(raw, server_hostname=name) as tls:
                return tls.recv(1) == b"!"

    added, serves, plain = [], [], []
    for i in range(options.changes):
        name = f"changed{i}.{DOMAIN}"
        start = time.perf_counter()
        add(name)
        added.append(time.perf_counter() - start)
        assert connect(name), "an acknowledged name serves at once"
        serves.append(time.perf_counter() - start)
        start = time.perf_counter()
        assert connect(f"n{i % names}.{DOMAIN}")
        plain.append(time.perf_counter() - start)
    rss = next(int(line.split()[1]) for line in open(f"/proc/{gateway.pid}/status") if line.startswith("VmRSS"))
    used = (folder / "store").stat().st_blocks / 2048
    print(f"{names:>10,}{median_ms(added):>28}{median_ms(serves):>28}{median_ms(plain):>28}{rss / 1024:>10.0f}{used:>12.0f}")


if __name__ == "__main__":
    main()
