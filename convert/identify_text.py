"""An `IdentifyResult` as text and as the JSON document: one content, two spellings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convert.text import count, shape, shown

if TYPE_CHECKING:
    from pathlib import Path

    from convert.identify import IdentifyResult
    from convert.signatures.match import Comparison
    from convert.signatures.table import Member

LISTED = 12  # differing keys in the text; the JSON document has them all
_PREPROCESSING = ("input size", "mean", "std", "interpolation", "crop")


def document(result: IdentifyResult) -> dict[str, Any]:
    """Everything that is known, JSON-able."""
    found: dict[str, Any] = {
        "status": result.status,
        "tensors": result.tensors,
        "architecture": None if result.member is None or result.status == "nearest" else result.member.name,
        "arch": result.arch,
        "basis": result.basis,
        "assumption": result.assumption,
        "members": [_member(member) for member in result.members],
        "apart": result.apart(),
        "hints": result.hints,
        "table": result.libraries,
        "seconds": round(result.seconds, 4),
    }
    if result.best is not None:
        found["best"] = _comparison(result.best)
        found["equals"] = [_comparison(other, brief=True) for other in result.equals]
        found["others"] = [_comparison(other, brief=True) for other in result.others]
    return found


def _member(member: Member) -> dict[str, Any]:
    return {"name": member.name, "group": member.group, "difference": member.difference, "facts": member.facts}


def _comparison(found: Comparison, *, brief: bool = False) -> dict[str, Any]:
    said: dict[str, Any] = {
        "architectures": [member.name for member in found.signature.members],
        "score": round(found.score, 4),
        "coverage": round(found.coverage, 5),
        "prefix": found.prefix,
        "resized_coverage": round(found.resized_coverage, 5),
        "elsewhere": found.elsewhere,
        "differing": found.differing,
        "by_shape": found.by_shape,
    }
    if not brief:
        said |= {
            "arguments": found.arguments,
            "head": {"keys": sorted(found.signature.head), "present": found.heads},
            "missing": found.missing,
            "unexpected": found.unexpected,
            "reshaped": [
                {"key": key, "file": list(held), "model": list(wanted), "explained": key in found.explained}
                for key, held, wanted in found.reshaped
            ],
            "rename": found.rename,
        }
    return said


def lines(result: IdentifyResult) -> list[str]:
    """The verdict first, then what it rests on."""
    if result.best is None:
        libraries = ", ".join(f"{name} {version}" for name, version in result.libraries.items() if name != "torch")
        return [f"unknown: no architecture of {libraries} is near these {count(result.tensors, 'tensor')}"]
    best = result.best
    names = " = ".join(member.name for member in result.members)
    differing = f"{count(best.differing, 'key')} {'differs' if best.differing == 1 else 'differ'}"
    member = result.member.name if result.member else names
    first = {
        "identified": member,
        "part": f"{member} under the prefix {shown(best.prefix)}, beside {count(best.elsewhere, 'other key')}",
        "resized": f"{member} with position embeddings for another input size ({differing})",
        "renamed": f"shapes of {names}, under other keys",
        "nearest": f"nearest relative {names}, {differing}",
    }[result.status]
    told = [
        f"{first} ({best.same:,} of {len(best.signature.entries) - len(best.signature.head):,} entries, coverage {best.coverage:.2%})"
    ]
    if best.prefix and result.status != "part":
        told.append(f"  under the prefix {shown(best.prefix)}")
    told += _arguments(result)
    if result.arch is not None:
        told.append(f"  as --arch: {shown(result.arch)}")
    told += _members(result)
    told += _differing(best)
    for where, text in result.hints.items():
        told.append(f"  the file says, {shown(where, 60)}: {shown(text, 80)}")
    for other in result.equals or result.others[:2]:
        if other.score >= 0.9 * best.score:
            near = " = ".join(member.name for member in other.signature.members)
            rank = "equally good" if other in result.equals else "next"
            told.append(f"  {rank}: {near}, {count(other.differing, 'key')} differ, coverage {other.coverage:.2%}")
    return told


def _arguments(result: IdentifyResult) -> list[str]:
    best = result.best
    assert best is not None
    told = [f"{name}={value}" for name, value in best.arguments.items()]
    lines = [f"  shapes ask for: {', '.join(told)}"] if told else []
    if best.signature.head and not best.heads:
        lines.append(f"  without the head ({', '.join(sorted(best.signature.head))})")
    return lines


def _members(result: IdentifyResult) -> list[str]:
    member, members = result.member, result.members
    if member is None:
        return []
    lines = []
    if result.status != "nearest":
        facts = {key: value for key, value in member.facts.items() if key in ("activation", "normalisation", *_PREPROCESSING)}
        if facts:
            lines.append("  " + "; ".join(f"{key} {_fact(value)}" for key, value in facts.items()))
    if len(members) > 1:
        same = [m.name for m in members if m is not member and m.group == member.group and m.group >= 0]
        if same:
            lines.append(f"  the same function: {', '.join(same)}")
        for other in members:
            if other is member or other.name in same:
                continue
            how = (
                "was not run"
                if other.difference is None
                else f"output differs by {max(other.difference, member.difference or 0):.1g}"
            )
            lines.append(f"  the same weights, another function: {other.name} ({how} on equal weights)")
        for topic, told in result.apart().items():
            lines.append(f"    {topic}: " + ", ".join(f"{name} {shown(value, 90)}" for name, value in told.items()))
    if result.assumption:
        lines.append(f"  assumption: {result.assumption}; --arch decides")
    return lines


def _fact(value: Any) -> str:
    if isinstance(value, list):
        return (
            "×".join(map(str, value))
            if all(isinstance(n, int) for n in value)
            else "(" + ", ".join(f"{n:g}" for n in value) + ")"
        )
    return f"{value:g}" if isinstance(value, float) else shown(value, 100)


def _differing(best: Comparison) -> list[str]:
    rows = [f"missing {shown(key)}" for key in best.missing] if not best.by_shape else []
    rows += [f"unexpected {shown(key)}" for key in best.unexpected]
    rows += [
        f"{shown(key)}: {shape(held)} in the file, {shape(wanted)} in the model"
        for key, held, wanted in best.reshaped
        if key not in best.explained
    ]
    more = [f"… and {len(rows) - LISTED:,} more"] if len(rows) > LISTED else []
    return [f"    {row}" for row in [*rows[:LISTED], *more]]


def report(source: Path, found: list[tuple[str, IdentifyResult]]) -> dict[str, Any]:
    """The document of ``convert identify SOURCE --json``; exit code 69 where not even a relative of a model is known."""
    models = [{"model": name or None, **result.document()} for name, result in found]
    known = all(result.best is not None for _, result in found)
    return {"status": "done" if known else "unknown", "exit": 0 if known else 69, "source": str(source), "models": models}
