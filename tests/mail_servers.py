"""Mail servers for tests: one in this process that can misbehave, and a real one.

`MailHouse` takes mails over STARTTLS with AUTH, by certificates of an authority of its own, and
keeps them in `messages`. `running_exim` is Exim, as an operator would set one up.
"""

from __future__ import annotations

import contextlib
import email
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

USER, PASSWORD = "nas@example.org", "sesame-open-now"
RECIPIENT = "ann@example.org"


@dataclass
class MailHouse:
    """A mail server in a thread. `answers` are given to DATA, in turn, before mails are taken.

    An answer of None cuts the connection; `refused` are the recipients that get 550.
    """

    folder: Path
    require_tls: bool = True
    require_auth: bool = True
    implicit_tls: bool = False
    names: tuple[str, ...] = ("127.0.0.1", "localhost")
    messages: list[EmailMessage] = field(default_factory=list)
    envelopes: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    answers: list[str | None] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    auth_answer: str | None = None
    connections: int = 0

    def __enter__(self) -> MailHouse:
        authority = trustme.CA()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ca_file = self.folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*self.names).configure_cert(context)
        house = self

        class Server(SMTP):
            def connection_made(self, transport: Any) -> None:
                house.connections += not transport.get_extra_info(
                    "sslcontext"
                )  # STARTTLS makes it anew
                super().connection_made(transport)

        class Listening(Controller):
            def factory(self) -> SMTP:
                return Server(self.handler, **self.SMTP_kwargs)

        how: dict[str, Any] = {
            "authenticator": self._login, "auth_required": self.require_auth,
            "auth_require_tls": self.require_tls, "decode_data": False,
        }  # fmt: skip
        if self.implicit_tls:
            how |= {"auth_require_tls": False}
            self._controller = Listening(
                self, hostname="127.0.0.1", port=free_port(), ssl_context=context, **how
            )
        else:
            if self.require_tls:
                how |= {"tls_context": context, "require_starttls": True}
            self._controller = Listening(self, hostname="127.0.0.1", port=free_port(), **how)
        self._controller.start()
        self.connections = 0  # it looks whether it can be reached
        self.port: int = self._controller.port
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop(no_assert=True)

    def _login(
        self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        good = (data.login, data.password) == (USER.encode(), PASSWORD.encode())
        if good and self.auth_answer is None:
            return AuthResult(success=True)
        # A server that repeats what it was sent, as some do.
        said = self.auth_answer or f"535 5.7.8 bad user or password {data.password.decode()}"
        return AuthResult(success=False, handled=False, message=said)

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        if address in self.refused:
            return "550 5.1.1 unknown user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.answers:
            answer = self.answers.pop(0)
            if answer is None:
                server.transport.abort()
                return "421 gone"
            if not answer.startswith("2"):
                return answer
        parsed: Any = email.message_from_bytes(envelope.content, policy=default)
        self.messages.append(parsed)
        self.envelopes.append((envelope.mail_from, tuple(envelope.rcpt_tos)))
        return "250 taken"


def free_port() -> int:
    """Give a port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def mute_server(greeting: bytes = b"", *, drip: bool = False) -> Iterator[int]:
    """Listen, say `greeting`, and nothing more, with `drip` a byte now and then; give the port."""
    done = threading.Event()
    open_ones: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(connection: socket.socket) -> None:
            with contextlib.suppress(OSError):
                connection.sendall(greeting)
                while drip and not done.wait(0.05):
                    connection.sendall(b"2")

        def accept() -> None:
            with contextlib.suppress(OSError):
                while not done.is_set():
                    connection, _ = listener.accept()
                    open_ones.append(connection)
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            done.set()
            for connection in open_ones:
                connection.close()


_EXIM = """\
primary_hostname = localhost
daemon_smtp_ports = {port}
local_interfaces = 127.0.0.1
tls_advertise_hosts = *
tls_certificate = {folder}/cert.pem
tls_privatekey = {folder}/key.pem
auth_advertise_hosts = ${{if def:tls_in_cipher{{*}}{{}}}}
message_size_limit = 1M
acl_smtp_rcpt = recipients
spool_directory = {folder}/spool
log_file_path = {folder}/%s.log
never_users =
begin acl
recipients:
  deny  !authenticated = *
        message = 530 5.7.0 authentication required
  accept
begin routers
everything:
  driver = accept
  transport = box
begin transports
box:
  driver = appendfile
  directory = {folder}/Maildir
  maildir_format
  create_directory
  user = Debian-exim
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if and{{{{eq{{$auth2}}{{{user}}}}}{{eq{{$auth3}}{{{password}}}}}}}}}
  server_set_id = $auth2
"""


@dataclass(frozen=True)
class Exim:
    """A running Exim: where it listens, whom to trust, and what it delivered."""

    port: int
    folder: Path

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    def messages(self, *, at_least: int = 1, seconds: float = 20) -> list[EmailMessage]:
        """Give what lies in the mailbox, once so many mails do."""
        deadline = time.monotonic() + seconds
        box = self.folder / "Maildir" / "new"
        while True:
            found = sorted(box.glob("*")) if box.is_dir() else []
            if len(found) >= at_least:
                return [
                    email.message_from_bytes(path.read_bytes(), policy=default)  # type: ignore[misc]
                    for path in found
                ]
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    def log(self) -> str:
        """Give what it wrote, for a failed assertion."""
        return "\n".join(path.read_text() for path in self.folder.glob("*.log"))


@contextmanager
def running_exim() -> Iterator[Exim]:
    """Run Exim in the foreground, with STARTTLS, AUTH PLAIN and a mailbox. Needs root."""
    # Its own user must come there, which is not so below pytest's folders.
    with tempfile.TemporaryDirectory(prefix="pybak-exim-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield from _running_exim(folder)


def _running_exim(folder: Path) -> Iterator[Exim]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1", "localhost")
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    (folder / "spool").mkdir()
    port = free_port()
    config = folder / "exim.conf"
    config.write_text(_EXIM.format(port=port, folder=folder, user=USER, password=PASSWORD))
    config.chmod(0o644)
    for path in (folder / "key.pem", folder / "spool", folder):
        shutil.chown(path, "Debian-exim", "Debian-exim")
    program = shutil.which("exim4", path="/usr/sbin:/usr/bin")
    assert program is not None
    with subprocess.Popen(
        [program, "-C", str(config), "-bdf", "-q1m"], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        exim = Exim(port, folder)
        try:
            deadline = time.monotonic() + 20
            while True:
                assert process.poll() is None, exim.log()
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert time.monotonic() < deadline, exim.log()
                    time.sleep(0.1)
            yield exim
        finally:
            process.terminate()
            process.wait(10)
