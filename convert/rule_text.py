"""Rules as text: the options of the command, and the rules file, which can be read backwards.

A rules file has one rule a line, applied from top to bottom; ``#`` begins a comment::

    only PATTERN          keys that fit the shell pattern stay; lines in a row count together
    drop PATTERN          keys that fit go
    strip-prefix TEXT     off the beginning of every key that has it
    add-prefix TEXT       before every key
    rename REGEX = TEXT   every match, as re.sub; \\1 is the first group
    key NAME = NAME       one whole key; lines in a row happen at once, so that keys may change places

A name that begins or ends with a space, holds `` = `` or begins with ``#`` or ``"`` is written as a JSON string.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from convert.job import KeyOptions
from convert.rules import Exact, Keep, KeyRules, Prefix, Rename, Rule
from formats.core.errors import SystemIOError, UsageError

MAX_FILE = 64 << 20  # bytes of a rules file
_KINDS = ("only", "drop", "strip-prefix", "add-prefix", "rename", "key")
_PAIRS = ("rename", "key")
_GROUP = re.compile(r"\\(\d)|\\g<(\d+)>")


def rules_of(options: KeyOptions) -> KeyRules:
    """The rules of one call in the order in which they run: only, drop, rules files, strip-prefix, rename, add-prefix."""
    rules: list[Rule] = []
    if options.only:
        rules.append(Keep(options.only, True, f"--only {' --only '.join(options.only)}", True))
    rules += [Keep((pattern,), False, f"--drop {pattern}", True) for pattern in options.drop]
    for path in options.rules:
        rules += read(Path(path), reverse=options.reverse)
    for prefix in options.strip_prefix:
        if not prefix:
            raise UsageError("--strip-prefix takes a text")
        rules.append(Prefix(prefix, "", f"--strip-prefix {prefix}", True))
    for rename in options.rename:
        pattern, equals, text = rename.rpartition("=")
        if not equals or not pattern:
            raise UsageError(f"--rename {rename!r:.120} is not REGEX=TEXT")
        rules.append(Rename(pattern, text, f"--rename {rename}", True))
    rules += [Prefix("", prefix, f"--add-prefix {prefix}", True) for prefix in options.add_prefix if prefix]
    return KeyRules(rules)


def read(path: Path, *, reverse: bool = False) -> list[Rule]:
    """The rules of a file, or those that undo them. A rule that meets no key is reported, not refused: one file serves many models."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise SystemIOError(f"cannot be read: {error.strerror}", path=path) from error
    if len(data) > MAX_FILE:
        raise UsageError(f"a rules file has at most {MAX_FILE} bytes", path=path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"is no UTF-8 text at byte {error.start}", path=path) from error
    try:
        lines = list(parsed(text))
        if reverse:
            lines = [(number, *_undone(number, kind, values)) for number, kind, values in reversed(lines)]
        return rules(lines, str(path))
    except UsageError as error:
        raise error.with_path(path) from error.__cause__


Line = tuple[int, str, tuple[str, ...]]  # (line number, kind, values)


def parsed(text: str) -> Iterator[Line]:
    """The lines of a rules file that hold a rule."""
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        kind, _, rest = line.partition(" ")
        if kind not in _KINDS:
            raise UsageError(f"line {number}: {kind!r:.40} is none of {', '.join(_KINDS)}")
        values = _values(rest.strip(), kind in _PAIRS, number)
        if not values[0]:
            raise UsageError(f"line {number}: {kind} of nothing")
        yield number, kind, values


def _values(text: str, pair: bool, number: int) -> tuple[str, ...]:
    first, rest = _value(text, " = " if pair else None, number)
    if not pair:
        return (first,)
    if rest is None:
        if not text.endswith(" ="):
            raise UsageError(f"line {number}: needs two sides with ' = ' between them")
        return (first, "")
    second, _ = _value(rest, None, number)
    return first, second


def _value(text: str, separator: str | None, number: int) -> tuple[str, str | None]:
    """(value, what follows the separator or None)."""
    if text.startswith('"'):
        try:
            value, end = json.JSONDecoder().raw_decode(text)
        except ValueError as error:
            raise UsageError(f"line {number}: {error}") from error
        rest = text[end:]
        if rest.strip() and not (separator and rest.startswith(separator)):
            raise UsageError(f"line {number}: {rest!r:.40} follows a quoted name")
        return value, rest[len(separator) :].strip() if separator and rest.strip() else None
    if separator is None:
        return text, None
    head, found, tail = text.partition(separator)
    return (head.strip(), tail.strip()) if found else (text.removesuffix(" =").strip(), None)


def written(kind: str, *values: str) -> str:
    """A line of a rules file."""
    return f"{kind} " + " = ".join(_quoted(value) for value in values)


def text_of(rules: KeyRules) -> list[str]:
    """The lines of a rules file that does what ``rules`` do."""
    lines: list[str] = []
    for rule in rules.rules:
        if isinstance(rule, Keep):
            lines += [written("only" if rule.keep else "drop", pattern) for pattern in rule.patterns]
        elif isinstance(rule, Prefix):
            lines.append(written("strip-prefix", rule.old) if rule.old else written("add-prefix", rule.new))
        elif isinstance(rule, Rename):
            lines.append(written("rename", rule.pattern, rule.text))
        elif isinstance(rule, Exact):
            lines += [written("key", old, new) for old, new in rule.names.items()]
    return lines


