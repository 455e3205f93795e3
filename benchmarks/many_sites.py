"""Play `sst demo --sites N` on Ray, and print the hub's memory and the time a site takes.

    python benchmarks/many_sites.py --out RUNS [--sites 10 100] [--preset tiny]

All scans are simulated. The hub is the process that holds the ServerApp; its own memory (RssAnon) is looked at every
second, from its first round to its last, and the peak of each number of sites is held against that of the first. Beside
it stands what it maps of files and of Ray's object store (RssFile, RssShmem), which all of Ray's processes share. Ray's
workers, which are the sites, are as many as there are cores, whatever the number of sites.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

HUB = "flwr-simulation"
"""In the command line of Flower's process that runs the ServerApp on Ray."""


def memory_of(word: str) -> dict[int, tuple[int, int]]:
    """Give the resident memory of each process with a word in its command line: its own, and shared, in bytes."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if word in line and int(folder.name) != os.getpid():
                lines = (row.split() for row in (folder / "status").read_text().splitlines())
                size = {row[0]: 1024 * int(row[1]) for row in lines if row and row[0].startswith("Rss")}
                found[int(folder.name)] = (size["RssAnon:"], size["RssFile:"] + size["RssShmem:"])
        except (OSError, ValueError, KeyError):  # it ended meanwhile
            continue
    return found


def play(out: Path, sites: int, preset: str) -> dict[str, float]:
    """Play one demo; give the hub's peak memory in MB, its own and shared, and the seconds of the whole run."""
    command = [sys.executable, "-m", "sst", "demo", "--preset", preset, "--sites", str(sites), "--engine", "ray"]
    began, peak, shared = time.monotonic(), 0, 0
    with (out / f"{sites}.log").open("w") as log:
        run = subprocess.Popen([*command, "--out", str(out / str(sites))], stdout=log, stderr=log)
        while run.poll() is None:
            for own, mapped in memory_of(HUB).values():
                peak, shared = max(peak, own), max(shared, mapped)
            time.sleep(1)
    if run.returncode:
        raise SystemExit(f"the run of {sites} sites ended with {run.returncode}: see {out / f'{sites}.log'}")
    return {"sites": sites, "peak_mb": peak / 1e6, "shared_mb": shared / 1e6, "seconds": time.monotonic() - began}


def main() -> None:
    """Parse the command line, play each number of sites, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sites", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--preset", default="tiny")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for sites in asked.sites:
        rows.append(play(asked.out, sites, asked.preset))
        row = rows[-1]
        print(
            f"| {sites} sites | hub {row['peak_mb']:.0f} MB, x {row['peak_mb'] / rows[0]['peak_mb']:.2f}, "
            f"and {row['shared_mb']:.0f} MB shared "
            f"| {row['seconds']:.0f} s, {row['seconds'] / sites:.1f} s a site |",
            flush=True,
        )
    (asked.out / "many-sites.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
