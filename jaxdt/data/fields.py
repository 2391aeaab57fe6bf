"""What others call the fields of episodes, and where flat arrays say that episodes end."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from jaxdt.data.d4rl import old_time_limit
from jaxdt.errors import JaxdtError


SYNONYMS = {
    "observations": ("observations", "observation", "obs", "states", "state"),
    "actions": ("actions", "action"),
    "rewards": ("rewards", "reward"),
}
"""In tables, pickles and Python, the first that is there; files of flat arrays have the first."""

ENDINGS = {
    "terminations": (
        "terminations", "terminals", "terminated", "terminateds", "termination", "terminal", "is_terminal"
    ),
    "dones": ("dones", "done"),
    "truncations": ("truncations", "timeouts", "truncated", "truncateds", "truncation", "timeout"),
    "episode_ends": ("episode_ends",),
    "episode": ("episode", "episode_id", "episode_ids", "episode_index"),
    "episode_terminals": ("episode_terminals", "is_last"),
}  # fmt: skip
"""What says where episodes end, by our name: Gymnasium's, D4RL's, d3rlpy's, RLDS's and older names.

- `terminations`: the environment ended the episode; `truncations`: it was cut off; `dones`: either of them.
- `episode_ends`: the row after each episode's last; `episode`: which one a step is of; `episode_terminals`: true at
  each episode's last step. The first of these three has the say.
