"""Weights of others as an Agent or a run directory."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdt.algorithms.temperature import with_temperature
from jaxdt.checkpoint import CheckpointWriter
from jaxdt.choice import EnvironmentChoice
from jaxdt.config import AlgorithmConfig, DecisionTransformerConfig, ModelConfig, OnlineDTConfig, TrainConfig
from jaxdt.data.d4rl import paper_targets
from jaxdt.data.loading import load_episodes
from jaxdt.errors import JaxdtError
from jaxdt.evaluation.environments import make_environment
from jaxdt.files import check_is_free, directory_atomically
from jaxdt.games import GREY_PICTURE
from jaxdt.interop.atari import atari_from_tensors, is_atari
from jaxdt.interop.names import discrete_params
from jaxdt.interop.source import Imported, PartialSpec, read_json, read_model, read_partial_spec, read_weights
from jaxdt.interop.tensors import Tensors
from jaxdt.interop.trajectory import is_trajectory
from jaxdt.progress import Progress
from jaxdt.run.agent import Agent
from jaxdt.run.directory import RunDirectory, RunRecord, describe_making, write_record
from jaxdt.run.fit import check_fit
from jaxdt.run.importing_trajectory import trajectory_agent
from jaxdt.simulator import with_version
from jaxdt.types import Box, Discrete, Environment, Spec


def from_huggingface(
    path: str | os.PathLike[str],
    *,
    state_mean: Any = None,
    state_std: Any = None,
    return_scale: float | None = None,
    env_id: str | None = None,
    targets: Sequence[float] | None = None,
    context_length: int | None = None,
    num_heads: int | None = None,
) -> Agent:
    """An agent from a Hugging Face `DecisionTransformerModel` or the original's or online-dt's state dict.

    - `path`: a directory with `config.json` and `model.safetensors` or `pytorch_model.bin`, a hub name, or the
      original's `.pt` (then `num_heads` must be given: its file does not tell).
    - `state_mean`, `state_std` (s,) of the training observations; `return_scale`: what returns were divided by
      (default 1000). Known for Hugging Face's nine checkpoints and for what `to_huggingface` wrote.
    - `env_id`, `targets`: what `evaluate` takes by default. `context_length`: default 20.

    Its actions are the environment's own: these models do not rescale them. Raises JaxdtError naming the field,
    tensor or statistic that is wrong or missing. The row `wpe[0]` that Hugging Face adds to every token is
    folded into the embedding's LayerNorm exactly; untrained heads are left out.
    """
    numbers = {"state_mean": state_mean, "state_std": state_std, "return_scale": return_scale, "targets": targets}
    given = _flat(read_partial_spec({**numbers, "context_length": context_length}, "the arguments"))
    file = read_weights(os.fspath(path))
    if is_atari(file.tensors) or is_trajectory(file.tensors):
        raise JaxdtError(f"{path} is another model, which import_run (jaxdt import) reads.")
    imported = read_model(os.fspath(path), context_length, num_heads, file=file)
    return _agent(imported, given._replace(env_id=env_id), os.fspath(path))


def import_run(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    stats: str | None = None,
    env: str | None = None,
    return_scale: float | None = None,
    targets: Sequence[float] | None = None,
    context_length: int | None = None,
    num_heads: int | None = None,
    discretizer: str | None = None,
    dataset: str | None = None,
    action_dim: int | None = None,
    progress: Progress | None = None,
    command: list[str] | None = None,
) -> Path:
    """A run directory from the same sources as `from_huggingface`, ready to evaluate, to act and to train on.

    - `stats`: a `.json` file with `state_mean` and `state_std`, or episodes to compute them from (a spec of
      `load_episodes`).
    - Of a Trajectory Transformer (the original's `state_*.pt`, or the hub's copies): `discretizer`, an `.npz` with the
      `edges` of bins (bins + 1, numbers of a transition), or `dataset`, the episodes to compute them from; `env` may
      be `none`, and `action_dim` then says how many numbers an action has.

    Raises JaxdtError before anything is written; the directory appears whole.
    """
    source, progress = os.fspath(source), progress or Progress()
    run = RunDirectory(out)
    check_is_free(run.path)
    made = None
    if env not in (None, "none"):
        env = with_version(env)
        made = make_environment(env)  # or it says what is wrong with that id
        made.close()
    file = read_weights(source)
    if is_trajectory(file.tensors):
        refuse_given(
            {"stats": stats, "return_scale": return_scale, "targets": targets, "context_length": context_length},
            f"{source} is a Trajectory Transformer, which takes none",
        )
        agent = trajectory_agent(
            file.tensors,
            source,
            env=env,
            discretizer=discretizer,
            dataset=dataset,
            action_dim=action_dim,
            num_heads=num_heads,
            progress=progress,
        )
        return _write(run, agent, source, [], command)
    refuse_given(
        {"discretizer": discretizer, "dataset": dataset, "action_dim": action_dim},
        f"{source} is no Trajectory Transformer, which alone takes one",
    )
    if is_atari(file.tensors):
        refuse_given(
            {"stats": stats, "return_scale": return_scale, "context_length": context_length},
            f"{source} is a Decision Transformer for Atari, which takes none",
        )
        agent, dropped = _atari_agent(file.tensors, source, env=env, targets=targets, num_heads=num_heads)
        _check_plays_in(made, agent, source)
        return _write(run, agent, source, dropped, command)
    numbers = {"return_scale": return_scale, "targets": targets, "context_length": context_length}
    options = read_partial_spec(numbers, "the arguments")._replace(env_id=env)
    imported = read_model(source, context_length, num_heads, file=file)
    given = _given_statistics(stats, progress)
    if imported.known.targets:
        given = given._replace(targets=None)  # quantiles are for those that nobody knows
    given = given._replace(**_not_none(**options._asdict()))
    agent = _agent(imported, given, source)
    _check_plays_in(made, agent, source)
    if imported.dropped:
        progress.say(f"left out, as never trained: {', '.join(imported.dropped)}")
    return _write(run, agent, source, imported.dropped, command)


def _check_plays_in(environment: Environment | None, agent: Agent, source: str) -> None:
    """Raises JaxdtError for weights of another environment than the one that is named, if any is."""
    if environment is None:
        return
    try:
        check_fit(environment.spec, environment.name, agent.spec, f"the weights {source}")
    except JaxdtError as error:
        misfit, _, _ = str(error).partition(";")
        raise JaxdtError(
            f"{misfit}; give theirs, or env='none' (--env none) and theirs with its keyword arguments where they play."
        ) from error


def _atari_agent(
    tensors: Tensors, source: str, *, env: str | None, targets: Sequence[float] | None, num_heads: int | None
) -> tuple[Agent, list[str]]:
    """The agent, and the names of the tensors that were left out."""
    imported = atari_from_tensors(tensors, num_heads, source)
    steps = TrainConfig().steps  # which a run that trains on chooses anew
    assert steps is not None
    spec = Spec(
        observation_shape=GREY_PICTURE,
        observation_dtype="uint8",
        action=Discrete(imported.num_actions),
        constants={"longest_episode": np.float32(imported.last_timestep), "windows": np.zeros((), np.float32)},
    )
    asked = tuple(targets or (paper_targets(env) if env not in (None, "none") else None) or ())
    params = jax.tree.map(jnp.asarray, imported.params)
    env_id = None if env == "none" else env
    return Agent(imported.config.for_steps(steps), params, spec, env_id=env_id, targets=asked), imported.dropped


def refuse_given(options: dict[str, Any], why: str) -> None:
    """Raises JaxdtError where one of them is not None."""
    for name, value in options.items():
        if value is not None:
            raise JaxdtError(f"{why}; leave {name}={value!r:.80} out.")


def _write(run: RunDirectory, agent: Agent, source: str, dropped: list[str], command: list[str] | None) -> Path:
    targets = [target for target in agent.targets if target is not None]
    config = TrainConfig(
        preset="imported",
        env=agent.env_id or "none",
        env_kwargs=None if agent.environment.kwargs is None else dict(agent.environment.kwargs),
        max_episode_steps=agent.environment.max_episode_steps,
        targets=tuple(targets) or None,
        delayed_reward=agent.spec.delayed_reward,
        algorithm=agent.config,
    )
    data = {"imported_from": source, "left_out": dropped}
    record = RunRecord(config=config, spec=agent.spec, data=data, made_with=describe_making(command))
    with directory_atomically(run.path) as temporary:
        write_record(RunDirectory(temporary), record)
        writer = CheckpointWriter(RunDirectory(temporary).checkpoints)
        writer.save(0, params=agent.params, metadata={}, score=None)
    return run.path


def _given_statistics(stats: str | None, progress: Progress) -> PartialSpec:
    if stats is None:
        return PartialSpec()
    if stats.endswith(".json"):
        known = read_partial_spec(read_json(Path(stats).expanduser()), stats)
        if known.state_mean is None or known.state_std is None:
            raise JaxdtError(f"{stats} must hold state_mean and state_std, one number for each of the observation's.")
        return _flat(known)
    store = load_episodes(stats, progress=progress)
    mean, std = store.statistics
    quantiles = tuple(float(target) for target in np.quantile(store.returns, TrainConfig().target_quantiles))
    return PartialSpec(state_mean=mean, state_std=std, env_id=store.env_id, targets=quantiles)


def _agent(imported: Imported, given: PartialSpec, source: str) -> Agent:
    """What is given wins over what is known of the source."""
    known = imported.known._replace(**_not_none(**given._asdict()))
    config = imported.config
    if known.state_mean is None or known.state_std is None:
        raise JaxdtError(
            f"the normalisation of {source} is not known, and its weights mean nothing without it; give the mean and "
            "standard deviation of the training observations with --stats FILE.json (state_mean, state_std), or "
            "--stats DATASET to compute them (in Python: state_mean=, state_std=)."
        )
    for name in ("state_mean", "state_std"):
        values = getattr(known, name)
        if values.size != config.state_dim or not np.isfinite(values).all():
            raise JaxdtError(
                f"{name} must be {config.state_dim} finite numbers, as the state of {source}; got {values.size}."
            )
    if not (known.state_std > 0).all():
        raise JaxdtError("state_std must be above 0 everywhere; the original adds 1e-6 to it.")
    spec, params = _spec(known, config), imported.params
    if isinstance(spec.action, Discrete):
        params = discrete_params(params)
    model = dataclasses.replace(config, state_dim=None, action_dim=None)  # the spec has them
    params = jax.tree.map(jnp.asarray, params)
    scale = known.return_scale or 1000.0
    algorithm: AlgorithmConfig = DecisionTransformerConfig(return_scale=scale, model=model)
    if imported.online:
        algorithm = OnlineDTConfig(return_scale=scale, model=model).for_data(known.env_id)
        params = with_temperature(params)
    made_with = known.env_kwargs if known.env_id == imported.known.env_id else None
    environment = EnvironmentChoice.of_file(known.env_id, made_with)
    return Agent(algorithm, params, spec, env_id=known.env_id, targets=known.targets, environment=environment)


def _spec(known: PartialSpec, config: ModelConfig) -> Spec:
    assert known.state_mean is not None
    assert known.state_std is not None
    assert config.action_dim is not None
    if known.num_actions is not None:
        action: Box | Discrete = Discrete(known.num_actions, known.first_action or 0)
    else:
        ones = np.ones(config.action_dim, np.float32)
        action = Box(
            -ones if known.action_low is None else known.action_low,
            ones if known.action_high is None else known.action_high,
        )
    return Spec(
        observation_shape=known.state_mean.shape,
        action=action,
        constants={"state_mean": known.state_mean, "state_std": known.state_std},
        delayed_reward=bool(known.delayed_reward),
    )


def _flat(given: PartialSpec) -> PartialSpec:
    """Statistics that a person wrote are of vectors, however they are nested."""
    statistics = {"state_mean": given.state_mean, "state_std": given.state_std}
    return given._replace(**{k: v.reshape(-1) for k, v in statistics.items() if v is not None})


def _not_none(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
