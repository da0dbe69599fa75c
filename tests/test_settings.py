"""The configuration: what it takes, what it refuses, and that every refusal says where and what was expected."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from libtool import settings
from libtool.errors import ConfigurationError, LibtoolError, NoConfiguration
from tests.sites import Site, make_site

STORE = {"store_name": "main", "store_data": {"staging_path": "staging", "store_path": "store"}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the configuration lies."""
    return tmp_path / "config.yaml"


def loaded(file: Path, **keys: Any) -> settings.Settings:
    """The settings of a file with these keys beside a name."""
    file.write_text(yaml.safe_dump({"name": "b", **keys}))
    return settings.load(str(file))


def wrong(file: Path, text: str) -> str:
    """The one line that refuses this text; it names the file."""
    file.write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        settings.load(str(file))
    assert raised.value.text.startswith(f"{file}: ") and "\n" not in raised.value.text
    assert raised.value.exit_code == 78
    return raised.value.text


def store_with(**changes: Any) -> str:
    """A configuration whose one store differs so."""
    return yaml.safe_dump({"name": "b", "add_stores": [{**STORE, **changes}]})


def stores_at(*places: tuple[str, str]) -> str:
    """A configuration whose stores have these staging and store paths."""
    data = [{"staging_path": staging, "store_path": store} for staging, store in places]
    return yaml.safe_dump({"name": "b", "add_stores": [{"store_name": f"s{n}", "store_data": each} for n, each in enumerate(data)]})


# -- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, key, expected",
    [
        ("display: x", "display", "no such key"),
        ("{}", "name", "is missing"),
        ("name: [a]", "name", "expected a name of letters"),
        ("name: 5", "name", "expected a name of letters"),
        ("name: ''", "name", "expected a name"),
        ("name: a b", "name", "expected a name"),
        ("name: a/b", "name", "expected a name"),
        ("name: null", "name", "is missing"),
        ("name: b\ndatabase: catalogue", "database", "expected a URL such as sqlite:///"),
        ("name: b\ndatabase: mysql://x/y", "database", "expected a URL"),
        ("name: b\nhistory_days: soon", "history_days", "expected a whole number from 1 to 36500"),
        ("name: b\nhistory_days: true", "history_days", "expected a whole number"),
        ("name: b\nmax_async_inflight_transfers: 101", "max_async_inflight_transfers", "from 1 to 100"),
        ("name: b\nmax_batch_items: 0", "max_batch_items", "from 1 to"),
        ("name: b\nnotice_after: soon", "notice_after", "expected a span such as"),
        ("name: b\nnotice_after: [1]", "notice_after", "expected a span such as"),
        ("name: b\nnotice_after: {a: 1}", "notice_after", "expected a span such as"),
        ("name: b\nmax_body_bytes: big", "max_body_bytes", "expected a size such as"),
        ("name: b\nmax_body_bytes: -5", "max_body_bytes", "expected a size"),
        ("name: b\nglobus_enable: 'yes'", "globus_enable", "expected true or false"),
        ("name: b\nlocal_transfer_roots: /data", "local_transfer_roots", "expected a list of absolute paths"),
        ("name: b\nlocal_transfer_roots: [data]", "local_transfer_roots", "expected an absolute path"),
        ("name: b\ncommands: [send-clone]", "commands", "expected a mapping"),
        ("name: b\nadd_stores: {main: {}}", "add_stores", "expected a list of stores"),
        ("name: b\nadd_stores: [main]", "add_stores[0]", "expected a mapping"),
        ("name: b\nadd_stores: [{store_name: x}]", "add_stores[0].store_data", "is missing"),
        (
            "name: b\nadd_stores: [{store_name: x, store_data: {store_path: s}}]",
            "add_stores[0].store_data.staging_path",
            "is missing",
        ),
        (store_with(ingestible="yes"), "add_stores[0].ingestible", "expected true or false"),
        (
            store_with(store_data={"staging_path": "a", "store_path": "b", "report_full_fraction": 0}),
            "add_stores[0].store_data.report_full_fraction",
            "above 0 and up to 1",
        ),
        (
            store_with(store_data={"staging_path": "a", "store_path": "b", "report_full_fraction": 1.1}),
            "add_stores[0].store_data.report_full_fraction",
            "above 0 and up to 1",
        ),
        (
            store_with(asynchronous_transfer_manager_data={"ftp": {}}),
            "add_stores[0].asynchronous_transfer_manager_data",
            "there are globus, local and rsync",
        ),
        (
            store_with(asynchronous_transfer_manager_data={"local": {"available": True}}),
            "add_stores[0].asynchronous_transfer_manager_data",
            "local needs hostnames",
        ),
        (
            store_with(asynchronous_transfer_manager_data={"rsync": {"hostname": "h", "available": "yes"}}),
            "add_stores[0].asynchronous_transfer_manager_data",
            "expected true or false",
        ),
        (yaml.safe_dump({"name": "b", "add_stores": [STORE, STORE]}), "add_stores", "same store_name"),
        (stores_at(("a", "a")), "add_stores[0].store_data.store_path", "(add_stores[0].store_data.staging_path) are one"),
        (stores_at(("a/b", "a")), "add_stores[0].store_data.store_path", "expected a directory of its own"),
        (stores_at(("a", "a/./c/../b/")), "add_stores[0].store_data.store_path", "expected a directory of its own"),
        (stores_at(("a", "b"), ("c", "b")), "add_stores[1].store_data.store_path", "(add_stores[0].store_data.store_path)"),
        (stores_at(("a", "b"), ("b/c", "d")), "add_stores[1].store_data.staging_path", "expected a directory of its own"),
        (stores_at(("a", "b"), ("c", "/")), "add_stores[1].store_data.store_path", "expected a directory of its own"),
        ("name: b\nglobus_local_root: /data", "globus_local_root", "not supported"),
        ("- name", "the whole file", "expected a mapping"),
        ("", "the whole file", "expected a mapping"),
        ("name: [", "line ", "is no YAML"),
        ("name: b\n\tindented: x", "line 2", "is no YAML"),
        ("name: \0", "the whole file", "is no YAML"),
        ("name: b\nrun_dir: a\nname: c\n", "line 3", "the key 'name' is there twice"),
        ("name: {{ hostname }}\n", "line 1", "unhashable"),
        ("name: !!map x\n", "line 1", "expected a mapping"),
        ("routes:\n  out: {}\n  in: {}\n  out: {}\n", "line 4", "the key 'out' is there twice"),
        ("name: !!python/object:os.system x", "line 1", "is no YAML"),
        ("name: 2024-13-45", "", ""),
        ("1: 2\nname: b", "", "expected"),
        ("name: " + "[" * 5000 + "]" * 5000, "", ""),
    ],
)
def test_what_is_wrong_is_named_with_file_key_and_what_was_expected(
    file: Path, text: str, key: str, expected: str
) -> None:
    said = wrong(file, text)
    assert said.startswith(f"{file}: {key}") and expected in said


