"""Identity of results: an edit is noticed, a move is not an edit, and nothing without a name is kept."""

import json
import math

import numpy as np
import pytest
import torch

from pdm.study import cache
from pdm.study import method as methods
from pdm.study.deblurring import blind_dps, blurred, uniform_kernel
from pdm.study.method import Method, method
from pdm.study.problem import Estimate


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PDM_RESULTS", str(tmp_path))
    return tmp_path


def test_functions_without_a_fixed_name_are_refused():
    with pytest.raises(ValueError, match="<lambda> has no fixed name"):
        method("mine")(lambda measurement, priors: None)

    def times(factor):
        def restore(measurement, priors):
            return Estimate({"image": factor * measurement.y})

        return restore

    with pytest.raises(ValueError, match="<locals>"):
        method("times")(times(2))
    with pytest.raises(ValueError, match="has no id"):
        Method("times", times(2))


@pytest.mark.parametrize(("name", "batch"), [("a/b", 1), ("", 1), ("a", 0)])
def test_a_method_without_a_usable_name_or_batch_is_refused(name, batch):
    with pytest.raises(ValueError, match="wanted a name without /, 1 or more"):
        Method(name, blurred, batch=batch)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"whole_batch": True}, "blind_dps takes no whole_batch"),
        ({"weight": 1.0}, "weight 1 is given without a penalty"),
        ({"boundary": "nonsense"}, "boundary is 'nonsense'"),
        ({"penalty": "l2"}, "penalty is 'l2'; wanted one of 'l1', 'l0'"),
        ({"constraint": "sum"}, "constraint is 'sum'"),
        ({"variance": "huge"}, "variance is 'huge'"),
        ({"fade": -1}, "fade is -1"),
        ({"steps": [1]}, "setting steps is a list"),
    ],
)
def test_settings_are_used_or_refused_before_any_work(settings, message):
    with pytest.raises(ValueError, match=message):
        Method("blind", blind_dps, settings)


def test_another_setting_seed_image_or_version_is_another_result(cases, priors):
    plain = Method("blind", blind_dps, {"steps": 3})
    keys = [plain.key(cases), Method("blind", blind_dps, {"steps": 4}).key(cases), Method("b", blurred).key(cases)]
    keys += [plain.key(cases[:1]), plain.key(cases[1:]), Method("blind", blind_dps, {"steps": 3}, "faces").key(cases)]
    assert len({str(key) for key in keys}) == 6
    assert plain.key(cases) == Method("another name", blind_dps, {"steps": np.int64(3)}, batch=3).key(cases)
    assert json.loads(json.dumps(plain.key(cases))) == plain.key(cases)  # plain values
    assert set(plain.key(cases)["weights"]) == {"image", "kernel"}
    assert set(Method("u", uniform_kernel).key(cases)["weights"]) == {"image"}


def test_a_gpu_takes_larger_batches_of_what_networks_restore(monkeypatch):
    monkeypatch.setattr(methods, "best_device", lambda: torch.device("cuda"))
    assert Method("blind", blind_dps).batch == 128
    assert [Method("blurred", blurred).batch, Method("blind", blind_dps, batch=4).batch] == [16, 4]


SOURCE = '''"""A module."""
from pdm.operators import blur
import math as m
SIZE = 3
def twice(x):
    """Double it."""
    return 2 * x  # a comment
def other(x):
    return blur(x, SIZE)
'''


def printed(folder, **files):
    """The fingerprint of a package of these modules."""
    folder.mkdir()
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    cache.fingerprint.cache_clear()
    found = cache.fingerprint(folder)
    cache.fingerprint.cache_clear()
    return found


def test_an_edit_is_noticed_and_a_move_or_a_comment_is_no_edit(tmp_path):
    plain = printed(tmp_path / "plain", module=SOURCE)
    same = SOURCE.replace('"""Double it."""', '"""Twice."""').replace("  # a comment", "  # another")
    assert printed(tmp_path / "same", module=same) == plain
    assert printed(tmp_path / "renamed", elsewhere=SOURCE) == plain
    head, tail = SOURCE.split("def other")
    moved = {"one": head, "two": "from pdm.operators import blur\nfrom pdm.one import SIZE\ndef other" + tail}
    assert printed(tmp_path / "moved", **moved) == plain
    edits = {"2 * x": "3 * x", "SIZE = 3": "SIZE = 4", "import math as m": "import cmath as m", "def twice": "def two"}
    for i, (old, new) in enumerate(edits.items()):
        assert printed(tmp_path / f"edit{i}", module=SOURCE.replace(old, new)) != plain, new


def test_edited_code_does_not_return_yesterdays_part(monkeypatch):
    key = {"id": "mine", "version": 1}
    assert cache.finished("smoke", key, lambda: 1) == 1 and cache.finished("smoke", key, lambda: 2) == 1
    monkeypatch.setattr(cache, "fingerprint", lambda: "another")
    assert cache.finished("smoke", key, lambda: 2) == 2


def test_a_record_is_strict_json_and_named_for_people(folder, monkeypatch):
    key = {"id": "mine", "version": 1, "label": None}
    result = {"rows": [{"psnr": math.nan, "lpips": 0.5}], "fd_vgg": math.inf}
    cache.recorded("smoke", key, lambda: result, "faces-motion")
    (path,) = (folder / "smoke" / "records").iterdir()
    assert path.name.startswith("mine-faces-motion-")

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    kept = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert kept["key"] == key and kept["result"] == {"rows": [{"psnr": None, "lpips": 0.5}], "fd_vgg": None}
    monkeypatch.setenv("PDM_GO_ON", "1")
    assert cache.recorded("smoke", key, lambda: 1 / 0, "another title") == kept["result"]
    assert cache.record("smoke", key | {"version": 2}) is None
    cache.write_record(folder / "smoke" / "records", key, {}, "another title")  # in place of the first
    assert len(list((folder / "smoke" / "records").iterdir())) == 1


def test_a_key_without_an_id_is_refused():
    with pytest.raises(ValueError, match="has no id"):
        cache.finished("smoke", {"name": "x"}, lambda: 1)
