"""The Online Decision Transformer: its authors' numbers, its distributions, its temperature and how it acts."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxdt
from jaxdt.algorithms import make_algorithm
from jaxdt.algorithms.decision_transformer import with_sizes
from jaxdt.algorithms.distributions import Categorical, Gaussian, SquashedGaussian, squashed_gaussian
from jaxdt.algorithms.normalization import to_environment
from jaxdt.algorithms.online_dt import distribution_of, fit_window
from jaxdt.algorithms.temperature import EntropyUpdate, mean_of_real
from jaxdt.cli import run as run_command
from jaxdt.config import ONLINE_DT, ONLINE_DT_SMALL, PAPER, OnlineDTConfig, OptimizerConfig, TrainConfig
from jaxdt.config.online_dt import OTHER, TUNED, tuned_for
from jaxdt.errors import JaxdtError
from jaxdt.interop.names import config_from_tensors, params_from_tensors
from jaxdt.models import build_model
from jaxdt.run.targets import choose_targets
from jaxdt.types import Discrete, Window
from tests.conftest import make_store, random_window, tiny_model
from tests.toys import DRIFT_SPEC, Drift


pytestmark = pytest.mark.usefixtures("quick_plots")
GOLDEN = np.load(Path(__file__).parent / "golden" / "online.npz")
SHAPE = json.loads(str(GOLDEN["config"]))
MODEL = tiny_model(state_dim=None, action_dim=None, timestep_embedding=False, context_length=6)
LAMB = OptimizerConfig(update_rule="lamb", learning_rate=1e-2, warmup_steps=2, weight_decay=1e-3)
CONFIG = OnlineDTConfig(return_scale=10.0, acting_context_length=2, model=MODEL, optimizer=LAMB)
DISCRETE = dataclasses.replace(DRIFT_SPEC, action=Discrete(3, start=5))


def original(ordering: str):
    """Its tensors, and the batch that they were given."""
    tensors = {name.split("/param/")[1]: GOLDEN[name] for name in GOLDEN if name.startswith(f"{ordering}/param/")}
    names = ("states", "actions", "returns_to_go", "timesteps", "mask")
    window = Window(*(GOLDEN[f"{ordering}/{name}"] for name in names))
    return tensors, window._replace(timesteps=window.timesteps.astype(np.int32), mask=window.mask.astype(bool))


@pytest.mark.parametrize("ordering", ["ordering0", "ordering1"])
def test_an_imported_model_gives_the_originals_distribution(ordering):
    tensors, window = original(ordering)
    config = config_from_tensors(tensors, SHAPE["num_heads"], SHAPE["context_length"], "golden")
    assert config.timestep_embedding == (ordering == "ordering1")
    params, dropped = params_from_tensors(tensors, config, "golden")
    heads = [f"{head}.{part}" for head in ("predict_return", "predict_state") for part in ("bias", "weight")]
    assert dropped == ["embed_timestep.weight", *heads, "transformer.wte.weight"]
    _, apply = build_model(config, gaussian=True)
    with jax.default_matmul_precision("highest"):
        found = squashed_gaussian(jax.jit(apply)(params, window))
    real = window.mask
    for name, values in {"loc": found.mean, "std": jnp.exp(found.log_std), "mean_action": found.mode()}.items():
        np.testing.assert_allclose(values[real], GOLDEN[f"{ordering}/{name}"][real], rtol=1e-5, atol=1e-5)
    likelihood = mean_of_real(jax.jit(found.log_prob)(jnp.asarray(window.actions)), jnp.asarray(real))
    assert float(likelihood) == pytest.approx(float(GOLDEN[f"{ordering}/log_likelihood"]), rel=1e-5)


def test_its_file_becomes_a_run_that_acts(tmp_path, capsys):
    tensors, _ = original("ordering1")
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "stats.json").write_text(json.dumps({"state_mean": [0.5] * 5, "state_std": [2.0] * 5}))
    options = ["--stats", str(tmp_path / "stats.json"), "--targets", "10"]
    command = ["import", str(tmp_path / "model.safetensors"), str(tmp_path / "run"), *options]
    assert run_command(command) == 2
    assert "give --num-heads (num_heads=); its default is 4" in capsys.readouterr().err
    assert run_command([*command, "--num-heads", "2"]) == 0
    agent = jaxdt.Agent.load(tmp_path / "run", acting_context_length=3)
    assert (agent.config.name, agent.config.model.timestep_embedding, agent.targets) == ("online-dt", True, (10.0,))
    assert agent.params["log_temperature"] == np.log(np.float32(0.1))
    agent.reset(10.0)
    assert np.abs(agent.act(np.ones(5))).max() < 1


def test_a_squashed_gaussians_density_sums_to_one_and_gives_its_entropy():
    """In one dimension, by the middle of many small pieces; what is drawn has the mean that the density says."""
    gaussian = SquashedGaussian(jnp.array([0.7]), jnp.array([-0.5]))
    edges = np.tanh(np.linspace(-9, 9, 40_001))
    middle, width = jnp.float32((edges[1:] + edges[:-1]) / 2)[:, None], np.diff(edges)
    log_prob = np.asarray(jax.jit(jax.vmap(gaussian.log_prob))(middle), np.float64)
    mass = np.exp(log_prob) * width
    assert mass.sum() == pytest.approx(1, abs=1e-3)
    keys, others = jax.random.split(jax.random.key(0), (2, 20_000))
    drawn = jax.jit(jax.vmap(gaussian.sample))(keys)
    assert float(drawn.mean()) == pytest.approx(float((mass * middle[:, 0]).sum()), abs=0.01)
    entropies = jax.jit(jax.vmap(gaussian.entropy))(others)
    assert float(entropies.mean()) == pytest.approx(-(mass * log_prob).sum(), abs=0.02)
    assert float(gaussian.mode()[0]) == pytest.approx(np.tanh(0.7))
    at_the_bound = SquashedGaussian(jnp.array([5.0]), jnp.array([-5.0])).log_prob
    assert np.isfinite(at_the_bound(jnp.array([1.0])))
    assert np.isfinite(jax.jit(jax.grad(lambda a: at_the_bound(jnp.tanh(a))))(jnp.array([-40.0]))).all()


def test_entropies_with_a_formula_are_the_mean_of_what_is_drawn():
    gaussian = Gaussian(jnp.array([1.0, -2.0]), jnp.array([0.3, -1.0]))
    for found, key in zip(
        (gaussian, Categorical(jnp.array([0.0, 1.0, -2.0]))), jax.random.split(jax.random.key(1)), strict=True
    ):
        drawn = jax.jit(jax.vmap(found.sample))(jax.random.split(key, 20_000))
        log_prob = jax.jit(jax.vmap(found.log_prob))(drawn)
        assert float(jax.jit(found.entropy)()) == pytest.approx(-float(log_prob.mean()), abs=0.02)
    probabilities = np.exp(jax.jit(jax.vmap(found.log_prob))(jnp.arange(3)))
    np.testing.assert_allclose(probabilities, np.exp([0, 1, -2]) / np.exp([0, 1, -2]).sum(), rtol=1e-5)
    assert int(found.mode()) == 1


@pytest.fixture(scope="module")
def trained():
    """An algorithm, its state before and after one update, and what was told of it; its batch has padding."""
    algorithm = make_algorithm(CONFIG, DRIFT_SPEC)
    window = random_window(tiny_model(context_length=6), batch=4, real=[6, 2, 5, 1])
    window = jax.tree.map(jnp.asarray, window)
    before = algorithm.init(jax.random.key(0))
    after, metrics = jax.jit(lambda *given: algorithm.update(*given))(before, window, jax.random.key(1))
    return algorithm, window, before, after, metrics


def test_an_update_climbs_likelihood_and_entropy_and_moves_the_temperature(trained):
    algorithm, window, before, after, metrics = trained
    assert isinstance(algorithm.update, EntropyUpdate)
    fit = jax.jit(algorithm.update.fit)(before.params["policy"], window, jax.random.key(1))
    assert float(metrics["loss"]) == pytest.approx(float(fit.loss - 0.1 * fit.entropy), rel=1e-5)
    assert float(metrics["temperature"]) == pytest.approx(0.1)
    assert (algorithm.update.target_entropy, make_algorithm(CONFIG, DISCRETE).update.target_entropy) == (-2.0, 0.0)
    up = np.sign(algorithm.update.target_entropy - float(fit.entropy))  # Adam's first step is its rate
    moved = float(after.params["log_temperature"] - before.params["log_temperature"])
    assert moved == pytest.approx(1e-4 * up, rel=1e-2)


@pytest.mark.parametrize("spec", [DRIFT_SPEC, DISCRETE], ids=["vectors", "discrete"])
def test_the_fit_is_the_mean_over_real_steps(spec):
    """Of the distribution that the model gives; dropout is off, so that it can be computed again."""
    sizes = {"action_dim": 2} if spec is DRIFT_SPEC else {"num_actions": 3}
    model = dataclasses.replace(MODEL, state_dim=3, **sizes)
    init, apply = build_model(model, gaussian=True)
    params, window = init(jax.random.key(0)), random_window(model, batch=3, real=[6, 2, 0])
    window, apply = jax.tree.map(jnp.asarray, window), jax.jit(apply)
    fit = jax.jit(lambda *given: fit_window(lambda *seen, key: apply(*seen), spec, *given))(
        params, window, jax.random.key(1)
    )
    found = distribution_of(apply(params, window), spec)
    entropy = found.entropy(jax.random.split(jax.random.key(1))[1])
    assert float(fit.loss) == pytest.approx(-float(found.log_prob(window.actions)[window.mask].mean()), rel=1e-5)
    assert float(fit.entropy) == pytest.approx(float(entropy[window.mask].mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("distribution", "actions"),
    [
        (Gaussian(jnp.array([0.2, -1.0]), jnp.array([-1.0, 0.3])), jnp.array([[0.0, -0.5], [1.0, 0.4]])),
        (Categorical(jnp.array([0.5, -1.0, 2.0])), jnp.array([0, 2])),
    ],
    ids=["gaussian", "categorical"],
)
def test_a_temperature_divides_log_probabilities(distribution, actions):
    difference = jnp.subtract(*map(distribution.log_prob, actions))
    tempered = jnp.subtract(*map(distribution.tempered(0.25).log_prob, actions))
    assert float(tempered) == pytest.approx(4 * float(difference), rel=1e-5)


def test_a_squashed_gaussian_is_tempered_before_it_is_squashed():
    mean, log_std = jnp.array([0.3]), jnp.array([-0.5])
    squashed = SquashedGaussian(mean, log_std).tempered(0.25).sample(jax.random.key(0))
    normal = jax.random.normal(jax.random.key(0), (1,))
    np.testing.assert_allclose(squashed, jnp.tanh(mean + 0.5 * jnp.exp(log_std) * normal), rtol=1e-6)


def act_once(config, params, observations, *, spec=DRIFT_SPEC, keys=None):
    """The last action of several steps, the first of which are out of a shorter context's sight."""
    policy = make_algorithm(config, spec).policy
    memory = policy.start(jnp.full(2, 3.0))
    act = jax.jit(policy.act)
    for t, observation in enumerate(observations):
        step_keys = None if keys is None else jax.vmap(lambda key, t=t: jax.random.fold_in(key, t))(keys)
        memory, action = act(params, memory, observation, jnp.zeros(2), step_keys)
    return memory, action


