"""The model card of an exported run: what a stranger must know to use the weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdt.data.d4rl import score_name
from jaxdt.games import game_of
from jaxdt.simulator import gymnasium_id
from jaxdt.types import Box, Spec


def model_card(
    name: str,
    spec: Spec,
    *,
    return_scale: float,
    env_id: str | None,
    env_kwargs: Mapping[str, Any],
    context_length: int,
    targets: Sequence[float],
    evaluations: Sequence[dict[str, Any]],
    training: Sequence[str],
    untrained: Sequence[str],
    datasets: Sequence[str] = (),
    license: str | None = None,
) -> str:
    """Markdown with the hub's YAML header.

    - `name`: of the repository, with its owner where it has one.
    - `env_kwargs`: what `gymnasium.make` is given beside the id, plain.
    - `evaluations`: lines of `evaluations.jsonl`; empty: not evaluated, and said so.
    - `training`: sentences on how it was trained. `untrained`: tensors that are zeros.
    - `datasets`: repositories of the hub that the data came from. `license`: of the weights, as the hub abbreviates it.
    """
    beside = ", ".join(f"{name}={value!r}" for name, value in env_kwargs.items())
    made = f'gymnasium.make("{gymnasium_id(env_id)}"{beside and ", "}{beside})' if env_id else "..."
    played = f"{env_id or 'not a Gymnasium one'}{beside and ', with '}{beside}"
    code = _code(name, spec, made, f"{max(targets):g}" if targets else "1000")
    sections = [
        f"# {name.split('/')[-1]}",
        "A [Decision Transformer](https://arxiv.org/abs/2106.01345), written by jaxdt for "
        "`transformers.DecisionTransformerModel`.",
        "## Results\n\n" + _results(evaluations),
        "## How to use it\n\n" + code + _facts(spec, return_scale, played, context_length, targets),
        "## Normalisation\n\n" + _normalization(spec),
        "## Training\n\n" + "\n".join(f"- {sentence}" for sentence in training),
        "## Untrained tensors\n\nThis model has no such weights; they are zeros, and what they predict means nothing: "
        + ", ".join(f"`{tensor}`" for tensor in untrained)
        + ". (`encoder.wpe.weight` adds nothing to a token, as intended.)",
    ]
    header = _header(name.split("/")[-1], env_id, evaluations, datasets, license)
    return header + "\n\n".join(sections) + "\n"


def headline(evaluations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Evaluations, that of the highest target first."""
    return sorted(evaluations, key=lambda evaluation: -evaluation["target"])


def results_json(env_id: str | None, evaluations: Sequence[dict[str, Any]], *, deterministic: bool) -> dict[str, Any]:
    """What the hub's pages of reinforcement learning read as `results.json`: the highest target, then all."""
    first, *_ = ranked = headline(evaluations)
    return {
        "env_id": gymnasium_id(env_id) if env_id else None,
        "mean_reward": float(first["return_mean"]),
        "std_reward": float(first["return_std"]),
        "n_eval_episodes": len(first["returns"]),
        "n_evaluation_episodes": len(first["returns"]),
        "is_deterministic": deterministic,
        "target_return": first["target"],
        "all_targets": [
            {"target_return": e["target"], "mean_reward": e["return_mean"], "std_reward": e["return_std"]}
            for e in ranked
        ],
    }


def _header(
    name: str, env_id: str | None, evaluations: Sequence[dict[str, Any]], datasets: Sequence[str], license: str | None
) -> str:
    """As the hub's pages of reinforcement learning read it: the first metric is the model's score."""
    from huggingface_hub import EvalResult, ModelCardData

    env_id = gymnasium_id(env_id) if env_id else None  # the hub knows no other name

    def result(kind: str, name: str, value: str | float) -> Any:
        where = env_id or "unknown"
        task = "reinforcement-learning"
        return EvalResult(
            task_type=task,
            task_name=task,
            dataset_type=where,
            dataset_name=where,
            metric_type=kind,
            metric_name=name,
            metric_value=value,
        )

    results = []
    for evaluation in headline(evaluations):
        named = f"mean return at target {evaluation['target']:g}" if results else "mean_reward"
        spread = f"{evaluation['return_mean']:.2f} +/- {evaluation['return_std']:.2f}"
        results.append(result("mean_reward", named, spread))
        if len(results) == 1 and evaluation["normalized_mean"] is not None:
            score = round(float(evaluation["normalized_mean"]), 2)
            kind = "d4rl_normalized_score" if game_of(env_id or "") is None else "gamer_normalized_score"
            results.append(result(kind, kind, score))
    tags = ["deep-reinforcement-learning", "reinforcement-learning", "decision-transformer", "offline-rl", "jaxdt"]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="reinforcement-learning",
        tags=([env_id] if env_id else []) + tags,
        datasets=list(datasets) or None,
        license=license,
        **({"model_name": name, "eval_results": results} if results else {}),
    )
    return f"---\n{data.to_yaml()}\n---\n\n"


