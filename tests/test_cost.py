"""What is measured is what is said: counts that are known, times that are times."""

import pytest
import torch

from pdm.paper import cost
from pdm.paper.cost import Setting


def test_more_components_and_larger_images_are_more_work():
    one, two, three = (cost.step_flops(Setting(components=n, batch=1)) for n in (1, 2, 3))
    assert one < two < three
    assert cost.step_flops(Setting(components=1, batch=2)) == pytest.approx(one, rel=0.01)
    large = cost.step_flops(Setting(components=1, batch=1, size=128))
    assert 3.9 < large / one < 5  # four times the pixels; attention grows faster


def test_a_step_runs_the_networks_forward_and_back():
    total = 0
    for name in ("image", "kernel"):
        prior = cost.load_prior(name, precision=torch.float32)
        with cost.FlopCounterMode(display=False) as counter, torch.no_grad():
            prior(torch.zeros(1, *prior.shape), 500)
        total += counter.get_total_flops()
    assert 1.8 < cost.step_flops(Setting(batch=1, precision="float32")) / total < 2.2


def test_shares_add_up():
    found = cost.shares(Setting(batch=1), repeats=1)
    assert set(found) == {"networks", "operator", "backward", "rest"} and sum(found.values()) == pytest.approx(1)
    assert all(share > 0 for share in found.values()) and found["networks"] > found["operator"]


@pytest.mark.parametrize("setting", [Setting(batch=2), Setting(plain=True, batch=1), Setting(3, 1, fast_norm=False)])
def test_every_setting_runs(setting):
    assert 0 < cost.step_seconds(setting, repeats=1) < 60
    assert setting.precision == ("float32" if setting.plain else str(cost.best_precision()).split(".")[1])


def test_a_run_takes_as_many_steps_as_it_is_asked_for(monkeypatch):
    taken = []
    around = cost.sample

    def counted(*arguments):
        for state in around(*arguments):
            taken.append(state.t)
            yield state

    monkeypatch.setattr(cost, "sample", counted)
    assert cost.run_seconds(Setting(1, 1), 3) > 0 and len(taken) == 3


def test_a_step_with_either_norm_is_the_same_to_rounding():
    ends = [next(cost._states(Setting(batch=1, fast_norm=fast), 0)).x0["image"] for fast in (True, False)]
    assert (ends[0] - ends[1]).norm() / ends[1].norm() < 0.02


def test_the_ceiling_and_a_blur_take_time():
    assert cost.ceiling(side=64, repeats=1) > 0
    assert all(cost.blur_seconds(5, method, 16, 1, 1) > 0 for method in ("fft", "direct"))


@pytest.mark.parametrize("count", [0, 4])
def test_other_numbers_of_components_are_refused(count):
    with pytest.raises(ValueError, match="wanted 1 to 3"):
        Setting(components=count)
