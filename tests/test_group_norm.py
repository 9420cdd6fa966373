"""Group norm of our own against torch's in float32, its gradients against finite differences."""

import pytest
import torch
import torch.nn.functional as F

from pdm.models.group_norm import GroupNorm, Normalised


def signal(*shape, seed=0, mean=0.3):
    return mean + torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_normalised_is_group_norm_with_a_gain_and_offset_per_sample(groups):
    x, gain, offset = signal(3, 6, 5, 4), signal(3, 6, seed=1), signal(3, 6, seed=2)
    found = Normalised.apply(x, gain, offset, groups, 1e-5)
    expected = F.group_norm(x, groups, eps=1e-5) * gain[..., None, None] + offset[..., None, None]
    torch.testing.assert_close(found, expected)


def test_gradients_are_those_of_finite_differences():
    values = [v.requires_grad_() for v in (signal(2, 4, 3, 3), signal(2, 4, seed=1), signal(2, 4, seed=2))]
    assert torch.autograd.gradcheck(lambda x, g, o: Normalised.apply(x, g, o, 2, 1e-5), values)


def run(norm, x, dtype, film):
    x = x.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    film = [v.to(dtype).requires_grad_() for v in film]
    y = norm(x, *film)
    weights = signal(*y.shape, seed=9).to(dtype)
    inputs = [x, norm.weight, norm.bias, *film]
    return [y, *torch.autograd.grad((y * weights).sum(), inputs)]


@pytest.mark.parametrize("with_film", [False, True])
@pytest.mark.parametrize("mean", [0.0, 2.0])
def test_bfloat16_is_float32_to_its_precision(with_film, mean, monkeypatch):
    norm = GroupNorm(4, 12)
    torch.nn.init.normal_(norm.weight, 1, 0.2, generator=torch.Generator().manual_seed(3))
    film = [signal(5, 12, seed=s).float() for s in (4, 5)] if with_film else []
    calls, apply = [], Normalised.apply
    monkeypatch.setattr(Normalised, "apply", lambda *a: (calls.append(1), apply(*a))[1])
    x = signal(5, 12, 16, 16, mean=mean).bfloat16().float()
    expected, found = run(norm, x, torch.float32, film), run(norm, x, torch.bfloat16, film)
    assert len(calls) == 1  # torch's for float32, ours for bfloat16
    for a, b in zip(found, expected, strict=True):
        assert (a.float() - b).norm() / b.norm() < (0.01 if mean == 0 else 0.02)


def test_a_sample_is_the_same_in_every_batch():
    norm, x = GroupNorm(4, 12), signal(3, 12, 8, 8).bfloat16().contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(norm(x)[1:2], norm(x[1:2].contiguous(memory_format=torch.channels_last)), rtol=0, atol=0)


def test_float32_is_torchs():
    norm, x = GroupNorm(4, 12), signal(2, 12, 8, 8).float()
    assert torch.equal(norm(x), torch.nn.functional.group_norm(x, 4, norm.weight, norm.bias))
    scale, shift = signal(2, 12, seed=1).float(), signal(2, 12, seed=2).float()
    expected = norm(x) * (1 + scale[..., None, None]) + shift[..., None, None]
    assert torch.equal(norm(x, scale, shift), expected)
    line = signal(2, 12, 9).float()  # of a 1-D network
    assert torch.equal(norm(line, scale, shift), norm(line) * (1 + scale[..., None]) + shift[..., None])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="wants a GPU")
def test_on_a_gpu_autocast_does_not_take_it_to_float32():
    norm, x = GroupNorm(4, 12).cuda(), signal(2, 12, 8, 8).float()
    with torch.autocast("cuda", torch.bfloat16):
        found = norm(x.cuda().bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float().cpu(), F.group_norm(x, 4), atol=0.03, rtol=0.02)


def test_a_second_derivative_is_refused():
    x, gain, offset = (v.requires_grad_() for v in (signal(2, 4, 3, 3), signal(2, 4, seed=1), signal(2, 4, seed=2)))
    (first,) = torch.autograd.grad(Normalised.apply(x, gain, offset, 2, 1e-5).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
