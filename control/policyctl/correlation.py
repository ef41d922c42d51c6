"""Which operation and which move the running code belongs to, for logs and request ids.

A context variable: a thread begins with nothing bound, and what is bound in a
block is gone after it. Nothing decides by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

_bound: ContextVar[Mapping[str, str]] = ContextVar("correlation", default=MappingProxyType({}))


def current() -> Mapping[str, str]:
    """What is bound: ``operation``, ``move``, ``model``, ``alias``, ..."""
    return _bound.get()


@contextmanager
def bound(**ids: str) -> Iterator[None]:
    """Bind `ids` while the block runs, on top of what is bound already; empty ones are left out."""
    token = _bound.set(MappingProxyType({**_bound.get(), **{name: value for name, value in ids.items() if value}}))
    try:
        yield
    finally:
        _bound.reset(token)
