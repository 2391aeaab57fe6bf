import dataclasses
import json
import typing
from pathlib import Path

import numpy as np
import pytest

from jaxdt import JaxdtError, ModelConfig, OptimizerConfig, TrainConfig
from jaxdt.config import (
    CHANGEABLE,
    DEMO,
    PAPER,
    PRESETS,
    AlgorithmConfig,
    AlgorithmOptions,
    BehaviorCloningConfig,
    DecisionTransformerConfig,
    preset,
)
from jaxdt.run.config_json import config_from_json, config_to_json
from jaxdt.run.prepare import prepare_run
from jaxdt.run.targets import expectile
from tests.conftest import make_store, tiny_algorithm


def there_and_back(config: TrainConfig) -> TrainConfig:
    return config_from_json(json.loads(json.dumps(config_to_json(config))))


def values_of(config) -> dict:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


def test_the_model_defaults_to_the_papers():
    assert values_of(ModelConfig(state_dim=17, action_dim=6)) == {
        "state_dim": 17,
        "action_dim": 6,
        "num_actions": None,
        "context_length": 20,
        "max_episode_length": 1000,
        "timestep_embedding": True,
        "width": 128,
        "num_layers": 3,
        "num_heads": 1,
        "mlp_width": None,
        "activation": "relu",
        "action_tanh": True,
        "layer_norm_epsilon": 1e-5,
        "initialization": "original",
        "dtype": "float32",
        "rematerialize": False,
        "scan_layers": False,
        "embedding_dropout": 0.1,
        "attention_dropout": 0.1,
        "residual_dropout": 0.1,
    }


def test_the_optimizer_defaults_to_the_papers():
    assert values_of(OptimizerConfig()) == {
        "update_rule": "adamw",
        "learning_rate": 1e-4,
        "warmup_steps": 10_000,
        "warmup_fraction": 0.1,
        "schedule": "constant",
        "total_steps": None,
        "weight_decay": 1e-4,
        "decay_biases": True,
        "beta1": 0.9,
        "beta2": 0.999,
        "epsilon": 1e-8,
        "max_grad_norm": 0.25,
    }


def test_the_paper_preset_is_the_papers():
    assert PRESETS["paper"] is PAPER
    assert TrainConfig() == PAPER
    assert PAPER.algorithm == DecisionTransformerConfig()
    assert (PAPER.algorithm.model, PAPER.algorithm.optimizer) == (ModelConfig(), OptimizerConfig())
    assert PAPER.algorithm.return_scale == 1000.0
    expected = {"preset": "paper", "steps": 100_000, "batch_size": 64, "best_fraction": 1.0}
    expected |= {"eval_every": 10_000, "eval_episodes": 100, "delayed_reward": False, "targets": None}
    assert {name: getattr(PAPER, name) for name in expected} == expected


@pytest.mark.parametrize("kind", typing.get_args(AlgorithmConfig), ids=lambda kind: kind.__name__)
def test_every_algorithms_config_has_what_the_house_asks_of_it(kind):
    config = kind()
    assert isinstance(config, AlgorithmOptions)
    fields = {field.name for field in dataclasses.fields(kind)}
    assert set(config.acting_options) <= fields
    of_data = config.for_data(None)
    assert of_data.for_data("hopper-medium-v2") == of_data
    assert of_data.for_steps(10).for_steps(10) == of_data.for_steps(10)
    assert kind.name in config_to_json(TrainConfig(algorithm=config))["algorithm"]["name"]


def test_the_huggingface_preset_is_the_tutorials():
    preset = PRESETS["huggingface"]
    algorithm = preset.algorithm
    assert (preset.steps, preset.passes, preset.batch_size) == (None, 120, 64)
    assert (preset.targets, algorithm.return_scale) == ((12_000.0,), 1000.0)
    model = {"max_episode_length": 4096, "initialization": "huggingface"}
    assert values_of(algorithm.model) == values_of(ModelConfig()) | model
    optimizer = {"warmup_steps": None, "schedule": "linear", "decay_biases": False}
    assert values_of(algorithm.optimizer) == values_of(OptimizerConfig()) | optimizer


