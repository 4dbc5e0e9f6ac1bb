"""Notices arrive at real servers, and no secret of an address shows anywhere."""

import asyncio
import logging
import smtplib
import socket
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any, cast

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from fer_ml.base.notify import Notice, send
from fer_ml.base.settings import Notifiers, settings
from tests.refusals import refused
from tests.webhook import SECRET, Hook

NOTICE = Notice(
    "red_gate",
    "fer sample: red gate leakage",
    "hq_train_manifest failed gate 'leakage': 3 (limit 0)\n  fix: clean it again",
    {"asset": "hq_train_manifest", "gate": "leakage"},
    "<p>leakage</p>",
)


class Box:
    """What a mail server does with mail: keeps it."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        parsed = message_from_bytes(envelope.content, policy=policy.default)
        self.mails.append(cast(EmailMessage, parsed))
        return "250 kept"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server(Controller):
    """The thread's event loop is closed too: pytest counts what is left open."""

    def stop(self, no_assert: bool = False) -> None:
        super().stop(no_assert)
        if not self.loop.is_closed():
            self.loop.close()


@pytest.fixture
def post_office() -> Iterator[tuple[Box, str]]:
    box = Box()
    server = Server(box, "127.0.0.1", free_port(), loop=asyncio.new_event_loop())
    server.start()
    yield box, f"127.0.0.1:{server.port}"
    server.stop()


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def configure(**variables: str) -> Notifiers:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        settings.cache_clear()
        return settings().notify

    for name in ("FER_WEBHOOK", "FER_SMTP", "FER_MAIL_TO", "FER_MAIL_FROM"):
        monkeypatch.delenv(name, raising=False)
    yield configure
    monkeypatch.undo()
    settings.cache_clear()


def test_without_configuration_a_notice_stands_in_the_log(
    configured: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert send(NOTICE, configured()) == ()
    assert NOTICE.subject in caplog.text
    assert "limit 0" in caplog.text


def test_a_webhook_gets_text_for_people_and_facts_for_programs(configured: Any) -> None:
    with Hook() as hook:
        assert send(NOTICE, configured(FER_WEBHOOK=hook.url)) == ("webhook",)
    assert hook.seen == [
        {
            "path": f"/{SECRET}",
            "kind": "red_gate",
            "subject": NOTICE.subject,
            "text": f"{NOTICE.subject}\n{NOTICE.text}",
            "asset": "hq_train_manifest",
            "gate": "leakage",
        }
    ]


def test_a_mail_has_text_and_page_for_every_receiver(
    configured: Any, post_office: tuple[Box, str]
) -> None:
    box, address = post_office
    to = configured(
        FER_SMTP=f"smtp://{address}",
        FER_MAIL_TO="a@example.org, b@example.org",
        FER_MAIL_FROM="f@x",
    )
    assert send(NOTICE, to) == ("e-mail",)
    (mail,) = box.mails
    assert (mail["subject"], mail["from"]) == (NOTICE.subject, "f@x")
    assert mail["to"] == "a@example.org, b@example.org"
    plain, page = mail.get_body(("plain",)), mail.get_body(("html",))
    assert plain is not None and page is not None
    assert plain.get_content().split() == NOTICE.text.split()
    assert page.get_content().strip() == NOTICE.html


def test_a_password_is_not_sent_over_a_line_without_tls(configured: Any) -> None:
    asked: list[bytes] = []

    def authenticate(server: Any, session: Any, envelope: Any, way: str, data: Any) -> AuthResult:
        asked.append(cast(LoginPassword, data).password)
        return AuthResult(success=True)

    box = Box()
    server = Server(
        box,
        "127.0.0.1",
        free_port(),
        loop=asyncio.new_event_loop(),
        authenticator=authenticate,
        auth_require_tls=False,
    )
    server.start()
    try:
        to = configured(FER_SMTP=f"smtp://u:{SECRET}@127.0.0.1:{server.port}", FER_MAIL_TO="a@b")
        with refused("notice-not-sent") as caught:
            send(NOTICE, to)
        assert smtplib.SMTPNotSupportedError.__name__ in caught.value.what
    finally:
        server.stop()
    assert (asked, box.mails) == ([], [])


def test_what_failed_is_named_without_its_address_and_the_others_are_sent(
    configured: Any, post_office: tuple[Box, str], caplog: pytest.LogCaptureFixture
) -> None:
    box, address = post_office
    with Hook(status=500) as hook:
        to = configured(
            FER_WEBHOOK=hook.url, FER_SMTP=f"smtp://{address}", FER_MAIL_TO="a@example.org"
        )
        with refused("notice-not-sent", where=NOTICE.subject) as caught:
            send(NOTICE, to)
    assert "webhook: " in caught.value.what and "e-mail" not in caught.value.what
    assert len(box.mails) == 1
    to = configured(FER_WEBHOOK=f"http://127.0.0.1:{free_port()}/{SECRET}")
    with refused("notice-not-sent", where=NOTICE.subject) as unanswered:
        send(NOTICE, to)
    for text in (str(caught.value), str(unanswered.value), caplog.text, repr(to), str(settings())):
        assert SECRET not in text


@pytest.mark.parametrize(
    "variables",
    [
        {"FER_WEBHOOK": f"file:///etc/{SECRET}"},
        {"FER_WEBHOOK": f"http:///{SECRET}"},
        {"FER_SMTP": f"smtp://{SECRET}:no-number", "FER_MAIL_TO": "a@b"},
        {"FER_SMTP": f"smtp://u:{SECRET}@host"},
        {"FER_MAIL_TO": "a@b"},
    ],
)
def test_a_wrong_address_is_refused_at_the_door_and_not_repeated(
    configured: Any, variables: dict[str, str]
) -> None:
    with refused("invalid-setting") as caught:
        configured(**variables)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_subject_of_several_lines_cannot_add_headers(
    configured: Any, post_office: tuple[Box, str]
) -> None:
    box, address = post_office
    send(
        Notice("digest", "one\nBcc: victim@example.org", "text"),
        configured(FER_SMTP=f"smtp://{address}", FER_MAIL_TO="a@example.org"),
    )
    (mail,) = box.mails
    assert mail["bcc"] is None
    assert mail["subject"] == "one Bcc: victim@example.org"
