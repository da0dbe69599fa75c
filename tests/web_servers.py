"""Real web servers in front of the callback, each started from the file in ``config`` that operators get.

Only paths, port, user and certificate are replaced, and a text that is not there to be replaced is a failure; where a
test wants plain http, the lines are taken away that the file itself says may be. The servers run as whoever runs the
tests, since the callback must own its key. That must not be root for Apache, so root starts it in a user namespace.
"""

from __future__ import annotations

import http.client
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from tests.components import missing, program

CONFIG = Path(__file__).parent.parent / "config"
SERVERS = ("lighttpd", "nginx", "apache")
#: What pip makes of the entry point, with the interpreter of the tests.
CALLBACK = f"#!{sys.executable}\nfrom libtool.commands.callback import main\n\nmain()  # libtool-callback\n"
#: How long something may take that is expected to happen at once, in seconds.
PATIENCE = 30.0
#: As whom root starts what must not run as root.
_NOBODY = 65534
#: What a server is started with; not the PATH of its programs, which its file sets.
_CLEAN = {"PATH": "/usr/bin:/bin", "CANARY": "of the server"}


def replaced(text: str, replacements: Mapping[str, str]) -> str:
    """The text with every occurrence of each key replaced; each must be there, or the file has changed."""
    for old, new in replacements.items():
        assert old in text, f"{old!r} is not there to be replaced"
        text = text.replace(old, new)
    return text


def without(text: str, pattern: str, count: int) -> str:
    """The text without the lines that begin with a pattern, of which there must be so many."""
    text, gone = re.subn(rf"^ *(?:{pattern}).*\n", "", text, flags=re.MULTILINE)
    assert gone == count, f"{gone} lines begin with {pattern}, not {count}"
    return text


def until(true: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Wait until something is so, and fail when it is not so in time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what}: not so within {seconds:.0f} s"
        time.sleep(0.01)


def free_port() -> int:
    """A port on which nobody listens, outside of the range from which outgoing connections take theirs."""
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", random.randrange(20000, 32000)))
            return int(probe.getsockname()[1])


def make_certificate(top: Path) -> Path:
    """A certificate of this machine's own, ``certificate.pem`` beside ``certificate.key``."""
    openssl = program("openssl", "openssl")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    places = ["-keyout", str(top / "certificate.key"), "-out", str(top / "certificate.pem")]
    subprocess.run([openssl, *words.split(), *names, *places], check=True, capture_output=True)
    return top / "certificate.pem"


@dataclass
class Said:
    """One answer."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Server:
    """A server that answers for one librarian."""

    port: int
    place: Path
    certificate: Path | None
    mains: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def program(self) -> Path:
        """What is started for a request."""
        return self.place / "bin" / "libtool-callback"

    @property
    def url(self) -> str:
        """Its address without the port."""
        return "https://localhost" if self.certificate else "http://127.0.0.1"

    def connect(self) -> socket.socket:
        """A new connection to it."""
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        if self.certificate is None:
            return plain
        return ssl.create_default_context(cafile=str(self.certificate)).wrap_socket(plain, server_hostname="localhost")

    def ask(self, raw: bytes) -> Said:
        """Send exactly these bytes, and read one answer."""
        with self.connect() as connection:
            # Who refuses does not always read to the end before.
            with suppress(OSError):
                connection.sendall(raw)
            return read(connection, raw.partition(b" ")[0].decode())

    def processes(self, words: str = "") -> list[int]:
        """The processes that belong to it and have these words in their command line."""
        return [pid for main in self.mains for pid in of_session(main.pid) if words in command_line(pid)]

    def callbacks(self) -> list[int]:
        """The programs that are at work on a request."""
        return self.processes(f"{sys.executable} {self.program}")

    def logs(self) -> str:
        """What it said."""
        return "\n".join(f"{path}:\n{path.read_text()}" for path in sorted(self.place.glob("*.log")))


def read(connection: socket.socket, method: str = "POST") -> Said:
    """One answer from a connection."""
    answer = http.client.HTTPResponse(connection, method=method)
    answer.begin()
    return Said(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())


def of_session(session: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            state, _, _, belongs = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[:4]
            if int(belongs) == session and state not in "ZX":
                found.append(int(pid))
    return found


def command_line(pid: int) -> str:
    """How a process was started; nothing when it has gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


