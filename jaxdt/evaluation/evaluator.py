"""Playing batches of episodes with a policy, and what comes of them."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding
from jaxtyping import PyTree

from jaxdt.data.d4rl import normalized_score, reference_name
from jaxdt.errors import SimulationError
from jaxdt.evaluation.rollout import FAILURES, Episodes, make_rollout
from jaxdt.evaluation.turns import Half, InTurns, halves_of, joined
from jaxdt.parallel import over_devices
from jaxdt.progress import Progress
from jaxdt.stacking import policy_of_seeds
from jaxdt.types import Environment, Evaluation, Evaluations, HostEnvironment, Policy


class Evaluator:
    """Plays batches of episodes of a policy in an environment; compiles once for each number of episodes.

    Two halves that take turns (`turns.py`) compile once each.

    - `training_seeds`: of the models that play side by side, whose params are stacked; (): one model, not stacked.
    - `parallel`: most episodes that are played at once, of one model; None: all of all models.
    - `record`: keep every step. `progress` may be replaced at any time.
    - `devices`: that share out the episodes of an environment on the device, as many as divide the number of every
      batch, and each hold all weights; (): JAX's first alone.
    """

    def __init__(
        self,
        policy: Policy,
        environment: Environment,
        *,
        training_seeds: Sequence[int] = (),
        parallel: int | None = None,
        record: bool = False,
        progress: Progress | None = None,
        devices: Sequence[Any] = (),
    ):
        self.environment = environment
        self.progress = progress or Progress()
        self._training_seeds, self._parallel = training_seeds, parallel
        self._devices = devices if environment.on_device else ()
        if training_seeds and parallel is None:
            policy = policy_of_seeds(policy, len(training_seeds))
        self._make_rollout = partial(make_rollout, policy, record=record)
        self._rollout = self._make_rollout(environment)
        self._in_turns: InTurns | None = None

    def run_episodes(self, params: PyTree, targets: Sequence[float | None], episodes: int, seed: int) -> Episodes:
        """Every target's `episodes` in one batch, target by target; episode `j` starts from `seed + j`.

        Of several models all targets of the first come first, from the same environment seeds. Actions
        that are drawn depend on the episode's seed alone. Raises SimulationError naming the first step at which an
        episode could not go on.
        """
        models = len(self._training_seeds) or 1
        seeds = np.tile(np.arange(seed, seed + episodes, dtype=np.int32), models * len(targets))
        wanted = np.tile(np.repeat(np.array([target or 0 for target in targets], np.float32), episodes), models)

        def name(i: int) -> str:
            model, episode = divmod(i, len(targets) * episodes)
            target = targets[episode // episodes]
            trained = f"seed {self._training_seeds[model]}, " if self._training_seeds else ""
            return f"{trained}{'' if target is None else f'target {target:g}, '}episode {episode % episodes}"

        batch = f"evaluate {f'{models} seeds x ' if models > 1 else ''}{len(targets)} targets x {episodes} episodes"
        if self._parallel is None:
            params, rows = self._placed(params, [len(seeds)])
            return self._play(batch, params, seeds, wanted, rows, name)
        parts, each = [], len(seeds) // models
        firsts = [m * each + i for m in range(models) for i in range(0, each, self._parallel)]
        spans = [slice(first, min(first + self._parallel, (first // each + 1) * each)) for first in firsts]
        params, rows = self._placed(params, [span.stop - span.start for span in spans])
        for span in spans:
            title = f"{batch}, {span.start + 1} to {span.stop} of {len(seeds)}"
            chosen = jax.tree.map(itemgetter(span.start // each), params) if self._training_seeds else params
            played = self._play(
                title, chosen, seeds[span], wanted[span], rows, lambda i, span=span: name(span.start + i)
            )
            parts.append(played)
        return joined(parts)

    def _placed(self, params: PyTree, batches: Sequence[int]) -> tuple[PyTree, Sharding | None]:
        """The params where batches of so many episodes are played, and where their rows go; None: where they are."""
        count = max((n for n in range(1, len(self._devices) + 1) if all(b % n == 0 for b in batches)), default=1)
        if count == 1:
            return params, None
        whole, rows = over_devices(self._devices[:count])
        return jax.device_put(params, whole), rows

    def _turns_of(self, count: int) -> tuple[InTurns, list[Half]] | None:
        """What plays a batch of so many episodes in turns, and its halves; None: it is played as a whole."""
        models, environment = 1 if self._parallel else len(self._training_seeds) or 1, self.environment
        halves = halves_of(count, models)
        if halves is None or not isinstance(environment, HostEnvironment):
            return None
        other = environment.another(count // 2)
        if other is None:
            return None
        self._in_turns = self._in_turns or InTurns((environment, other), (self._rollout, self._make_rollout(other)))
        return self._in_turns, halves

    def _play(
        self,
        title: str,
        params: PyTree,
        seeds: np.ndarray,
        wanted: np.ndarray,
        rows: Sharding | None,
        name: Callable[[int], str],
    ) -> Episodes:
        """One batch; `name` names its episodes."""
        environment = self.environment
        environment.on_step = lambda step: self.progress.advance(step)  # another Evaluator may have played in it
        self.progress.start(title, environment.max_episode_steps, "step")
        try:
            if turns := self._turns_of(len(seeds)):
                in_turns, halves = turns
                played = in_turns(params, seeds, wanted, halves)
                parts = list(zip(in_turns.environments, halves, strict=True))
            else:
                _set_stopped(environment, False)
                played = jax.block_until_ready(self._rollout(params, *jax.device_put((seeds, wanted), rows)))
                parts = [(environment, np.arange(len(seeds)))]
        except jax.errors.JaxRuntimeError as error:  # a callback in the environment raised, or memory ran out
            lines = str(error).splitlines() or [""]
            reason = lines[-1] if "Traceback" in str(error) else lines[0]
            raise SimulationError(f"{environment.name} could not be played: {reason}") from error
        except BaseException:  # an interrupted program may be playing on, in a thread of JAX's
            _set_stopped(environment, True)
            raise
        finally:
            self.progress.stop()
        for part, episodes in sorted(parts, key=_failed_at):
            part.raise_failure(lambda i, episodes=episodes: name(int(episodes[i])))
        failed = np.flatnonzero(played.failures)
        if len(failed):
            last = np.maximum(np.asarray(played.lengths)[failed] - 1, 0)
            i, step = int(failed[np.argmin(last)]), last.min()
            raise SimulationError(f"{environment.name}, {name(i)}, step {step}: {FAILURES[played.failures[i]]}.")
        return played._replace(succeeded=getattr(environment, "succeeded", None))

    def evaluate(self, params: PyTree, targets: Sequence[float | None], episodes: int, seed: int) -> list[Evaluations]:
        """Of each model one Evaluation a target, in the order given; one model where there are no training seeds."""
        return self.summarize(self.run_episodes(params, targets, episodes, seed), targets, episodes)

    def summarize(self, played: Episodes, targets: Sequence[float | None], episodes: int) -> list[Evaluations]:
        """What `evaluate` returns, of what `run_episodes` did."""
        returns = np.asarray(played.returns, np.float64).reshape(-1, len(targets), episodes)
        lengths = np.asarray(played.lengths).reshape(-1, len(targets), episodes)
        succeeded = None
        if played.succeeded is not None and getattr(self.environment, "says_success", False):
            succeeded = np.asarray(played.succeeded).reshape(-1, len(targets), episodes)
        env_id, kwargs = self.environment.env_id, getattr(self.environment, "env_kwargs", None)
        return [
            Evaluations(
                Evaluation(
                    target=None if target is None else float(target),
                    returns=returns[model, i],
                    lengths=lengths[model, i],
                    normalized=normalized_score(env_id, returns[model, i], kwargs),
                    reference=reference_name(env_id),
                    succeeded=None if succeeded is None else succeeded[model, i],
                )
                for i, target in enumerate(targets)
            )
            for model in range(len(returns))
        ]

    def close(self) -> None:
        self.environment.close()


def _set_stopped(environment: Environment, stopped: bool) -> None:
    if isinstance(environment, HostEnvironment):
        environment.stopped = stopped


def _failed_at(part: tuple[Environment, Half]) -> float:
    at = part[0].failed_at if isinstance(part[0], HostEnvironment) else None
    return math.inf if at is None else float(at)
