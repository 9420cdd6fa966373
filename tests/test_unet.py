"""The U-Net against the released checkpoints' names, outputs of the original code, torch's own layers and loops."""

import ast
import json
import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

from pdm.models import UNet, UNetConfig, load_adm
from pdm.models.unet import AttentionBlock, fold_patches, timestep_embedding, unfold_patches

ADM = Path(__file__).parent / "data" / "adm"
MANIFEST = json.loads((ADM / "manifest.json").read_text())
TINY = ("tiny_image", "tiny_kernel", "tiny_class")
SMALL = UNetConfig(16, 8, 2, 2, channel_mult=(1, 2), attention_resolution=8, num_head_channels=4)


def random_network(config: UNetConfig, seed: int = 0) -> UNet:
    """A float64 network with no parameter left at its initial zero."""
    net, generator = UNet(config).double().requires_grad_(False), torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p += 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return net


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tiny(name: str) -> tuple[UNetConfig, dict, dict]:
    """Configuration, weights and the recorded input and output of a small network of the original code."""
    with safe_open(ADM / f"{name}.safetensors", "pt") as file:
        m, tensors = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}
    channels = int(m["cin"])
    config = UNetConfig(
        image_size=int(m["size"]),
        model_channels=int(m["ch"]),
        in_channels=channels,
        out_channels=channels * (1 if m.get("sig", "True") == "False" else 2),
        channel_mult=ast.literal_eval(m["mult"]),
        num_res_blocks=int(m.get("nres", 1)),
        attention_resolution=int(m["attn"]),
        num_head_channels=int(m["hc"]),
        num_classes=int(m["ncls"]) if "ncls" in m else None,
    )
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
    return config, weights, {k: v for k, v in tensors.items() if not k.startswith("weights.")}


# ---- the released checkpoints and the original code ----


