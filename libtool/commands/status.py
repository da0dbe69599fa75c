"""``status``: how the node is doing, for people and for monitors."""

from __future__ import annotations

import json

import click

from libtool.archive import catalogue, queue, routes
from libtool.commands.words import Frame, pass_frame, show, with_format
from libtool.node import Node


@click.command()
@click.option(
    "--check",
    is_flag=True,
    help="For monitors: exit 1 when something is stuck, 3 when something failed or waits for a person.",
)
@click.option(
    "--waiting", is_flag=True, help="Instead: every file that waits for a destination or for a person, and why."
)
@click.option("--tasks", is_flag=True, help="Instead: every queue item and every task of a route, open ones first.")
@click.option(
    "--max-results",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="With --waiting and --tasks: at most so many.",
)
@click.option("--try-mail", is_flag=True, help="Instead: send one message to the people of 'email', as a test.")
@with_format
@pass_frame
def status(frame: Frame, check: bool, waiting: bool, tasks: bool, max_results: int, try_mail: bool) -> int:
    """What is pending, in flight and stuck, what is in trouble, and the last run of every task."""
    with frame.open() as node:
        if try_mail:
            return _try_mail(frame, node)
        if waiting:
            show(frame, catalogue.waiting(node, max_results), ["name", "destination", "attempts", "next", "reason"])
            return 0
        if tasks:
            rows = [*queue.tasks(max_results), *routes.tasks(max_results)]
            show(frame, rows, list(rows[0]) if rows else [])
            return 0
        found = catalogue.status(node)
        code = 0
        if check:
            code = 1 if catalogue.stuck(node) else 3 if catalogue.failing() else 0
    if frame.format == "json":
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return code
    print(
        f"librarian {found['librarian']}: {found['files']} files, {found['instances']} copies here, {found['remote_instances']} elsewhere"
    )
    copies = found["copies"]
    if said := ", ".join(
        f"{count} {word.replace('_', ' ')}" for word, count in copies.items() if type(count) is int and count
    ):
        print(f"copies: {said}")
    if copies["oldest_verified"]:
        print(f"the copy that was read longest ago was read at {copies['oldest_verified']}")
    for word in ("outgoing", "incoming", "send_queue"):
        counts = ", ".join(
            f"{count} {state.lower().replace('_', ' ')}" for state, count in found[word].items() if count
        )
        print(f"{word.replace('_', ' ')}: {counts or 'nothing'}")
    if found["destinations"]:
        print()
        show(frame, found["destinations"], list(found["destinations"][0]))
    if found["routes"]:
        print()
        show(frame, found["routes"], list(found["routes"][0]))
    if found["troubles"]:
        print()
        show(frame, found["troubles"], ["since", "subject", "text"])
    if mail := found["mail"]["waiting"]:
        print(f"\nmail: {mail} waiting to be handed over, which failed {found['mail']['tries']} times")
    if found["runs"]:
        print()
        show(frame, found["runs"], ["command", "target", "ended", "exit_code", "done", "failed", "postponed"])
    return code


def _try_mail(frame: Frame, node: Node) -> int:
    """Send a message that says nothing but that it came."""
    refused = node.post(f"test {node.now().timestamp()}", ["This is a test: mail from this librarian arrives."])
    wanted = node.settings.email
    missed = {each.partition(": ")[0] for each in refused}
    to = [address for address in (wanted.recipients if wanted else ()) if address not in missed]
    result = {"handed_over_to": to, "refused": refused}
    if frame.format == "json":
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        print(f"One message was handed over to {', '.join(to)}.")
        for each in refused:
            frame.tell(f"Refused: {each}")
    return 1 if refused else 0
