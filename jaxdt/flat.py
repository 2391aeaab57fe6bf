"""A tree of many small arrays as a few long vectors, so that what treats all elements alike is a few large kernels."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


@jax.tree_util.register_pytree_with_keys_class
class Flat:
    """The arrays of a tree, those of the same name (`kernel`, `bias`) one after the other in one vector.

    A tree itself, whose leaves are the vectors under those names: an optimiser that treats elements alike, or by the
    name of their array, gives the same numbers for it as for the tree. As a tree an AdamW update of the paper's
    model is some 400 kernels on a GPU, most of them for one small array each; as vectors 253, 11 % faster on an H100.
    """

    def __init__(self, vectors: dict[str, Any], structure: Any, names: tuple[str, ...], shapes: tuple[Any, ...]):
        self._vectors = vectors
        self._structure = structure
        self._names = names
        self._shapes = shapes

    @classmethod
    def of(cls, tree: PyTree[Float[Array, "..."]]) -> "Flat":
        leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
        names = tuple(jax.tree_util.keystr(path[-1:], simple=True) for path, _ in leaves)
        vectors = {
            name: jnp.concatenate([leaf.ravel() for own, (_, leaf) in zip(names, leaves, strict=True) if own == name])
            for name in sorted(set(names))
        }
        return cls(vectors, structure, names, tuple(leaf.shape for _, leaf in leaves))

    def tree(self) -> PyTree[Float[Array, "..."]]:
        """The tree that it was made of."""
        taken = dict.fromkeys(self._vectors, 0)
        leaves = []
        for name, shape in zip(self._names, self._shapes, strict=True):
            first = taken[name]
            taken[name] += math.prod(shape)
            leaves.append(self._vectors[name][first : taken[name]].reshape(shape))
        return jax.tree.unflatten(self._structure, leaves)

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        keyed = [(jax.tree_util.DictKey(name), vector) for name, vector in self._vectors.items()]
        return keyed, (tuple(self._vectors), self._structure, self._names, self._shapes)

    @classmethod
    def tree_unflatten(cls, static: Any, children: Sequence[Any]) -> "Flat":
        keys, structure, names, shapes = static
        return cls(dict(zip(keys, children, strict=True)), structure, names, shapes)


def flatten_like(tree: PyTree, example: PyTree) -> PyTree:
    """`tree` with every part that has the structure of `example` as a Flat."""
    structure = jax.tree.structure(example)
    if jax.tree_util.treedef_is_leaf(structure):  # one array: then every number would be like it
        return tree

    def is_like(part: Any) -> bool:
        return jax.tree.structure(part) == structure

    return jax.tree.map(lambda part: Flat.of(part) if is_like(part) else part, tree, is_leaf=is_like)


def unflatten(tree: PyTree) -> PyTree:
    """`tree` with every Flat as the tree that it was made of."""

    def is_flat(part: Any) -> bool:
        return isinstance(part, Flat)

    return jax.tree.map(lambda part: part.tree() if is_flat(part) else part, tree, is_leaf=is_flat)