@pytest.mark.slow
def test_acting_computes_a_shorter_context_as_training_would_a_padded_one(trained):
    _, _, before, *_ = trained
    observations = jax.random.normal(jax.random.key(2), (3, 2, 3))
    memory, action = act_once(CONFIG, before.params, observations)
    assert memory.context.mask.shape == (2, 2)
    padded = jax.tree.map(lambda x: jnp.pad(x, [(0, 0), (4, 0)] + [(0, 0)] * (x.ndim - 2)), memory.context)
    _, apply = build_model(with_sizes(CONFIG.model, DRIFT_SPEC), gaussian=True)
    newest = squashed_gaussian(jax.jit(apply)(before.params["policy"], padded)[:, -1]).mode()
    np.testing.assert_allclose(action, to_environment(newest, DRIFT_SPEC), rtol=1e-5, atol=1e-5)
    all_of_it = dataclasses.replace(CONFIG, acting_context_length=None)
    assert float(jnp.abs(action - act_once(all_of_it, before.params, observations)[1]).max()) > 1e-5
    first = act_once(CONFIG, before.params, observations[:2])[1]
    cached = dataclasses.replace(CONFIG, context="cached")
    np.testing.assert_allclose(first, act_once(cached, before.params, observations[:2])[1], rtol=1e-5, atol=1e-5)