# -- starting them ------------------------------------------------------------------------------------------------


@contextmanager
def running(command: list[str], log: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, all of which is gone at the end."""
    with log.open("ab") as stream:
        main = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True, env=environment
        )
    try:
        yield main
    finally:
        main.terminate()
        with suppress(subprocess.TimeoutExpired):
            main.wait(PATIENCE)
        for how in (signal.SIGTERM, signal.SIGKILL):
            for pid in of_session(main.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, how)
            with suppress(AssertionError):
                until(lambda: not of_session(main.pid), "everything has ended", 5.0)
        main.wait(PATIENCE)
        assert of_session(main.pid) == []


@contextmanager
def serving(
    kind: str, place: Path, config: str, certificate: Path | None, text: str = CALLBACK
) -> Iterator[Server]:
    """A server of a kind in a directory of its own, for the librarian of a configuration; plain without a certificate.

    ``text`` is the program that it starts for every request.
    """
    start = {"lighttpd": _lighttpd, "nginx": _nginx, "apache": _apache}[kind]
    server = Server(free_port(), place, certificate)
    server.program.parent.mkdir(parents=True)
    server.program.write_text(text)
    server.program.chmod(0o755)
    (place / "empty").mkdir()
    with ExitStack() as stack:
        # The paths of Unix sockets must be short.
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="libtool-", dir="/tmp")))
        start(server, config, sockets, stack)
        _wait_for(server)
        yield server


def _wait_for(server: Server) -> None:
    """Until it answers as the librarian, or not at all any more."""

    def answers() -> bool:
        if any(main.poll() is not None for main in server.mains):
            _did_not_start(server)
        with suppress(OSError, http.client.HTTPException):
            return server.ask(b"GET /api/v2/ping/ HTTP/1.0\r\nHost: localhost\r\n\r\n").status != 502
        return False

    try:
        until(answers, "the server answers")
    except AssertionError:
        _did_not_start(server)


def _did_not_start(server: Server) -> NoReturn:
    raise AssertionError(f"the server did not start:\n{server.logs()}")


def _written(server: Server, name: str, text: str, replacements: Mapping[str, str]) -> str:
    """The path of a configuration with the replacements that all have in common, and its own."""
    common = {"/opt/libtool/bin": str(server.program.parent), "/srv/empty": str(server.place / "empty")}
    if server.certificate is not None:
        key = server.certificate.with_suffix(".key")
        common |= {"/etc/ssl/certs/libtool.pem": str(server.certificate), "/etc/ssl/private/libtool.key": str(key)}
    path = server.place / name
    path.write_text(replaced(text, {**common, **replacements}))
    return str(path)


def _lighttpd(server: Server, config: str, sockets: Path, stack: ExitStack) -> None:
    binary = program("lighttpd", "lighttpd")
    text = (CONFIG / "lighttpd.conf").read_text()
    if server.certificate is None:
        text = without(text, r"ssl\.|server\.modules \+= .*openssl", 5)
    elif not any(Path(top, "mod_openssl.so").exists() for top in ("/usr/lib/lighttpd", "/usr/lib64/lighttpd")):
        missing("lighttpd-mod-openssl", "mod_openssl is not installed")
    user = {'server.username = "libtool"\n': "", 'server.groupname = "libtool"\n': ""}  # it never stays root by name
    path = _written(
        server,
        "lighttpd.conf",
        text,
        {
            '"0.0.0.0"': '"127.0.0.1"',
            "server.port = 8443": f"server.port = {server.port}",
            "/etc/libtool/config.yaml": config,
            **(user if os.geteuid() == 0 else {}),
        },
    )
    command = [binary, "-D", "-f", path]
    server.mains.append(stack.enter_context(running(command, server.place / "lighttpd.log", _CLEAN)))


def _nginx(server: Server, config: str, sockets: Path, stack: ExitStack) -> None:
    binary = program("nginx", "nginx")
    program("nginx", "fcgiwrap")
    server.mains.append(stack.enter_context(_fcgiwrap(server, config, sockets)))
    text = (CONFIG / "nginx.conf").read_text()
    if server.certificate is None:
        text = without(replaced(text, {"listen 8443 ssl": "listen 8443"}), "ssl_", 3)
    # It makes all of these directories at its start, used or not.
    unused = "".join(f"\n  {kind}_temp_path {server.place}/{kind};" for kind in ("proxy", "uwsgi", "scgi"))
    path = _written(
        server,
        "nginx.conf",
        text,
        {
            "listen 8443": f"listen 127.0.0.1:{server.port}",
            # As an ordinary user it warns that it does not look at this.
            "user www-data;": "user root;" if os.geteuid() == 0 else "",
            "/run/libtool-nginx.pid": f"{server.place}/nginx.pid",
            "/run/libtool-fcgiwrap.sock": f"{sockets}/fcgiwrap",
            "/var/log/nginx": str(server.place),
            "client_body_temp_path /var/lib/nginx/body;": f"client_body_temp_path {server.place}/body;{unused}",
            "/var/lib/nginx/fastcgi": f"{server.place}/fastcgi",
        },
    )
    command = [binary, "-e", str(server.place / "nginx.log"), "-c", path, "-g", "daemon off;"]
    server.mains.append(stack.enter_context(running(command, server.place / "nginx.log", _CLEAN)))


@contextmanager
def _fcgiwrap(server: Server, config: str, sockets: Path) -> Iterator[subprocess.Popen[bytes]]:
    """fcgiwrap as the unit starts it, but that nobody hands it an open socket."""
    text = (CONFIG / "libtool-fcgiwrap.service").read_text()
    text = replaced(text, {"/opt/libtool/bin": str(server.program.parent), "/etc/libtool/config.yaml": config})
    environment = dict(line.split("=", 1) for line in re.findall(r"^Environment=(.*)$", text, re.MULTILINE))
    (command,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    words = [program("nginx", "fcgiwrap"), *command.split()[1:], "-s", f"unix:{sockets}/fcgiwrap"]
    with running(words, server.place / "fcgiwrap.log", environment) as main:
        until(lambda: (sockets / "fcgiwrap").exists() or main.poll() is not None, "fcgiwrap listens")
        yield main


def _apache(server: Server, config: str, sockets: Path, stack: ExitStack) -> None:
    binary = program("apache", "apache2", "httpd")
    text = (CONFIG / "apache.conf").read_text()
    if server.certificate is None:
        text = without(text, "SSL", 4)
    path = _written(
        server,
        "apache.conf",
        text,
        {
            "Listen 8443": f"Listen 127.0.0.1:{server.port}",
            # It looks the names up although an ordinary user cannot change to them.
            "User libtool": f"User #{os.geteuid() or _NOBODY}",
            "Group libtool": f"Group #{os.getegid() or _NOBODY}",
            "/run/libtool-apache.pid": f"{server.place}/apache.pid",
            'DefaultRuntimeDir "/run"': f'DefaultRuntimeDir "{server.place}"',
            "/run/libtool-cgid.sock": f"{sockets}/cgid",
            "/var/log/apache2": str(server.place),
            "/etc/libtool/config.yaml": config,
        },
    )
    command = [*_not_root(), binary, "-DFOREGROUND", "-f", path]
    server.mains.append(stack.enter_context(running(command, server.place / "apache.log", _CLEAN)))


def _not_root() -> list[str]:
    """What makes the command behind it believe that an ordinary user runs it, whose are all files of root."""
    if os.geteuid() != 0:
        return []
    words = ["unshare", "--user", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}"]
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        missing("apache", "it does not run as root, and there are no user namespaces here: run the tests as a user")
    return words
