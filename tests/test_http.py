"""The same clone between two librarians over HTTP through CGI, with a small server of our own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.cgi_server import serving
from tests.sites import Pair, make_pair, tree

Databases = Callable[[str], "str | None"]


def write_files(top: Path, count: int) -> Path:
    source = top / "source"
    for n in range(count):
        path = source / f"{n % 5}" / f"file {n}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % n * (n % 17))
    return source


def clone(pair: Pair, source: Path) -> None:
    pair.a.run(0, "ingest", "--recursive", str(source))
    pair.round()
    assert pair.b.stored() == tree(source)
    assert pair.quiet() and pair.b.staged() == []
    for ran in pair.round():
        assert (ran.out, ran.err) == ("", "")


def test_a_clone_over_http_through_cgi(tmp_path: Path, databases: Databases) -> None:
    configs: dict[str, str] = {}
    with serving(configs) as (port, requests):
        configs |= {name: str(tmp_path / name / "config.yaml") for name in ("a", "b")}
        pair = make_pair(tmp_path, databases, lambda site: (f"http://127.0.0.1/{site.name}", port))
        clone(pair, write_files(tmp_path, 250))
    batches = requests.count("api/v2/libtool/clone/batch_stage")
    assert batches == 1
    assert len([path for path in requests if "ping" not in path]) <= 4 * batches


def test_a_peer_that_cannot_log_in_is_told_nothing(tmp_path: Path) -> None:
    configs: dict[str, str] = {}
    with serving(configs) as (port, _):
        configs |= {name: str(tmp_path / name / "config.yaml") for name in ("a", "b")}
        make_pair(tmp_path, None, lambda site: (f"http://127.0.0.1/{site.name}", port))
        request = Request(f"http://127.0.0.1:{port}/b/api/v2/search/file", data=b"{}", headers={"Authorization": "Basic YTp4"})
        with pytest.raises(HTTPError) as refused:
            urlopen(request)
        assert refused.value.code == 401
        assert b"config" not in refused.value.read()
