"""``connect``: the dialogue in which two operators, each at their own librarian, connect the two."""

from __future__ import annotations

import os
import pwd
import sys
import termios
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from urllib.parse import urlsplit

import click

from libtool import credentials, sshkeys
from libtool.archive import connecting, librarians
from libtool.archive.connecting import Block, Flow
from libtool.commands.words import Frame, dry_run, pass_frame
from libtool.errors import Refused, Usage
from libtool.node import Node


@click.command()
@click.option("--from", "block", metavar="FILE", help="The block that the other side printed; '-': standard input.")
@click.option("--to", "name", metavar="NAME", help="The other librarian's name, as in its configuration.")
@click.option(
    "--flow", type=click.Choice(["send", "receive", "both"]), help="Which way files shall flow, seen from here."
)
@click.option("--url", metavar="URL", help="How the other side reaches this librarian; default: callback_url.")
@click.option(
    "--install-key/--no-install-key",
    default=None,
    help="Over ssh: put the other side's key into ~/.ssh/authorized_keys, or print the line.",
)
@click.option("--output", metavar="FILE", help="Write the block into this file, which only you can read.")
@click.option("--replace", is_flag=True, help="Accept that a librarian that is known has another address or host key.")
@click.option("--allow-exec", is_flag=True, help="Accept the configuration file of a librarian on this machine.")
@click.option("--allow-plain-http", is_flag=True, help="Accept that passwords travel unencrypted.")
@dry_run
@pass_frame
def connect(
    frame: Frame,
    block: str | None,
    name: str | None,
    flow: str | None,
    url: str | None,
    install_key: bool | None,
    output: str | None,
    replace: bool,
    allow_exec: bool,
    allow_plain_http: bool,
    dry_run: bool,
) -> int:
    """Connect this librarian with another.

    One operator runs it and sends the block that it prints to the other, who runs it with --from and sends back the
    block that it prints; the first takes that with --from, too. It makes the accounts at the right levels, registers
    each at the other, and ends with a check in both directions. On a terminal it asks for what is not given. Run it
    again to change passwords or an address: the old passwords are good until a day after the new ones are used.

    A block holds a password: hand it over by a way that both trust.
    """
    with frame.open() as node:
        node.key()  # which only the librarian's own user can read, and only that one's keys are of any use
        accepted = Accepted(allow_plain_http, allow_exec, replace)
        dialogue = Dialogue(frame, node, accepted, url, install_key, output, dry_run)
        text = dialogue.pasted() if block is None and name is None else None
        if block is None and text is None:
            return dialogue.invite(name, flow)
        if name is not None or flow is not None:
            raise Usage(why="--to and --flow are for who begins; the block says both", command="connect")
        return dialogue.take(connecting.read(text if text is not None else _content(frame, block or "")))


@dataclass(frozen=True)
class Accepted:
    """What an operator accepts although it may be a mistake, or worse."""

    plain_http: bool
    exec: bool
    replace: bool


