"""Every flag: its default, its values, its refusals, and what `auto` decides."""

import dataclasses
import math
import typing

import pytest
from conftest import make_config, make_facts

import config as flags
from system.errors import Refused
from system.flags import convert

FIRST_PROGRAM = {
    "epoch": 25,
    "learning_rate": 0.0002,
    "beta1": 0.5,
    "train_size": math.inf,
    "batch_size": 64,
    "input_height": 28,
    "input_width": None,
    "output_height": 28,
    "output_width": None,
    "dataset": "mnist",
    "input_fname_pattern": "*.jpg",
    "checkpoint_dir": "checkpoint",
    "sample_dir": "samples",
    "train": False,
    "crop": False,
    "visualize": False,
    "critic_num": 5,
    "clip_up": 0.01,
    "clip_down": -0.01,
    "LAMBDA": 10.0,
    "mode": "gp",
}


def test_the_first_programs_flags_keep_their_names_and_defaults():
    config = flags.Config()
    assert {name: getattr(config, name) for name in FIRST_PROGRAM} == FIRST_PROGRAM


@pytest.mark.parametrize(
    "words, value",
    [
        (["--train"], True),
        (["--train", "True"], True),
        (["--train", "false"], False),
        (["--train=1"], True),
        (["--train", "0"], False),
    ],
)
def test_boolean_flags_are_written_as_in_the_first_program_or_bare(words, value):
    assert flags.parse(words).given == {"train": value}


@pytest.mark.parametrize(
    "words, value",
    [
        (["--clip_down", "-1e-2"], -0.01),
        (["--clip_down=-0.5"], -0.5),
        (["--clip_down", "-.25"], -0.25),
        (["--clip_down", "-3"], -3.0),
    ],
)
def test_negative_and_exponent_values_work(words, value):
    assert flags.parse(words).given == {"clip_down": value}


def test_special_words_are_accepted():
    typed = flags.parse(
        [
            "--train_size",
            "inf",
            "--z_dim",
            "None",
            "--critic_boost",
            "auto",
            "--conditional",
            "False",
            "--label",
            "3",
            "--generate",
            "1",
            "--max_iterations",
            "None",
        ]
    )
    assert typed.given == {
        "train_size": math.inf,
        "z_dim": None,
        "critic_boost": "auto",
        "conditional": False,
        "label": 3,
        "generate": 1,
        "max_iterations": None,
    }


REFUSED = {
    "epoch": "0",
    "learning_rate": "0",
    "beta1": "1.5",
    "train_size": "0",
    "batch_size": "0",
    "input_height": "0",
    "input_width": "-1",
    "output_height": "3",
    "output_width": "2",
    "dataset": "../mnist",
    "input_fname_pattern": "../*.jpg",
    "checkpoint_dir": "",
    "sample_dir": "",
    "data_dir": "",
    "cache_dir": "",
    "train": "yes",
    "crop": "2",
    "visualize": "maybe",
    "gif": "x",
    "dry_run": "x",
    "export": "pickle",
    "critic_num": "0",
    "critic_boost": "-1",
    "clip_up": "nan",
    "clip_down": "0.01",
    "LAMBDA": "-1",
    "mode": "wgan",
    "optimizer": "lion",
    "arch": "vgg",
    "latents": "cauchy",
    "condition": "film",
    "decay_iterations": "0",
    "generator_batch": "0",
    "critic_norm": "batch",
    "z_dim": "0",
    "conditional": "perhaps",
    "ema": "1",
    "beta2": "1",
    "noise": "1.5",
    "max_iterations": "0",
    "sample_every": "0",
    "save_every": "1.5",
    "log_every": "-5",
    "seed": "-1",
    "generate": "-1",
    "label": "-1",
    "precision": "float16",
    "deterministic": "maybe",
    "evaluate": "x",
    "evaluate_images": "127",
    "feature_weights": "",
    "distribute": "all",
    "mirror": "x",
}


@pytest.mark.parametrize("name", flags.FLAGS)
def test_every_flag_refuses_a_wrong_value_by_name(name):
    with pytest.raises(Refused, match=f"--{name} {REFUSED[name].replace('*', '.')}"):
        flags.parse([f"--{name}={REFUSED[name]}"])


