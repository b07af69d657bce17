"""--evaluate: what it writes, what it compares with what, and what it refuses."""

import contextlib
import dataclasses
import io
import json
import re
import shutil

import h5py
import numpy as np
import pytest
from conftest import FIND, copy_shipped, handlers_kept, make_data
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

import config as flags
import draws
import main
from datasets import dataset
from model import WGAN
from run import weights
from scores import distances, evaluate, feature_networks
from system.errors import Refused

EVALUATE = f"{FIND} --evaluate True --evaluate_images 150"


@pytest.fixture(autouse=True)
def quick_classifier(monkeypatch):
    monkeypatch.setattr(feature_networks, "STEPS", {3: 20})


@pytest.fixture(scope="module")
def evaluated_run(labelled_run, tmp_path_factory):
    """A copy of the run with labels, its scores, and what the screen said of them."""
    folder = tmp_path_factory.mktemp("evaluated")
    shutil.copytree(labelled_run, folder, dirs_exist_ok=True)
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch, handlers_kept():
        patch.setattr(feature_networks, "STEPS", {3: 20})
        with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())) as screen:
            assert main.main(f"{EVALUATE} --sample_dir out".split()) == 0
        screen.seek(0)
        return folder, screen.read()


@pytest.fixture
def evaluated(evaluated_run, tmp_path):
    """The test's own folder, a copy of that one, and what the screen said."""
    shutil.copytree(evaluated_run[0], tmp_path, dirs_exist_ok=True)
    return tmp_path, evaluated_run[1]


def read_scores(folder, runs="checkpoint"):
    return json.loads((folder / runs / "photos_8_8_8/scores.json").read_text())


def test_evaluate_writes_scores_a_picture_and_a_table(here, evaluated):
    folder, screen = evaluated
    found = read_scores(folder)
    assert found["weights"] == "checkpoint/photos_8_8_8/ckpt-2"
    expected = {"iteration": 2, "pictures": 150, "compared": 150, "reference": "training"}
    expected |= {"reference_images": 230, "held_out": 20, "kernel_subset": 10}
    assert {name: found[name] for name in expected} == expected
    assert 0 <= found["accuracy"] <= 1 and 0 <= found["suspiciously_near"] <= 1
    assert list(found["scores"]) == ["averaged", "raw", "floor"]
    for row in found["scores"].values():
        assert row["frechet_distance_to_training"] > 0
        assert row["kernel_distance_spread"] > 0
        assert row["earth_movers_distance"] > 0 and row["earth_movers_images"] == 150
        assert 0 <= row["precision"] <= 1 and 0 <= row["recall"] <= 1
        by_class = row["recognised_by_class"]
        assert list(by_class) == ["class0", "class1", "class2"]
        assert min(by_class.values()) <= row["recognised"] <= max(by_class.values())
    assert found["scores"]["averaged"] != found["scores"]["raw"]
    assert "Earth mover's distance: 150 pictures and as many" in screen
    moved = found["scores"]["averaged"]["earth_movers_distance"]
    assert re.search(rf"^ *averaged .* {moved:.2f} ", screen, re.M)
    words = ["averaged  ", "raw  ", "floor  ", "Recognised by class: class0"]
    words.append(f"near to a training image: {found['suspiciously_near']:.2%} of the pictures")
    for word in words:
        assert word in screen
    sheet = np.asarray(Image.open(folder / "out/nearest.png"))
    assert sheet.shape == (4 * 10 + 2, 8 * 10 + 2, 3)
    kept = {path.name for path in (folder / "data/.cache").iterdir()}
    assert any(name.startswith("photos-classifier-") for name in kept)
    (folder / "checkpoint/photos_8_8_8/scores.json").unlink()
    assert here(EVALUATE)[0] == 0
    assert read_scores(folder) == found


def test_names_of_classes_are_printed_without_what_upsets_a_terminal(evaluated, capsys):
    folder, _ = evaluated
    found = read_scores(folder)
    found["scores"]["averaged"]["recognised_by_class"] = {"\x1b[31m\n": 0.5, "b": None}
    evaluate.print_table(found)
    assert "Recognised by class: \\x1b[31m\\n 50.0%, b -\n" in capsys.readouterr().out


