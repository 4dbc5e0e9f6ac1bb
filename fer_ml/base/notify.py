"""Notices to people: written to the log and, where configured, sent to a webhook and by e-mail.

Addresses come from ``settings`` and hold secrets: no message, log line or error repeats them.
"""

import json
import logging
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any, Literal
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import SecretStr

from fer_ml.base.errors import FerError
from fer_ml.base.settings import Notifiers

log = logging.getLogger(__name__)

#: Seconds for one attempt; a server that hangs must not hold up the schedules.
TIMEOUT_S = 10
SMTP_PORTS = {"smtp": 587, "smtps": 465}


@dataclass(frozen=True)
class Notice:
    """One notice. ``facts`` are JSON values for programs; ``html`` is a complete page."""

    kind: Literal["run_failed", "red_gate", "digest"]
    subject: str
    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    html: str | None = None


def send(notice: Notice, to: Notifiers) -> tuple[str, ...]:
    """Log ``notice`` and send it by every configured way; return the names of these ways.

    If some fail, the others are still tried; then ``FerError`` names those that failed and why.
    """
    log.warning("%s\n%s", notice.subject, notice.text)
    senders: dict[str, Callable[[Notice, Notifiers], None]] = {"webhook": _post, "e-mail": _mail}
    failed = {}
    for way in to.ways:
        try:
            senders[way](notice, to)
        except (OSError, ValueError, smtplib.SMTPException) as error:
            failed[way] = _reason(error)
    if failed:
        raise FerError(
            "a notice was not sent: " + "; ".join(f"{way}: {why}" for way, why in failed.items()),
            code="notice-not-sent",
            where=notice.subject,
            fix="check FER_WEBHOOK, FER_SMTP, FER_MAIL_TO, and the servers they name; the notice "
            "itself stands in the log",
        )
    return to.ways


def _reason(error: Exception) -> str:
    """Describe the error without the library's own message, which may quote a secret address."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code}"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"the server answered {error.smtp_code}"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, OSError):
        error = error.reason
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


def _post(notice: Notice, to: Notifiers) -> None:
    """POST JSON; ``text`` is what chat programs show."""
    body = {
        "kind": notice.kind,
        "subject": notice.subject,
        "text": f"{notice.subject}\n{notice.text}",
        **notice.facts,
    }
    request = urllib.request.Request(
        _secret(to.webhook),
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S):
        pass


def _mail(notice: Notice, to: Notifiers) -> None:
    server = urlsplit(_secret(to.smtp))
    message = EmailMessage()
    message["Subject"] = " ".join(notice.subject.split())
    message["From"] = to.mail_from or to.mail_to[0]
    message["To"] = ", ".join(to.mail_to)
    message.set_content(notice.text)
    if notice.html is not None:
        message.add_alternative(notice.html, subtype="html")
    with _connection(server) as smtp:
        smtp.ehlo_or_helo_if_needed()
        if server.scheme == "smtp" and (server.username or smtp.has_extn("starttls")):
            # A password never goes over a line that can be read: without TLS this raises.
            smtp.starttls(context=ssl.create_default_context())
        if server.username:
            smtp.login(unquote(server.username), unquote(server.password or ""))
        smtp.send_message(message)


def _connection(server: SplitResult) -> smtplib.SMTP:
    host, port = server.hostname or "", server.port or SMTP_PORTS[server.scheme]
    if server.scheme == "smtps":
        context = ssl.create_default_context()
        return smtplib.SMTP_SSL(host, port, timeout=TIMEOUT_S, context=context)
    return smtplib.SMTP(host, port, timeout=TIMEOUT_S)


def _secret(secret: SecretStr | None) -> str:
    assert secret is not None, "asked for a way that is not configured"
    return secret.get_secret_value()