@pytest.mark.parametrize(
    "spelled, meant",
    [
        ("nmae", "name"),
        ("databse", "database"),
        ("add_store", "add_stores"),
        ("displayed_site", "displayed_site_name"),
        ("history", "history_days"),
    ],
)
def test_a_key_that_is_nearly_right_is_guessed(file: Path, spelled: str, meant: str) -> None:
    assert f"did you mean '{meant}'" in wrong(file, f"name: b\n{spelled}: x")


def test_a_key_that_resembles_nothing_gets_the_list(file: Path) -> None:
    said = wrong(file, "name: b\nqqqq: x")
    assert "did you mean" not in said and "add_stores" in said and "max_body_bytes" in said


def test_a_guess_in_a_store_is_one_of_a_stores_keys(file: Path) -> None:
    assert "add_stores[0].ingestibel" in (said := wrong(file, store_with(ingestibel=True))) and "'ingestible'" in said


@pytest.mark.parametrize(
    "key, instead",
    [
        ("encryption_key", "encryption_key_file"),
        ("globus_client_secret", "globus_client_secret_file"),
        ("database_password", "database_password_file"),
    ],
)
def test_a_secret_in_the_file_is_refused_without_repeating_it(file: Path, key: str, instead: str) -> None:
    said = wrong(file, f"name: b\n{key}: hunter2")
    assert f": {key}: " in said and instead in said and "hunter2" not in said


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hunter2@h/db",
        "postgres://u:hunter2@h:5432/db",
        "postgresql://u:hunter2/x@h/db",
        "postgresql://u@h/db?password=hunter2",
    ],
)
def test_a_password_in_the_databases_url_is_refused_without_repeating_it(file: Path, url: str) -> None:
    said = wrong(file, f"name: b\ndatabase: {url}")
    assert "database_password_file" in said and "hunter2" not in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read_is_named(file: Path) -> None:
    file.write_text("name: b")
    file.chmod(0)
    with pytest.raises(ConfigurationError, match="cannot be read: Permission denied"):
        settings.load(str(file))