@pytest.mark.parametrize(
    "words, message",
    [
        ("--epoh 3", r"--epoh: no such flag; did you mean --epoch\?"),
        ("--lambda 3", r"--lambda: no such flag; did you mean --LAMBDA\?"),
        ("--epoch 1_0", "--epoch 1_0: expected a whole number"),
        ("--epoch \u0663", "--epoch \u0663: expected a whole number"),  # an Arabic 3
        ("--bat 3", "--bat: no such flag"),
        ("mnist", "'mnist': expected a flag"),
        ("--epoch", "expected one argument"),
        ("--train --generate 3", "--train and --generate exclude each other"),
        ("--export onnx --generate 3", "--generate and --export exclude each other"),
        ("--export onnx --visualize", "--visualize works only in test mode; leave --export out"),
        ("--gif --visualize", "--visualize works only in test mode"),
        ("--label 3", "--label 3: works only with --generate"),
        ("--evaluate_images 500", "--evaluate_images 500: works only with --evaluate True"),
        ("--feature_weights x.h5", "--feature_weights x.h5: works only with --evaluate True"),
        ("--distribute mirrored", "--distribute mirrored: works only with --train True"),
        ("--evaluate --train", "--train and --evaluate exclude each other"),
        ("--clip_down 0.02", "--clip_down 0.02: must be below --clip_up 0.01"),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_line(words, message):
    with pytest.raises(Refused, match=message) as refusal:
        flags.parse(words.split())
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "arch, shape, norm",
    [
        ("dcgan", (28, 28, 1), "layer"),
        ("dcgan", (32, 33, 1), "none"),
        ("dcgan", (28, 28, 3), "none"),
        ("symmetric", (28, 28, 1), "none"),
    ],
)
def test_auto_follows_mode_and_networks(arch, shape, norm):
    gp, regular = (make_config(make_facts(shape), mode=m, arch=arch) for m in ("gp", "regular"))
    assert (gp.optimizer, gp.critic_norm, gp.critic_boost) == ("adam", norm, 0)
    chosen = regular.optimizer, regular.critic_norm, regular.critic_boost
    assert chosen == ("rmsprop", "batch", 25)


def test_conditional_auto_means_labels_and_dcgan():
    labelled = make_facts(classes=4)
    assert make_config(labelled, arch="dcgan").conditional is True
    assert make_config(labelled, arch="symmetric").conditional is False
    assert make_config(labelled, arch="symmetric", conditional=True).conditional is True
    assert make_config(make_facts(), arch="dcgan").conditional is False
    with pytest.raises(Refused, match="has no labels"):
        make_config(make_facts(), conditional=True)
    with pytest.raises(Refused, match="use --conditional False"):
        make_config(make_facts(classes=101, images=202), arch="dcgan")
    assert make_config(make_facts(classes=101, images=202), conditional=False).conditional is False


def test_z_dim_and_widths_have_their_defaults():
    assert make_config(arch="dcgan").z_dim == 100
    assert make_config(arch="symmetric").z_dim == 10
    assert make_config(z_dim=7).z_dim == 7
    assert make_config(output_height=12).output_width == 12
    assert make_config(crop=True, input_height=20).input_width == 20


def test_what_has_no_effect_becomes_none():
    gp, regular = make_config(mode="gp"), make_config(mode="regular")
    assert (gp.clip_up, gp.clip_down, gp.input_height, gp.input_width) == (None,) * 4
    assert (regular.LAMBDA, regular.beta1, regular.beta2) == (None,) * 3
    assert make_config(mode="regular", optimizer="adam").beta1 == 0.5


def test_the_pattern_has_no_effect_on_published_data():
    facts = make_facts()
    assert make_config(facts, input_fname_pattern="*.png").input_fname_pattern is None
    facts = dataclasses.replace(facts, image_files=True)
    assert make_config(facts).input_fname_pattern == "*.jpg"


def test_train_size_becomes_a_number():
    assert make_config(make_facts(images=64)).train_size == 64
    assert make_config(make_facts(images=64), train_size=10).train_size == 10


def test_the_run_folder_is_named_as_in_the_first_program():
    config = flags.Config(dataset="faces", batch_size=32, output_height=48, checkpoint_dir="c")
    assert config.run_dir == "c/faces_32_48_48"
    assert flags.Config(output_width=20).run_name == "mnist_64_28_20"


@pytest.mark.parametrize("name", ["optimizer", "precision", "mode", "arch", "critic_norm"])
@pytest.mark.parametrize("value", ["3", "16", "1.5", "-1", ""])
def test_flags_with_fixed_words_take_no_number(name, value):
    with pytest.raises(Refused, match=f"--{name} {value}: expected "):
        flags.parse([f"--{name}={value}"])


def test_whole_numbers_have_an_end():
    with pytest.raises(Refused, match="--epoch 99999999999: expected a whole number"):
        flags.parse(["--epoch", "99999999999"])
    with pytest.raises(Refused, match=r"--train_size 9+: expected"):
        flags.parse(["--train_size", "9" * 400])  # more than a float can be
    with pytest.raises(
        Refused, match="--z_dim 10001: expected None or a whole number from 1 to 10000"
    ):
        flags.parse(["--z_dim", "10001"])


@pytest.mark.parametrize("name", flags.FLAGS)
def test_a_number_that_is_too_large_is_told_the_bound(name):
    kinds = typing.get_args(flags.FLAGS[name].type) or (flags.FLAGS[name].type,)
    if int in kinds:
        high = flags.FLAGS[name].metadata.get("high", 2147483647)
        assert convert(flags.FLAGS[name], str(high)) == high
        for text in (str(high + 1), "9" * 5000):
            with pytest.raises(Refused, match=rf": expected .*a whole number from \d+ to {high}"):
                flags.parse([f"--{name}", text])
    elif float in kinds:
        with pytest.raises(Refused, match=r": expected a (finite number|number from .* to )"):
            flags.parse([f"--{name}", "1e999"])


def test_what_upsets_a_terminal_is_not_shown():
    with pytest.raises(Refused, match=r"--optimizer a\\x1b\[2J\\n: expected"):
        flags.parse(["--optimizer", "a\x1b[2J\n"])
