"""One program for the devices of one or several processes: what each of them holds."""

import collections
import dataclasses
import functools
import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from jaxtyping import Array, PyTree

from jaxdt import hosts
from jaxdt.errors import JaxdtError
from jaxdt.stacking import over_seeds


_AXIS = "data"

_SMALL = 4096
"""An array of fewer elements is held whole by every device: putting it together would cost more than it takes."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """The devices that train, and what each has: its share of every batch and the state, or seeds of its own.

    Windows, dropout and losses are the same, but for rounding, whatever the layout.
    """

    devices: tuple[Any, ...]
    """Of JAX, as many of each process, one process after the other; those of the first also evaluate."""
    seeds: int = 1
    """All that train in one program."""
    shard_parameters: bool = False
    """Of one seed: each device holds its part of the large arrays of the state, which is less to hold and more to send.
    """

    @property
    def splits_seeds(self) -> bool:
        """Whether each device has whole seeds of its own, so that none waits for another."""
        return len(self.devices) > 1 and self.seeds % len(self.devices) == 0

    @property
    def splits_state(self) -> bool:
        """Whether each device has a part of the large arrays of the state."""
        return len(self.devices) > 1 and self.shard_parameters

    @property
    def by_seed(self) -> Sharding:
        """Of keys and metrics, and of states that are not split."""
        return self._sharding(_AXIS) if self.splits_seeds else self._sharding()

    def state(self, tree: PyTree) -> PyTree[Sharding]:
        """Of each array of a state or of a part of one; where they are split, along the longest axis that can be."""
        return jax.tree.map(lambda leaf: self._split(leaf.shape) if self.splits_state else self.by_seed, tree)

    def _split(self, shape: tuple[int, ...]) -> Sharding:
        possible = [axis for axis, length in enumerate(shape) if length % len(self.devices) == 0]
        if math.prod(shape) < _SMALL or not possible:
            return self.by_seed
        return self._sharding(*[None] * max(possible, key=shape.__getitem__), _AXIS)

    @property
    def batches(self) -> Sharding:
        """Of what one call of several updates takes: (updates, b, ...), of several seeds (seeds, updates, b, ...)."""
        if self.splits_seeds:
            return self._sharding(_AXIS)
        return self._sharding(*[None] * (1 if self.seeds == 1 else 2), _AXIS)

    def share(self, batch_size: int) -> slice | None:
        """The rows of every batch that this process gathers for its devices; None: it is the only one, and all."""
        if not self._is_of_several_processes:
            return None
        mine, each = self._places_here, batch_size // len(self.devices)
        return slice(mine[0] * each, (mine[-1] + 1) * each)

    def compile_init(self, init: Callable[..., PyTree[Array]]) -> Callable[..., PyTree[Array]]:
        """`init(key)`, jitted; a state that is split is so from the start, unless several processes have to agree."""
        if not self.splits_state or self._is_of_several_processes:
            return jax.jit(init)
        return jax.jit(init, out_shardings=self.state(jax.eval_shape(init, jax.random.key(0))))

    def place_state(self, tree: PyTree[Array]) -> PyTree[Array]:
        """States or keys, the same in all processes, on the devices."""
        if not self._is_of_several_processes:
            return jax.device_put(tree, self.state(tree))
        return jax.tree.map(self._copy_to_all, tree, self.state(tree))

    def place_batches(self, batches: PyTree[np.ndarray]) -> PyTree[Array]:
        """What one call of several updates takes, of which each process gives its rows."""
        if not self._is_of_several_processes:
            return jax.device_put(batches, self.batches)
        return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(self.batches, leaf), batches)

    def place_rows(self, row: np.ndarray) -> Array:
        """One row of numbers of this process for each of its devices, above or below those of all others."""
        rows = np.tile(row, (len(self._places_here), 1))
        return jax.make_array_from_process_local_data(self._sharding(_AXIS), rows)

    def over_seeds(self, function: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """`over_seeds(function)`, each device over its own; of one seed the function itself."""
        if self.seeds == 1:
            return function
        function = over_seeds(function)
        if not self.splits_seeds:
            return function
        share = PartitionSpec(_AXIS)
        return jax.shard_map(function, mesh=self._mesh, in_specs=share, out_specs=share, check_vma=False)

    @property
    def here(self) -> tuple[Any, ...]:
        """The devices of this process."""
        return tuple(self.devices[i] for i in self._places_here)

    def on_first(self, tree: PyTree[Array]) -> PyTree[Array]:
        """A state, or a part of one, on the first device alone, or the first of each process; all must ask for it."""
        if self._is_of_several_processes:
            return hosts.here(self._put_together(tree) if self.splits_state else tree)
        return tree if len(self.devices) == 1 else jax.device_put(tree, self.devices[0])

    def to_save(self, state: PyTree[Array]) -> PyTree[Array]:
        """The state as a checkpoint takes it, which several processes write together; split, it is not put together."""
        return state if self._is_of_several_processes or self.splits_state else self.on_first(state)

    @functools.cached_property
    def _places_here(self) -> list[int]:
        """Of this process's devices among all."""
        there = jax.local_devices()
        return [i for i, device in enumerate(self.devices) if device in there]

    @functools.cached_property
    def _is_of_several_processes(self) -> bool:
        return len({device.process_index for device in self.devices}) > 1

    @functools.cached_property
    def _put_together(self) -> Callable[[PyTree[Array]], PyTree[Array]]:
        return jax.jit(lambda tree: tree, out_shardings=self.by_seed)

    def _copy_to_all(self, leaf: Array, sharding: Sharding) -> Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(self._copy_to_all(jax.random.key_data(leaf), sharding))
        values = np.asarray(leaf)
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    def describe(self, batch_size: int) -> str:
        """What each device has, for people."""
        count = len(self.devices)
        share = f"{self.seeds // count} of {self.seeds} seeds"
        if not self.splits_seeds:
            share = f"{batch_size // count} of the {batch_size} windows of a batch"
        among = f" of {hosts.count()} processes" if self._is_of_several_processes else ""
        return f"trains on {count} devices{among}, each with {share}"

    @property
    def _mesh(self) -> Mesh:
        return _mesh_of(self.devices)

    def _sharding(self, *axes: str | None) -> Sharding:
        if len(self.devices) == 1:
            return SingleDeviceSharding(self.devices[0])
        return NamedSharding(self._mesh, PartitionSpec(*axes))


