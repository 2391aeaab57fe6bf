"""Plans are those of a plain search without a cache, and of the original where nothing is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdt.algorithms.beam_search import Draws, Past, Plan, draw_token, keep_likeliest, make_planner
from jaxdt.algorithms.planning_policy import PlanningPolicy
from jaxdt.algorithms.tokens import decode, encode, expectation
from jaxdt.config import TrajectoryTransformerConfig
from jaxdt.types import Box, Spec
from tests.trajectory import BINS, CONFIG, EDGES, GOLDEN, ROW, model_of, ours


OBSERVED, ACTIONS = CONFIG["observation_dim"], CONFIG["action_dim"]
EDGES = jnp.asarray(EDGES)
MIDDLES = np.asarray(EDGES[1:] + EDGES[:-1]) / 2
PARAMS = ours("param")
FORWARD = jax.jit(model_of().apply)


def test_bins_of_numbers_and_numbers_of_bins_are_the_originals():
    probe = jnp.asarray(GOLDEN["probe"])
    np.testing.assert_array_equal(encode(probe, EDGES), GOLDEN["indices"])
    np.testing.assert_allclose(
        decode(jnp.asarray(GOLDEN["indices"], jnp.int32), EDGES), GOLDEN["reconstructed"], rtol=1e-6
    )
    for column, name in ((0, "expected_reward"), (1, "expected_value")):
        found = expectation(jnp.asarray(GOLDEN["value_probs"][:, column]), jnp.asarray(MIDDLES[:, column - 2]))
        np.testing.assert_allclose(found, GOLDEN[name], rtol=1e-5)


def test_what_is_drawn_from_is_the_originals():
    logits = jnp.asarray(GOLDEN["raw_logits"])
    keep = jax.jit(keep_likeliest, static_argnames=("nucleus", "top_k"))
    np.testing.assert_array_equal(keep(logits, nucleus=1.0, top_k=3), GOLDEN["top3"])
    np.testing.assert_array_equal(keep(logits, nucleus=0.4, top_k=0), GOLDEN["cdf06"])


def test_tokens_are_drawn_as_often_as_they_are_likely():
    logits = jnp.log(jnp.array([0.0, 0.2, 0.5, 0.3]))
    uniform = (jnp.arange(1000) + 0.5) / 1000
    draw = jax.jit(draw_token, static_argnames=("nucleus", "top_k"))
    drawn = draw(jnp.broadcast_to(logits, (1000, 4)), uniform, nucleus=1.0, top_k=0)
    assert np.bincount(drawn, minlength=4).tolist() == [0, 200, 500, 300]
    assert draw(logits, jnp.zeros(()), nucleus=1.0, top_k=0) == 1  # never one that cannot be
    assert draw(logits, None, nucleus=1.0, top_k=1) == 2


def settings(**changes):
    plan = CONFIG["plan"]
    values = {"horizon": plan["horizon"], "beam_width": plan["beam_width"], "expansion": plan["n_expand"]}
    values |= {"bins": BINS, "transitions": CONFIG["transitions"], "context_transitions": 4, "action_nucleus": 1.0}
    return TrajectoryTransformerConfig(**{**values, "action_top_k": 1, "discount": CONFIG["discount"], **changes})


def planned(config, prefixes, draws):
    """By our planner, after a prefix of whole transitions and an observation."""
    plan = jax.jit(make_planner(config, model_of(), EDGES, ACTIONS))
    for prefix in prefixes:
        count = prefix.shape[1] // ROW
        window = np.full((len(prefix), config.context_transitions - 1, ROW), 7)  # what is not there may be anything
        whole, observation = np.split(prefix, [count * ROW], axis=1)
        window[:, :count] = whole.reshape(len(prefix), count, ROW)
        yield plan(PARAMS, Past(*(jnp.asarray(each, jnp.int32) for each in (window, count, observation))), draws)


def test_a_greedy_plan_is_the_originals():
    (plan,) = planned(settings(), [GOLDEN["plan_prefix"]], Draws(None, None))
    np.testing.assert_array_equal(plan.tokens[0], GOLDEN["plan_greedy"])


def plain_logits(rows, config):
    """Of the next token, by a forward pass over what the window holds of each row."""
    most = config.context_transitions * ROW - 1 if config.planning_window == "sliding" else 10**6
    while rows.shape[1] > most:
        rows = rows[:, ROW:]
    padded = np.pad(rows, ((0, 8 - len(rows)), (0, 27 - rows.shape[1])))
    return np.asarray(FORWARD(PARAMS, jnp.asarray(padded, jnp.int32)))[: len(rows), rows.shape[1] - 1]


def plain_draw(logits, uniform, nucleus, top_k):
    """As the authors filter, by sorting."""
    tokens = []
    for row, number in zip(logits.astype(np.float64), uniform, strict=True):
        share = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        if nucleus < 1:
            ordered = np.sort(share)
            gone = ordered[np.cumsum(ordered) < 1 - nucleus]
            share = np.where(share <= gone[-1], 0, share) if len(gone) else share
        if top_k:
            share = np.where(share < np.sort(share)[-top_k], 0, share)
        tokens.append(int((np.cumsum(share) <= number * share.sum()).sum()))
    return tokens


def plain_plan(config, prefix, draws):
    """Everything is kept as whole sequences of tokens, and every token is predicted from the whole window."""
    width, ways, discount = config.beam_width, config.expansion, config.discount
    rows, earned = np.repeat(prefix, width, axis=0), np.zeros(width)
    start = prefix.shape[1] - OBSERVED
    for t in range(config.horizon):
        rows, earned = np.tile(rows, (ways, 1)), np.tile(earned, ways)
        for a in range(ACTIONS):
            uniform = np.asarray(draws.actions[t, a, 0]).T.reshape(-1)
            chosen = plain_draw(plain_logits(rows, config), uniform, config.action_nucleus, config.action_top_k)
            rows = np.concatenate([rows, np.array(chosen)[:, None]], axis=1)
        expected = []
        for column in (-2, -1):
            logits = plain_logits(rows, config).astype(np.float64)
            share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            expected.append(share[:, :BINS] @ MIDDLES[:, column])
            rows = np.concatenate([rows, logits.argmax(axis=1)[:, None]], axis=1)
        earned = earned + discount**t * expected[0]
        best = np.argsort(-(earned + discount ** (t + 1) * expected[1]), kind="stable")[:width]
        rows, earned = rows[best], earned[best]
        for o in range(OBSERVED if t < config.horizon - 1 else 0):
            logits = plain_logits(rows, config)
            if draws.observations is None:
                chosen = logits.argmax(axis=1)
            else:
                chosen = plain_draw(
                    logits, draws.observations[t, o, 0], config.observation_nucleus, config.observation_top_k
                )
            rows = np.concatenate([rows, np.asarray(chosen)[:, None]], axis=1)
    return rows[0, start:].reshape(config.horizon, ROW)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(
            {"context_transitions": 3, "horizon": 4, "action_nucleus": 0.5, "action_top_k": 0}, marks=pytest.mark.slow
        ),
        {"context_transitions": 2, "horizon": 3, "action_top_k": 4, "observation_top_k": 0, "observation_nucleus": 0.9},
        pytest.param(
            {
                "context_transitions": 3,
                "horizon": 2,
                "action_nucleus": 0.8,
                "action_top_k": 3,
                "planning_window": "growing",
            },
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda changes: changes.get("planning_window", f"sliding-{changes['context_transitions']}"),
)
def test_a_plan_is_that_of_a_plain_search_without_a_cache(changes):
    """After no, one and two transitions, which the sliding window of two does not hold all."""
    config = settings(**changes)
    random = np.random.default_rng(3)
    sizes = (config.horizon, ACTIONS, 1, config.beam_width, config.expansion)
    draws = Draws(jnp.asarray(random.random(sizes), jnp.float32), None)
    if config.observation_top_k != 1:
        sizes = (config.horizon, OBSERVED, 1, config.beam_width)
        draws = draws._replace(observations=jnp.asarray(random.random(sizes), jnp.float32))
    tokens = GOLDEN["tokens"][:1]
    prefixes = [tokens[:, : count * ROW + OBSERVED] for count in range(config.context_transitions)]
    for prefix, plan in zip(prefixes, planned(config, prefixes, draws), strict=True):
        np.testing.assert_array_equal(plan.tokens[0], plain_plan(config, prefix, draws))


@pytest.mark.slow
def test_the_policy_remembers_the_last_transitions_as_tokens_and_does_its_plan_in_turn():
    """Three steps of two episodes, planned every second one, after which the window has room for one more."""
    config = settings(context_transitions=4, plan_every=2)
    wide = Box(np.float32([0, -1]), np.float32([1, 1]))
    spec = Spec(observation_shape=(OBSERVED,), action=wide, constants={"edges": EDGES})
    random = np.random.default_rng(0)
    plans = jnp.asarray(random.integers(0, BINS, size=(2, 2, config.horizon, ROW)), jnp.int32)
    told = []

    def plan(params, past, draws):
        told.append(past)
        return Plan(plans[len(told) - 1], jnp.zeros(2))

    policy = PlanningPolicy(config, spec, plan)
    memory, seen, done = policy.start(jnp.zeros(2)), [], []
    rewards = jnp.asarray(random.normal(size=(4, 2)), jnp.float32)
    with jax.disable_jit():  # so that the plan above is asked when it would be
        for step in range(3):
            seen.append(jnp.asarray(random.normal(size=(2, OBSERVED)), jnp.float32))
            memory, action = policy.act((), memory, seen[-1], rewards[step], None)
            expected = decode(plans[step // 2][..., :OBSERVED], EDGES[:, :OBSERVED]) if step != 1 else np.nan
            np.testing.assert_array_equal(
                policy.expect(memory), np.broadcast_to(expected, (2, config.horizon, OBSERVED))
            )
            planned = decode(plans[step // 2][:, step % 2, OBSERVED:-2], EDGES[:, OBSERVED:-2])
            done.append(planned)
            low, high = wide
            np.testing.assert_allclose(
                action, np.clip(low + (np.asarray(planned) + 1) / 2 * (high - low), low, high), rtol=1e-5
            )
    assert [int(past.count) for past in told] == [0, 2]
    np.testing.assert_array_equal(told[1].observation, encode(seen[2], EDGES[:, :OBSERVED]))
    for step in range(2):
        whole = jnp.concatenate([seen[step], done[step], rewards[step + 1][:, None]], axis=1)
        np.testing.assert_array_equal(told[1].window[:, step, :-1], encode(whole, EDGES[:, :-1]))
