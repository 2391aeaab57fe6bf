"""Weights from others, against small models that PyTorch made (`scripts/make_golden.py`)."""

import dataclasses
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxdt
from jaxdt import JaxdtError
from jaxdt.config import OptimizerConfig
from jaxdt.interop.names import tensors_from_params
from jaxdt.interop.source import read_model
from jaxdt.interop.tensors import read_tensors
from jaxdt.models import build_model
from jaxdt.types import Window


GOLDEN = Path(__file__).parent / "golden"
SOURCES = {"bin": (GOLDEN / "bin", None), "safetensors": (GOLDEN / "safetensors", None)} | {
    "original": (GOLDEN / "original.pt", 2)
}


@pytest.fixture(scope="module")
def expected():
    with np.load(GOLDEN / "expected.npz") as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def window(expected) -> Window:
    return Window(*(expected[f"window_{name}"] for name in Window._fields))


@pytest.fixture
def copy(tmp_path) -> Path:
    """A Hugging Face directory to damage."""
    return shutil.copytree(GOLDEN / "safetensors", tmp_path / "model")


def refusal(source, **options) -> str:
    with pytest.raises(JaxdtError) as caught:
        read_model(str(source), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit_config(directory: Path, **changes) -> Path:
    path = directory / "config.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(values))
    return directory


def edit_tensors(directory: Path, **changes) -> Path:
    tensors = load_file(directory / "model.safetensors")
    for name, value in changes.items():
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = value
    save_file(tensors, directory / "model.safetensors")
    return directory


@pytest.mark.parametrize("name", SOURCES)
def test_an_imported_model_predicts_what_pytorch_predicted(name, expected, window):
    source, num_heads = SOURCES[name]
    imported = read_model(str(source), num_heads=num_heads)
    _, apply = build_model(imported.config)
    with jax.default_matmul_precision("highest"):
        actions = np.asarray(jax.jit(apply)(imported.params, window))
    np.testing.assert_allclose(actions[window.mask], expected[name][window.mask], atol=1e-5, rtol=0)


@pytest.mark.slow
def test_ten_updates_of_the_papers_recipe_lose_what_pytorch_lost(expected, window):
    imported = read_model(str(GOLDEN / "original.pt"), num_heads=2)
    model = jaxdt.ModelConfig(
        **{**vars(imported.config), "embedding_dropout": 0.0, "attention_dropout": 0.0, "residual_dropout": 0.0}
    )
    _, apply = build_model(model)
    params = jax.tree.map(jnp.asarray, imported.params)
    step, state = jaxdt.make_train_step(apply, params, OptimizerConfig(learning_rate=1e-3, warmup_steps=10))
    losses = []
    with jax.default_matmul_precision("highest"):
        for _ in range(10):
            state, metrics = step(state, window, jax.random.key(0))
            losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(losses, expected["losses"], atol=1e-4, rtol=0)
    assert losses[-1] < losses[0] - 0.1


def test_every_field_of_the_config_is_honoured():
    config = read_model(str(GOLDEN / "bin"), context_length=7).config
    assert vars(config) == vars(
        jaxdt.ModelConfig(
            state_dim=5,
            action_dim=3,
            context_length=7,
            max_episode_length=30,
            width=16,
            num_layers=2,
            num_heads=4,
            mlp_width=23,
            activation="gelu_new",
            layer_norm_epsilon=1e-3,
            embedding_dropout=0.0,
            attention_dropout=0.0,
            residual_dropout=0.0,
        )
    )
    assert not read_model(str(GOLDEN / "safetensors")).config.action_tanh


def test_untrained_heads_are_left_out_and_named():
    heads = ["predict_return.bias", "predict_return.weight", "predict_state.bias", "predict_state.weight"]
    assert read_model(str(GOLDEN / "bin")).dropped == ["encoder.wte.weight", *heads]
    assert read_model(str(GOLDEN / "original.pt"), num_heads=1).dropped == [*heads, "transformer.wte.weight"]


def test_the_position_row_is_folded_into_the_embeddings_norm(copy):
    tensors = load_file(copy / "model.safetensors")
    bias = read_model(str(copy)).params["embed_norm"]["bias"]
    assert (bias == tensors["embed_ln.bias"] + tensors["encoder.wpe.weight"][0]).all()


def test_what_is_exported_comes_back_bit_for_bit(tmp_path):
    imported = read_model(str(GOLDEN / "bin"))
    tensors, untrained = tensors_from_params(imported.params, imported.config, positions=16)
    assert not any(tensors[name].any() for name in untrained)
    save_file(tensors, tmp_path / "model.safetensors")
    shutil.copyfile(GOLDEN / "bin" / "config.json", tmp_path / "config.json")
    again = read_model(str(tmp_path))
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), again.params, imported.params))


