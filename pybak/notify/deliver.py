"""Send what waits in the outbox, the oldest first, over one connection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from pybak.display import escape
from pybak.notify.failures import NoticeError
from pybak.notify.letter import Letter
from pybak.notify.outbox import Outbox
from pybak.notify.patience import FIRST_WAIT_SECONDS, patiently
from pybak.notify.smtp import MailConnection, MailSettings, connected

ATTEMPTS: Final = 3
TRYING_SECONDS: Final = 25.0
"""No further attempt begins after so many seconds."""
MAIL_SECONDS: Final = 35.0
"""How long a run waits for its mail in all; what is not sent then, stays in the outbox."""


@dataclass
class Delivery:
    """One sending of mails: `loose` ones could not be kept.

    While it goes on `sent` and `aside` get the ids of letters that were sent, or that the server
    will never take, and `refused` the recipients that it does not know.
    """

    settings: MailSettings
    outbox: Outbox
    block: str
    loose: Sequence[Letter] = ()
    attempts: int = ATTEMPTS
    seconds: float = TRYING_SECONDS
    first_wait: float = FIRST_WAIT_SECONDS
    sent: list[str] = field(default_factory=list)
    aside: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Send all that waits. Raises the NoticeError that kept a mail from being sent."""
        patiently(
            self._attempt, attempts=self.attempts, seconds=self.seconds, first_wait=self.first_wait
        )

    def _attempt(self) -> None:
        waiting = self.outbox.waiting(self.block)
        loose = [letter for letter in self.loose if letter.id not in self.sent]
        if not waiting and not loose:
            return
        problem: NoticeError | None = None
        with connected(self.settings) as connection:
            for path in waiting:
                with self.outbox.claimed(path) as letter:
                    if letter is None:
                        continue
                    try:
                        self._send(connection, letter)
                    except NoticeError as error:
                        if not error.is_refused:
                            raise
                        problem = error  # one that is refused must not keep the others
                        if not error.retryable:
                            self.outbox.set_aside(path)
                            self.aside.append(letter.id)
                        continue
                    self.outbox.remove(path)
            for letter in loose:
                self._send(connection, letter)
        if problem is not None:
            raise problem

    def _send(self, connection: MailConnection, letter: Letter) -> None:
        self.refused.update(escape(who) for who in connection.send(letter))
        self.sent.append(letter.id)