def describe_share(state: PyTree[Array]) -> str:
    """How much of a state the first device holds, as all do, for people."""
    leaves = jax.tree.leaves(state)
    share = sum(leaf.addressable_data(0).nbytes for leaf in leaves) / sum(leaf.nbytes for leaf in leaves)
    return f"each device holds {share:.0%} of weights and optimiser's state"


class Vote:
    """What any process asks for, known to all after the same call: the largest of each of some numbers, 0 or more.

    Of several processes it is what they said two calls before, so that none waits for its devices.
    """

    def __init__(self, layout: Layout):
        self._layout = layout
        self._given: collections.deque[Array] = collections.deque(maxlen=3)
        self._calls = 0
        self._done: dict[int, int] = {}
        self._largest = jax.jit(lambda rows: rows.max(axis=0), out_shardings=layout.by_seed)

    def __call__(self, *numbers: int) -> tuple[int, ...]:
        """To be called by all, after every call of updates."""
        if hosts.count() == 1:
            return numbers
        self._given.append(self._largest(self._layout.place_rows(np.array(numbers, np.int32))))
        self._calls += 1
        if len(self._given) < 3:
            return (0,) * len(numbers)
        known = np.asarray(self._given[0]).tolist()
        return tuple(0 if self._calls - 2 <= self._done.get(i, 0) else number for i, number in enumerate(known))

    def forget(self, which: int) -> None:
        """What was asked for with one of the numbers and is not known yet, since it is done by now."""
        self._done[which] = self._calls


