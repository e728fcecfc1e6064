"""Releases on a device: nothing gets a name before it is whole, `current` only moves to whole releases, and no
name from outside becomes a path."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from device_agents import history, lock, pruning, slots
from device_agents.disk import Disk
from device_agents.process import Process
from device_agents.releases import COMPACT_ABOVE, COMPACT_TO, ID_LENGTH, MAX_MANIFEST, MAX_SIGNATURE, App, canonical
from device_agents.root import Root
from device_agents.slots import OPS
from device_agents.wire import AgentError
from ofa_edge import strict_json
from ofa_edge.deploy import manifest as host
from ofa_edge.deploy.bundle import MANIFEST, Bundle
from ofa_edge.limits import LIMITS
from tests.deploy.double import APP, make_bundle, running

A, B, C = make_bundle(1.0), make_bundle(2.0), make_bundle(3.0)
RELEASE_OPS = ("verify", "manifest", "begin", "stage", "trial", "switch", "commit", "refuse", "share", "hook")
FIELDS: dict[str, Any] = {
    "holder": "me",
    "kind": "deploy",
    "manifest": "0" * 64,
    "reason": "",
    "blame": True,
    "facts": {},
    "release": "r1",
    "mode": "default",
    "argv": ["true"],
    "timeout_s": 60,
}
ARGS = {
    "lock": ("holder",),
    "begin": ("release", "kind"),
    "stage": ("release", "manifest"),
    "commit": ("release", "facts"),
    "refuse": ("release", "reason"),
    "recover": ("reason", "blame", "facts"),
    "hook": ("release", "argv", "timeout_s"),
    "mode": ("mode",),
    **dict.fromkeys(("verify", "manifest", "trial", "switch", "share"), ("release",)),
}


@pytest.fixture
def disk() -> Iterator[Disk]:
    """In memory where the system has such a place: these tests sync thousands of files."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None, prefix="ofa-edge-") as path:
        Root(path).prepare()
        yield Disk(path, me=Process(1, "boot", 1), alive=lambda process: False)


def other(disk: Disk, pid: int = 2, alive: bool = True) -> Disk:
    """Another agent on the same folder; `alive` is what it believes of the first."""
    return Disk(disk.path, me=Process(pid, "boot", 1), alive=lambda process: alive)


def op(disk: Disk, name: str, **given: Any) -> dict[str, Any]:
    args = {"app": APP, **{field: FIELDS[field] for field in ARGS.get(name, ())}, **given}
    if name == "hook":
        args["kind"] = "health"
    return OPS[name](disk, args)


def refused(disk: Disk, name: str, **given: Any) -> AgentError:
    with pytest.raises(AgentError) as caught:
        op(disk, name, **given)
    return caught.value


def put(disk: Disk, bundle: Bundle) -> dict[str, Any]:
    """Blobs of a bundle, and the arguments to stage it."""
    for sha256, data in bundle.blobs().items():
        disk.blob(sha256).write_bytes(data)
    return {"release": bundle.release, "manifest": bundle.sha256(MANIFEST)}


def install(disk: Disk, *bundles: Bundle) -> None:
    """Deploy bundles one after the other."""
    op(disk, "lock")
    for bundle in bundles:
        op(disk, "begin", release=bundle.release)
        op(disk, "stage", **put(disk, bundle))
        op(disk, "trial", release=bundle.release)
        op(disk, "switch", release=bundle.release)
        op(disk, "commit", release=bundle.release)


def folder(disk: Disk, bundle: Bundle | None = None) -> Path:
    app = Path(disk.path) / APP
    return app / "releases" / bundle.release if bundle else app


def tree(path: str) -> dict[str, Any]:
    """Everything below a folder, but for times in the journal."""
    return {
        str(p.relative_to(path)): os.readlink(p) if p.is_symlink() else p.read_bytes() if p.is_file() else None
        for p in Path(path).rglob("*")
    }


# -- what both sides must agree on -----------------------------------------------------------------