def test_the_folder_of_generate_has_the_same_frechet_distance(here, evaluated):
    folder, _ = evaluated
    (folder / "samples/generated/1234567.png").mkdir(parents=True)  # a folder, left alone
    assert here(f"{FIND} --generate 150")[0] == 0
    paths = sorted((folder / "samples/generated").glob("class_*/*.png"), key=lambda p: p.name)
    pictures = np.stack([np.asarray(Image.open(path)) for path in paths])
    source = dataset.source_of(flags.Config(dataset="photos", output_height=8))
    data = dataset.load(source)
    network = feature_networks.feature_network(data, source)
    made, _ = network.read(pictures, "")
    real, _ = network.read(data.images[data.rest[150:]], "")
    found = read_scores(folder)["scores"]["averaged"]["frechet_distance_to_training"]
    assert distances.frechet_distance(made, real) == found


def test_a_shipped_generator_has_no_raw_row(here, evaluated):
    run, other = (evaluated[0] / name / "photos_8_8_8" for name in ("checkpoint", "shipped"))
    other.mkdir(parents=True)
    weights.write_generator(other / "generator.npz", WGAN.load(run).average)
    shutil.copy(run / "config.json", other / "generator.json")
    code, screen, _ = here(f"{EVALUATE} --checkpoint_dir shipped")
    found = read_scores(evaluated[0], "shipped")
    assert code == 0 and list(found["scores"]) == ["averaged", "floor"]
    assert found["iteration"] is None and "raw  " not in screen


@pytest.fixture
def refusal(here, labelled):
    """Return a function that evaluates, is refused, leaves nothing, and returns the refusal."""

    def evaluate(words):
        code, _, errors = here(f"{FIND} --evaluate True {words}")
        assert code == 2 and errors.count("\n") == 1
        assert not (labelled / "checkpoint/photos_8_8_8/scores.json").exists()
        return errors

    return evaluate


def test_what_cannot_be_scored_is_refused(here, refusal, labelled):
    assert "expected at least 2048, the number of features" in refusal(
        "--evaluate_images 2000 --feature_weights x"
    )
    assert "--feature_weights x: no such file" in refusal("--feature_weights x")
    assert "exclude each other" in refusal("--generate 5")
    assert "no checkpoint" in refusal("--checkpoint_dir nowhere")
    published = labelled / "data/mnist"
    shutil.copytree(labelled / "data/photos", published)
    copy_shipped("mnist_64_28_28", "shipped")
    code, _, errors = here("--dataset mnist --evaluate True --checkpoint_dir shipped")
    assert code == 2 and "evaluate with the data of the run" in errors
    (labelled / "data/photos/class0/000.jpg").unlink()
    assert "evaluate with the data of the run" in refusal("--evaluate_images 150")


@pytest.mark.slow  # builds InceptionV3 for each
@pytest.mark.filterwarnings("ignore:__array__ implementation")  # in Keras' own saving
def test_other_weights_than_inceptions_are_refused(refusal, labelled):
    (labelled / "rubbish.h5").write_bytes(b"no weights")
    feature_networks.build_classifier((8, 8, 1), 2).save_weights(labelled / "other.weights.h5")
    (labelled / "no_archive.keras").write_bytes(b"no weights")
    with h5py.File(labelled / "no_layers.h5", "w") as file:
        file.attrs["layer_names"] = [b"conv2d"]  # of which it has none
    for name in ("rubbish.h5", "other.weights.h5", "no_archive.keras", "no_layers.h5"):
        assert "not the weights of InceptionV3" in refusal(f"--feature_weights {name}")


def test_weights_that_are_not_finite_are_not_scored(refusal, labelled):
    run = labelled / "checkpoint/photos_8_8_8"
    gan = WGAN.load(run)
    gan.average.variables[0].assign(gan.average.variables[0] * np.nan)
    weights.write_checkpoint(gan.checkpoint, str(run / "ckpt-2"))
    assert "is not finite" in refusal("--evaluate_images 150")


# What is compared with what, with features that anybody can check.


def grey_levels():
    """A feature network of two features: an image's mean, and its first pixel."""

    def function(images):
        flat = images.reshape(len(images), -1) / 255.0
        return np.stack([flat.mean(1), flat[:, 0]], 1), None

    return feature_networks.FeatureNetwork("grey levels", 2, None, function)


def real_images(data, count=30, seed=0):
    return evaluate.RealImages(data, grey_levels(), count, seed)


