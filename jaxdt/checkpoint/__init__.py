"""Checkpoints of a run, through Orbax's v1 API: `<directory>/<step>/{params,training}`.

Parameters are stored apart from the optimiser's state, so that acting reads the parameters alone.
"""

from jaxdt.checkpoint.checksums import (
    CHECKSUMS as CHECKSUMS,
    checkpoint_steps as checkpoint_steps,
    damaged_checkpoints as damaged_checkpoints,
    quarantine_damaged as quarantine_damaged,
)
from jaxdt.checkpoint.reading import (
    Which as Which,
    find_checkpoint as find_checkpoint,
    load_checkpoint as load_checkpoint,
    read_metadata as read_metadata,
    stored_shapes as stored_shapes,
)
from jaxdt.checkpoint.writing import (
    CheckpointWriter as CheckpointWriter,
    drop_checkpoints_after as drop_checkpoints_after,
)