def test_sampling_draws_by_the_episodes_keys_and_greedy_takes_the_middle(trained):
    _, _, before, *_ = trained
    observations = jnp.tile(jax.random.normal(jax.random.key(3), (1, 1, 3)), (1, 2, 1))
    drawing = dataclasses.replace(CONFIG, sampling="sample")
    assert "sampling" in CONFIG.acting_options
    assert drawing.draws_actions
    keys = jax.random.split(jax.random.key(4))
    _, drawn = act_once(drawing, before.params, observations, keys=keys)
    _, swapped = act_once(drawing, before.params, observations, keys=keys[::-1])
    _, greedy = act_once(CONFIG, before.params, observations, keys=keys)
    np.testing.assert_array_equal(drawn, swapped[::-1])
    assert (drawn[0] != drawn[1]).all()
    np.testing.assert_array_equal(greedy[0], greedy[1])
    low, high = DRIFT_SPEC.action
    assert ((low < np.asarray(drawn)) & (np.asarray(drawn) < high)).all()
    cold = dataclasses.replace(drawing, temperature=1e-10)
    np.testing.assert_allclose(act_once(cold, before.params, observations, keys=keys)[1], greedy, atol=1e-3)
    with pytest.raises(JaxdtError, match="needs keys"):
        act_once(drawing, before.params, observations)
    params = make_algorithm(drawing, DISCRETE).init(jax.random.key(0)).params
    _, numbers = act_once(drawing, params, observations, spec=DISCRETE, keys=keys)
    assert set(np.asarray(numbers).tolist()) <= {5, 6, 7}


