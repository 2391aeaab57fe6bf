"""What every algorithm's config has, so that record, loop and command need not know which one it is."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxdt.types import Spec


@runtime_checkable
class AlgorithmOptions(Protocol):
    """A frozen dataclass of choices, with what the rest of the house asks it."""

    name: ClassVar[str]
    """In `config.json` and in messages; it never changes, or old runs cannot be read."""
    learns_values: ClassVar[bool]
    """Whether it learns what single steps are worth, so that their rewards must stay where they were earned."""
    draws_single_steps: ClassVar[bool]
    """Trains on transitions, and so leaves out the last step of an episode that was cut off."""
    acting_options: ClassVar[tuple[str, ...]]
    """Fields that change how trained weights act and may be chosen anew each time they are played."""
    authors_targets: ClassVar[Mapping[str, tuple[float, ...]]]
    """Returns that its authors ask for, by D4RL's name of the environment; elsewhere the Decision Transformer's are."""

    @property
    def takes_target(self) -> bool:
        """Whether its policy is asked for a return; otherwise evaluations have the target None."""
        ...

    @property
    def summary(self) -> str:
        """For people, in a few words: the method and its size."""
        ...

    @property
    def draws_actions(self) -> bool:
        """Whether its policy draws actions and needs keys."""
        ...

    @property
    def last_step(self) -> int | None:
        """The update at which training must end, since its learning rate is 0 there; None: it may go on."""
        ...

    def for_steps(self, steps: int) -> Any:
        """The same with what depends on the number of updates filled in, and what `for_data(None)` does."""
        ...

    def for_finetuning(self, learning_rate: float | None) -> Any:
        """The same for updates after training: a learning rate that falls no more; None: as high as it was."""
        ...

    def for_data(self, dataset: str | None) -> Any:
        """The same with what was tuned for single data sets filled in, and none of it open.

        `dataset`: what `--dataset` was given; None: any other set.
        """
        ...

    def trained_on_from(self, trained: Any) -> Any:
        """What fine-tuning weights that another config has trained uses; raises JaxdtError where they do not fit."""
        ...

    def doubt_returns(self, returns: Any) -> str | None:
        """What would keep it from learning on episodes of these returns, in a sentence; None: nothing would."""
        ...

    def check_spec(self, spec: Spec) -> None:
        """Raises JaxdtError where a spec lacks what was measured, or its actions cannot be chosen so."""
        ...