def test_host_and_agent_spell_and_count_alike() -> None:
    value = {"b": [1, 2.5, -0.0, 1e22, "é\u2028"], "a": {"z": None, "y": True}}
    assert canonical(value) == strict_json.canonical(value)
    assert (host.NAME, host.ID_LENGTH, LIMITS.manifest_bytes) == (history.NAME, ID_LENGTH, MAX_MANIFEST)


# -- names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc", "A", "a\n", "-a", ".a", "a" * 65, "ä", 7, None])
def test_a_name_is_never_a_path(disk: Disk, name: Any) -> None:
    install(disk, A)
    before = tree(disk.path)
    for name_of_op in OPS:
        assert refused(disk, name_of_op, app=name).kind == "usage"
    for name_of_op in RELEASE_OPS:
        assert refused(disk, name_of_op, release=name).kind == "usage"
    assert tree(disk.path) == before


@pytest.mark.parametrize("name", ["agent", "blobs", "incoming", "work", "tables"])
def test_an_app_cannot_take_a_folder_of_the_agents(disk: Disk, name: str) -> None:
    assert refused(disk, "lock", app=name).kind == "usage"


def test_unknown_or_missing_arguments_change_nothing(disk: Disk) -> None:
    install(disk, A)
    before = tree(disk.path)
    for name in OPS:
        assert refused(disk, name, surprise=1).kind == "usage"
    with pytest.raises(AgentError):
        OPS["recover"](disk, {"app": APP})
    assert tree(disk.path) == before


@pytest.mark.parametrize("facts", [{"a": [1]}, {"a": {}}, {"a": "x" * 2000}, dict.fromkeys(map(str, range(40)), 1), 5])
def test_facts_are_a_few_plain_values(disk: Disk, facts: Any) -> None:
    install(disk, A)
    assert refused(disk, "recover", facts=facts).kind == "usage"


# -- the lock -----------------------------------------------------------------------------------------


def test_a_living_holder_keeps_the_lock_and_is_named(disk: Disk) -> None:
    op(disk, "lock", holder="ann@desk")
    error = refused(other(disk), "lock", holder="bob@desk")
    assert error.kind == "lock-held"
    assert "ann@desk is deploying (process 1 on the device, for " in error.message
    told = op(other(disk), "state")["lock"]
    assert (told["holder"], told["alive"], told["mine"]) == ("ann@desk", True, False)
    assert told["age_s"] >= 0
    assert op(disk, "state")["lock"]["mine"]


def test_a_dead_holders_lock_is_taken_over(disk: Disk) -> None:
    op(disk, "lock", holder="ann@desk")
    heir = other(disk, alive=False)
    assert op(heir, "lock", holder="bob@desk") == {"taken_over": "ann@desk"}
    assert refused(disk, "begin").kind == "refused"
    assert op(heir, "begin") == {}


def test_only_the_holder_gives_the_lock_back(disk: Disk) -> None:
    op(disk, "lock")
    assert op(other(disk), "unlock") == {"released": False}
    assert op(disk, "unlock") == {"released": True}
    assert op(disk, "unlock") == {"released": False}
    assert op(other(disk), "lock") == {"taken_over": None}


@pytest.mark.parametrize(
    "text", ["", "{", '{"pid":1}', '{"pid":1e999}', "x" * 5000, '{"pid":true,"boot":"","started":1}']
)
def test_a_torn_lock_is_nobodys(disk: Disk, text: str) -> None:
    op(disk, "lock")
    (folder(disk) / "lock").write_text(text)
    assert op(other(disk), "lock") == {"taken_over": None}


def test_changes_need_the_lock(disk: Disk) -> None:
    install(disk, A)
    op(disk, "unlock")
    before = tree(disk.path)
    for name in ("begin", "stage", "trial", "switch", "hook", "commit", "refuse", "recover", "prune", "share"):
        error = refused(disk, name)
        assert error.kind == "refused"
        assert "lock" in error.message
    assert tree(disk.path) == before


