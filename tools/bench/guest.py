#!/usr/bin/env python3
"""Compares the speed of the same program in a guest and on the host: TLS handshakes, SHA-256, copying from 16 bytes to
1 MiB, allocation, growing vectors, transactions of the store, switching threads.

Each round runs the program on the host and in the guest, one after the other, in turns first, because the machine's speed
changes from minute to minute. A ratio is guest to host within one round (1 is as fast, more is faster); shown are the
median of the rounds' ratios and their range. The aim is a median of at least 0.95.

  cargo build --release -p hvt-tender -p hvt-image -p hvt-guest-demo && target/release/hvt-image build hvt-guest-demo
  tools/bench/guest.py                           # nine rounds, a virtual machine
  tools/bench/guest.py --backend process --rounds 3 --json
  tools/bench/guest.py --stats                   # and what the guest left the machine for
  tools/bench/guest.py --only redb --rounds 30   # one measurement, many times
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
STORAGE = 64 << 20
AIM = 0.95


def measure(command):
    """The program's lines: name, value, unit."""
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"guest.py: {command} ended with {done.returncode}: {done.stdout}{done.stderr}")
    lines = (line.split() for line in done.stdout.splitlines())
    return {name: (float(value), unit) for name, value, unit in lines}, done.stderr


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--backend", choices=["kvm", "process"], default="kvm")
    options.add_argument("--mem", type=int, default=256, help="MiB of the guest")
    options.add_argument("--hvt", default=TARGET / "release/hvt")
    options.add_argument("--image", default=TARGET / "hvt/guest-demo.hvt")
    options.add_argument("--host", default=TARGET / "release/guest-demo", help="the same program for the host")
    options.add_argument("--storage", default=None, help="folder of the storage files (default: a temporary one)")
    options.add_argument("--only", default="", help="only the measurements whose names begin with this")
    options.add_argument("--stats", action="store_true", help="print hvt's counters of the last round")
    options.add_argument("--json", action="store_true")
    options = options.parse_args()
    for file in (options.hvt, options.image, options.host):
        if not pathlib.Path(file).exists():
            sys.exit(f"guest.py: {file} is missing; the first lines of this script say how to build it")

    rounds, stats = [], ""
    with tempfile.TemporaryDirectory(dir=options.storage) as folder:
        for number in range(options.rounds):
            result = {}
            for system in ("host", "guest") if number % 2 == 0 else ("guest", "host"):
                # A new file each time, so that neither finds what the other left.
                storage = pathlib.Path(folder, "storage")
                storage.write_bytes(b"")
                os.truncate(storage, STORAGE)
                if system == "host":
                    result[system], _ = measure([options.host, "speed", storage, options.only])
                else:
                    command = [options.hvt, f"--mem={options.mem}", f"--backend={options.backend}", "--stats"]
                    command += [f"--block:storage={storage}", "--", options.image, "speed", "/dev/storage", options.only]
                    result[system], stats = measure(command)
            rounds.append(result)
            print(f"guest.py: round {number + 1} of {options.rounds}", file=sys.stderr)

    table = {}
    for name, (_, unit) in rounds[0]["host"].items():
        ratios = [one["guest"][name][0] / one["host"][name][0] for one in rounds]
        table[name] = {
            "unit": unit,
            "host": statistics.median(one["host"][name][0] for one in rounds),
            "guest": statistics.median(one["guest"][name][0] for one in rounds),
            "ratio": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
        }
    if options.json:
        print(json.dumps(table, indent=2))
    else:
        print(f"{'':22}{'host':>12}{'guest':>12}        ratio, median [range]")
        for name, row in table.items():
            mark = "" if row["ratio"] >= AIM else f"  below {AIM}"
            print(
                f"{name:22}{row['host']:12.1f}{row['guest']:12.1f} {row['unit']:5}"
                f"  {row['ratio']:.3f} [{row['lowest']:.3f}..{row['highest']:.3f}]{mark}"
            )
    if options.stats:
        print(stats, end="")


main()
