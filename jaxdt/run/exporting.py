"""A run or an Agent as a directory that `transformers` loads."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from safetensors.numpy import save

from jaxdt import __version__
from jaxdt.checkpoint import Which, find_checkpoint
from jaxdt.errors import JaxdtError, RunError, one_line
from jaxdt.files import directory_atomically, is_free
from jaxdt.interop.card import model_card
from jaxdt.interop.huggingface import config_to_huggingface, num_positions
from jaxdt.interop.names import tensors_from_params
from jaxdt.interop.source import NORMALIZATION
from jaxdt.metrics import read_evaluations
from jaxdt.run.agent import Agent
from jaxdt.run.directory import RunDirectory, RunRecord, read_record
from jaxdt.run.evaluate import video_paths


def to_huggingface(
    run: str | os.PathLike[str] | Agent,
    out: str | os.PathLike[str],
    *,
    checkpoint: Which = "latest",
    push: str | None = None,
) -> Path:
    """Writes what `transformers.DecisionTransformerModel.from_pretrained` loads; returns `out`.

    `config.json`, `model.safetensors`, `README.md` (the model card), `normalization.json` (mean and std, return
    scale, context length, targets, action bounds; `from_huggingface` reads it) and, where the run has a video of its
    highest target, `replay.mp4`. Tensors that we do not have are zeros, and the card names them. `push`: also
    uploads to that name on the hub. Raises JaxdtError when `out` is not empty, RunError when the upload fails.
    """
    out = Path(out)
    if not is_free(out):
        raise JaxdtError(f"{out} is not empty; choose another output directory.")
    if push is not None and not re.fullmatch(r"(?:[\w-][\w.-]*/)?[\w-][\w.-]*", push, re.ASCII):
        raise JaxdtError(f"a name on the hub must be OWNER/NAME of letters, digits, - _ and .; got {push!r}.")
    agent = run if isinstance(run, Agent) else Agent.load(run, checkpoint)
    tensors, untrained = tensors_from_params(agent.params, agent.config, num_positions(agent.config))
    directory = None if isinstance(run, Agent) else RunDirectory(run)
    step = None if directory is None else find_checkpoint(directory.checkpoints, checkpoint)
    evaluations = [] if directory is None else read_evaluations(directory.evaluations)[0]
    training = ["Made outside a run directory."] if directory is None else _training(read_record(directory), step)
    with directory_atomically(out) as temporary:
        (temporary / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
        _write_json(temporary / "config.json", config_to_huggingface(agent.config))
        _write_json(temporary / NORMALIZATION, _normalization(agent))
        card = model_card(
            (push or str(out.absolute())).rstrip("/").split("/")[-1],
            agent.interface,
            env_id=agent.env_id,
            context_length=agent.config.context_length,
            targets=agent.targets,
            evaluations=[evaluation for evaluation in evaluations if evaluation["step"] == step],
            training=training,
            untrained=untrained,
        )
        (temporary / "README.md").write_text(card, encoding="utf-8")
        video = _video(directory, agent) if checkpoint == "latest" else None
        if video is not None:
            shutil.copyfile(video, temporary / "replay.mp4")
    if push is not None:
        _push(out, push)
    return out


def _normalization(agent: Agent) -> dict[str, Any]:
    interface = agent.interface
    return {
        "state_mean": interface.state_mean.tolist(),
        "state_std": interface.state_std.tolist(),
        "return_scale": interface.return_scale,
        "context_length": agent.config.context_length,
        "env_id": agent.env_id,
        "targets": list(agent.targets) or None,
        "action_low": interface.action_low.tolist(),
        "action_high": interface.action_high.tolist(),
        "delayed_reward": interface.delayed_reward,
    }


def _training(record: RunRecord, step: int | None) -> list[str]:
    config, data, made = record.config, record.data, record.made_with
    if "imported_from" in data:
        source = data["imported_from"]
        return [f"Imported from {source if source.count('/') == 1 else Path(source).name}; jaxdt did not train it."]
    model, optimizer = config.model, config.optimizer
    return [
        f"jaxdt {__version__}, preset `{config.preset}`, seed {config.seed}: {step} of {config.steps} updates of "
        f"{config.batch_size} windows of {model.context_length} steps"
        + (", in passes of one window an episode" if config.passes else "")
        + (f", from the weights of {Path(config.init).name}." if config.init else "."),
        f"Data: {_file_names(data['spec'])}, {data['num_episodes']} episodes, {data['num_steps']} steps, returns "
        f"{data['return_mean']:.1f} ± {data['return_std']:.1f}, from {data['return_min']:.1f} to "
        f"{data['return_max']:.1f}"
        + (f"; the best {config.best_fraction:g} of it." if config.best_fraction < 1 else "."),
        f"AdamW, learning rate {optimizer.learning_rate:g}, {optimizer.schedule} after a warm-up of "
        f"{optimizer.warmup_steps} updates, weight decay {optimizer.weight_decay:g}, gradients clipped to norm "
        f"{optimizer.max_grad_norm:g}.",
        f"Dropout {model.embedding_dropout:g} (embedding), {model.attention_dropout:g} (attention), "
        f"{model.residual_dropout:g} (residual).",
        f"Made with {', '.join(f'{name} {version}' for name, version in made['versions'].items() if version)} on "
        f"{made['device_count']} x {made['device']}.",
    ]


def _file_names(spec: str | None) -> str:
    """A spec without the directories of the machine it was used on."""
    parts = (spec or "arrays").split("+")
    return " + ".join(part if part.startswith(("hf:", "minari:")) else Path(part).name for part in parts)


def _video(run: RunDirectory | None, agent: Agent) -> Path | None:
    if run is None or not agent.targets:
        return None
    (path,) = video_paths(run.videos, [max(agent.targets)])
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