def test_a_directory_or_nothing_in_its_place_is_named(file: Path) -> None:
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            settings.load(str(file))
        file.mkdir(exist_ok=True)


def test_bytes_that_are_no_text_are_no_yaml(file: Path) -> None:
    file.write_bytes(b"name: \xff\xfe\xff")
    with pytest.raises(ConfigurationError, match="is no YAML"):
        settings.load(str(file))


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates()),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=4), inner, max_size=2)),
    max_leaves=4,
)
KEYS = [item.name for item in settings.fields(settings.Settings) if item.metadata]


@given(st.sampled_from(KEYS), VALUES)
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_value_of_any_key_is_taken_or_refused_by_name(file: Path, key: str, value: Any) -> None:
    try:
        loaded(file, **{key: value})
    except ConfigurationError as refusal:
        assert f"{file}: {key}" in refusal.text


# -- what is taken ------------------------------------------------------------------------------------------------


def test_little_is_needed_and_the_rest_has_its_promised_default(file: Path) -> None:
    found = loaded(file)
    assert (found.max_async_inflight_transfers, found.max_async_send_retries, found.history_days) == (64, 3, 400)
    assert (found.notice_after, found.globus_stuck_after, found.max_request_seconds) == (600, 900, 60)
    assert (found.max_body_bytes, found.max_batch_items, found.local_transfer_roots) == (32 * 2**20, 5000, ())
    assert found.database == "sqlite:///catalogue.db" and found.ignored == ()


def test_a_key_that_is_empty_counts_as_not_given(file: Path) -> None:
    found = loaded(file, run_dir=None, history_days=None, add_stores=None, commands=None)
    assert (found.run_dir, found.history_days, found.add_stores, dict(found.commands)) == (None, 400, (), {})


SEED = {
    "name": "liba",
    "displayed_site_name": "Lib A",
    "displayed_site_description": "x",
    "encryption_key_file": "key",
    "host": "0.0.0.0",
    "port": 8080,
    "log_level": "DEBUG",
    "log_settings": {"files": {}},
    "alembic_config_path": ".",
    "max_search_results": 10,
    "globus_enable": True,
    "globus_client_id": "00000000-0000-4000-8000-000000000000",
    "globus_client_native_app": True,
    "globus_local_endpoint_id": "00000000-0000-4000-8000-000000000001",
    "globus_client_secret_file": "token",
    "max_async_inflight_transfers": 64,
    "add_stores": [
        {
            "store_name": "globus_example",
            "store_type": "local",
            "ingestable": False,
            "store_data": {
                "staging_path": "/s",
                "store_path": "/d",
                "report_full_fraction": 1.0,
                "max_copy_retries": 3,
            },
            "transfer_manager_data": {"local": {"available": True, "hostnames": ["h"]}},
            "async_transfer_manager_data": {"globus": {"available": True, "destination_endpoint": "ACBD-2232"}},
        }
    ],
}


def test_the_json_of_the_seeds_keys_loads_and_tells_what_it_ignored(file: Path) -> None:
    file.write_text(json.dumps(SEED, indent=2))
    found = settings.load(str(file))
    (store,) = found.add_stores
    assert store.ingestible is False
    assert store.asynchronous_transfer_manager_data["globus"]["destination_endpoint"] == "ACBD-2232"
    assert found.globus_enable and found.globus_client_native_app and found.max_search_results == 10
    assert set(found.ignored) == {
        "host",
        "port",
        "log_level",
        "log_settings",
        "alembic_config_path",
        "add_stores[0].store_data.max_copy_retries",
        "add_stores[0].transfer_manager_data",
    }


def test_both_spellings_of_an_alias_mean_the_same(file: Path) -> None:
    carriers = {"local": {"hostnames": ["h"]}}
    for spelled, data in (
        ("ingestible", "asynchronous_transfer_manager_data"),
        ("ingestable", "async_transfer_manager_data"),
    ):
        (store,) = loaded(file, add_stores=[{**STORE, spelled: False, data: carriers}]).add_stores
        assert store.ingestible is False and store.asynchronous_transfer_manager_data == carriers