HOLD = """
import sys
import tempfile
from pathlib import Path
from device_agents import lock
from device_agents.disk import Disk
from device_agents.wire import AgentError
try:
    lock.take(Disk(sys.argv[1]), Path(sys.argv[1], "lock"), "child")
    print("held", flush=True)
except AgentError as error:
    print(error.kind, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def children(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    repository = Path(__file__).resolve().parents[2]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path)],
            cwd=repository, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(4)
    ]  # fmt: skip
    yield started
    for child in started:
        child.communicate()


def test_of_many_processes_one_gets_the_lock_until_it_dies(
    tmp_path: Path, children: list[subprocess.Popen[str]]
) -> None:
    said = [child.stdout.readline().strip() for child in children if child.stdout]
    assert sorted(said) == ["held", "lock-held", "lock-held", "lock-held"]
    winner = children[said.index("held")]
    mine = Disk(str(tmp_path))
    with pytest.raises(AgentError, match="child is deploying"):
        lock.take(mine, tmp_path / "lock", "me")
    winner.kill()
    while not Path(f"/proc/{winner.pid}/stat").read_text().split(")")[1].startswith(" Z"):
        os.sched_yield()
    # Dead but not yet collected by its parent: the number still exists, the holder does not.
    dead = lock.take(mine, tmp_path / "lock", "me")
    assert dead is not None
    assert dead.process.pid == winner.pid


def test_a_process_with_the_same_number_is_another() -> None:
    me = Process.current()
    assert me.alive()
    assert not Process(me.pid, me.boot, me.started + 1).alive()
    assert not Process(me.pid, "another boot", me.started).alive()


# -- staging ------------------------------------------------------------------------------------------


def test_a_release_is_staged_whole(disk: Disk) -> None:
    op(disk, "lock")
    args = put(disk, A)
    assert op(disk, "stage", **args) == {"staged": True}
    assert {path.name: path.read_bytes() for path in folder(disk, A).iterdir()} == dict(A.files)
    assert op(disk, "verify", release=A.release) == {"problem": ""}
    assert op(disk, "stage", **args) == {"staged": False}


def test_a_blob_that_is_missing_or_damaged_makes_no_release(disk: Disk) -> None:
    op(disk, "lock")
    for name in A.files:
        args = put(disk, A)
        blob = disk.blob(A.sha256(name))
        blob.unlink()
        assert refused(disk, "stage", **args).kind == "bad-file"
        for damage in (b"", b"x" + A.files[name][1:], A.files[name] + b"x"):
            blob.write_bytes(damage)
            assert refused(disk, "stage", **args).kind in ("bad-file", "usage")
            if name != MANIFEST:
                assert not blob.exists(), "a damaged blob would never be sent again"
        blob.unlink(missing_ok=True)
        assert op(disk, "state")["releases"] == []


def test_a_damaged_release_is_repaired_where_it_lies(disk: Disk) -> None:
    install(disk, A)
    (folder(disk, A) / "model.onnx").write_bytes(b"rotten")
    (folder(disk, A) / "golden-input.f32").unlink()
    assert "golden-input" in op(disk, "state")["problem"] or "model.onnx" in op(disk, "state")["problem"]
    assert op(disk, "stage", **put(disk, A)) == {"staged": True}
    assert running(Path(disk.path)) == A.release


@pytest.mark.parametrize(
    "change",
    [
        {"files": [{"name": "../../evil", "sha256": "0" * 64, "size": 1}]},
        {"files": [{"name": "manifest.json", "sha256": "0" * 64, "size": 1}]},
        {"files": [{"name": "a", "sha256": "0" * 64, "size": 1}] * 2},
        {"files": [{"name": "a", "sha256": "../../etc/passwd", "size": 1}]},
        {"files": [{"name": "a", "sha256": "0" * 64, "size": -1}]},
        {"files": "all"},
        {"app": "another"},
        {"labels": "changed after the id was made", "keep_id": True},
    ],
)
def test_a_manifest_with_tricks_is_refused(disk: Disk, change: dict[str, Any]) -> None:
    op(disk, "lock")
    value = {**json.loads(A.files[MANIFEST]), **change}
    if not value.pop("keep_id", False):
        value["release"] = host.release_id(value)
    bundle = Bundle(A.manifest, {**A.files, MANIFEST: json.dumps(value).encode()})
    error = refused(disk, "stage", **{**put(disk, bundle), "release": value["release"]})
    assert error.kind in ("bad-file", "usage")
    assert op(disk, "state")["releases"] == []


def test_a_manifest_with_a_repeated_key_is_refused(disk: Disk) -> None:
    op(disk, "lock")
    text = A.files[MANIFEST].replace(b'"app": "camera"', b'"app": "camera", "app": "camera"')
    assert text != A.files[MANIFEST]
    assert refused(disk, "stage", **put(disk, Bundle(A.manifest, {**A.files, MANIFEST: text}))).kind == "usage"


@pytest.mark.parametrize("name", ["releases", "releases/.staging-{}", "releases/{}"])
def test_a_link_in_the_way_is_refused_and_not_followed(disk: Disk, name: str, tmp_path_factory: Any) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "precious").write_text("keep")
    op(disk, "lock")
    place = folder(disk) / name.format(A.release)
    if place.is_dir():
        place.rmdir()
    place.symlink_to(outside)
    args = put(disk, A)
    assert "nothing was followed" in refused(disk, "stage", **args).message
    if name != "releases/{}":
        assert "nothing was followed" in refused(disk, "recover").message
    assert [path.name for path in outside.iterdir()] == ["precious"]
    assert place.is_symlink()


def test_a_link_among_the_blobs_or_files_is_not_followed(disk: Disk, tmp_path: Path) -> None:
    install(disk, A)
    copy = tmp_path / "copy"
    copy.write_bytes(A.files["model.onnx"])
    installed = folder(disk, A) / "model.onnx"
    installed.unlink()
    installed.symlink_to(copy)
    assert "is a link" in op(disk, "verify", release=A.release)["problem"]
    blob = disk.blob(A.sha256("model.onnx"))
    blob.unlink()
    blob.symlink_to(copy)
    assert refused(disk, "stage", release=A.release, manifest=A.sha256(MANIFEST)).kind == "refused"


# -- signatures ---------------------------------------------------------------------------------------


SIGNED, SIGNED_AGAIN = b'{"signature":"one"}', b'{"signature":"two"}'


def signed(disk: Disk, bundle: Bundle, signature: bytes) -> dict[str, Any]:
    sha256 = hashlib.sha256(signature).hexdigest()
    disk.blob(sha256).write_bytes(signature)
    return {**put(disk, bundle), "signature": sha256}


def test_a_signature_is_kept_beside_the_release_and_told(disk: Disk) -> None:
    op(disk, "lock")
    assert op(disk, "stage", **signed(disk, A, SIGNED)) == {"staged": True}
    assert (folder(disk, A) / "manifest.sig").read_bytes() == SIGNED
    assert op(disk, "verify", release=A.release) == {"problem": ""}
    assert op(disk, "manifest", release=A.release)["signature"] == SIGNED.decode()
    op(disk, "stage", **put(disk, B))
    assert op(disk, "manifest", release=B.release)["signature"] is None
    assert op(disk, "stage", **{**put(disk, B), "signature": None}) == {"staged": False}


def test_a_release_that_is_there_takes_a_new_signature_and_keeps_it_where_none_comes(disk: Disk) -> None:
    op(disk, "lock")
    op(disk, "stage", **put(disk, A))
    assert op(disk, "stage", **signed(disk, A, SIGNED)) == {"staged": True}
    assert op(disk, "stage", **signed(disk, A, SIGNED)) == {"staged": False}
    assert op(disk, "stage", **signed(disk, A, SIGNED_AGAIN)) == {"staged": True}
    assert op(disk, "stage", **put(disk, A)) == {"staged": False}
    (folder(disk, A) / "model.onnx").write_bytes(b"rotten")
    assert op(disk, "stage", **put(disk, A)) == {"staged": True}
    assert op(disk, "manifest", release=A.release)["signature"] == SIGNED_AGAIN.decode()
    assert {path.name for path in folder(disk, A).iterdir()} == {*A.files, "manifest.sig"}


def test_a_signature_that_is_missing_damaged_or_too_large_makes_no_release(disk: Disk) -> None:
    op(disk, "lock")
    args = signed(disk, A, SIGNED)
    disk.blob(args["signature"]).write_bytes(SIGNED + b"x")
    assert refused(disk, "stage", **args).kind == "bad-file"
    assert refused(disk, "stage", **args).kind == "bad-file"  # the damaged blob is gone
    assert refused(disk, "stage", **signed(disk, A, b"x" * (MAX_SIGNATURE + 1))).kind == "bad-file"
    assert op(disk, "state")["releases"] == []


def test_no_manifest_lists_a_signature(disk: Disk) -> None:
    op(disk, "lock")
    value = json.loads(A.files[MANIFEST])
    value["files"].append({"name": "manifest.sig", "sha256": "0" * 64, "size": 1})
    value["release"] = host.release_id(value)
    bundle = Bundle(A.manifest, {**A.files, MANIFEST: json.dumps(value).encode()})
    assert "signature" in refused(disk, "stage", **{**put(disk, bundle), "release": value["release"]}).message


def test_a_link_as_a_signature_is_not_followed(disk: Disk, tmp_path: Path) -> None:
    install(disk, A)
    (tmp_path / "secret").write_text("secret")
    link = folder(disk, A) / "manifest.sig"
    link.symlink_to(tmp_path / "secret")
    assert refused(disk, "manifest", release=A.release).kind == "refused"
    assert op(disk, "verify", release=A.release) == {"problem": ""}
    op(disk, "stage", **signed(disk, A, SIGNED))
    assert (link.read_bytes(), link.is_symlink()) == (SIGNED, False)
    assert (tmp_path / "secret").read_text() == "secret"


def test_a_signature_lives_and_goes_with_its_release(disk: Disk) -> None:
    op(disk, "lock")
    args = signed(disk, A, SIGNED)
    for name, given in (("begin", {}), ("stage", args), ("switch", {}), ("commit", {})):
        op(disk, name, **{"release": A.release, **given})
    install(disk, B)
    op(disk, "begin", release=C.release)
    op(disk, "recover")
    op(disk, "prune")
    assert disk.blob(args["signature"]).exists()
    assert op(disk, "manifest", release=A.release)["signature"] == SIGNED.decode()
    install(disk, C)
    assert op(disk, "prune") == {"removed": [A.release]}
    assert not disk.blob(args["signature"]).exists()


# -- switching ----------------------------------------------------------------------------------------


def test_current_moves_only_for_a_deployment_that_began(disk: Disk) -> None:
    install(disk, A)
    op(disk, "stage", **put(disk, B))
    assert refused(disk, "switch", release=B.release).kind == "refused"
    op(disk, "begin", release=B.release)
    assert refused(disk, "switch", release=A.release).kind == "refused"
    assert running(Path(disk.path)) == A.release


def test_current_moves_only_to_a_whole_release(disk: Disk) -> None:
    install(disk, A)
    op(disk, "begin", release=B.release)
    assert refused(disk, "switch", release=B.release).kind == "bad-file"
    op(disk, "stage", **put(disk, B))
    (folder(disk, B) / "model.onnx").write_bytes(b"rotten")
    assert refused(disk, "switch", release=B.release).kind == "bad-file"
    assert running(Path(disk.path)) == A.release


def test_only_what_is_current_is_committed(disk: Disk) -> None:
    op(disk, "lock")
    op(disk, "begin", release=A.release)
    op(disk, "stage", **put(disk, A))
    assert "current is None" in refused(disk, "commit", release=A.release).message
    assert refused(disk, "begin", release=B.release).kind == "refused"


def test_every_op_may_be_repeated(disk: Disk) -> None:
    op(disk, "lock")
    args = put(disk, A)
    steps = [
        ("lock", {}),
        ("begin", {"release": A.release}),
        ("stage", args),
        ("trial", {"release": A.release}),
        ("switch", {"release": A.release}),
        ("commit", {"release": A.release}),
        ("share", {"release": A.release}),
        ("prune", {}),
        ("recover", {}),
        ("unlock", {}),
    ]
    for name, given in steps:
        op(disk, name, **given)
        before = tree(disk.path)
        op(disk, name, **given)
        assert tree(disk.path) == before, name
    assert running(Path(disk.path)) == A.release


# -- recovery -----------------------------------------------------------------------------------------


def begin_switched(disk: Disk, bundle: Bundle) -> None:
    op(disk, "begin", release=bundle.release)
    op(disk, "stage", **put(disk, bundle))
    op(disk, "switch", release=bundle.release)


def test_recovery_puts_back_what_was_current(disk: Disk) -> None:
    install(disk, A)
    begin_switched(disk, B)
    assert running(Path(disk.path)) == B.release
    found = op(disk, "recover", reason="cut")["recovered"]
    assert found == {
        "release": B.release,
        "from": A.release,
        "event": "rolled-back",
        "switched": True,
        "reason": "cut",
    }
    assert running(Path(disk.path)) == A.release
    assert op(disk, "recover") == {"recovered": None}


def test_recovery_of_a_first_release_leaves_none(disk: Disk) -> None:
    op(disk, "lock")
    begin_switched(disk, A)
    op(disk, "recover")
    assert running(Path(disk.path)) is None


def test_with_the_old_release_damaged_the_new_one_stays(disk: Disk) -> None:
    install(disk, A)
    begin_switched(disk, B)
    (folder(disk, A) / "model.onnx").write_bytes(b"rotten")
    assert op(disk, "recover", reason="cut")["recovered"]["event"] == "committed"
    assert running(Path(disk.path)) == B.release


def test_with_both_damaged_somebody_must_look(disk: Disk) -> None:
    install(disk, A)
    begin_switched(disk, B)
    for bundle in (A, B):
        (folder(disk, bundle) / "model.onnx").write_bytes(b"rotten")
    assert refused(disk, "recover").kind == "needs-hands"


def test_recovery_sweeps_what_was_half_made(disk: Disk) -> None:
    install(disk, A)
    for name in ("releases/.staging-x", "releases/.trash-y"):
        (folder(disk) / name).mkdir()
        (folder(disk) / name / "part").write_text("x")
    (folder(disk) / ".current.new").symlink_to("releases/x")
    op(disk, "recover")
    assert [path.name for path in folder(disk).rglob(".*")] == []
    assert running(Path(disk.path)) == A.release


def test_recovery_leaves_what_others_put_into_the_apps_folder(disk: Disk) -> None:
    """Hooks work there, and an application may keep its settings beside `current`."""
    install(disk, A)
    (folder(disk) / ".env").write_text("KEY=1")
    (folder(disk) / ".cache").mkdir()
    (folder(disk) / ".cache" / "warm").write_text("x")
    op(disk, "recover")
    assert (folder(disk) / ".env").read_text() == "KEY=1"
    assert (folder(disk) / ".cache" / "warm").exists()


def test_two_agents_that_begin_at_once_do_not_trip_over_each_others_link(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deployments of two apps: each has its own lock, agent.pyz is one for all."""
    agents = Path(disk.path, "agent")
    agents.mkdir()
    shipped = agents / f"{'a' * 64}.pyz"
    monkeypatch.setattr(slots, "__file__", str(shipped / "device_agents" / "slots.py"))

    def met(when: str) -> Disk:
        def effect(change: str, path: Path) -> None:
            temporary = agents / ".agent.pyz.new"
            if change == when == "symlink" and path == temporary:
                path.symlink_to(shipped.name)
            if change == when == "switch" and path.name == "agent.pyz":
                temporary.replace(path)

        return Disk(disk.path, effect=effect)

    for app, when in (("one", "symlink"), ("two", "switch")):
        assert OPS["lock"](met(when), {"app": app, "holder": "me"}) == {"taken_over": None}
        (agents / "agent.pyz").unlink(missing_ok=True)


