"""What one request reports: the signals of its acts, and its lines in the log."""

from __future__ import annotations

import logging
import typing as t
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from . import signals
from .record import Client, Record, SessionInfo, Stored

if t.TYPE_CHECKING:
    from blinker import NamedSignal
    from flask.wrappers import Request
    from werkzeug.exceptions import HTTPException

    from .app_state import AppState
    from .session import Session

log: logging.Logger = logging.getLogger("flask_kvsession")


@dataclass(frozen=True, slots=True)
class _Pending:
    signal: NamedSignal
    info: SessionInfo
    more: dict[str, t.Any]
    undo: Callable[[], None] | None


class RequestEvents:
    """Queues the signals of acts that are stored in Redis. They are sent later, when the request's
    act or commit is complete."""

    def __init__(self, app: AppState, request: Request, session: Session) -> None:
        self._app = app
        self._request = request
        self._session = session
        self._pending: list[_Pending] = []

    def queue_for_current(
        self, signal: NamedSignal, *, undo: Callable[[], None] | None = None, **more: t.Any
    ) -> None:
        """Queues a signal about the current session; `more` are its further arguments. If a
        receiver raises, `undo` is called."""
        info = self._session.info()
        assert info, "the acts with such a signal leave a session"
        self._pending.append(_Pending(signal, info, more, undo))

    def queue_revoked(self, info: SessionInfo) -> None:
        self._queue(signals.session_revoked, info)

    def queue_logouts(self, ended: Iterable[Stored]) -> None:
        for stored in ended:
            if not stored.record.is_anonymous:
                self._queue(signals.user_logged_out, self._app.store.info(stored))

    def queue_activity(self, before: Record, after: Record) -> None:
        """Queues the signals of a written change."""
        if after.seen - before.seen >= self._app.settings.milliseconds.renewal_interval:
            self.queue_for_current(signals.session_renewed)
        if (before.ip, before.agent) != (after.ip, after.agent):
            self.queue_for_current(
                signals.client_changed,
                ip_address_before=before.ip,
                user_agent_before=before.agent,
            )

    def report_theft(self, info: SessionInfo, client: Client) -> None:
        log.warning(
            "a replaced secret of session %s was used again, so its cookie was copied: the session"
            " is ended. Last used from %r, now from %r",
            info.id,
            info.ip_address,
            client.ip,
        )
        self._queue(signals.token_reused, info, ip_address=client.ip, user_agent=client.agent)

    def log_unproven(self, stored: Stored, client: Client) -> None:
        """Logs that a request had the cookie of a bound session and no proof."""
        log.warning(
            "session %s is bound to a device, and a request from %r gave no proof of it: the"
            " request is not signed in, and its cookie may be a copy",
            stored.id,
            client.ip,
        )

    def send(self) -> bool:
        """Sends the pending signals; returns whether there were any."""
        were_any = bool(self._pending)
        while self._pending:
            pending = self._pending.pop(0)
            try:
                self._app.send_signal(pending.signal, pending.info, **pending.more)
            except BaseException:  # a timeout of a greenlet, too
                if pending.undo:
                    pending.undo()
                raise
        return were_any

    @contextmanager
    def sent_at_end(self) -> Iterator[None]:
        """Sends the pending signals when the block ends, also if the block raises."""
        try:
            yield
        finally:
            self.send()

    def log_refusal(self, refusal: HTTPException, level: int = logging.INFO) -> None:
        """Logs that this request was refused, in one line (OWASP ASVS 5.0, 16.3.2 and 16.3.3).

        It does not load the session, so a refusal that costs no Redis call still costs none.
        """
        sender, session = self._request, self._session
        user_id = session.user_id if session.is_loaded else None
        who = "anonymous" if user_id is None else f"session {session.id} of user {user_id!r:.100}"
        client = sender.remote_addr if self._app.settings.record_ip else None
        # %r: the client chose method and path, and a newline would look like another line.
        log.log(
            level,
            "refused %.20r %.200r: %s, %s, from %.50r",
            sender.method,
            sender.path,
            type(refusal).__name__,
            who,
            client,
        )

    def _queue(self, signal: NamedSignal, info: SessionInfo, **more: t.Any) -> None:
        self._pending.append(_Pending(signal, info, more, None))