def test_what_is_ignored_is_told_when_asked_for(tmp_path: Path) -> None:
    site = make_site("b", tmp_path / "b", log_level="DEBUG", port=8080)
    assert site.run(0, "setup").err == ""
    said = site.run(0, "-v", "setup").err
    assert "log_level" in said and "port" in said


def test_directories_that_only_a_link_makes_one_are_refused_by_setup(tmp_path: Path) -> None:
    site = make_site("a", tmp_path / "a")
    (tmp_path / "a/link").symlink_to(site.staging)
    second = {"store_name": "second", "store_data": {"staging_path": "s2", "store_path": "link/inside"}}
    site.write(add_stores=[*site.settings["add_stores"], second])
    ran = site.run(78, "setup")
    assert "add_stores[1].store_data.store_path" in ran.err and "directory of its own" in ran.err
    assert [path.name for path in site.staging.iterdir()] == [".libtool-store"]
    second["store_data"]["store_path"] = "beside"
    site.write()
    site.run(0, "setup")


# -- routes -------------------------------------------------------------------------------------------------------

HERE, THERE = "6c54cade-bde5-45c1-bdea-f4bd71dba2cc", "31ce9ba0-176d-45a5-add3-f37d233ba47d"


def routes_at(*ends: tuple[str, str], **keys: Any) -> str:
    """A configuration whose routes r0, r1 … have these directories."""
    routes = {f"r{n}": {"src_id": HERE, "src_dir": src, "dst_id": THERE, "dst_dir": dst} for n, (src, dst) in enumerate(ends)}
    return yaml.safe_dump({"routes": routes, **keys})


@pytest.mark.parametrize(
    "first, second",
    [
        (("/a", "/z"), ("/b", "/z")),
        (("/a", "/z"), ("/a/b", "/z")),
        (("/a", "/z"), ("/b", "/z/b")),
        (("/a", "/z/b"), ("/b", "/z")),
        (("/a", "/z"), ("/a/b", "/z/c")),
        (("/a/b", "/z"), ("/a", "/z/b")),
    ],
)
def test_two_routes_that_could_replace_each_others_files_are_refused(file: Path, first: tuple[str, str], second: tuple[str, str]) -> None:
    said = wrong(file, routes_at(first, second))
    assert said.startswith(f"{file}: routes.r1.dst_dir") and "r0 and r1" in said and "give each a destination of its own" in said


@pytest.mark.parametrize(
    "first, second",
    [(("/a", "/z"), ("/b", "/y")), (("/a", "/z"), ("/a", "/zz")), (("/a", "/z"), ("/a/b", "/z/b")), (("/a/b", "/b"), ("/a", "/")), (("/a", "/z"), ("/a", "/z"))],
)
def test_routes_that_bring_the_same_files_to_one_place_are_taken(file: Path, first: tuple[str, str], second: tuple[str, str]) -> None:
    file.write_text(routes_at(first, second))
    assert len(settings.load(str(file)).routes) == 2


def test_the_same_directories_of_another_collection_are_another_place(file: Path) -> None:
    given = yaml.safe_load(routes_at(("/a", "/z"), ("/b", "/z")))
    given["routes"]["r1"]["dst_id"] = HERE
    file.write_text(yaml.safe_dump(given))
    assert len(settings.load(str(file)).routes) == 2
    given["routes"]["r1"] |= {"src_id": THERE, "src_dir": "/a", "dst_id": THERE}
    given["routes"]["r1"]["dst_dir"] = "/z/sub"
    assert "r0 and r1" in wrong(file, yaml.safe_dump(given))


@pytest.mark.parametrize("end", ["src_dir", "dst_dir"])
@pytest.mark.parametrize("path", ["/a/../b", "/a/b/..", "/../a"])
def test_a_route_that_goes_up_is_refused(file: Path, end: str, path: str) -> None:
    said = wrong(file, routes_at((path, "/z") if end == "src_dir" else ("/y", path)))
    assert said.startswith(f"{file}: routes.r0.{end}") and "without '..'" in said
    file.write_text(routes_at(("/a..", "/..b")))
    assert settings.load(str(file)).routes["r0"].src_dir == "/a.."