def test_what_was_tuned_is_found_by_the_datas_name():
    assert tuned_for("D/hopper_medium-v2.hdf5") == tuned_for("hopper-medium.npz") == TUNED["hopper-medium"]
    assert tuned_for("hf:o/n/walker2d-medium-replay-v2") == TUNED["walker2d-medium-replay"]
    assert tuned_for(None) == tuned_for("a.npz+b.npz") == tuned_for("hopper-medium.npz+hopper-expert.npz") == OTHER
    chosen = ONLINE_DT.algorithm.for_data("hopper-medium-replay-v2")
    assert (chosen.optimizer.learning_rate, chosen.optimizer.weight_decay) == (2e-3, 1e-4)
    assert chosen.model.timestep_embedding is True
    assert ONLINE_DT_SMALL.algorithm.for_data("hopper-medium-replay-v2") == ONLINE_DT_SMALL.algorithm
    with pytest.raises(JaxdtError, match="learning_rate, weight_decay and timestep_embedding must be chosen here"):
        OnlineDTConfig().check_spec(DRIFT_SPEC)
    with pytest.raises(JaxdtError, match=r"must be numbers here; got None and None \(a method that was tuned"):
        OnlineDTConfig().optimizer.for_steps(3)
    assert OnlineDTConfig().for_steps(3).optimizer.learning_rate == OTHER.learning_rate
    with pytest.raises(JaxdtError, match="acting_context_length must be at least 1; got 0"):
        OnlineDTConfig(acting_context_length=0)
    store = make_store()
    assert choose_targets(ONLINE_DT, store, "HalfCheetah-v5") == (6000.0,)
    assert choose_targets(PAPER, store, "HalfCheetah-v5") == (6000.0, 12000.0)


@pytest.mark.slow
def test_a_run_goes_on_with_its_temperature(tmp_path):
    """To the same weights as one that was not stopped; LAMB's state is gone on with too."""
    sizes = {"steps": 4, "batch_size": 4, "eval_every": 4, "eval_episodes": 2, "save_every": 2, "log_every": 2}
    config = TrainConfig(algorithm=CONFIG, targets=(3.0,), **sizes)
    whole = jaxdt.train(config, make_store(), out=tmp_path / "whole", env=Drift())
    part = shutil.copytree(whole, tmp_path / "part")
    shutil.rmtree(part / "checkpoints" / "4")
    jaxdt.train(config, make_store(), out=part, env=Drift(), resume=True)
    agents = [jaxdt.Agent.load(path) for path in (whole, part)]
    jax.tree.map(np.testing.assert_array_equal, agents[0].params, agents[1].params)
    assert agents[0].params["log_temperature"] != np.log(np.float32(0.1))
