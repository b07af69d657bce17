"""Points in a plane: the critic's level sets as pictures, and the exact distance of the points.

Takes a WGAN, imports none.
"""

import json
from pathlib import Path

import numpy as np

import draws
import utils
from datasets import points
from run import folders
from scores.distances import earth_movers_distance

COMPARED = 500  # held-out and generated points that a figure shows and the log compares
SCORED = 2000  # of each, at most, whose distance --evaluate measures
LIMIT = 2.4  # of both axes: all real points lie within 2
CELLS, LEVELS = 121, 14  # points a side at which the critic is evaluated, and lines of equal score
REAL, FAKE = "#D55E00", "#0072B2"  # vermilion and blue: the colour-blind tell them apart


class Frames:
    """The pictures of a run of points, and its exact distance.

    The generated points are those of fixed latents by the averaged generator.
    """

    def __init__(self, config, data):
        self.config = config
        self.z = draws.fixed_latents(config.seed, COMPARED, config.z_dim, config.latents)
        parts = np.split(data.images[data.held_out], range(COMPARED, len(data.held_out), COMPARED))
        self.held_out = parts[0]
        full = [part for part in parts[1:] if len(part) == COMPARED]
        self.floor = float(np.mean([earth_movers_distance(self.held_out, part) for part in full]))

    def real(self):
        """Return the picture of real points: uint8 [H, W, 3]."""
        title = f"{self.config.dataset}\n{COMPARED} held-out points"
        return render(make_frame(None, self.held_out, None, title))

    def generated(self, gan, iteration):
        """Return the picture of real and generated points after an iteration: uint8 [H, W, 3]."""
        fake, config = gan.sample(self.z), self.config
        critic = critic_of(gan)
        w_distance = np.mean(critic(self.held_out)) - np.mean(critic(fake))
        exact = earth_movers_distance(self.held_out, fake)
        title = (
            f"{config.dataset}, {config.mode}, iteration {iteration:,}\n"
            f"w_distance {w_distance:.3g}, exact distance {exact:.3f} (floor {self.floor:.3f})"
        )
        return render(make_frame(critic, self.held_out, fake, title))

    def measure(self, gan):
        """Return what the log has for points only: the exact distance from held-out points."""
        return {"earth_movers_distance": earth_movers_distance(self.held_out, gan.sample(self.z))}


# Figures. `critic` maps points float32 [n, 2] to scores [n].


def critic_of(gan):
    """Return the critic of a WGAN as a function of arrays."""
    return lambda points: gan.critic(points, training=False).numpy()[:, 0]


def draw_levels(axes, critic):
    """Draw a critic's level sets, equally spaced in score, dark where it is high."""
    axis = np.linspace(-LIMIT, LIMIT, CELLS, dtype=np.float32)
    places = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    scores = np.reshape(critic(places), (CELLS, CELLS))  # a row per y
    levels = np.linspace(scores.min(), scores.max(), LEVELS)
    if levels[0] < levels[-1]:  # a constant critic has none
        axes.contourf(axis, axis, scores, levels, cmap="Greys", alpha=0.35)
        axes.contour(axis, axis, scores, levels, colors="0.45", linewidths=0.7, linestyles="solid")
    axes.set(xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), aspect="equal")


def make_frame(critic, real, fake, title):
    """Return a matplotlib Figure of real points, level sets and generated points, each [n, 2].

    Without a critic or generated points (None) it lacks them. Its limits are fixed, so that frames
    of a gif do not jump.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4.48), dpi=200)
    axes = figure.add_axes((0.075, 0.058, 0.915, 0.817))
    axes.set(xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), xticks=range(-2, 3), yticks=range(-2, 3))
    axes.tick_params(labelsize=8, length=2, pad=2)
    if critic is not None:
        draw_levels(axes, critic)
    if fake is not None:
        axes.scatter(*fake.T, s=11, c=FAKE, marker="x", linewidths=0.9, label="generated")
    axes.scatter(*real.T, s=7, c=REAL, linewidths=0, alpha=0.75, label="real")
    axes.legend(loc="lower right", fontsize=8, markerscale=1.6, handletextpad=0.2)
    figure.text(0.5, 0.988, title, ha="center", va="top", fontsize=9.5, linespacing=1.25)
    return figure


def render(figure):
    """Return a Figure as an image: uint8 [height, width, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


# A trained generator.


def test(gan, data, folder):
    """Write test.png: real and generated points over the level sets, as in training."""
    iteration = int(gan.iteration)
    folder.mkdir(parents=True, exist_ok=True)
    utils.save_png(folder / "test.png", Frames(gan.config, data).generated(gan, iteration))
    print(f"The picture is {folder / 'test.png'}")


def generate(gan, data, folder, count, seed):
    """Write generated points, float32 [count, 2], as points.npy, and the picture points.png."""
    made, real = gan.draw(count, seed), data.images[data.held_out[:COMPARED]]
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "points.npy", made)
    shown = min(count, COMPARED)
    title = f"{gan.config.dataset}, {gan.config.mode}\n{shown} of {count:,} generated points"
    figure = make_frame(critic_of(gan), real, made[:shown], title)
    utils.save_png(folder / "points.png", render(figure))
    print(f"{count} points are in {folder / 'points.npy'}, {shown} of them in points.png there")


def evaluate(gan, data, count, seed):
    """Compare `count` generated points with held-out ones: a table, and scores.json of the run."""
    made, name = gan.draw(count, seed), gan.config.dataset
    size = min(SCORED, count, len(data.held_out))
    real = data.images[data.held_out[:size]]
    sets = {"generated": made, "floor": data.images[data.train[:count]]}
    result = {"weights": gan.source, "iteration": int(gan.iteration), "seed": seed}
    result |= {"points": count, "earth_movers_points": size, "scores": {}}
    print(f"Earth mover's distance: {size} points and as many held-out ones")
    print(f"{'':>9}  earth mover's  near a mode  least mode's share")
    for row, found in sets.items():
        near, least = points.modes_covered(name, found)
        exact = earth_movers_distance(found[:size], real)
        result["scores"][row] = {
            "earth_movers_distance": exact,
            "near_a_mode": near,
            "least_share": least,
        }
        shown = ["-" if x is None else f"{x:.3f}" for x in (exact, near, least)]
        print(f"{row:>9}  {shown[0]:>13}  {shown[1]:>11}  {shown[2]:>18}")
    path = Path(gan.config.run_dir) / "scores.json"
    folders.write_atomically(path, json.dumps(result, indent=2) + "\n")
    print(f"All numbers are in {path}")
