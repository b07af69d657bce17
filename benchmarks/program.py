"""Measures the whole program: its start, its training loop, and the growth of its memory.

Each `measure_*` returns {name: number}, and must run in its own process.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import steps
from config import Config


def measure_start():
    """Measure the seconds until the help, real.png and the first iterations are written."""
    helps = steps.median_ms(lambda: call("--help"), repeats=20) / 1000
    with tempfile.TemporaryDirectory() as folder:
        first = train(folder, "--log_every", "1", "--max_iterations", "1")
        again = train(folder, "--log_every", "1", "--max_iterations", "2")
    return {
        "`--help`, s (median of 20)": helps,
        "default run, real.png, s": first["real.png"],
        "default run, first iteration, s": first["log.jsonl"],
        "default run, first iteration of a resume, s": again["log.jsonl"],
    }


def measure_loop():
    """Measure 400 iterations of the default run with their outputs, from its log."""
    with tempfile.TemporaryDirectory() as folder:
        train(folder, "--max_iterations", "450")
        log = Path(folder, Config().run_name, "log.jsonl").read_text()
    seconds = {row["iteration"]: row["seconds"] for row in map(json.loads, log.splitlines())}
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # MB on Linux
    return {
        "default run, an iteration with its outputs, ms": (seconds[450] - seconds[50]) / 0.4,
        "default run, peak memory, MB": most,
    }


def train(folder, *words):
    """Train the default run in `folder`; return {name of a file: seconds until its last write}."""
    start = time.time()
    call("--train", "--checkpoint_dir", folder, "--sample_dir", folder, *words)
    return {path.name: path.stat().st_mtime - start for path in Path(folder).rglob("*.*")}


def call(*words):
    """Run main.py to its end with hidden output. Raises CalledProcessError if it fails."""
    subprocess.run([sys.executable, "main.py", *words], stdout=subprocess.DEVNULL, check=True)


def measure_growth():
    """Measure the growth of the memory in use from small iteration 200 to 2,200 (Linux)."""
    data = steps.load_data(8)
    gan, _ = steps.prepare(output_height=8, arch="symmetric", batch_size=8)
    used = []
    for i in range(1, 2201):
        float(gan.train_iteration(data, i)["g_loss"])
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        used.append(pages * resource.getpagesize() / 2**20)
    return {"memory growth in 2,000 iterations, MB": used[2199] - used[199]}
