"""`convert migrate` as a user runs it. Outputs are judged by safetensors and torch."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.command import run, run_json

JOURNAL = ".ckpt-convert/journal.sqlite"


def save(path: Path, seed: int = 0, size: int = 100) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    weights = {"head.weight": torch.randn(size, 3), "head.bias": torch.randn(3)}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(weights, path)
    return weights


def files(folder: Path) -> set[str]:
    """What was made in ``folder``, but for the report and the journal."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith((".ckpt-convert/", "report."))}


def rows(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["source"]: row for row in document["rows"]}


def statuses(document: dict[str, Any]) -> dict[str, str]:
    return {row["source"]: row["status"] for row in document["rows"]}


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    folder = tmp_path / "zoo"
    save(folder / "a.pth", 1)
    save(folder / "deep/er/b.ckpt", 2)
    save(folder / "deep/c.pt", 3)
    (folder / "README.md").write_text("not a checkpoint")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def same(path: Path, weights: dict[str, torch.Tensor]) -> None:
    found = load_file(path)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key], weights[key]) for key in weights)


def test_a_tree_is_mirrored_for_several_targets(zoo: Path, out: Path) -> None:
    document = run_json("migrate", zoo, out, "--to", "safetensors", "--to", "pth")
    assert document["status"] == "done"
    assert document["totals"]["done"] == 3
    assert [(entry["source"], "text" in entry["kind"]) for entry in document["ignored"]] == [("README.md", True)]
    assert files(out) == {f"{name}.{to}" for name in ("a", "deep/er/b", "deep/c") for to in ("safetensors", "pth")}
    same(out / "deep/er/b.safetensors", torch.load(zoo / "deep/er/b.ckpt", weights_only=True))
    assert torch.load(out / "a.pth", weights_only=True).keys() == torch.load(zoo / "a.pth", weights_only=True).keys()
    assert json.loads((out / "report.json").read_text()) == document


def test_a_second_run_does_only_what_changed(zoo: Path, out: Path) -> None:
    run("migrate", zoo, out, "--to", "safetensors", check=True)
    before = {name: (out / name).stat().st_mtime_ns for name in files(out)}
    again = run_json("migrate", zoo, out, "--to", "safetensors")
    assert set(statuses(again).values()) == {"unchanged"}
    assert again["totals"]["bytes_out"] > 0
    weights = save(zoo / "a.pth", 9)
    os.utime(zoo / "deep/c.pt")  # another time, the same bytes
    third = run_json("migrate", zoo, out, "--to", "safetensors")
    assert statuses(third) == {"a.pth": "done", "deep/c.pt": "unchanged", "deep/er/b.ckpt": "unchanged"}
    same(out / "a.safetensors", weights)
    changed = {name for name, mtime in before.items() if (out / name).stat().st_mtime_ns != mtime}
    assert changed == {"a.safetensors"}


def test_other_settings_make_the_outputs_again(zoo: Path, out: Path) -> None:
    run("migrate", zoo, out, "--to", "safetensors", check=True)
    document = run_json("migrate", zoo, out, "--to", "safetensors", "--dtype", "f16")
    assert document["totals"]["done"] == 3
    assert load_file(out / "a.safetensors")["head.weight"].dtype == torch.float16


def test_what_nobody_changed_survives_touching_the_outputs(zoo: Path, out: Path) -> None:
    run("migrate", zoo, out, "--to", "safetensors", check=True)
    os.utime(out / "a.safetensors")
    assert run_json("migrate", zoo, out, "--to", "safetensors")["totals"]["unchanged"] == 3


def flip(path: Path) -> None:
    """Change one byte and leave size and times as they were."""
    state = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_check_finds_what_was_damaged_and_the_next_run_mends_it(zoo: Path, out: Path) -> None:
    run("migrate", zoo, out, "--to", "safetensors", check=True)
    assert run_json("migrate", zoo, out, "--check")["totals"]["unchanged"] == 3
    good = {name: (out / name).read_bytes() for name in files(out)}
    flip(out / "a.safetensors")
    (out / "deep/c.safetensors").unlink()
    with (out / "deep/er/b.safetensors").open("ab") as file:
        file.write(b"edited")
    document = run_json("migrate", zoo, out, "--check", exit_code=70)
    assert {name: row["error"]["kind"] for name, row in rows(document).items()} == dict.fromkeys(rows(document), "damaged")
    assert "missing" in rows(document)["deep/c.pt"]["error"]["what"]
    assert run_json("migrate", zoo, out, "--to", "safetensors")["totals"]["done"] == 3
    assert {name: (out / name).read_bytes() for name in files(out)} == good
    run("migrate", zoo, out, "--check", check=True)


