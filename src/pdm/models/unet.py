"""The ADM U-Net (Dhariwal & Nichol, "Diffusion Models Beat GANs on Image Synthesis", 2021), in 1-D and 2-D.

Parameter names and shapes are those of the public guided-diffusion checkpoints, so that the weights released
with BlindDPS load with ``strict=True``. `patch` folds blocks of pixels into channels before the first
convolution and unfolds them after the last: patch 1 is plain ADM.
"""

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pdm import checks
from pdm.models.group_norm import GroupNorm

NORM_GROUPS = 32


@dataclass(frozen=True)
class UNetConfig:
    """Hyper-parameters of the ADM U-Net, by the names that its authors use.

    `image_size` is the side (or length, in 1-D) of the signal before patches are folded; attention stands at the
    levels whose feature maps have the side `attention_resolution`; `out_channels` is `in_channels` for a network
    that predicts noise, and twice that where it also predicts the variance of the reverse step.
    """

    image_size: int
    model_channels: int
    in_channels: int = 3
    out_channels: int = 3
    channel_mult: tuple[int, ...] = (1, 2, 4)
    num_res_blocks: int = 1
    attention_resolution: int = 8
    num_head_channels: int = 64
    num_classes: int | None = None
    patch: int = 1
    dims: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "channel_mult", tuple(self.channel_mult))
        if self.dims not in (1, 2):
            raise ValueError(f"dims is {self.dims}; the network is built in 1 or 2 dimensions")
        if self.model_channels < 2 or self.model_channels % 2:
            raise ValueError(f"model_channels is {self.model_channels}; wanted a positive even number")
        if not self.channel_mult or min(self.channel_mult) < 1:
            raise ValueError(f"channel_mult is {self.channel_mult}; wanted at least one level, multiples of 1 or more")
        for name in ("patch", "num_res_blocks", "num_classes"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}; wanted 1 or more")
        if self.image_size % self.stride:
            raise ValueError(f"image_size {self.image_size} is no multiple of patch times down-sampling, {self.stride}")

    @property
    def stride(self) -> int:
        """Pixels of the input that one element of the coarsest feature map stands for, along a side."""
        return self.patch * 2 ** (len(self.channel_mult) - 1)

    def as_dict(self) -> dict:
        """The hyper-parameters as plain JSON types."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def _norm(channels: int) -> GroupNorm:
    """Group norm in ADM's 32 groups, or as many of them as divide a width that is no multiple of 32."""
    return GroupNorm(math.gcd(NORM_GROUPS, channels), channels, dtype=torch.float32)