@pytest.mark.parametrize("make", ["folder", "file", "outside", "absolute", "dots"])
def test_a_current_that_is_not_ours_needs_hands(disk: Disk, make: str) -> None:
    install(disk, A)
    link = folder(disk) / "current"
    link.unlink()
    if make == "folder":
        link.mkdir()
    elif make == "file":
        link.write_text("x")
    else:
        link.symlink_to({"outside": "../../x", "absolute": str(folder(disk, A)), "dots": "releases/.."}[make])
    assert "move it away" in op(disk, "state")["needs_hands"]
    assert refused(disk, "begin", release=B.release).kind == "needs-hands"


# -- the journal --------------------------------------------------------------------------------------


def test_a_torn_record_is_dropped_and_overwritten(disk: Disk) -> None:
    install(disk, A)
    journal = folder(disk) / "journal.jsonl"
    with journal.open("ab") as stream:
        stream.write(b'{"event":"begin","rel')
    assert op(disk, "state")["unfinished"] is None
    op(disk, "begin", release=B.release)
    assert [json.loads(line)["event"] for line in journal.read_text().splitlines()][-2:] == ["committed", "begin"]


@pytest.mark.parametrize(
    "line",
    [
        b"rubbish",
        b"[]",
        b'{"event":"dance","release":"a"}',
        b'{"event":"begin","release":"../../x","from":null}',
        b'{"event":"begin","release":"a","from":"../../x"}',
        b'{"event":"committed","release":"a","previous":"/etc"}',
        b"\0" * 40,
    ],
)
def test_a_damaged_journal_needs_hands(disk: Disk, line: bytes) -> None:
    install(disk, A)
    journal = folder(disk) / "journal.jsonl"
    journal.write_bytes(line + b"\n" + journal.read_bytes() + line + b"\n")
    assert "journal.jsonl is damaged" in op(disk, "state")["needs_hands"]
    assert refused(disk, "recover").kind == "needs-hands"
    assert running(Path(disk.path)) == A.release