def test_bad_files_never_stop_the_rest(zoo: Path, out: Path) -> None:
    (zoo / "cut.pth").write_bytes((zoo / "a.pth").read_bytes()[:-200])
    (zoo / "junk.pth").write_text("junk")
    document = run_json("migrate", zoo, out, "--to", "safetensors", exit_code=65)
    assert document["totals"]["done"] == 3
    assert {name for name, row in rows(document).items() if row["status"] == "failed"} == {"cut.pth", "junk.pth"}
    assert sum(document["totals"]["by_reason"].values()) == 2
    text = run("migrate", zoo, out, "--to", "safetensors")
    assert text.returncode == 65
    assert "5 checkpoints: 3 unchanged, 2 failed" in text.stdout
    assert "cut.pth: " in text.stderr


def test_one_target_may_fail_alone(zoo: Path, out: Path) -> None:
    document = run_json("migrate", zoo, out, "--to", "safetensors", "--to", "onnx", "--include", "a.pth", exit_code=69)
    (row,) = document["rows"]
    assert row["error"]["target"] == "onnx"
    assert [output["target"] for output in row["outputs"]] == ["safetensors"]
    assert (out / "a.safetensors").is_file()


def test_the_same_content_is_converted_once(zoo: Path, out: Path) -> None:
    shutil.copy(zoo / "a.pth", zoo / "deep/copy of a.pth")
    document = run_json("migrate", zoo, out, "--to", "safetensors")
    copied = rows(document)["deep/copy of a.pth"]
    assert (copied["status"], copied["copy_of"]) == ("copied", "a.pth")
    assert (out / "deep/copy of a.safetensors").read_bytes() == (out / "a.safetensors").read_bytes()
    assert not (out / "deep/copy of a.safetensors").samefile(out / "a.safetensors")
    shutil.copy(zoo / "a.pth", zoo / "later.pth")
    later = run_json("migrate", zoo, out, "--to", "safetensors")
    assert statuses(later)["later.pth"] == "copied"
    same(out / "later.safetensors", torch.load(zoo / "a.pth", weights_only=True))


def test_two_files_that_only_look_alike_are_both_converted(zoo: Path, out: Path) -> None:
    """Beyond a megabyte only samples of a source are read to find twins; all bytes decide."""
    weights = save(zoo / "large.pth", 5, size=300_000)
    content = bytearray((zoo / "large.pth").read_bytes())
    found = content.find(weights["head.weight"].numpy().tobytes()[1_500_000:1_500_064])
    content[found] ^= 1
    (zoo / "other.pth").write_bytes(content)
    document = run_json("migrate", zoo, out, "--to", "safetensors", exit_code=65)
    assert statuses(document)["large.pth"] == "done"
    assert "CRC-32" in rows(document)["other.pth"]["error"]["what"]


def test_namesakes_are_kept_apart(zoo: Path, out: Path) -> None:
    for number, name in enumerate(("n/a.pth", "n/a.pt", "n/b.pth")):
        save(zoo / name, 20 + number)
    document = run_json("migrate", zoo, out, "--to", "safetensors", "--include", "n/*", "--jobs", "1")
    assert document["totals"]["done"] == 3
    assert files(out) == {"n/a.pth.safetensors", "n/a.pt.safetensors", "n/b.safetensors"}
    save(zoo / "n/b.ckpt", 30)  # comes later: what has a name keeps it
    later = run_json("migrate", zoo, out, "--to", "safetensors", "--include", "n/*")
    assert statuses(later) == {"n/a.pth": "unchanged", "n/a.pt": "unchanged", "n/b.pth": "unchanged", "n/b.ckpt": "done"}
    assert "n/b.ckpt.safetensors" in files(out)


def test_somebody_elses_file_is_never_replaced(zoo: Path, out: Path) -> None:
    out.mkdir()
    (out / "a.safetensors").write_text("mine")
    for _ in range(2):
        document = run_json("migrate", zoo, out, "--to", "safetensors", exit_code=73)
        assert rows(document)["a.pth"]["error"]["kind"] == "exists"
        assert (out / "a.safetensors").read_text() == "mine"
    assert run_json("migrate", zoo, out, "--to", "safetensors", "--force")["totals"]["done"] == 3


