"""What is refused before any episode is loaded or collected."""

import dataclasses
import warnings
from typing import Any

from jaxdt.choice import EnvironmentChoice
from jaxdt.config import TrainConfig
from jaxdt.data.demo import Demo
from jaxdt.errors import JaxdtError
from jaxdt.evaluation.video import try_filming
from jaxdt.loggers import MIRRORS, check_installed
from jaxdt.parallel import choose_layout
from jaxdt.run.environment import CUSTOM, choice_of, filmed
from jaxdt.run.fit import check_fit
from jaxdt.simulator import gymnasium_id, is_registered, make_simulator, spec_of


def check_beforehand(config: TrainConfig, environment: Any, *, seeds: int | None, demo: Demo | None = None) -> None:
    """What needs no episodes to be refused, before they are loaded or collected; raises JaxdtError.

    `environment`: the object to play in; None: what the config names, if it does. `seeds`: how many train in one
    program; None: that is not known yet. `demo`: what the episodes will be collected of, where they will be.
    """
    for kind in MIRRORS:
        if getattr(config, kind):
            check_installed(kind)
    sharded = config.shard_parameters
    if seeds is not None and (config.devices is not None or (sharded and seeds > 1)):
        with warnings.catch_warnings(action="ignore"):  # it is chosen again, and warned of, once the data are there
            choose_layout(config.batch_size, seeds=seeds, devices=config.devices, shard_parameters=sharded)
    env = demo.env_id if config.env is None and demo is not None else config.env
    if environment is not None or seeds is None or env in (None, "none", CUSTOM):
        return  # a run that goes on has keyword arguments of its own
    choice = choice_of(dataclasses.replace(config, env=env), None, 0)
    try:
        if config.video:
            try_filming(filmed(choice))
        else:
            make_simulator(filmed(choice)).close()
    except JaxdtError:
        if config.env_kwargs is not None or not is_registered(choice.env):
            raise  # else the data may have the keyword arguments that it needs
        return
    if demo is not None and gymnasium_id(env) != demo.env_id:
        _check_demo(demo, choice)


def _check_demo(demo: Demo, choice: EnvironmentChoice) -> None:
    specs = []
    for each in (filmed(choice), demo.env_id):
        simulator = make_simulator(each)
        specs.append(spec_of(simulator))
        simulator.close()
    try:
        check_fit(specs[0], choice.name, specs[1], demo.env_id)
    except JaxdtError as error:
        raise JaxdtError(
            f"without --dataset (dataset=) episodes of {demo.env_id} are collected, and {choice.name} is another task; "
            "give episodes of that one."
        ) from error
