"""Serve Globus for people: ``python -m tests.globus_service --root A=/some/directory --root B=/another``."""

from __future__ import annotations

import argparse
import signal
import threading
from datetime import datetime, timezone

from tests.globus_service.service import GlobusService


def main() -> None:
    """Serve in real time until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tests.globus_service", description="Serve Globus on loopback.")
    parser.add_argument("--root", action="append", required=True, metavar="NAME=DIRECTORY", help="a collection; may be repeated")
    roots = [root.partition("=") for root in parser.parse_args().root]
    if not all(name and directory for name, _, directory in roots):
        parser.error("a root is given as NAME=DIRECTORY")
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
        while not ended.wait(0.1):
            globus.advance(max(0.0, (datetime.now(timezone.utc) - globus.now).total_seconds()))


if __name__ == "__main__":
    main()
