"""The transport ``http(s)://``: one connection per run, kept alive, with time-outs, without redirects."""

from __future__ import annotations

import threading

import requests

from libtool.peers.client import ANSWER_LIMIT, CONNECT_SECONDS, Answer, NoAnswer, Transport


class HttpTransport(Transport):
    """requests, bounded."""

    def __init__(self, base: str, timeout: float, authority: str | None = None) -> None:
        self.base = base
        self.timeout = timeout
        self.authority = authority
        self.session = _session()

    def post(self, path: str, body: bytes, authorization: str | None) -> Answer:
        """The whole request has ``timeout`` seconds: a peer that drips keeps every time-out of a single read."""
        said: list[Answer] = []
        wrong: list[Exception] = []

        def ask(session: requests.Session) -> None:
            try:
                said.append(self._post(session, path, body, authorization))
            except Exception as trouble:
                wrong.append(trouble)

        asking = threading.Thread(target=ask, args=(self.session,), daemon=True)
        asking.start()
        asking.join(self.timeout)
        if said:
            return said[0]
        if wrong:
            raise wrong[0]
        self.session = _session()  # the other one belongs to whoever still waits
        raise NoAnswer(f"no answer from {self.base} in time")

    def _post(self, session: requests.Session, path: str, body: bytes, authorization: str | None) -> Answer:
        """A redirect is no answer: it would turn the POST into something else, or send the password elsewhere."""
        headers = {"Content-Type": "application/json", "Accept": "*/*"}
        if authorization:
            headers["Authorization"] = authorization
        try:
            with session.post(
                self.base + path,
                data=body,
                headers=headers,
                timeout=(CONNECT_SECONDS, self.timeout),
                allow_redirects=False,
                stream=True,
                verify=self.authority or True,
            ) as reply:
                content = b"".join(self._bounded(reply))
                if 300 <= reply.status_code < 400:
                    raise NoAnswer(
                        f"{self.base} redirects to {reply.headers.get('Location', 'nowhere')}; register that instead"
                    )
                found = {name.lower(): value for name, value in reply.headers.items()}
                return Answer(reply.status_code, found, content)
        except requests.exceptions.RequestException as trouble:
            raise NoAnswer(_in_words(trouble, self.base)) from None
        except (OSError, ValueError) as trouble:  # such as a file of certificates, or a host, that cannot be
            raise NoAnswer(f"{self.base}: {trouble}") from None

    @staticmethod
    def _bounded(reply: requests.Response) -> list[bytes]:
        parts, size = [], 0
        for part in reply.iter_content(1 << 16):
            size += len(part)
            if size > ANSWER_LIMIT:
                raise NoAnswer("its answer does not end")
            parts.append(part)
        return parts

    def close(self) -> None:
        """Close the connection."""
        self.session.close()


def _session() -> requests.Session:
    session = requests.Session()
    # ~/.netrc must not replace the account of the librarian.
    session.auth = _keep_header
    return session


def _keep_header(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _in_words(trouble: Exception, base: str) -> str:
    """What went wrong, without the internals of three libraries."""
    if isinstance(trouble, requests.exceptions.ConnectTimeout):
        return f"no connection to {base} within {CONNECT_SECONDS:.0f} s"
    if isinstance(trouble, requests.exceptions.Timeout):
        return f"no answer from {base} in time"
    if isinstance(trouble, requests.exceptions.SSLError):
        return f"the certificate of {base} was not accepted; an authority of your own is named with ca_file"
    inner: BaseException | None = trouble
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return f"{base}: {inner.strerror}"
        reason = getattr(inner, "reason", None) or (inner.args[0] if inner.args else None)
        inner = reason if isinstance(reason, BaseException) else inner.__cause__
    return f"{base}: the connection broke"