OWN: list[tuple[str, dict[str, Any]]] = [
    ("run_dir", {"run_dir": "/d/run"}),
    ("database", {"database": "sqlite:////d/catalogue.db"}),
    ("encryption_key_file", {"encryption_key_file": "/d/key"}),
    ("globus_client_secret_file", {"globus_client_secret_file": "/d/secret"}),
    ("database_password_file", {"database_password_file": "/d/secret"}),
    ("email.smtp.password_file", {"email": {"sender": "a@b.c", "recipients": ["a@b.c"], "smtp": {"host": "h", "user": "u", "password_file": "/d/secret"}}}),
    ("staging_path", {"name": "b", "add_stores": [{**STORE, "store_data": {"staging_path": "/d/staging", "store_path": "/e"}}]}),
    ("store_path", {"name": "b", "add_stores": [{**STORE, "store_data": {"staging_path": "/e", "store_path": "/d/store"}}]}),
]


@pytest.mark.parametrize("end", ["src_dir", "dst_dir"])
@pytest.mark.parametrize("what, keys", OWN)
def test_a_route_on_this_host_over_the_nodes_own_files_is_refused(file: Path, end: str, what: str, keys: dict[str, Any]) -> None:
    ends = ("/d", "/z") if end == "src_dir" else ("/y", "/d")
    ours = HERE if end == "src_dir" else THERE
    said = wrong(file, routes_at(ends, globus_local_endpoint_id=ours.upper(), **keys))
    assert said.startswith(f"{file}: routes.r0.{end}") and what in said
    file.write_text(routes_at(ends, globus_local_endpoint_id=THERE if end == "src_dir" else HERE, **keys))
    assert settings.load(str(file)).routes  # behind a collection it is another host's


@pytest.mark.parametrize("inside", ["", "/deep/er"])
def test_a_route_in_a_store_is_refused(file: Path, inside: str) -> None:
    stores = [{**STORE, "store_data": {"staging_path": "/e", "store_path": "/d"}}]
    said = wrong(file, routes_at((f"/d{inside}", "/z"), globus_local_endpoint_id=HERE, name="b", add_stores=stores))
    assert "routes.r0.src_dir" in said and "add_stores[0].store_data.store_path" in said
    file.write_text(routes_at(("/dd", "/z"), globus_local_endpoint_id=HERE, name="b", add_stores=stores))
    assert settings.load(str(file)).routes


def test_a_source_with_the_configuration_in_it_is_refused_also_when_a_link_leads_there(tmp_path: Path) -> None:
    assert "routes.r0.src_dir" in wrong(tmp_path / "c.yaml", routes_at((str(tmp_path), "/z"), globus_local_endpoint_id=HERE))
    (tmp_path / "link").symlink_to(tmp_path / "node")
    site = Site("node", tmp_path / "node", {**yaml.safe_load(routes_at((str(tmp_path / "link"), "/z"))), "globus_local_endpoint_id": HERE})
    site.write()
    assert "routes.r0.src_dir" in site.run(78, "setup").err
    site.write(routes=yaml.safe_load(routes_at((str(tmp_path / "beside"), "/z")))["routes"])
    site.run(0, "setup")


def test_relative_paths_start_at_the_file_and_others_stay(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = loaded(file, add_stores=[STORE])
    monkeypatch.setenv("HOME", "/home/somebody")
    assert found.path("staging") == str(file.parent / "staging")
    assert found.path("../x") == str(file.parent.parent / "x")
    assert found.path("/abs/./x") == "/abs/x"
    assert found.path("~/x") == "/home/somebody/x"


def test_a_relative_name_of_the_file_is_made_absolute_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("name: b")
    monkeypatch.chdir(file.parent)
    found = settings.load(settings.find("config.yaml"))
    monkeypatch.chdir("/")
    assert found.path("store") == str(file.parent / "store")


def test_a_changed_file_is_read_anew(file: Path) -> None:
    assert loaded(file, displayed_site_name="one").displayed_site_name == "one"
    assert loaded(file, displayed_site_name="another").displayed_site_name == "another"


def test_settings_cannot_be_changed_by_accident(file: Path) -> None:
    with pytest.raises(AttributeError):
        loaded(file).name = "c"  # type: ignore[misc]


def test_the_example_loads_and_shows_every_key(file: Path) -> None:
    text = settings.example()
    file.write_text(text)
    settings.load(str(file))
    assert [key for key in KEYS if f"{key}:" not in text] == []


# -- where it is found --------------------------------------------------------------------------------------------


def test_the_file_is_found_in_the_promised_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    places = [tmp_path / "home/.config/libtool/config.yaml", tmp_path / "variable.yaml", tmp_path / "given.yaml"]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("name: b")
    assert settings.find() == str(places[0])
    monkeypatch.setenv("LIBTOOL_CONFIG", str(places[1]))
    assert settings.find() == str(places[1])
    assert settings.find(str(places[2])) == str(places[2])


def test_a_named_file_that_is_missing_is_not_replaced_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "variable.yaml").write_text("name: b")
    monkeypatch.setenv("LIBTOOL_CONFIG", str(tmp_path / "variable.yaml"))
    with pytest.raises(NoConfiguration, match="none.yaml"):
        settings.find(str(tmp_path / "none.yaml"))


