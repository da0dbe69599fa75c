"""``libtool callback`` when options stand before it; the usual ways in do not pass here (see ``__main__``)."""

from __future__ import annotations

import click

from libtool.commands.words import Frame, pass_frame


@click.command()
@click.option(
    "--as", "account", metavar="ACCOUNT", help="For the forced command of a key in authorized_keys: whose it is."
)
@pass_frame
def callback_command(frame: Frame, account: str | None) -> None:
    """Answer one request of another librarian: CGI environment and standard input in, CGI response out.

    A web server starts it (config/ shows how), another librarian on this machine through an exec:// URL, or sshd as the
    forced command of another librarian's key. The script libtool-callback does the same.
    """
    from libtool.commands import callback

    if account is not None:
        callback.serve_key(frame.config, account)
    callback.serve(frame.config)