def choose_layout(
    batch_size: int, *, seeds: int = 1, devices: int | None = None, shard_parameters: bool = False
) -> Layout:
    """For a run, or for the runs of several seeds in one program.

    `devices`: how many, of all processes together; None: of a CPU one a process, of accelerators as many as the batch
    or the seeds can be divided by. `shard_parameters`: of one seed; they share the state out too. Raises JaxdtError for
    more than are there, and for a number that divides neither.
    """
    if shard_parameters and seeds > 1:
        raise JaxdtError(
            f"shard_parameters must be off where several seeds train in one program; got {seeds} seeds; leave "
            "shard_parameters= (--shard-parameters) out, or train one seed at a time."
        )
    processes = hosts.count()
    there = _devices_of_each_process()
    wanted = devices or _number_by_default(len(there))
    if wanted > len(there):
        more = ", or set JAX_NUM_CPU_DEVICES" if jax.default_backend() == "cpu" else ""
        where = "on this machine" if processes == 1 else f"for {processes} processes"
        raise JaxdtError(
            f"devices must be at most {len(there)}, as many as jax finds {where}; got {wanted}; lower "
            f"devices= (--devices){more}."
        )
    if processes > 1:
        layout = _over_processes(there, batch_size, processes, wanted, devices)
        return dataclasses.replace(layout, shard_parameters=shard_parameters)
    count = max(n for n in range(1, wanted + 1) if batch_size % n == 0 or seeds % n == 0)
    if count < wanted and devices is not None:
        raise JaxdtError(
            f"batch_size, or the number of seeds, must be a multiple of devices; got batch_size={batch_size}, {seeds} "
            f"seed{'s' * (seeds > 1)} and devices={devices}; give devices={count} (--devices {count}), or "
            "another batch_size= (--batch-size)."
        )
    if count < wanted:
        _warn_of_idle(batch_size, count, wanted)
    if shard_parameters and count == 1:
        warnings.warn("shard_parameters= (--shard-parameters) does nothing on one device.", stacklevel=2)
    return Layout(tuple(there[:count]), seeds, shard_parameters)


def _over_processes(there: list[Any], batch_size: int, processes: int, wanted: int, devices: int | None) -> Layout:
    """As many devices of each process."""
    possible = [n for n in range(processes, len(there) + 1, processes) if batch_size % n == 0]
    used = max((n for n in possible if n <= wanted), default=0)
    if not used or (used < wanted and devices is not None):
        given = "one device a process" if devices is None else f"devices={devices}"
        fix = "start another number of processes"
        if possible:
            fix = f"give devices={used or possible[0]} (--devices {used or possible[0]})"
        raise JaxdtError(
            f"devices must be a multiple of the number of processes, and batch_size of devices; got {processes} "
            f"processes, {given} and batch_size={batch_size}; {fix}, or another batch_size= (--batch-size)."
        )
    if used < wanted:
        _warn_of_idle(batch_size, used, wanted)
    of_each = len(there) // processes
    return Layout(tuple(there[p * of_each + i] for p in range(processes) for i in range(used // processes)))


def _warn_of_idle(batch_size: int, count: int, wanted: int) -> None:
    warnings.warn(
        f"{wanted - count} of {wanted} devices will not train: a batch of {batch_size} can be divided by {count} "
        f"at most; a batch_size= (--batch-size) that is a multiple of {wanted} uses all.",
        stacklevel=3,
    )


def _devices_of_each_process() -> list[Any]:
    """One process after the other, as many of each as the one with the fewest has."""
    if hosts.count() == 1:
        return jax.local_devices()
    of_process = itertools.groupby(sorted(jax.devices(), key=_process), _process)
    each = [list(devices) for _, devices in of_process]
    fewest = min(map(len, each))
    return [device for devices in each for device in devices[:fewest]]


def _process(device: Any) -> int:
    return device.process_index


def over_devices(devices: Sequence[Any]) -> tuple[Sharding, Sharding]:
    """Of what each of them holds whole, and of rows that they share out."""
    return NamedSharding(_mesh_of(devices), PartitionSpec()), NamedSharding(_mesh_of(devices), PartitionSpec(_AXIS))


def _mesh_of(devices: Sequence[Any]) -> Mesh:
    return Mesh(list(devices), (_AXIS,), axis_types=(AxisType.Auto,))


def devices_to_play_on() -> list[Any]:
    """All accelerators of this process; of a CPU its first device."""
    there = jax.local_devices()
    return there[:1] if jax.default_backend() == "cpu" else there


def _number_by_default(there: int) -> int:
    # The devices that XLA can make of a CPU share its cores, which one alone uses all.
    return hosts.count() if jax.default_backend() == "cpu" else there
