"""Settings for every test, and the small things that many of them use."""

import contextlib
import gc
import os
import tempfile
import types
from importlib import metadata
from pathlib import Path


os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tiny programs: compiling them costs more than running them. Their code in one piece is a quarter less work than in
# many; without fusion emitters it is half as much again, but jax 0.12 cannot do without.
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), "--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
    + ["--xla_cpu_use_fusion_emitters=false"] * (metadata.version("jaxlib") < "0.11")
)

import jax
import jaxtyping
import numpy as np
import pytest
from beartype.door import is_bearable
from filelock import FileLock


_every_function = jaxtyping.jaxtyped


def of_arrays(*, typechecker):
    """Checks the calls of functions whose signature gives an array's shape or kind, and no others.

    Some others read one byte of a file each; checking them took a third of the suite's time. Plain types are left to
    pyright.
    """

    def decorate(f):
        gives_shapes = isinstance(f, type) or "jaxtyping." in str(f.__annotations__)
        return _every_function(f, typechecker=typechecker) if gives_shapes else f

    return decorate


jaxtyping.jaxtyped = of_arrays

import jaxdt  # noqa: E402
from jaxdt.algorithms.decision_transformer import with_sizes  # noqa: E402
from jaxdt.types import Box, Discrete, Spec, Window  # noqa: E402


gc.set_threshold(20_000, 20, 20)  # what libraries and caches hold need not be looked through all the time
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 4)

jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

if "PYTEST_XDIST_WORKER" not in os.environ:  # what the command itself keeps, in one place for all workers
    _CACHE = tempfile.TemporaryDirectory(prefix="jaxdt-tests-")
    os.environ["XDG_CACHE_HOME"] = _CACHE.name


def pytest_configure(config):
    """Many tests train the same tiny model: the first worker that needs it compiles it, for later sessions too.

    `pytest --cache-clear` throws away what was compiled; with `-p no:cacheprovider` the session does at its end.
    """
    lasting = config.pluginmanager.hasplugin("cacheprovider")
    path = config.cache.mkdir("compiled") if lasting else Path(os.environ["XDG_CACHE_HOME"]) / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(path))


def leaf_checker(accepts):
    """What jaxtyping checks each leaf of a `PyTree[...]` by, at a tenth of what its own checker takes."""
    (hint,) = accepts.__annotations__.values()

    def check(leaf):
        if not is_bearable(leaf, hint):
            raise TypeError

    return check


with contextlib.suppress(ImportError):  # it is no promise of jaxtyping's
    from jaxtyping import _typeguard

    _typeguard.typechecked = leaf_checker


_LONGEST = (
    "killing atari_dt cli value_methods seeds importing killing_finetuning models run finetuning fuzz serving "
    "benchmark discrete online_dt stopping trajectory_run environments atari_environment devices resuming_seeds "
    "golden_run training demo beam_search"
).split()


def pytest_collection_modifyitems(items):
    """The files that take longest first, so that no core is left idle at the end."""
    ranks = {f"tests.test_{name}": rank for rank, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: ranks.get(item.module.__name__, len(ranks)))


_DRAWING = (
    "atari_dt behavior_cloning devices discrete initialization layers mjx mlp models online_dt reinformer rollout "
    "training trajectory_run value_methods".split()
)
"""The tests that between them trace every place where keys are drawn from or split."""


@pytest.fixture(scope="module", autouse=True)
def no_key_is_used_twice(request):
    """Checked once for each such place: checking every program of every test takes an eighth of their time."""
    jax.config.update("jax_debug_key_reuse", request.module.__name__.removeprefix("tests.test_") in _DRAWING)


def make_store(lengths=(3, 7, 12), state_dim=3, action_dim=2, seed=0, env_id=None, discrete=None) -> jaxdt.EpisodeStore:
    """Random episodes; the first observation component is the row number, so that windows identify themselves.

    `discrete`: a number of actions, of which each is one; the highest is among them.
    """
    rng = np.random.default_rng(seed)
    n = sum(lengths)
    observations = rng.normal(size=(n, state_dim)).astype(np.float32)
    observations[:, 0] = np.arange(n)
    return jaxdt.EpisodeStore.from_arrays(
        observations,
        rng.uniform(-0.9, 0.9, size=(n, action_dim)) if discrete is None else np.arange(n, 0, -1) * 7 % discrete,
        rng.normal(size=n),
        episode_ends=np.cumsum(lengths),
        env_id=env_id,
    )


