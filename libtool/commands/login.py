"""``login``: give this node its identity at Globus."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from libtool import credentials
from libtool.commands.words import Frame, dry_run, pass_frame
from libtool.errors import PersonNeeded, SecretMissing
from libtool.names import is_uuid

if TYPE_CHECKING:
    from libtool.node import Node


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
    help="Where the codes come from; '-' reads a line of standard input for each visit. Without it a terminal asks.",
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
    for collection in more:
        if not is_uuid(collection):
            raise click.UsageError(f"--collection {collection} is no id of a collection")
    with frame.open() as node:
        identity = node.identity()
        for given, name, person in ((secret, "--secret", False), (code, "--code", True), (keyring, "--keyring", True)):
            if given and identity.person is not person:
                whose = "a person" if person else "a service account"
                now = str(not person).lower()
                raise click.UsageError(f"{name} belongs to {whose}, and globus_client_native_app is {now}")
        collections = sorted({*node.settings.collections, *more})
        if dry_run:
            kind = "a person" if identity.person else "a service account"
            print(f"would log in as {kind} of the application {identity.client}")
            for collection in collections:
                print(f"would ask for consent where collection {collection} needs it")
            return
        announce(frame, node)
        identity.tokens.mend()
        if identity.person:

            def ask(address: str, why: str) -> str:
                return _ask(frame, address, why, code)

            lines = identity.login(ask, collections, label=f"libtool {node.settings.name}"[:100], keyring=keyring)
        else:
            lines = identity.prove(collections, _secret(frame, identity, secret))
    for line in lines:
        frame.say(line)


def announce(frame: Frame, node: Node) -> None:
    """Say what a person at the terminal might not know."""
    if service := node.identity().service:
        frame.say(f"note: Globus is at {service} (set by the environment)")
    if not node.settings.globus_enable and not node.settings.routes:
        frame.say("note: globus_enable is not true, so no task here uses Globus")


def _ask(frame: Frame, address: str, why: str, code: str | None) -> str:
    """Show the address and get the code: from a terminal, or from where ``--code`` says."""
    if code is None and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise PersonNeeded(
            why="logging in needs a terminal, where an address is shown and a code is typed",
            how="Run 'libtool login' there, or give --code - to read the code from standard input.",
        )
    frame.tell(f"{why}Visit this address, log in, and copy the code that it shows:")
    print(address, file=sys.stderr, flush=True)  # as it is: people copy it
    if code is None:
        return str(click.prompt("code", err=True)).strip()
    return credentials.resolve(code, "code")[0].strip()


def _secret(frame: Frame, identity: Any, given: str | None) -> str | None:
    """A service account's secret that is to be kept; None when there is one already."""
    if given is not None:
        found, literal = credentials.resolve(given, "globus_client_secret")
        if not found.strip():
            raise PersonNeeded(
                why="no secret came; what is kept is unchanged", how="Run 'libtool login --secret -' and paste it."
            )
        if literal:
            frame.tell("warning: the secret is in the shell's history and was in the process list; better give '-'")
        return found.strip()
    try:
        if identity.tokens.read(mend=True).get("logged_out"):
            identity.tokens.elsewhere()
        else:
            identity.tokens.secret()
    except SecretMissing as missing:
        if sys.stdin.isatty() and sys.stderr.isatty():
            return str(click.prompt("client secret", hide_input=True, err=True)).strip()
        raise PersonNeeded(
            why=missing.reason, how="Run 'libtool login --secret -' and type it, or pipe it in; it is kept here."
        ) from None
    return None
