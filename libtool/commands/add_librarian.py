"""``add-librarian``: register another librarian."""

from __future__ import annotations

import click

from libtool import credentials
from libtool.archive import librarians
from libtool.commands.words import Frame, dry_run, pass_frame
from libtool.errors import LibtoolError, Refused
from libtool.node import Node


@click.command()
@click.option("--name", required=True, metavar="N", help="Its name, as in its own configuration.")
@click.option(
    "--url", required=True, metavar="U", help="http(s)://host[/path], or exec:///path/to/config.yaml on this machine."
)
@click.option(
    "--port", type=click.IntRange(1, 65535), metavar="P", help="Its port; default 443 for https, 80 for http."
)
@click.option(
    "--authenticator",
    required=True,
    metavar="USER:PASSWORD",
    help="Our account there; '-' reads it from standard input, file:PATH, env:VAR and so on look it up.",
)
@click.option("--do-not-check-connection", is_flag=True, help="Register it without asking it for a sign of life.")
@click.option("--allow-plain-http", is_flag=True, help="Accept that passwords travel unencrypted.")
@dry_run
@pass_frame
def add_librarian(
    frame: Frame,
    name: str,
    url: str,
    port: int | None,
    authenticator: str,
    do_not_check_connection: bool,
    allow_plain_http: bool,
    dry_run: bool,
) -> None:
    """Register another librarian under its own name, with the account that it made for us.

    The authenticator is kept encrypted. The connection is checked in a way that really needs the account.
    """
    secret, literal = credentials.resolve(authenticator, "authenticator")
    if literal:
        frame.tell(
            "warning: the password is in the shell's history and was in the process list; better give '-' or file:PATH"
        )
    with frame.open() as node:
        librarians.check_url(url, port, local=True, allow_plain_http=allow_plain_http)
        port = port if port is not None else _usual_port(url)
        if dry_run:
            librarians.check_free(node, name)
            print(f"would register {name} at {url}")
            return
        features = None
        if not do_not_check_connection:
            features = _check(node, name, url, port, secret)
        librarians.add(node, name, url, port, secret, node.conceal(secret), features)
        frame.say(f"librarian {name} is registered")


def _usual_port(url: str) -> int | None:
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    return parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def _check(node: Node, name: str, url: str, port: int | None, secret: str) -> str | None:
    """Ask for a sign of life under the account; nothing is registered when that fails."""
    try:
        return librarians.try_out(node, name, url, port, secret)
    except LibtoolError as trouble:
        how = "Nothing was registered. Mend it, or add --do-not-check-connection to register it all the same."
        raise Refused(why=trouble.reason, how=how) from None
