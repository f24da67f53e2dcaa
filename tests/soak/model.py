"""What must be true of users and their browsers, from the answers that they got.

The model knows requests and answers only: no records, no keys. An answer of 503 says that an act
may have been done or not. The next answer that shows the truth decides, and must then stay true.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

Value = int | None
"""A value in the session; None if there is none."""


class Broken(AssertionError):
    """Something that must hold does not hold."""


@dataclass
class Browser:
    """One browser of a user, as far as its answers tell."""

    name: str
    user: str
    may_be_signed_in: bool = False
    must_be_signed_in: bool = False
    data: dict[str, set[Value]] = field(default_factory=dict)
    """The possible values of each key: one after an answer 200, more after an answer 503."""

    def logged_in(self, done: bool) -> None:
        """A login over whatever was there before. Without an answer 200 nobody is signed in by it;
        the session before may have ended."""
        if done:
            self.may_be_signed_in = self.must_be_signed_in = True
            self.data = {}
        else:
            self.must_be_signed_in = False

    def logged_out(self, done: bool) -> None:
        self.ended(done)

    def ended(self, done: bool) -> None:
        """The session was ended by the browser or from outside."""
        self.must_be_signed_in = False
        if done:
            self.may_be_signed_in = False

    def wrote(self, key: str, value: Value, done: bool) -> None:
        if done:
            self.data[key] = {value}
        else:
            self.data[key] = self.data.get(key, {None}) | {value}

    def saw(self, status: int, body: dict[str, t.Any] | None) -> None:
        """The answer of a page that shows the user and the data."""
        if status == 503:
            return
        if status == 401:
            if self.must_be_signed_in:
                raise Broken(f"{self.name} was signed out by nothing")
            self.may_be_signed_in = False
            return
        if status != 200 or body is None:
            raise Broken(f"{self.name} got {status}")
        if body["user"] != self.user:
            raise Broken(f"{self.name} of {self.user} was answered as {body['user']}")
        if not self.may_be_signed_in:
            raise Broken(f"{self.name} is signed in again after its session has ended")
        self.must_be_signed_in = True
        for key in self.data.keys() | body["data"].keys():
            found = body["data"].get(key)
            if found not in self.data.get(key, {None}):
                expected = self.data.get(key)
                raise Broken(f"{self.name}: {key} is {found}, and must be one of {expected}")
            self.data[key] = {found}