def test_a_long_journal_is_shortened_and_still_knows_the_previous_release(disk: Disk) -> None:
    install(disk, A, B)
    journal = folder(disk) / "journal.jsonl"
    while journal.stat().st_size <= COMPACT_ABOVE:
        with journal.open("a") as stream:
            stream.writelines(['{"event":"refused","release":"x","reason":"%s"}\n' % ("y" * 900)] * 200)
    op(disk, "refuse", release=C.release, reason="last")
    lines = journal.read_text().splitlines()
    assert len(lines) == COMPACT_TO + 2
    assert json.loads(lines[-1])["reason"] == "last"
    assert op(disk, "state")["previous"] == A.release


def test_modes_that_change_while_a_deployment_is_half_done_do_not_fill_the_journal(disk: Disk) -> None:
    """A device whose host never came back follows its policy for months, and is then recovered."""
    install(disk, A)
    begin_switched(disk, B)
    journal = folder(disk) / "journal.jsonl"
    while journal.stat().st_size <= COMPACT_ABOVE:
        with journal.open("a") as stream:
            stream.writelines(['{"event":"mode","release":"x","mode":"low","reason":"hot"}\n'] * 1000)
    App(disk, APP).write_journal(history.MODE, B.release, mode="full")
    assert journal.stat().st_size < COMPACT_ABOVE / 10
    assert op(disk, "recover")["recovered"]["from"] == A.release
    assert running(Path(disk.path)) == A.release


