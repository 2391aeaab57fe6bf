"""The Decision Transformer of frames (Chen et al. 2021, their code for Atari): discrete actions from pictures."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Num, PRNGKeyArray, PyTree

from jaxdt.algorithms.decision_transformer import empty_window, masked_cross_entropy, push
from jaxdt.algorithms.normalization import action_error, choose_action, to_environment
from jaxdt.algorithms.token_schedule import TokenScheduledUpdate
from jaxdt.config import AtariDTConfig, ModelConfig
from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.frames import BEFORE, FrameSampler
from jaxdt.data.statistics import statistics_of
from jaxdt.data.storage import chunks
from jaxdt.models import AtariModel, build_atari_model
from jaxdt.models.attention import DecodeCache
from jaxdt.stacking import in_cpu_blocks
from jaxdt.training import GradientUpdate, initial_state
from jaxdt.types import Algorithm, Discrete, Policy, Spec, Window


WARMUP_TOKENS = 512 * 20
FINAL_PASSES = 2
"""Over the data, of three tokens a step that are counted as one: six."""
BLOCK = 32
"""Most windows that a CPU reads at once."""


Center = Callable[[Num[Array, "b n *s"]], Num[Array, "b n *s"]]


def measure(config: AtariDTConfig, store: EpisodeStore) -> dict[str, np.ndarray]:
    """The longest episode, as long as the table of timesteps is, and how many windows a pass over the data has.

    With `center_frames` the mean picture, and one standard deviation of all pixels from it. Warns where dividing by 255
    would leave nothing to see.
    """
    if not config.center_frames and store.observations.dtype.kind in "iu":
        brightest = max(int(chunk.max()) for chunk in chunks(store.observations))
        if brightest < 32:
            warnings.warn(
                f"pictures of whole numbers are divided by 255, and these are at most {brightest}; give "
                "center_frames=True (--center-frames), or the pictures as floats.",
                stacklevel=3,
            )
    windows = max(store.num_steps - 3 * config.context_length, 0)  # the authors', of a block of three tokens a step
    measured = {"longest_episode": float(store.lengths.max()), "windows": float(windows)}
    if config.center_frames:
        mean, std = statistics_of(store.observations)
        measured |= {"frame_mean": mean, "frame_std": np.sqrt(np.mean(np.square(std, dtype=np.float64)))}
    return {name: np.asarray(value, np.float32) for name, value in measured.items()}


def make(config: AtariDTConfig, spec: Spec) -> Algorithm:
    """Raises JaxdtError where config and spec do not fit together."""
    config.check_spec(spec)
    model, center = _network(config, spec), _centering(config, spec)

    def predict(params: PyTree[Array], window: Window, key: PRNGKeyArray | None = None) -> Float[Array, "b t n"]:
        window = window._replace(states=center(window.states))
        if config.random_shift and key is not None:
            key, shift_key = jax.random.split(key)
            window = window._replace(states=_shifted(window.states, config.random_shift, shift_key))
        return model.apply(params, window, across_episodes=config.windows_cross_episodes, key=key)

    def loss(params: PyTree[Array], window: Window, key: PRNGKeyArray | None) -> Float[Array, ""]:
        return masked_cross_entropy(predict(params, window, key), window.actions, window.mask)

    def validate(params: PyTree[Array], window: Window) -> dict[str, Float[Array, ""]]:
        logits = predict(params, window)
        return {
            "loss": masked_cross_entropy(logits, window.actions, window.mask),
            "action_error": action_error(logits, window.actions, window.mask),
        }

    if config.token_schedule:
        final = FINAL_PASSES * int(spec.constants["windows"]) * config.context_length * 3
        update = TokenScheduledUpdate(loss, _num_tokens, config.optimizer, WARMUP_TOKENS, final)
        start = update.init
    else:
        update, start = GradientUpdate(loss, config.optimizer), partial(initial_state, config=config.optimizer)
    return Algorithm(
        init=lambda key: start(model.init(key)),
        update=update,
        policy=_policy(config, spec, model, center),
        sampler=partial(
            FrameSampler, context_length=config.context_length, cross_episodes=config.windows_cross_episodes
        ),
        validate=validate,
    )


def _network(config: AtariDTConfig, spec: Spec) -> AtariModel:
    assert isinstance(spec.action, Discrete)
    sizes = ModelConfig(
        width=config.width,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        context_length=config.context_length,
        activation="gelu",
        embedding_dropout=config.dropout,
        attention_dropout=config.dropout,
        residual_dropout=config.dropout,
        dtype=config.dtype,
    )
    return build_atari_model(
        sizes,
        observation_shape=spec.observation_shape,
        num_actions=spec.action.n,
        timesteps=_timesteps(config, spec),
        conditioned=config.conditioned,
        positions=config.positions,
    )


def _timesteps(config: AtariDTConfig, spec: Spec) -> int | None:
    """Rows of the table of timesteps. One is left over, as in the original, unless later steps would share it."""
    longest = int(spec.constants["longest_episode"])
    return longest + (config.positions == "window") if config.timestep_embedding else None


def _num_tokens(window: Window) -> Int[Array, ""]:
    """As the authors count them: one a step."""
    return jnp.sum(window.mask, dtype=jnp.int32)


def _centering(config: AtariDTConfig, spec: Spec) -> Center:
    """What pictures go through before they are encoded; black ones, such as those before an episode, become 0."""
    if not config.center_frames:
        return lambda frames: frames
    mean, std = jnp.asarray(spec.constants["frame_mean"])[None, None], float(spec.constants["frame_std"])

    def center(frames: Num[Array, "b n *s"]) -> Num[Array, "b n *s"]:
        is_black = jnp.all(frames == 0, axis=tuple(range(2, frames.ndim)), keepdims=True)
        return jnp.where(is_black, 0.0, (frames.astype(jnp.float32) - mean) / std)

    return center


def _shifted(frames: Num[Array, "b n *s"], most: int, key: PRNGKeyArray) -> Num[Array, "b n *s"]:
    """All pictures of a window by as many pixels, drawn from -most ... most for each axis, their edges drawn out."""
    sides = [(most, most), (most, most), (0, 0)][: frames.ndim - 2]
    padded = jnp.pad(frames, [(0, 0), (0, 0), *sides], mode="edge")
    corners = jax.random.randint(key, (len(frames), 2), 0, 2 * most + 1)

    def cut(pictures: Num[Array, "n *p"], corner: Int[Array, "2"]) -> Num[Array, "n *s"]:
        return jax.lax.dynamic_slice(pictures, (0, *corner, 0)[: pictures.ndim], frames.shape[1:])

    return jax.vmap(cut)(padded, corners)


class _Memory(NamedTuple):
    """Of `b` episodes."""

    frames: Num[Array, "b before *s"]
    """The last pictures, black before the first."""
    context: Window | DecodeCache
    """The last steps as a Window, newest at the right, their stacks as the encoder gave them, so that each is read
    once; or what is kept of them."""
    action: Int[Array, " b"]
    """The newest one, from 0 on."""
    return_to_go: Float[Array, " b"]
    timestep: Int[Array, ""]
    """Steps since the episodes began."""


def _policy(config: AtariDTConfig, spec: Spec, model: AtariModel, center: Center) -> Policy:
    encoded, cached = Spec(observation_shape=(config.width,), action=spec.action), config.context == "cached"

    def start(targets: Float[Array, " b"]) -> _Memory:
        batch = targets.shape[0]
        return _Memory(
            frames=jnp.zeros((batch, BEFORE, *spec.observation_shape), spec.observation_dtype),
            context=model.start(batch) if cached else empty_window(config.context_length, encoded, batch),
            action=jnp.zeros(batch, jnp.int32),
            return_to_go=targets,
            timestep=jnp.zeros((), jnp.int32),
        )

    def predict(params: PyTree[Array], window: Window) -> Float[Array, "b n"]:
        return model.predict(params, window, newest_only=True)[:, 0]

    def see(
        params: PyTree[Array], memory: _Memory, state: Array, return_to_go: Array
    ) -> tuple[Window, Float[Array, "b n"]]:
        assert isinstance(memory.context, Window)
        window = memory.context._replace(actions=memory.context.actions.at[:, -1].set(memory.action))
        window = push(window, state, return_to_go, memory.timestep)
        seen = window
        if config.timestep_when_acting == "newest":
            seen = window._replace(timesteps=jnp.full_like(window.timesteps, memory.timestep))
        return window, in_cpu_blocks(partial(predict, params), BLOCK, seen)

    def act(
        params: PyTree[Array],
        memory: _Memory,
        observation: Num[Array, "b *s"],
        reward: Float[Array, " b"],
        keys: Key[Array, " b"] | None,
    ) -> tuple[_Memory, Num[Array, " b"]]:
        frames = jnp.concatenate([memory.frames, observation.astype(memory.frames.dtype)[:, None]], axis=1)
        state = model.encode(params, center(frames))[:, 0]
        return_to_go = memory.return_to_go if spec.delayed_reward else memory.return_to_go - reward
        if cached:
            context, logits = model.decode_step(
                params, memory.context, memory.action, state, return_to_go, memory.timestep
            )
        else:
            context, logits = see(params, memory, state, return_to_go)
        logits = _among_likeliest(logits, config.top_k)
        action = choose_action(logits, spec, temperature=config.drawing_temperature, keys=keys)
        memory = _Memory(frames[:, 1:], context, action, return_to_go, memory.timestep + 1)
        return memory, to_environment(action, spec)

    return Policy(start, act)


def _among_likeliest(logits: Float[Array, "b n"], top_k: int) -> Float[Array, "b n"]:
    """Those below the k-th so low that they are never drawn; all of them where k is 0."""
    if not top_k or top_k >= logits.shape[-1]:
        return logits
    least = jax.lax.top_k(logits, top_k)[0][:, -1:]
    return jnp.where(logits < least, jnp.minimum(logits, -1e9), logits)
