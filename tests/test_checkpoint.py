import contextlib
import errno
import hashlib
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdt.checkpoint import (
    CHECKSUMS,
    CheckpointWriter,
    checkpoint_steps,
    damaged_checkpoints,
    find_checkpoint,
    load_checkpoint,
    quarantine_damaged,
    read_metadata,
    reading,
)
from jaxdt.errors import JaxdtError, WriteError


PARAMS = {"layer": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.zeros(3)}}
TRAINING = {"step": jnp.array(7, jnp.int32), "opt_state": (jnp.ones(2), {"mu": jnp.full(3, 0.5)})}


def save_all(directory, scores):
    writer = CheckpointWriter(directory)
    for step, score in scores.items():
        params = jax.tree.map(lambda leaf, step=step: leaf + step, PARAMS)
        writer.save(step, params=params, training=TRAINING, metadata={"note": f"at {step}"}, score=score)


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


@pytest.mark.parametrize("renames", [0, 1, 2, None])
def test_a_checkpoint_is_replaced_once_the_new_one_is_whole(tmp_path, monkeypatch, renames):
    """At no moment is there none: what a kill after so many renames leaves becomes one or the other."""
    save_all(tmp_path, {2: None, 4: None})
    made, rename = [], Path.rename

    def killed(path, target):
        if ".anew" in path.name or path.name == "4":
            if len(made) == renames:
                raise KeyboardInterrupt
            made.append(path)
        return rename(path, target)

    def stays(path, **_):
        if path.name == "4.replaced" and path.exists():
            raise KeyboardInterrupt
        return rmtree(path, **_)

    rmtree = shutil.rmtree
    with monkeypatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(Path, "rename", killed)
        patch.setattr("jaxdt.checkpoint.checksums.shutil.rmtree", stays if renames == 2 else rmtree)
        if renames is not None:
            stack.enter_context(pytest.raises(KeyboardInterrupt))
        save_all(tmp_path, {4: 7.0})
    quarantine_damaged(tmp_path)  # as a run that is resumed does first, before it asks where it stands
    assert checkpoint_steps(tmp_path) == [2, 4]
    assert read_metadata(tmp_path, 4)["score"] == (None if renames == 0 else 7.0)
    CheckpointWriter(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "4"]
    assert damaged_checkpoints(tmp_path) == {}
    assert list(load_checkpoint(tmp_path, 4, params=PARAMS, training=TRAINING)) == ["params", "training"]


def test_a_new_checkpoint_is_kept_where_the_system_refuses_it_the_place_of_the_old_one(tmp_path, monkeypatch):
    save_all(tmp_path, {2: None, 4: None})
    rename = Path.rename

    def refused(path, target):
        if path.name == "4.anew":
            raise OSError(errno.EIO, "input/output error")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refused)
        with pytest.raises(WriteError):
            save_all(tmp_path, {4: 7.0})
    quarantine_damaged(tmp_path)
    assert read_metadata(tmp_path, 4)["score"] == 7.0
    assert list(load_checkpoint(tmp_path, 4, params=PARAMS, training=TRAINING)) == ["params", "training"]


def test_leftovers_of_torn_saves_are_not_checkpoints_and_are_cleaned(tmp_path):
    save_all(tmp_path, {1: None})
    torn = tmp_path / "2.orbax-checkpoint-tmp-0"
    torn.mkdir()
    (torn / "half").write_text("x")
    assert checkpoint_steps(tmp_path) == [1]
    CheckpointWriter(tmp_path)
    assert not torn.exists()


def test_no_checkpoint_is_said_so(tmp_path):
    with pytest.raises(JaxdtError, match="no checkpoint yet"):
        find_checkpoint(tmp_path)
    save_all(tmp_path, {1: None})
    with pytest.raises(JaxdtError, match="holds no checkpoint that was evaluated, or measured"):
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


def files_of(checkpoint):
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [truncate, flip_a_bit, lambda path: path.unlink()], ids=["cut", "bit", "gone"])
def test_any_file_of_a_checkpoint_that_is_not_as_saved_is_noticed(tmp_path, harm):
    save_all(tmp_path / "whole", {1: 1.0})
    names = [path.relative_to(tmp_path / "whole") for path in files_of(tmp_path / "whole" / "1")]
    assert len(names) > 4
    for i, name in enumerate(names):
        copy = shutil.copytree(tmp_path / "whole", tmp_path / f"copy{i}")
        if (copy / name).stat().st_size:
            harm(copy / name)
            gone = not (copy / "1" / CHECKSUMS).exists()  # without its sums it is an unfinished one
            assert checkpoint_steps(copy) == [] if gone else list(damaged_checkpoints(copy)) == [1], name
    (tmp_path / "whole" / "1" / "more").write_text("x")
    assert damaged_checkpoints(tmp_path / "whole") == {1: "more was not saved with it"}