@pytest.mark.parametrize("name", MANIFEST)
def test_names_shapes_and_order_are_those_of_the_released_checkpoint(name):
    entry = MANIFEST[name]
    with torch.device("meta"):
        net = UNet(UNetConfig(**{f.name: entry[f.name] for f in fields(UNetConfig) if f.name in entry}))
    assert [(n, list(v.shape)) for n, v in net.state_dict().items()] == list(entry["parameters"].items())


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("name", TINY)
def test_loaded_from_either_format_it_gives_the_output_of_the_original_code(name, suffix, tmp_path):
    config, weights, given = tiny(name)
    path = tmp_path / f"weights.{suffix}"
    torch.save(weights, path) if suffix == "pt" else save_file(weights, path)
    net = load_adm(path, config)
    assert all(torch.equal(v, weights[n]) for n, v in net.state_dict().items())
    with torch.no_grad():
        output = net(given["input.x"], given["input.t"], given.get("input.y"))
    assert given["output"].std() > 1e-2  # else zeros would do
    torch.testing.assert_close(output, given["output"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_loading_is_strict_and_names_the_parameter(change, tmp_path):
    weights = dict(UNet(SMALL).state_dict())
    if change == "missing":
        del weights["out.2.bias"]
    elif change == "unexpected":
        weights["out.3.bias"] = torch.zeros(2)
    else:
        weights["out.2.bias"] = torch.zeros(3)
    torch.save(weights, tmp_path / "weights.pt")
    message = {"missing": r"missing out\.2\.bias \(2,\)", "unexpected": r"unexpected out\.3\.bias \(2,\)"}
    with pytest.raises(ValueError, match=message.get(change, r"out\.2\.bias is \(3,\), wanted \(2,\)")):
        load_adm(tmp_path / "weights.pt", SMALL)


def test_a_configuration_survives_json():
    config = UNetConfig(64, 48, channel_mult=(1, 2, 4), num_classes=4, patch=2)
    assert UNetConfig(**json.loads(json.dumps(config.as_dict()))) == config


# ---- parts ----


@pytest.mark.parametrize("patch", [1, 2, 3])
@pytest.mark.parametrize("dims", [1, 2])
def test_folding_moves_each_pixel_of_a_block_to_its_own_channel(dims, patch):
    x = torch.arange(2.0 * 3 * 6 * 12).reshape(2, 3, 6, 12)[:, :, :, : 6 * 2]
    if dims == 1:
        x = x.reshape(2, 3, 72)
    folded = fold_patches(x, patch)
    assert folded.shape == (2, 3 * patch**dims, *(n // patch for n in x.shape[2:]))
    for c in range(3):
        for i in range(patch):
            if dims == 1:
                assert torch.equal(folded[:, c * patch + i], x[:, c, i::patch])
                continue
            for j in range(patch):
                assert torch.equal(folded[:, (c * patch + i) * patch + j], x[:, c, i::patch, j::patch])
    assert torch.equal(unfold_patches(folded, patch), x)


@pytest.mark.parametrize("channels", [2, 6, 48])
def test_timestep_embedding_is_cosines_then_sines_of_falling_rates(channels):
    times = [0, 1, 137, 999]
    rates = [10_000 ** (-i / (channels // 2)) for i in range(channels // 2)]
    rows = [[math.cos(t * r) for r in rates] + [math.sin(t * r) for r in rates] + [0.0] * (channels % 2) for t in times]
    torch.testing.assert_close(timestep_embedding(torch.tensor(times), channels), torch.tensor(rows), rtol=0, atol=2e-4)


@pytest.mark.parametrize("shape", [(10,), (3, 4)])
@pytest.mark.parametrize("head_channels", [4, 12, 64])
def test_attention_is_torchs_multi_head_attention(head_channels, shape):
    channels, heads = 12, max(1, 12 // head_channels)
    block = AttentionBlock(channels, head_channels).double().requires_grad_(False)
    for i, p in enumerate(block.parameters()):
        p += random(*p.shape, seed=i)
    x = random(2, channels, *shape)
    normed = F.group_norm(x, 4, block.norm.weight, block.norm.bias).flatten(2).permute(2, 0, 1)  # L B C
    order = torch.arange(3 * channels).reshape(heads, 3, -1).transpose(0, 1).flatten()  # heads outermost -> q, k, v
    attended, _ = F.multi_head_attention_forward(
        *(normed, normed, normed, channels, heads, block.qkv.weight[order, :, 0], block.qkv.bias[order], None, None),
        *(False, 0.0, block.proj_out.weight[:, :, 0], block.proj_out.bias),
    )
    torch.testing.assert_close(block(x), x + attended.permute(1, 2, 0).reshape(x.shape))


@pytest.mark.parametrize("width", [32, 48, 20])
def test_group_norms_take_the_most_of_adms_32_groups_that_divide_their_width(width):
    net = UNet(replace(SMALL, model_channels=width))
    norms = [m for m in net.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert {m.num_channels for m in norms} >= {width, 2 * width}
    for norm in norms:
        assert norm.num_groups == max(g for g in (1, 2, 4, 8, 16, 32) if norm.num_channels % g == 0)


# ---- the whole ----


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("dims", [1, 2])
def test_a_fresh_network_gives_zeros_of_the_output_shape(dims, patch):
    config = replace(SMALL, out_channels=4, dims=dims, patch=patch)
    with torch.no_grad():
        out = UNet(config)(torch.randn(3, 2, *[16] * dims), torch.tensor([0, 5, 999]))
    assert out.shape == (3, 4, *[16] * dims)
    assert not out.any()


@pytest.mark.parametrize("patch", [1, 2])
def test_attention_stands_where_feature_maps_have_the_side_asked_for(patch):
    net, sides = UNet(UNetConfig(32, 8, 1, 1, (1, 1, 2), attention_resolution=8, num_head_channels=8, patch=patch)), {}
    for name, module in net.named_modules():
        if isinstance(module, AttentionBlock):
            module.register_forward_hook(lambda m, x, y, name=name: sides.update({name: y.shape[-1]}))
    with torch.no_grad():
        net(torch.zeros(1, 1, 32, 32), torch.zeros(1))
    assert sides.pop("middle_block.1") == 32 // patch // 4
    assert set(sides.values()) == {8}
    assert len(sides) == 1 + 2  # one residual block going down, two going up


def lift(line: UNet, plane: UNet) -> None:
    """Give a 2-D network the weights with which it treats each row of an image as the 1-D network treats a line."""
    patch, state = plane.config.patch, {}
    for name, wanted in plane.state_dict().items():
        v = line.state_dict()[name]
        if name == "input_blocks.0.0.weight":  # reads the first row of each patch
            full = v.new_zeros(v.shape[0], plane.config.in_channels, patch, patch, 3, 3)
            full[:, :, 0, :, 1] = v.reshape(v.shape[0], -1, patch, 3)
        elif name.startswith("out.2"):  # writes every row of each patch
            v = v[..., None, :].expand(*v.shape[:-1], 3, -1) if v.dim() == 3 else v
            full = v.reshape(-1, 1, patch, *v.shape[1:]).repeat(1, patch, *[1] * v.dim())
            if v.dim() == 4:
                full[..., [0, 2], :] = 0
        elif v.shape != wanted.shape:
            full = v.new_zeros(wanted.shape)
            full[:, :, wanted.shape[2] // 2] = v
        else:
            full = v
        state[name] = full.reshape(wanted.shape)
    plane.load_state_dict(state)


@pytest.mark.parametrize("patch", [1, 2])
def test_the_1d_network_is_the_2d_network_on_images_of_equal_rows(patch):
    config = replace(SMALL, attention_resolution=4 * (3 - patch), patch=patch, num_classes=3, dims=1)
    line, plane = random_network(config), UNet(replace(config, dims=2)).double()
    lift(line, plane)
    x, t, y = random(2, 2, 16), torch.tensor([3, 700]), torch.tensor([0, 2])
    with torch.no_grad():
        out = line(x, t, y)
        image = plane(x[:, :, None].expand(-1, -1, 16, -1), t, y)
    assert out.std() > 1e-2
    torch.testing.assert_close(image, out[:, :, None].expand_as(image))


def test_a_patch_is_another_way_to_say_more_channels():
    whole = random_network(replace(SMALL, patch=2))
    folded = UNet(replace(SMALL, image_size=8, in_channels=8, out_channels=8)).double()
    folded.load_state_dict(whole.state_dict())
    x, t = random(2, 2, 16, 16), torch.tensor([3, 700])
    with torch.no_grad():
        torch.testing.assert_close(F.pixel_unshuffle(whole(x, t), 2), folded(F.pixel_unshuffle(x, 2), t))


def test_a_batch_gives_what_its_members_give_and_time_and_label_count():
    net, x = random_network(replace(SMALL, num_classes=3)), random(3, 2, 16, 16)
    t, y = torch.tensor([0, 400, 999]), torch.tensor([2, 0, 1])
    with torch.no_grad():
        batch = net(x, t, y)
        for i in range(3):
            torch.testing.assert_close(net(x[i : i + 1], t[i : i + 1], y[i : i + 1])[0], batch[i])
        assert (net(x, t + torch.tensor([1, -1, -1]), y) - batch).flatten(1).norm(dim=1).min() > 1e-6
        assert (net(x, t, (y + 1) % 3) - batch).flatten(1).norm(dim=1).min() > 1e-3


def test_another_side_than_the_trained_one_is_taken_if_it_divides():
    net = random_network(SMALL)
    with torch.no_grad():
        assert net(random(1, 2, 24, 8), torch.tensor([3])).shape == (1, 2, 24, 8)