def pixels():
    """A feature network of the 64 pixels."""
    return feature_networks.FeatureNetwork(
        "pixels", 64, None, lambda images: (images.reshape(len(images), 64), None)
    )


def test_with_few_held_out_images_the_frechet_distance_is_to_training_images():
    data = make_data(images=200)
    real = real_images(data)
    reference = data.images[data.rest[30:]]
    assert real.protocol()["reference"] == "training"
    assert real.protocol()["reference_images"] == len(reference) == 170
    row = real.score(np.roll(reference, 140, axis=0), None, "")
    expected = distances.frechet_distance(
        *(grey_levels().function(x)[0] for x in (reference[30:60], reference))
    )
    assert row["frechet_distance_to_training"] == pytest.approx(expected)
    assert "frechet_distance" not in row


@pytest.mark.parametrize("least", [10000, 300])  # the reference: training or held-out images
def test_pictures_from_the_data_themselves_score_as_the_floor_does(monkeypatch, least):
    monkeypatch.setattr(evaluate, "MOST_REAL", least)
    data = make_data(images=600)
    data.images[:] //= 64
    data = dataclasses.replace(data, train=np.arange(300), held_out=np.arange(300, 616))
    real = evaluate.RealImages(data, pixels(), 10000, 0)
    fresh = make_data(images=5000).images[700:] // 64  # of the same distribution
    row, floor = real.score(fresh, None, ""), real.floor()
    for name, value in floor.items():
        spread = floor["kernel_distance_spread"] if name == "kernel_distance" else 0.03
        assert_allclose(row[name], value, rtol=0.15, atol=spread, err_msg=name)


def test_with_many_held_out_images_the_frechet_distance_is_to_these(monkeypatch):
    monkeypatch.setattr(evaluate, "MOST_REAL", 16)
    data = make_data(images=200)
    real = real_images(data)
    row = real.score(data.images[data.held_out], None, "")
    assert_allclose(row["frechet_distance"], 0, atol=1e-9)
    assert row["precision"] == row["recall"] == 1
    assert real.floor()["frechet_distance"] > 0
    assert real.protocol()["reference"] == "held_out"


def test_the_earth_movers_distance_is_between_random_images_and_as_many_pictures(monkeypatch):
    monkeypatch.setattr(evaluate, "MOST_REAL", 16)  # so that held-out images are the reference
    monkeypatch.setattr(evaluate, "MOST_MOVED", 10)
    data = make_data(images=200)
    pictures = make_data(images=30).images[:30]
    row = real_images(data, seed=3).score(pictures, None, "")
    made, held_out = (grey_levels().function(x)[0] for x in (pictures, data.images[data.held_out]))
    chosen = draws.subset(3, 200, 16, 10)  # beyond the kernel distance's subsets
    expected = distances.earth_movers_distance(made[:10], held_out[chosen])
    assert row["earth_movers_distance"] == pytest.approx(expected)
    assert row["earth_movers_images"] == 10
    monkeypatch.setattr(evaluate, "MOST_MOVED", 100)
    few = real_images(data).score(data.images[data.held_out], None, "")
    assert few["earth_movers_images"] == 16 and few["earth_movers_distance"] < 1e-6
    assert real_images(data).floor()["earth_movers_images"] == 16


def test_too_few_real_images_give_no_frechet_distance():
    real = evaluate.RealImages(make_data(images=126), pixels(), 10000, 0)
    row = real.floor()
    assert row["frechet_distance_to_training"] is None and row["precision"] > 0


@pytest.mark.parametrize(("images", "held_out"), [(7, 16), (64, 3)])
def test_too_few_real_images_are_refused(images, held_out):
    data = make_data(images=images)
    few = {"images": data.images[: images + held_out], "held_out": data.held_out[:held_out]}
    with pytest.raises(Refused, match=f"^{images} training images and {held_out} held-out"):
        evaluate.check_counts(dataclasses.replace(data, **few), 10000, 2)


def test_precision_is_the_share_of_pictures_and_recall_that_of_real_images():
    data = make_data(images=200)
    reference = data.images[data.rest[30:]]
    row = real_images(data).score(np.repeat(reference[:2], 15, axis=0), None, "")
    assert row["precision"] == 1 and row["recall"] < 0.2


