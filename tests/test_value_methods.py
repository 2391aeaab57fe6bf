"""RvS-R, implicit Q-learning and TD3+BC: what they reach where cloning does not, and that they are runs like others."""

import dataclasses
import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdt
from jaxdt.algorithms import make_algorithm, measure
from jaxdt.algorithms.distributions import Gaussian
from jaxdt.algorithms.iql import expectile_loss
from jaxdt.config import (
    IQL,
    PRESETS,
    REBRAC,
    RVS,
    TD3_BC,
    IQLConfig,
    OptimizerConfig,
    RvSConfig,
    TD3BCConfig,
    TrainConfig,
)
from jaxdt.config.td3_bc import TUNED_PENALTIES, penalties_of
from jaxdt.errors import JaxdtError
from jaxdt.loggers import read_lines
from jaxdt.run.prepare import prepare_run
from jaxdt.run.resume import agree_with_record
from tests.children import pendulum_episodes
from tests.conftest import make_store
from tests.toys import Buttons, Dial, button_episodes, dial_episodes


pytestmark = pytest.mark.usefixtures("quick_plots")
ADAM = OptimizerConfig.adam(3e-3)
METHODS = {
    "iql": IQLConfig(width=16, inverse_temperature=0.3, discount=0.5, optimizer=ADAM),
    "td3-bc": TD3BCConfig(width=16, discount=0.5, optimizer=ADAM),
    "rvs": RvSConfig(width=16, optimizer=ADAM),
}
STORE = dial_episodes()  # levels from -0.9 to 0.9 alike: their mean is 0


def config_of(name: str, **changes) -> TrainConfig:
    values = {"steps": 400, "batch_size": 32, "eval_every": 400, "eval_episodes": 2, "save_every": 200}
    return TrainConfig(algorithm=METHODS[name], **{**values, "log_every": 200, **changes})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """By name, each trained once it is looked up; it must be: what it reaches is what its method is for."""

    class Runs(dict):
        def __missing__(self, name):
            config = config_of(name, targets=(-4.0, 0.0, 4.0) if name == "rvs" else None)
            self[name] = jaxdt.train(config, STORE, out=tmp_path_factory.mktemp(name) / "run", env=Dial())
            return self[name]

    return Runs()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["iql", "td3-bc"])
def test_values_find_better_actions_than_the_datas_mean(runs, name):
    [line] = read_lines(runs[name] / "evaluations.jsonl")
    assert line["target"] is None
    assert STORE.returns.mean() < 0.5
    assert line["return_mean"] > 4.0


def test_rvs_reaches_the_return_that_it_is_asked_for(runs):
    lines = read_lines(runs["rvs"] / "evaluations.jsonl")
    assert len(lines) == 3
    for line in lines:
        assert line["return_mean"] == pytest.approx(line["target"], abs=1.0)


@pytest.mark.parametrize("name", ["rvs", *(pytest.param(name, marks=pytest.mark.slow) for name in ("iql", "td3-bc"))])
def test_they_go_on_to_the_same_weights_and_act_as_their_rollout(runs, name, tmp_path):
    part = shutil.copytree(runs[name], tmp_path / "part")
    shutil.rmtree(part / "checkpoints" / "400")
    targets = (-4.0, 0.0, 4.0) if name == "rvs" else None
    jaxdt.train(config_of(name, targets=targets), STORE, out=part, env=Dial(), resume=True)
    agent = jaxdt.Agent.load(part)
    jax.tree.map(np.testing.assert_array_equal, agent.params, jaxdt.Agent.load(runs[name]).params)
    agent.reset(4.0 if name == "rvs" else None)
    actions = [agent.act(np.array([1.0, 0.0]), 0.1) for _ in range(Dial.max_episode_steps)]
    line = read_lines(runs[name] / "evaluations.jsonl")[-1]
    assert float(np.sum(actions)) == pytest.approx(line["returns"][0], abs=1e-4)


