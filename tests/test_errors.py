"""Errors on their way out of worker processes, and what they may say."""

import inspect
import pickle

import pytest

from jaxdt import JaxdtError, errors
from jaxdt.errors import StoppedError


KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]


@pytest.mark.parametrize("message", ["n must be 1; got 2.", "\x1b\n" * 900], ids=["plain", "escaped and cut"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_leaves_a_worker_process_as_it_was(kind, message):
    error = kind(message, 15) if kind is StoppedError else kind(message)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (kind, str(error), vars(error))


def test_a_message_is_printable_and_not_endless():
    assert str(JaxdtError("a\x1b[31mb\n")) == "a\\x1b[31mb\\n"
    assert len(str(JaxdtError("\x1b" * 10**6))) == len(str(JaxdtError("a" * 10**6))) == 999 + 1
