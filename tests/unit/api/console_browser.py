"""A browser at the console, as far as requests show one."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from api_world import ApiWorld

from policyctl.domain.tokens import Scope

HERE = "http://127.0.0.1:8004"
MODEL = "/ui/models/walker"


class Browser:
    """One browser at the console: it keeps cookies, says where a form came from, and sends what forms hold."""

    def __init__(self, api: ApiWorld, scope: str = "") -> None:
        self.api, self.client = api, api.client
        self.client.cookies.clear()
        if scope:
            self.sign_in(api.secrets[Scope(scope)])

    def sign_in(self, secret: str, **headers: str) -> Any:
        """Show a token; the answer."""
        sent = {"Origin": HERE, **headers}
        return self.client.post("/ui/sign-in", data={"token": secret}, headers=sent, follow_redirects=False)

    def get(self, path: str) -> Any:
        """A page."""
        return self.client.get(path)

    @property
    def secret(self) -> str:
        """What its forms hold."""
        return re.findall(r'name="csrf" value="([^"]+)"', self.get("/ui").text)[0]

    def send(self, path: str, **fields: str) -> Any:
        """Send a form of a page; the answer, after where it leads."""
        return self.client.post(path, data={"csrf": self.secret, **fields}, headers={"Origin": HERE})

    def operation(self, answer: Any) -> Any:
        """The operation that a form began, when it is over."""
        return self.client.get(
            answer.url.path.replace("/ui/", "/v1/") + "?wait=60", headers=self.api.headers("read")
        ).json()


def confirming(page: str) -> dict[str, str]:
    """What the second button of a promotion sends."""
    form = page[page.index("What would happen") : page.index("Change it")]
    sent = dict(re.findall(r'name="(\w+)" value="([^"]*)"', form))
    return {name: unescape(value) for name, value in sent.items() if name != "csrf"}