"""

FLAGS = ("terminations", "dones", "truncations")
"""Those of `ENDINGS` that are read where it is known which steps are an episode."""

_HAVE_THE_SAY = ("episode_ends", "episode", "episode_terminals")


def ending_fields(present: Iterable[str]) -> dict[str, str]:
    """Our names of the fields to read that say where episodes end, with theirs; what is not needed is left out."""
    found = _found(ENDINGS, present)
    say = next((name for name in _HAVE_THE_SAY if name in found), None)
    read = {say, "episode_terminals"} if say == "episode" and found.get("episode_terminals") == "is_last" else {say}
    if {"terminations", "truncations"} <= found.keys():
        found.pop("dones", None)
    return {ours: theirs for ours, theirs in found.items() if ours not in _HAVE_THE_SAY or ours in read}


def field_names(present: Iterable[str]) -> dict[str, str]:
    """Our names of all fields to read, with theirs; those that are missing are left out."""
    present = list(present)
    return _found(SYNONYMS, present) | ending_fields(present)


def _found(known: Mapping[str, tuple[str, ...]], present: Iterable[str]) -> dict[str, str]:
    there = set(present)
    first = {ours: next((name for name in names if name in there), None) for ours, names in known.items()}
    return {ours: name for ours, name in first.items() if name is not None}


def flat_episodes(
    arrays: Mapping[str, Any], names: Mapping[str, str], *, source: str, cut_after: int | None = None
) -> dict[str, Any]:
    """What `EpisodeStore.from_arrays` takes, of arrays by our names in which all episodes lie end to end.

    - `names`: what the source calls them, for messages.
    - `cut_after`: steps after which an episode was cut off, where the data do not say.

    Raises JaxdtError where nothing says where episodes end.
    """
    if (
        names.get("episode_terminals") == "is_last"
        and len({len(each) for each in arrays.values()}) == 1  # or it is said below that they must agree
        and holds_last_observation(
            arrays["actions"], arrays["rewards"], flags_of(arrays["episode_terminals"], "is_last", source)
        )
    ):
        warn_of_last_observations(source)
        arrays = without_last_observations(arrays, names, source)
    values = {name: arrays[name] for name in SYNONYMS}
    flags = _flat_flags(arrays, names, source)
    ends = arrays.get("episode_ends")
    if "episode" in arrays:
        ends = _ends_of_numbers(arrays["episode"], names.get("episode", "episode"), source)
    if ends is None and not flags:
        raise JaxdtError(
            f"{source}: nothing says where episodes end; add one of "
            f"{', '.join(name for names in ENDINGS.values() for name in names)}."
        )
    if ends is not None and "episode" in arrays and all(len(each) == ends[-1] for each in flags.values()):
        terminations, truncations = flags_of_episodes(flags, names, ends, source)
    else:
        terminations, truncations = merged_flags(flags)
    if ends is not None or flags.keys() != {"terminations"}:
        warn_of_unused_cut(cut_after, source)
    else:
        truncations = _cut_off(flags["terminations"], names.get("terminations", "terminations"), source, cut_after)
    if ends is None:
        _warn_of_lasting_flags([each for each in (terminations, truncations) if each is not None], source)
    return {**values, "terminations": terminations, "truncations": truncations, "episode_ends": ends}


def holds_last_observation(actions: Any, rewards: Any, last: Bool[np.ndarray, " n"]) -> bool:
    """Whether the rows where RLDS's `is_last` is true hold an observation alone, and so are no steps.

    Others, who do not mean RLDS's by it, have an action or a reward there.
    """
    rows = np.flatnonzero(last)
    return len(rows) > 0 and all(len(each) == len(last) and not np.any(each[rows]) for each in (actions, rewards))


def without_last_observations(arrays: Mapping[str, Any], names: Mapping[str, str], source: str) -> dict[str, Any]:
    """Arrays by our names without those rows, whose flags become those of the step before.

    Raises JaxdtError where they are mapped from a disk, from which they are not taken out.
    """
    if any(isinstance(getattr(values, "base", None), np.memmap) for values in arrays.values()):
        raise JaxdtError(
            f"{source}: no action and no reward where is_last is true, so these are RLDS's rows of a last observation, "
            "and no steps; write the data without them, or load them into memory (--map-above, map_above=)."
        )
    last = flags_of(arrays["episode_terminals"], "is_last", source)
    kept = {}
    for name, values in arrays.items():
        if name in (*FLAGS, "episode_terminals"):
            values = flags_of(values, names.get(name, name), source).copy()
            values[:-1] |= values[1:] & last[1:] & ~last[:-1]
        kept[name] = values[~last]
    return kept


def warn_of_last_observations(source: str) -> None:
    warnings.warn(
        f"{source}: no action and no reward where is_last is true: these rows are taken for RLDS's, which hold an "
        "episode's last observation alone, and left out.",
        stacklevel=5,
    )


def _flat_flags(arrays: Mapping[str, Any], names: Mapping[str, str], source: str) -> dict[str, Bool[np.ndarray, " n"]]:
    present = [name for name in (*FLAGS, "episode_terminals") if name in arrays]
    flags = {name: flags_of(arrays[name], names.get(name, name), source) for name in present}
    steps = np.shape(arrays["observations"])[:1]
    for name, each in flags.items():
        if (len(each),) != steps and steps not in ((), (0,)):
            raise JaxdtError(
                f"{source}: {names.get(name, name)} has {len(each)} steps but observations has {steps[0]}; they must "
                "agree."
            )
    return flags


def warn_of_unused_cut(cut_after: int | None, source: str) -> None:
    """Of `cut_after` where the data themselves say where their episodes end."""
    if cut_after is not None:
        warnings.warn(
            f"{source} says where its episodes end: --cut-after {cut_after} (cut_after=) has no effect; leave it out.",
            stacklevel=5,
        )


def _warn_of_lasting_flags(flags: list[Bool[np.ndarray, " n"]], source: str) -> None:
    """Of flags that stay true after an episode's end, as those of D4RL's AntMaze at a goal: each makes an episode."""
    done = np.logical_or.reduce(flags)
    alone = int((done[1:] & done[:-1]).sum())
    if alone > max(1, int(done.sum()) // 5):
        warnings.warn(
            f"{source}: {alone} of {done.sum()} episodes have one step, for the flags of an end stay true after it; if "
            "they mean a goal that is kept, give episode_ends or timeouts alone.",
            stacklevel=4,
        )


def flags_of(values: Any, name: str, source: str) -> Bool[np.ndarray, " n"]:
    """True or false at every step; a column of ones and zeros counts too."""
    array = np.asarray(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise JaxdtError(
            f"{source}: {name} must be true or false at every step; got shape {array.shape}, dtype {array.dtype}."
        )
    return array.astype(bool)


def one_episode(
    arrays: Mapping[str, np.ndarray], flags: Mapping[str, Any], names: Mapping[str, str], number: int, source: str
) -> dict[str, np.ndarray]:
    """What `join_episodes` takes, of the arrays of one episode and of those of `FLAGS` that there are, maybe none."""
    steps = len(arrays["observations"])
    read = {ours: flags_of(each, f"{names[ours]} of episode {number}", source) for ours, each in flags.items()}
    for ours, each in read.items():
        if len(each) != steps:
            raise JaxdtError(
                f"{source}: {names[ours]} of episode {number} has {len(each)} steps but observations has {steps}; they "
                "must agree."
            )
    merged = flags_of_episodes(read, names, np.array([steps]), source, first=number)
    named = zip(("terminations", "truncations"), merged, strict=True)
    return {**arrays, **{name: np.zeros(steps, bool) if each is None else each for name, each in named}}


def flags_of_episodes(
    flags: Mapping[str, Bool[np.ndarray, " n"]],
    names: Mapping[str, str],
    ends: Int[np.ndarray, " e"],
    source: str,
    *,
    first: int = 0,
) -> tuple[Bool[np.ndarray, " n"] | None, Bool[np.ndarray, " n"] | None]:
    """Terminations and truncations of episodes that end before the rows `ends`, the first of which is number `first`.

    Raises JaxdtError where a flag says that an episode ends before its last step. Where both are given, as a store is
    written, it is kept with a warning: they may mean a goal that was reached.
    """
    for name, each in flags.items():
        early = each.copy()
        early[ends - 1] = False
        if early.any() and {"terminations", "truncations"} <= flags.keys():
            warnings.warn(  # the same text for all episodes, so that it is shown once
                f"{source}: {names.get(name, name)} is true before the last step of an episode, which is taken as it "
                "is; if one ends there, make what follows an episode of its own.",
                stacklevel=5,
            )
        elif early.any():
            step = int(np.argmax(early))
            episode = int(np.searchsorted(ends, step, side="right"))
            start = ends[episode - 1] if episode else 0
            raise JaxdtError(
                f"{source}: {names.get(name, name)} of episode {first + episode} is true at step {step - start} of "
                f"{ends[episode] - start}, before its last; make what follows an episode of its own."
            )
    return merged_flags(flags)


def merged_flags(
    flags: Mapping[str, Bool[np.ndarray, " n"]],
) -> tuple[Bool[np.ndarray, " n"] | None, Bool[np.ndarray, " n"] | None]:
    """Terminations and truncations, either None where nothing is said of it."""
    terminations, truncations, dones = (flags.get(name) for name in ("terminations", "truncations", "dones"))
    if dones is not None:
        if terminations is None:
            truncations = np.zeros_like(dones) if truncations is None else truncations
            terminations = dones & ~truncations
        elif truncations is None:
            truncations = dones & ~terminations
    last = flags.get("episode_terminals")
    if last is not None:
        others = last if terminations is None else last & ~terminations
        truncations = others if truncations is None else truncations | others
    return terminations, truncations


def _ends_of_numbers(values: Any, name: str, source: str) -> Int[np.ndarray, " e"]:
    """The row after each run of one number, or of one name."""
    array = np.asarray(values)
    array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "biufUSO":
        raise JaxdtError(f"{source}: {name} must tell each step's episode; got shape {array.shape}, {array.dtype}.")
    starts = np.append(0, np.flatnonzero(array[1:] != array[:-1]) + 1)
    numbers, counts = np.unique(array[starts], return_counts=True)
    if (counts > 1).any():
        raise JaxdtError(
            f"{source}: the steps of {name} {numbers[counts > 1][0]!s:.40} do not lie together; sort the rows."
        )
    return np.append(starts[1:], len(array))


def _cut_off(
    terminations: Bool[np.ndarray, " n"], name: str, source: str, cut_after: int | None
) -> Bool[np.ndarray, " n"]:
    """Where episodes were cut off, in data that only say where the environment ended them.

    By whatever name, they leave out where a time limit came, as D4RL's `terminals` do in its old files.
    """
    if cut_after is None and (cut_after := old_time_limit(source)) is not None:
        warnings.warn(
            f"{source} has no timeouts: episodes are cut after {cut_after} steps, as D4RL recorded this file "
            "(--cut-after, cut_after=, chooses otherwise).",
            stacklevel=4,
        )
    if cut_after is not None:
        return _at_time_limit(terminations, cut_after)
    check_terminations_alone(terminations, name, source, "the steps after which all were: --cut-after (cut_after=)")
    return np.zeros_like(terminations)


def check_terminations_alone(terminations: Bool[np.ndarray, " n"], name: str, source: str, other_fix: str) -> None:
    """Warns that episodes are taken to end there alone; raises JaxdtError where the last step is no end.

    `other_fix`: what may be given in place of truncations.
    """
    ends = np.flatnonzero(terminations) + 1
    if not len(ends) or ends[-1] != len(terminations):
        raise JaxdtError(
            f"{source}: {name} alone do not say where all episodes end ({len(ends)} do; the last step is none of "
            f"theirs); add truncations (or timeouts), true where an episode was cut off, or give {other_fix}."
        )
    warnings.warn(
        f"{source} has no truncations: episodes are taken to end where {name} is true, the longest after "
        f"{np.diff(ends, prepend=0).max()} steps; if some were cut off before, add them, or give {other_fix}.",
        stacklevel=5,
    )


def _at_time_limit(terminations: Bool[np.ndarray, " n"], limit: int) -> Bool[np.ndarray, " n"]:
    ends = np.flatnonzero(terminations) + 1
    truncations = np.zeros(len(terminations), bool)
    for start, stop in zip(np.append(0, ends), np.append(ends, len(terminations)), strict=True):
        truncations[start + limit - 1 : stop : limit] = True
    return truncations & ~terminations