@pytest.mark.parametrize("name", ["iql", "td3-bc"])
def test_the_action_error_is_the_policys_distance_to_what_was_recorded(name):
    algorithm, state, batch = prepared(METHODS[name])
    act = jax.jit(algorithm.policy.act)
    _, actions = act(state.params, (), jnp.asarray(batch.observations), jnp.zeros(len(batch.rewards)), None)
    error = jax.jit(algorithm.validate)(state.params, batch)["action_error"]
    assert float(error) == pytest.approx(float(np.abs(actions - batch.actions).mean()), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_they_are_tuned_from_a_run_with_all_their_networks(runs, name, tmp_path):
    config = dataclasses.replace(
        config_of(name, steps=1, log_every=1, eval_every=1, save_every=1), init=str(runs[name])
    )
    tuned = jaxdt.Agent.load(jaxdt.train(config, STORE, out=tmp_path / "tuned", env=Dial()))
    before = jaxdt.Agent.load(runs[name])
    assert jax.tree.structure(tuned.params) == jax.tree.structure(before.params)
    for new, old in zip(jax.tree.leaves(tuned.params), jax.tree.leaves(before.params), strict=True):
        np.testing.assert_allclose(new, old, atol=4e-3)  # Adam's first step is at most the learning rate


@pytest.mark.slow
def test_several_seeds_train_in_one_program(tmp_path):
    config = config_of("td3-bc", steps=4, log_every=4, eval_every=4, save_every=4)
    out = jaxdt.train(config, STORE, seeds=(0, 1), out=tmp_path / "seeds", env=Dial())
    alone = jaxdt.train(dataclasses.replace(config, seed=1), STORE, out=tmp_path / "alone", env=Dial())
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        jaxdt.Agent.load(out / "seed-1").params,
        jaxdt.Agent.load(alone).params,
    )


def test_the_expectile_weighs_what_lies_above():
    loss = expectile_loss(jnp.array([2.0, -1.0, 0.0]), 0.7)
    assert float(loss) == pytest.approx((0.7 * 4 + 0.3 * 1 + 0) / 3)


def test_a_gaussians_log_likelihood_is_its_densitys_logarithm():
    mean, log_std = jnp.array([[0.5, -1.0]]), jnp.array([0.0, jnp.log(2.0)])
    action = jnp.array([[1.5, 1.0]])
    density = np.exp(-0.5) / np.sqrt(2 * np.pi) * np.exp(-0.5) / (2 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(Gaussian(mean, log_std[None]).log_prob(action), np.log([density]), rtol=1e-6)


def test_constants_are_measured_as_each_method_says():
    store = make_store()
    mean, std = store.statistics
    raw = measure(IQLConfig(), store)
    np.testing.assert_array_equal(raw["state_mean"], np.zeros_like(mean))
    np.testing.assert_array_equal(raw["state_std"], np.ones_like(std))
    assert raw["reward_scale"] == pytest.approx(1000 / np.ptp(store.returns))
    assert measure(IQLConfig(rewards="minus-one"), store)["reward_scale"] == 1
    np.testing.assert_allclose(measure(TD3BCConfig(), store)["state_std"], std + 1e-3 - 1e-6, rtol=1e-6)
    assert measure(RvSConfig(), store)["longest_episode"] == store.lengths.max()


def test_value_methods_refuse_discrete_actions(tmp_path):
    for name in ("iql", "td3-bc"):
        with pytest.raises(JaxdtError, match=f"{name} is for continuous actions, and these are 3 discrete ones; the"):
            jaxdt.train(config_of(name), button_episodes(), out=tmp_path / name, env=Buttons())
        assert not (tmp_path / name).exists()


def test_rvs_learns_discrete_actions_too(tmp_path):
    config = dataclasses.replace(config_of("rvs", steps=4, log_every=4, eval_every=4, save_every=4), targets=(3.0,))
    out = jaxdt.train(config, button_episodes(), out=tmp_path / "run", env=Buttons())
    assert "log_std" not in jaxdt.Agent.load(out).params


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IQLConfig(expectile=1.0), "expectile must be above 0 and below 1; got 1.0"),
        (lambda: IQLConfig(target_rate=0.0), "target_rate must be above 0 and at most 1; got 0.0"),
        (lambda: TD3BCConfig(discount=1.0), "discount must be at least 0 and below 1; got 1.0"),
        (lambda: TD3BCConfig(alpha=-1.0), "alpha must be at least 0"),
        (lambda: TD3BCConfig(critic_penalty=-1.0), "critic_penalty must be at least 0"),
        (lambda: RvSConfig(width=0), "width must be at least 1; got 0"),
    ],
)
def test_odd_choices_are_refused(make, message):
    with pytest.raises(JaxdtError, match=message):
        make()