def test_another_tree_does_not_take_outputs_away(zoo: Path, out: Path, tmp_path: Path) -> None:
    run("migrate", zoo, out, "--to", "safetensors", check=True)
    before = (out / "a.safetensors").read_bytes()
    save(tmp_path / "other/a.pth", 77)
    save(tmp_path / "other/new.pth", 78)
    document = run_json("migrate", tmp_path / "other", out, "--to", "safetensors", exit_code=73)
    assert statuses(document) == {"a.pth": "failed", "new.pth": "done"}
    assert (out / "a.safetensors").read_bytes() == before
    zoo.rename(tmp_path / "moved")
    assert set(statuses(run_json("migrate", tmp_path / "moved", out, "--to", "safetensors")).values()) == {"unchanged"}


def test_dry_run_prints_the_plan_and_writes_nothing(zoo: Path, out: Path) -> None:
    document = run_json("migrate", zoo, out, "--to", "safetensors", "--dry-run")
    assert document["status"] == "planned"
    assert not out.exists()
    assert document["space"]["free"] > document["space"]["needed"] > 0
    run("migrate", zoo, out, "--to", "safetensors", check=True)
    for row in document["rows"]:
        for output in row["outputs"]:
            assert (out / output["path"]).stat().st_size == output["bytes"]
    assert "0 to convert, 3 unchanged" in run("migrate", zoo, out, "--to", "safetensors", "--dry-run", check=True).stdout


def test_include_and_exclude(zoo: Path, out: Path) -> None:
    def chosen(*options: str) -> set[str]:
        return set(statuses(run_json("migrate", zoo, out, "--to", "safetensors", "--dry-run", *options)))

    assert chosen("--include", "*.pt") == {"deep/c.pt"}
    assert chosen("--include", "deep/*") == {"deep/c.pt", "deep/er/b.ckpt"}
    assert chosen("--exclude", "er") == {"a.pth", "deep/c.pt"}
    assert chosen("--exclude", "*.pt", "--include", "deep/*") == {"deep/er/b.ckpt"}


def test_lists_globs_indexes_and_one_file(zoo: Path, out: Path, tmp_path: Path) -> None:
    def chosen(source: Path | str, *options: str | Path) -> set[str]:
        return set(statuses(run_json("migrate", source, out, "--to", "safetensors", "--dry-run", *options)))

    (tmp_path / "list").write_text(f"# mine\na.pth\n\n{zoo}/deep/c.pt\n")
    assert chosen(zoo, "--list", tmp_path / "list") == {"a.pth", "deep/c.pt"}
    assert chosen(f"{zoo}/**/*.[cp]*t") == {"a.pth", "deep/c.pt", "deep/er/b.ckpt"} - {"a.pth"}
    (zoo / "index.jsonl").write_text('{"path": "a.pth"}\n"deep/er"\n')
    assert chosen(zoo / "index.jsonl") == {"a.pth", "deep/er/b.ckpt"}
    (zoo / "index.json").write_text('{"checkpoints": [{"path": "deep/c.pt"}]}')
    assert chosen(zoo / "index.json") == {"deep/c.pt"}
    assert chosen(zoo / "a.pth") == {"a.pth"}
    (tmp_path / "list").write_text("../out\n")
    refused = run("migrate", zoo, out, "--to", "safetensors", "--list", tmp_path / "list")
    assert refused.returncode == 2
    assert "not below" in refused.stderr


def test_events_are_a_document_a_line(zoo: Path, out: Path) -> None:
    (zoo / "junk.pth").write_text("junk")
    done = run("migrate", zoo, out, "--to", "safetensors", "--events")
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["event"] for one in told] == ["begin", "row", "row", "row", "row", "end"]
    assert told[0]["checkpoints"] == 5  # the README is one of those to look at
    assert told[-1]["totals"]["failed"] == 1
    assert done.returncode == told[-1]["exit"] == 65


