"""Simulated browsers: the cookie jar, the network, a user with several tabs, and a thief."""

from __future__ import annotations

import random
import typing as t
from dataclasses import dataclass, field
from functools import partial

from .site import Reply, Site

if t.TYPE_CHECKING:
    from .observer import Observer
    from .scenarios import Scenario

CHANGES_SECRET = frozenset({"login", "logout", "confirm", "rotate"})
"""The acts whose reply may replace or delete a user's cookie (DESIGN, law 9)."""

SLOW_UPSTREAM, SLOW_DOWNSTREAM = 200.0, 240.0
"""The longest way of a request to the app, and of its reply back, in seconds. The first is shorter
than the grace, as the README asks for."""


class Cookie(t.NamedTuple):
    value: str
    expires: float | None
    """None: the cookie ends with the browser."""


class Jar:
    """The cookies of one browser. Time is in seconds."""

    def __init__(self) -> None:
        self.cookies: dict[str, Cookie] = {}

    def value(self, name: str, now: float) -> str | None:
        cookie = self.cookies.get(name)
        is_over = cookie is None or (cookie.expires is not None and cookie.expires <= now)
        return None if is_over or cookie is None else cookie.value

    def header(self, now: float) -> str:
        values = ((name, self.value(name, now)) for name in self.cookies)
        return "; ".join(f"{name}={value}" for name, value in values if value is not None)

    def apply(self, name: str, cookie: Cookie, now: float) -> None:
        """Does what a Set-Cookie header says."""
        if cookie.expires is not None and cookie.expires <= now:
            self.cookies.pop(name, None)
        else:
            self.cookies[name] = cookie

    def copied(self) -> Jar:
        jar = Jar()
        jar.cookies = dict(self.cookies)
        return jar

    def end_browser_session(self) -> None:
        self.cookies = {n: cookie for n, cookie in self.cookies.items() if cookie.expires}


def parsed(line: str, now: float) -> tuple[str, Cookie]:
    """The name and the cookie of a Set-Cookie header that arrives now."""
    pair, *attributes = line.split("; ")
    name, _, value = pair.partition("=")
    ages = [int(a.partition("=")[2]) for a in attributes if a.startswith("Max-Age=")]
    return name, Cookie(value, now + ages[0] if ages else None)


@dataclass(eq=False)
class Exchange:
    """A request, and its reply once there is one."""

    browser: Browser
    act: str
    """The first part of the path: `page`, `login` and so on."""
    path: str
    is_perfect: bool
    attempt: int = 1
    more_headers: dict[str, str] = field(default_factory=dict)
    header: str = ""
    """The header `Cookie`."""
    user_token: str | None = None
    anonymous_token: str | None = None
    sent: float = 0.0
    launch: int = 0
    """How often the browser had been started."""
    entered: float = 0.0
    answered: float = 0.0
    reply: Reply | None = None
    is_over: bool = False
    """Whether the reply has arrived, or the browser has given up."""
    notes: dict[str, t.Any] = field(default_factory=dict)
    """For the observer."""

    @property
    def changes_secret(self) -> bool:
        return self.act in CHANGES_SECRET


