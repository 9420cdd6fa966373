import runpy

import pytest
import torch

from pdm import exact_steps
from pdm.convolutions import continued
from pdm.data import motion_kernels
from pdm.exact_steps import Convolution, KernelConvolution
from pdm.operators import blur

BOUNDARIES = ("circular", "reflect", "zero", "valid")


def problem(boundary, channels=3, size=16, canvas=5, n=2):
    """Random images, kernels and measurements, and spectra that differ by channel: float64."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, channels, size, size, generator=g, dtype=torch.float64)
    kernel = torch.rand(n, 1, canvas, canvas, generator=g, dtype=torch.float64)
    kernel = kernel / kernel.sum((1, 2, 3), keepdim=True)
    white = torch.randn(channels, size, size, generator=g, dtype=torch.float64)
    error = torch.fft.rfft2(white, norm="ortho").abs().square() + 0.1
    y = Convolution(kernel, (size, size), boundary)(x)
    return x, kernel, error, y + 0.1 * torch.randn(y.shape, generator=g, dtype=torch.float64)


def dense(linear, like):
    """The matrix of a linear map on one sample of the shape of `like`, by its columns."""
    columns = [linear(e.reshape(1, *like.shape)).flatten() for e in torch.eye(like.numel(), dtype=torch.float64)]
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("size, canvas", [((16, 16), (5, 5)), ((17, 12), (4, 6)), ((9, 20), (8, 3))])
def test_both_convolutions_are_the_blur_and_have_exact_adjoints(boundary, size, canvas):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, *size, generator=g, dtype=torch.float64)
    kernel = torch.rand(2, 1, *canvas, generator=g, dtype=torch.float64)
    of_image, of_kernel = Convolution(kernel, size, boundary), KernelConvolution(x, canvas, boundary)
    y = blur(x, kernel, boundary)
    torch.testing.assert_close(of_image(x), y)
    torch.testing.assert_close(of_kernel(kernel), y)
    u, other = torch.randn_like(y), torch.randn_like(kernel)
    torch.testing.assert_close((of_image(x) * u).sum(), (x * of_image.adjoint(u)).sum())
    torch.testing.assert_close((of_kernel(other) * u).sum(), (other * of_kernel.adjoint(u)).sum())


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_adjoints_are_what_autograd_gives(boundary):
    x, kernel, _, y = problem(boundary, size=8, canvas=3, n=1)
    u = y.clone().requires_grad_(True)
    assert torch.autograd.gradcheck(Convolution(kernel, (8, 8), boundary).adjoint, u)
    assert torch.autograd.gradcheck(KernelConvolution(x, (3, 3), boundary).adjoint, u)
    image = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad((blur(image, kernel, boundary) * y).sum(), image)
    torch.testing.assert_close(Convolution(kernel, (8, 8), boundary).adjoint(y), gradient)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("coloured", [False, True])
def test_the_image_step_is_the_gaussian_conditional(boundary, coloured):
    x, kernel, error, y = problem(boundary, channels=1 if coloured else 3)
    noise = 0.01
    if coloured:
        noise = 0.01 + torch.rand(2, 1, y.shape[2], y.shape[3] // 2 + 1, dtype=torch.float64)
        noise = torch.fft.rfft2(torch.fft.irfft2(noise, s=y.shape[-2:])).real.clamp(min=1e-3)  # a spectrum is even
    x_hat = x + 0.3 * torch.randn_like(x)
    found = exact_steps.image_step(x_hat, y, kernel, error, noise, boundary, iterations=200)
    for i in range(2):
        a = dense(lambda v, i=i: blur(v, kernel[i, None], boundary), x[i])
        s = dense(lambda v: exact_steps.filtered(v, error), x[i])
        n = noise[i] if coloured else torch.full((1, 1, 1), noise, dtype=torch.float64)
        r = dense(lambda v, n=n: exact_steps.filtered(v, n), y[i])
        gain = s @ a.T @ torch.linalg.inv(a @ s @ a.T + r)
        wanted = x_hat[i].flatten() + gain @ (y[i].flatten() - a @ x_hat[i].flatten())
        torch.testing.assert_close(found[i].flatten(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_frames_of_one_scene_are_one_gaussian_conditional(boundary):
    """Two scenes of three frames: the frames of a scene stand below one another in one system."""
    x, _, error, _ = problem(boundary, channels=1, size=8)
    g = torch.Generator().manual_seed(3)
    kernel = torch.rand(6, 1, 3, 4, generator=g, dtype=torch.float64)
    kernel = kernel / kernel.sum((1, 2, 3), keepdim=True)
    x_hat = (x + 0.3 * torch.randn(x.shape, generator=g, dtype=x.dtype)).repeat(3, 1, 1, 1)
    y = blur(x.repeat(3, 1, 1, 1), kernel, boundary)
    y = y + 0.1 * torch.randn(y.shape, generator=g, dtype=y.dtype)
    found = exact_steps.image_step(x_hat, y, kernel, error, 0.01, boundary, iterations=300, frames=3)
    torch.testing.assert_close(found, found[:2].repeat(3, 1, 1, 1))
    s = dense(lambda v: exact_steps.filtered(v, error), x[0])
    for i in range(2):
        a = torch.cat([dense(lambda v, f=f: blur(v, kernel[f, None], boundary), x[i]) for f in (i, i + 2, i + 4)])
        gain = s @ a.T @ torch.linalg.inv(a @ s @ a.T + 0.01 * torch.eye(len(a), dtype=a.dtype))
        wanted = x_hat[i].flatten() + gain @ (y[i::2].flatten() - a @ x_hat[i].flatten())
        torch.testing.assert_close(found[i].flatten(), wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="6 samples for 4 frames"):
        exact_steps.image_step(x_hat, y, kernel, error, 0.01, boundary, frames=4)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_the_kernel_step_is_the_gaussian_conditional(boundary):
    x, kernel, error, y = problem(boundary)
    g = torch.Generator().manual_seed(2)
    mean = torch.full((1, 5, 5), 1 / 25, dtype=torch.float64)
    root = 0.1 * torch.randn(25, 25, generator=g, dtype=torch.float64)
    found = exact_steps.kernel_step(x, y, kernel, error, 0.1, mean, root, boundary, iterations=200)
    innovation = exact_steps.transfer(kernel, y.shape[-2:]) * exact_steps.resized(error, y.shape[-2:]) + 0.1**2
    for i in range(2):
        a = dense(lambda k, i=i: blur(x[i, None], k, boundary), kernel[i])
        weight = dense(lambda v, i=i: exact_steps.filtered(v, 1 / innovation[i]), y[i])
        precision = a.T @ weight @ a + torch.linalg.inv(root @ root.T)
        step = torch.linalg.solve(precision, a.T @ weight @ (y[i].flatten() - a @ mean.flatten()))
        torch.testing.assert_close(found[i].flatten(), mean.flatten() + step, rtol=1e-4, atol=1e-6)
    far = torch.rand(2, 1, 5, 5, generator=g, dtype=torch.float64)
    again = exact_steps.kernel_step(x, y, kernel, error, 0.1, mean, root, boundary, iterations=200, start=far)
    torch.testing.assert_close(again, found, rtol=1e-4, atol=1e-6)


def test_independent_pixels_are_a_diagonal_root():
    x, kernel, error, y = problem("valid")
    g = torch.Generator().manual_seed(4)
    mean, deviation = kernel.flip(-1), 0.02 + 0.1 * torch.rand(2, 1, 5, 5, generator=g, dtype=torch.float64)
    found = exact_steps.kernel_step(x, y, kernel, error, 0.1, mean, deviation, "valid", iterations=200)
    for i in range(2):
        one = slice(i, i + 1)
        given = x[one], y[one], kernel[one], error, 0.1, mean[one]
        root = torch.diag(deviation[i].flatten())
        wanted = exact_steps.kernel_step(*given, root, "valid", iterations=200)
        torch.testing.assert_close(found[one], wanted, rtol=1e-5, atol=1e-8)
    given = x, y, kernel, error, 0.1, mean, deviation, "valid"
    torch.testing.assert_close(exact_steps.kernel_step(*given, iterations=0, start=found), found)


def test_a_kernel_step_may_begin_where_another_ended():
    x, kernel, error, y = problem("reflect")
    g = torch.Generator().manual_seed(2)
    basis, _ = torch.linalg.qr(torch.randn(25, 25, generator=g, dtype=torch.float64))
    root = basis * torch.linspace(0.02, 0.2, 25, dtype=torch.float64)
    given = (x, y, kernel, error, 0.1, torch.full((1, 5, 5), 1 / 25, dtype=torch.float64), root)
    solved = exact_steps.kernel_step(*given, iterations=200)
    torch.testing.assert_close(exact_steps.kernel_step(*given, iterations=0, start=solved), solved)
    near = solved + 0.003 * torch.randn(solved.shape, generator=g, dtype=torch.float64)
    cold, warm = (exact_steps.kernel_step(*given, iterations=5, start=start) - solved for start in (None, near))
    assert warm.norm() < 0.5 * cold.norm()


def test_a_circular_step_needs_no_iterations():
    x, kernel, error, y = problem("circular")
    at_once = exact_steps.image_step(x, y, kernel, error, 0.01, "circular", iterations=0)
    u = exact_steps.conjugate_gradients(
        lambda v: (
            Convolution(kernel, (16, 16), "circular")(
                exact_steps.filtered(Convolution(kernel, (16, 16), "circular").adjoint(v), error)
            )
            + 0.01 * v
        ),
        y - blur(x, kernel, "circular"),
        lambda v: v,
        300,
    )
    wanted = x + exact_steps.filtered(Convolution(kernel, (16, 16), "circular").adjoint(u), error)
    torch.testing.assert_close(at_once, wanted, rtol=1e-5, atol=1e-6)


def test_samples_are_alone_in_a_batch():
    x, kernel, error, y = problem("reflect")
    both = exact_steps.image_step(x, y, kernel, error, 0.01)
    for i in range(2):
        alone = exact_steps.image_step(x[i, None], y[i, None], kernel[i, None], error, 0.01)
        torch.testing.assert_close(both[i, None], alone)


def test_kernel_noise_is_the_power_of_what_the_kernel_may_be_off_by():
    g = torch.Generator().manual_seed(3)
    x_hat = torch.randn(1, 1, 16, 16, generator=g, dtype=torch.float64)
    root = torch.rand(16, 9, generator=g, dtype=torch.float64) + 0.1
    n = 4000
    off = exact_steps.filtered(torch.randn(n, 1, 16, 16, generator=g, dtype=torch.float64), root) / 16  # power root^2
    wrong = exact_steps.filtered(torch.randn(n, 1, 16, 16, generator=g, dtype=torch.float64), torch.tensor(0.5))
    image = x_hat + wrong  # errors of power 0.25
    seen = torch.fft.rfft2(off) * torch.fft.rfft2(image)
    measured = torch.fft.irfft2(seen, s=(16, 16))
    power = torch.fft.rfft2(measured, norm="ortho").abs().square().mean(0, keepdim=True)
    wanted = exact_steps.kernel_noise(x_hat, torch.full((1, 16, 9), 0.25, dtype=torch.float64), root.square()[None])
    assert (power / wanted)[..., 1:8].log().abs().mean() < 0.05  # in the others a spectrum is that of its even part


def test_the_true_kernel_surprises_least():
    g = torch.Generator().manual_seed(4)
    kernel = motion_kernels(6, 9, 0.5, g).double()
    error = torch.rand(1, 32, 17, generator=g, dtype=torch.float64) + 0.05
    white = torch.randn(200, 1, 32, 32, generator=g, dtype=torch.float64)
    x = exact_steps.filtered(white, error.sqrt())  # x_hat is 0
    zero = torch.zeros_like(x)
    for true in range(2):
        y = blur(x, kernel[true, None], "circular") + 0.05 * torch.randn(x.shape, generator=g, dtype=torch.float64)
        levels = [
            exact_steps.surprise(zero, y, k[None].expand(200, -1, -1, -1), error, 0.05, "circular").mean()
            for k in kernel
        ]
        assert min(range(6), key=lambda i: levels[i]) == true


def test_surprise_is_a_gaussian_s_log_density():
    x, kernel, error, y = problem("circular", channels=1)
    found = exact_steps.surprise(x, y, kernel, error, 0.1, "circular")
    for i in range(2):
        a = dense(lambda v, i=i: blur(v, kernel[i, None], "circular"), x[i])
        s = dense(lambda v: exact_steps.filtered(v, error), x[i])
        covariance = a @ s @ a.T + 0.01 * torch.eye(256, dtype=torch.float64)
        gaussian = torch.distributions.MultivariateNormal((a @ x[i].flatten()), covariance)
        wanted = -2 * gaussian.log_prob(y[i].flatten()) / 256 - torch.log(torch.tensor(2 * torch.pi))
        torch.testing.assert_close(found[i], wanted, rtol=1e-6, atol=1e-6)
    none, half = (exact_steps.surprise(x, y, kernel, error, 0.1, "circular", w) for w in (0.0, 0.5))
    torch.testing.assert_close(half, (none + found) / 2)


def test_colours_of_a_grey_photo_do_not_surprise():
    x, kernel, error, y = problem("circular")
    grey = exact_steps.to_opponent(y.mean(1, keepdim=True).expand(-1, 3, -1, -1))
    found = exact_steps.surprise(x, grey, kernel, error, 0.1, "circular")
    alone = exact_steps.surprise(x[:, :1], grey[:, :1], kernel, error[:1], 0.1, "circular")
    torch.testing.assert_close(found, alone)


def test_a_spectrum_at_another_size_is_that_of_the_same_field():
    def power(size):
        row, column = torch.fft.fftfreq(size[0])[:, None], torch.fft.rfftfreq(size[1])
        return (1 / (0.1 + row**2 + 2 * column**2))[None]

    base = power((64, 64))
    assert exact_steps.resized(base, (64, 64)) is base
    for size in ((128, 128), (96, 64), (50, 71), (17, 33)):
        torch.testing.assert_close(exact_steps.resized(base, size), power(size), rtol=0.02, atol=0)


def test_colours_are_an_orthonormal_basis():
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(exact_steps.from_opponent(exact_steps.to_opponent(x)), x)
    torch.testing.assert_close(exact_steps.to_opponent(x).norm(), x.norm())
    grey = torch.randn(2, 1, 4, 4)
    assert exact_steps.to_opponent(grey) is grey


def test_the_basis_is_the_same_whatever_torch_s_default_dtype_is():
    torch.set_default_dtype(torch.float64)
    try:
        basis = runpy.run_path(exact_steps.__file__)["OPPONENT"]
    finally:
        torch.set_default_dtype(torch.float32)
    assert basis.dtype == torch.float32 and torch.equal(basis, exact_steps.OPPONENT)


def test_centred_kernels_have_their_mass_in_the_middle():
    kernel = motion_kernels(4, 32, 0.5, torch.Generator().manual_seed(5)).double()
    moved = exact_steps.centred(kernel.roll((3, -2), (-2, -1)))
    place = torch.arange(32, dtype=torch.float64) - 16
    assert (moved.sum((1, 2, 3)) - 1).abs().max() < 1e-6
    assert (moved.sum((1, 3)) @ place).abs().max() < 0.02
    assert (moved.sum((1, 2)) @ place).abs().max() < 0.02


def test_transfer_wraps_a_kernel_that_is_larger_than_the_frame():
    kernel = torch.rand(1, 1, 7, 5, dtype=torch.float64)
    wrapped = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    for i in range(7):
        for j in range(5):
            wrapped[0, 0, i % 4, j % 4] += kernel[0, 0, i, j]
    torch.testing.assert_close(exact_steps.transfer(kernel, (4, 4)), torch.fft.rfft2(wrapped).abs().square())


def test_one_kernel_stands_for_all_samples():
    x, kernel, error, y = problem("reflect")
    for step, more in ((exact_steps.image_step, (0.01,)), (exact_steps.surprise, (0.1, "reflect"))):
        one, each = (step(x, y, k, error, *more) for k in (kernel[:1], kernel[[0, 0]]))
        torch.testing.assert_close(one, each)


def case(name, step, message, **changes):
    return pytest.param(step, changes, message, id=f"{step.__name__}: {name}")


IMAGE, KERNEL, LEVEL = exact_steps.image_step, exact_steps.kernel_step, exact_steps.surprise
WRONG = [
    *(
        case(f"kernel of 17 pixels on 16, {b}", step, rf"\(17, 5\).*\(16, 16\).*{b}", kernel=(2, 1, 17, 5), boundary=b)
        for step in (IMAGE, LEVEL)
        for b in ("valid", "reflect")
    ),
    case("kernel of 33 pixels on 16", IMAGE, r"\(33, 5\).*2 x.*circular", kernel=(2, 1, 33, 5), boundary="circular"),
    case("canvas of 17 pixels on 16", KERNEL, r"\(17, 5\).*\(16, 16\).*reflect", mean=(1, 17, 5), root=(85, 3)),
    case("y of the whole size", IMAGE, r"y is .*16, 16\).*wanted B 3 12 12", boundary="valid"),
    case("y of the whole size", KERNEL, r"y is .*16, 16\).*wanted B 3 12 12", boundary="valid"),
    case("3 y, 2 x_hat", IMAGE, r"'x_hat': 2.*'y': 3", y=(3, 3, 16, 16)),
    case("3 kernels, 2 x_hat", LEVEL, r"'kernel': 3", kernel=(3, 1, 5, 5)),
    case("3 means, 2 x_hat", KERNEL, r"'mean': 3", mean=(3, 1, 5, 5)),
    case("3 errors, 2 x_hat", IMAGE, r"'error': 3", error=(3, 3, 16, 9)),
    case("3 noises, 2 x_hat", IMAGE, r"'noise': 3", noise=(3, 3, 16, 9)),
    case("y of one channel", IMAGE, r"y is .*wanted B 3 16 16", y=(2, 1, 16, 16)),
    case("error of a whole plane", IMAGE, r"error is .*wanted 3 16 9", error=(3, 16, 16)),
    case("noise of another size", IMAGE, r"noise is .*wanted B 3 16 9", noise=(2, 3, 16, 16)),
    case("root of another canvas", KERNEL, r"root is .*wanted 25 r", root=(16, 3)),
    case(
        "float32 kernel",
        IMAGE,
        r"'kernel': 'torch.float32.*wanted one, float32 or float64",
        kernel=torch.ones(1, 1, 5, 5),
    ),
    case("error 0", IMAGE, r"error has the minimum 0; wanted .* above 0", error=torch.zeros(3, 16, 9).double()),
    case("noise 0", IMAGE, r"noise is 0; .* above 0", noise=0),
    case("noise of a tensor below 0", IMAGE, r"noise is -1\.0; .* above 0", noise=torch.tensor(-1.0)),
    case("sigma 0", KERNEL, r"sigma is 0; .* above 0", sigma=0),
    case("sigma 0", LEVEL, r"sigma is 0; .* above 0", sigma=0),
    case("iterations -1", IMAGE, r"iterations is -1; .*0 or more", iterations=-1),
    case("iterations -1", KERNEL, r"iterations is -1; .*0 or more", iterations=-1),
    case("boundary", LEVEL, r"boundary is 'mirror'; wanted one of 'circular'", boundary="mirror"),
]


@pytest.mark.parametrize("step, changes, message", WRONG)
def test_what_does_not_fit_is_refused_before_any_work(step, changes, message, monkeypatch):
    monkeypatch.setattr(torch.fft, "rfft2", lambda *_, **__: pytest.fail("work had begun"))
    shapes = {"x_hat": (2, 3, 16, 16), "y": (2, 3, 16, 16), "kernel": (2, 1, 5, 5), "error": (3, 16, 9)}
    given = {
        IMAGE: {"noise": 0.1},
        KERNEL: {"sigma": 0.1, "mean": (1, 5, 5), "root": (25, 3)},
        LEVEL: {"sigma": 0.1, "boundary": "reflect"},
    }
    given = shapes | given[step] | changes
    made = {n: 0.5 + torch.rand(v, dtype=torch.float64) if isinstance(v, tuple) else v for n, v in given.items()}
    with pytest.raises(ValueError, match=message):
        step(**made)


def test_linear_maps_refuse_what_is_not_theirs():
    x, kernel, _, y = problem("valid")
    of_image, of_kernel = Convolution(kernel, (16, 16), "valid"), KernelConvolution(x, (5, 5), "valid")
    for call, message in (
        (lambda: of_image(y), r"x is .*12, 12\).*wanted B C 16 16"),
        (lambda: of_image.adjoint(x), r"u is .*16, 16\).*wanted B C 12 12"),
        (lambda: of_image(x[[0, 0, 1]]), r"'x': 3"),
        (lambda: of_image(x.float()), r"'x': 'torch.float32"),
        (lambda: of_kernel(kernel[..., :3]), r"kernel is .*5, 3\).*wanted B 1 5 5"),
        (lambda: of_kernel.adjoint(y[:, :1]), r"u is .*wanted B 3 12 12"),
        (lambda: Convolution(kernel, (4, 16), "valid"), r"\(5, 5\) for an image of \(4, 16\)"),
        (lambda: KernelConvolution(x, (17, 5)), r"\(17, 5\) for an image of \(16, 16\)"),
        (lambda: Convolution(kernel, (16, 16.5)), r"size is \(16, 16\.5\); wanted \(height, width\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("boundary, times", [("zero", 3), ("circular", 2), ("reflect", 1), ("valid", 1)])
def test_the_largest_kernels_that_are_taken_have_exact_adjoints(boundary, times):
    g = torch.Generator().manual_seed(6)
    x = torch.randn(1, 1, 6, 7, generator=g, dtype=torch.float64)
    kernel = torch.randn(1, 1, 6 * times, 7 * times, generator=g, dtype=torch.float64)
    blurred = Convolution(kernel, (6, 7), boundary)
    u = torch.randn(blurred(x).shape, generator=g, dtype=torch.float64)
    torch.testing.assert_close((blurred(x) * u).sum(), (x * blurred.adjoint(u)).sum())


@pytest.mark.parametrize("canvas", [(5, 4), (4, 7)])
def test_what_is_seen_is_continued_to_the_scene_that_it_is_a_part_of(canvas):
    y = torch.randn(2, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    whole = continued(y, canvas, "valid")
    point = torch.zeros(2, 1, *canvas)
    point[..., canvas[0] // 2, canvas[1] // 2] = 1  # the kernel that blurs nothing sees y again
    torch.testing.assert_close(Convolution(point, whole.shape[-2:], "valid")(whole), y)
    assert all(continued(y, canvas, boundary).equal(y) for boundary in BOUNDARIES[:3])
    with pytest.raises(ValueError, match="canvas"):
        continued(y, (13, 4), "reflect")