def test_the_demo_preset_is_a_small_run_on_the_demo_episodes():
    assert PRESETS["demo"] is DEMO
    assert (DEMO.preset, DEMO.dataset, DEMO.env) == ("demo", "demo", None)
    assert DEMO.steps <= PAPER.steps // 10
    assert len(DEMO.target_quantiles) == 3
    assert not DEMO.paper_targets


@pytest.mark.parametrize(
    "kind", [ModelConfig, OptimizerConfig, TrainConfig, DecisionTransformerConfig, BehaviorCloningConfig]
)
def test_a_config_cannot_be_changed(kind):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(kind(), dataclasses.fields(kind)[0].name, 1)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (ModelConfig, {"context_length": 0}, "context_length must be at least 1; got 0."),
        (ModelConfig, {"max_episode_length": 0}, "max_episode_length must be at least 1; got 0."),
        (ModelConfig, {"width": -8}, "width must be at least 1; got -8."),
        (ModelConfig, {"num_layers": 0}, "num_layers must be at least 1; got 0."),
        (ModelConfig, {"num_heads": 0}, "num_heads must be at least 1; got 0."),
        (ModelConfig, {"state_dim": 0}, "state_dim must be at least 1; got 0."),
        (ModelConfig, {"action_dim": -1}, "action_dim must be at least 1; got -1."),
        (ModelConfig, {"num_actions": 0}, "num_actions must be at least 1; got 0."),
        (ModelConfig, {"mlp_width": 0}, "mlp_width must be at least 1; got 0."),
        (
            ModelConfig,
            {"width": 10, "num_heads": 4},
            "width must be divisible by num_heads; got width=10, num_heads=4.",
        ),
        (ModelConfig, {"embedding_dropout": 1.0}, "embedding_dropout must be at least 0 and below 1; got 1.0."),
        (ModelConfig, {"attention_dropout": -0.1}, "attention_dropout must be at least 0 and below 1; got -0.1."),
        (ModelConfig, {"residual_dropout": 2.0}, "residual_dropout must be at least 0 and below 1; got 2.0."),
        (OptimizerConfig, {"warmup_steps": -1}, "warmup_steps must be at least 0; got -1."),
        (OptimizerConfig, {"learning_rate": -1e-4}, "learning_rate must be at least 0 and below inf; got -0.0001."),
        (OptimizerConfig, {"update_rule": "lamb", "decay_biases": False}, "update_rule='lamb' treats all arrays alike"),
        (OptimizerConfig, {"learning_rate": float("nan")}, "learning_rate must be at least 0 and below inf"),
        (OptimizerConfig, {"weight_decay": float("inf")}, "weight_decay must be at least 0 and below inf; got inf."),
        (OptimizerConfig, {"epsilon": -1.0}, "epsilon must be at least 0 and below inf; got -1.0."),
        (OptimizerConfig, {"beta1": 1.0}, "beta1 must be at least 0 and below 1; got 1.0."),
        (OptimizerConfig, {"beta2": -0.5}, "beta2 must be at least 0 and below 1; got -0.5."),
        (OptimizerConfig, {"max_grad_norm": 0.0}, "max_grad_norm must be above 0 and finite; got 0.0"),
        (OptimizerConfig, {"max_grad_norm": float("nan")}, "max_grad_norm must be above 0 and finite; got nan"),
        (OptimizerConfig, {"max_grad_norm": float("inf")}, "max_grad_norm must be above 0 and finite; got inf"),
        (TrainConfig, {"steps": 0}, "steps must be at least 1; got 0."),
        (TrainConfig, {"batch_size": 0}, "batch_size must be at least 1; got 0."),
        (TrainConfig, {"eval_every": 0}, "eval_every must be at least 1; got 0."),
        (TrainConfig, {"eval_episodes": 0}, "eval_episodes must be at least 1; got 0."),
        (TrainConfig, {"save_every": -5}, "save_every must be at least 1; got -5."),
        (TrainConfig, {"log_every": 0}, "log_every must be at least 1; got 0."),
        (TrainConfig, {"updates_per_call": 0}, "updates_per_call must be at least 1; got 0."),
        (TrainConfig, {"updates_per_call": 3}, "steps must be a multiple of updates_per_call; got 100000 and 3."),
        (
            TrainConfig,
            {"updates_per_call": 5, "log_every": 7},
            "log_every must be a multiple of updates_per_call; got 7 and 5.",
        ),
        (TrainConfig, {"seed": -1}, "seed must be at least 0 and below"),
        (TrainConfig, {"eval_seed": -1}, "eval_seed must be at least 0 and below"),
        (DecisionTransformerConfig, {"return_scale": 0.0}, "return_scale must be above 0 and finite; got 0.0."),
        (
            DecisionTransformerConfig,
            {"return_scale": float("inf")},
            "return_scale must be above 0 and finite; got inf.",
        ),
        (DecisionTransformerConfig, {"temperature": 0.0}, "temperature must be above 0 and finite; got 0.0 (for the"),
        (BehaviorCloningConfig, {"temperature": -1.0}, "temperature must be above 0 and finite; got -1.0 (for the"),
        (BehaviorCloningConfig, {"num_layers": 0}, "num_layers must be at least 1; got 0."),
        (BehaviorCloningConfig, {"dropout": 1.0}, "dropout must be at least 0 and below 1; got 1.0."),
        (
            TrainConfig,
            {"algorithm": BehaviorCloningConfig(), "targets": (1.0,)},
            "behavior-cloning is asked for no return; leave targets out (got [1.0]).",
        ),
        (TrainConfig, {"model": ModelConfig()}, "TrainConfig has no model of its own any more; write TrainConfig(alg"),
        (TrainConfig, {"eval_context": "cached"}, "TrainConfig has no eval_context of its own any more; write"),
        (TrainConfig, {"best_fraction": 0.0}, "best_fraction must be above 0 and at most 1; got 0.0."),
        (TrainConfig, {"best_fraction": 1.5}, "best_fraction must be above 0 and at most 1; got 1.5."),
        (TrainConfig, {"targets": ()}, "targets must be auto, or one or more finite returns; got []."),
        (
            TrainConfig,
            {"targets": (1.0, float("nan"))},
            "targets must be auto, or one or more finite returns; got [1.0, nan].",
        ),
        (TrainConfig, {"target_quantiles": (0.5, 1.5)}, "target_quantiles must lie between 0 and 1; got [0.5, 1.5]."),
        (TrainConfig, {"target_quantiles": ()}, "target_quantiles must lie between 0 and 1; got []."),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_rule_and_the_value(kind, changes, message):
    with pytest.raises(JaxdtError) as caught:
        kind(**changes)
    assert str(caught.value).startswith(message)


