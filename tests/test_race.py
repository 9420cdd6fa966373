"""What evaluations are worth, and rows and pairs of the tables of notebook 13."""

import pytest

from pdm.models import load_prior
from pdm.study import deblurring, few_steps, race
from pdm.study.method import Method

WORTH = race.Shares(backward=2.0, kernel=0.25)


def row(name, psnr, **more):
    figures = {"psnr": psnr, "ssim": 0.5, "lpips": 0.1, "mnc": None, "kernel_mse": None, "tilt_epe": None}
    place = {"image": name, "seed": int(name), "commit": "c", "machine": "m", "diverged": None}
    counts = {"forward": 10, "backward": 0, "kernel_forward": None, "kernel_backward": 0}
    return place | figures | counts | {"seconds": 2.0} | more


def record(offset, count=4, **more):
    rows = [row(str(i), 20.0 + i + offset, **more) for i in range(count)]
    return {"rows": rows, "fd_vgg": None, "kid": None}


def test_costs_are_counted_in_passes_of_the_image_prior():
    plain = {"backward": 0, "kernel_forward": 0, "kernel_backward": 0}
    assert WORTH.cost(plain | {"forward": 12}, paired=False) == 12
    assert WORTH.cost(plain | {"forward": 33, "kernel_forward": 20}, paired=True) == 38
    both = {"forward": 100, "backward": 60, "kernel_forward": 1000, "kernel_backward": 60}
    assert WORTH.cost(both, paired=True) == 100 + 120 + 250 + 30
    assert WORTH.cost({"forward": 12, "backward": 0, "kernel_forward": 4}, paired=False) == 13  # no gradients counted
    old = {"forward": 1000, "backward": 1000}  # a record from before kernels were counted: Algorithm 1, then DPS
    assert WORTH.cost(old, paired=True) == 3750 and WORTH.cost(old, paired=False) == 3000
    for wrong in ({"backward": 0.0, "kernel": 1.0}, {"backward": 1.0, "kernel": -1.0}):
        with pytest.raises(ValueError, match="above 0"):
            race.Shares(**wrong)


def test_shares_are_measured():
    worth = race.shares(load_prior("image"), load_prior("kernel"), batch=2, repeats=1)
    assert 0.3 < worth.backward < 10 and 0.01 < worth.kernel < 2
    with pytest.raises(ValueError, match="batch is 0"):
        race.shares(load_prior("image"), load_prior("kernel"), batch=0)


def test_a_summary_has_intervals_costs_and_the_speed_of_one_run():
    methods = {"dps_known_kernel": Method("dps_known_kernel", deblurring.dps)}
    methods |= {"blind_dps": Method("blind_dps", deblurring.blind_dps)}
    methods |= {"known_12": Method("known_12", few_steps.known_few), "fast": Method("fast", few_steps.blind_few)}
    slow = {"forward": 1000, "backward": 1000, "seconds": 60.0}
    records = {"dps_known_kernel": record(0, **slow), "blind_dps": record(0, mnc=0.8, **slow)}
    new = {"psnr_registered": 25.0, "pedestal": 0.1, "kernel_forward": 20}
    records |= {"known_12": record(1, kernel_forward=0, psnr_registered=26.0), "fast": record(2, mnc=0.9, **new)}
    again = {"blind_dps": record(0, 2, mnc=0.8, psnr_registered=24.0, pedestal=0.3, **slow)}
    table = race.summary(records, methods, WORTH, again, records).set_index("method")
    assert table.cost.to_dict() == {"dps_known_kernel": 3000, "blind_dps": 3750, "known_12": 10, "fast": 15}
    assert table.speedup.to_dict() == {"dps_known_kernel": 1, "blind_dps": 1, "known_12": 30, "fast": 30}
    assert table.pedestal["blind_dps"] == 0.3 and table.n_registered["blind_dps"] == 2 and table.n["blind_dps"] == 4
    assert table.mnc_lo["fast"] == table.mnc_hi["fast"] == pytest.approx(0.9)
    assert table.psnr_lo["fast"] < table.psnr["fast"] == 23.5 < table.psnr_hi["fast"]
    assert set(race.COLUMNS) - set(table) == {"dataset", "degradation", "method"}


def test_differences_are_in_pairs():
    found = race.differences({"a": record(0, mnc=0.5), "b": record(1, mnc=0.75), "told": record(0)}, "a")
    assert found.metric.tolist() == ["psnr", "lpips", "mnc", "psnr", "lpips"]
    first = found.iloc[0]
    assert (first.method, first.reference, first.n, first.difference, first.lo, first.hi) == ("b", "a", 4, 1, 1, 1)
    assert found.set_index(["method", "metric"]).difference["b", "mnc"] == 0.25


def test_harm_is_counted_against_the_measurement():
    worse = record(0)
    worse["rows"][1] |= {"psnr": 19.5}  # 1.5 dB below its measurement's 21
    worse["rows"][2] |= {"psnr": 21.1}  # 0.9 dB below
    table = race.harmed({"blurred": record(0), "better": record(2), "worse": worse}).set_index("method")
    assert table.below.to_dict() == {"better": 0, "worse": 1} and table.worst["better"] == 2
    assert table.worst["worse"] == -1.5 and table.n.to_dict() == {"better": 4, "worse": 4}
    assert race.harmed({"blurred": record(0), "worse": worse}, below=0.5).below.tolist() == [2]
    with pytest.raises(ValueError, match="other has 3 images and blurred 4"):
        race.harmed({"blurred": record(0), "other": record(0, 3)})
