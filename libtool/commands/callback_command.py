"""``libtool callback`` when options stand before it; the usual ways in do not pass here (see ``__main__``)."""

from __future__ import annotations

import click

from libtool.commands.words import Frame, pass_frame


@click.command()
@pass_frame
def callback_command(frame: Frame) -> None:
    """Answer one request of another librarian: CGI environment and standard input in, CGI response out.

    A web server starts it (config/ shows how), or another librarian on this machine through an exec:// URL. The
    script libtool-callback does the same.
    """
    from libtool.commands import callback

    callback.serve(frame.config)
