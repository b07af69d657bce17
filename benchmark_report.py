"""Makes BENCHMARKS.md and its plot of benchmark.py's lines: python benchmark_report.py LINES."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PLOT = "images/benchmark.png"
HEAD = """# Benchmarks

Made by `python benchmark.py > lines && python benchmark_report.py lines` on {date}: {device},
{threads} threads, TensorFlow {tensorflow}. Times are medians of 20 repeats after two that do not
count, where nothing else is said. The processor's neighbours cost up to a third of its speed in
some hours; compare figures of one run only, and the share of the matrix product's rate, which was
measured beside each row, rather than the times.

![Time per iteration by batch size and image size, and share of the matrix product's rate]({plot})
"""
STEP = """
## The steps of Algorithm 1

An iteration is five critic updates and a generator update of batch 64, inputs at hand, each step
waited for. GFLOP/s counts the work that the formulas cannot do without (`benchmark_steps.py`),
and % relates it to a product of 2048x2048 float32 matrices. 10,000 it. is the time of 10,000 critic
and 2,000 generator updates. `images/s` are real ones through the critic, norm is `--critic_norm`.
The rows "plain" leave every derivative to TensorFlow's own forms.

| networks | mode | norm | precision | ms | iterations/s | images/s | GFLOP/s | % | 10,000 it., s |
|---|---|---|---|---|---|---|---|---|---|
"""
SECTIONS = {
    "loop": "## The whole loop of the default MNIST run\n\n`overhead_percent` is what inputs, log,"
    " pictures and checkpoints at the default intervals add to the bare steps.",
    "data": "## Folders of images\n\nConverted with a cold start of the program's own cache and a"
    " warm one of the files; `memory_growth_mb` is above the start of the process.",
    "start": "## Start of the default MNIST run\n\nSeconds from the command.",
    "memory": "## Memory\n\n`growth_mb` is between iterations 200 and 2,200.",
    "scaling": "## Growth\n\nOf `dcgan`, gp, float32; image sizes in colour, with batches of 16.",
    "replicas": "## Several replicas\n\nThe default MNIST run as one process, on two logical"
    " devices of one process, and as two processes, all on the same two cores; and the gradients"
    " that the replicas add up in an iteration.",
}


def step_row(row):
    """Write a Markdown row of the steps' table."""
    names = f"`{row['arch']}` {row['size']}x{row['size']}{', plain' if row['plain'] else ''}"
    cells = [names, row["mode"], row["critic_norm"], row["precision"], f"{row['iteration_ms']:.0f}"]
    cells += [f"{row['iterations_per_s']:.2f}", f"{row['critic_images_per_s']:.0f}"]
    cells += [f"{row['gflop_per_s']:.0f}", f"{row['percent_of_matmul']:.0f}"]
    cells.append(f"{row['s_per_10000_iterations']:.0f}")
    return f"| {' | '.join(cells)} |"


def table(rows):
    """Write rows of any columns as a Markdown table."""
    columns = list(dict.fromkeys(name for row in rows for name in row if name != "part"))
    lines = [columns, ["---"] * len(columns)]
    lines += [[str(row.get(name, "")) for name in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(rows, path):
    """Plot how an iteration grows, and how near each pair of networks comes to a bare product."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8))
    for axis, of in zip(axes, ("batch size", "image size"), strict=False):
        points = [row for row in rows if row.get("of") == of]
        axis.plot([r["value"] for r in points], [r["iteration_ms"] for r in points], marker="o")
        axis.set_xlabel(of)
        axis.set_ylabel("ms per iteration")
        axis.set_ylim(0)
        axis.grid(alpha=0.3)
    steps = [row for row in rows if row["part"] == "step" and row["mode"] == "gp"]
    labels = [
        f"{r['arch']} {r['size']}{' layer norm' if r['critic_norm'] == 'layer' else ''}"
        f"{' plain' if r['plain'] else ''} {r['precision']}"
        for r in steps
    ]
    colours = ["C1" if r["plain"] else "C0" for r in steps]
    axes[2].barh(labels, [r["percent_of_matmul"] for r in steps], color=colours)
    axes[2].invert_yaxis()
    axes[2].tick_params(axis="y", labelsize=7)
    axes[2].set_xlabel("gp: % of the rate of a float32 product")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main(path):
    """Read the lines and write both files."""
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    text = HEAD.format(plot=PLOT, **next(row for row in rows if row["part"] == "machine"))
    steps = [step_row(row) for row in rows if row["part"] == "step"]
    text += STEP + "\n".join(steps) + "\n"
    for part, words in SECTIONS.items():
        text += f"\n{words}\n"
        kinds = {}
        for row in rows:
            if row["part"] == part:
                kinds.setdefault(tuple(row), []).append(row)
        text += "".join(f"\n{table(kind)}\n" for kind in kinds.values())
    Path("BENCHMARKS.md").write_text(text)
    plot(rows, PLOT)


if __name__ == "__main__":
    main(sys.argv[1])