@pytest.mark.skipif(os.path.exists("/etc/libtool/config.yaml"), reason="this machine has a librarian")
def test_without_any_file_every_place_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    with pytest.raises(NoConfiguration) as raised:
        settings.find()
    for place in ("--config", "$LIBTOOL_CONFIG", f"{tmp_path}/.config/libtool/config.yaml", "/etc/libtool/config.yaml"):
        assert place in raised.value.text
    assert raised.value.exit_code == 78


# -- through the commands -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["name: [", "name: b\nno_such: 1", "", "name: 2024-13-45", "name: b\nnotice_after: [1]"]
)
@pytest.mark.parametrize("command", ["status", "setup", "send-clone"])
def test_every_command_says_what_is_wrong_with_the_file_and_exits_78(tmp_path: Path, text: str, command: str) -> None:
    site = Site("b", tmp_path)
    Path(site.config).write_text(text)
    ran = site.run(78, command)
    assert ran.out == "" and ran.err.startswith(f"libtool: {site.config}: ") and ran.err.count("\n") == 1


def test_help_needs_no_configuration_and_minds_no_broken_one(tmp_path: Path) -> None:
    site = Site("b", tmp_path)
    for text in (None, "name: ["):
        if text is not None:
            Path(site.config).write_text(text)
        assert "--destination-librarian" in site.run(0, "send-clone", "--help").out
        site.run(0, "--help")


def test_defaults_of_the_file_reach_a_command_and_the_command_line_wins(tmp_path: Path) -> None:
    site = make_site(
        "b", tmp_path / "b", commands={"search-files": {"format": "json"}, "send-clone": {"destination_librarian": "x"}}
    )
    assert json.loads(site.run(0, "search-files", "--name", "none").out) == []
    assert "[]" not in site.run(0, "search-files", "--name", "none", "--format", "table").out
    assert "x" in site.run(1, "send-clone").err
    assert (
        "elsewhere" in (said := site.run(1, "send-clone", "--destination-librarian", "elsewhere").err)
        and "'x'" not in said
    )


@pytest.mark.parametrize("key", ["destination_librarian", "destination-librarian"])
def test_options_are_spelled_with_dashes_or_underscores_and_once_or_as_a_list(tmp_path: Path, key: str) -> None:
    for value in ("nowhere", ["nowhere"]):
        site = make_site("b", tmp_path / "b", commands={"send-clone": {key: value}})
        assert "nowhere" in site.run(1, "send-clone").err


@pytest.mark.parametrize(
    "commands, key",
    [
        ({"send-clone": {"destination": "b"}}, "commands.send-clone.destination"),
        ({"send-clone": {"age_in_days": "soon", "destination_librarian": "b"}}, "age"),
        ({"send-clone": ["b"]}, "commands.send-clone"),
        ({"send-clone": "b"}, "commands.send-clone"),
        ({"sendclone": {}}, "commands.sendclone"),
    ],
)
def test_a_wrong_default_is_the_configurations_fault(tmp_path: Path, commands: dict[str, Any], key: str) -> None:
    site = make_site("b", tmp_path / "b")
    site.write(commands=commands)
    ran = site.run(78, "send-clone")
    assert key in ran.err and "Traceback" not in ran.err


def test_a_wrong_default_of_one_command_does_not_stop_another(tmp_path: Path) -> None:
    site = make_site("b", tmp_path / "b")
    site.write(commands={"send-clone": {"destination": "b"}})
    site.run(0, "status")


def test_a_missing_secret_of_a_key_is_named_and_no_fault(tmp_path: Path) -> None:
    site = make_site("b", tmp_path / "b")
    site.write(encryption_key_file="gone.key")
    with site.open() as node, pytest.raises(LibtoolError, match="gone.key"):
        node.key()