@pytest.mark.parametrize("name", ["params/_METADATA", "params/d"])
def test_a_link_out_of_a_checkpoint_is_damage(tmp_path, name):
    save_all(tmp_path / "run", {1: None})
    (tmp_path / "run" / "1" / name).rename(tmp_path / "elsewhere")
    (tmp_path / "run" / "1" / name).symlink_to(tmp_path / "elsewhere")
    assert damaged_checkpoints(tmp_path / "run") == {1: f"{name.split('/')[1]} is a link"}


def test_sums_name_files_and_never_places_outside(tmp_path):
    save_all(tmp_path, {1: None})
    (tmp_path / "outside").write_text("x")
    sums = json.loads((tmp_path / "1" / CHECKSUMS).read_text())
    for name in ("../outside", str(tmp_path / "outside")):
        (tmp_path / "1" / CHECKSUMS).write_text(json.dumps({**sums, name: hashlib.sha256(b"x").hexdigest()}))
        assert damaged_checkpoints(tmp_path) == {1: f"{name} is missing"}
    (tmp_path / "1" / CHECKSUMS).write_text("[" * 100_000)
    assert "nested too deep" in damaged_checkpoints(tmp_path)[1]


def test_an_array_that_promises_far_more_than_is_stored_is_refused(tmp_path):
    save_all(tmp_path, {1: None})
    with pytest.raises(JaxdtError, match=r"would take 1024 MiB, far more than its 0\.0 MiB hold"):
        reading._check_size({"a": jax.ShapeDtypeStruct((2**28,), jnp.float32)}, tmp_path / "1")


def test_damaged_checkpoints_are_set_aside_and_the_one_before_is_found(tmp_path):
    save_all(tmp_path, {1: 9.0, 2: 5.0, 3: None})
    for step in ("1", "3"):
        flip_a_bit(files_of(tmp_path / step / "params")[0])
    assert find_checkpoint(tmp_path, "latest") == 2
    assert find_checkpoint(tmp_path, "best") == 2
    with pytest.warns(
        UserWarning, match=r"checkpoint \d of .* is damaged \(params/.* has changed\); it is now \d.damaged"
    ):
        quarantine_damaged(tmp_path)
    assert checkpoint_steps(tmp_path) == [2]
    assert (tmp_path / "3.damaged" / CHECKSUMS).exists()
    save_all(tmp_path, {3: None})  # the step can be saved again
    assert checkpoint_steps(tmp_path) == [2, 3]


def test_with_every_checkpoint_damaged_there_is_a_clear_error(tmp_path):
    save_all(tmp_path, {1: None})
    truncate(files_of(tmp_path / "1" / "params")[0])
    for _ in range(2):
        with pytest.raises(JaxdtError, match=r"every checkpoint in .* is damaged; restore one from a copy"):
            find_checkpoint(tmp_path)
    with pytest.warns(UserWarning, match="is damaged"), pytest.raises(JaxdtError, match="every checkpoint in"):
        quarantine_damaged(tmp_path)
    with pytest.raises(JaxdtError, match="every checkpoint in"):
        quarantine_damaged(tmp_path)  # it does not begin anew the second time


def test_a_checkpoint_without_its_sums_is_unfinished_and_cleaned(tmp_path):
    save_all(tmp_path, {1: None, 2: None})
    (tmp_path / "2" / CHECKSUMS).unlink()
    assert checkpoint_steps(tmp_path) == [1]
    save_all(tmp_path, {2: None})
    assert checkpoint_steps(tmp_path) == [1, 2]
    for step in ("1", "2"):
        (tmp_path / step / CHECKSUMS).unlink()
    CheckpointWriter(tmp_path)  # where nothing else is there, nothing is thrown away
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.unfinished", "2.unfinished"]


def test_a_kill_while_an_old_checkpoint_is_deleted_leaves_no_damaged_one(tmp_path, monkeypatch):
    save_all(tmp_path, {1: None, 2: None})
    writer = CheckpointWriter(tmp_path)

    def killed(path):
        (path / "_CHECKPOINT_METADATA").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        writer.save(3, params=PARAMS, metadata={}, score=None)
    monkeypatch.undo()
    assert checkpoint_steps(tmp_path) == [2, 3]
    assert damaged_checkpoints(tmp_path) == {}
    CheckpointWriter(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


def test_a_torn_save_is_removed_though_something_is_still_written_there(tmp_path, monkeypatch):
    torn, removed = tmp_path / "3.orbax-checkpoint-tmp", []

    def remove(path, **options):
        if not removed:
            (torn / "late").touch()  # what comes between looking and removing keeps the directory
        else:
            rmtree(path, **options)
        removed.append(path)

    rmtree = shutil.rmtree
    writer = CheckpointWriter(tmp_path)
    torn.mkdir()
    monkeypatch.setattr("jaxdt.checkpoint.writing.shutil.rmtree", remove)
    writer._remove_torn(3)
    assert removed == [torn, torn]
    assert not torn.exists()
