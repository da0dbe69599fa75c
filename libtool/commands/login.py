"""``login``: give this node its identity at Globus."""

from __future__ import annotations

import sys
from typing import Any

import click

from libtool import credentials
from libtool.archive import carriers
from libtool.commands.words import Frame, dry_run, pass_frame
from libtool.errors import PersonNeeded, SecretMissing


@click.command()
@click.option(
    "--collection",
    "more",
    multiple=True,
    metavar="ID",
    help="Consent to the data of this mapped collection, too; those of the configuration are always asked for.",
)
@click.option(
    "--code",
    metavar="REFERENCE",
    help="Where the code comes from; '-' reads it from standard input. Without it a terminal asks.",
)
@click.option(
    "--secret",
    metavar="REFERENCE",
    help="A service account's secret, to be kept here: '-' reads standard input, file:PATH and so on look it up.",
)
@click.option("--keyring", is_flag=True, help="Keep a person's login in the desktop's keyring instead of a file.")
@dry_run
@pass_frame
def login(
    frame: Frame, more: tuple[str, ...], code: str | None, secret: str | None, keyring: bool, dry_run: bool
) -> None:
    """Log in to Globus: a person visits an address and types a code; a service account's secret is tried out."""
    with frame.open() as node:
        identity = node.identity()
        collections = sorted({*carriers.collections(node), *more})
        if dry_run:
            kind = "a person" if identity.person else "a service account"
            print(f"would log in as {kind} of the application {identity.client}")
            for collection in collections:
                print(f"would ask for consent where collection {collection} needs it")
            return
        if identity.service:
            frame.tell(f"note: Globus is at {identity.service} (set by the environment)")
        if identity.person:

            def ask(address: str) -> str:
                return _ask(frame, address, code)

            lines = identity.login(ask, collections, label=f"libtool {node.settings.name}"[:100], keyring=keyring)
        else:
            lines = identity.prove(collections, _secret(frame, identity, secret))
    for line in lines:
        frame.say(line)


def _ask(frame: Frame, address: str, code: str | None) -> str:
    """Show the address and get the code: from a terminal, or from where ``--code`` says."""
    if code is None and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise PersonNeeded(
            why="logging in needs a terminal, where an address is shown and a code is typed",
            how="Run 'libtool login' there, or give --code - to read the code from standard input.",
        )
    frame.tell("Visit this address, log in, and copy the code that it shows:")
    print(address, file=sys.stderr, flush=True)  # as it is: people copy it
    if code is None:
        return str(click.prompt("code", err=True)).strip()
    return credentials.resolve(code, "code")[0].strip()


def _secret(frame: Frame, identity: Any, given: str | None) -> str | None:
    """A service account's secret that is to be kept; None when there is one already."""
    if given is not None:
        found, literal = credentials.resolve(given, "globus_client_secret")
        if literal:
            frame.tell("warning: the secret is in the shell's history and was in the process list; better give '-'")
        return found
    try:
        identity.tokens.secret()
    except SecretMissing as missing:
        if sys.stdin.isatty() and sys.stderr.isatty():
            return str(click.prompt("client secret", hide_input=True, err=True)).strip()
        raise PersonNeeded(
            why=missing.reason, how="Run 'libtool login --secret -' and type it, or pipe it in; it is kept here."
        ) from None
    return None
