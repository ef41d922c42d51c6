"""What an application is advised that asks over HTTP by asyncio, and has no aiohttp."""

from __future__ import annotations

import asyncio
import sys

import pytest

from policyctl.client import AsyncPolicyClient
from policyctl.errors import UnsupportedError


def test_http_by_asyncio_names_the_extra_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No traceback of an import: one sentence, and the extra."""
    monkeypatch.setitem(sys.modules, "aiohttp", None)

    async def ask() -> None:
        async with AsyncPolicyClient("walker", url="127.0.0.1:1", protocol="http", deadline_s=0.1) as client:
            await client.act({})

    with pytest.raises(UnsupportedError, match="aiohttp, which is not installed") as caught:
        asyncio.run(ask())
    assert "policyctl[http]" in caught.value.remedy
