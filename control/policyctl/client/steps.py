"""Carry out a procedure that does no I/O itself, blocking or by asyncio.

Such a procedure is a generator: it yields each step that it needs, is sent the
result or thrown the error, and returns what came of it. So it is written once,
and the blocking and the asyncio client cannot differ.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

Step = TypeVar("Step")
T = TypeVar("T")


def carry_out(steps: Generator[Step, Any, T], perform: Callable[[Step], Any]) -> T:
    """Perform every step, one after another, and return the result of all.

    Raises:
        BaseException: What a step raised, unless the procedure handles it; and what the procedure raises.
    """
    try:
        step = next(steps)
        while True:
            try:
                result = perform(step)
            except BaseException as error:  # noqa: BLE001 - the procedure decides, and lets most pass
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as done:
        value: T = done.value
        return value


def changed(steps: Generator[Step, Any, T], change: Callable[[Step], Any]) -> Generator[Any, Any, T]:
    """The same procedure, where `change` says what is performed for each step."""
    try:
        step = next(steps)
        while True:
            try:
                reply = yield change(step)
            except BaseException as error:  # noqa: BLE001 - the procedure decides, and lets most pass
                step = steps.throw(error)
            else:
                step = steps.send(reply)
    except StopIteration as done:
        value: T = done.value
        return value


async def carry_out_async(steps: Generator[Step, Any, T], perform: Callable[[Step], Awaitable[Any]]) -> T:
    """`carry_out`, where performing a step is awaited."""
    try:
        step = next(steps)
        while True:
            try:
                result = await perform(step)
            except BaseException as error:  # noqa: BLE001 - the procedure decides, and lets most pass
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as done:
        value: T = done.value
        return value