class Browser:
    """A browser on a network that loses and delays requests and replies."""

    address = "192.0.2.1"

    def __init__(
        self, name: str, site: Site, scenario: Scenario, observer: Observer, seed: str
    ) -> None:
        self.name = name
        self.site = site
        self.scenario = scenario
        self.observer = observer
        self.random = random.Random(f"{seed} {name}")
        self.scheduler = site.scheduler
        self.jar = Jar()
        self.launch = 0

    @property
    def user_token(self) -> str | None:
        return self.jar.value(self.site.user_cookie, self.scheduler.now)

    def send(
        self,
        path: str,
        *,
        attempt: int = 1,
        is_perfect: bool = False,
        headers: dict[str, str] | None = None,
    ) -> Exchange:
        """Sends a request, now or when the browser may."""
        act = path.split("/")[1]
        exchange = Exchange(self, act, path, is_perfect, attempt, headers or {})
        self.prepare(exchange)
        return exchange

    def prepare(self, exchange: Exchange) -> None:
        """Sends the request now. A browser with bindings may have to do something before."""
        self.dispatch(exchange)

    def dispatch(self, exchange: Exchange) -> None:
        """Sends the request with the cookies that the jar has now."""
        now, is_perfect = self.scheduler.now, exchange.is_perfect
        names = (self.site.user_cookie, self.site.anonymous_cookie)
        exchange.user_token, exchange.anonymous_token = (self.jar.value(n, now) for n in names)
        exchange.header, exchange.sent, exchange.launch = self.jar.header(now), now, self.launch
        self.observer.on_sent(exchange)
        if not is_perfect and self.random.random() < self.scenario.lost / 5:
            self.scheduler.after(self._patience(), partial(self._lose, exchange))
        else:
            delay = self._delay(exchange, SLOW_UPSTREAM)
            self.scheduler.after(delay, partial(self._enter, exchange))

    def on_reply(self, exchange: Exchange) -> None:
        """The reply has arrived, and its cookies are in the jar."""

    def on_loss(self, exchange: Exchange) -> None:
        """The browser has given up waiting for the reply."""

    def restart(self) -> None:
        """The browser is closed and opened again. It forgets what it was waiting for."""
        self.launch += 1
        self.observer.on_restart(self)
        self.jar.end_browser_session()

    def _enter(self, exchange: Exchange) -> None:
        self.scheduler.start(partial(self._handle, exchange))

    def _handle(self, exchange: Exchange) -> None:
        """Runs in a thread of its own, from the request's entry into the app to the reply."""
        exchange.entered = self.scheduler.now
        self.observer.on_entered(exchange)
        method = "GET" if exchange.act in ("page", "poll", "form") else "POST"
        exchange.reply = self.site.request(
            method, exchange.path, exchange.header, self.address, exchange.more_headers
        )
        exchange.answered = self.scheduler.now
        self.observer.on_answered(exchange)
        if not exchange.is_perfect and self.random.random() < self.scenario.lost:
            self.scheduler.after(self._patience(), partial(self._lose, exchange))
        else:
            delay = self._delay(exchange, SLOW_DOWNSTREAM)
            self.scheduler.after(delay, partial(self._arrive, exchange))

    def _arrive(self, exchange: Exchange) -> None:
        if exchange.launch != self.launch:
            self._lose(exchange)
            return
        exchange.is_over = True
        assert exchange.reply
        now = self.scheduler.now
        for line in exchange.reply.cookies:
            name, cookie = parsed(line, now)
            self.observer.on_cookie(exchange, name, cookie)
            self.jar.apply(name, cookie, now)
        self.observer.on_arrived(exchange)
        self.on_reply(exchange)

    def _lose(self, exchange: Exchange) -> None:
        exchange.is_over = True
        self.observer.on_lost(exchange)
        if exchange.launch == self.launch:
            self.on_loss(exchange)

    def _delay(self, exchange: Exchange, longest: float) -> float:
        if exchange.is_perfect:
            return 0.001
        if self.random.random() < self.scenario.slow:
            return self.random.uniform(2, longest)
        return self.random.lognormvariate(-3, 0.8)  # 50 ms in the middle

    def _patience(self) -> float:
        return self.random.uniform(10, 60)


