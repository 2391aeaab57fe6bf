"""Planning by beam search over a Trajectory Transformer's predictions, one compiled program for all episodes.

A plan goes on transition by transition. Each of the `beam_width` plans of an episode is continued in `expansion` ways:
actions are drawn, reward and value are the likeliest ones, and those `beam_width` are kept whose expected rewards so
far and expected value behind them are highest together. Then the next observation is predicted.

What the model has read is kept as keys and values. With a sliding window the places of its tokens begin anew with each
transition that leaves it, so the window is read again once a planned step; a growing one is only added to. Rows are an
episode's plans, episode by episode; `e` counts episodes, `w` plans of each and `x` ways to go on.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxdt.algorithms.tokens import bin_middles, expectation
from jaxdt.config import TrajectoryTransformerConfig
from jaxdt.models import TrajectoryModel


class Past(NamedTuple):
    """What an episode's plan begins from."""

    window: Int[Array, "e c row"]
    """The last transitions' tokens, from the left on."""
    count: Int[Array, ""]
    """How many there are, in every episode as many."""
    observation: Int[Array, "e observation"]
    """The newest one's tokens."""


class Draws(NamedTuple):
    """Numbers in [0, 1) by which tokens are drawn, of each step of a plan; None where none are."""

    actions: Float[Array, "h a e w x"] | None
    observations: Float[Array, "h o e w"] | None


class Plan(NamedTuple):
    """The best plan of each episode."""

    tokens: Int[Array, "e h row"]
    """Of each transition, the first observation being the real one."""
    worth: Float[Array, " e"]
    """Expected rewards and the value behind them, discounted."""


class _Beam(NamedTuple):
    """All plans, as far as they go."""

    caches: PyTree[Array]
    logits: Float[Array, "b n"]
    """Of the next action's first token."""
    window: Int[Array, "b c row"]
    """Transitions that the model sees before the one in hand; of a growing window not kept up."""
    count: Int[Array, ""]
    """How many those are."""
    tokens: Int[Array, "b h row"]
    """What is planned."""
    earned: Float[Array, "e w"]
    """Expected rewards, discounted."""
    worth: Float[Array, "e w"]
    """And the value behind them."""


class _Ways(NamedTuple):
    """How each plan may go on, row by row."""

    suffixes: PyTree[Array]
    """What each adds to the caches."""
    tokens: Int[Array, "bx a+2"]
    """Action, reward and value."""
    reward: Float[Array, "b x"]
    """Expected."""
    value: Float[Array, "b x"]


def make_planner(
    config: TrajectoryTransformerConfig,
    model: TrajectoryModel,
    edges: Float[Array, "edges row"],
    num_actions: int,
    *,
    choices: int | None = None,
) -> Callable[[PyTree[Array], Past, Draws], Plan]:
    """`plan(params, past, draws)`, of all episodes at once.

    `num_actions`: tokens of an action; `choices`: of a discrete one, whose tokens are the numbers below it.
    """
    return _Planner(config, model, edges, num_actions, choices).plan


