"""The texts of a config's fields, which stand below them in the source, for `help`."""

import ast
import functools
import inspect
import itertools
import textwrap
from typing import Any


class FieldTexts:
    """As a class's `__doc__`: what it was, and each field's text, read when somebody asks."""

    def __init__(self, summary: str | None):
        self._summary = summary

    def __get__(self, instance: Any, kind: type) -> str | None:
        del instance
        return _with_texts(kind, self._summary)


@functools.cache
def _with_texts(kind: type, summary: str | None) -> str | None:
    texts = {}
    for each in reversed(kind.__mro__):
        if "__dataclass_fields__" in vars(each):
            texts |= _texts_in_source(each)
    if summary is None or not texts:
        return summary
    fill = textwrap.TextWrapper(100, initial_indent=" " * 4, subsequent_indent=" " * 8, break_on_hyphens=False).fill
    lines = [fill(f"{name}: {text}") for name, text in texts.items()]
    return "\n".join([summary.rstrip(), "", "Attributes:", *lines, ""])


def _texts_in_source(kind: type) -> dict[str, str]:
    """By field; none where there is no source."""
    try:
        [definition] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return {}
    assert isinstance(definition, ast.ClassDef)
    fields = vars(kind)["__dataclass_fields__"]
    texts = {}
    for field, text in itertools.pairwise(definition.body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(says))):
                if name in fields and "ClassVar" not in ast.unparse(field.annotation):
                    texts[name] = inspect.cleandoc(says)
    return texts
