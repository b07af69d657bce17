"""Two devices of one host train the run that one trains, and hosts, as threads, compare theirs."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import (
    ROOT,
    SMALL,
    assert_same_run,
    log_rows,
    make_config,
    make_data,
    make_facts,
    make_gan,
    run_to_end,
)
from numpy.testing import assert_array_equal

from distributed import replicas
from run.description import Run
from system.errors import Failed, Refused

# A process needs its devices before its first computation, hence one per test.
TWO_DEVICES = """
import sys
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
from system import device
tf = device.import_tensorflow()
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
"""
COMPARE = """
import json
import numpy as np
import model
from conftest import make_config, make_data, values_of
from distributed import hosts, replicas
two = replicas.connect("mirrored", hosts.find("mirrored"))
assert two.total == 2
for values in {cases!r}:
    data = make_data((8, 8, 1), classes=2, images=200)
    config = make_config(data.facts, optimizer="sgd", learning_rate=1e-4, **values)
    gans = [model.WGAN(config, data.facts, chosen) for chosen in (None, two)]
    for i in range(1, {last} + 1):
        numbers = [gan.train_iteration(data, i) for gan in gans]
    numbers = [
        [float(x) for x in measured.values()] + [float(gan.validate(data))]
        for measured, gan in zip(numbers, gans)
    ]
    np.testing.assert_allclose(*numbers, rtol=1e-3, atol=1e-6, err_msg=str(values))
    for name in ("critic", "generator", "average"):
        for a, b in zip(*(values_of(getattr(gan, name)) for gan in gans)):
            np.testing.assert_allclose(a, b, atol=2e-5, err_msg=str(values))
    first = np.zeros((3, config.z_dim), np.float32)
    labels = np.zeros(3, np.int32) if config.conditional else None
    a, b = (gan.sample(first, labels).astype(int) for gan in gans)
    assert abs(a - b).max() <= 1
