"""What a photo's size costs, and what the image prior is worth beyond its own size."""

import pytest
import torch

from pdm.data.images import photograph
from pdm.models import AnySize, load_prior
from pdm.models.any_size import cuts
from pdm.paper import sizes

PRIOR = load_prior("image", "photos", precision=torch.float32)


def test_a_run_in_a_process_of_its_own_tells_seconds_and_memory():
    row = sizes.cost(64, evaluations=1)
    assert row["pixels"] == 4096 and 0 < row["seconds"] == row["seconds_per_evaluation"]
    assert 100 < row["peak_mb"] < 3000


@pytest.mark.parametrize("power", [1.0, 1.5])
def test_the_exponent_of_a_power_law_is_found_above_the_least_size(power):
    rows = [{"pixels": n**2, "seconds": 1e-4 * n ** (2 * power)} for n in (256, 512, 1024)]
    small = {"pixels": 64**2, "seconds": 7.0}  # not counted
    assert sizes.exponent([small, *rows]) == pytest.approx(power)
    with pytest.raises(ValueError, match="1 rows have 65536 pixels or more; wanted two"):
        sizes.exponent([small, rows[0]])


def test_losses_are_those_of_the_whole_and_of_tiles():
    picture = photograph("astronaut")[None, :, :128, 150:278]
    rows = {(row["pixels"], row["way"]): row for row in sizes.seams(picture, PRIOR, (64, 128), (200,), seed=3)}
    assert len(rows) == 8
    small = [rows[64**2, way]["loss"] for way in ("whole", "tiles", "both", "shipped")]
    assert small == pytest.approx([small[0]] * 4, rel=1e-3)  # the network's own size: all are one
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(3))
    x_t = PRIOR.schedule.diffuse(picture, noise, 200)
    whole, tiles = PRIOR(x_t, 200).x0 - picture, AnySize(PRIOR, 64)(x_t, 200).x0 - picture
    assert rows[128**2, "whole"]["loss"] == pytest.approx(whole.square().mean().item(), rel=1e-3)
    assert rows[128**2, "both"]["loss"] == pytest.approx((whole + tiles).square().mean().item() / 4, rel=1e-3)
    assert rows[128**2, "shipped"]["seam"] is None and 0.5 < rows[128**2, "tiles"]["seam"] < 3


def test_a_seam_is_a_step_between_tiles():
    prior = AnySize(PRIOR, 64)
    first = cuts(128, 64, 8, 8, 200)[0][3]
    error = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    assert sizes._seam(error, prior, 200) == pytest.approx(1, abs=0.2)
    error[..., first:] += 3
    error[..., first:, :] += 3
    assert sizes._seam(error, prior, 200) > 2


@pytest.mark.parametrize("side", [63, 68, 96])
def test_crops_that_do_not_fit_are_refused(side):
    with pytest.raises(ValueError, match="side"):
        next(sizes.seams(torch.zeros(1, 3, 128, 128), PRIOR, (side,), (100,)))
    with pytest.raises(ValueError, match="side"):
        sizes.cost(63)