def test_an_unknown_activation_is_refused():
    config = ModelConfig()
    # By hand, because the tests' type checks would refuse it first.
    object.__setattr__(config, "activation", "tanh")
    with pytest.raises(JaxdtError, match=r"^activation must be one of relu, gelu, gelu_new; got 'tanh'\.$"):
        config.__post_init__()


@pytest.mark.parametrize(
    "config",
    [
        DEMO,
        PAPER,
        dataclasses.replace(
            PAPER,
            targets=(1.0, -2.5),
            dataset="a.npz+b.npz",
            env="none",
            video=True,
            delayed_reward=True,
            algorithm=DecisionTransformerConfig(
                sampling="sample",
                temperature=0.5,
                model=ModelConfig(state_dim=3, action_dim=1, mlp_width=7, activation="gelu_new"),
                optimizer=OptimizerConfig(learning_rate=0.003, max_grad_norm=None),
            ),
        ),
        TrainConfig(algorithm=BehaviorCloningConfig(width=3)),
    ],
    ids=["demo", "paper", "own", "behaviour cloning"],
)
def test_a_config_survives_json(config):
    assert there_and_back(config) == config


def test_whole_numbers_stand_for_real_ones_in_json():
    config = config_from_json({"save_every_minutes": 10, "targets": [3, 4.5]})
    assert (config.save_every_minutes, config.targets) == (10, (3.0, 4.5))
    assert type(config.save_every_minutes) is float


def test_fields_that_json_leaves_out_take_their_defaults():
    found = config_from_json({"steps": 5, "algorithm": {"name": "decision-transformer", "model": {"width": 16}}})
    assert found == TrainConfig(steps=5, algorithm=DecisionTransformerConfig(model=ModelConfig(width=16)))


