"""Episodes as flat arrays with offsets."""

import dataclasses
import hashlib
import operator
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from jaxdt.config.checks import as_json
from jaxdt.data import showing
from jaxdt.data.actions import counted_from_zero, mapped_onto_unit, space_of, unit_of
from jaxdt.data.checks import checked_arrays
from jaxdt.data.returns import delayed_rewards_of, returns_of, returns_to_go_of
from jaxdt.data.statistics import Statistics, constant_columns, statistics_of
from jaxdt.data.storage import MEMORY, TemporaryStorage, chunks
from jaxdt.errors import JaxdtError
from jaxdt.types import Box, Discrete, Spec


FIELDS = ("observations", "actions", "rewards", "terminations", "truncations")
"""The arrays of a store, all of them with a row a step."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EpisodeStore:
    """Episodes end to end: step `i` of episode `e` is row `offsets[e] + i` of every array.

    Make one with `EpisodeStore.from_arrays`, which checks its input, or with `load_episodes`.
    """

    observations: Shaped[np.ndarray, "n *s"]
    actions: Float[np.ndarray, "n a"] | Int[np.ndarray, " n"]
    """float32 vectors, or where actions are discrete one int32 a step."""
    rewards: Float[np.ndarray, " n"]
    terminations: Bool[np.ndarray, " n"]
    """True where the environment ended the episode (a fall, a goal)."""
    truncations: Bool[np.ndarray, " n"]
    """True where the episode was cut off (a time limit)."""
    offsets: Int[np.ndarray, " _"]
    """First row of each episode, then the number of rows; one more number than episodes."""
    env_id: str | None = None
    """Gymnasium id that the episodes were recorded in, where known."""
    env_kwargs: dict[str, Any] | None = None
    """What `gymnasium.make` was given beside, as JSON has it; `max_episode_steps` may be among it."""
    statistics_before_filters: Statistics | None = None
    mapped_in: Path | None = None
    """Directory of the files that the large arrays are mapped from, read-only; None: all lie in memory."""
    as_models_take_them: bool = False
    """Whether actions are in [-1, 1] and counted from 0 (`with_actions_of`), and not the environment's own."""

    @classmethod
    def from_arrays(
        cls,
        observations: Any,
        actions: Any,
        rewards: Any,
        terminations: Any = None,
        truncations: Any = None,
        *,
        episode_ends: Any = None,
        env_id: str | None = None,
        env_kwargs: dict[str, Any] | None = None,
        source: str = "the arrays",
    ) -> "EpisodeStore":
        """Checks and keeps one's own data.

        - `observations` (n, ...): any shape a step; floats are kept as float32, integers as they are.
        - `actions`: (n, a) of continuous actions, kept as float32, or (n,) of an integer dtype of discrete ones,
          kept as int32.
        - `rewards` (n,): kept as float32.
        - `terminations`, `truncations` (n,): booleans.
        - `episode_ends` (e,): row after each episode's last; without it episodes end where a termination or truncation
          is True, and an unfinished one at the end is dropped with a warning. `terminations` alone do not say where
          a time limit came: a warning, or where the last step is no end an error.
        - `env_id`, `env_kwargs`: the environment that they were recorded in, as `gymnasium.make` takes it.
        - `source`: what error messages call the data.

        Raises JaxdtError naming the source, the field and the episode.
        """
        fields, offsets = checked_arrays(
            observations, actions, rewards, terminations, truncations, episode_ends, source=source
        )
        # An episode that ends in the record without a flag was cut off there.
        last = offsets[1:] - 1
        fields["truncations"][last] |= ~fields["terminations"][last]
        return cls(offsets=offsets, env_id=env_id, env_kwargs=as_json(env_kwargs, "env_kwargs") or None, **fields)  # type: ignore[arg-type]

    @classmethod
    def from_episodes(cls, episodes: Iterable[Mapping[str, Any]], *, env_id: str | None = None) -> "EpisodeStore":
        """Checks and keeps episodes given one by one: a dict each, of arrays with a row a step.

        Names and shapes are those of `from_arrays`; `load_episodes` says what else is taken. Raises JaxdtError naming
        the episode and the field.
        """
        from jaxdt.data.objects import episodes_of  # which makes stores

        store = episodes_of(list(episodes))
        return store if env_id is None else dataclasses.replace(store, env_id=env_id)

    def __len__(self) -> int:
        """Number of episodes."""
        return self.num_episodes

    @overload
    def __getitem__(self, index: int) -> dict[str, np.ndarray]: ...
    @overload
    def __getitem__(self, index: slice) -> "EpisodeStore": ...
    def __getitem__(self, index: int | slice) -> "dict[str, np.ndarray] | EpisodeStore":
        """One episode as a dict of arrays, which share the store's memory; of a slice, a store of those episodes."""
        if isinstance(index, slice):
            chosen = np.arange(self.num_episodes)[index]
            if not len(chosen) or (np.diff(chosen) < 0).any():
                raise JaxdtError(f"a slice of episodes must be one or more in their order; got {index}.")
            return self._select(chosen, statistics=self.statistics_before_filters)
        episode = range(self.num_episodes)[operator.index(index)]  # an IndexError where there is none
        rows = slice(self.offsets[episode], self.offsets[episode + 1])
        return {name: getattr(self, name)[rows] for name in FIELDS}

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return (self[episode] for episode in range(self.num_episodes))

    def __repr__(self) -> str:
        return showing.line(self)

    def _repr_html_(self) -> str:
        return showing.table(self)

    @property
    def num_episodes(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_steps(self) -> int:
        return int(self.offsets[-1])

    @property
    def state_dim(self) -> int:
        """Numbers in one observation."""
        return int(np.prod(self.observations.shape[1:]))

    @property
    def is_discrete(self) -> bool:
        """Whether an action is one whole number."""
        return self.actions.ndim == 1

    @property
    def action_dim(self) -> int:
        """Numbers in one continuous action; raises JaxdtError where actions are discrete."""
        if self.is_discrete:
            raise JaxdtError("the data's actions are discrete and have no size; give data of continuous actions.")
        return self.actions.shape[1]

    @cached_property
    def spec(self) -> Spec:
        """What the data say of the environment.

        Each number of an action has the bounds -1 and 1; one that passes them has its lowest and highest.
        """
        shape, dtype = self.observations.shape[1:], self.observations.dtype.name
        return Spec(observation_shape=shape, observation_dtype=dtype, action=space_of(self.actions))

    @property
    def lengths(self) -> Int[np.ndarray, " e"]:
        """Steps of each episode."""
        return np.diff(self.offsets)

    @cached_property
    def returns(self) -> Float[np.ndarray, " e"]:
        """Undiscounted sum of each episode's rewards, float64."""
        return returns_of(self.rewards, self.offsets)

    @cached_property
    def returns_to_go(self) -> Float[np.ndarray, " n"]:
        """Undiscounted sum of rewards from each step to its episode's end, float32, unscaled."""
        return self._like_ours(
            "rewards", self.num_steps, returns_to_go_of(self.rewards, self.offsets), dtype=np.float32
        )

    @cached_property
    def statistics(self) -> Statistics:
        """Mean and standard deviation + 1e-6 of the observations over all steps, before any filter."""
        return self.statistics_before_filters or statistics_of(self.observations)

    @cached_property
    def constant_observations(self) -> Int[np.ndarray, " k"]:
        """Which numbers of an observation never change by more than rounding; none of pictures, or of one step.

        Divided by their deviation + 1e-6, as the original does, they blow up where they change after all.
        """
        if self.num_steps == 1 or self.observations.ndim > 2:
            return np.zeros(0, np.int64)
        return constant_columns(self.statistics)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the data; two stores with the same one hold the same episodes."""
        digest = hashlib.sha256()
        for name in (*FIELDS, "offsets"):
            values = np.ascontiguousarray(getattr(self, name))
            digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
            for chunk in chunks(values):
                digest.update(chunk.view(np.uint8).reshape(-1).data)
        return digest.hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an `.npz` that `load_episodes` reads; the file appears whole or not at all."""
        from jaxdt.data.formats.npz import write_npz  # which makes stores

        write_npz(self, path)

    def best(self, fraction: float, *, of: Literal["steps", "episodes"] = "steps") -> "EpisodeStore":
        """The episodes of highest return, at least one. Statistics stay those of the whole data, but for pictures.

        - `of="steps"`: as many as fit into `fraction` of all steps, taken from the top, ending at the first that does
          not fit. The paper's %BC rule (section 5.1; the original's `pct_traj`).
        - `of="episodes"`: `fraction` of all episodes, rounded down, however long they are. CORL's rule.
        """
        if not 0 < fraction <= 1:
            raise JaxdtError(f"best_fraction must be above 0 and at most 1; got {fraction}.")
        order = np.argsort(self.returns, kind="stable")[::-1]
        if of == "episodes":
            count = int(fraction * self.num_episodes)
        else:
            steps = np.cumsum(self.lengths[order])
            count = int(np.searchsorted(steps, max(int(fraction * self.num_steps), 1), side="right"))
        # Nothing asks for those of pictures, which would all be read for them.
        statistics = self.statistics if self.observations.ndim == 2 else self.statistics_before_filters
        return self._select(np.sort(order[: max(count, 1)]), statistics=statistics)

    def split(self, fraction: float) -> tuple["EpisodeStore", "EpisodeStore"]:
        """Two stores of their own: the other episodes, and `fraction` of all, rounded, drawn at random always alike.

        Each has at least one. Raises JaxdtError for a single episode, and for a fraction that is not between 0 and 1.
        """
        if not 0 < fraction < 1:
            raise JaxdtError(f"validation_fraction must be above 0 and below 1; got {fraction}.")
        if self.num_episodes == 1:
            raise JaxdtError("validation_fraction holds whole episodes out and the data have one; leave it out.")
        drawn = np.random.default_rng(0).permutation(self.num_episodes)
        count = min(max(round(fraction * self.num_episodes), 1), self.num_episodes - 1)
        parts = (np.sort(part) for part in (drawn[count:], drawn[:count]))
        rest, held_out = (self._select(part, statistics=self.statistics_before_filters) for part in parts)
        return rest, held_out

    def with_delayed_rewards(self) -> "EpisodeStore":
        """Each episode's whole return at its last step and nothing before (paper section 5.5)."""
        delayed = delayed_rewards_of(self.returns, self.offsets)
        rewards = self._like_ours("rewards", self.num_steps, delayed)
        return dataclasses.replace(self, rewards=rewards, statistics_before_filters=self.statistics_before_filters)

    def with_actions_of(self, space: Box | Discrete, *, clip: bool = False) -> "EpisodeStore":
        """Actions of an environment as models take them: a Box mapped onto [-1, 1], a Discrete counted from 0.

        Raises JaxdtError when actions are of the other kind or outside the space; `clip` brings those of a Box inside.
        Actions that are so already stay.
        """
        space = unit_of(space) if self.as_models_take_them else space
        if self.is_discrete:
            actions = counted_from_zero(self.actions, space, self.offsets)
        else:
            actions = mapped_onto_unit(self.actions, space, self.offsets, clip=clip)
        if self.as_models_take_them and not clip:
            return self
        actions = self._like_ours("actions", self.num_steps, actions)
        mapped = dataclasses.replace(self, actions=actions, as_models_take_them=True)
        for name in ("returns", "returns_to_go", "statistics"):  # which actions change nothing of
            if name in vars(self):
                vars(mapped)[name] = vars(self)[name]
        return mapped

    def with_observations_of(self, shape: tuple[int, ...]) -> "EpisodeStore":
        """Observations of as many numbers as `shape` in that shape, in the order of C, as Gymnasium flattens them."""
        if self.state_dim != np.prod(shape) or self.observations.shape[1:] == shape:
            return self
        return dataclasses.replace(self, observations=self.observations.reshape(-1, *shape))

    def _select(self, episodes: Int[np.ndarray, " k"], *, statistics: Statistics | None) -> "EpisodeStore":
        """Episodes in their order; `statistics`: None where they are to have their own."""
        kept = np.zeros(self.num_episodes, bool)
        kept[episodes] = True
        steps = int(self.lengths[kept].sum())

        def selected(name: str) -> np.ndarray:
            return self._like_ours(name, steps, self._parts(name, kept))

        return dataclasses.replace(
            self,
            observations=selected("observations"),
            actions=selected("actions"),
            rewards=selected("rewards"),
            terminations=selected("terminations"),
            truncations=selected("truncations"),
            offsets=np.concatenate([[0], np.cumsum(self.lengths[episodes])]),
            statistics_before_filters=statistics,
        )

    def _parts(self, name: str, kept: Bool[np.ndarray, " episodes"]) -> Iterator[np.ndarray]:
        """The steps of some episodes, without a list of them all, which would take 8 bytes a step."""
        start = 0
        for chunk in chunks(getattr(self, name)):
            stop = start + len(chunk)
            first, last = np.searchsorted(self.offsets, start, "right") - 1, np.searchsorted(self.offsets, stop)
            inside = np.diff(np.clip(self.offsets[first : last + 1], start, stop))
            yield chunk[np.repeat(kept[first:last], inside)]
            start = stop

    def _like_ours(self, name: str, steps: int, parts: Iterable[np.ndarray], *, dtype: Any = None) -> np.ndarray:
        """An array like ours of other numbers, in memory or on the disk as ours is."""
        ours = getattr(self, name)
        storage = MEMORY if self.mapped_in is None else TemporaryStorage(self.mapped_in.parent)
        writer = storage.array_writer(name, (steps, *ours.shape[1:]), dtype or ours.dtype)
        for part in parts:
            writer.append(part)
        return writer.done()
