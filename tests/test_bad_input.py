"""Names, networks, files and checkpoints that are wrong: refused, in words that say what came and what was wanted.

Tensors, numbers, seeds and counts are in test_robustness.py.
"""

import json
import pickle
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pdm import data, paths
from pdm.constraints import l1, shift_and_divide
from pdm.guidance import DPS
from pdm.models import GaussianMixture, NetworkPrior, Prediction, UNet, UNetConfig, load_adm, load_prior, save_prior
from pdm.operators import blur
from pdm.sampler import Component, sample
from pdm.schedule import Schedule, ancestral_step, ddim_step
from pdm.train import __main__
from pdm.train.loop import Recipe, train

NAN, INF = float("nan"), float("inf")
IMAGE, KERNEL = torch.zeros(2, 3, 16, 16), torch.full((2, 1, 3, 3), 1 / 9)
SCHEDULE = Schedule.linear()
DELTA = torch.zeros(2, 1, 3, 3)
DELTA[:, :, 1, 1] = 1
TINY = UNetConfig(8, 4, 1, 1, channel_mult=(1,), attention_resolution=4, num_head_channels=4)
CLASSES = replace(TINY, num_classes=3)
X = torch.zeros(2, 1, 8, 8)


def marred(value: float, of: torch.Tensor = IMAGE) -> torch.Tensor:
    tensor = of.clone()
    tensor[0, 0, 0, 0] = value
    return tensor


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def mixture(*shape: int) -> GaussianMixture:
    return GaussianMixture(SCHEDULE, torch.zeros(1, *shape), torch.ones(1), 0.5)


COMPONENTS = {
    "image": Component(mixture(3, 16, 16), (3, 16, 16)),
    "kernel": Component(mixture(1, 3, 3), (1, 3, 3), shift_and_divide),
}


def dps(measurement=IMAGE, penalty=None, operator=blur, **scale) -> DPS:
    return DPS(measurement, operator, scale or {"image": 0.3, "kernel": 0.3}, penalty or {})


def run(components=COMPONENTS, guidance=None, seeds=(0, 1), steps=2, **options) -> None:
    """The sampler to its end, NaN in its last state counted as an error that came too late."""
    for state in sample(components, guidance, seeds, steps, **options):
        assert all(v.isfinite().all() for v in state.x.values()), "NaN travelled on"


