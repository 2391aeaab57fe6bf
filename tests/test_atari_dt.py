"""The Decision Transformer of frames, beside the original's own numbers."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxdt
from jaxdt.algorithms import atari_dt, make_algorithm
from jaxdt.algorithms.atari_dt import _shifted
from jaxdt.algorithms.token_schedule import TokenScheduledUpdate
from jaxdt.cli import run as run_command
from jaxdt.config import AtariDTConfig, ModelConfig, OptimizerConfig
from jaxdt.data.frames import FrameSampler
from jaxdt.errors import JaxdtError
from jaxdt.evaluation.environments import make_environment
from jaxdt.evaluation.rollout import make_rollout
from jaxdt.interop.atari import atari_from_tensors
from jaxdt.models import build_atari_model, frames
from jaxdt.models.frames import FrameEncoder
from jaxdt.models.functional import as_functions
from jaxdt.run.prepare import make_spec
from jaxdt.training import compile_update
from jaxdt.types import Discrete, Spec, Window
from tests.toys import Lights, light_episodes


pytestmark = pytest.mark.usefixtures("quick_plots")
GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "atari.npz"))
"""Made by the original's program on random weights and random input, float32; of the encoder's last gradient every 16th
row."""
SIZES = json.loads(str(GOLDEN["config"]))
TENSORS = {name.removeprefix("param/"): value for name, value in GOLDEN.items() if name.startswith("param/")}
FRAMES = GOLDEN["frames"].repeat(4, axis=2).repeat(4, axis=3)
LENGTH = SIZES["context_length"]
MODEL = ModelConfig(
    width=SIZES["width"],
    num_layers=SIZES["num_layers"],
    num_heads=SIZES["num_heads"],
    context_length=LENGTH,
    activation="gelu",
    embedding_dropout=0.0,
    attention_dropout=0.0,
    residual_dropout=0.0,
)


def golden_window(steps: int = LENGTH) -> Window:
    return Window(
        states=FRAMES[:, : steps + 3],
        actions=GOLDEN["actions"][:, :steps].astype(np.int32),
        returns_to_go=GOLDEN["returns_to_go"][:, :steps],
        timesteps=(GOLDEN["first_timesteps"][:, None] + np.arange(steps)).astype(np.int32),
        mask=np.ones((2, steps), bool),
    )


def golden_model(*, conditioned: bool = True):
    names = [name for name in TENSORS if conditioned or not name.startswith("ret_emb")]
    imported = atari_from_tensors({name: TENSORS[name] for name in names}, SIZES["num_heads"], "golden")
    assert imported.dropped == ["tok_emb.weight"]
    made = build_atari_model(
        MODEL, observation_shape=(84, 84), num_actions=SIZES["vocab"], timesteps=41, conditioned=conditioned
    )
    return made, jax.tree.map(jnp.asarray, imported.params), imported


@pytest.mark.parametrize(
    ("name", "steps", "conditioned"),
    [("logits", 5, True), ("acting_logits", 3, True), ("first_logits", 1, True), ("naive_logits", 5, False)],
)
def test_logits_are_the_originals(name, steps, conditioned):
    model, params, _ = golden_model(conditioned=conditioned)
    apply = jax.jit(model.apply, static_argnames="newest_only")
    found = apply(params, golden_window(steps))
    np.testing.assert_allclose(found, GOLDEN[name], atol=1e-5)
    if name == "first_logits":  # alone and as the newest of a window that is padding otherwise
        window = golden_window(1)
        early = [np.pad(each, [(0, 0), (LENGTH - 1, 0)]) for each in window[1:]]
        padded = Window(np.pad(window.states, [(0, 0), (LENGTH - 1, 0), (0, 0), (0, 0)]), *early)
        np.testing.assert_allclose(apply(params, padded, newest_only=True), GOLDEN[name], atol=1e-5)


def updates_of(loss, final):
    config = AtariDTConfig(dropout=0.0).optimizer
    return TokenScheduledUpdate(loss, lambda batch: jnp.asarray(batch.mask.size), config, SIZES["warmup_tokens"], final)


@pytest.mark.slow
def test_loss_gradients_and_ten_updates_are_the_originals():
    _, params, imported = golden_model()
    window = jax.tree.map(jnp.asarray, golden_window())
    spec = Spec(
        observation_shape=(84, 84),
        observation_dtype="uint8",
        action=Discrete(SIZES["vocab"]),
        constants={"longest_episode": imported.last_timestep, "windows": 1.0},
    )
    config = dataclasses.replace(imported.config, dropout=0.0, token_schedule=True)
    update = make_algorithm(config, spec).update
    assert isinstance(update, TokenScheduledUpdate)
    assert update.warmup == 10_240
    assert update.final == 2 * LENGTH * 3
    loss, gradients = jax.jit(jax.value_and_grad(update.loss))(params, window, None)
    assert float(loss) == pytest.approx(float(GOLDEN["loss"]), rel=1e-5)
    grads = {name.removeprefix("grad/"): value for name, value in GOLDEN.items() if name.startswith("grad/")}
    wide = grads.pop("state_encoder.7.weight")
    kernel = np.asarray(gradients["encoder"]["project"]["kernel"]).reshape(7, 7, 64, -1).transpose(3, 2, 0, 1)
    np.testing.assert_allclose(kernel.reshape(len(kernel), -1)[::16], wide, atol=1e-4 * np.abs(wide).max())
    filled = {**TENSORS, **grads, "state_encoder.7.weight": TENSORS["state_encoder.7.weight"]}
    theirs = atari_from_tensors(filled, SIZES["num_heads"], "golden").params
    theirs["encoder"]["project"].pop("kernel")
    gradients["encoder"]["project"].pop("kernel")

    def compare(ours, theirs):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())

    jax.tree.map(compare, gradients, theirs)
    compiled = compile_update(updates_of(update.loss, SIZES["final_tokens"]))
    state = updates_of(update.loss, SIZES["final_tokens"]).init(params)
    for i in range(10):
        state, metrics = compiled(state, window, jax.random.key(0))  # dropout is 0
        assert float(metrics["loss"]) == pytest.approx(GOLDEN["losses"][i], rel=1e-4)
        assert float(metrics["grad_norm"]) == pytest.approx(GOLDEN["grad_norms"][i], rel=1e-4)
        assert float(metrics["learning_rate"]) == pytest.approx(GOLDEN["learning_rates"][i], rel=1e-5)
    after = {name.removeprefix("after/"): value for name, value in GOLDEN.items() if name.startswith("after/")}
    np.testing.assert_allclose(state.params["head"]["kernel"].T, after["head.weight"], atol=1e-4)
    np.testing.assert_allclose(state.params["timestep_table"], after["global_pos_emb"][0], atol=1e-4)
    np.testing.assert_allclose(state.params["action_table"], after["action_embeddings.0.weight"], atol=1e-4)
    np.testing.assert_allclose(
        state.params["blocks"]["block_1"]["mlp_in"]["kernel"].T, after["blocks.1.mlp.0.weight"], atol=1e-4
    )


@pytest.mark.slow
def test_its_file_becomes_a_run_that_gives_its_logits(tmp_path, capsys):
    masks = {f"blocks.{i}.attn.mask": np.ones((1, 1, 16, 16), np.float32) for i in range(2)}
    save_file({**TENSORS, **masks}, tmp_path / "model.safetensors")
    command = ["import", str(tmp_path / "model.safetensors"), str(tmp_path / "run"), "--env", "none"]
    assert run_command([*command, "--num-heads", "2", "--return-scale", "5"]) == 2
    assert "leave return_scale=5.0 out" in capsys.readouterr().err
    assert run_command([*command[:-1], "CartPole-v1", "--num-heads", "2"]) == 2
    assert re.search(r"CartPole-v1 have 4 numbers, .* give theirs, or env='none'", capsys.readouterr().err)
    assert run_command([*command, "--num-heads", "2"]) == 0
    agent = jaxdt.Agent.load(tmp_path / "run", timestep_when_acting="first", sampling="greedy")
    assert agent.config.name == "atari-dt"
    assert agent.spec.action == Discrete(4)
    assert jaxdt.Agent.load(tmp_path / "run").config.timestep_when_acting == "newest"
    model = golden_model()[0]
    np.testing.assert_allclose(jax.jit(model.apply)(agent.params, golden_window()), GOLDEN["logits"], atol=1e-5)
    with pytest.raises(JaxdtError, match="is another model, which import_run"):
        jaxdt.from_huggingface(tmp_path / "model.safetensors", num_heads=2)
    agent.reset(float(GOLDEN["returns_to_go"][0, 0]))
    assert agent.act(FRAMES[0, 3]) in range(4)
    broken = {**TENSORS, "head.weight": TENSORS["head.weight"][:, :16]}
    with pytest.raises(JaxdtError, match=r"pos_emb|action_embeddings|state_encoder"):
        atari_from_tensors(broken, 2, "golden")
    with pytest.raises(JaxdtError, match="unknown tensor 'more'"):
        atari_from_tensors({**TENSORS, "more": np.zeros(1)}, 2, "golden")


@pytest.mark.parametrize(
    "shape", [*(pytest.param(large, marks=pytest.mark.slow) for large in ((84, 84), (45, 52, 3))), (10, 12, 4)], ids=str
)
def test_products_give_what_convolutions_give(shape):
    """And so do their gradients; channels, odd sizes, small pictures and beginnings of episodes included."""
    init, with_params = as_functions(lambda rngs: FrameEncoder(shape, 16, rngs=rngs))
    params = init(jax.random.key(0))
    pictures = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 6, *shape)).astype(np.uint8))
    timesteps = jnp.array([[0, 1, 2], [5, 6, 7], [7, 0, 1], [1, 2, 3]])

    def total(params, by_products):
        encoder = with_params(params)
        if by_products:
            encoded = encoder(pictures, timesteps, learning=True)
        else:
            encoded = encoder._encode(pictures, timesteps, by_products=False)
        return jnp.sum(jnp.sin(3 * encoded))

    both = jax.jit(jax.value_and_grad(total), static_argnums=1)
    (by_products, gradients), (by_convolution, others) = both(params, True), both(params, False)
    assert float(by_products) == pytest.approx(float(by_convolution), abs=1e-4)
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, atol=1e-3), gradients, others)


def test_no_scan_of_a_cpu_holds_a_convolutions_gradient():
    model = build_atari_model(MODEL, observation_shape=(84, 84), num_actions=4, timesteps=41)
    params = jax.eval_shape(model.init, jax.random.key(0))

    def total(params):
        return jnp.sum(model.apply(params, golden_window()))

    assert "conv_general_dilated" not in str(jax.make_jaxpr(jax.grad(total))(params))


def frame_store(lengths=(2, 9, 5)) -> jaxdt.EpisodeStore:
    """Pictures of row `i` show `i + 1`; it acts `i % 3` and earns `i`."""
    rows = np.arange(sum(lengths))
    pictures = np.tile((rows + 1)[:, None, None], (1, 6, 6)).astype(np.uint8)
    pictures[:, 5, 5] = 255
    return jaxdt.EpisodeStore.from_arrays(pictures, rows % 3, rows, episode_ends=np.cumsum(lengths))


def test_windows_hold_each_picture_once_and_never_cross_an_episode():
    store = frame_store()
    sampler = FrameSampler(store, context_length=4, batch_size=64, seed=1)
    window = sampler.batch(3)
    assert window.states.shape == (64, 7, 6, 6)
    assert window.states.dtype == np.uint8
    ends = store.offsets[1:]
    shown = window.states[:, :, 0, 0].astype(int) - 1  # rows; -1: black
    for i in range(64):
        newest = shown[i, -1]
        episode = int(np.searchsorted(store.offsets, newest, side="right")) - 1
        first = store.offsets[episode]
        rows = newest - np.arange(6, -1, -1)
        assert shown[i].tolist() == [row if row >= first else -1 for row in rows]
        real = rows[3:] >= first
        assert (window.mask[i] == real).all()
        assert window.timesteps[i].tolist() == [max(row - first, 0) for row in rows[3:]]
        assert window.actions[i].tolist() == [row % 3 * (row >= first) for row in rows[3:]]
        worth = [sum(range(row, ends[episode])) if row >= first else 0 for row in rows[3:]]
        assert window.returns_to_go[i].tolist() == worth
    assert {int(each) for each in shown[:, -1]} == {1, *range(5, 11), *range(14, 16)}  # every end, no start too early
    again = FrameSampler(store, context_length=4, batch_size=64, seed=1)
    again.position = 3
    jax.tree.map(np.testing.assert_array_equal, next(again), window)
    assert not np.array_equal(sampler.batch(4).states, window.states)


def test_windows_of_the_original_reach_into_the_episode_before():
    """Of its `StateActionReturnDataset.__getitem__`: `done_idx` is the end of the drawn row's episode, or four rows on
    where that comes first, and a window is the four rows before it. It fails before the first row; here is padding.
    """
    store = frame_store((2, 5, 1, 1))  # rows 0-1, 2-6, 7, 8
    sampler = FrameSampler(store, context_length=4, batch_size=64, seed=1, cross_episodes=True)
    window = sampler.batch(0)
    shown = window.states[:, :, 0, 0].astype(int) - 1
    timestep, return_to_go = [0, 1, 0, 1, 2, 3, 4, 0, 0], [1, 1, 20, 18, 15, 11, 6, 7, 8]
    done = {0: 2, 1: 2, 2: 6, 3: 7, 4: 7, 5: 7, 6: 7, 7: 8, 8: 9}
    assert set(sampler._drawn[0]) == set(done)
    for i, row in enumerate(sampler._drawn[0]):
        rows = range(done[row] - 4, done[row])
        assert shown[i].tolist() == [max(each, -1) for each in range(rows[0] - 3, done[row])]
        assert window.mask[i].tolist() == [each >= 0 for each in rows]
        assert window.actions[i].tolist() == [each % 3 if each >= 0 else 0 for each in rows]
        assert window.timesteps[i].tolist() == [timestep[each] if each >= 0 else 0 for each in rows]
        assert window.returns_to_go[i].tolist() == [return_to_go[each] if each >= 0 else 0 for each in rows]


@pytest.mark.slow
def test_a_stack_shows_its_own_episode_alone_where_windows_cross_them():
    config = dataclasses.replace(SMALL, windows_cross_episodes=True)
    store = frame_store((2, 5, 1, 6))
    spec = make_spec(config, store)
    algorithm = make_algorithm(config, spec)
    window = algorithm.sampler(store, batch_size=32, seed=0).batch(0)
    stacks = frames.stacks_of(jnp.asarray(window.states), jnp.asarray(window.timesteps))
    shown = np.asarray(stacks)[:, :, 0, 0].astype(int) - 1
    for stack, timestep in zip(shown[window.mask], window.timesteps[window.mask], strict=True):
        assert stack.tolist() == [stack[-1] - back if back <= timestep else -1 for back in (3, 2, 1, 0)]
    params = algorithm.init(jax.random.key(0)).params
    mended = make_algorithm(dataclasses.replace(config, windows_cross_episodes=False), spec)
    window = jax.tree.map(jnp.asarray, window)
    assert algorithm.validate(params, window)["loss"] != mended.validate(params, window)["loss"]


SMALL = AtariDTConfig(
    context_length=4,
    width=32,
    num_layers=2,
    num_heads=2,
    dropout=0.0,
    sampling="greedy",
    optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=10, weight_decay=0.0, schedule="constant"),
)


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"positions": "step", "context": "cached", "num_layers": 1},
        pytest.param({"timestep_when_acting": "newest"}, marks=pytest.mark.slow),
        pytest.param({"conditioned": False, "timestep_embedding": False}, marks=pytest.mark.slow),
        pytest.param({"positions": "step"}, marks=pytest.mark.slow),
        pytest.param(
            {"positions": "step", "context": "cached", "num_layers": 1, "conditioned": False}, marks=pytest.mark.slow
        ),
    ],
    ids=lambda chosen: ", ".join(map(str, chosen.values())) or "default",
)
def test_acting_reads_what_training_reads(chosen):
    """The stack of each step is encoded once; the logits are those of the whole window, at each step of an episode.

    From cached keys and values they are so of one block, which reads no more of a step than was there when it was new.
    """
    config = dataclasses.replace(SMALL, **chosen)
    spec = make_spec(config, frame_store((12, 12)))
    algorithm = make_algorithm(config, spec)
    params = algorithm.init(jax.random.key(0)).params
    told = config.timestep_embedding
    model = build_atari_model(
        ModelConfig(
            width=32, num_layers=config.num_layers, num_heads=2, context_length=4, activation="gelu",
            embedding_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0,
        ),
        observation_shape=(6, 6), num_actions=3, timesteps=13 if told else None, conditioned=config.conditioned,
        positions=config.positions,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    assert ("timestep_table" in params, "position_table" in params) == (told, config.positions == "window")
    params = jax.tree.map(lambda leaf: 2 * leaf, params)  # so that all that is remembered tells
    for name in [name for name in params if name in ("timestep_table", "position_table", "action_table")]:
        params[name] = jnp.asarray(rng.normal(size=params[name].shape).astype(np.float32))
    pictures = rng.integers(0, 256, (2, 9, 6, 6)).astype(np.uint8)
    rewards = rng.normal(size=(2, 9)).astype(np.float32)
    memory = algorithm.policy.start(jnp.array([5.0, -1.0]))
    act, apply = jax.jit(algorithm.policy.act), jax.jit(model.apply, static_argnames="newest_only")
    actions, worth = [np.zeros(2, np.int32)] * 3, [np.array([5.0, -1.0], np.float32)] * 4
    for t in range(9):
        reward = rewards[:, t - 1] if t else np.zeros(2, np.float32)
        worth.append(worth[-1] - reward)
        memory, action = act(params, memory, pictures[:, t], reward, None)
        seen = np.concatenate([np.zeros((2, 6, 6, 6), np.uint8), pictures], axis=1)[:, t : t + 7]
        steps = np.maximum(np.arange(t - 3, t + 1), 0)
        told_steps = steps if config.timestep_when_acting == "first" else np.full_like(steps, t)
        window = Window(
            states=seen,
            actions=np.stack([*actions[-3:], np.zeros(2, np.int32)], axis=1),
            returns_to_go=np.stack(worth[-4:], axis=1),
            timesteps=np.tile(told_steps, (2, 1)).astype(np.int32),
            mask=np.tile(np.arange(t - 3, t + 1) >= 0, (2, 1)),
        )
        logits = apply(params, window, newest_only=True)[:, 0]
        np.testing.assert_array_equal(action, np.argmax(logits, axis=-1))
        actions.append(np.asarray(action, np.int32))
    assert len(np.unique(actions[3:])) > 1


@pytest.mark.parametrize("conditioned", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_cached_logits_are_those_of_the_window(conditioned):
    """Of one block always; of two while nothing has left the window."""
    rng = np.random.default_rng(0)
    length, steps = 4, 9
    returns = rng.normal(size=(2, steps)).astype(np.float32)
    actions, encoded = rng.integers(0, 3, (2, steps), np.int32), rng.normal(size=(2, steps, 32)).astype(np.float32)
    for num_layers in (1, 2):
        sizes = ModelConfig(
            width=32, num_layers=num_layers, num_heads=2, context_length=length, activation="gelu",
            embedding_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0,
        )  # fmt: skip
        model = build_atari_model(
            sizes, observation_shape=(6, 6), num_actions=3, timesteps=7, conditioned=conditioned, positions="step"
        )
        params = jax.tree.map(lambda leaf: 4 * leaf, model.init(jax.random.key(0)))
        params["timestep_table"] = jnp.asarray(rng.normal(size=(7, 32)).astype(np.float32))
        cache, decode, predict = model.start(2), jax.jit(model.decode_step), jax.jit(model.predict)
        apart = []
        for t in range(steps):
            cache, logits = decode(params, cache, actions[:, t - 1], encoded[:, t], returns[:, t], np.int32(t))
            seen = slice(max(0, t - length + 1), t + 1)
            count = seen.stop - seen.start
            window = Window(
                states=encoded[:, seen],
                actions=actions[:, seen],
                returns_to_go=returns[:, seen],
                timesteps=np.tile(np.arange(seen.start, seen.stop, dtype=np.int32), (2, 1)),
                mask=np.ones((2, count), bool),
            )
            apart.append(np.abs(predict(params, window)[:, -1] - logits).max())
        assert max(apart[:length]) < 1e-5
        assert (max(apart) < 1e-5) == (num_layers == 1)


@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 2)])
def test_random_shift_moves_the_pictures_of_a_window_alike(shape):
    frames = np.random.default_rng(0).integers(0, 256, (40, 5, *shape), np.uint8)
    shifted = np.asarray(_shifted(jnp.asarray(frames), 2, jax.random.key(0)))
    padded = np.pad(frames, [(0, 0), (0, 0), (2, 2), (2, 2), (0, 0)][: frames.ndim], mode="edge")
    corners = [
        [(i, j) for i in range(5) for j in range(5) if np.array_equal(before[:, i : i + 6, j : j + 7], after)]
        for before, after in zip(padded, shifted, strict=True)
    ]
    assert all(len(found) == 1 for found in corners)
    for axis in (0, 1):
        assert {found[0][axis] for found in corners} == set(range(5))


@pytest.mark.slow
def test_random_shift_is_for_training_alone():
    store = frame_store((12, 12))
    spec = make_spec(SMALL, store)
    plain, moved = (make_algorithm(dataclasses.replace(SMALL, random_shift=most), spec) for most in (0, 2))
    state, window = plain.init(jax.random.key(0)), next(plain.sampler(store, batch_size=8, seed=0))
    window = jax.tree.map(jnp.asarray, window)
    updates = [jax.jit(algorithm.update.__call__) for algorithm in (plain, moved)]
    losses = [update(state, window, jax.random.key(1))[1]["loss"] for update in updates]
    assert losses[0] != losses[1]
    validated = [jax.jit(algorithm.validate)(state.params, window)["loss"] for algorithm in (plain, moved)]
    assert validated[0] == validated[1]


@pytest.mark.slow
def test_a_drawn_action_is_one_of_the_likeliest_k():
    config = dataclasses.replace(SMALL, sampling="sample", top_k=2, temperature=50.0)
    spec = make_spec(config, frame_store((12, 12)))
    algorithm = make_algorithm(config, spec)
    params = algorithm.init(jax.random.key(1)).params
    start = algorithm.policy.start(jnp.zeros(200))
    keys = jax.random.split(jax.random.key(0), 200)
    seen = jnp.full((200, 6, 6), 9, jnp.uint8), jnp.zeros(200)
    _, drawn = jax.jit(algorithm.policy.act)(params, start, *seen, keys)
    greedy = make_algorithm(dataclasses.replace(config, sampling="greedy"), spec).policy
    _, likeliest = jax.jit(greedy.act)(params, start, *seen, None)
    counts = np.bincount(np.asarray(drawn), minlength=3)
    assert (counts > 0).sum() == 2
    assert counts[int(likeliest[0])] > 50


@pytest.mark.slow
def test_it_learns_to_read_frames_and_the_target(tmp_path):
    """Asked for all it earns all, asked for nothing little; a run that was cut and goes on has the same weights."""
    config = jaxdt.preset("atari-small", env="none", targets=(0.0, 8.0), steps=200, eval_every=200, eval_episodes=12)
    config = dataclasses.replace(config, log_every=100, save_every=100, algorithm=SMALL.for_steps(200))
    store = light_episodes()
    whole = jaxdt.train(config, store, out=tmp_path / "whole", env=Lights())
    evaluations = map(json.loads, (whole / "evaluations.jsonl").read_text().splitlines())
    low, high = (each["return_mean"] for each in evaluations)
    assert low < 1.5
    assert high > 7
    cut = shutil.copytree(whole, tmp_path / "cut")
    shutil.rmtree(cut / "checkpoints" / "200")
    jaxdt.train(config, store, out=cut, env=Lights(), resume=True)
    one, two = (jaxdt.Agent.load(run).params for run in (whole, cut))
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_what_it_is_not_for_is_one_sentence():
    config = AtariDTConfig()
    vectors = jaxdt.EpisodeStore.from_arrays(np.zeros((4, 3)), np.arange(4) % 2, np.zeros(4), episode_ends=[4])
    with pytest.raises(JaxdtError, match="is for pictures"):
        make_algorithm(config, make_spec(config, vectors))
    moving = jaxdt.EpisodeStore.from_arrays(
        np.full((4, 9, 9), 99, np.uint8), np.zeros((4, 2)), np.zeros(4), episode_ends=[4]
    )
    with pytest.raises(JaxdtError, match="is for discrete actions, and these are vectors of 2"):
        make_algorithm(config, make_spec(config, moving))
    with pytest.raises(JaxdtError, match="longest_episode must be a number"):
        make_algorithm(config, Spec(observation_shape=(9, 9), observation_dtype="uint8", action=Discrete(2)))
    with pytest.raises(JaxdtError, match="passes count one window an episode"):
        FrameSampler(frame_store(), windows_per_pass=3)
    measured = {"longest_episode": 9.0, "windows": 0.0}
    stacks = Spec(observation_shape=(4, 84, 84), observation_dtype="uint8", action=Discrete(2), constants=measured)
    with pytest.raises(JaxdtError, match="put channels last"):
        make_algorithm(config, stacks)
    single = dataclasses.replace(stacks, observation_shape=(84, 84))
    with pytest.raises(JaxdtError, match="token_schedule goes by passes over the data, which must have more than 90"):
        make_algorithm(dataclasses.replace(config, token_schedule=True), single)
    whole_replay = dataclasses.replace(single, constants={**measured, "windows": 5e7})  # of fifty checkpoints
    scheduled = make_algorithm(dataclasses.replace(config, token_schedule=True), whole_replay).update
    assert isinstance(scheduled, TokenScheduledUpdate)
    assert scheduled.final == 9_000_000_000
    with pytest.raises(JaxdtError, match="context must be exact where tokens are told their place"):
        dataclasses.replace(config, context="cached")
    by_step = dataclasses.replace(config, positions="step", context="cached")
    for name, value, rule in (
        ("timestep_embedding", False, "give timestep_embedding=True"),
        ("windows_cross_episodes", True, "give windows_cross_episodes=False"),
        ("timestep_when_acting", "newest", "timestep_when_acting, the one timestep of a window, says nothing then"),
    ):
        with pytest.raises(JaxdtError, match=rule):
            dataclasses.replace(by_step, **{name: value})
    with pytest.raises(JaxdtError, match=r"random_shift must be less than half a side .*; got 42"):
        make_algorithm(dataclasses.replace(config, random_shift=42), single)
    assert not dataclasses.replace(config, token_schedule=True).trained_on_from(config).token_schedule
    dim = jaxdt.EpisodeStore.from_arrays(np.ones((4, 9, 9), np.uint8), np.arange(4) % 2, np.ones(4), episode_ends=[4])
    with pytest.warns(UserWarning, match="these are at most 1; give center_frames=True"):
        make_spec(config, dim)
    floats = dataclasses.replace(light_episodes(2), observations=light_episodes(2).observations.astype(np.float32))
    with pytest.raises(JaxdtError, match="the pictures of the data are float32, those of Lights uint8"):
        make_spec(config, floats, Lights())


@pytest.mark.slow
def test_one_that_imitates_is_asked_for_no_return():
    config = dataclasses.replace(SMALL, conditioned=False)
    assert (config.takes_target, SMALL.takes_target) == (False, True)
    with pytest.raises(JaxdtError, match="targets"):
        jaxdt.preset("atari-small", conditioned=False, targets=(1.0,))
    spec = make_spec(config, light_episodes(2), Lights())
    agent = jaxdt.Agent(config, make_algorithm(config, spec).init(jax.random.key(0)).params, spec)
    agent.reset()
    picture = light_episodes(2).observations[0]
    assert agent.act(picture) in range(3)
    with pytest.raises(JaxdtError, match="whole numbers from 0 to 255, as recorded; got numbers from"):
        agent.act(picture / 255)


@pytest.mark.slow
def test_an_episode_is_played_alike_alone_and_beside_others():
    config = dataclasses.replace(SMALL, sampling="sample")
    spec = make_spec(config, light_episodes(4), Lights())
    algorithm = make_algorithm(config, spec)
    params = algorithm.init(jax.random.key(0)).params
    rollout = make_rollout(algorithm.policy, make_environment(Lights()), record=True)
    three = rollout(params, jnp.arange(3), jnp.full(3, 8.0))
    one = rollout(params, jnp.arange(2, 3), jnp.full(1, 8.0))
    np.testing.assert_array_equal(three.trajectory.actions[:, 2], one.trajectory.actions[:, 0])


@pytest.mark.slow
def test_centered_frames_are_what_differs_from_the_mean_picture():
    config = dataclasses.replace(SMALL, center_frames=True)
    store = light_episodes(8)
    spec = make_spec(config, store)
    shown = store.observations.astype(np.float64)
    np.testing.assert_allclose(spec.constants["frame_mean"], shown.mean(axis=0), rtol=1e-5)
    assert float(spec.constants["frame_std"]) == pytest.approx(np.sqrt(shown.var(axis=0).mean()), rel=1e-5)
    black_and_mean = jnp.asarray(np.stack([np.zeros((6, 6)), spec.constants["frame_mean"]])[None], jnp.float32)
    seen = atari_dt._centering(config, spec)(jnp.concatenate([black_and_mean, black_and_mean + 10], axis=1))
    expected = np.array([0, 0, np.nan, 10]) / spec.constants["frame_std"]
    np.testing.assert_allclose(seen[0, [0, 1, 3], 2, 2], expected[[0, 1, 3]], atol=1e-5)
    with pytest.raises(JaxdtError, match="frame_mean must be a picture"):
        make_algorithm(config, make_spec(SMALL, store))
    algorithm, plain = make_algorithm(config, spec), make_algorithm(SMALL, make_spec(SMALL, store))
    params, window = plain.init(jax.random.key(0)).params, algorithm.sampler(store, batch_size=4, seed=0).batch(0)
    losses = [jax.jit(each.validate)(params, window)["loss"] for each in (algorithm, plain)]
    assert float(losses[0]) != float(losses[1])
    first = jnp.asarray(window.states[:, 3]), jnp.zeros(4)
    memories = [
        jax.jit(each.policy.act)(params, each.policy.start(jnp.ones(4)), *first, None)[0] for each in (algorithm, plain)
    ]
    assert not np.allclose(memories[0].context.states, memories[1].context.states)