def _quoted(value: str) -> str:
    odd = not value or value != value.strip() or " = " in value or value[0] in '#"' or not value.isprintable()
    return json.dumps(value) if odd or value.endswith(" =") else value


def rules(lines: Iterable[Line], path: str) -> list[Rule]:
    """The rules that ``lines`` spell; ``key`` lines in a row are one, and so are ``only`` lines."""
    found: list[Rule] = []
    previous = ""
    for number, kind, values in lines:
        origin = f"{path}, line {number}"
        last = found[-1] if found else None
        if kind == "key":
            if previous == "key" and isinstance(last, Exact):
                if values[0] in last.names:
                    raise UsageError(f"line {number}: key {values[0]!r:.120} has a name already")
                last.names[values[0]] = values[1]
            else:
                found.append(Exact({values[0]: values[1]}, origin))
        elif kind == "only":
            if previous == "only" and isinstance(last, Keep):
                found[-1] = Keep((*last.patterns, values[0]), True, last.origin)
            else:
                found.append(Keep((values[0],), True, origin))
        elif kind == "drop":
            found.append(Keep((values[0],), False, origin))
        elif kind == "rename":
            found.append(Rename(values[0], values[1], origin))
        else:
            found.append(Prefix(values[0], "", origin) if kind == "strip-prefix" else Prefix("", values[0], origin))
        previous = kind
    return found


def _undone(number: int, kind: str, values: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """(kind, values) of the rule that undoes another. Raises `UsageError` where there is none."""
    if kind in ("strip-prefix", "add-prefix"):
        return ("add-prefix" if kind == "strip-prefix" else "strip-prefix"), (values[0],)
    if kind == "key":
        if not values[1]:
            raise UsageError(f"line {number}: key {values[0]!r:.120} has no new name")
        return kind, (values[1], values[0])
    if kind == "rename":
        undone = undone_rename(*values)
        if undone is None:
            raise UsageError(
                f"line {number}: cannot be undone: rename {values[0]} = {values[1]}"[:300],
                hint=r"can: text, escaped dots and groups that the replacement names once each, as ^layer(\d+)\. = blocks.\1.",
            )
        return kind, undone
    raise UsageError(f"line {number}: {kind} cannot be undone: what is left out is gone")


def undone_rename(pattern: str, text: str) -> tuple[str, str] | None:
    """(pattern, text) that takes the results of a rename back; None where the pattern does not say what was replaced."""
    parts = _pieces(pattern)
    if parts is None:
        return None
    begin, pieces, end = parts
    groups = [piece for is_group, piece in pieces if is_group]
    made: list[str] = []
    named: list[int] = []
    at = 0
    for match in _GROUP.finditer(text):
        made.append(escaped(text[at : match.start()]))
        number = int(match[1] or match[2])
        if not 1 <= number <= len(groups) or number in named:
            return None
        named.append(number)
        made.append(groups[number - 1])
        at = match.end()
    made.append(escaped(text[at:]))
    if len(named) != len(groups) or "\\" in _GROUP.sub("", text) or not "".join(made):
        return None
    places = iter([f"\\g<{named.index(number) + 1}>" for number in range(1, len(groups) + 1)])
    original = [next(places) if is_group else piece.replace("\\", r"\\") for is_group, piece in pieces]
    return begin + "".join(made) + end, "".join(original)


def escaped(text: str) -> str:
    """``text`` as a regular expression that matches it, without the escapes that `re.escape` adds for comfort."""
    return re.sub(r"([.^$*+?{}\[\]\\|()])", r"\\\1", text)


def _pieces(pattern: str) -> tuple[str, list[tuple[bool, str]], str] | None:
    """(anchor, (is a group, text) in order, anchor or lookahead) of a pattern that is nothing else."""
    begin = "^" if pattern.startswith("^") else ""
    body, end = pattern[len(begin) :], ""
    for tail in (r"(?=\.|$)", r"(?=\.)", "$"):
        if body.endswith(tail) and not body.endswith("\\" + tail):
            body, end = body[: -len(tail)], tail
            break
    pieces: list[tuple[bool, str]] = []
    literal, at = "", 0
    while at < len(body):
        character = body[at]
        if character == "\\":
            following = body[at + 1 : at + 2]
            if not following or following.isalnum():
                return None
            literal += following
            at += 2
        elif character == "(":
            stop = _closing(body, at)
            group = body[at:stop]
            if (
                not stop
                or group.startswith("(?")
                or re.compile(group).groups != 1
                or body[stop : stop + 1] in ("*", "+", "?", "{")
            ):
                return None
            pieces += [(False, literal), (True, group)] if literal else [(True, group)]
            literal, at = "", stop
        elif character in ".^$*+?{}[]|)":
            return None
        else:
            literal += character
            at += 1
    return begin, [*pieces, (False, literal)] if literal else pieces, end


def _closing(body: str, at: int) -> int:
    """Index after the group that begins at ``at``; 0 where it does not end."""
    depth = 0
    while at < len(body):
        if body[at] == "\\":
            at += 1
        elif body[at] == "[":
            at = body.find("]", at + (3 if body.startswith("[^", at) else 2))
            if at < 0:
                return 0
        elif body[at] in "()":
            depth += 1 if body[at] == "(" else -1
            if not depth:
                return at + 1
        at += 1
    return 0
