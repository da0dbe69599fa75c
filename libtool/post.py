"""The post: one message for people, handed over to a mail server or to this host's sendmail.

It says what it is handed and decides nothing. Whatever goes wrong becomes MailFailed, which says what, what that means
and what to do; a password appears in none of it. It never takes longer than LONGEST.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from libtool import credentials
from libtool.errors import LibtoolError, MailFailed
from libtool.names import shown

if TYPE_CHECKING:
    import smtplib
    from email.message import EmailMessage

    from libtool.keys import EmailSettings, SmtpSettings

#: How long one answer of a mail server is waited for, and how long all may take, in seconds.
ANSWER_SECONDS, LONGEST = 20.0, 60.0
#: Where sendmail lies, whichever program goes by that name.
SENDMAILS = ("/usr/sbin/sendmail", "/usr/lib/sendmail", "/usr/local/sbin/sendmail", "/usr/bin/sendmail")
#: Characters of a subject.
SUBJECT = 120

_LOGIN = "Check email.smtp.user and the password; many providers want a password made for this application alone."
_REACH = "Check host, port and security under email.smtp, and that this machine may connect to there."


@dataclass(frozen=True)
class Letter:
    """What is to be said, and by whom; the same ``key`` makes the same Message-ID."""

    librarian: str
    key: str
    lines: tuple[str, ...]
    more: int
    time: datetime


def hand_over(letter: Letter, email: EmailSettings, password_file: str | None) -> list[str]:
    """Hand over one message to all recipients; returns those that were refused, each as ``address: why``.

    MailFailed when nobody gets it, or when it is not known whether anybody does.
    """
    message = compose(letter, email.sender, email.recipients)
    if email.smtp is None:
        return _within(LONGEST, "sendmail", lambda: _by_sendmail(message, email))
    smtp = email.smtp
    password = _password(smtp, password_file)
    return _within(LONGEST, _place(smtp), lambda: _by_smtp(message, email, smtp, password))


def compose(letter: Letter, sender: str, recipients: tuple[str, ...]) -> EmailMessage:
    """The message: plain text, for people and not to be answered by machines."""
    from email.message import EmailMessage
    from email.utils import format_datetime
    from hashlib import sha256

    lines = [shown(line) for line in letter.lines]
    rest = len(lines) - 1 + letter.more
    first = re.sub(r"^\d{4}-\d\d-\d\dT[\d:.]+Z  ", "", lines[0])  # the message has a time of its own
    first = first.replace("=?", "= ?")  # which would begin an encoded word
    begin = first if len(first) <= SUBJECT else first[: SUBJECT - 1] + "…"
    message = EmailMessage()
    message["From"] = sender
    message["To"] = ", ".join(recipients)
    message["Subject"] = f"libtool {letter.librarian}: {begin}" + (f" (and {rest} more)" if rest else "")
    message["Date"] = format_datetime(letter.time)
    digest = sha256(f"{letter.librarian}\n{letter.key}".encode("utf-8", "backslashreplace")).hexdigest()[:32]
    message["Message-ID"] = f"<libtool.{digest}@{sender.partition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    paragraphs = [*lines, *([f"And {letter.more} more before these."] if letter.more else [])]
    end = f"-- \nlibtool, librarian {letter.librarian}. 'libtool status' shows what lasts.\n"
    message.set_content("\n\n".join(paragraphs) + "\n\n" + end)
    return message


def _within(seconds: float, to: str, act: Callable[[], list[str]]) -> list[str]:
    """Do it in a thread of its own, which is left alone when it does not come to an end: a server that says a little now
    and then, or a name that nobody resolves, must not hold up the run."""
    import threading

    ended: list[list[str] | MailFailed] = []

    def work() -> None:
        try:
            ended.append(act())
        except MailFailed as failure:
            ended.append(failure)
        except Exception as trouble:  # of smtplib, of ssl, of names that cannot be encoded: many kinds from below
            ended.append(MailFailed(to=to, why=_why(trouble), how=_REACH))

    thread = threading.Thread(target=work, name="post", daemon=True)
    thread.start()
    thread.join(seconds)
    if not ended:
        raise MailFailed(to=to, why=f"it took longer than {seconds:g} s", how=_REACH)
    if isinstance(ended[0], MailFailed):
        raise ended[0]
    return ended[0]


# -- by a mail server ---------------------------------------------------------------------------------------------


def _place(smtp: SmtpSettings) -> str:
    return f"[{smtp.host}]:{smtp.port}" if ":" in smtp.host else f"{smtp.host}:{smtp.port}"


def _password(smtp: SmtpSettings, file: str | None) -> str | None:
    if smtp.user is None:
        return None
    try:
        return credentials.find("smtp_password", file)[0]
    except LibtoolError as trouble:
        how = trouble.advice
        if file is None:
            how = "Put it into a file only you can read, and name that with 'password_file' of email.smtp."
        raise MailFailed(to=_place(smtp), why=trouble.reason, how=how) from None


def _by_smtp(message: EmailMessage, email: EmailSettings, smtp: SmtpSettings, password: str | None) -> list[str]:
    import smtplib

    to = _place(smtp)
    hidden = _spellings(smtp.user, password)
    server = _connected(smtp, to)
    try:
        server.ehlo_or_helo_if_needed()
        if smtp.security == "starttls":
            _start_tls(server, to)
        if smtp.user is not None and password is not None:
            _log_in(server, smtp.user, password, to)
        data = message.as_bytes(policy=message.policy.clone(linesep="\r\n"))
        refused = server.sendmail(email.sender, list(email.recipients), data)
    except smtplib.SMTPSenderRefused as trouble:
        why = f"the sender {email.sender} is refused: {_said(trouble.smtp_code, trouble.smtp_error, hidden)}"
        raise MailFailed(to=to, why=why, how="Check email.sender; most servers want an address of their own.") from None
    except smtplib.SMTPRecipientsRefused as trouble:
        said = [f"{address}: {_said(*reply, hidden)}" for address, reply in trouble.recipients.items()]
        why = f"no recipient is taken: {'; '.join(said)}"
        raise MailFailed(
            to=to, why=why, how="Check email.recipients, and whether the server wants an account."
        ) from None
    except smtplib.SMTPResponseException as trouble:
        raise MailFailed(
            to=to, why=f"it answered {_said(trouble.smtp_code, trouble.smtp_error, hidden)}", how=_REACH
        ) from None
    finally:
        with suppress(Exception):  # what it took it has, however it says goodbye
            if server.sock is not None:
                server.sock.settimeout(2.0)
                server.quit()
        server.close()
    return [f"{address}: {_said(*reply, hidden)}" for address, reply in refused.items()]


def _connected(smtp: SmtpSettings, to: str) -> smtplib.SMTP:
    import smtplib
    import ssl

    try:
        if smtp.security == "tls":
            return smtplib.SMTP_SSL(smtp.host, smtp.port, timeout=ANSWER_SECONDS, context=ssl.create_default_context())
        return smtplib.SMTP(smtp.host, smtp.port, timeout=ANSWER_SECONDS)
    except smtplib.SMTPResponseException as trouble:
        why = f"it takes no mail now: {_said(trouble.smtp_code, trouble.smtp_error)}"
        raise MailFailed(to=to, why=why, how=_REACH) from None


def _start_tls(server: smtplib.SMTP, to: str) -> None:
    """Never without: whoever stands in between could make the offer disappear."""
    import smtplib
    import ssl

    try:
        code, said = server.starttls(context=ssl.create_default_context())
        if code != 220:
            raise smtplib.SMTPResponseException(code, said)
    except smtplib.SMTPNotSupportedError:
        how = "Check email.smtp.security and port; with 'tls' the port is mostly 465."
        raise MailFailed(to=to, why="it does not offer STARTTLS", how=how) from None
    except smtplib.SMTPResponseException as trouble:  # some versions raise it themselves
        why = f"it refuses STARTTLS: {_said(trouble.smtp_code, trouble.smtp_error)}"
        raise MailFailed(to=to, why=why, how=_REACH) from None
    server.ehlo()


def _log_in(server: smtplib.SMTP, user: str, password: str, to: str) -> None:
    """Of what it says about a refusal only the numbers are passed on: some repeat what they were told."""
    import smtplib

    try:
        server.login(user, password)
    except smtplib.SMTPResponseException as trouble:
        codes = re.match(rb"[245]\.\d{1,3}\.\d{1,3}", _bytes(trouble.smtp_error))
        said = f"{trouble.smtp_code} {codes[0].decode()}" if codes else str(trouble.smtp_code)
        raise MailFailed(to=to, why=f"it does not accept the account {user} ({said})", how=_LOGIN) from None
    except smtplib.SMTPNotSupportedError:
        how = "Check email.smtp.security, or leave out user if it takes mail without one."
        raise MailFailed(to=to, why="it offers no login on this connection", how=how) from None
    except UnicodeEncodeError:
        why = "the user or the password has letters that are not ASCII, which cannot be sent"
        raise MailFailed(to=to, why=why, how="Have another password made.") from None
    except smtplib.SMTPServerDisconnected:
        why = f"it closed the connection at the login of {user}"
        raise MailFailed(to=to, why=why, how=_LOGIN) from None
    except smtplib.SMTPException:
        why = "it offers no login that is known here (PLAIN, LOGIN, CRAM-MD5)"
        raise MailFailed(to=to, why=why, how="Use a relay that does, or this host's sendmail.") from None


def _bytes(said: Any) -> bytes:
    return said if isinstance(said, bytes) else str(said).encode("utf-8", "backslashreplace")


def _spellings(user: str | None, password: str | None) -> tuple[str, ...]:
    """A secret as it may have been sent."""
    import base64

    if not password:
        return ()
    sent = (password, f"\0{user}\0{password}")
    return (password, *(base64.b64encode(each.encode("utf-8", "replace")).decode() for each in sent))


def _said(code: int, said: Any, hidden: tuple[str, ...] = ()) -> str:
    """What a server said, as far as it may be repeated."""
    text = _bytes(said).decode("utf-8", "backslashreplace")
    if any(secret in text for secret in hidden):
        return f"{code} (and what it was told in secret)"
    return f"{code} {' '.join(text.split())[:300]}"


def _why(trouble: Exception) -> str:
    """What is the matter, in words."""
    import smtplib
    import ssl

    if isinstance(trouble, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {trouble.verify_message}"
    if isinstance(trouble, ssl.SSLError):
        return f"TLS does not come about: {(trouble.reason or 'no reason given').lower().replace('_', ' ')}"
    if isinstance(trouble, TimeoutError) or "timed out" in str(trouble):
        return f"no answer within {ANSWER_SECONDS:g} s"
    if isinstance(trouble, smtplib.SMTPServerDisconnected):
        return "it closed the connection"
    if isinstance(trouble, smtplib.SMTPException) or not isinstance(trouble, OSError):
        return f"{type(trouble).__name__}"
    return trouble.strerror or type(trouble).__name__


# -- by sendmail --------------------------------------------------------------------------------------------------


def _by_sendmail(message: EmailMessage, email: EmailSettings) -> list[str]:
    """Recipients are arguments, so that nothing in the message can add one."""
    import subprocess
    import tempfile

    found = next((path for path in SENDMAILS if os.access(path, os.X_OK)), None)
    if found is None:
        why = f"there is none at {', '.join(SENDMAILS)}"
        raise MailFailed(to="sendmail", why=why, how="Install a mail program, or name a mail server: email.smtp.")
    with tempfile.TemporaryFile() as output:  # a pipe would stay open as long as whatever it leaves behind
        try:
            done = subprocess.run(
                [found, "-oi", "-f", email.sender, "--", *email.recipients],
                input=message.as_bytes(policy=message.policy.clone(linesep="\n")),
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=LONGEST / 2,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise MailFailed(to=found, why="it did not come to an end", how="Look at its log and its queue.") from None
        if done.returncode:
            output.seek(0)
            words = " ".join(output.read(2000).decode("utf-8", "backslashreplace").split())[:300]
            why = f"it ended with {done.returncode}" + (f" and said: {words}" if words else "")
            raise MailFailed(to=found, why=why, how="Look at its log.")
    return []
