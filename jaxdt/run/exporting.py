"""A run or an Agent as a directory that `transformers` loads."""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from safetensors.numpy import save

from jaxdt import __version__
from jaxdt.algorithms.decision_transformer import with_sizes
from jaxdt.checkpoint import Which, find_checkpoint
from jaxdt.config import AlgorithmConfig, DecisionTransformerConfig, Finetuning, ModelConfig
from jaxdt.config.checks import as_json_or_none
from jaxdt.data.formats.dqn_spec import PREFIX as DQN, short_name
from jaxdt.errors import JaxdtError, RunError, one_line
from jaxdt.files import check_is_free, directory_atomically
from jaxdt.interop.card import model_card, results_json
from jaxdt.interop.huggingface import config_to_huggingface, num_positions
from jaxdt.interop.names import one_hot_params, tensors_from_params
from jaxdt.interop.source import NORMALIZATION
from jaxdt.loggers import read_evaluations
from jaxdt.run.agent import Agent, agent_of
from jaxdt.run.directory import RunDirectory, RunRecord, read_record
from jaxdt.run.evaluate import video_paths
from jaxdt.simulator import are_plain_kwargs
from jaxdt.types import Box, Discrete


def to_huggingface(
    run: str | os.PathLike[str] | Agent,
    out: str | os.PathLike[str],
    *,
    checkpoint: Which = "latest",
    push: str | None = None,
    license: str | None = None,
) -> Path:
    """Writes what `transformers.DecisionTransformerModel.from_pretrained` loads; returns `out`.

    `config.json`, `model.safetensors`, `README.md` (the model card), `normalization.json` (mean and std, return
    scale, context length, targets, action bounds; `from_huggingface` reads it) and, where the run has them,
    `results.json` (what it reached), `replay.mp4` (the video of its highest target) and TensorBoard's files, from all
    of which the hub makes a page. Tensors that we do not have are zeros, and the card names them.

    - `push`: also uploads to that name on the hub.
    - `license`: of the weights, as the hub abbreviates it (`mit`); default: none is named.

    Raises JaxdtError when `out` is not empty, RunError when the upload fails.
    """
    out = Path(out)
    check_is_free(out)
    if push is not None and not re.fullmatch(r"(?:[\w-][\w.-]*/)?[\w-][\w.-]*", push, re.ASCII):
        raise JaxdtError(f"a name on the hub must be OWNER/NAME of letters, digits, - _ and .; got {push!r}.")
    directory = None if isinstance(run, Agent) else RunDirectory(run)
    record = None if directory is None else read_record(directory)
    if record is not None:
        _check_exportable(record.config.algorithm)
    agent = agent_of(run, checkpoint)
    config, model, params = _as_huggingface(agent)
    tensors, untrained = tensors_from_params(params, model, num_positions(model))
    step = None if directory is None else find_checkpoint(directory.checkpoints, checkpoint)
    evaluations = [] if directory is None else read_evaluations(directory.evaluations)[0]
    evaluations = [evaluation for evaluation in evaluations if evaluation["step"] == step]
    training = ["Made outside a run directory."] if record is None else _training(record, step)
    with directory_atomically(out) as temporary:
        (temporary / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
        _write_json(temporary / "config.json", config_to_huggingface(model))
        _write_json(temporary / NORMALIZATION, _normalization(agent, config))
        card = model_card(
            (push if push is None or "/" in push else f"OWNER/{push}") or out.absolute().name,
            agent.spec,
            return_scale=config.return_scale,
            env_id=agent.env_id,
            env_kwargs=_made_with(agent),
            context_length=model.context_length,
            targets=_targets(agent),
            evaluations=evaluations,
            training=training,
            untrained=untrained,
            datasets=[] if record is None else _hub_datasets(record.data.get("spec")),
            license=license,
        )
        (temporary / "README.md").write_text(card, encoding="utf-8")
        video = _video(directory, agent) if checkpoint == "latest" else None
        if video is not None:
            shutil.copyfile(video, temporary / "replay.mp4")
        if evaluations:
            drawn = isinstance(agent.spec.action, Discrete) and config.sampling == "sample"
            _write_json(temporary / "results.json", results_json(agent.env_id, evaluations, deterministic=not drawn))
        curves = [] if directory is None else sorted(directory.path.glob("tensorboard/events.out.tfevents.*"))
        for number, file in enumerate(curves):
            (temporary / "tensorboard").mkdir(exist_ok=True)  # renamed, for their names tell the host's
            shutil.copyfile(file, temporary / "tensorboard" / f"events.out.tfevents.{number:04d}")
    if push is not None:
        _push(out, push)
    return out


def _as_huggingface(agent: Agent) -> tuple[DecisionTransformerConfig, ModelConfig, dict[str, Any]]:
    """The model in Hugging Face's terms; raises JaxdtError where theirs has none."""
    config = _check_exportable(agent.config)
    model = with_sizes(config.model, agent.spec)
    if model.num_actions is None:
        return config, model, agent.params
    one_hot = dataclasses.replace(model, action_dim=model.num_actions, num_actions=None, action_tanh=False)
    return config, one_hot, one_hot_params(agent.params)


def _check_exportable(config: AlgorithmConfig) -> DecisionTransformerConfig:
    if not isinstance(config, DecisionTransformerConfig) or config.network is not None:
        raise JaxdtError(
            f"only Decision Transformers can be written for transformers; this run is of {config.summary}."
        )
    return config


def _targets(agent: Agent) -> list[float]:
    return [target for target in agent.targets if target is not None]


def _normalization(agent: Agent, config: DecisionTransformerConfig) -> dict[str, Any]:
    """What `read_partial_spec` reads."""
    spec = agent.spec
    if isinstance(spec.action, Box):
        action = {"action_low": spec.action.low.tolist(), "action_high": spec.action.high.tolist()}
    else:
        action = {"num_actions": spec.action.n, "first_action": spec.action.start}
    return {
        "state_mean": spec.constants["state_mean"].tolist(),
        "state_std": spec.constants["state_std"].tolist(),
        "return_scale": config.return_scale,
        "context_length": config.model.context_length,
        "env_id": agent.env_id,
        "env_kwargs": _made_with(agent) or None,
        "targets": _targets(agent) or None,
        **action,
        "delayed_reward": spec.delayed_reward,
    }


def _made_with(agent: Agent) -> dict[str, Any]:
    """What its environment is given beside the id, where a file may say it."""
    kwargs = as_json_or_none(agent.environment.made_with, "env_kwargs")
    return kwargs if kwargs and agent.env_id is not None and are_plain_kwargs(kwargs) else {}


def _training(record: RunRecord, step: int | None) -> list[str]:
    config, data, made = record.config, record.data, record.made_with
    assert isinstance(config.algorithm, DecisionTransformerConfig)
    if "imported_from" in data:
        source = data["imported_from"]
        return [f"Imported from {source if source.count('/') == 1 else Path(source).name}; jaxdt did not train it."]
    online = record.finetuning
    model, optimizer = config.algorithm.model, config.algorithm.optimizer
    return [
        f"jaxdt {__version__}, preset `{config.preset}`, seed {config.seed}: {step} of {config.steps} updates of "
        f"{config.batch_size} windows of {model.context_length} steps"
        + (", in passes of one window an episode" if config.passes else "")
        + (f", from the weights of {Path(config.init).name}." if config.init else "."),
        f"Data: {_file_names(data['spec'])}, {data['num_episodes']} episodes, {data['num_steps']} steps, returns "
        f"{data['return_mean']:.1f} ± {data['return_std']:.1f}, from {data['return_min']:.1f} to "
        f"{data['return_max']:.1f}" + (f"; trained on {config.part_of_data}." if config.best_fraction < 1 else "."),
        *([] if online is None else [_online(online)]),
        f"{'LAMB' if optimizer.update_rule == 'lamb' else 'AdamW'}, learning rate {optimizer.learning_rate:g}, "
        f"{optimizer.schedule} after a warm-up of {optimizer.warmup_steps} updates, weight decay "
        f"{optimizer.weight_decay:g}, gradients "
        + (f"clipped to norm {optimizer.max_grad_norm:g}." if optimizer.max_grad_norm else "not clipped."),
        f"Dropout {model.embedding_dropout:g} (embedding), {model.attention_dropout:g} (attention), "
        f"{model.residual_dropout:g} (residual).",
        f"Made with {', '.join(f'{name} {version}' for name, version in made['versions'].items() if version)} on "
        f"{made.get('devices', made['device_count'])} x {made['device']}.",
    ]


def _online(finetuning: Finetuning) -> str:
    chosen = finetuning.config
    target = "" if chosen.exploration_target is None else f" asked for {chosen.exploration_target:g}"
    return (
        f"Fine-tuned online from {Path(finetuning.run).name} after its update {finetuning.first_step}: {chosen.rounds} "
        f"rounds of {chosen.episodes_per_round} episodes{target} and {chosen.updates_per_round} updates; seed and "
        "learning rate are those of this part."
    )


def _file_names(spec: str | None) -> str:
    """A spec without the directories of the machine it was used on."""
    parts = (spec or "arrays").split("+")
    return " + ".join(_file_name(part) for part in parts)


def _file_name(part: str) -> str:
    if part.startswith(DQN):
        return short_name(part)
    return part if part.startswith(("hf:", "minari:")) else Path(part).name


def _hub_datasets(spec: str | None) -> list[str]:
    """The hub's repositories in a spec, each once."""
    named = [part.removeprefix("hf:").split("/") for part in (spec or "").split("+") if part.startswith("hf:")]
    return list(dict.fromkeys("/".join(parts[:2]) for parts in named))


def _video(run: RunDirectory | None, agent: Agent) -> Path | None:
    if run is None or not _targets(agent):
        return None
    (path,) = video_paths(run.videos, [max(_targets(agent))])
    return path if path.is_file() else None


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _push(out: Path, name: str) -> None:
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        repo = api.create_repo(name, exist_ok=True).repo_id
        api.upload_folder(repo_id=repo, folder_path=out, commit_message="Upload a Decision Transformer of jaxdt")
    except Exception as error:  # its own kinds, and those of the network below it
        reason = one_line(error, 300)
        raise RunError(
            f"{out} was written but not pushed to {name!r}: {reason} (log in with `hf auth login`, check the "
            f"name, then `hf upload {name} {out}`)."
        ) from error
