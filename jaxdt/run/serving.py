"""A run or an Agent as a file that programs without jaxdt act with."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxdt import __version__
from jaxdt.checkpoint import Which
from jaxdt.errors import JaxdtError
from jaxdt.files import check_is_free, directory_atomically
from jaxdt.interop import serving
from jaxdt.run.agent import Agent, agent_of


def to_stablehlo(
    run: str | os.PathLike[str] | Agent, out: str | os.PathLike[str], *, checkpoint: Which = "latest", **acting: Any
) -> Path:
    """Writes `policy.stablehlo`, which jax alone loads on CPUs, CUDA GPUs and TPUs; returns `out`.

    The whole acting step is inside, for any number of episodes side by side: observation (b, *s) and reward (b,) of the
    last action in the environment's own units, and a dict of arrays that it remembers, give the new dict and the action
    (b, *a) inside the space. `policy.json` says how the dict begins; `README.md` has the ten lines that load and act.

    - `acting`: options of the run's algorithm, such as `context="cached"`; default: the run's.

    Needs flatbuffers (extra `serve`). Raises JaxdtError where `out` is not empty or the policy draws its actions.
    """
    return _write(run, out, checkpoint, acting, "stablehlo", serving.to_stablehlo)


def to_onnx(
    run: str | os.PathLike[str] | Agent, out: str | os.PathLike[str], *, checkpoint: Which = "latest", **acting: Any
) -> Path:
    """Writes `policy.onnx`, which ONNX Runtime loads, of opset 18; otherwise as `to_stablehlo`.

    Needs onnx (extra `onnx`). Raises JaxdtError also for a model of which an operation has no translation, by its name.
    """
    return _write(run, out, checkpoint, acting, "onnx", serving.to_onnx)


def _write(
    run: str | os.PathLike[str] | Agent,
    out: str | os.PathLike[str],
    checkpoint: Which,
    acting: dict[str, Any],
    kind: str,
    convert: Callable[..., bytes],
) -> Path:
    out = Path(out)
    check_is_free(out)
    agent = agent_of(run, checkpoint, **acting).acting_with(**acting)
    if agent.config.draws_actions:
        raise JaxdtError(
            "an exported policy draws nothing at random; give it sampling='greedy' (--sampling greedy), or of one that "
            "plans, from Python, action_top_k=1 and observation_top_k=1."
        )
    arrays, step = serving.acting_step(agent.policy, agent.params)
    content = convert(step, arrays, agent.spec)
    with directory_atomically(out) as temporary:
        (temporary / f"policy.{kind}").write_bytes(content)
        description = json.dumps(_describe(agent, kind, arrays), indent=1, allow_nan=False)
        (temporary / "policy.json").write_text(f"{description}\n", encoding="utf-8")
        (temporary / "README.md").write_text(_readme(kind), encoding="utf-8")
    return out


def _describe(agent: Agent, kind: str, arrays: list[serving.StateArray]) -> dict[str, Any]:
    spec = agent.spec
    return {
        "file": f"policy.{kind}",
        "method": agent.config.summary,
        "env_id": agent.env_id,
        "target": max((target for target in agent.targets if target is not None), default=None),
        "observation": {"shape": ["b", *spec.observation_shape], "dtype": spec.observation_dtype},
        "action": {"shape": ["b", *spec.action_shape], "dtype": spec.action_dtype, **spec.to_json()["action"]},
        "state": [array.to_json() for array in arrays],
        "versions": {"jaxdt": __version__, "jax": jax.__version__},
    }


_LOADING = {
    "stablehlo": """import jax
from jax import export

step = jax.jit(export.deserialize(bytearray(open("policy.stablehlo", "rb").read())).call)""",
    "onnx": """import onnxruntime

session = onnxruntime.InferenceSession("policy.onnx")


def step(state, observation, reward):
    inputs = {"observation": observation, "reward": reward, **{f"state.{name}": state[name] for name in state}}
    action, *new = session.run(None, inputs)
    return dict(zip(state, new)), action""",
}


def _readme(kind: str) -> str:
    needs = {"stablehlo": "jax", "onnx": "onnxruntime"}[kind]
    return f"""# A policy to act with

`policy.{kind}` is the whole acting step: normalisation, target return and action bounds are inside. It needs NumPy and
{needs} alone:

```python
import json

import numpy as np
{_LOADING[kind]}


policy = json.load(open("policy.json"))


def begin(target, episodes=1):
    return {{
        array["name"]: np.full(
            [episodes if size == "b" else size for size in array["shape"]],
            array["first"] + array["per_target"] * target,
            array["dtype"],
        )
        for array in policy["state"]
    }}


state = begin(policy["target"] or 0.0)  # a return to be reached, in the environment's reward units
observation, reward = np.zeros(policy["observation"]["shape"][1:], policy["observation"]["dtype"]), 0.0
state, action = step(state, observation[None], np.array([reward], np.float32))  # reward: what the last action earned
```

Arrays have the episodes that are played side by side as their first axis, as many as you like (`b` in `policy.json`).
A state array without it, such as the number of the step, is one for all: episodes side by side begin together.
"""