def test_a_model_without_timesteps_has_a_table_of_zeros_for_others(copy, window):
    """Hugging Face's model always has one, and draws what it does not find."""
    imported = read_model(str(copy))
    config = dataclasses.replace(imported.config, timestep_embedding=False)
    params = {name: part for name, part in imported.params.items() if name != "embed_timestep"}
    tensors, untrained = tensors_from_params(params, config, positions=16)
    assert "embed_timestep.weight" in untrained
    save_file(tensors, copy / "model.safetensors")
    again = read_model(str(copy))
    ours, theirs = (
        jax.jit(build_model(model)[1])(weights, window)
        for model, weights in ((config, params), (again.config, again.params))
    )
    np.testing.assert_array_equal(ours, theirs)


def test_the_originals_heads_must_be_given():
    message = refusal(GOLDEN / "original.pt")
    assert "does not tell its number of attention heads; give --num-heads" in message
    assert "n_head=4; got --num-heads 2" in refusal(GOLDEN / "bin", num_heads=2)
    assert "width must be divisible by num_heads; got width=16, num_heads=3" in refusal(
        GOLDEN / "original.pt", num_heads=3
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("add_cross_attention", True),
        ("scale_attn_by_inverse_layer_idx", True),
        ("reorder_and_upcast_attn", True),
        ("scale_attn_weights", False),
        ("activation_function", "silu"),
        ("activation_function", "gelu_fast"),
        ("activation_function", "tanh"),
    ],
)
def test_a_field_that_we_do_not_compute_is_refused_by_name(copy, field, value):
    message = refusal(edit_config(copy, **{field: value}))
    assert f"{copy / 'config.json'} has {field}={value!r}, which is not supported" in message


@pytest.mark.parametrize("field", ["summary_type", "n_embd", "bos_token_id", "initializer_range", "use_cache"])
def test_a_field_that_cannot_change_an_action_is_ignored(copy, field):
    assert read_model(str(edit_config(copy, **{field: 768}))).config == read_model(str(GOLDEN / "safetensors")).config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "describes a model of type 'gpt2'; only decision_transformer"),
        ({"n_layer": "3"}, "n_layer has the wrong type; got '3'"),
        ({"n_layer": True}, "n_layer has the wrong type; got True"),
        ({"n_layer": 0}, "num_layers must be at least 1; got 0"),
        ({"n_layer": 3}, "the tensor 'encoder.h.2.ln_1.weight' is missing"),
        ({"n_layer": 1}, "has the unknown tensor 'encoder.h.1.attn.c_attn.bias' (12 in all)"),
        ({"n_layer": 10**6}, "the tensor 'encoder.h.2.ln_1.weight' is missing"),
        ({"n_layer": 10**9}, "num_layers must be at most 16777216; got 1000000000"),
        ({"max_ep_len": 10**400}, "max_episode_length must be at most 16777216; got "),
        ({"layer_norm_epsilon": 10**400}, "layer_norm_epsilon must be a number within float64's range"),
        ({"n_head": 5}, "width must be divisible by num_heads"),
        ({"hidden_size": 32}, "the tensor 'embed_timestep.weight' has shape (30, 16) and should have (30, 32)"),
        ({"max_ep_len": 1000}, "the tensor 'embed_timestep.weight' has shape (30, 16) and should have (1000, 16)"),
        ({"n_inner": 30}, "the tensor 'encoder.h.0.mlp.c_fc.weight' has shape (16, 64) and should have (16, 30)"),
        ({"layer_norm_epsilon": None}, "layer_norm_epsilon has the wrong type; got None"),
        ({"resid_pdrop": 1.5}, "residual_dropout must be at least 0 and below 1; got 1.5"),
        ({"action_tanh": 1}, "action_tanh has the wrong type; got 1"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_with_its_file_and_field(copy, changes, message):
    refused = refusal(edit_config(copy, **changes))
    assert message in refused
    assert str(copy) in refused


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", "[" * 100_000])
def test_a_config_that_is_no_json_object_is_refused(copy, content):
    (copy / "config.json").write_text(content)
    assert str(copy / "config.json") in refusal(copy)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("embed_state.weight", None, "the tensor 'embed_state.weight' is missing"),
        ("encoder.wpe.weight", None, "the tensor 'encoder.wpe.weight' is missing"),
        ("encoder.h.1.attn.c_attn.bias", None, "the tensor 'encoder.h.1.attn.c_attn.bias' is missing"),
        ("encoder.h.0.crossattention.c_attn.weight", np.zeros(3), "unknown tensor 'encoder.h.0.crossattention.c_att"),
        ("lm_head.weight", np.zeros(3, np.float32), "has the unknown tensor 'lm_head.weight' (1 in all)"),
        ("embed_ln.bias", np.zeros(3, np.float32), "'embed_ln.bias' has shape (3,) and should have (16,)"),
        (
            "encoder.wpe.weight",
            np.zeros(16, np.float32),
            "'encoder.wpe.weight' has shape (16,) and should have (1, 16)",
        ),
        ("embed_ln.bias", np.full(16, np.nan, np.float32), "'embed_ln.bias' has numbers that are not finite"),
    ],
)
def test_a_tensor_that_is_missing_unknown_or_wrong_is_named(copy, name, value, message):
    refused = refusal(edit_tensors(copy, **{name: value}))
    assert message in refused
    assert str(copy / "model.safetensors") in refused