def test_trials_count_until_a_commit_and_only_with_blame(disk: Disk) -> None:
    install(disk, A)

    def trial(blame: bool) -> int:
        op(disk, "begin", release=B.release)
        op(disk, "trial", release=B.release)
        op(disk, "recover", blame=blame)
        trials: dict[str, int] = op(disk, "state")["trials"]
        return trials.get(B.release, 0)

    assert [trial(True), trial(False), trial(True)] == [1, 1, 2]
    install(disk, B)
    assert op(disk, "state")["trials"] == {}


def test_previous_is_what_the_journal_says(disk: Disk) -> None:
    assert op(disk, "state")["previous"] is None
    install(disk, A)
    assert op(disk, "state")["previous"] is None
    install(disk, B, C)
    assert op(disk, "state")["previous"] == B.release
    link = folder(disk) / "current"
    link.unlink()
    link.symlink_to(f"releases/{A.release}")  # by hand
    assert op(disk, "state")["previous"] == C.release


# -- pruning ------------------------------------------------------------------------------------------


def test_pruning_keeps_current_and_previous_and_their_blobs(disk: Disk) -> None:
    install(disk, A, B, C)
    assert op(disk, "prune") == {"removed": [A.release]}
    assert op(disk, "state")["releases"] == sorted([B.release, C.release])
    kept = {path.name for path in (Path(disk.path) / "blobs").iterdir()}
    assert kept == B.blobs().keys() | C.blobs().keys()


