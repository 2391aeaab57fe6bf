"""Episodes that lie in memory: lists of dicts, dicts of arrays, data frames."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.fields import (
    FLAGS,
    SYNONYMS,
    field_names,
    flags_of,
    flat_episodes,
    holds_last_observation,
    one_episode,
    warn_of_last_observations,
    warn_of_unused_cut,
    without_last_observations,
)
from jaxdt.data.formats.rows import load_table
from jaxdt.data.formats.text import table_file
from jaxdt.data.joining import join_episodes
from jaxdt.data.storage import MEMORY
from jaxdt.errors import JaxdtError, one_line


_SOURCE = "the episodes"
_EXAMPLE = (
    "give a list of dicts, one an episode, each {'observations': (t, s), 'actions': (t, a), 'rewards': (t,), "
    "'terminations': (t,)}; a dict of such arrays end to end with 'episode_ends'; a DataFrame with a step a row and a "
    "column 'episode'; a datasets.Dataset; or the path of a file"
)


def episodes_of(data: Any, *, cut_after: int | None = None) -> EpisodeStore:
    """Episodes of what a program has; names of fields may be those of `fields.SYNONYMS` and `fields.ENDINGS`.

    - A list of dicts, an episode each: arrays of its steps. The observations may have one row more, the last one, and
      be a dict of arrays, which then follow one another in the order of their names. A flag may be one of the whole
      episode.
    - A dict of flat arrays, as `EpisodeStore.from_arrays` takes.
    - A DataFrame of pandas or polars, a table of pyarrow or a Dataset of `datasets` (of a DatasetDict, `train`): a step
      a row, or an episode a row with lists of its steps.

    Raises JaxdtError naming the episode and the field, with an example of what is taken.
    """
    if isinstance(data, EpisodeStore):
        warn_of_unused_cut(cut_after, _SOURCE)
        return data
    if isinstance(data, Mapping) and "train" in data and not isinstance(data["train"], np.ndarray):
        data = data["train"]
    if isinstance(data, Mapping):
        return _of_mapping(data, cut_after)
    if hasattr(data, "column_names") and hasattr(data, "with_format"):
        if not hasattr(data, "__len__"):
            raise JaxdtError(
                f"{_SOURCE} are streamed, so that their rows are not here; load the dataset without streaming=True, or "
                "name it: hf:OWNER/NAME/CONFIG."
            )
        return _of_table(data.with_format("arrow")[:], cut_after)  # with the order and choice of rows
    if isinstance(data, list | tuple) and data and all(isinstance(entry, Mapping) for entry in data):
        return _of_list(data, cut_after)
    if hasattr(data, "__arrow_c_stream__") or hasattr(data, "to_arrow") or hasattr(data, "iterrows"):
        return _of_frame(data, cut_after)
    shown = f"an empty {type(data).__name__}" if isinstance(data, Sequence) and not data else _describe(data)
    raise JaxdtError(f"{shown} is no dataset; {_EXAMPLE}.")


def _describe(data: Any) -> str:
    if isinstance(data, list | tuple):
        return f"a {type(data).__name__} of {type(data[0]).__name__}"
    return f"an object of type {type(data).__module__.split('.')[0]}.{type(data).__name__}".replace("builtins.", "")


def _of_frame(data: Any, cut_after: int | None) -> EpisodeStore:
    import pyarrow

    try:
        table = data.to_arrow() if hasattr(data, "to_arrow") else pyarrow.table(data)
    except (pyarrow.ArrowException, TypeError, ValueError) as error:  # cells that hold arrays of two dimensions
        if hasattr(data, "to_dict"):
            return _of_list(data.to_dict("records"), cut_after)
        raise JaxdtError(f"{_SOURCE} cannot be read as a table: {one_line(error, 200)}; {_EXAMPLE}.") from error
    return _of_table(table, cut_after)


def _of_table(table: Any, cut_after: int | None) -> EpisodeStore:
    return load_table([table_file(table, _SOURCE)], _SOURCE, MEMORY, cut_after)


def _of_mapping(data: Mapping[str, Any], cut_after: int | None) -> EpisodeStore:
    names = _checked_names(data, _SOURCE)
    for theirs in names.values():
        if not hasattr(data[theirs], "__len__") or not getattr(data[theirs], "ndim", 1):
            raise JaxdtError(f"{_SOURCE}: {theirs} must have a row a step; got a single value ({_EXAMPLE}).")
    if _is_of_episodes(data[names["rewards"]]):  # a list an episode under each name
        count = {len(data[theirs]) for theirs in names.values()}
        if len(count) > 1:
            raise JaxdtError(f"{_SOURCE}: {', '.join(names.values())} are of {sorted(count)} episodes; {_EXAMPLE}.")
        return _of_list([{theirs: data[theirs][i] for theirs in names.values()} for i in range(*count)], cut_after)
    arrays = {ours: _numbers(data[theirs], f"{_SOURCE}: {theirs}") for ours, theirs in names.items()}
    env_id = data.get("env_id")
    columns = flat_episodes(arrays, names, source=_SOURCE, cut_after=cut_after)
    environment = {"env_id": None if env_id is None else str(env_id), "env_kwargs": data.get("env_kwargs")}
    return EpisodeStore.from_arrays(**columns, **environment, source=_SOURCE)


def _of_list(data: Sequence[Mapping[str, Any]], cut_after: int | None) -> EpisodeStore:
    names = _checked_names(data[0], f"{_SOURCE}: the first")
    if np.ndim(data[0][names["rewards"]]) == 0:  # a dict a step
        for number, step in enumerate(data):
            if missing := [theirs for theirs in names.values() if theirs not in step]:
                raise JaxdtError(f"{_SOURCE}: step {number} has no {missing[0]}; {_EXAMPLE}.")
        return _of_mapping({theirs: [step[theirs] for step in data] for theirs in names.values()}, cut_after)
    warn_of_unused_cut(cut_after, _SOURCE)
    rlds = all(_ends_with_an_observation(episode, number) for number, episode in enumerate(data))
    if rlds:
        warn_of_last_observations(_SOURCE)
    return join_episodes([_episode(episode, number, rlds=rlds) for number, episode in enumerate(data)], source=_SOURCE)


def _ends_with_an_observation(episode: Mapping[str, Any], number: int) -> bool:
    """As each episode of RLDS does: its last row is no step."""
    names = field_names(map(str, episode))
    if names.get("episode_terminals") != "is_last" or not names.keys() >= SYNONYMS.keys():
        return False
    last, actions, rewards = (
        _numbers(episode[names[name]], f"{_SOURCE}: episode {number}, {names[name]}")
        for name in ("episode_terminals", "actions", "rewards")
    )
    if last.ndim != 1 or not (actions.ndim and rewards.ndim):
        return False
    only_the_last = len(last) > 1 and np.flatnonzero(last).tolist() == [len(last) - 1]
    return only_the_last and holds_last_observation(actions, rewards, last.astype(bool))


def _episode(episode: Mapping[str, Any], number: int, *, rlds: bool = False) -> dict[str, np.ndarray]:
    """`rlds`: its last row is of its last observation alone."""
    where = f"{_SOURCE}: episode {number}"
    names = _checked_names(episode, where)
    arrays = {ours: _numbers(episode[names[ours]], f"{where}, {names[ours]}") for ours in SYNONYMS}
    for ours, values in arrays.items():
        if not values.ndim:
            raise JaxdtError(
                f"{where}: {names[ours]} must have a row a step; got a single {values.dtype} ({_EXAMPLE})."
            )
    steps = len(arrays["rewards"])
    if not min(map(len, arrays.values())):
        raise JaxdtError(f"{where} has no steps; leave it out.")
    if len(arrays["observations"]) == steps + 1:
        arrays["observations"] = arrays["observations"][:-1]  # what the last action led to
    flags = {}
    for ours in FLAGS:
        if ours in names:
            flags[ours] = _numbers(episode[names[ours]], f"{where}, {names[ours]}")
            if not flags[ours].ndim:  # of the whole episode
                (flag,) = flags_of(flags[ours][None], f"{names[ours]} of episode {number}", _SOURCE)
                flags[ours] = np.arange(steps) == (steps - 1 if flag else -1)
    if rlds and {len(each) for each in (*arrays.values(), *flags.values())} == {steps}:  # or it is said below
        last = np.arange(steps) == steps - 1
        kept = without_last_observations({**arrays, **flags, "episode_terminals": last}, names, _SOURCE)
        arrays, flags = ({name: kept[name] for name in each} for each in (arrays, flags))
    return one_episode(arrays, flags, names, number, _SOURCE)


def _checked_names(data: Mapping[str, Any], where: str) -> dict[str, str]:
    names = field_names(map(str, data))
    for name in SYNONYMS:
        if name not in names:
            found = ", ".join(f"{key!s:.40}" for key in list(data)[:8]) or "nothing"
            raise JaxdtError(f"{where} has no {name}; it has {found} ({_EXAMPLE}).")
    for theirs in names.values():
        if data[theirs] is None:
            raise JaxdtError(f"{where} has None for {theirs}; give an array with a row a step ({_EXAMPLE}).")
    return names


def _is_of_episodes(rewards: Any) -> bool:
    """Whether they are lists of lists; a column (n, 1) of flat ones is not."""
    return (
        isinstance(rewards, list | tuple) and len(rewards) > 0 and np.ndim(rewards[0]) == 1 and np.size(rewards[0]) != 1
    )


def _numbers(values: Any, where: str) -> np.ndarray:
    """As an array, a step a row; the parts of a dict follow one another in the order of their names."""
    if isinstance(values, Mapping):
        parts = [_numbers(values[name], f"{where} {name}") for name in sorted(values)]
        if not parts or any(not part.ndim for part in parts) or len({len(part) for part in parts}) > 1:
            raise JaxdtError(f"{where} has parts of different lengths; they must have a row a step.")
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
    if isinstance(values, list | tuple) and values and isinstance(values[0], Mapping):
        return _numbers({name: [value[name] for value in values] for name in values[0]}, where)
    try:
        return np.asarray(values)
    except (ValueError, TypeError) as error:
        raise JaxdtError(f"{where} must be one array; got rows of different sizes.") from error
