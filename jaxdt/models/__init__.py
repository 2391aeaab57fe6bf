"""The transformer as pure functions; the only room that imports `flax.nnx`."""

from jaxdt.models.building import (
    Apply as Apply,
    Params as Params,
    build_model as build_model,
    cached_policy as cached_policy,
)
