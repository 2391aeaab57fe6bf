"""A model of one's own in everything that is there for ours."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdt
from jaxdt import JaxdtError
from tests.runs import CONFIG, STORE
from tests.toys import DRIFT_SPEC, Drift


pytestmark = pytest.mark.usefixtures("quick_plots")


def linear(model):
    """Reads state and return-to-go of each step alone."""

    def init(key):
        return {"kernel": 0.1 * jax.random.normal(key, (model.state_dim + 1, model.action_dim))}

    def apply(params, window, *, key=None):
        del key
        features = jnp.concatenate([window.states, window.returns_to_go[..., None]], axis=-1)
        return jnp.tanh(features @ params["kernel"])

    return init, apply


OWN = dataclasses.replace(CONFIG, steps=4, algorithm=dataclasses.replace(CONFIG.algorithm, network=linear))


@pytest.mark.parametrize("context_length", [1, 3])
def test_it_remembers_what_was_done_where_it_predicts_more_than_can_be(context_length):
    """As the data have it: an action is in [-1, 1] there."""

    def far(model):
        return linear(model)[0], lambda params, window, *, key=None: jnp.full_like(window.actions, 3.0)

    model = dataclasses.replace(OWN.algorithm.model, context_length=context_length)
    algorithm = jaxdt.make_algorithm(dataclasses.replace(OWN.algorithm, network=far, model=model), DRIFT_SPEC)
    memory = algorithm.policy.start(jnp.ones(2))
    for _ in range(2):
        memory, action = algorithm.policy.act({}, memory, jnp.ones((2, 3)), jnp.zeros(2), None)
        np.testing.assert_array_equal(action, [[1.0, 5.0]] * 2)
    for remembered in (memory.action, memory.context.actions[:, -2:-1]):
        assert (np.abs(remembered) == 1).all()


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return jaxdt.train(OWN, STORE, out=tmp_path_factory.mktemp("own") / "run", env=Drift())


@pytest.mark.slow
def test_it_is_trained_goes_on_and_acts(own):
    agent = jaxdt.Agent.load(own, network=linear)
    assert agent.params["kernel"].shape == (4, 2)
    again = jaxdt.train(dataclasses.replace(OWN, steps=8), STORE, out=own, env=Drift(), resume=True)
    assert np.any(jaxdt.Agent.load(again, network=linear).params["kernel"] != agent.params["kernel"])
    [result] = jaxdt.evaluate(again, Drift(), targets=[1.0], episodes=2, network=linear)
    beside = jaxdt.Agent(OWN.algorithm, jaxdt.Agent.load(again, network=linear).params, agent.spec)
    [same] = jaxdt.evaluate(beside, Drift(), targets=[1.0], episodes=2)
    np.testing.assert_array_equal(result.returns, same.returns)


def test_a_run_does_not_know_it_and_says_so(own, tmp_path):
    with pytest.raises(JaxdtError, match=r"^the run's network is one's own; give it again, with network="):
        jaxdt.Agent.load(own)
    with pytest.raises(JaxdtError, match=r"can be written for transformers; this run is of .* a network of one's own"):
        jaxdt.to_huggingface(jaxdt.Agent.load(own, network=linear), tmp_path / "model")
    with pytest.raises(JaxdtError, match="context must be exact with a network of your own"):
        jaxdt.Agent.load(own, network=linear, context="cached")


@dataclasses.dataclass(frozen=True)
class Scaled:
    """A function that is a dataclass too, as models often are."""

    scale: float = 0.5

    def __call__(self, model):
        init, apply = linear(model)
        return init, lambda params, window, *, key=None: self.scale * apply(params, window, key=key)


@pytest.mark.slow
def test_it_may_be_any_callable_and_is_given_again_wherever_weights_are_loaded(tmp_path, monkeypatch):
    filmed = []
    monkeypatch.setattr("jaxdt.run.train.render_videos", lambda agent, *_, **__: filmed.append(agent))
    monkeypatch.setattr("jaxdt.run.prepare._check_extras", lambda config, choice: None)
    config = dataclasses.replace(OWN, video=True, algorithm=dataclasses.replace(OWN.algorithm, network=Scaled()))
    out = jaxdt.train(config, STORE, out=tmp_path / "run", env=Drift())
    assert filmed[0].config.network == Scaled()
    jaxdt.train(dataclasses.replace(config, steps=8, video=False), STORE, out=out, env=Drift(), resume=True)
    weights = jaxdt.Agent.load(out, network=Scaled()).params
    started = dataclasses.replace(config, steps=4, video=False, init=str(out))
    further = jaxdt.train(started, STORE, out=tmp_path / "further", env=Drift())
    assert np.abs(jaxdt.Agent.load(further, network=Scaled()).params["kernel"] - weights["kernel"]).max() < 0.1
    (tmp_path / "served").mkdir()
    assert jaxdt.to_stablehlo(out, tmp_path / "served", network=Scaled()).is_dir()


def test_weights_of_one_network_start_no_other(own, finished, tmp_path):
    for init, algorithm, whose in (
        (own, CONFIG.algorithm, "a network of one's own: give it"),
        (finished, OWN.algorithm, "no network of your own: leave it out"),
    ):
        config = dataclasses.replace(CONFIG, init=str(init), algorithm=algorithm)
        with pytest.raises(JaxdtError, match=f"the weights to start from are of {whose}"):
            jaxdt.train(config, STORE, out=tmp_path / "run", env=Drift())
        assert not (tmp_path / "run").exists()