def test_one_migration_at_a_time(zoo: Path, out: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    run("migrate", zoo, out, "--to", "safetensors", check=True)
    with (out / ".ckpt-convert/lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = run("migrate", zoo, out, "--to", "safetensors")
    assert refused.returncode == 73
    assert "another migration" in refused.stderr


def test_the_journal_says_what_was_done(zoo: Path, out: Path) -> None:
    run("migrate", zoo, out, "--to", "safetensors", "--digest", "sha256", check=True)
    base = sqlite3.connect(out / JOURNAL)
    found = dict(base.execute("SELECT name, digest FROM sources WHERE ignored IS NULL"))
    assert set(found) == {"a.pth", "deep/c.pt", "deep/er/b.ckpt"}
    assert all(digest.startswith("sha256:") for digest in found.values())
    assert base.execute("SELECT count(*) FROM runs WHERE ended IS NOT NULL").fetchone() == (1,)
    outputs = [json.loads(text) for (text,) in base.execute("SELECT outputs FROM conversions")]
    assert all(one["sha256"] for (output,) in outputs for one in output["files"])


def test_usage(zoo: Path, out: Path, tmp_path: Path) -> None:
    assert run("migrate", zoo, out).returncode == 2
    assert run("migrate", zoo, zoo, "--to", "safetensors").returncode == 2
    assert run("migrate", tmp_path / "nowhere", out, "--to", "safetensors").returncode == 2
    assert run("migrate", zoo, out, "--to", "nothing").returncode == 69
    assert run("migrate", zoo, out, "--check").returncode == 2
    assert run("migrate", zoo, out, "--to", "safetensors", "--json", "--events").returncode == 2


def test_a_model_of_one_checkpoint_never_takes_the_output_of_another(tmp_path: Path, out: Path) -> None:
    """``a.pth`` with a model ``gen`` would become ``a.gen.safetensors``, and so would ``a.gen.pth``."""
    own = save(tmp_path / "zoo/a.gen.pth", 1)
    model = {"conv.weight": torch.randn(4, 4), "conv.bias": torch.randn(4)}
    torch.save({"gen": model, "disc": {"fc.weight": torch.randn(3, 2), "fc.bias": torch.randn(3)}}, tmp_path / "zoo/a.pth")
    document = run_json("migrate", tmp_path / "zoo", out, "--to", "safetensors", exit_code=73)
    assert statuses(document) == {"a.gen.pth": "done", "a.pth": "failed"}
    assert "is the output of another checkpoint beside this one" in rows(document)["a.pth"]["error"]["what"]
    same(out / "a.gen.safetensors", own)


def test_a_damaged_journal_is_told(zoo: Path, out: Path) -> None:
    run("migrate", zoo, out, "--to", "safetensors", check=True)
    (out / JOURNAL).write_bytes(b"no database, and longer than a header of one" * 10)
    refused = run("migrate", zoo, out, "--to", "safetensors")
    assert refused.returncode == 74
    assert "the journal cannot be used" in refused.stderr
    (out / JOURNAL).unlink()
    assert run("migrate", zoo, out, "--to", "safetensors").returncode == 73
    assert run_json("migrate", zoo, out, "--to", "safetensors", "--force")["totals"]["done"] == 3


def test_index_entries_say_what_counts_for_them(zoo: Path, out: Path) -> None:
    torch.save({"model": {"w": torch.zeros(3)}, "other": {"v": torch.ones(4)}}, zoo / "two.pth")
    (zoo / "index.json").write_text(json.dumps([{"path": "two.pth", "select": "other"}, "a.pth"]))
    document = run_json("migrate", zoo / "index.json", out, "--to", "safetensors")
    assert rows(document)["two.pth"]["model"] == "other"
    assert load_file(out / "two.safetensors").keys() == {"v"}
    (zoo / "index.json").write_text(json.dumps([{"path": "two.pth", "select": "model"}, "a.pth"]))
    document = run_json("migrate", zoo / "index.json", out, "--to", "safetensors")
    assert statuses(document) == {"a.pth": "unchanged", "two.pth": "done"}
    assert load_file(out / "two.safetensors").keys() == {"w"}
    (zoo / "index.json").write_text(json.dumps([{"path": "two.pth", "select": 7}]))
    assert run("migrate", zoo / "index.json", out, "--to", "safetensors").returncode == 2


def test_the_reports_rows_are_an_index(zoo: Path, out: Path, tmp_path: Path) -> None:
    run("migrate", zoo, out, "--to", "safetensors", check=True)
    shutil.copy(out / "report.json", zoo / "again.json")
    document = run_json("migrate", zoo / "again.json", tmp_path / "second", "--to", "pth")
    assert document["totals"]["done"] == 3
