"""``add-librarian``: register another librarian."""

from __future__ import annotations

import click

from libtool import credentials
from libtool.archive.desk import Newcomer
from libtool.commands.words import Frame, at_connection, dry_run, pass_frame
from libtool.errors import Refused


@click.command()
@click.option("--name", required=True, metavar="N", help="Its name, as in its own configuration.")
@click.option(
    "--url",
    required=True,
    metavar="U",
    help="http(s)://host[/path], ssh://user@host, or exec:///path/to/config.yaml on this machine.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    metavar="P",
    help="Its port; default 443 for https, 80 for http, 22 for ssh.",
)
@click.option(
    "--authenticator",
    metavar="USER:PASSWORD",
    help="Our account there; '-' reads it from standard input, file:PATH, env:VAR and so on look it up. None over ssh.",
)
@click.option("--do-not-check-connection", is_flag=True, help="Register it without asking it for a sign of life.")
@click.option("--allow-plain-http", is_flag=True, help="Accept that passwords travel unencrypted.")
@at_connection
@dry_run
@pass_frame
def add_librarian(
    frame: Frame,
    name: str,
    url: str,
    port: int | None,
    authenticator: str | None,
    do_not_check_connection: bool,
    allow_plain_http: bool,
    connection: str | None,
    dry_run: bool,
) -> None:
    """Register another librarian under its own name, with the account that it made for us.

    The authenticator is kept encrypted. The connection is checked in a way that really needs the account. 'connect'
    does this and more, for both sides.
    """
    secret = _account(frame, url, authenticator)
    newcomer = Newcomer(name, url, port, secret, not do_not_check_connection, allow_plain_http)
    with frame.desk(connection) as desk:
        if dry_run:
            desk.vet(newcomer)
            print(f"would register {name} at {url}")
            return
        desk.add_librarian(newcomer)
        frame.say(f"librarian {name} is registered")


def _account(frame: Frame, url: str, authenticator: str | None) -> str:
    if authenticator is None:
        if url.startswith("ssh:"):
            return ""
        raise Refused(
            why="an account at that librarian is needed", how="Give --authenticator, best as '-' or file:PATH."
        )
    secret, literal = credentials.resolve(authenticator, "authenticator")
    if literal:
        frame.tell(
            "warning: the password is in the shell's history and was in the process list; better give '-' or file:PATH"
        )
    return secret
