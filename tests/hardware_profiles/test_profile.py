from pathlib import Path

import pytest
import yaml
from helpers import ROOT

from pared.errors import ProfileError
from pared.hardware_profiles.load import CATALOG, dump, known, load
from pared.hardware_profiles.profile import _quantities
from pared.hardware_profiles.quantity import Quantity


def host() -> dict:
    return yaml.safe_load((CATALOG / "host-cpu.yaml").read_text())


def write(tmp_path: Path, fields: dict) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


@pytest.mark.parametrize("name", known())
def test_every_profile_of_the_catalogue_loads_under_its_own_name(name: str) -> None:
    profile = load(name)
    assert profile.name == name
    assert profile.step >= 1


def test_the_catalogue_is_documented_and_what_is_assumed_is_wide() -> None:
    text = (ROOT / "docs" / "profiles.md").read_text()
    assert len(known()) >= 16
    for name in known():
        assert f"`{name}`" in text
        for where, quantity in _quantities(load(name)):
            assert quantity.basis != "assumed" or quantity.rel_sd >= 0.5, f"{name}: {where}"
            assert len(load(name).sources[quantity.src]) > 10, f"{name}: {where}"


def test_a_file_extends_a_profile_and_replaces_single_values(tmp_path: Path) -> None:
    own = {"extends": "rpi4-ort-cpu", "name": "mine", "runtime": {"threads": 2},
           "backend": {"kind": "command", "transport": "ssh", "host": "pi@board"}}
    made, base = load(write(tmp_path, own)), load("rpi4-ort-cpu")
    assert (made.runtime.threads, made.runtime.name, made.memory) == (2, base.runtime.name, base.memory)
    assert (made.evidence, base.evidence) == ("measured", "predicted")
    with pytest.raises(ProfileError, match="extends itself"):
        load(write(tmp_path, {"extends": "mine.yaml", "name": "loop"}))
    with pytest.raises(ProfileError, match="did you mean 'rpi4-ort-cpu'"):
        load(write(tmp_path, {**own, "extends": "rpi4-ort-gpu"}))
    with pytest.raises(ProfileError, match="backend"):
        load(write(tmp_path, {**own, "backend": {"kind": "telepathy"}}))


def test_a_profile_reads_back_as_it_was_written(tmp_path: Path) -> None:
    for name in known():
        (tmp_path / "again.yaml").write_text(dump(load(name)))
        assert load(tmp_path / "again.yaml") == load(name)


def test_load_suggests_the_nearest_name_when_the_profile_is_unknown() -> None:
    with pytest.raises(ProfileError, match="did you mean 'host-cpu'"):
        load("hots-cpu")


def test_load_refuses_a_number_without_a_source(tmp_path: Path) -> None:
    fields = host()
    fields["width_step"]["src"] = "nowhere"
    with pytest.raises(ProfileError, match="width_step cites 'nowhere'"):
        load(write(tmp_path, fields))


@pytest.mark.parametrize(("change", "told"), [
    ({"value": -8}, "greater than 0"),
    ({"value": float("nan")}, "finite"),
    ({"unit": "parsecs"}, "unknown unit 'parsecs'"),
    ({"unit": "ms"}, "not a channels"),
    ({"basis": "hearsay"}, "Input should be"),
])
def test_load_refuses_impossible_numbers(tmp_path: Path, change: dict, told: str) -> None:
    fields = host()
    fields["width_step"].update(change)
    with pytest.raises(ProfileError, match=told):
        load(write(tmp_path, fields))


def test_load_refuses_unknown_keys_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="colour"):
        load(write(tmp_path, {**host(), "colour": "red"}))
    with pytest.raises(ProfileError, match=r"missing\.yaml"):
        load(tmp_path / "missing.yaml")


def test_quantities_convert_to_the_first_unit_of_their_dimension() -> None:
    quantity = Quantity(value=2, unit="MiB", src="x", basis="vendor", rel_sd=0)
    assert (quantity.dimension, quantity.base) == ("bytes", 2 * 1024**2)


def test_uses_knows_what_is_size_only() -> None:
    profile = load("host-cpu")
    assert profile.uses(None) and profile.uses("int8") and not profile.uses("fp16")
