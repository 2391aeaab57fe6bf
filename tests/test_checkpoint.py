import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdt.checkpoint import CheckpointWriter, checkpoint_steps, find_checkpoint, load_checkpoint, read_metadata
from jaxdt.errors import JaxdtError


PARAMS = {"layer": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.zeros(3)}}
TRAINING = {"step": jnp.array(7, jnp.int32), "opt_state": (jnp.ones(2), {"mu": jnp.full(3, 0.5)})}


def save_all(directory, scores):
    writer = CheckpointWriter(directory)
    for step, score in scores.items():
        params = jax.tree.map(lambda leaf, step=step: leaf + step, PARAMS)
        writer.save(step, params=params, training=TRAINING, metadata={"note": f"at {step}"}, score=score)
    writer.close()


def test_what_is_saved_is_loaded(tmp_path):
    save_all(tmp_path, {5: None})
    loaded = load_checkpoint(tmp_path, 5, params=PARAMS, training=TRAINING)
    jax.tree.map(np.testing.assert_array_equal, loaded["params"], jax.tree.map(lambda leaf: leaf + 5, PARAMS))
    jax.tree.map(np.testing.assert_array_equal, loaded["training"], TRAINING)
    assert read_metadata(tmp_path, 5)["note"] == "at 5"


def test_parameters_load_without_the_optimisers_state(tmp_path):
    save_all(tmp_path, {5: None})
    assert list(load_checkpoint(tmp_path, 5, params=PARAMS)) == ["params"]


def test_the_two_latest_and_the_best_are_kept(tmp_path):
    save_all(tmp_path, {1: 3.0, 2: 9.0, 3: 4.0, 4: None, 5: 5.0, 6: None})
    assert checkpoint_steps(tmp_path) == [2, 5, 6]
    assert find_checkpoint(tmp_path, "latest") == 6
    assert find_checkpoint(tmp_path, "best") == 2


def test_leftovers_of_torn_saves_are_not_checkpoints_and_are_cleaned(tmp_path):
    save_all(tmp_path, {1: None})
    torn = tmp_path / "2.orbax-checkpoint-tmp-0"
    torn.mkdir()
    (torn / "half").write_text("x")
    assert checkpoint_steps(tmp_path) == [1]
    CheckpointWriter(tmp_path).close()
    assert not torn.exists()


def test_no_checkpoint_is_said_so(tmp_path):
    with pytest.raises(JaxdtError, match="no checkpoint yet"):
        find_checkpoint(tmp_path)
    save_all(tmp_path, {1: None})
    with pytest.raises(JaxdtError, match="no evaluated checkpoint"):
        find_checkpoint(tmp_path, "best")


@pytest.mark.parametrize(
    ("expected", "says"),
    [
        ({"layer": {"kernel": jnp.zeros((2, 4)), "bias": jnp.zeros(3)}}, r"layer/kernel is float32\[2, 3\]"),
        ({"layer": {"kernel": jnp.zeros((2, 3))}}, "layer/bias is .* should be absent"),
        (
            {"layer": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3), "scale": jnp.zeros(1)}},
            "layer/scale is absent",
        ),
        ({"layer": {"kernel": jnp.zeros((2, 3), jnp.int32), "bias": jnp.zeros(3)}}, r"should be int32\[2, 3\]"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named(tmp_path, expected, says):
    save_all(tmp_path, {1: None})
    with pytest.raises(JaxdtError, match=f"does not fit its config: .*{says}"):
        load_checkpoint(tmp_path, 1, params=expected)


def test_a_checkpoint_with_missing_files_is_one_clear_error(tmp_path):
    save_all(tmp_path, {1: None})
    for file in (tmp_path / "1" / "params").rglob("*ocdbt"):
        file.unlink()
    with pytest.raises(JaxdtError, match=r"checkpoint .* cannot be read"):
        load_checkpoint(tmp_path, 1, params=PARAMS)