def test_half_precision_weights_become_float32(copy):
    tensors = load_file(copy / "model.safetensors")
    save_file({name: value.astype(np.float16) for name, value in tensors.items()}, copy / "model.safetensors")
    leaves = jax.tree.leaves(read_model(str(copy)).params)
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}


def test_a_directory_without_weights_says_what_it_has(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    message = refusal(tmp_path)
    assert message == f"{tmp_path} holds neither model.safetensors nor pytorch_model.bin; it has notes.txt."


def test_weights_of_hugging_face_need_their_config(copy):
    (copy / "config.json").unlink()
    assert refusal(copy / "model.safetensors").startswith(f"{copy / 'config.json'} is missing")


@pytest.mark.parametrize("source", ["nowhere", "a/b/c", "../x", "./a", "a b/c", "", "/nowhere/model.bin"])
def test_a_source_that_does_not_exist_and_is_no_hub_name_is_refused(source):
    assert f"{source!r} does not exist; give a directory" in refusal(source)


# ---- files of tensors


def reading(path: Path) -> str:
    with pytest.raises(JaxdtError) as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def rewrite(path: Path, replace: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> Path:
    """The golden .bin with some members replaced (None: left out)."""
    with zipfile.ZipFile(GOLDEN / "bin" / "pytorch_model.bin") as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            ending = info.filename.split("/", 1)[1]
            content = replace.get(ending, source.read(info))
            if content is not None:
                target.writestr(info.filename, content, compress_type=compression)
    return path


def test_both_readers_read_every_tensor(expected):
    tensors = read_tensors(GOLDEN / "bin" / "pytorch_model.bin")
    assert len(tensors) == len(read_tensors(GOLDEN / "safetensors" / "model.safetensors")) + 4  # the buffers
    buffer = tensors["encoder.h.0.attn.bias"]
    assert (buffer.dtype, buffer.shape) == (np.uint8, (1, 1, 16, 16))
    assert (buffer[0, 0] == np.tri(16)).all()


@pytest.mark.parametrize("name", ["bin/pytorch_model.bin", "safetensors/model.safetensors", "original.pt"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_refused(tmp_path, name, share):
    whole = (GOLDEN / name).read_bytes()
    path = tmp_path / Path(name).name
    path.write_bytes(whole[: int(share * len(whole))])
    assert "copy it again" in reading(path)


def test_flipped_bytes_are_noticed(tmp_path):
    whole = bytearray((GOLDEN / "original.pt").read_bytes())
    tensor = read_tensors(GOLDEN / "original.pt")["embed_state.weight"].T
    where = bytes(whole).index(np.ascontiguousarray(tensor.T).tobytes())
    whole[where] ^= 1
    (tmp_path / "a.pt").write_bytes(whole)
    assert "Bad CRC-32" in reading(tmp_path / "a.pt")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02}q\x00.", b"PK\x03\x04" + bytes(100)])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    for ending in ("bin", "pt", "safetensors"):
        (tmp_path / f"a.{ending}").write_bytes(content)
        reading(tmp_path / f"a.{ending}")
    (tmp_path / "a.ckpt").write_bytes(content)
    assert "unknown kind '.ckpt'" in reading(tmp_path / "a.ckpt")


class Calls:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("nested", [False, True])
def test_a_file_that_asks_to_run_something_is_refused_by_name_and_runs_nothing(tmp_path, nested):
    marker = tmp_path / "ran"
    evil = Calls(os.mkdir, str(marker))
    content = pickle.dumps({"weights": [evil]} if nested else evil, 2)
    path = rewrite(tmp_path / "evil.bin", {"data.pkl": content})
    assert "asks to run posix.mkdir, which a file of data never needs" in reading(path)
    assert not marker.exists()
    pickle.loads(content)
    assert marker.exists()  # the trap works


@pytest.mark.parametrize(
    "name", ["torch.nn.modules.linear.Linear", "torch._utils._rebuild_device_tensor", "torch.load"]
)
def test_a_global_of_pytorch_beyond_tensors_is_refused(tmp_path, name):
    module, attribute = name.rsplit(".", 1)
    path = rewrite(tmp_path / "a.bin", {"data.pkl": f"c{module}\n{attribute}\n)R.".encode()})
    assert f"asks to run {name}" in reading(path)


STORAGE = b"((S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI16\ntQ"


@pytest.mark.parametrize(
    "arguments",
    [
        b"I0\n(I1000000000000\nt(I1\nt",  # larger than its storage
        b"I0\n(I1000000000000\nt(I0\nt",  # one number a million million times
        b"I0\n(I-1\nt(I1\nt",
        b"I-4\n(I1\nt(I1\nt",
        b"I0\n(I4\nt(I-1\nt",
        b"I0\n(I4\nI4\nt(I1\nt",
        b"I100000\n(I1\nt(I1\nt",
        b"N(I1\nt(I1\nt",
        b"I0\nNN",
    ],
)
def test_a_tensor_beyond_its_storage_is_refused_before_memory_is_taken(tmp_path, arguments):
    content = b"}S'a'\nctorch._utils\n_rebuild_tensor_v2\n" + STORAGE + arguments + b"I00\nNtRs."
    assert "is not a readable pickle" in reading(rewrite(tmp_path / "a.bin", {"data.pkl": content}))


def test_the_hand_written_pickle_above_is_otherwise_good(tmp_path):
    content = b"}S'a'\nctorch._utils\n_rebuild_tensor_v2\n" + STORAGE + b"I0\n(I4\nt(I1\nt" + b"I00\nNtRs."
    tensors = read_tensors(rewrite(tmp_path / "a.bin", {"data.pkl": content}))
    assert tensors["a"].shape == (4,)


def test_tensors_that_share_their_numbers_are_refused_before_they_are_copied(tmp_path):
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n" + STORAGE + b"I0\n(I16\nt(I1\ntI00\nNtR"
    path = tmp_path / "a.bin"
    for count, fits in ((1, True), (20_000, False)):
        content = (
            b"}(" + b"".join(b"S'%d'\n" % i + (tensor + b"p1\n" if i == 0 else b"g1\n") for i in range(count)) + b"u."
        )
        rewrite(path, {"data.pkl": content})
        if fits:
            assert read_tensors(path)["0"].shape == (16,)
        else:
            assert "its tensors share their numbers" in reading(path)


def test_storages_that_are_missing_or_outside_the_archive_are_refused(tmp_path):
    assert "is damaged at 'pytorch_model/data/0'" in reading(rewrite(tmp_path / "a.bin", {"data/0": None}))
    content = b"}S'a'\nctorch._utils\n_rebuild_tensor_v2\n" + STORAGE.replace(b"S'0'", b"S'../../x'")
    content += b"I0\n(I4\nt(I1\ntI00\nNtRs."
    assert "is damaged at" in reading(rewrite(tmp_path / "b.bin", {"data.pkl": content}))


def test_compressed_and_big_endian_archives_are_refused(tmp_path):
    assert "compressed" in reading(rewrite(tmp_path / "a.bin", {}, compression=zipfile.ZIP_DEFLATED))
    assert "big-endian" in reading(rewrite(tmp_path / "b.bin", {"byteorder": b"big"}))


def test_members_that_share_their_bytes_are_refused(tmp_path):
    path = tmp_path / "a.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"}.")
        archive.writestr("a/data/0", bytes(10_000))
        big = archive.getinfo("a/data/0")
        for i in range(1, 20):
            twin = zipfile.ZipInfo(f"a/data/{i}")
            for name in ("header_offset", "CRC", "compress_size", "file_size"):
                setattr(twin, name, getattr(big, name))
            archive.filelist.append(twin)
            archive.NameToInfo[twin.filename] = twin
    assert "add up to more than the file" in reading(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1], "holds no state dict but a list"),
        ({}, "holds no state dict but a dict"),
        ({"epoch": 3}, "holds no state dict: 'epoch' is a int"),
        ({"state_dict": {"a": "b"}}, "holds no state dict: 'a' is a str"),
        (3, "holds no state dict but a int"),
        # What online-dt saves beside its weights: NumPy's arrays are read over.
        ({"np": (np.random.RandomState(0).get_state(), np.int64(3))}, "holds no state dict: 'np' is a tuple"),
    ],
)
def test_a_pickle_that_is_no_state_dict_is_refused(tmp_path, value, message):
    assert message in reading(rewrite(tmp_path / "a.bin", {"data.pkl": pickle.dumps(value, 2)}))


def test_a_zip_archive_of_something_else_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", rewards=np.zeros(3))
    (tmp_path / "a.npz").rename(tmp_path / "a.bin")
    assert "without PyTorch's data.pkl" in reading(tmp_path / "a.bin")


def test_a_safetensors_header_that_lies_is_refused(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    assert "is not a readable safetensors file" in reading(path)
    path.write_bytes((2**63).to_bytes(8, "little") + header)
    reading(path)