def test_the_kernel_distance_is_the_mean_over_independent_subsets_of_half_the_images():
    data = make_data(images=200)
    real, pictures = real_images(data, seed=3), make_data(images=30).images[:30]
    row = real.score(pictures, None, "")
    made, held_out = (grey_levels().function(x)[0] for x in (pictures, data.images[data.held_out]))
    found = []
    for i in range(100):
        a, b = draws.subset(3, 2 * i, 30, 8), draws.subset(3, 2 * i + 1, 16, 8)
        found.append(distances.kernel_distance(made[a], held_out[b]))
    assert min(found) < 0 < max(found)
    assert_allclose(row["kernel_distance"], np.mean(found), rtol=1e-9)
    assert_allclose(row["kernel_distance_spread"], np.std(found), rtol=1e-9)


def test_the_kernel_distance_is_to_held_out_images():
    data = make_data(images=200)
    data.images[data.train] //= 4  # darker than those held out
    row = real_images(data).score(data.images[data.held_out], None, "")
    assert abs(row["kernel_distance"]) < 0.05
    assert real_images(data).floor()["kernel_distance"] > 0.2


def test_recognised_counts_by_class():
    found = evaluate.recognised(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), ("a", "b", "c"))
    assert evaluate.recognised(np.array([0]), None, ()) == {}
    assert found["recognised"] == 0.75
    assert found["recognised_by_class"] == {"a": 1.0, "b": 2 / 3, "c": None}


def test_the_floor_recognises_held_out_images_by_their_own_labels():
    data = make_data(classes=2)
    data.images[data.labels == 1, 0, 0] = 255
    data.images[data.labels == 0, 0, 0] = 0
    data.labels[data.held_out] = [0, 1, 0, 0] * 4  # one in four is wrong

    def function(images):
        return images.reshape(-1, 64)[:, :2] / 255.0, (images[:, 0, 0, 0] > 127).astype(int)

    network = feature_networks.FeatureNetwork("first pixel", 2, None, function)
    real = evaluate.RealImages(data, network, 128, 0)
    assert real.floor()["recognised"] == 0.75
    assert real.floor()["recognised_by_class"] == {"0": 2 / 3, "1": 1.0}


def test_nearness_is_the_distance_to_the_nearest_over_the_mean_to_the_fifty_nearest():
    train = np.zeros((60, 8, 8, 1), np.uint8)
    train[:, 0, 0, 0] = np.arange(1, 61)
    ratios, nearest = evaluate.nearness(np.zeros((1, 8, 8, 1), np.uint8), train)
    assert_allclose(ratios, 1 / np.mean(np.arange(1, 51)))
    assert nearest.tolist() == [0]


def test_a_picture_as_near_as_the_nearest_held_out_image_is_suspicious(tmp_path):
    data = make_data(images=200)
    pictures = data.images[data.held_out]
    found = evaluate.compare_by_pixels(pictures, data, tmp_path / "nearest.png")
    assert found == 1 / 16


def test_pictures_learnt_by_heart_are_found_and_shown_over_their_models(tmp_path):
    data = make_data(images=200)
    rng = np.random.default_rng(3)
    pictures = rng.integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    copies = np.arange(5, 21)
    pictures[10:26] = data.images[data.train[copies]]
    found = evaluate.compare_by_pixels(pictures, data, tmp_path / "nearest.png")
    assert_allclose(found, 16 / 40, atol=3 / 40)
    sheet = np.asarray(Image.open(tmp_path / "nearest.png"))
    rows = [sheet[2 + 10 * i : 10 + 10 * i] for i in range(4)]
    assert_array_equal(rows[0], rows[1])  # the pictures are the copies, over the images they copy
    assert_array_equal(rows[2], rows[3])


def test_images_that_were_not_trained_on_are_not_learnt_by_heart(tmp_path):
    data = make_data(images=200)
    few = dataclasses.replace(data, train=data.train[:100])  # as by --train_size
    pictures = data.images[data.train[100:140]]
    found = evaluate.compare_by_pixels(pictures, few, tmp_path / "nearest.png")
    assert found < 0.2


def test_held_out_copies_of_training_images_do_not_silence_the_alarm(tmp_path):
    data = make_data(images=200)
    data.images[data.held_out[:8]] = data.images[data.train[:8]]
    pictures = data.images[data.train[20:60]].copy()
    pictures[:, 0, 0] ^= 1  # nearly copies
    assert evaluate.compare_by_pixels(pictures, data, tmp_path / "nearest.png") == 1
