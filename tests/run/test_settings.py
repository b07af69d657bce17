"""The settings of a run: kept in config.json, and compared when it goes on."""

import dataclasses

import pytest
from conftest import make_config, make_facts

from run import description, settings
from system.errors import Refused


def check_same(config, facts, folder):
    """Compare with the configuration in a folder; returns the Run to go on with."""
    run = description.Run(folder, *description.read_config(folder / "config.json"), [])
    return description.go_on(run, config, facts)


def test_a_width_that_is_typed_or_left_out_is_the_same_run(tmp_path):
    facts = make_facts()
    values = {"crop": True, "input_height": 9}
    description.write_config(tmp_path / "config.json", make_config(facts, **values), facts, {})
    typed = make_config(facts, **values, input_width=9, output_width=8)
    check_same(typed, facts, tmp_path)
    with pytest.raises(Refused, match="input_width is 9 in the run and 10 here"):
        check_same(make_config(facts, **values, input_width=10), facts, tmp_path)


def test_the_configuration_survives_its_file(tmp_path):
    facts = make_facts(classes=3)
    config = make_config(facts, noise=0.1)
    description.write_config(tmp_path / "config.json", config, facts, {"threads": 2})
    stored, same_facts, environment = description.read_config(tmp_path / "config.json")
    assert same_facts == facts and environment == {"threads": 2}
    assert settings.kept(stored) == settings.kept(config)
    assert not {"train", "generate", "label", "data_dir"} & set(settings.kept(config))


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"settings": {}}', '{"settings": 3, "data": 4}']
)
def test_a_damaged_configuration_is_refused_by_name(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(Refused, match=r"config.json: damaged"):
        description.read_config(tmp_path / "config.json")


def test_going_on_with_other_settings_lists_every_difference(tmp_path):
    facts = make_facts()
    description.write_config(tmp_path / "config.json", make_config(facts), facts, {})
    check_same(make_config(facts, epoch=99, log_every=7, max_iterations=3), facts, tmp_path)
    check_same(make_config(facts, clip_up=0.5), facts, tmp_path)  # no effect in gp
    other = make_config(facts, learning_rate=0.1, noise=0.2)
    with pytest.raises(Refused) as refusal:
        check_same(other, facts, tmp_path)
    for part in ("learning_rate is 0.0002 in the run and 0.1 here", "noise is 0.0", str(tmp_path)):
        assert part in str(refusal.value)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"pixels": "other"}, "images or labels are not those it was started with"),
        ({"pixels": "other", "available": 63}, "available was 64 and is 63; its images or labels"),
        ({"class_names": ("a", "b")}, r"class_names was \(\) and is \('a', 'b'\); use"),
    ],
)
def test_going_on_with_other_data_is_refused_with_the_difference(tmp_path, changes, message):
    facts = make_facts()
    description.write_config(tmp_path / "config.json", make_config(facts), facts, {})
    changed = dataclasses.replace(facts, fingerprint="other", **changes)
    with pytest.raises(Refused, match=message):
        check_same(make_config(facts), changed, tmp_path)


@pytest.mark.parametrize("pattern", [True, False])
def test_the_same_images_from_other_files_go_on_with_what_the_run_knows(tmp_path, capsys, pattern):
    facts = dataclasses.replace(make_facts(), image_files=True)
    config = make_config(facts, input_fname_pattern="*.png")
    description.write_config(tmp_path / "config.json", config, facts, {"threads": 2})
    moved = dataclasses.replace(facts, fingerprint="other", image_files=pattern)
    given = make_config(moved, input_fname_pattern="*.webp")
    run = check_same(given, moved, tmp_path)
    assert (run.config, run.facts, run.environment) == (config, facts, {"threads": 2})
    line = f"{tmp_path}: its images are the same, but come from other files: it goes on\n"
    assert capsys.readouterr().out == line
    assert description.changed_data(facts, moved) == []
    check_same(config, facts, tmp_path)
    assert capsys.readouterr().out == ""
    unknown = dataclasses.replace(moved, pixels="", fingerprint="")  # as a dry run has it
    assert check_same(given, unknown, tmp_path).config == config
    with pytest.raises(Refused, match=r"input_fname_pattern is \*\.png .*; its images or labels"):
        check_same(
            make_config(facts, input_fname_pattern="*"),
            dataclasses.replace(moved, pixels="x"),
            tmp_path,
        )