EVERY_DROPOUT = {"embedding_dropout": 0.1, "attention_dropout": 0.1, "residual_dropout": 0.1}


def tiny_model(**changes) -> jaxdt.ModelConfig:
    """Width 16, one block, K 4, for the store above.

    It drops out in one place, so that updates draw; a second block and all other places compile for nearly as long.
    """
    values = {"state_dim": 3, "action_dim": 2, "width": 16, "num_layers": 1, "context_length": 4}
    values |= {**EVERY_DROPOUT, "attention_dropout": 0.0, "residual_dropout": 0.0, "max_episode_length": 50}
    return jaxdt.ModelConfig(**{**values, **changes})


def tiny_algorithm(*, return_scale=10.0, optimizer=None, **model) -> jaxdt.DecisionTransformerConfig:
    """Of `tiny_model`; its sizes come from the data."""
    return jaxdt.DecisionTransformerConfig(
        return_scale=return_scale,
        model=tiny_model(**{"state_dim": None, "action_dim": None, **model}),
        optimizer=optimizer or jaxdt.OptimizerConfig(learning_rate=1e-3, warmup_steps=2),
    )


def untrained_agent(state_dim: int, action_dim: int = 0, seed: int = 0, discrete: int | None = None) -> jaxdt.Agent:
    """That takes observations as they are, and acts in [-1, 1], or takes one of so many discrete actions."""
    ones = np.ones(action_dim, np.float32)
    action = Box(-ones, ones) if discrete is None else Discrete(discrete)
    constants = {"state_mean": np.zeros(state_dim, np.float32), "state_std": np.ones(state_dim, np.float32)}
    spec = Spec(observation_shape=(state_dim,), action=action, constants=constants)
    config = tiny_algorithm(embedding_dropout=0.0)
    init, _ = jaxdt.build_model(with_sizes(config.model, spec))
    return jaxdt.Agent(config, init(jax.random.key(seed)), spec)


@pytest.fixture
def store() -> jaxdt.EpisodeStore:
    return make_store()


@pytest.fixture(scope="session", autouse=True)
def no_figure_looks_for_garbage():
    """It takes seconds where all that a session has compiled is looked through, and its figures are few."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxdt.plots.figures.gc", types.SimpleNamespace(collect=lambda: None))
        yield


@pytest.fixture(scope="module")
def quick_plots():
    """Drawing would be half of what these tests do."""

    def touch(path, *_, **__):
        path.parent.mkdir(exist_ok=True)
        path.touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxdt.run.writer.plot_loss", touch)
        patch.setattr("jaxdt.run.writer.plot_returns", touch)
        patch.setattr("jaxdt.run.writer.plot_finetuning", touch)
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory, worker_id) -> Path:
    """The whole run of `tests.runs`, never interrupted; tests only read it.

    One process of the session trains it for all of them, and draws its figures for real.
    """
    from jaxdt import plots
    from tests.runs import CONFIG, STORE
    from tests.toys import Drift

    shared = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        shared = shared.parent
    path = shared / "finished"
    with FileLock(shared / "finished.lock"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxdt.run.writer.plot_loss", plots.plot_loss)
        patch.setattr("jaxdt.run.writer.plot_returns", plots.plot_returns)
        if not path.exists():
            jaxdt.train(CONFIG, STORE, out=shared / "unfinished", env=Drift()).rename(path)
    return path


def random_window(config, *, batch=3, seed=0, real=None) -> Window:
    """`real`: how many steps of each window are real; default all. Values where padded are random too."""
    rng = np.random.default_rng(seed)
    t = config.context_length
    real = np.full(batch, t) if real is None else np.asarray(real)
    if config.num_actions is None:
        actions = rng.uniform(-1, 1, size=(batch, t, config.action_dim)).astype(np.float32)
    else:
        actions = rng.integers(0, config.num_actions, size=(batch, t)).astype(np.int32)
    return Window(
        states=rng.normal(size=(batch, t, config.state_dim)).astype(np.float32),
        actions=actions,
        returns_to_go=rng.normal(size=(batch, t)).astype(np.float32),
        timesteps=rng.integers(0, config.max_episode_length, size=(batch, t)).astype(np.int32),
        mask=np.arange(t) >= t - real[:, None],
    )
