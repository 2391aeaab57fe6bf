"""The Trajectory Transformer's weights of others as an Agent: with the edges of bins that no checkpoint has."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdt.algorithms.trajectory_transformer import edges_of
from jaxdt.config import TrainConfig
from jaxdt.config.shared import d4rl_set
from jaxdt.config.trajectory_transformer import row_size
from jaxdt.data.d4rl import ENVIRONMENTS, d4rl_env_id
from jaxdt.data.episodes import FIELDS, EpisodeStore
from jaxdt.data.loading import load_episodes
from jaxdt.errors import JaxdtError
from jaxdt.evaluation.environments import make_environment
from jaxdt.interop.tensors import Tensors
from jaxdt.interop.trajectory import ImportedTrajectory, read_edges, task_of, trajectory_from_tensors
from jaxdt.progress import Progress
from jaxdt.run.agent import Agent
from jaxdt.types import Box, Spec


def trajectory_agent(
    tensors: Tensors,
    source: str,
    *,
    env: str | None,
    discretizer: str | None,
    dataset: str | None,
    action_dim: int | None,
    num_heads: int | None,
    progress: Progress,
) -> Agent:
    """An agent of weights of others.

    - `discretizer`: an `.npz` with `edges` (bins + 1, numbers of a transition), or `dataset`: the episodes that the
      weights were trained on, from which they are computed by the authors' rules.
    - `env`: to act and be evaluated in; default: the one that D4RL's name in `source` or `dataset` says; `none`:
      none. `action_dim`: numbers of an action, where neither environment nor dataset tells.

    The authors execute the middle of an action's bin as it is, so an environment's actions must lie in [-1, 1]. Raises
    JaxdtError naming what is missing or does not fit.
    """
    imported = trajectory_from_tensors(tensors, num_heads, source)
    named = task_of(source) or d4rl_set(dataset) or None
    if (discretizer is None) == (dataset is None):
        raise JaxdtError(
            f"{source} has no edges of bins, and its weights mean nothing without; give --discretizer EDGES.npz "
            "(edges), or --dataset with the very episodes that it was trained on, and not both."
        )
    if env is None and named is not None:
        env = d4rl_env_id(f"{named}-v2", ENVIRONMENTS[named.split("-")[0]].observation_size or 0)
    store = None if dataset is None else load_episodes(dataset, progress=progress)
    if store is not None and not store.is_discrete and action_dim is None:
        action_dim = store.action_dim
    action = _action(imported, env, named, action_dim)
    observation = imported.row - 2 - len(action.low)
    if store is None:
        assert discretizer is not None
        edges = read_edges(Path(discretizer).expanduser())
    else:
        edges = _fitted(imported, store, observation, len(action.low))
    if edges.shape != (imported.config.bins + 1, imported.row):
        raise JaxdtError(
            f"edges must have the shape {(imported.config.bins + 1, imported.row)} for {source}; got {edges.shape}."
        )
    steps = TrainConfig().steps  # which a run that trains on chooses anew
    assert steps is not None
    planned_as = None if named is None else f"{named}-v2"
    config = dataclasses.replace(imported.config.for_data(planned_as), token_schedule=False).for_steps(steps)
    spec = Spec(
        observation_shape=(observation,),
        action=action,
        constants={"edges": edges, "windows": np.ones((), np.float32)},
    )
    params = jax.tree.map(jnp.asarray, imported.params)
    return Agent(config, params, spec, env_id=None if env == "none" else env)


def _action(imported: ImportedTrajectory, env: str | None, named: str | None, action_dim: int | None) -> Box:
    """The environment's, which must have as many numbers in a transition; else of that size."""
    if env is not None and env != "none":
        made = make_environment(env)
        spec = made.spec
        made.close()
        if not isinstance(spec.action, Box) or row_size(spec) != imported.row:
            raise JaxdtError(
                f"the weights are of transitions of {imported.row} numbers (observation, action, reward, value), "
                f"and {env} has observations {spec.observation_shape} and actions {spec.action_shape}."
            )
        if not all((np.abs(bound) == 1).all() for bound in spec.action):
            raise JaxdtError(
                f"the weights' actions are executed as they are, in [-1, 1], and those of {env} have other bounds; "
                "give an environment of such actions (gymnasium.wrappers.RescaleAction)."
            )
        return spec.action
    if action_dim is None and named is not None:
        action_dim = imported.row - 2 - (ENVIRONMENTS[named.split("-")[0]].observation_size or 0)
    if action_dim is None or not 1 <= action_dim < imported.row - 2:
        got = "none" if action_dim is None else action_dim
        raise JaxdtError(
            f"of the {imported.row} numbers of a transition it is not known how many are the action's; give --env, or "
            f"--action-dim between 1 and {imported.row - 3} (got {got})."
        )
    return Box(-np.ones(action_dim, np.float32), np.ones(action_dim, np.float32))


def _fitted(imported: ImportedTrajectory, store: EpisodeStore, observation: int, actions: int) -> Any:
    """By the authors' rules: without the data's last row, and of an Ant's 111 numbers the first 27."""
    if store.is_discrete or store.action_dim != actions:
        raise JaxdtError(f"the weights are of actions of {actions} numbers; those of the dataset are others.")
    seen = store.observations.reshape(store.num_steps, -1)
    if seen.shape[1] == 111 and observation == 27:  # an Ant without what touches it
        seen = seen[:, :27]
    if seen.shape[1] != observation:
        raise JaxdtError(
            f"the weights are of observations of {observation} numbers; those of the dataset have {seen.shape[1]}."
        )
    columns: dict[str, Any] = {name: getattr(store, name)[:-1] for name in FIELDS} | {"observations": seen[:-1]}
    ends = np.minimum(store.offsets[1:], store.num_steps - 1)
    whole = EpisodeStore.from_arrays(**columns, episode_ends=np.unique(ends))
    return edges_of(imported.config, whole)