DT = {"name": "decision-transformer"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stepz": 5}, "config has the unknown field 'stepz'"),
        ({"algorithm": DT | {"model": {"depth": 5}}}, "config.algorithm.model has the unknown field 'depth'"),
        ({"steps": 5.0}, "config.steps has the wrong type; got 5.0"),
        ({"steps": "5"}, "config.steps has the wrong type; got '5'"),
        ({"steps": None}, "steps or passes must be given; both are None."),
        ({"steps": True}, "config.steps has the wrong type; got True"),
        ({"video": 1}, "config.video has the wrong type; got 1"),
        ({"algorithm": DT | {"return_scale": "1"}}, "config.algorithm.return_scale has the wrong type; got '1'"),
        ({"dataset": ["a.npz"]}, r"config.dataset has the wrong type; got \['a.npz'\]"),
        ({"targets": 5.0}, "config.targets must be a list of numbers; got 5.0"),
        ({"targets": ["5"]}, r"config.targets must be a list of numbers; got \['5'\]"),
        ({"targets": [True]}, r"config.targets must be a list of numbers; got \[True\]"),
        ({"target_quantiles": None}, "config.target_quantiles must be a list of numbers; got None"),
        (
            {"algorithm": DT | {"model": {"activation": 3}}},
            "config.algorithm.model.activation has the wrong type",
        ),
        ({"algorithm": DT | {"optimizer": []}}, "config.algorithm.optimizer must be a JSON object; got list"),
        ({"algorithm": []}, "config.algorithm must be a JSON object; got list"),
        ({"algorithm": {}}, "config.algorithm is None, which this version does not know"),
        ({"algorithm": {"name": "sorcery"}}, "config.algorithm is 'sorcery', which this version does not know .it kn"),
        ({"algorithm": DT | {"optimizer": {"beta1": 3}}}, "beta1 must be at least 0 and below 1; got 3.0"),
        ([], "config must be a JSON object; got list"),
        (None, "config must be a JSON object; got NoneType"),
    ],
)
def test_json_that_is_no_config_is_refused_with_the_field(values, message):
    with pytest.raises(JaxdtError, match=f"^{message}"):
        config_from_json(values)


@pytest.mark.parametrize("changes", [{}, {"dtype": "bfloat16"}, {"context_length": 7, "residual_dropout": 0.5}])
def test_weights_keep_their_shape_and_are_trained_as_is_said(changes):
    """What one choice is does not decide where the others come from."""
    shape = {"width": 64, "num_layers": 2, "activation": "gelu", "timestep_embedding": False}
    trained = preset("paper", **shape, context_length=2, embedding_dropout=0.0, initialization="huggingface").algorithm
    tuned = preset("paper", **changes).algorithm.trained_on_from(trained)
    assert tuned.model == ModelConfig(**shape, initialization="huggingface", **changes)


def test_another_shape_is_refused_by_the_name_that_was_given():
    small, online = (preset(name).algorithm for name in ("online-dt-small", "online-dt"))
    undropped = preset("online-dt", embedding_dropout=0.0).algorithm
    assert undropped.trained_on_from(small).model.width == small.model.width != online.model.width
    with pytest.raises(JaxdtError, match=f"the weights have num_layers={small.model.num_layers} and cannot be used wi"):
        preset("online-dt", num_layers=7).algorithm.trained_on_from(small)


def test_what_may_change_on_resuming_says_nothing_about_learning():
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    learned = {"preset", "dataset", "env", "batch_size", "seed", "delayed_reward"}
    learned |= {"best_fraction", "best_fraction_of", "validation_fraction"}
    assert set(CHANGEABLE) <= fields - learned - {"clip_actions", "algorithm", "eval_seed"}


def test_the_target_of_the_data_is_an_expectile_of_its_returns():
    values = np.array([0.0, 1.0, 2.0, 10.0])
    assert expectile(values, 0.5) == pytest.approx(values.mean())
    found = expectile(values, 0.99)
    above, below = values[values > found], values[values <= found]
    assert 0.99 * (above - found).sum() == pytest.approx(0.01 * (found - below).sum())
    assert 9 < found < 10
    assert expectile(np.full(3, 7.0), 0.99) == 7.0