class Dialogue:
    """One operator's part, with what was given on the command line."""

    def __init__(
        self,
        frame: Frame,
        node: Node,
        accepted: Accepted,
        url: str | None,
        install: bool | None,
        output: str | None,
        dry_run: bool,
    ) -> None:
        self.frame, self.node, self.accepted = frame, node, accepted
        self.url, self.install, self.output, self.dry_run = url, install, output, dry_run
        self.asking = sys.stdin.isatty() and sys.stderr.isatty()

    def pasted(self) -> str | None:
        """A block pasted into the terminal; None for who begins."""
        if not self.asking:
            return None
        self._tell(f"This is {self.node.settings.name}.")
        self._tell("Paste the block that the other side sent you, down to its line -----END; or press Enter to begin.")
        # Line by line and past Python's buffer: what was pasted behind the block must not answer a question.
        text = ""
        while "-----END" not in text:
            line = os.read(0, 65536).decode("utf-8", "replace")
            if not (text + line).strip() or not line:
                break
            text += line
        termios.tcflush(0, termios.TCIFLUSH)
        return text if text.strip() else None

    def invite(self, name: str | None, flow: str | None) -> int:
        """Begin: make the other side's account and print the invitation."""
        name = name or self._ask("--to", "Name of the other librarian, as in its configuration")
        connecting.check_name(self.node, name)
        own = self.node.settings.name
        if flow is None:
            self._need("--flow")
            self._tell(f"Which way shall files flow?  1: {own} -> {name}   2: {name} -> {own}   3: both")
            choice = click.prompt("1, 2 or 3", type=click.Choice(["1", "2", "3"]), show_choices=False, err=True)
            flow = ("send", "receive", "both")[int(choice) - 1]
        wanted = Flow.of(own, name, flow)
        connecting.check_level(name, wanted)
        url = self._own_url()
        if self.dry_run:
            print(f"would make the account {name} with the level {wanted.level(name).name}, or renew its password")
            print(f"would print an invitation to {name} for {wanted}, to be reached at {url}")
            return 0
        self._hand_over(name, wanted, url)
        self._tell(f"Send this block to the operator of {name}, by a way that you both trust. They run")
        self._tell("    libtool connect --from FILE")
        self._tell("and send you a block of their own, which you take with the same command.")
        return 0

    def take(self, block: Block) -> int:
        """Take a block of the other side: an invitation is answered, a reply ends the dialogue."""
        other = block.sender
        accepted = self.accepted
        connecting.check_block(
            self.node,
            block,
            allow_plain_http=accepted.plain_http,
            allow_exec=accepted.exec,
            replace=accepted.replace,
        )
        reply = block.kind == connecting.INVITATION
        url = self._own_url() if reply else block.reached or ""
        key = self._key_of(block) if url.startswith("ssh:") else None
        if self.dry_run:
            print(f"would register {other} at {block.url}, for {block.flow}")
            if reply:
                print(
                    f"would make the account {other} with the level {block.flow.level(other).name}, and print a reply"
                )
            return 0
        # Over ssh the other side knows our key only when it has taken our reply.
        with self._believing(block):
            connecting.take(self.node, block, check=not (reply and block.url.startswith("ssh:")))
        if key is not None:
            self._let_in(other, key, url)
        if reply:
            self._hand_over(other, block.flow, url, block)
            self._tell(f"{other} is registered here. Send this block back to its operator, who takes it with")
            self._tell("    libtool connect --from FILE")
            self._tell("which ends with a check in both directions.")
            return 0
        return self._check(other)

    def _check(self, other: str) -> int:
        own = self.node.settings.name
        there, back = connecting.there_and_back(self.node, other)
        print(f"{own} can call {other}: {f'no: {there}' if there else 'yes'}")
        print(f"{other} can call {own}: {'yes' if back == '' else f'no: {back}' if back else 'not known'}")
        if not there and not back:
            self._tell(f"{own} and {other} are connected. README, 'Two sites, step by step', says what comes next.")
            return 0
        self.frame.tell(
            "Both are registered, and nothing is lost. Mend that, then take this block again: it is tried anew."
        )
        return 3

    def _hand_over(self, to: str, flow: Flow, url: str, answer: Block | None = None) -> None:
        """The account, the key, the block."""
        hosts: list[str] = []
        if url.startswith("ssh:"):
            hosts, answered = sshkeys.of_host(url)
            if not answered:
                self.frame.tell(f"warning: no sshd answers at {url}; the block has the host keys of this machine")
        key = sshkeys.own(self.node.own().key or "")
        text = connecting.offer(self.node, to, flow, url, key, hosts, answer).text()
        if self.output is None:
            print(text, flush=True)
            return
        credentials.write_file(self.output, text, replace=True)
        self._tell(f"The block is in {self.output}, which only you can read.")

    def _believing(self, block: Block) -> AbstractContextManager[None]:
        """Trust the host keys of a block, unless another neighbour at that place is known by others."""
        if not block.url.startswith("ssh:") or not block.hosts:
            return nullcontext()
        path, hosts = self.node.own().hosts or "", list(block.hosts)
        known = sshkeys.trusted(path, block.url)
        others = connecting.others_at(block.sender, block.url)
        if known and known != sorted(hosts) and others and not self.accepted.replace:
            raise Refused(
                why=f"the block has other host keys for the place of {', '.join(others)} than are known",
                how="Find out why. If the host really has new keys, add --replace. Nothing was changed.",
            )
        return sshkeys.trusting(path, block.url, hosts)

    def _key_of(self, block: Block) -> str:
        """The key with which the other side will call us over ssh."""
        key = sshkeys.plain(block.key or "")
        if key is None:
            why = f"the block of {block.sender} holds no key for ssh, and this librarian is reached over ssh"
            raise Refused(why=why, how="Install ssh there, and have its operator run 'libtool connect' again.")
        return key

    def _let_in(self, other: str, key: str, url: str) -> None:
        """Whoever reaches us over ssh needs a line in authorized_keys."""
        line = sshkeys.line_for(other, key, self.node.settings.file)
        place = os.path.expanduser("~/.ssh/authorized_keys")
        install = self.install
        if install is None and self.asking:
            install = click.confirm(f"Let {other} call this librarian with its key ({place})?", default=None, err=True)
        if install:
            here, meant = pwd.getpwuid(os.geteuid()).pw_name, urlsplit(url).username
            if here != meant:
                why = f"{other} will come as the user {meant}, and you are {here}"
                raise Refused(why=why, how=f"Run this as {meant}, or give --no-install-key and install the line there.")
            sshkeys.authorize(place, line)
            self.frame.say(f"{other} may call this librarian with its key")
            return
        self.frame.tell(f"add this line to authorized_keys of the user that {url} names, or give --install-key:")
        self.frame.tell(line)

    def _own_url(self) -> str:
        """How the other side reaches us; checked as it will check it."""
        url = self.url or self.node.settings.callback_url
        if url is None:
            url = self._ask("--url", "How the other side reaches this librarian (https://host[:port], ssh://user@host)")
        librarians.check_url(url, None, local=True, allow_plain_http=self.accepted.plain_http)
        self.url = url
        return url

    def _ask(self, option: str, question: str) -> str:
        self._need(option)
        return str(click.prompt(question, err=True)).strip()

    def _need(self, option: str) -> None:
        if not self.asking:
            raise Usage(why=f"{option} is needed where nobody can be asked", command="connect")

    def _tell(self, text: str) -> None:
        self.frame.say(text)


def _content(frame: Frame, file: str) -> str:
    """The text of a file, or of standard input."""
    try:
        if file == "-":
            return sys.stdin.read()
        with open(file, encoding="utf-8", errors="replace") as stream:
            if os.fstat(stream.fileno()).st_mode & 0o077:
                frame.say(f"warning: others can read {file}, which may hold a password; remove it when this is done")
            return stream.read(100_000)
    except OSError as trouble:
        raise Refused(why=f"'{file}' cannot be read: {trouble.strerror}", how="Check its name.") from None