class Owner(Browser):
    """A user who works in several tabs. Each act may meet requests of other tabs."""

    def __init__(
        self, name: str, site: Site, scenario: Scenario, observer: Observer, seed: str
    ) -> None:
        super().__init__(name, site, scenario, observer, seed)
        self.user = f"ada-{seed}"
        self.wants_in = False
        self.has_left = False
        """Whether the user has stopped for good."""
        self.last_user: str | None = None
        """The user whom the last page has named."""
        self._writes = 0
        self._login: Exchange | None = None
        """The last login that was sent."""
        self._is_login_planned = False

    def begin(self) -> None:
        """Starts the user's work and the poller."""
        start = 0.0
        if self.scenario.begins_signed_in:
            start, self.wants_in = 150.0, True
            self.log_in_again()
        else:
            self.scheduler.after(self.random.uniform(0, 5), partial(self._send_soon, "form"))
            self.scheduler.after(self.random.uniform(0, 10), self._log_in)
        self.scheduler.after(start + self._gap(), self._work)
        self.scheduler.after(start + self.random.uniform(0, self.scenario.poll), self._poll)

    def settle(self) -> None:
        """After the end: on a network without faults, opens a page, and signs in if necessary."""
        if not self.has_left:
            self.send("/page", is_perfect=True)

    def log_in_again(self) -> None:
        """Signs in on a network without faults."""
        self.send(self._login_path(), is_perfect=True)

    @property
    def is_over(self) -> bool:
        return self.has_left or self.scheduler.now >= self.scenario.seconds

    def on_reply(self, exchange: Exchange) -> None:
        assert exchange.reply
        if exchange.act == "page":
            self.last_user = exchange.reply.seen.user
        if self.is_over:
            return
        if exchange.act == "page" and not exchange.is_perfect:
            for _ in range(self.random.randint(0, 3)):  # what the page loads
                self._send_soon(self.random.choice(["poll", "write", "page"]), 0.05)
        if exchange.act == "page" and self.last_user is None and self.wants_in:
            self._plan_login()

    def on_loss(self, exchange: Exchange) -> None:
        if self.is_over or exchange.attempt > 4:
            return
        if exchange.act == "login" and not self.wants_in:
            return
        if exchange.act == "logout" and self.wants_in:
            return
        again = partial(self.send, exchange.path, attempt=exchange.attempt + 1)
        self.scheduler.after(self.random.uniform(1, 10), again)

    def _work(self) -> None:
        if self.is_over:
            return
        weights = self.scenario.weights_in if self.wants_in else self.scenario.weights_out
        act = self.random.choices(list(weights), list(weights.values()))[0]
        if act == "restart":
            self.restart()
        elif act == "login":
            self._log_in()
        else:
            self.wants_in = self.wants_in and act != "logout"
            self._send_with_others(act)
        self.scheduler.after(self._gap(), self._work)

    def _poll(self) -> None:
        if not self.is_over:
            self.send("/poll")
            self.scheduler.after(self.scenario.poll * self.random.uniform(0.8, 1.2), self._poll)

    def _log_in(self) -> None:
        self._is_login_planned = False
        if self.is_over:
            return
        self.wants_in = True
        self._send_with_others("login")

    def _plan_login(self) -> None:
        """The user sees that nobody is signed in, and signs in soon."""
        is_waiting = self._is_login_planned or (self._login and not self._login.is_over)
        if not is_waiting:
            self._is_login_planned = True
            self.scheduler.after(self.random.uniform(2, 20), self._log_in)

    def _send_with_others(self, act: str) -> None:
        """Sends a request, and often requests of other tabs shortly before and after it."""
        exchange = self.send(self._path_of(act))
        if self.random.random() < 0.5:
            for _ in range(self.random.randint(1, 3)):
                kind = self.random.choice(["poll", "write", "form", "page"])
                self._send_soon(kind, self.random.choice([0.05, 1.0]))
        if act in ("confirm", "rotate") and self.random.random() < 0.1:
            self.wants_in = False
            self._send_soon("logout", 5.0)
        if act == "login":
            self._login = exchange
        if act == "login" and self.random.random() < 0.5:
            self.scheduler.after(15, partial(self._send_again_if_slow, exchange))

    def _send_again_if_slow(self, exchange: Exchange) -> None:
        if not exchange.is_over and self.wants_in and not self.is_over:
            self.send(exchange.path)

    def _send_soon(self, act: str, within: float = 1.0) -> None:
        def send() -> None:
            self.send(self._path_of(act))

        self.scheduler.after(self.random.uniform(0, within), send)

    def _path_of(self, act: str) -> str:
        if act == "login":
            return self._login_path()
        if act != "write":
            return f"/{act}"
        self._writes += 1
        return f"/write/{self.name}-{self._writes}"

    def _login_path(self) -> str:
        if self.scenario.has_other_users and self.random.random() < 0.1:
            self.user = f"{self.random.choice(['ada', 'bob'])}-{self.user.partition('-')[2]}"
        is_remembered = self.random.random() < self.scenario.remembered
        return f"/login/{self.user}/{int(is_remembered)}"

    def _gap(self) -> float:
        return self.random.expovariate(1 / self.scenario.gap)


class Thief(Browser):
    """Copies an owner's cookies at some moment, and uses them from another address."""

    address = "203.0.113.9"

    def steal(self, victim: Owner) -> None:
        """Copies the jar now, and plans its use. Some victims never come back."""
        if victim.user_token is None:
            return
        self.jar = victim.jar.copied()
        self.observer.on_copied(self)
        if self.random.random() < 0.2:
            victim.has_left = True
        first = self.random.choice([60.0, 1200.0, 5400.0]) * self.random.uniform(0.1, 1)
        uses = self.random.choice([1, 1, 3, 20])
        self.scheduler.after(first, partial(self._use, uses))

    def _use(self, left: int) -> None:
        if left and self.scheduler.now < self.scenario.seconds:
            self.send(self.random.choice(["/page", "/poll", "/write/of-a-thief"]))
            self.scheduler.after(self.random.uniform(30, 900), partial(self._use, left - 1))