def _silent(layer: nn.Module) -> None:
    """Zero weights and bias."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def _conv(dims: int, channels: int, out: int, size: int, padding: int = 0) -> nn.Conv1d | nn.Conv2d:
    return (nn.Conv1d if dims == 1 else nn.Conv2d)(channels, out, size, padding=padding, dtype=torch.float32)


def _linear(channels: int, out: int) -> nn.Linear:
    return nn.Linear(channels, out, dtype=torch.float32)  # whatever torch's default dtype is, as all layers


def fold_patches(x: Tensor, patch: int) -> Tensor:
    """Move each block of `patch` pixels a side into channels: B C *S -> B C*patch^d *(S/patch)."""
    if x.dim() == 4:
        return F.pixel_unshuffle(x, patch)
    return x.unflatten(2, (-1, patch)).transpose(2, 3).flatten(1, 2)


def unfold_patches(x: Tensor, patch: int) -> Tensor:
    """Undo `fold_patches`: B C*patch^d *S -> B C *(S*patch)."""
    if x.dim() == 4:
        return F.pixel_shuffle(x, patch)
    return x.unflatten(1, (-1, patch)).transpose(2, 3).flatten(2)


def timestep_embedding(t: Tensor, channels: int) -> Tensor:
    """Sinusoidal embedding of the time step: B -> B channels, cosines first, periods from 2 pi to 20000 pi.

    Source: Vaswani et al. 2017, in the order of channels that ADM uses.
    """
    half = channels // 2
    rate = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angle = t.float()[:, None] * rate
    return torch.cat([angle.cos(), angle.sin()], dim=1)


class ResBlock(nn.Module):
    """Two convolutions around a scale-and-shift by the time embedding; optionally halves or doubles the side."""

    def __init__(
        self, dims: int, channels: int, out_channels: int, embedding: int, resample: str | None = None
    ) -> None:
        super().__init__()
        pool = nn.AvgPool1d(2) if dims == 1 else nn.AvgPool2d(2)
        self.resample = {None: nn.Identity(), "down": pool, "up": nn.Upsample(scale_factor=2)}[resample]
        self.in_layers = nn.Sequential(_norm(channels), nn.SiLU(), _conv(dims, channels, out_channels, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), _linear(embedding, 2 * out_channels))
        self.out_layers = nn.Sequential(  # the third is ADM's dropout, kept so that the fourth has its number
            _norm(out_channels),
            nn.SiLU(),
            nn.Identity(),
            _conv(dims, out_channels, out_channels, 3, padding=1),
        )
        _silent(self.out_layers[3])
        self.skip_connection = nn.Identity() if channels == out_channels else _conv(dims, channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm, act, conv = self.in_layers
        h, x = conv(self.resample(act(norm(x)))), self.resample(x)
        scale, shift = self.emb_layers(emb).chunk(2, dim=1)  # B C each
        norm, act, _, conv = self.out_layers
        h = conv(act(norm(h, scale, shift)))
        return self.skip_connection(x) + h


class AttentionBlock(nn.Module):
    """Self-attention over all positions; heads are split before queries, keys and values (ADM's legacy order)."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        if channels % head_channels and channels > head_channels:
            raise ValueError(f"{head_channels} channels a head do not divide the attention's {channels} channels")
        self.heads = max(1, channels // head_channels)
        self.norm = _norm(channels)
        self.qkv = _conv(1, channels, 3 * channels, 1)
        self.proj_out = _conv(1, channels, channels, 1)
        _silent(self.proj_out)

    def forward(self, x: Tensor) -> Tensor:
        b, c = x.shape[:2]
        qkv = self.qkv(self.norm(x).reshape(b, c, -1))  # B 3C L
        q, k, v = qkv.reshape(b, self.heads, 3, c // self.heads, -1).transpose(-1, -2).unbind(2)  # B heads L c
        h = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(b, c, -1)
        return x + self.proj_out(h).reshape(x.shape)


class Stage(nn.Sequential):
    """Layers in a row, of which the residual blocks take the time embedding too."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x


class UNet(nn.Module):
    """The ADM U-Net; `forward(x, t, y)` maps a noisy signal and its time step to `out_channels` channels.

    Its weights are float32 on `device`, whatever torch's defaults are.
    """

    def __init__(self, config: UNetConfig, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.config = config
        with torch.device(device):
            self._build(config)

    def _build(self, config: UNetConfig) -> None:
        dims, width, fold = config.dims, config.model_channels, config.patch**config.dims
        embedding = 4 * width
        self.time_embed = nn.Sequential(_linear(width, embedding), nn.SiLU(), _linear(embedding, embedding))
        if config.num_classes is not None:
            self.label_emb = nn.Embedding(config.num_classes, embedding, dtype=torch.float32)

        def stage(channels: int, out: int, side: int, resample: str | None = None) -> list[nn.Module]:
            layers: list[nn.Module] = [ResBlock(dims, channels, out, embedding, resample)]
            if resample is None and side == config.attention_resolution:
                layers.append(AttentionBlock(out, config.num_head_channels))
            return layers

        side, levels = config.image_size // config.patch, len(config.channel_mult)
        channels = config.channel_mult[0] * width
        self.input_blocks = nn.ModuleList([Stage(_conv(dims, config.in_channels * fold, channels, 3, padding=1))])
        skips = [channels]
        for level, mult in enumerate(config.channel_mult):
            for _ in range(config.num_res_blocks):
                self.input_blocks.append(Stage(*stage(channels, mult * width, side)))
                channels = mult * width
                skips.append(channels)
            if level < levels - 1:
                self.input_blocks.append(Stage(*stage(channels, channels, side, "down")))
                skips.append(channels)
                side //= 2

        self.middle_block = Stage(
            ResBlock(dims, channels, channels, embedding),
            AttentionBlock(channels, config.num_head_channels),
            ResBlock(dims, channels, channels, embedding),
        )

        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            for i in range(config.num_res_blocks + 1):
                layers = stage(channels + skips.pop(), mult * width, side)
                channels = mult * width
                if level > 0 and i == config.num_res_blocks:
                    layers += stage(channels, channels, side, "up")
                    side *= 2
                self.output_blocks.append(Stage(*layers))

        head = _conv(dims, channels, config.out_channels * fold, 3, padding=1)
        self.out = nn.Sequential(_norm(channels), nn.SiLU(), head)
        _silent(head)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Predict from the noisy signal `x` at time step `t`.

        Args: `x` B C *S, scaled as the network was trained (here [-1, 1] at t = 0); `t` B, the time step
        0..N-1; `y` B, class labels, where the network has classes.
        Returns: B out_channels *S.
        Raises: ValueError for a wrong number of dimensions, channels or labels, or a side that does not divide.
        """
        config = self.config
        checks.tensor("x", x, f"B {config.in_channels} " + " ".join("HW"[: config.dims]), finite=False)
        checks.tensor("time steps", t.float() if isinstance(t, Tensor) else t, "B", finite=False)
        if x.dtype != (dtype := self.out[0].weight.dtype) and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(f"x is {x.dtype}; wanted the network's {dtype}")
        if any(n % config.stride for n in x.shape[2:]):
            raise ValueError(f"input has the shape {tuple(x.shape)}; wanted sides that {config.stride} divides")
        if t.shape != x.shape[:1]:
            raise ValueError(f"time steps have the shape {tuple(t.shape)}; wanted one per sample, ({x.shape[0]},)")
        if (y is None) != (config.num_classes is None):
            raise ValueError("labels were given to a network without classes" if y is not None else "labels wanted")
        if y is not None and config.num_classes and (y.shape != t.shape or ((y < 0) | (y >= config.num_classes)).any()):
            raise ValueError(f"labels are {y.tolist()}; wanted {len(x)} of them, from 0 to {config.num_classes - 1}")
        emb = self.time_embed(timestep_embedding(t, config.model_channels).to(next(self.time_embed.parameters()).dtype))
        if y is not None:
            emb = emb + self.label_emb(y)
        h, skips = fold_patches(x, config.patch), []
        for block in self.input_blocks:
            h = block(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb)
        return unfold_patches(self.out(h), config.patch)