def test_the_presets_are_the_authors():
    adam = OptimizerConfig(learning_rate=3e-4, warmup_steps=0, weight_decay=0.0, max_grad_norm=None)
    for preset in (IQL, TD3_BC):
        algorithm = preset.algorithm
        assert (algorithm.width, algorithm.num_layers, algorithm.discount, algorithm.target_rate) == (
            256,
            2,
            0.99,
            0.005,
        )
        assert (algorithm.optimizer, preset.batch_size, preset.steps) == (adam, 256, 1_000_000)
    assert (IQL.algorithm.expectile, IQL.algorithm.inverse_temperature, IQL.algorithm.normalize_states) == (
        0.7,
        3,
        False,
    )
    assert (TD3_BC.algorithm.alpha, TD3_BC.algorithm.policy_noise, TD3_BC.algorithm.noise_clip) == (2.5, 0.2, 0.5)
    assert (RVS.algorithm.width, RVS.algorithm.num_layers, RVS.batch_size) == (1024, 2, 16_384)
    assert RVS.algorithm.optimizer.learning_rate == 1e-3
    policy = IQL.algorithm.for_steps(10).policy_optimizer
    assert (policy.schedule, policy.last_step, IQL.algorithm.for_steps(10).last_step) == ("cosine", 10, 10)


def test_rebrac_is_its_authors():
    algorithm = REBRAC.algorithm
    assert (algorithm.width, algorithm.num_layers, algorithm.layer_norm) == (256, 3, True)
    assert (algorithm.discount, algorithm.target_rate, algorithm.alpha) == (0.99, 0.005, 1.0)
    assert (algorithm.policy_noise, algorithm.noise_clip, algorithm.normalize_states) == (0.2, 0.5, False)
    assert (algorithm.policy_value, algorithm.distance, algorithm.initialization) == ("smaller", "sum", "rebrac")
    assert algorithm.optimizer == OptimizerConfig.adam(1e-3)
    assert (REBRAC.batch_size, REBRAC.steps, REBRAC.eval_every, REBRAC.eval_episodes) == (1024, 1_000_000, 5_000, 10)


@pytest.mark.parametrize(
    ("dataset", "penalties"),
    [
        ("halfcheetah-medium-v2", (0.001, 0.01)),
        ("data/hopper_medium_replay-v2.hdf5", (0.05, 0.5)),
        ("hf:somebody/gym/walker2d-random-v2", (0.01, 0.0)),
        ("D:/walker2d-expert-v2/", (0.01, 0.5)),
        # Not in the table: 0.01 both.
        ("hopper-expert-v1.hdf5", (0.01, 0.01)),
        ("minari:mujoco/hopper/expert-v0", (0.01, 0.01)),
        (None, (0.01, 0.01)),
        ("hf:a/b/hopper-medium-v2+hf:a/b/hopper-expert-v2", (0.1, 0.01)),
        ("hopper-expert-v2.hdf5+hopper-medium-v2.hdf5", (0.1, 0.01)),
        ("hf:a/b/hopper-medium-v2+hf:a/b/walker2d-expert-v2", (0.01, 0.01)),
    ],
)
def test_rebracs_penalties_are_those_tuned_for_the_data_set(dataset, penalties):
    assert penalties_of(dataset) == penalties
    assert len(TUNED_PENALTIES) == 3 * 6