class _Planner:
    def __init__(
        self,
        config: TrajectoryTransformerConfig,
        model: TrajectoryModel,
        edges: Any,
        num_actions: int,
        choices: int | None,
    ):
        assert config.horizon
        assert config.beam_width
        assert config.action_nucleus
        self.config, self.model = config, model
        self.horizon, self.width, self.ways = config.horizon, config.beam_width, config.expansion
        self.row, self.num_actions, self.choices = edges.shape[1], num_actions, choices
        self.num_observed = self.row - num_actions - 2
        middles = bin_middles(jnp.asarray(edges))
        self.reward_middles, self.value_middles = middles[:, -2], middles[:, -1]
        self.grows = config.planning_window == "growing"
        context = config.context_transitions - 1
        self.room = (context + (self.horizon if self.grows else 1)) * self.row
        assert config.action_top_k is not None
        self.draw_action = partial(draw_token, nucleus=config.action_nucleus, top_k=config.action_top_k)
        self.draw_observation = partial(draw_token, nucleus=config.observation_nucleus, top_k=config.observation_top_k)

    def plan(self, params: PyTree[Array], past: Past, draws: Draws) -> Plan:
        network = self.model.with_params(params)
        beam = self._begin(network, past)

        def step(beam: _Beam, xs: tuple[Int[Array, ""], Draws]) -> tuple[_Beam, None]:
            t, drawn = xs
            beam, suffixes, transition = self._act(network, beam, t, drawn.actions)
            beam = jax.lax.cond(
                t < self.horizon - 1,
                lambda: self._observe(network, beam, suffixes, transition, t, drawn.observations),
                lambda: beam,
            )
            return beam, None

        beam, _ = jax.lax.scan(step, beam, (jnp.arange(self.horizon), draws))
        tokens = beam.tokens.reshape(-1, self.width, self.horizon, self.row)
        return Plan(tokens[:, 0], beam.worth[:, 0])  # the best stands first

    def _begin(self, network: Any, past: Past) -> _Beam:
        """All plans of an episode, which are alike so far."""
        episodes, _, row = past.window.shape
        read = jnp.concatenate([past.window.reshape(episodes, -1), jnp.zeros_like(past.observation)], axis=1)
        read = jax.lax.dynamic_update_slice_in_dim(read, past.observation, past.count * row, axis=1)
        caches, logits = network.read(read, past.count * row + self.num_observed - 1, self.room)
        each = partial(jnp.repeat, repeats=self.width, axis=0)
        tokens = jnp.zeros((episodes, self.horizon, row), jnp.int32)
        tokens = tokens.at[:, 0, : self.num_observed].set(past.observation)
        nothing = jnp.zeros((episodes, self.width))
        caches, logits, window, tokens = jax.tree.map(each, (caches, logits, past.window, tokens))
        return _Beam(caches, logits, window, past.count, tokens, nothing, nothing)

    def _act(
        self, network: Any, beam: _Beam, t: Int[Array, ""], drawn: Array | None
    ) -> tuple[_Beam, PyTree[Array], Int[Array, "b row"]]:
        """The best ways to act: with what they add to the caches, and their transitions."""
        ways = self._ways_on(network, beam, drawn)
        earned = beam.earned.reshape(-1, 1) + self.config.discount**t * ways.reward
        worth, parents, chosen = self._best(earned + self.config.discount ** (t + 1) * ways.value)
        kept = jax.tree.map(lambda leaf: leaf[parents], (beam.caches, beam.window, beam.tokens))
        caches, window, tokens = kept if self.grows else (beam.caches, *kept[1:])  # a sliding one is read anew
        observed = jax.lax.dynamic_index_in_dim(tokens, t, axis=1, keepdims=False)[:, : self.num_observed]
        transition = jnp.concatenate([observed, ways.tokens[chosen]], axis=1)
        tokens = jax.lax.dynamic_update_slice_in_dim(tokens, transition[:, None], t, axis=1)
        earned = earned.reshape(-1)[chosen].reshape(worth.shape)
        beam = beam._replace(caches=caches, window=window, tokens=tokens, worth=worth, earned=earned)
        return beam, jax.tree.map(lambda leaf: leaf[chosen], ways.suffixes) if self.grows else (), transition

    def _ways_on(self, network: Any, beam: _Beam, drawn: Array | None) -> _Ways:
        rows = beam.logits.shape[0]
        first = beam.count * self.row + self.num_observed
        length = self.num_actions + 1  # the value is attended to by nobody
        suffixes = jax.tree.map(
            lambda leaf: jnp.zeros((rows * self.ways, leaf.shape[1], length, leaf.shape[3]), leaf.dtype), beam.caches
        )
        logits = jnp.broadcast_to(beam.logits[:, None], (rows, self.ways, beam.logits.shape[1]))

        def act(carry: tuple, xs: tuple) -> tuple:
            suffixes, logits = carry
            step, uniform = xs
            if self.choices is not None:  # others are no action
                logits = jnp.where(jnp.arange(logits.shape[-1]) < self.choices, logits, -1e9)
            token = self.draw_action(logits, None if uniform is None else uniform.reshape(rows, self.ways))
            return network.branch(beam.caches, suffixes, token, first, step), token

        (suffixes, logits), actions = jax.lax.scan(act, (suffixes, logits), (jnp.arange(self.num_actions), drawn))
        rewards, reward = jnp.argmax(logits, axis=-1), expectation(jax.nn.softmax(logits), self.reward_middles)
        behind = jnp.asarray(self.num_actions, jnp.int32)
        suffixes, logits = network.branch(beam.caches, suffixes, rewards, first, behind)
        values, value = jnp.argmax(logits, axis=-1), expectation(jax.nn.softmax(logits), self.value_middles)
        tokens = jnp.stack([*actions, rewards, values], axis=-1).astype(jnp.int32)
        return _Ways(suffixes, tokens.reshape(rows * self.ways, -1), reward, value)

    def _best(self, worth: Float[Array, "b x"]) -> tuple[Float[Array, "e w"], Int[Array, " b"], Int[Array, " b"]]:
        """Of each episode the best ones' worth, rows that they come from, and their numbers among all rows' ways.

        Of equal ones the first way of any row goes before the second of any.
        """
        by_episode = worth.reshape(-1, self.width, self.ways).swapaxes(1, 2)
        best, number = jax.lax.top_k(by_episode.reshape(by_episode.shape[0], -1), self.width)
        way, plan = jnp.divmod(number, self.width)
        parents = plan + self.width * jnp.arange(number.shape[0])[:, None]
        return best, parents.reshape(-1), (parents * self.ways + way).reshape(-1)

    def _observe(
        self, network: Any, beam: _Beam, suffixes: PyTree[Array], transition: Array, t: Array, drawn: Array | None
    ) -> _Beam:
        """What is predicted to follow the transition."""
        follow = self._grow if self.grows else self._slide
        caches, logits, window, count = follow(network, beam, suffixes, transition)

        def observe(carry: tuple, xs: tuple) -> tuple:
            caches, logits = carry
            step, uniform = xs
            token = self.draw_observation(logits, None if uniform is None else uniform.reshape(-1))
            return network.extend(caches, token, count * self.row + step), token

        (caches, logits), observed = jax.lax.scan(observe, (caches, logits), (jnp.arange(self.num_observed), drawn))
        following = jnp.pad(observed.T, ((0, 0), (0, self.row - self.num_observed))).astype(jnp.int32)
        tokens = jax.lax.dynamic_update_slice_in_dim(beam.tokens, following[:, None], t + 1, axis=1)
        return beam._replace(caches=caches, logits=logits, window=window, count=count, tokens=tokens)

    def _slide(self, network: Any, beam: _Beam, suffixes: Any, transition: Array) -> tuple:
        """The window with one more transition, or one further, read anew since its places begin anew."""
        del suffixes
        window, count = append(beam.window, beam.count, transition)
        caches, logits = network.read(window.reshape(window.shape[0], -1), count * self.row - 1, self.room)
        return caches, logits, window, count

    def _grow(self, network: Any, beam: _Beam, suffixes: PyTree[Array], transition: Array) -> tuple:
        """What acting has added goes behind the rest."""
        at = beam.count * self.row + self.num_observed
        caches = jax.tree.map(
            lambda cache, suffix: jax.lax.dynamic_update_slice_in_dim(cache, suffix, at, axis=2), beam.caches, suffixes
        )
        caches, logits = network.extend(caches, transition[:, -1], (beam.count + 1) * self.row - 1)
        return caches, logits, beam.window, beam.count + 1


