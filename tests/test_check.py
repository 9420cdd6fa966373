"""Committed records are what the code gives: the cheap ones are made again here, and a wrong one is found."""

import json
import shutil
from functools import cache

import pytest

from pdm.paper import check
from pdm.paths import ROOT
from pdm.study import benchmark_methods

RECORDS = ROOT / "results" / "bench" / "records"


def test_the_cheap_records_are_still_what_the_code_gives(capsys, monkeypatch):
    monkeypatch.setattr(check.data, "load", cache(check.data.load))  # the same few sets for all records
    assert check.main(["--cheap"]) == 0
    assert capsys.readouterr().out.count("agrees") >= 6  # of photographs, which everybody has


@pytest.mark.parametrize("change", ["figure", "settings"])
def test_a_wrong_record_is_found(tmp_path, capsys, change):
    path = shutil.copy(next(RECORDS.glob("supervised-photos-motion-*.json")), tmp_path)
    kept = json.loads(open(path, encoding="utf-8").read())
    if change == "figure":
        kept["result"]["rows"][1]["psnr"] += 1.0
    else:
        kept["key"]["id"], kept["key"]["weights"] = "blurred", {}  # as if another method had made it
    with open(path, "w", encoding="utf-8") as file:
        json.dump(kept, file)
    assert check.main(["--cheap", "--folder", str(tmp_path)]) == 1
    assert "DIFFERS" in capsys.readouterr().out


def test_every_record_names_a_method_that_there_is_and_is_strict_json():
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    paths = sorted(RECORDS.glob("*.json"))
    assert len(paths) > 200
    for path in paths:
        key = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)["key"]
        if "case" in key:  # of a public benchmark
            assert key["id"].removeprefix("benchmark ") in benchmark_methods.METHODS, path.name
            assert key["version"] == benchmark_methods.VERSION, path.name
        elif "inputs" in key:
            assert check.method_of(key).restore.version == key["version"], path.name