@pytest.mark.parametrize("given", ["auto", (1.0, 2.0)])
def test_targets_are_numbers_once_they_are_chosen(given):
    store = make_store()
    config = TrainConfig(env="none", targets=given, algorithm=tiny_algorithm())
    assert config.evaluation_targets == (() if given == "auto" else given)
    chosen = prepare_run(config, store, None, None).record.config.targets
    assert chosen == ((expectile(store.returns, 0.99),) if given == "auto" else given)
    with pytest.raises(JaxdtError, match=r"is asked for no return; leave targets out \(got (auto|\[1.0, 2.0\])\)"):
        TrainConfig(targets=given, algorithm=BehaviorCloningConfig())


def test_a_word_for_targets_comes_back_from_json_and_no_other_is_taken():
    assert there_and_back(TrainConfig(targets="auto")).targets == "auto"
    values = config_to_json(TrainConfig())
    with pytest.raises(JaxdtError, match=r"config\.targets must be a list of numbers; got 'max'"):
        config_from_json({**values, "targets": "max"})


def test_a_preset_takes_other_values_by_the_commands_names():
    config = preset("demo", learning_rate=3e-4, steps=1_000, width=32)
    assert (config.steps, config.algorithm.optimizer.learning_rate, config.algorithm.model.width) == (1_000, 3e-4, 32)
    assert dataclasses.replace(config, steps=DEMO.steps, algorithm=DEMO.algorithm) == DEMO
    algorithm = BehaviorCloningConfig(width=8)
    assert preset("paper", algorithm=algorithm, seed=3) == dataclasses.replace(PAPER, algorithm=algorithm, seed=3)


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({"steps": 5_000}, (5_000, None)),
        ({"passes": 7}, (None, 7)),
        ({"steps": 5_000, "passes": 7}, (5_000, 7)),  # which training refuses
        ({"seed": 1}, (None, 120)),
    ],
)
def test_how_long_is_said_in_one_way(changes, taken):
    """The preset counts passes."""
    config = preset("huggingface", **changes)
    assert (config.steps, config.passes) == taken


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("papper", {}, r"'papper' is no preset \(did you mean paper\?\); choose one of demo"),
        ("paper", {"learning_rat": 1.0}, r"the preset paper has no 'learning_rat' \(did you mean learning_rate\?\)"),
        ("bc", {"num_heads": 1}, "the preset bc has no 'num_heads'"),
    ],
)
def test_what_no_preset_has_is_refused(name, changes, message):
    with pytest.raises(JaxdtError, match=message):
        preset(name, **changes)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"seed": np.int64(3)}, 3),
        ({"steps": 2.0}, 2),
        ({"steps": np.array(2)}, 2),
        ({"targets": 3.0}, (3.0,)),
        ({"targets": np.array([1, 2])}, (1.0, 2.0)),
        ({"targets": [np.float32(0.5)]}, (0.5,)),
        ({"best_fraction": np.float64(0.5)}, 0.5),
        ({"video": np.bool_(True)}, True),
        ({"dataset": Path("a.npz")}, "a.npz"),
    ],
)
def test_numbers_of_numpy_whole_floats_and_paths_become_pythons_own(given, kept):
    (name,) = given
    found = getattr(TrainConfig(**given), name)
    assert (type(found), found) == (type(kept), kept)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"steps": 2.5}, "steps must be a whole number; got 2.5."),
        ({"steps": "many"}, "steps must be a whole number; got 'many'."),
        ({"targets": [[1]]}, "targets must be a number; got [1]."),
        ({"video": 1}, "video must be bool; got 1."),
        ({"algorithm": 3}, "algorithm must be DecisionTransformerConfig or "),
        ({"stepz": 3}, "TrainConfig has no stepz; it has steps."),
    ],
)
def test_what_a_field_cannot_hold_is_a_sentence(given, says):
    with pytest.raises(JaxdtError) as caught:
        TrainConfig(**given)
    assert str(caught.value).startswith(says)