class Code:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def adm(file: str):
    """Load a checkpoint of another kind than wanted."""

    def load(folder: Path):
        path, weights = folder / file, dict(UNet(TINY).state_dict())
        kind = path.stem
        if kind == "code":
            torch.save({"a": Code(folder / "ran")}, path)
        elif kind == "plain_pickle":
            path.write_bytes(pickle.dumps(Code(folder / "ran"), protocol=2))
        elif kind == "list":
            torch.save([torch.zeros(1)], path)
        elif kind == "nested":
            torch.save({"model": weights}, path)
        elif kind == "module":
            torch.save(UNet(TINY), path)
        elif kind == "archive":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("a.txt", "b")
        elif kind == "text":
            path.write_text("<html>not found</html>")
        elif kind == "empty":
            path.touch()
        elif kind != "missing":
            if kind == "foreign":
                weights = dict(UNet(replace(TINY, model_channels=8)).state_dict())
            elif kind == "nan":
                weights["out.2.bias"] = torch.tensor([NAN])
            elif kind == "integers":
                weights["out.2.bias"] = torch.zeros(1, dtype=torch.int32)
            save_file(weights, path) if path.suffix == ".safetensors" else torch.save(weights, path)
            if kind.startswith("cut"):
                content = path.read_bytes()
                path.write_bytes(content[: len(content) // 2] if kind == "cut_half" else content[:-100])
        return load_adm(path, TINY)

    return load


def prior(name: str = "small", label=None, **card):
    """Load a prior whose card or file was meddled with; `file` stands for the weights' bytes, None for no file."""

    def load(folder: Path):
        config = CLASSES if card.pop("classes", False) else TINY
        save_prior("small", UNet(config), {"labels": ["a", "b", "any"] if config is CLASSES else []}, folder)
        weights, text = folder / "small.safetensors", folder / "small.json"
        if "file" in card:
            weights.unlink() if card["file"] is None else weights.write_bytes(card["file"](weights.read_bytes()))
        if "network" in card:
            weights.write_bytes(save_prior("other", UNet(card["network"]), {}, folder).read_bytes())
            found = json.loads(text.read_text()) | {"sha256": json.loads((folder / "other.json").read_text())["sha256"]}
            text.write_text(json.dumps(found))
        if "without" in card:
            found = json.loads(text.read_text())
            del found[card["without"]]
            text.write_text(json.dumps(found))
        if "text" in card:
            text.write_text(card["text"])
        return load_prior(name, label, torch.float32, folder)

    return load


def picture(content: bytes, load):
    def call(folder: Path):
        (folder / "photo.png").write_bytes(content)
        return load(folder)

    return call


def small_picture(folder: Path):
    Image.new("RGB", (20, 30)).save(folder / "photo.png")
    return data.picture(folder / "photo.png", 64)


RECIPE = Recipe(TINY, lambda split: lambda n, generator: (torch.zeros(n, 1, 8, 8), None), images=32)


def resume(content, recipe: Recipe = RECIPE, **options):
    def call(folder: Path):
        path = folder / "toy.pt"
        if content is not None:
            path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        return list(train(recipe, path, held_out=64, **options))

    return call


def case(name, call, came, wanted, error=ValueError):
    """A row: its id, what to call (with a folder, if it takes one), and what the message says came and was wanted."""
    return pytest.param(call, error, came, wanted, id=name)


COUNT = r"whole number from 1 to 1000"
STEP = r"-1 \(clean\) to 999"
SEEDS = r"one whole number, 0 or more, per sample"
NAMES = r"the operator takes \['image', 'kernel'\]"
SIZE = r"finite number, 0 or more"
FINITE = r"finite"
LABELS = r"from 0 to 2"
TORCH, SAFE = r"a torch file of named tensors", r"as safetensors"

MEASUREMENTS = [
    case("DPS: step for no component", lambda: dps(image=1.0, kernle=1.0), r"\['image', 'kernle'\]", NAMES),
    case("DPS: step missing", lambda: dps(image=1.0), r"given for \['image'\]", NAMES),
    case("DPS: penalty on no component", lambda: dps(penalty={"tilt": (l1, 1.0)}), "'tilt'", NAMES),
    case("DPS: negative step", lambda: dps(image=-1.0, kernel=1.0), r"image is -1\.0", SIZE),
    case("DPS: NaN step", lambda: dps(image=NAN, kernel=1.0), "image is nan", SIZE),
    case("DPS: a word for a step", lambda: dps(image="1", kernel=1.0), "image is '?1", SIZE),
    case("DPS: negative weight", lambda: dps(penalty={"kernel": (l1, -1.0)}), r"kernel is -1\.0", SIZE),
    case("DPS: infinite weight", lambda: dps(penalty={"kernel": (l1, INF)}), "kernel is inf", SIZE),
    case(
        "DPS: function of negative steps",
        lambda: run(guidance=dps(image=lambda t: -1.0, kernel=1.0)),
        *("-1.0", SIZE),
    ),
    case(
        "DPS: function of NaN steps",
        lambda: run(guidance=dps(image=lambda t: NAN, kernel=1.0)),
        *("nan", SIZE),
    ),
    case("DPS: 3 y, 2 samples", lambda: run(guidance=dps(IMAGE[[0, 0, 1]])), r"\(3, 3, 16, 16\)", r"\(2, 3, 16, 16\)"),
    case("DPS: 1 y, 2 samples", lambda: run(guidance=dps(IMAGE[:1])), r"\(1, 3, 16, 16\)", r"\(2, 3, 16, 16\)"),
    case("DPS: another size", lambda: run(guidance=dps(IMAGE[..., :8])), r"\(2, 3, 16, 8\)", r"\(2, 3, 16, 16\)"),
]

SAMPLING = [
    case("sample: neither seeds nor noise", lambda: sample(COMPONENTS, None), "", "either seeds or noise"),
    case("sample: no components", lambda: sample({}, None, [0]), "no components", "at least one"),
    case(
        "sample: misspelt component",
        lambda: sample({"image": COMPONENTS["image"], "kernle": COMPONENTS["kernel"]}, dps(), [0]),
        *(r"\['image', 'kernle'\]", NAMES),
    ),
    case(
        "sample: component missing", lambda: sample({"image": COMPONENTS["image"]}, dps(), [0]), r"\['image'\]", NAMES
    ),
    case(
        "sample: component too many",
        lambda: sample(COMPONENTS | {"tilt": COMPONENTS["image"]}, dps(), [0]),
        *(r"\['image', 'kernel', 'tilt'\]", NAMES),
    ),
    case(
        "sample: prior that gives NaN",
        lambda: run({"image": Component(lambda x, t: Prediction(x * NAN), (3, 16, 16))}),
        *("image.*NaN", FINITE),
        FloatingPointError,
    ),
    case(
        "sample: prior of another shape",
        lambda: run({"image": Component(mixture(3, 8, 8), (3, 16, 16))}),
        *(r"8, 8", "16, 16"),
    ),
    case(
        "sample: clip upside down",
        lambda: run({"image": replace(COMPONENTS["image"], clip=(1.0, -1.0))}),
        *(r"\(1\.0, -1\.0\)", "low"),
    ),
    case("step: variance", lambda: ancestral_step("medium"), "'medium'", "'small', 'large', 'learned'"),
    case(
        "step: learned variance without one",
        lambda: run(step=ancestral_step("learned")),
        *("this prior predicts noise alone", "wants a network that predicts it"),
    ),
    case("step: eta", lambda: ddim_step(1.5), r"eta is 1\.5", "0 to 1"),
    case("step: eta NaN", lambda: ddim_step(NAN), "eta is nan", "0 to 1"),
    *(
        case(f"schedule: time step {t}", lambda t=t: SCHEDULE.diffuse(IMAGE, IMAGE, t), f"step {t};", STEP)
        for t in (1000, -2, 2.5)
    ),
    case("schedule: a time step is out", lambda: SCHEDULE.tweedie(X, X, torch.tensor([0, 1000])), r"\[0, 1000\]", STEP),
    case("schedule: time steps in 2-D", lambda: SCHEDULE.tweedie(X, X, torch.zeros(1, 2).int()), r"\[\[0, 0\]\]", STEP),
    case(
        "schedule: 3 time steps, 2 samples",
        lambda: SCHEDULE.tweedie(X, X, torch.tensor([0, 1, 2])),
        *("3|0, 1, 2", "2"),
    ),
    case("schedule: True for a time step", lambda: SCHEDULE.diffuse(X, X, True), "True", STEP),
    case("schedule: betas float32", lambda: Schedule(torch.tensor([0.1])), "torch.float32", "float64, 1-D"),
    case("schedule: beta 1", lambda: Schedule(torch.tensor([0.1, 1.0]).double()), r"\[0\.1, 1\]", r"inside \(0, 1\)"),
    case("schedule: beta NaN", lambda: Schedule(torch.tensor([NAN]).double()), "nan", r"inside \(0, 1\)"),
    case("schedule: no steps", lambda: Schedule.cosine(0), "steps is 0", "1 or more"),
    case("schedule: half a step", lambda: Schedule.cosine(2.5), r"2\.5", "whole"),
]

NETWORKS = [
    case("network: 3-D", lambda: replace(TINY, dims=3), "dims is 3", "1 or 2"),
    case("network: odd width", lambda: replace(TINY, model_channels=5), "model_channels is 5", "even"),
    case("network: side", lambda: replace(TINY, image_size=9, patch=2), "image_size 9", "multiple of .* 2"),
    case("network: patch 0", lambda: replace(TINY, patch=0), "patch is 0", "1 or more"),
    case("network: no levels", lambda: replace(TINY, channel_mult=()), r"\(\)", "at least"),
    case("network: no classes", lambda: replace(TINY, num_classes=0), "0", "1 or more"),
    case(
        "network: heads that do not divide",
        lambda: UNet(replace(TINY, model_channels=48, num_head_channels=20)),
        *("20", "divi"),
    ),
    case("network: input of 3 dimensions", lambda: UNet(TINY)(X[0], torch.zeros(1)), r"\(1, 8, 8\)", "B 1 H W"),
    case("network: channels", lambda: UNet(TINY)(IMAGE, torch.zeros(2)), r"\(2, 3, 16, 16\)", "B 1 H W"),
    case("network: one time, 2 samples", lambda: UNet(TINY)(X, torch.zeros(1)), r"\(1,\)", r"one per sample, \(2,\)"),
    case(
        "network: side of the input",
        lambda: UNet(replace(TINY, patch=2))(X[..., :7], torch.zeros(2)),
        *(r"\(2, 1, 8, 7\)", "sides that 2 divides"),
    ),
    case(
        "network: labels", lambda: UNet(TINY)(X, torch.zeros(2), torch.zeros(2)), "labels were given", "without classes"
    ),
    case("network: no labels", lambda: UNet(CLASSES)(X, torch.zeros(2)), "", "labels wanted"),
    case(
        "network: label out of range",
        lambda: UNet(CLASSES)(X, torch.zeros(2), torch.tensor([0, 3])),
        *("3", LABELS),
    ),
    case(
        "network: 3 labels, 2 samples",
        lambda: UNet(CLASSES)(X, torch.zeros(2), torch.tensor([0, 1, 2])),
        *(r"\[0, 1, 2\]", "wanted 2"),
    ),
    case("network: integers", lambda: UNet(TINY)(X.int(), torch.zeros(2)), "int32", "float"),
    case("prior: label without classes", lambda: NetworkPrior(UNet(TINY), 1), "label 1", "without classes"),
    *(
        case(f"prior: label {v}", lambda v=v: NetworkPrior(UNet(CLASSES), v), f"label is {v}", LABELS)
        for v in (3, -1, 0.5)
    ),
    case("prior: a word for a label", lambda: NetworkPrior(UNet(CLASSES), "a"), "'a'", LABELS),
    case(
        "prior: 3 labels, 2 samples",
        lambda: NetworkPrior(UNet(CLASSES), torch.tensor([0, 1, 2]))(X, 3),
        *("3", "2"),
    ),
    *(
        case(
            f"prior: time step {t}",
            lambda t=t: NetworkPrior(UNet(TINY))(X, t),
            f"{t}",
            "999",
        )
        for t in (1000, -5)
    ),
    case(
        "prior: output channels",
        lambda: NetworkPrior(UNet(replace(TINY, in_channels=2, out_channels=3)))(torch.zeros(1, 2, 8, 8), 3),
        *("3", "2 or 4"),
    ),
    case("mixture: weights", lambda: GaussianMixture(SCHEDULE, X, torch.ones(2), 1.0), r"\[1\.0, 1\.0\]", "sum 1"),
    case(
        "mixture: negative weight", lambda: GaussianMixture(SCHEDULE, X, torch.tensor([2.0, -1]), 1.0), "-1.0", "2, non"
    ),
    case(
        "mixture: one weight of two", lambda: GaussianMixture(SCHEDULE, X, torch.ones(1), 1.0), r"\[1\.0\]", "wanted 2"
    ),
    case(
        "mixture: NaN weight",
        lambda: GaussianMixture(SCHEDULE, X, torch.tensor([NAN, 1.0]), 1.0),
        *("(?i)nan", "sum 1|finite"),
    ),
    case(
        "mixture: NaN mean",
        lambda: GaussianMixture(SCHEDULE, X * NAN, torch.ones(2) / 2, 1.0),
        "NaN|nan",
        FINITE,
    ),
    case("mixture: std 0", lambda: GaussianMixture(SCHEDULE, X, torch.ones(2) / 2, 0.0), r"std is 0\.0", "above 0"),
    case("mixture: time step", lambda: mixture(1, 8, 8)(X, 1000), "1000", STEP),
]

FILES = [
    case("load_adm: no file", adm("missing.pt"), r"no checkpoint at .*missing\.pt", "", FileNotFoundError),
    case("load_adm: no safetensors", adm("missing.safetensors"), r"missing\.safetensors", "", FileNotFoundError),
    *(
        case(f"load_adm: {kind}.pt", adm(f"{kind}.pt"), rf"{kind}\.pt", TORCH)
        for kind in ("code", "plain_pickle", "module", "cut", "cut_half", "archive", "text", "empty")
    ),
    *(
        case(f"load_adm: {kind}.safetensors", adm(f"{kind}.safetensors"), rf"{kind}\.safetensors", SAFE)
        for kind in ("cut", "cut_half", "text", "empty")
    ),
    case("load_adm: list", adm("list.pt"), r"list\.pt holds list", "mapping from parameter names to tensors"),
    case("load_adm: nested", adm("nested.pt"), r"nested\.pt holds dict", "mapping from parameter names to tensors"),
    *(
        case(f"load_adm: foreign.{suffix}", adm(f"foreign.{suffix}"), r"weight is \(32, 8\)", r"wanted \(16, 4\)")
        for suffix in ("pt", "safetensors")
    ),
    case("load_adm: NaN", adm("nan.pt"), r"out\.2\.bias.*(NaN|nan)", FINITE),
    case("load_adm: integers", adm("integers.pt"), r"out\.2\.bias.*int32", "float"),
    case("load_prior: unknown", prior("smal"), "no prior is called 'smal'", "there are small"),
    case("load_prior: no weights", prior(file=None), r"no file .*small\.safetensors", "'small'", FileNotFoundError),
    case(
        "load_prior: one bit off",
        prior(file=lambda b: b[:-1] + bytes([b[-1] ^ 1])),
        "SHA-256 [0-9a-f]{64}",
        "wants [0-9a-f]{64}",
    ),
    case("load_prior: cut weights", prior(file=lambda b: b[:-100]), "SHA-256 [0-9a-f]{64}", "wants [0-9a-f]{64}"),
    case(
        "load_prior: foreign weights",
        prior(network=replace(TINY, model_channels=8)),
        r"is \(32, 8\)",
        r"wanted \(16, 4\)",
    ),
    case("load_prior: unknown label", prior(label="dog", classes=True), "no class 'dog'", "a, b, any"),
    case("load_prior: label of none", prior(label="dog"), "no class 'dog'", "it has none"),
    case("load_prior: label number", prior(label=3, classes=True), "label is 3", LABELS),
    case("load_prior: card without SHA-256", prior(without="sha256"), "small", "sha256"),
    case("load_prior: card without network", prior(without="network"), "small", "network"),
    case("load_prior: broken card", prior(text="{"), r"small\.json", ""),
    case("picture: text", picture(b"hello", lambda f: data.picture(f / "photo.png")), r"photo\.png", "is no image"),
    case("folder: text", picture(b"hello", data.folder), r"photo\.png", "is no image"),
    case("folder: missing", lambda folder: data.folder(folder / "none"), "none", "no folder with images"),
    case("folder: empty", data.folder, "", "no folder with images"),
    case("picture: too small", small_picture, "size=20x30", "64 or more pixels a side"),
    case("datasets: name", lambda: data.load("dogs", "test"), "'dogs'", "photos.*digits.*faces.*cats"),
    case("datasets: split", lambda: data.load("digits", "val"), "'val'", r"'digits': \('train', 'test'\)"),
    case("datasets: photograph", lambda: data.photograph("moon"), "'moon'", "'astronaut', 'cat'"),
    case(
        "reproduce: scale",
        lambda folder: paths.results_dir("huge", folder),
        "'huge'",
        "smoke, pocket, bench, paper",
    ),
    case("train: foreign network", resume({"config": {"dims": 1}}), "of another run", ""),
    case("train: foreign file", resume({"a": 1}), r"toy\.pt", "checkpoint"),
    case("train: cut checkpoint", resume(b"abc"), r"toy\.pt", "checkpoint"),
    case("train: no images", lambda: replace(RECIPE, images=0), "images is 0", "1 or more"),
    case(
        "train: few held out",
        lambda folder: list(train(RECIPE, folder / "toy.pt", held_out=10)),
        "held_out is 10",
        "64",
    ),
    case("train: name", lambda: __main__.main(["dogs"]), "2", "", SystemExit),
]


def test_the_same_calls_with_nothing_wrong_go_through(tmp_path):
    run(guidance=dps(penalty={"kernel": (l1, 0.1)}))
    assert isinstance(adm("sound.pt")(tmp_path), UNet)
    assert isinstance(adm("sound.safetensors")(tmp_path), UNet)
    assert isinstance(prior(label="b", classes=True)(tmp_path), NetworkPrior)
    assert resume(None)(tmp_path)[-1]["seen"] == 32


@pytest.mark.parametrize(("call", "error", "came", "wanted"), MEASUREMENTS + SAMPLING + NETWORKS + FILES)
def test_what_is_wrong_is_refused_with_what_came_and_what_was_wanted(call, error, came, wanted, tmp_path):
    takes_folder = call is data.folder or call.__code__.co_varnames[: call.__code__.co_argcount][:1] == ("folder",)
    with pytest.raises(error) as raised:
        call(tmp_path) if takes_folder else call()
    message = str(raised.value)
    assert raised.type is error
    assert re.search(came, message, re.DOTALL), message
    assert re.search(wanted, message, re.DOTALL), message
    assert not (tmp_path / "ran").exists(), "a pickle ran its code"