def test_pruning_leaves_the_blobs_of_other_apps(disk: Disk) -> None:
    twin = make_bundle(1.0, app="doorbell")
    op(disk, "lock", app="doorbell")
    op(disk, "stage", app="doorbell", **put(disk, twin))
    install(disk, A, B, C)
    op(disk, "prune")
    kept = {path.name for path in (Path(disk.path) / "blobs").iterdir()}
    assert twin.blobs().keys() <= kept
    assert A.sha256(MANIFEST) not in kept


def test_blobs_of_releases_are_not_discarded(disk: Disk) -> None:
    install(disk, A)
    other = make_bundle(9.0)
    put(disk, other)
    kept = set(A.blobs())
    assert pruning.discard(disk, [*A.blobs(), *other.blobs()]) == len(other.blobs().keys() - kept)
    assert {path.name for path in (Path(disk.path) / "blobs").iterdir()} == kept


def test_pruning_drops_transfers_that_nobody_continues(disk: Disk) -> None:
    install(disk, A)
    names = ("incoming/old.pack.gz", "incoming/new.pack.gz", "blobs/old.part", "blobs/new.part")
    for name in names:
        file = Path(disk.path, name)
        file.write_bytes(b"half")
        if "old" in name:
            os.utime(file, (time.time() - 1000, time.time() - 1000))
    op(disk, "prune")
    assert [name for name in names if Path(disk.path, name).exists()] == ["incoming/new.pack.gz", "blobs/new.part"]
    assert running(Path(disk.path)) == A.release


def test_shared_files_come_back_as_blobs(disk: Disk) -> None:
    install(disk, A)
    shutil.rmtree(Path(disk.path) / "blobs")
    Root(disk.path).prepare()
    op(disk, "share", release=A.release)
    for name in ("model.onnx", "golden-input.f32", "golden-output.f32"):
        assert disk.read_blob(A.sha256(name)) == A.files[name]


# -- reading ------------------------------------------------------------------------------------------


def test_asking_changes_nothing(disk: Disk) -> None:
    fresh = tree(disk.path)
    assert op(disk, "state")["current"] is None
    assert op(disk, "status")["journal"] == []
    assert tree(disk.path) == fresh
    install(disk, A, B)
    before = tree(disk.path)
    status = op(disk, "status")
    assert status["manifest"].encode() == B.files[MANIFEST]
    assert [record["event"] for record in status["journal"]][-1] == "committed"
    assert op(disk, "manifest", release=A.release)["manifest"].encode() == A.files[MANIFEST]
    assert tree(disk.path) == before