print("agreed")
"""
CASES = [
    {"noise": 0.1, "critic_norm": "layer"},
    {"mode": "regular", "critic_norm": "none", "ema": 0.0},
    {"arch": "dcgan", "conditional": True},
    {"arch": "resnet", "conditional": True, "generator_batch": 2, "decay_iterations": 30},
    {"arch": "dcgan", "mode": "regular", "critic_boost": 7},  # batch norm in both networks
]


def run_on_two_devices(text, *words, cwd=None):
    text = TWO_DEVICES.format(root=str(ROOT)) + text
    return run_to_end([sys.executable, "-c", text, *words], cwd=cwd)


@pytest.mark.parametrize(
    "kind, text, lost",
    [
        ("Unavailable", "Collective ops is aborted by: recvmsg:Connection reset by peer", True),
        ("Internal", "Collective ops is aborted by: unexpected exception in check alive", True),
        ("Unknown", "Collective ops is aborted by: Error invoking NCCL", True),
        ("DeadlineExceeded", "Barrier timed out", True),
        ("Unavailable", "failed to connect to all addresses", True),
        ("Internal", "Autotuner could not find any supported configs", False),
        ("Unavailable", "No PTX compilation provider is available.", False),
        ("InvalidArgument", "shapes", False),
    ],
)
def test_another_host_is_lost_only_where_tensorflow_says_so(kind, text, lost):
    error = getattr(tf.errors, f"{kind}Error")(None, None, text)
    hosts = replicas.Replicas(None, workers=2)
    with pytest.raises(Failed if lost else type(error)) as raised, hosts.losses_named():
        raise error
    assert ("another host is lost" in str(raised.value)) == lost


def test_one_and_two_replicas_agree():
    """With batch norm in both networks; the slow tests have all kinds and more iterations."""
    done = run_on_two_devices(COMPARE.format(cases=CASES[-1:], last=3))
    assert done.stdout == "agreed\n", done.stderr


@pytest.mark.slow
def test_one_and_two_replicas_agree_over_twenty_iterations():
    done = run_on_two_devices(COMPARE.format(cases=CASES, last=20))
    assert done.stdout == "agreed\n", done.stderr


@pytest.mark.slow
def test_in_bfloat16_two_replicas_train():
    text = COMPARE.replace("rtol=1e-3, atol=1e-6", "rtol=0.1, atol=0.1").replace("2e-5", "2e-3")
    text = text.replace("<= 1", "<= 9")
    cases = [{"precision": "bfloat16", "arch": arch} for arch in ("symmetric", "dcgan", "resnet")]
    done = run_on_two_devices(text.format(cases=cases, last=20))
    assert done.stdout == "agreed\n", done.stderr


@pytest.mark.slow
def test_runs_on_the_same_replicas_repeat_and_pass_to_one_device_and_back(image_folder, tmp_path):
    image_folder("photos")
    program = "import main\nfor words in sys.argv[1:]: assert main.main(words.split()) == 0"

    def run(name, *starts):
        places = f"--checkpoint_dir {name} --sample_dir {name}/samples"
        words = [f"--train {SMALL} {places} {start}" for start in starts]
        done = run_on_two_devices(program, *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    mirrored = "--distribute mirrored --max_iterations"
    run("one", f"{mirrored} 40")
    run("two", f"{mirrored} 20")
    screen = run("two", f"{mirrored} 40")
    assert "2 replicas" in screen and "Going on from iteration 20" in screen
    folders = [tmp_path / name / "photos_8_8_8" for name in ("one", "two")]
    assert_same_run(*folders, *(tmp_path / name / "samples" for name in ("one", "two")))
    screen = run("two", "--max_iterations 50", f"{mirrored} 60")
    assert "The run was on 2 replicas, strategy tf.distribute: it goes on" in screen
    assert "The run was on 1 replica, strategy none: it goes on" in screen
    assert [row["iteration"] for row in log_rows(folders[1])] == [10, 20, 30, 40, 50, 60]


def test_a_batch_that_cannot_be_cut_is_refused(here, folder, monkeypatch):
    monkeypatch.setattr(replicas, "local_devices", lambda: ["CPU:0", "CPU:1"])
    places = "--checkpoint_dir none --sample_dir nothing"
    words = f"--train {SMALL} --batch_size 9 --distribute mirrored {places}"
    code, _, errors = here(words)
    assert code == 2 and errors.count("\n") == 1
    assert "--batch_size 9: cannot be cut into 2 equal parts" in errors
    assert not Path("none").exists() and not Path("nothing").exists()


def test_each_host_reads_its_part_of_the_one_devices_batch():
    data = make_data(classes=2, images=100)
    gan = make_gan(data, conditional=True, noise=0.1, mirror=True)

    def inputs():
        images, labels, drawn = gan.inputs.critic(data, 3)
        return images, labels, *drawn

    whole = inputs()
    assert_array_equal(whole[0], data.critic_batch(0, 8, 3, mirror=True)[0])
    parts = []
    for worker in range(4):
        gan.inputs.replicas = replicas.Replicas(gan.strategy, worker=worker, workers=4)
        parts.append(inputs())
        assert len(parts[-1][0]) == 2
    for pieces, all_of_it in zip(zip(*parts, strict=True), whole, strict=True):
        assert_array_equal(np.concatenate(pieces), all_of_it)


# What hosts compare before they train.


@pytest.fixture
def compare(monkeypatch):
    """Return a function that lets hosts compare {what: value}; it gives what each refuses."""

    def run(*described):
        tables, all_here = {}, threading.Barrier(len(described), timeout=10)

        def sum_over_hosts(replicas, table):
            tables[replicas.worker] = table
            all_here.wait()
            total = np.sum(list(tables.values()), axis=0)
            all_here.wait()
            return tf.constant(total)

        def attend(i):
            try:
                replicas.Replicas(None, worker=i, workers=len(described)).compare(described[i])
            except Refused as refused:
                return str(refused)

        monkeypatch.setattr(replicas.Replicas, "sum_over_hosts", sum_over_hosts)
        with ThreadPoolExecutor(len(described)) as pool:
            return list(pool.map(attend, range(len(described))))

    return run


def test_hosts_that_agree_go_on(compare):
    seen = {"seed": 0, "arch": "dcgan", "clip_up": None}
    assert compare(seen, dict(reversed(seen.items())), seen) == [None] * 3


def test_each_host_names_the_differences_and_its_own_values(compare):
    same = {"arch": "dcgan", "beta1": 0.5, "the newest checkpoint": 20}
    first, odd = same | {"seed": 0}, same | {"seed": 1, "the newest checkpoint": None}
    ends = "start all of them with the same values"
    assert compare(first, odd, first) == [
        f"the hosts differ; here seed is 0, the newest checkpoint is 20; {ends}",
        f"the hosts differ; here seed is 1, the newest checkpoint is None; {ends}",
        f"the hosts differ; here seed is 0, the newest checkpoint is 20; {ends}",
    ]


@pytest.mark.parametrize("other", [{"seed": 0}, {"seed": 0, "arch": "dcgan", "noise": 0.0}])
def test_hosts_that_know_other_settings_are_other_versions(compare, other):
    for refusal in compare({"seed": 0, "arch": "dcgan"}, other):
        assert refusal.startswith("the hosts run different versions of this program")


@pytest.mark.parametrize(
    ("what", "values"),
    [
        ("seed", {"seed": 1}),
        ("log_every", {"log_every": 5}),
        ("the last iteration", {"max_iterations": 5}),
    ],
)
def test_what_hosts_must_have_in_common_is_described(what, values):
    facts = make_facts()
    one, other = (
        replicas.describe(Run(None, make_config(**v), facts, {}, [(20, "ckpt-20")]))
        for v in ({}, values)
    )
    assert {name for name in one if one[name] != other[name]} == {what}
    assert one["the newest checkpoint"] == 20 and "tensorflow" in one
    assert (
        replicas.describe(Run(None, make_config(), facts, {}, []))["the newest checkpoint"] is None
    )
