"""What `import jaxdt` offers: to people, to checkers of types and to `help`."""

import ast
import dataclasses
import importlib
import inspect
import re
import typing
from pathlib import Path

import pytest

import jaxdt
from jaxdt.config import texts


TREE = ast.parse(Path(jaxdt.__file__).read_text(encoding="utf-8"))
PUBLIC = {name: getattr(jaxdt, name) for name in jaxdt.__all__}


def test_checkers_know_the_names_that_there_are_and_no_others():
    [block] = [node for node in TREE.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name)]
    known = {alias.name: each.module for each in block.body for alias in each.names}
    assert known == jaxdt._HOMES
    assert not any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in TREE.body)


def names_of_types(hint):
    for part in typing.get_args(hint):
        for each in part if isinstance(part, list) else [part]:
            yield from names_of_types(each)
    if isinstance(hint, type) and hint.__module__.startswith("jaxdt."):
        yield hint.__name__


def signatures(public):
    yield public
    for name, member in vars(public).items() if isinstance(public, type) else ():
        member = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if inspect.isfunction(member) and not name.startswith("_"):
            yield member


@pytest.mark.parametrize("name", PUBLIC)
def test_what_a_public_signature_or_docstring_names_is_public(name):
    for each in signatures(PUBLIC[name]):
        hints = {} if typing.get_origin(each) else typing.get_type_hints(inspect.unwrap(each))
        assert set().union(*map(names_of_types, hints.values())) <= PUBLIC.keys()
        text = inspect.getdoc(each) or ""
        assert set(re.findall(r"[A-Z]\w+Error", text)) <= PUBLIC.keys()
        for path in re.findall(r"`(jaxdt\.[\w.]+)", text):
            module, _, last = path.rpartition(".")
            assert module == "jaxdt"
            assert last in PUBLIC


def test_help_shows_what_make_algorithm_takes():
    assert [*inspect.signature(jaxdt.make_algorithm).parameters] == ["config", "spec"]
    assert "lru_cache" not in repr(jaxdt.make_algorithm)


def test_every_public_name_is_found_where_it_is_said_to_be():
    assert all(hasattr(importlib.import_module(module), name) for name, module in jaxdt._HOMES.items())
    assert set(jaxdt.__all__) <= set(dir(jaxdt))
    with pytest.raises(AttributeError, match="module 'jaxdt' has no attribute 'nothing'"):
        jaxdt.nothing  # noqa: B018


CONFIGS = [value for name, value in PUBLIC.items() if name.endswith("Config") and isinstance(value, type)]


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)
def test_help_has_the_text_of_every_field_of_a_config_and_its_plain_type(kind):
    text = inspect.getdoc(kind)
    nested = {"model", "optimizer", "algorithm"}
    described = set(re.findall(r"(?m)^    (\w+): .{10}", text))
    assert described - nested == {field.name for field in dataclasses.fields(kind)} - nested
    assert "PrimitiveConstructorSpec" not in str(inspect.signature(kind))
    assert all(len(line) <= 120 for line in text.splitlines())


def test_a_config_without_its_source_has_its_own_text_still(monkeypatch):
    def none(kind):
        raise OSError("could not get source code")

    monkeypatch.setattr(inspect, "getsource", none)
    assert texts._with_texts.__wrapped__(jaxdt.ModelConfig, "The summary.") == "The summary."