def _results(evaluations: Sequence[dict[str, Any]]) -> str:
    if not evaluations:
        return "Not evaluated."
    name = score_name(evaluations[0].get("reference"))
    lines = [f"| target return | return, mean ± std over episodes | episodes | {name} |", "|---|---|---|---|"]
    for evaluation in evaluations:
        score = evaluation["normalized_mean"]
        lines.append(
            f"| {evaluation['target']:g} | {evaluation['return_mean']:.1f} ± {evaluation['return_std']:.1f} "
            f"| {len(evaluation['returns'])} | {'-' if score is None else f'{score:.1f}'} |"
        )
    return "\n".join(lines)


def _code(name: str, spec: Spec, made: str, target: str) -> str:
    """`made`: the call that makes the environment."""
    if isinstance(spec.action, Box):
        bounds = '\nlow, high = np.array(known["action_low"]), np.array(known["action_high"])'
        kept, taken = "np.clip(predicted, -1, 1)", "low + (actions[-1] + 1) / 2 * (high - low)"
    else:
        bounds = ""
        kept, taken = "np.eye(len(predicted))[predicted.argmax()]", 'int(predicted.argmax()) + known["first_action"]'
    left = "returns[-1]" if spec.delayed_reward else "returns[-1] - reward"
    return f"""In JAX, with jaxdt:

```python
import gymnasium
import jaxdt

agent = jaxdt.from_huggingface("{name}")
env = {made}
observation, _ = env.reset(seed=0)
agent.reset(target_return={target})
reward, ended, achieved = 0.0, False, 0.0
while not ended:
    observation, reward, terminated, truncated, _ = env.step(agent.act(observation, reward))
    ended, achieved = terminated or truncated, achieved + float(reward)
print(achieved)
```

In PyTorch, where padding, normalisation and returns-to-go are the caller's:

```python
import json
from pathlib import Path

import gymnasium
import numpy as np
import torch
from huggingface_hub import snapshot_download
from transformers import DecisionTransformerModel

folder = Path(snapshot_download("{name}"))
model = DecisionTransformerModel.from_pretrained(folder).eval()
known = json.loads((folder / "normalization.json").read_text())
mean, std, K = np.array(known["state_mean"]), np.array(known["state_std"]), known["context_length"]{bounds}
env = {made}
observation, _ = env.reset(seed=0)
states, actions, returns, ended, achieved = [], [], [{target}], False, 0.0
while not ended:
    states.append((np.ravel(observation) - mean) / std)
    actions.append(np.zeros(model.config.act_dim))  # not chosen yet
    steps = np.minimum(np.arange(len(states)), model.config.max_ep_len - 1)
    n = min(len(states), K)

    def last(rows):  # padded on the left
        return torch.tensor(np.pad(np.reshape(rows[-K:], (n, -1)), ((K - n, 0), (0, 0))), dtype=torch.float32)[None]

    with torch.no_grad():
        predicted = model(
            states=last(states),
            actions=last(actions),
            returns_to_go=last(returns) / known["return_scale"],
            timesteps=last(steps)[..., 0].long(),
            attention_mask=torch.tensor([[0] * (K - n) + [1] * n]),
        ).action_preds[0, -1].numpy()
    actions[-1] = {kept}
    observation, reward, terminated, truncated, _ = env.step({taken})
    returns.append({left})
    ended, achieved = terminated or truncated, achieved + float(reward)
print(achieved)
```

"""


def _facts(spec: Spec, return_scale: float, played: str, context_length: int, targets: Sequence[float]) -> str:
    """`played`: the environment, for people."""
    lines = [
        f"- Environment: {played}.",
        f"- Context: the last {context_length} steps (`K`), padded on the left, `attention_mask` 0 at padding.",
        f"- Returns-to-go are divided by {return_scale:g} before they enter the model"
        + (" and stay as they are while acting (trained on delayed rewards)." if spec.delayed_reward else "."),
        f"- Target returns used: {', '.join(f'{target:g}' for target in targets) or 'none recorded'}.",
        f"- Actions: {_actions(spec)}",
        "- `normalization.json` has all of this for programs.",
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
