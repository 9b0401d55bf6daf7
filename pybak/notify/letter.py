"""A mail as it is written and kept, before a server's block says from whom and to whom it goes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP
from typing import Final
from uuid import uuid4

from pybak.display import escape

MOST_SUBJECT: Final = 180
"""How many characters of a subject are kept."""

_STRINGS: Final = ("block", "id", "written_at", "subject", "text", "html", "status")


@dataclass(frozen=True)
class Letter:
    """One mail: `block` names who sends it; `written_at` is aware, in ISO format; no secrets."""

    block: str
    id: str
    written_at: str
    subject: str
    text: str
    html: str
    status: str

    @staticmethod
    def write(
        block: str, *, subject: str, text: str, html: str, status: str, now: datetime
    ) -> Letter:
        """Make a letter with an id of its own; the subject becomes one line that fits."""
        line = escape(" ".join(subject.split()))
        if len(line) > MOST_SUBJECT:
            line = line[: MOST_SUBJECT - 1] + "\N{HORIZONTAL ELLIPSIS}"
        return Letter(
            block=block, id=uuid4().hex, written_at=now.astimezone().isoformat(),
            subject=encodable(line), text=encodable(text), html=encodable(html), status=status,
        )  # fmt: skip

    def to_json(self) -> str:
        """Give the form of the outbox."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(data: str | bytes) -> Letter:
        """Read that form. Raises ValueError for anything else."""
        found = json.loads(data)
        if not isinstance(found, dict):
            raise ValueError("no letter")  # noqa: TRY004 - what json.loads raises
        values = {name: found.get(name) for name in _STRINGS}
        if not all(isinstance(value, str) for value in values.values()):
            raise ValueError("no letter")
        return Letter(**values)  # type: ignore[arg-type]

    def message(self, sender: str, recipients: tuple[str, ...]) -> EmailMessage:
        """Give the mail itself, in text and HTML. Raises ValueError for what makes no header."""
        message = EmailMessage(policy=SMTP)
        message["From"] = sender
        message["To"] = ", ".join(recipients)
        message["Subject"] = self.subject
        message["Date"] = datetime.fromisoformat(self.written_at)
        domain = sender.rpartition("@")[2].strip("> ") or "localhost"
        # The same at every attempt, so that a mail that arrives twice can be known as one.
        message["Message-ID"] = f"<pybak.{self.id}@{domain}>"
        message["Auto-Submitted"] = "auto-generated"  # keeps holiday messages away
        message["X-PyBak-Status"] = self.status
        message.set_content(self.text, cte="quoted-printable")
        message.add_alternative(self.html, subtype="html", cte="quoted-printable")
        return message


def encodable(text: str) -> str:
    """Give text that UTF-8 can hold; what stands for bytes that are no text becomes an escape."""
    return text.encode("utf-8", "backslashreplace").decode()
