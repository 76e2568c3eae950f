#!/usr/bin/env python3
"""How long hvt takes from its exec to the guest's main, and the tender's own memory, with 64 MiB and with 4 GiB.

The guest is the demonstration program, which prints as the first thing that it does. A round starts each once, and
`true` as a measure of what starting any process costs here; that is included in the other figures.

  cargo build --release -p hvt-tender -p hvt-image && target/release/hvt-image build hvt-guest-demo
  tools/bench/start.py                  # fifty rounds
  tools/bench/start.py --backend process --rounds 20 --json
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
MEMORIES = [64, 4096]


def own_memory_kib(pid, mib):
    """Resident memory of a tender without its guest's: neighbouring mappings without a file that have the guest's size
    together, or in a process what lies below 4 GiB. Also the part of it that no file is behind, which is this process's
    alone."""
    runs, end = [], None
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        field, _, value = line.partition(":")
        if field in ("Size", "Rss", "Anonymous"):
            runs[-1][field] += int(value.split()[0])
        elif "-" in field.split(" ")[0]:
            plain = len(line.split()) < 6
            start, stop = (int(part, 16) for part in line.split()[0].split("-"))
            if not plain or start != end:
                runs.append({"Size": 0, "Rss": 0, "Anonymous": 0, "end": 0})
            runs[-1]["end"] = stop
            end = stop if plain else None
    own = [run for run in runs if run["Size"] < mib << 10 and run["end"] > 1 << 32]
    return sum(run["Rss"] for run in own), sum(run["Anonymous"] for run in own)


def start(command, mib=None):
    """Milliseconds until the first byte, and the memory then."""
    before = time.perf_counter()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    first = child.stdout.read(1)
    took = (time.perf_counter() - before) * 1000
    if mib is None:
        child.communicate()
        return took, None
    if not first:
        sys.exit(f"start.py: {command} printed nothing: {child.communicate()[1].decode()}")
    memory = own_memory_kib(child.pid, mib)
    child.kill()
    child.communicate()
    return took, memory


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=50)
    options.add_argument("--backend", choices=["kvm", "process"], default="kvm")
    options.add_argument("--hvt", default=TARGET / "release/hvt")
    options.add_argument("--image", default=TARGET / "hvt/guest-demo.hvt")
    options.add_argument("--json", action="store_true")
    options = options.parse_args()
    for file in (options.hvt, options.image):
        if not pathlib.Path(file).exists():
            sys.exit(f"start.py: {file} is missing; the first lines of this script say how to build it")

    times = {mib: [] for mib in MEMORIES}
    memories = {mib: [] for mib in MEMORIES}
    nothing = []
    with tempfile.NamedTemporaryFile() as storage:
        storage.truncate(8 << 20)
        for _ in range(options.rounds):
            nothing.append(start(["true"])[0])
            for mib in MEMORIES:
                command = [options.hvt, f"--mem={mib}", f"--backend={options.backend}"]
                command += [f"--block:storage={storage.name}", "--", options.image, "wait"]
                took, memory = start([str(word) for word in command], mib)
                times[mib].append(took)
                memories[mib].append(memory)

    def row(values):
        return {"min": min(values), "median": statistics.median(values), "max": max(values)}

    result = {"process": row(nothing)}
    for mib in MEMORIES:
        result[f"{mib} MiB"] = row(times[mib]) | {
            "tender_kib": statistics.median(resident for resident, _ in memories[mib]),
            "tender_own_kib": statistics.median(anonymous for _, anonymous in memories[mib]),
        }
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{options.rounds} rounds, {options.backend}; ms from exec to the guest's main")
    print(f"{'':14}{'min':>8}{'median':>8}{'max':>8}   tender's memory")
    for name, values in result.items():
        memory = f"{values['tender_kib']:.0f} KiB, {values['tender_own_kib']:.0f} KiB its own" if "tender_kib" in values else ""
        print(f"{name:14}{values['min']:8.2f}{values['median']:8.2f}{values['max']:8.2f}   {memory}")


main()
