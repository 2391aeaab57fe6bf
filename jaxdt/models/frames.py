"""What a network sees of pictures: stacks of the last ones, and convolutions over each stack.

XLA's gradient of a convolution within a scan takes 13 to 20 times as long on a CPU as outside of one, and training
scans over the updates of a call. So a CPU multiplies matrices instead, a few stacks at a time, whose copies stay in its
caches; for the backward pass only what each convolution gave is kept of all, 84 KB a stack of 84 x 84 pixels. Other
devices convolve all stacks at once. The numbers agree but for rounding.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int, Num

from jaxdt.config.atari_dt import STACK, convolutions_for
from jaxdt.models.initialization import Uniform
from jaxdt.models.layers import dense, table, times, torch_linear
from jaxdt.stacking import in_cpu_blocks


BLOCK = 10
"""Most stacks that a CPU convolves at once."""
_CONVOLVED = "convolved"


def stacks_of(frames: Num[Array, "b n *s"], timesteps: Int[Array, "b t"] | None = None) -> Num[Array, "b t h w c"]:
    """At each step the last four pictures, oldest first, along the channels; t is n - 3.

    Of `frames` the first three came before the first step. `timesteps`: how many steps came before each in its episode,
    where earlier pictures may be of another one; they are then black.
    """
    steps = frames.shape[1] - STACK + 1
    if frames.ndim == 4:
        frames = frames[..., None]
    seen = [frames[:, i : i + steps] for i in range(STACK)]
    if timesteps is not None:
        own = [timesteps[:, :, None, None, None] >= STACK - 1 - i for i in range(STACK)]
        seen = [jnp.where(is_own, each, 0) for is_own, each in zip(own, seen, strict=True)]
    return jnp.concatenate(seen, axis=-1)


class FrameEncoder(nnx.Module):
    """One vector for each stack of pictures, of an observation's shape (h, w) or (h, w, c)."""

    def __init__(self, observation_shape: tuple[int, ...], width: int, *, rngs: nnx.Rngs):
        height, across, *channels = observation_shape
        inputs = STACK * math.prod(channels)
        layers = convolutions_for(observation_shape)
        self.strides = tuple(layer.stride for layer in layers)
        self.convolutions = nnx.Dict({})
        for i, (outputs, size, stride) in enumerate(layers):
            # PyTorch's default, which the original leaves in place.
            bound = Uniform(1 / math.sqrt(size * size * inputs))
            layer = {"kernel": table((size, size, inputs, outputs), bound), "bias": table((outputs,), bound)}
            self.convolutions[f"convolution_{i}"] = nnx.Dict(layer)
            height, across, inputs = (height - size) // stride + 1, (across - size) // stride + 1, outputs
        self.project = torch_linear(height * across * inputs, width, rngs)

    def __call__(
        self, frames: Num[Array, "b n *s"], timesteps: Int[Array, "b t"] | None = None, *, learning: bool = False
    ) -> Float[Array, "b t d"]:
        """Pictures of whole numbers are those of 0 ... 255; others are taken as they are.

        `timesteps`: see `stacks_of`. `learning`: gradients will be asked for.
        """
        steps = frames.shape[1] - STACK + 1
        if jax.default_backend() != "cpu":
            return self._encode(frames, timesteps, by_products=False)
        encode = partial(self._encode, by_products=True)
        if learning:  # copies that only the products need are made anew in the backward pass, not kept of all blocks
            encode = jax.checkpoint(encode, policy=jax.checkpoint_policies.save_only_these_names(_CONVOLVED))
        return in_cpu_blocks(encode, max(1, BLOCK // steps), frames, timesteps)

    def _encode(
        self, frames: Num[Array, "b n *s"], timesteps: Int[Array, "b t"] | None, *, by_products: bool
    ) -> Float[Array, "b t d"]:
        layers = [self.convolutions[f"convolution_{i}"] for i in range(len(self.strides))]
        kernels, strides = [jnp.asarray(layer["kernel"][...]) for layer in layers], list(self.strides)
        frames = frames[..., None] if frames.ndim == 4 else frames
        x = frames.astype(jnp.float32) / (255 if jnp.issubdtype(frames.dtype, jnp.integer) else 1)
        if by_products and len(kernels[0]) == 2 * strides[0]:
            # Cut into tiles here, each picture is once, and not in each of its four stacks.
            x, kernels[0], strides[0] = _tiles(x, strides[0]), _of_tiles(kernels[0], strides[0]), 1
        stacks = stacks_of(x, timesteps)
        x = stacks.reshape(-1, *stacks.shape[2:])
        for layer, kernel, stride in zip(layers, kernels, strides, strict=True):
            convolved = (_convolve_by_products if by_products else _convolve)(x, kernel, stride)
            x = convolved + layer["bias"][...][None, None, None]
            x = jax.nn.relu(checkpoint_name(x, _CONVOLVED))
        return jnp.tanh(dense(self.project, x.reshape(*stacks.shape[:2], -1)))


def _convolve(x: Float[Array, "n h w i"], kernel: Float[Array, "k k i o"], stride: int) -> Float[Array, "n y x o"]:
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _convolve_by_products(
    x: Float[Array, "n h w i"], kernel: Float[Array, "k k i o"], stride: int
) -> Float[Array, "n y x o"]:
    """The same by matrix products."""
    size, _, inputs, outputs = kernel.shape
    rows, columns = ((side - size) // stride + 1 for side in x.shape[1:3])
    if size != 2 * stride:
        patches = [_cut(x, rows, columns, i, j, stride) for i in range(size) for j in range(size)]
        return times(jnp.concatenate(patches, axis=-1), kernel.reshape(-1, outputs))
    # A kernel of two strides: tiles of one stride are multiplied by its four quarters, and shifted sums of them are it.
    tiled = _tiles(x, stride)
    quarters = kernel.reshape(2, stride, 2, stride, inputs, outputs).transpose(1, 3, 4, 0, 2, 5)
    each = times(tiled, quarters.reshape(-1, 4 * outputs))
    shifted = [
        _cut(part, rows, columns, i, j) for part, (i, j) in zip(jnp.split(each, 4, axis=-1), _QUARTERS, strict=True)
    ]
    return sum(shifted[1:], shifted[0])


_QUARTERS = ((0, 0), (0, 1), (1, 0), (1, 1))


def _tiles(x: Float[Array, "*b h w c"], side: int) -> Float[Array, "*b y x d"]:
    """Squares of so many pixels a side as channels; what is left at the right and the bottom is not seen."""
    *batch, height, across, channels = x.shape
    rows, columns = height // side, across // side
    x = jax.lax.slice_in_dim(jax.lax.slice_in_dim(x, 0, rows * side, axis=-3), 0, columns * side, axis=-2)
    x = x.reshape(*batch, rows, side, columns, side, channels)
    return x.swapaxes(-4, -3).reshape(*batch, rows, columns, side * side * channels)


def _of_tiles(kernel: Float[Array, "k k i o"], stride: int) -> Float[Array, "2 2 d o"]:
    """What gives of stacks of tiles, at a stride of 1, what a kernel of two strides gives of stacks of pictures."""
    outputs = kernel.shape[-1]
    split = kernel.reshape(2, stride, 2, stride, STACK, -1, outputs)
    return split.transpose(0, 2, 4, 1, 3, 5, 6).reshape(2, 2, -1, outputs)


def _cut(
    x: Float[Array, "n h w c"], rows: int, columns: int, top: int = 0, left: int = 0, stride: int = 1
) -> Float[Array, "n y x c"]:
    """So many rows and columns, every `stride`-th from a corner on.

    One axis at a time: indices on both become a gather where a program is for any number of pictures.
    """
    tall = jax.lax.slice_in_dim(x, top, top + stride * (rows - 1) + 1, stride, axis=1)
    return jax.lax.slice_in_dim(tall, left, left + stride * (columns - 1) + 1, stride, axis=2)
