"""Results that are kept: what is taken up again, what is computed anew, and that nothing is left half."""

import json
import math
import shutil

import pandas as pd
import pytest
import torch

from pdm.study import cache, provenance, tables


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("PDM_RESULTS", str(tmp_path))
    monkeypatch.delenv("PDM_GO_ON", raising=False)
    return tmp_path / "smoke"


def test_a_part_that_is_finished_is_not_computed_again(results):
    calls = []

    def compute(value):
        calls.append(value)
        return {"rows": [{"image": "a", "psnr": value}], "kernel": None}

    key = {"id": "deblurring", "seed": 3, "steps": 10}
    first = cache.finished("smoke", key, lambda: compute(1.5))
    again = cache.finished("smoke", dict(reversed(key.items())), lambda: compute(2.5))
    assert first == again == {"rows": [{"image": "a", "psnr": 1.5}], "kernel": None} and calls == [1.5]
    assert cache.finished("smoke", key | {"steps": 20}, lambda: compute(3.5))["rows"][0]["psnr"] == 3.5
    for part in (results / "parts").iterdir():
        part.write_bytes(part.read_bytes()[:100])  # cut short: it is computed again
    assert cache.finished("smoke", key, lambda: compute(4.5))["rows"][0]["psnr"] == 4.5
    with pytest.raises(ValueError, match="has no id"):
        cache.finished("smoke", {"seed": 3}, lambda: compute(0))


def test_a_record_is_taken_up_where_the_environment_says_so(results, monkeypatch):
    key = {"id": "deblurring", "seed": 3}
    assert cache.recorded("smoke", key, lambda: {"psnr": 0.1 + 0.2, "mnc": None}) == {
        "psnr": 0.1 + 0.2,
        "mnc": None,
    }
    assert cache.recorded("smoke", key, lambda: 1 / 0) == {"psnr": 0.1 + 0.2, "mnc": None}  # the part is there
    shutil.rmtree(results / "parts")
    assert cache.recorded("smoke", key, lambda: {"psnr": 2.5}) == {"psnr": 2.5}
    shutil.rmtree(results / "parts")
    monkeypatch.setenv("PDM_GO_ON", "1")
    assert cache.record("smoke", key) == {"psnr": 2.5} and cache.record("smoke", key | {"seed": 4}) is None
    assert cache.recorded("smoke", key, lambda: 1 / 0) == {"psnr": 2.5}
    (record,) = (results / "records").iterdir()
    assert json.loads(record.read_text())["key"] == key
    record.write_text(record.read_text()[:30])  # cut short: it is computed again
    assert cache.recorded("smoke", key, lambda: {"psnr": 3.5}) == {"psnr": 3.5}
    assert cache.recorded("smoke", key, lambda: 1 / 0) == {"psnr": 3.5}


def test_a_record_of_another_precision_is_taken_up_after_one_of_the_same(results, monkeypatch):
    key, other = ({"id": "dps", "weights": {"image": ["abc", kind]}} for kind in ("torch.float32", "torch.bfloat16"))
    cache.write_record(results / "records", other, {"psnr": 1.5})
    assert cache.record("smoke", key) == {"psnr": 1.5}
    fitted = {"id": "self_deblur", "settings": {"steps": 9, "precision": "bfloat16"}}
    cache.write_record(results / "records", fitted, {"psnr": 3.5})
    assert cache.record("smoke", fitted | {"settings": {"steps": 9, "precision": "float32"}}) == {"psnr": 3.5}
    assert cache.record("smoke", fitted | {"settings": {"steps": 8, "precision": "bfloat16"}}) is None
    for changed in ({"weights": {"image": ["abd", "torch.float32"]}}, {"steps": 3}, {"id": "dp"}):
        assert cache.record("smoke", key | changed) is None
    assert cache.recorded("smoke", key, lambda: {"psnr": 2.5}) == {"psnr": 2.5}  # unless asked for, it is not
    assert cache.record("smoke", key) == {"psnr": 2.5} and cache.record("smoke", other) == {"psnr": 1.5}


def test_rows_of_a_record_say_where_they_were_computed_and_not_where_they_are_read(results, monkeypatch):
    monkeypatch.setenv("PDM_GO_ON", "1")
    key = {"id": "bands"}
    monkeypatch.setattr(provenance, "here", lambda: {"commit": "abc", "machine": "Xeon"})
    first = cache.recorded_rows("smoke", key, lambda: [{"loss": 0.5}])
    assert first == [{"loss": 0.5, "commits": "abc", "machines": "Xeon"}]
    monkeypatch.setattr(provenance, "here", lambda: {"commit": "def", "machine": "EPYC"})
    rows = cache.recorded_rows("smoke", key, lambda: 1 / 0)
    tables.write_table(pd.DataFrame(rows).assign(sampler="DDIM, 100 steps"), "bands", "smoke")
    assert (results / "tables" / "bands.csv").read_text() == "loss\n0.5\n"
    origin = json.loads((results / "provenance" / "bands.json").read_text())
    assert origin["rows"] == {"commits": ["abc"], "machines": ["Xeon"], "sampler": ["DDIM, 100 steps"]}


def test_a_record_is_strict_json(results):
    cache.recorded("smoke", {"id": "a"}, lambda: {"psnr": math.nan, "rows": [math.inf, 1.0]}, title="on faces")
    (record,) = (results / "records").iterdir()
    assert record.name.startswith("a-on_faces-")

    def refuse(constant):
        raise ValueError(constant)

    text = record.read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=refuse)["result"] == {"psnr": None, "rows": [None, 1.0]}


def test_a_digest_is_of_the_values_and_not_of_their_rounding():
    draw = torch.Generator().manual_seed(0)
    for tensor in (torch.rand(16, 3, 64, 64, generator=draw) * 2 - 1, torch.rand(64, 1, 32, 32, generator=draw) / 500):
        rounded = tensor * (1 + 1e-7 * torch.randn(tensor.shape, generator=draw))
        changed = tensor.clone()
        changed[3, 0, 5, 7] += 0.5 * tensor.abs().max()
        assert not torch.equal(tensor, rounded) and cache.digest(tensor) == cache.digest(rounded)
        others = changed, 2 * tensor, tensor.flip(0), tensor[:-1], tensor.roll(1, -1)
        assert len({cache.digest(other) for other in (tensor, *others)}) == 6


def test_a_part_that_fails_or_dies_leaves_nothing(results, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        cache.finished("smoke", {"id": "part"}, lambda: 1 / 0)
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        cache.finished("smoke", {"id": "part"}, lambda: 1)
    assert list((results / "parts").iterdir()) == []
