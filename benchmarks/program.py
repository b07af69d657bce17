"""What surrounds the steps: the program's start, its loop, and the growth of its memory.

Each `measure_*` returns {what is measured: number}, and has to run in a process of its own.
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
    """Measure the seconds until help, the picture of the real images and the first iterations."""
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
    """Measure 400 iterations of the default run, with all that they leave, by its log."""
    with tempfile.TemporaryDirectory() as folder:
        train(folder, "--max_iterations", "450")
        log = Path(folder, Config().run_name, "log.jsonl").read_text()
    seconds = {row["iteration"]: row["seconds"] for row in map(json.loads, log.splitlines())}
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # MB on Linux
    return {
        "default run, an iteration with all that it leaves, ms": (seconds[450] - seconds[50]) / 0.4,
        "default run, most memory, MB": most,
    }


def train(folder, *words):
    """Train the default run in `folder`; returns {name of a file: seconds until its last write}."""
    start = time.time()
    call("--train", "--checkpoint_dir", folder, "--sample_dir", folder, *words)
    return {path.name: path.stat().st_mtime - start for path in Path(folder).rglob("*.*")}


def call(*words):
    """Run main.py to its end with its screen hidden; raises CalledProcessError where it fails."""
    subprocess.run([sys.executable, "main.py", *words], stdout=subprocess.DEVNULL, check=True)


def measure_growth():
    """Measure how much more memory 2,200 small iterations leave in use than 200 do (Linux)."""
    data = steps.load_data(8)
    gan, _ = steps.prepare(output_height=8, arch="symmetric", batch_size=8)
    used = []
    for i in range(1, 2201):
        float(gan.train_iteration(data, i)["g_loss"])
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        used.append(pages * resource.getpagesize() / 2**20)
    return {"memory growth in 2,000 iterations, MB": used[2199] - used[199]}
