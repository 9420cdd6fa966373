"""Weights and cards on disk, and the device and the precision that priors are loaded to."""

import hashlib
import json
import os
from dataclasses import replace

import pytest
import torch
from conftest import SMALL, random, random_network
from safetensors.torch import load_file

from pdm.models import (
    NetworkPrior,
    best_device,
    best_precision,
    load_prior,
    precision_for,
    prior_card,
    save_prior,
)
from pdm.schedule import Schedule

SCHEDULE = Schedule.linear()


# ---- on disk ----


def test_a_saved_prior_comes_back_rounded_to_float16_and_no_more(tmp_path):
    net = random_network()
    weights = {n: v.clone() for n, v in net.state_dict().items()}
    path = save_prior("small", net, {"labels": [], "seed": 3}, tmp_path)
    prior = load_prior("small", folder=tmp_path, precision=torch.float32)
    assert prior.network.config == SMALL
    assert prior.shape == (2, 16, 16)
    for name, came in prior.network.state_dict().items():
        assert came.dtype == torch.float32
        torch.testing.assert_close(came, weights[name], rtol=2**-11, atol=2**-25)  # half a unit in the last place
    assert {v.dtype for v in load_file(path).values()} == {torch.float16}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.json", "small.safetensors"]  # no .part is left


def test_the_card_names_the_sha256_of_the_file_and_keeps_what_it_was_given(tmp_path):
    path = save_prior("small", random_network(), {"labels": ["a"], "terms": "none"}, tmp_path)
    card = json.loads((tmp_path / "small.json").read_text())
    assert card == prior_card("small", tmp_path)
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (card["name"], card["labels"], card["terms"]) == ("small", ["a"], "none")


@pytest.mark.parametrize("dying", [1, 2])
def test_a_save_that_dies_leaves_no_prior_rather_than_half_of_one(dying, tmp_path, monkeypatch):
    calls, replace_file = [], os.replace

    def die(*names):
        calls.append(names)
        if len(calls) == dying:
            raise OSError("killed")
        replace_file(*names)

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(OSError, match="killed"):
        save_prior("small", random_network(), {}, tmp_path)
    assert not (tmp_path / "small.json").exists()
    with pytest.raises(ValueError, match="no prior is called 'small'"):
        load_prior("small", folder=tmp_path)


def test_labels_are_found_by_name_or_number(tmp_path):
    save_prior("small", random_network(replace(SMALL, num_classes=3)), {"labels": ["face", "cat", "any"]}, tmp_path)
    load = {
        label: load_prior("small", label, torch.float32, tmp_path) for label in ("face", "cat", "any", 0, 1, 2, None)
    }
    x = random(2, 2, 16, 16)
    noise = {label: prior.predict(x, 300)[0] for label, prior in load.items()}
    assert all(torch.equal(noise[name], noise[i]) for i, name in enumerate(("face", "cat", "any")))
    assert torch.equal(noise[None], noise["any"])
    assert (noise["face"] - noise["cat"]).norm() > 1e-3


def test_a_prior_has_the_schedule_of_its_card(tmp_path):
    def saved(card: dict) -> NetworkPrior:
        save_prior("small", random_network(), card, tmp_path)
        return load_prior("small", folder=tmp_path, precision=torch.float32)

    x, noise = random(1, 2, 16, 16), random(1, 2, 16, 16, seed=2)
    wanted = {"cosine, 1000 steps": Schedule.cosine(1000), "linear, 100 steps": Schedule.linear(100)}
    for text, schedule in wanted.items():
        prior = saved({"schedule": text})
        assert torch.equal(prior.schedule.betas, schedule.betas)
        assert not torch.equal(schedule.diffuse(x, noise, 50), SCHEDULE.diffuse(x, noise, 50))
        assert torch.equal(prior(x, 50).x0, schedule.tweedie(x, prior.predict(x, 50)[0], 50))
    assert torch.equal(saved({}).schedule.betas, SCHEDULE.betas)
    for wrong in ("quadratic, 1000 steps", "linear, 1e3 steps", "cosine", "linear, 1000 steps or so", 1000):
        with pytest.raises(ValueError, match=f"the card's schedule is {wrong!r}; wanted 'linear, N steps'"):
            saved({"schedule": wrong})


def test_where_there_are_no_priors_the_message_names_the_folder_and_the_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"there are none in .* A checkout or the wheel carries.*PDM_PRIORS") as raised:
        load_prior("image", folder=tmp_path / "empty")
    assert str(tmp_path / "empty") in str(raised.value)
    save_prior("small", random_network(), {}, tmp_path)
    with pytest.raises(ValueError, match=r"there are small in .* \(PDM_PRIORS names another folder\)"):
        load_prior("image", folder=tmp_path)


# ---- device and precision ----


@pytest.mark.parametrize("amx", [True, False])
@pytest.mark.parametrize("avx512", [True, False])
def test_bfloat16_is_taken_only_where_the_hardware_multiplies_it(amx, avx512, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert best_precision() == (torch.bfloat16 if amx or avx512 else torch.float32)
    for ampere in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, ampere=ampere: ampere)
        assert best_precision("cuda") == (torch.bfloat16 if ampere else torch.float32)


@pytest.mark.parametrize("cuda", [True, False])
@pytest.mark.parametrize("mps", [True, False])
def test_cuda_is_taken_then_mps_then_the_cpu_and_mps_computes_in_float32(cuda, mps, monkeypatch):
    monkeypatch.delenv("PDM_PRECISION", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert best_device() == torch.device("cuda" if cuda else "mps" if mps else "cpu")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)  # the CPU beside it does not count
    assert best_precision("mps") == best_precision(torch.device("mps", 0)) == torch.float32
    assert precision_for({}, "mps") == torch.float32


def test_the_environment_may_say_the_precision(monkeypatch):
    for name in ("float32", "bfloat16"):
        monkeypatch.setenv("PDM_PRECISION", name)
        assert best_precision() == best_precision("cuda") == getattr(torch, name)
    assert precision_for({"precision": "float32"}) == torch.float32 and precision_for({}) == torch.bfloat16
    monkeypatch.setenv("PDM_PRECISION", "float16")
    with pytest.raises(ValueError, match="PDM_PRECISION is 'float16'; wanted float32 or bfloat16"):
        best_precision()
