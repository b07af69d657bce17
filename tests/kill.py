"""Kill trainings at random moments, start them again, and compare them with ones never interrupted.

python tests/kill.py 60 does it 60 times. A kill is SIGKILL, a random delay after the program has
entered one of MOMENTS for the n-th time.
"""

import os
import pkgutil
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

# Where to kill: the function whose call starts the clock, its most calls, the longest delay in s.
MOMENTS = {
    "conversion": ("datasets.conversion", "read_chunk", 1, 0.02),
    "manifest": ("datasets.conversion", "convert", 1, 0.2),
    "start": ("run.folders", "claim", 1, 3.0),
    "iteration": ("draws", "generator_draws", 8, 0.02),
    "row": ("run.log.Log", "write", 4, 0.01),
    "picture": ("utils", "save_png", 4, 0.005),
    "plot": ("utils", "plot_log", 2, 0.1),
    "checkpoint": ("model.WGAN", "save", 2, 0.1),
    "old checkpoints": ("run.checkpoints", "keep_newest", 2, 0.003),
    "gif": ("utils", "write_training_gif", 1, 0.05),
}
MODES = {
    "gp": "--mode gp --critic_norm layer",
    "regular": "--mode regular --critic_boost 7",
}
COMMAND = (
    "--train --dataset photos --data_dir {data} --cache_dir {run}/cache --checkpoint_dir {run}"
    " --sample_dir {run}/samples --output_height 8 --batch_size 8 --arch symmetric --noise 0.1"
    " --conditional True --mirror True --ema 0.9 --max_iterations 43 --sample_every 2"
    " --save_every 4 --log_every 2"
)


def run_and_kill(moment, calls, delay, words):
    """Run the program in this process and kill it `delay` s after the given call."""
    import main
    from system import device

    device.import_tensorflow()
    place, name = MOMENTS[moment][:2]
    owner = pkgutil.resolve_name(place)
    whole, count = getattr(owner, name), iter(range(1, 10**9))

    def entered(*arguments, **options):
        if next(count) == calls:
            kill = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL))
            kill.daemon = True
            kill.start()
        return whole(*arguments, **options)

    setattr(owner, name, entered)
    sys.exit(main.main(words))


def write_photos(folder, count=300):
    """Write a data set of random photos in three class folders."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(1)
    for i in range(count):
        path = Path(folder, "photos", f"class{i % 3}", f"{i:03d}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)


def run(*words):
    """Run this script or the program; returns its exit code and what it said on stderr."""
    from conftest import run_to_end

    done = run_to_end([sys.executable, *words])
    return done.returncode, done.stderr


def finish_with_kills(words, moments, dice):
    """Run a command to its end, killed at each of `moments` on the way; returns those reached."""
    reached = []
    for moment in moments:
        _, _, most, longest = MOMENTS[moment]
        trigger = [moment, dice.randint(1, most), dice.uniform(0, longest)]
        code, errors = run(__file__, "--child", *trigger, *words)
        assert code in (0, -signal.SIGKILL), errors
        if code:
            reached.append(moment)
    code, errors = run(Path(__file__).parent.parent / "main.py", *words)
    assert code == 0, errors
    return reached


def compare(mode, moments, seed, folder):
    """Kill a run at `moments`, compare it with a whole one, and return the moments reached."""
    from conftest import assert_same_run

    if not Path(folder, "photos").exists():
        write_photos(folder)
    words, reached = [], []
    for name, wanted in (("whole", []), (f"killed{seed}", moments)):
        words = COMMAND.format(data=folder, run=Path(folder, mode, name)) + f" {MODES[mode]}"
        if wanted or not Path(folder, mode, name).exists():
            reached = finish_with_kills(words.split(), wanted, random.Random(seed))
    runs = [Path(folder, mode, name) for name in ("whole", f"killed{seed}")]
    assert_same_run(*(run / "photos_8_8_8" for run in runs), *(run / "samples" for run in runs))
    left = [
        sorted(p.name.split(".v2")[0] for p in run.rglob("*") if "events" not in p.name)
        for run in runs
    ]
    assert left[0] == left[1]
    return reached


def main(kills):
    """Spread `kills` over runs of both modes, and say how many there were of each kind."""
    dice, reached, runs, start = random.Random(kills), Counter(), 0, time.time()
    with tempfile.TemporaryDirectory() as folder:
        while reached.total() < kills:
            mode = list(MODES)[runs % 2]
            # Early moments first, as a run gets to them only once.
            moments = ["conversion", "manifest", *dice.choices(list(MOMENTS)[2:], k=8)]
            reached += Counter(compare(mode, moments, runs, folder))
            runs += 1
            print(f"{runs} runs, {reached.total()} kills: {dict(reached)}", flush=True)
    print(f"all equal to runs never interrupted, {time.time() - start:.0f} s")


if __name__ == "__main__":
    if sys.argv[1] == "--child":
        run_and_kill(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), sys.argv[5:])
    main(int(sys.argv[1]))