def append(
    window: Int[Array, "b c row"], count: Int[Array, ""], transition: Int[Array, "b row"]
) -> tuple[Int[Array, "b c row"], Int[Array, ""]]:
    """The window with one more transition, without its oldest where it is full; and how many are in it."""
    size = window.shape[1]
    room = jnp.where(count == size, jnp.roll(window, -1, axis=1), window)
    at = jnp.minimum(count, size - 1)
    return jax.lax.dynamic_update_slice_in_dim(room, transition[:, None], at, axis=1), at + 1


def draw_token(
    logits: Float[Array, "*b n"], uniform: Float[Array, "*b"] | None, *, nucleus: float, top_k: int
) -> Int[Array, "*b"]:
    """A token drawn from the likeliest, by a number in [0, 1); with `top_k` 1 the likeliest."""
    if top_k == 1:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    assert uniform is not None
    probabilities = jax.nn.softmax(keep_likeliest(logits, nucleus=nucleus, top_k=top_k))
    below = jnp.cumsum(probabilities, axis=-1)
    return jnp.sum(below <= uniform[..., None] * below[..., -1:], axis=-1, dtype=jnp.int32)


def keep_likeliest(logits: Float[Array, "*b n"], *, nucleus: float, top_k: int) -> Float[Array, "*b n"]:
    """The logits, very low where a token is not to be drawn.

    - `nucleus`: of the least likely tokens those go that have less than 1 - `nucleus` together; 1: none.
    - `top_k`: then all go that are less likely than the k-th; 0: none.
    """
    if nucleus < 1:
        each = jax.nn.softmax(logits)
        rarer = jnp.sum(jnp.where(each[..., None, :] < each[..., :, None], each[..., None, :], 0), axis=-1)
        kept = (rarer + each >= 1 - nucleus) | (each == each.max(axis=-1, keepdims=True))
        logits = jnp.where(kept, logits, -1000.0)
    if top_k:
        least = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][..., -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits
