"""The image prior at any size: tiles that cover a picture, and what they make of it."""

from itertools import pairwise

import pytest
import torch

from pdm.data import photos
from pdm.data.images import photograph
from pdm.models import AnySize, load_prior
from pdm.models.any_size import cuts

PRIOR = load_prior("image", "photos", precision=torch.float32)


def noisy_crop(height, width, t=100):
    x = photograph("astronaut")[None, :, :height, 150 : 150 + width]
    return x, PRIOR.schedule.diffuse(x, torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), t)


@pytest.mark.parametrize("tile, margin", [(192, 8), (64, 8), (128, 0), (64, 15)])
def test_tiles_cover_a_side_once_and_are_cut_where_they_are_deep(tile, margin):
    for length in range(tile + 8, 1100, 8):
        for t in (0, 3, 999):
            parts = cuts(length, tile, margin, 8, t)
            assert parts[0][2] == 0 and parts[-1][3] == length and len({b - a for a, b, _, _ in parts}) == 1
            for (a, b, begin, end), (after, _, next_begin, _) in pairwise(parts):
                assert a % 8 == 0 and b - a <= tile and a <= begin < end == next_begin
                assert end - after >= margin and b - end >= margin
    places = {cuts(512, 192, 8, 8, t)[0][3] for t in range(20)}
    assert len(places) > 5  # no seam stays in one place


def test_a_small_picture_is_the_prior_s():
    _, x_t = noisy_crop(64, 64)
    torch.testing.assert_close(AnySize(PRIOR)(x_t, 100).x0, PRIOR(x_t, 100).x0)
    assert AnySize(PRIOR).repeated(3).error(100, (64, 64)).equal(PRIOR.error(100, (64, 64)))


def test_sides_that_nothing_divides_are_continued_inside():
    x, x_t = noisy_crop(61, 75)
    found = AnySize(PRIOR)(x_t, 100).x0
    _, whole_t = noisy_crop(64, 80)
    whole_t[..., :61, :75] = x_t
    expected = PRIOR(whole_t, 100).x0[..., :61, :75]
    assert found.shape == x.shape and (found - x).square().mean() < 1.1 * (expected - x).square().mean()


def test_tiles_denoise_as_well_as_the_whole_without_seams():
    x, x_t = noisy_crop(160, 200)
    whole, tiled = PRIOR(x_t, 100).x0, AnySize(PRIOR, tile=64, chunk=3)(x_t, 100).x0
    assert (tiled - x).square().mean() < 1.1 * (whole - x).square().mean()
    seams = [part[2] for part in cuts(200, 64, 8, 8, 100)[1:]]
    error, others = tiled - x, [c for c in range(1, 200) if c not in seams]
    jump = (error[..., 1:] - error[..., :-1]).square().mean((0, 1, 2))
    assert jump[[c - 1 for c in seams]].mean() < 1.5 * jump[[c - 1 for c in others]].mean()


def test_chunks_and_samples_do_not_matter():
    _, one = noisy_crop(96, 72)
    both = torch.cat([one, one.flip(-1)])
    found = AnySize(PRIOR, tile=64, chunk=1)(both, 100).x0
    torch.testing.assert_close(found, AnySize(PRIOR, tile=64, chunk=16)(both, 100).x0, atol=1e-4, rtol=0)
    torch.testing.assert_close(found[:1], AnySize(PRIOR, tile=64)(one, 100).x0, atol=1e-4, rtol=0)


def test_bad_input():
    for wrong, message in [({"tile": 100}, "tile is 100"), ({"tile": 32}, "tile is 32"), ({"chunk": 0}, "chunk is 0")]:
        with pytest.raises(ValueError, match=message):
            AnySize(PRIOR, **wrong)
    with pytest.raises(ValueError, match="a class or a condition"):
        AnySize(PRIOR.with_label(torch.tensor([0, 1])))
    for wrong in (photos().images[0], torch.zeros(1, 3, 7, 64), torch.zeros(1, 64, 64)):
        with pytest.raises(ValueError, match="x "):
            AnySize(PRIOR)(wrong, 100)