def test_penalties_left_open_are_filled_in_once_and_the_run_keeps_them():
    open_ones = dataclasses.replace(METHODS["td3-bc"], actor_penalty=None, critic_penalty=None)
    given = TrainConfig(algorithm=open_ones, env="none", dataset="hopper-medium-replay-v2.hdf5", steps=2)
    record = prepare_run(given, STORE, None, None).record
    assert (record.config.algorithm.actor_penalty, record.config.algorithm.critic_penalty) == (0.05, 0.5)
    assert record.config.algorithm.summary.endswith("alpha 2.5, penalties 0.05 and 0.5")
    assert open_ones.summary.endswith("penalties of the data and of the data")
    moved = dataclasses.replace(given, dataset="elsewhere.npz")
    assert agree_with_record(moved, record).algorithm == record.config.algorithm
    other = dataclasses.replace(moved, algorithm=dataclasses.replace(open_ones, critic_penalty=0.1))
    with pytest.raises(JaxdtError, match=r"started with algorithm\.critic_penalty=0\.5 and cannot"):
        agree_with_record(other, record)
    with pytest.raises(JaxdtError, match="actor_penalty and critic_penalty must be numbers here; got None and None"):
        open_ones.check_spec(record.spec)


@pytest.mark.parametrize("name", ["rvs", *(pytest.param(n, marks=pytest.mark.slow) for n in ("iql", "rebrac"))])
def test_the_command_trains_and_describes_them(name, tmp_path, capsys):
    from jaxdt.cli import run as command

    pendulum_episodes(tmp_path / "data.npz")
    flags = "--width 8 --num-layers 1 --batch-size 8 --steps 2 --eval-every 2 --eval-episodes 1 --save-every 2"
    words = ["train", name, "--dataset", str(tmp_path / "data.npz"), "--out", str(tmp_path / "out"), *flags.split()]
    assert command(words) == 0
    assert PRESETS[name].algorithm.summary.split(",")[0] in capsys.readouterr().out


