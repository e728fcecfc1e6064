"""From what a person types to a link: hosts, devices.toml, groups, and which setting wins."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ofa_edge import settings
from ofa_edge.device import ConnectOptions, Inventory, connect
from ofa_edge.device.ssh_config import Address, resolve
from ofa_edge.errors import BadFile, UsageError

INVENTORY = """
[bench]
host = "local"
python = "/bench/python"
root = "/bench/root"
groups = ["lab", "fast"]

[kitchen]
host = "10.0.0.7"
user = "pi"
port = 2222
groups = ["lab"]
"""


@pytest.fixture
def inventory(own_home: Path) -> Path:
    own_home.mkdir()
    (own_home / "devices.toml").write_text(INVENTORY)
    return own_home / "devices.toml"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("pi", Address("pi")),
        ("pi.lan:2222", Address("pi.lan", None, 2222)),
        ("me@pi:22", Address("pi", "me", 22)),
        ("ssh://me@pi:22", Address("pi", "me", 22)),
        ("me@[::1]:22", Address("::1", "me", 22)),
        ("[fe80::1%eth0]", Address("fe80::1%eth0")),
        ("::1", Address("::1")),
        ("a.b_c-d", Address("a.b_c-d")),
    ],
)
def test_a_host_is_read(text: str, address: Address) -> None:
    assert Address.parse(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-oProxyCommand=x",
        "me@-x",
        "-l@pi",
        "pi pi",
        "pi:0",
        "pi:65536",
        "pi:",
        "a\nb",
        "pi;id",
        "$(id)",
        "@pi",
        "a/b",
    ],
)
def test_what_is_no_host_never_reaches_ssh(text: str) -> None:
    with pytest.raises(UsageError, match="not a host"):
        Address.parse(text)


def test_a_host_without_configuration_has_the_usual_defaults(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    target = resolve(Address("pi.example"), config=tmp_path / "empty")
    assert (target.host, target.port, target.proxy_jump, target.accept_new) == ("pi.example", 22, "", False)
    assert target.known_hosts
    assert any(path.name == "id_ed25519" for path in target.identity_files)


def test_what_is_typed_comes_before_the_ssh_config(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("Host pi\n  User configured\n  Port 1\n  HostName other\n")
    assert resolve(Address("pi"), config=tmp_path / "config").user == "configured"
    target = resolve(Address("pi", "typed", 2), config=tmp_path / "config")
    assert (target.user, target.port, target.host) == ("typed", 2, "other")


def test_an_ssh_config_that_ssh_refuses_is_an_error_with_its_words(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("Host pi\n  Port nonsense\n")
    with pytest.raises(UsageError, match="ssh refuses its configuration"):
        resolve(Address("pi"), config=tmp_path / "config")


def test_local_is_this_machine_and_this_python() -> None:
    link = connect("local")
    assert (link.name, link.python, link.root) == ("local", sys.executable, None)


def test_options_come_before_the_inventory_and_the_inventory_before_the_environment(
    inventory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OFA_EDGE_DEVICE_PYTHON", "/env/python")
    assert connect("local").python == "/env/python"
    link = connect("bench")
    assert (link.name, link.python, link.root) == ("local", "/bench/python", "/bench/root")
    link = connect("bench", options=ConnectOptions(python="/option/python", root="/option/root"))
    assert (link.python, link.root) == ("/option/python", "/option/root")


def test_a_device_of_the_inventory_is_found_with_user_and_port(inventory: Path) -> None:
    device = Inventory.load().get("kitchen")
    assert device is not None
    assert device.address == "pi@10.0.0.7:2222"
    assert Inventory.load().get("attic") is None


def test_a_group_is_all_its_devices_each_once(inventory: Path) -> None:
    found = Inventory.load().expand(["@fast", "other", "@lab", "bench"])
    assert found == ["bench", "other", "kitchen"]
    with pytest.raises(UsageError, match="no device is in the group") as caught:
        Inventory.load().expand(["@attic"])
    assert "fast, lab" in caught.value.hint
    with pytest.raises(UsageError, match="is a group"):
        connect("@lab")


def test_an_inventory_beside_us_comes_before_the_home(
    inventory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "devices.toml").write_text('[here]\nhost = "local"\n')
    assert [device.name for device in Inventory.load().devices] == ["here"]
    assert Inventory.load(inventory).get("bench") is not None


def test_no_inventory_is_an_empty_one_but_a_named_one_must_be_there(tmp_path: Path) -> None:
    assert Inventory.load().devices == ()
    with pytest.raises(BadFile, match="there is no"):
        Inventory.load(tmp_path / "devices.toml")


@pytest.mark.parametrize(
    "text",
    [
        "[a", "a = 1", "[a]\n", '[a]\nhost = 1\n', '[a]\nhost = "x"\nhosst = "y"\n', '[a]\nhost = "x"\nport = "22"\n',
        '[a]\nhost = "x"\nport = true\n', '[a]\nhost = "x"\ngroups = [1]\n', '[a]\nhost = "x"\n[a]\nhost = "y"\n',
    ],
)  # fmt: skip
def test_an_inventory_with_a_mistake_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "devices.toml"
    file.write_text(text)
    with pytest.raises(BadFile, match="devices.toml"):
        Inventory.load(file)


def test_adb_is_said_to_be_missing_not_misunderstood() -> None:
    with pytest.raises(UsageError, match="adb is not in this version"):
        connect("adb:0123456789")


def test_the_home_is_where_the_variable_says_and_else_the_platforms(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings.home() == own_home
    assert settings.tables_dir("Pi 4 / Model B!") == own_home / "tables/Pi-4-Model-B"
    assert settings.tables_dir("..").name == "unknown"
    settings.use_home("relative/home")
    assert settings.home() == Path("relative/home").absolute()
    monkeypatch.delenv("OFA_EDGE_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert settings.home().name == "ofa-edge"
