"""Serve Globus for people: ``python -m tests.globus_service --root A=/some/directory --root B=/another``."""

from __future__ import annotations

import argparse
import os
import signal
import threading
from datetime import datetime, timezone

from tests.globus_service.service import GlobusService


def main() -> None:
    """Serve in real time until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tests.globus_service", description="Serve Globus on loopback.")
    parser.add_argument("--root", action="append", required=True, metavar="NAME=DIRECTORY", help="a collection; may be repeated")
    parser.add_argument("--person", metavar="NAME", help="somebody who visits the login page, and an application to log in to")
    given = parser.parse_args()
    roots = [root.partition("=") for root in given.root]
    if not all(name and os.path.isdir(directory) for name, _, directory in roots):
        parser.error("a root is given as NAME=DIRECTORY, and the directory must be there")
    if len({name for name, _, _ in roots}) < len(roots):
        parser.error("two roots have the same name")
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with GlobusService() as globus:
        for name in ("GLOBUS_SDK_SERVICE_URL_AUTH", "GLOBUS_SDK_SERVICE_URL_TRANSFER"):
            print(f"export {name}={globus.environment()[name]}")
        for name, _, directory in roots:
            print(f"collection {name} {globus.collection(name, directory).id} {directory}")
        account = globus.service_account()
        print(f"service account {account.id} {account.secret}", flush=True)
        if given.person:
            globus.person(given.person)
            print(f"native application {globus.native_app().id}", flush=True)
        while not ended.wait(0.1):
            globus.advance(max(0.0, (datetime.now(timezone.utc) - globus.now).total_seconds()))


if __name__ == "__main__":
    main()