def constant(params, output):
    """A network that gives `output` whatever it sees."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    return {**zeros, "output": {**zeros["output"], "bias": jnp.full_like(zeros["output"]["bias"], output)}}


def prepared(config, store=STORE):
    spec = dataclasses.replace(store.spec, constants=measure(config, store))
    algorithm = make_algorithm(config.for_steps(10), spec)
    return algorithm, algorithm.init(jax.random.key(0)), algorithm.sampler(store, batch_size=16, seed=0).batch(0)


def test_iqls_first_update_is_worked_out_by_hand():
    """Networks that give numbers: V 1, critics 2 and 3, policy 0. Adam's first step moves V's by the rate, 0.003."""
    store = dataclasses.replace(STORE, terminations=np.arange(STORE.num_steps) % 3 == 0)
    config = dataclasses.replace(METHODS["iql"], rewards="as-recorded")
    algorithm, state, batch = prepared(config, store)
    critics = {"first": constant(state.params["critics"]["first"], 2.0)}
    critics["second"] = constant(state.params["critics"]["second"], 3.0)
    actor = {"mean": constant(state.params["actor"]["mean"], 0.0), "log_std": jnp.zeros(1)}
    params = {"actor": actor, "value": constant(state.params["value"], 1.0), "critics": critics}
    state = state._replace(params={**params, "target_critics": critics})
    after, metrics = jax.jit(algorithm.update)(state, batch, jax.random.key(1))
    assert float(metrics["value_loss"]) == pytest.approx(config.expectile * (2 - 1) ** 2)
    value = 1.003
    assert float(after.params["value"]["output"]["bias"][0]) == pytest.approx(value, abs=1e-6)
    weight = np.exp(config.inverse_temperature * (2 - value))
    likelihood = -0.5 * batch.actions[:, 0] ** 2 - 0.5 * np.log(2 * np.pi)
    assert float(metrics["policy_loss"]) == pytest.approx(-np.mean(weight * likelihood), rel=1e-4)
    assert 0 < batch.terminations.sum() < 16
    aim = batch.rewards + config.discount * ~batch.terminations * value
    assert float(metrics["loss"]) == pytest.approx(np.mean((2 - aim) ** 2 + (3 - aim) ** 2), rel=1e-4)
    moved = [after.params[name]["first"]["output"]["bias"][0] - 2 for name in ("critics", "target_critics")]
    assert float(moved[1]) == pytest.approx(config.target_rate * float(moved[0]), rel=0.02)


def test_an_advantage_counts_a_hundredfold_at_most():
    store = dataclasses.replace(STORE, terminations=np.arange(STORE.num_steps) % 3 == 0)
    config = dataclasses.replace(METHODS["iql"], rewards="as-recorded")  # as above, and so compiled already
    algorithm, state, batch = prepared(config, store)
    actor = {"mean": constant(state.params["actor"]["mean"], 0.0), "log_std": jnp.zeros(1)}
    critics = {name: constant(network, 200.0) for name, network in state.params["critics"].items()}
    params = {"actor": actor, "value": constant(state.params["value"], 1.0), "critics": critics}
    state = state._replace(params={**params, "target_critics": critics})
    _, metrics = jax.jit(algorithm.update)(state, batch, jax.random.key(1))
    likelihood = -0.5 * batch.actions[:, 0] ** 2 - 0.5 * np.log(2 * np.pi)
    assert float(metrics["policy_loss"]) == pytest.approx(-100 * np.mean(likelihood), rel=1e-4)


TWO_UNITS = {"width": 2, "num_layers": 1, "policy_noise": 0.0, "optimizer": OptimizerConfig.adam(0.0)}


def with_networks(state, actor_bias, critics):
    """Their parameters for a policy that gives tanh(`actor_bias`), and for its slow copy."""
    actor = constant(state.params["actor"], jnp.array(actor_bias))
    names = ("actor", "target_actor", "critics", "target_critics")
    return state._replace(params=dict(zip(names, (actor, actor, critics, critics), strict=True)))


def test_rebracs_critics_aim_lower_where_the_next_action_is_far_from_the_datas():
    """Hidden units 3 and 1, behind LayerNorm 1 and -1, weigh 2 and 1: the first critic says 1.5; the second -0.5."""
    store = dataclasses.replace(make_store(), terminations=np.arange(22) % 3 == 0)
    config = dataclasses.replace(REBRAC.algorithm, **TWO_UNITS, actor_penalty=0.1, critic_penalty=0.2)
    algorithm, state, batch = prepared(config, store)
    critics = {}
    for name, units in (("first", [3.0, 1.0]), ("second", [1.0, 3.0])):
        network = constant(state.params["critics"][name], 0.5)
        network["hidden"]["layer_0"]["bias"] = jnp.array(units)
        network["norm"]["layer_0"]["scale"] = jnp.ones(2)
        network["output"]["kernel"] = jnp.array([[2.0], [1.0]])
        critics[name] = network
    state = with_networks(state, [0.5, -1.0], critics)
    _, metrics = jax.jit(algorithm.update.updates[0])(state, batch, jax.random.key(1))
    far = np.sum((np.tanh([0.5, -1.0]) - batch.next_actions) ** 2, axis=1)
    assert 0 < batch.terminations.sum() < 16
    aim = batch.rewards + 0.99 * ~batch.terminations * (-0.5 - 0.2 * far)
    assert float(metrics["loss"]) == pytest.approx(np.mean((1.5 - aim) ** 2) + np.mean((-0.5 - aim) ** 2), rel=1e-4)


@pytest.mark.parametrize(
    ("preset", "climbs", "weight", "penalty"),
    [(TD3_BC, (1.0, 3.0, 10.0), 2.5, 1.0), (REBRAC, (2.0, -1.0, 0.0), 1.0, 2 * 0.1)],
    ids=["td3-bc", "rebrac"],
)
def test_the_policys_gradient_is_worked_out_by_hand(preset, climbs, weight, penalty):
    """Hidden units that see action + 2: critics are v (a0 + 2) + w (a1 + 2) + c, and the second is the smaller."""
    own = {} if preset is TD3_BC else {"actor_penalty": 0.1, "critic_penalty": 0.2, "layer_norm": False}
    algorithm, state, batch = prepared(dataclasses.replace(preset.algorithm, **TWO_UNITS, **own), make_store())
    critics = {}
    for name, (v, w, c) in (("first", (1.0, 3.0, 10.0)), ("second", (2.0, -1.0, 0.0))):
        network = constant(state.params["critics"][name], c)
        kernel = network["hidden"]["layer_0"]["kernel"].at[-2:].set(jnp.eye(2))
        network["hidden"]["layer_0"] = {"kernel": kernel, "bias": jnp.full(2, 2.0)}
        network["output"]["kernel"] = jnp.array([[v], [w]])
        critics[name] = network
    state = with_networks(state, [0.5, -1.0], critics)
    after, _ = jax.jit(algorithm.update.updates[1])(state, batch, jax.random.key(1))
    action, (v, w, c) = np.tanh([0.5, -1.0]), climbs
    value = v * (action[0] + 2) + w * (action[1] + 2) + c
    # The mean over both of an action's numbers halves what each adds; ReBRAC's sum does not.
    pull = penalty * (action - batch.actions.mean(axis=0)) - weight / abs(value) * np.array([v, w])
    expected = (1 - action**2) * pull
    gradient = 10 * optax.tree.get(after.opt_state["actor"], "mu")["output"]["bias"]  # Adam keeps a tenth of the first
    np.testing.assert_allclose(gradient, expected, rtol=1e-4)


@pytest.mark.slow
def test_td3s_next_action_is_noisy_within_its_clips():
    @functools.cache
    def updated(**noise):
        algorithm, state, batch = prepared(dataclasses.replace(METHODS["td3-bc"], **noise))
        update = jax.jit(algorithm.update.updates[0])
        return lambda key: update(state, batch, key)[1]

    def loss(key=1, **noise):
        metrics = updated(**noise)(jax.random.key(key))
        return float(metrics["loss"]), float(metrics["mean_value"])

    still = loss(policy_noise=0.0)
    assert loss(policy_noise=5.0, noise_clip=0.0) == still
    assert loss(policy_noise=0.2) != still
    assert loss(policy_noise=0.2) != loss(policy_noise=0.2, key=2)
    # So much noise leaves only its sign, whose action is at an end of the space.
    np.testing.assert_allclose(
        loss(policy_noise=1e6, noise_clip=1e6), loss(policy_noise=1e6, noise_clip=3.0), rtol=1e-6
    )
    assert loss(policy_noise=1e6, noise_clip=3.0) != loss(policy_noise=1e6, noise_clip=0.5)


def test_what_would_spoil_the_rewards_is_refused_before_anything_is_written(tmp_path):
    for make, message in (
        (lambda: config_of("iql", delayed_reward=True), "delayed_reward takes their rewards away; leave it out"),
        (lambda: config_of("td3-bc", steps=None, passes=3), "passes count windows, and this method draws single steps"),
    ):
        with pytest.raises(JaxdtError, match=message):
            jaxdt.train(make(), STORE, out=tmp_path / "run", env=Dial())
        assert not (tmp_path / "run").exists()
    alike = dataclasses.replace(STORE, rewards=np.zeros_like(STORE.rewards))
    with pytest.raises(JaxdtError, match="difference of best and worst episode, which is 0 here; take 'as-recorded'"):
        measure(IQLConfig(), alike)


@pytest.mark.parametrize("given", [IQLConfig(), IQLConfig(dropout=0.1), IQLConfig(discount=0.9, width=64)])
def test_tuning_goes_by_the_objective_that_is_given_whatever_else_is(given):
    trained = IQLConfig(expectile=0.9, inverse_temperature=10.0, discount=0.95, width=64, normalize_states=True)
    tuned = given.trained_on_from(trained)
    assert tuned == dataclasses.replace(given, width=64, normalize_states=True)


def test_tuning_keeps_the_scale_of_rewards():
    trained = IQLConfig(rewards="as-recorded")
    with pytest.raises(JaxdtError, match="the weights have rewards=return-range and cannot be used with as-recorded"):
        trained.trained_on_from(IQLConfig())


def test_iql_ends_where_any_of_its_rates_is_zero():
    linear = OptimizerConfig.adam(1e-3)
    linear = dataclasses.replace(linear, schedule="linear")
    assert IQLConfig(optimizer=linear, policy_schedule="constant").for_steps(7).last_step == 7
    assert IQLConfig(policy_schedule="constant").for_steps(7).last_step is None
    longer = dataclasses.replace(IQLConfig().optimizer, total_steps=100)
    assert IQLConfig(optimizer=longer).for_steps(7).last_step == 100
