"""The model card of an exported run: what a stranger must know to use the weights."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdt.simulator import gymnasium_id
from jaxdt.types import Box, Spec


def model_card(
    name: str,
    spec: Spec,
    *,
    return_scale: float,
    env_id: str | None,
    context_length: int,
    targets: Sequence[float],
    evaluations: Sequence[dict[str, Any]],
    training: Sequence[str],
    untrained: Sequence[str],
) -> str:
    """Markdown with the hub's YAML header.

    - `evaluations`: lines of `evaluations.jsonl`; empty: not evaluated, and said so.
    - `training`: sentences on how it was trained. `untrained`: tensors that are zeros.
    """
    sections = [
        f"# {name}",
        "A [Decision Transformer](https://arxiv.org/abs/2106.01345), written by jaxdt for "
        "`transformers.DecisionTransformerModel`.",
        "## Results\n\n" + _results(evaluations),
        "## How to use it\n\n" + _usage(spec, return_scale, env_id, context_length, targets),
        "## Normalisation\n\n" + _normalization(spec),
        "## Training\n\n" + "\n".join(f"- {sentence}" for sentence in training),
        "## Untrained tensors\n\nThis model has no such weights; they are zeros, and what they predict means nothing: "
        + ", ".join(f"`{tensor}`" for tensor in untrained)
        + ". (`encoder.wpe.weight` adds nothing to a token, as intended.)",
    ]
    return _header(name, env_id, evaluations) + "\n\n".join(sections) + "\n"


def _header(name: str, env_id: str | None, evaluations: Sequence[dict[str, Any]]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    env_id = gymnasium_id(env_id) if env_id else None  # the hub knows no other name
    results = [
        EvalResult(
            task_type="reinforcement-learning",
            dataset_type=env_id or "unknown",
            dataset_name=env_id or "unknown",
            metric_type="mean_reward",
            metric_name=f"mean return at target {evaluation['target']:g}",
            metric_value=round(float(evaluation["return_mean"]), 2),
        )
        for evaluation in evaluations
    ]
    tags = ["decision-transformer", "deep-reinforcement-learning", "reinforcement-learning", "offline-rl", "jaxdt"]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="reinforcement-learning",
        tags=tags + ([env_id] if env_id else []),
        **({"model_name": name, "eval_results": results} if results else {}),
    )
    return f"---\n{data.to_yaml()}\n---\n\n"


def _results(evaluations: Sequence[dict[str, Any]]) -> str:
    if not evaluations:
        return "Not evaluated."
    lines = ["| target return | return, mean ± std over episodes | episodes | D4RL score |", "|---|---|---|---|"]
    for evaluation in evaluations:
        score = evaluation["normalized_mean"]
        lines.append(
            f"| {evaluation['target']:g} | {evaluation['return_mean']:.1f} ± {evaluation['return_std']:.1f} "
            f"| {len(evaluation['returns'])} | {'-' if score is None else f'{score:.1f}'} |"
        )
    return "\n".join(lines)


def _usage(spec: Spec, return_scale: float, env_id: str | None, context_length: int, targets: Sequence[float]) -> str:
    lines = [
        f"- Environment: {env_id or 'not a Gymnasium one'}.",
        f"- Context: the last {context_length} steps (`K`), padded on the left, `attention_mask` 0 at padding.",
        f"- Returns-to-go are divided by {return_scale:g} before they enter the model"
        + (" and stay as they are while acting (trained on delayed rewards)." if spec.delayed_reward else "."),
        f"- Target returns used: {', '.join(f'{target:g}' for target in targets) or 'none recorded'}.",
        f"- Actions: {_actions(spec)}",
        "- In JAX: `jaxdt.from_huggingface(...)` reads the weights and `normalization.json`.",
    ]
    return "\n".join(lines)


def _actions(spec: Spec) -> str:
    if not isinstance(spec.action, Box):
        n, start = spec.action
        return (
            f"one of {n}, numbered from {start} in the environment; one-hot vectors enter the model, and its "
            "`action_preds` are their logits."
        )
    low, high = spec.action
    if np.all(low == -1) and np.all(high == 1):
        return "predictions are the environment's own."
    return (
        f"predictions lie in [-1, 1] and are mapped onto [{_row(low)}], [{_row(high)}]: "
        "low + (prediction + 1) / 2 * (high - low); actions that enter the model are mapped back."
    )


def _normalization(spec: Spec) -> str:
    return (
        "Observations enter the model as (observation - mean) / std; also in `normalization.json`.\n\n"
        f"mean = [{_row(spec.constants['state_mean'])}]\n\nstd = [{_row(spec.constants['state_std'])}]"
    )


def _row(values: np.ndarray) -> str:
    return ", ".join(f"{value:.9g}" for value in np.asarray(values).reshape(-1))
