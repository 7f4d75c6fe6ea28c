"""The JSON header of safetensors, taken apart by its own grammar and nothing wider.

No general JSON parser sees an untrusted header: it would make a hundred bytes of objects of two bytes of text. What the format
defines is a flat list of entries, so memory stays near the header's size and time is linear in it.
"""

from __future__ import annotations

from formats.core.errors import CorruptCheckpoint, LimitExceeded
from formats.core.pattern import pattern
from formats.core.plain_json import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_TENSORS = 200_000
MAX_METADATA = 16 << 20  # bytes of text under __metadata__

# What writers in use have between the parts of a header is compact. Other orders and spacing take patterns, whose compiling takes longer
# than the header of a usual model.
_SPACES = b" \t\n\r"
_SPACE = pattern(rb"[ \t\n\r]*")
_COLON = pattern(rb"[ \t\n\r]*:[ \t\n\r]*")
_NUMBER = rb"(?:0|[1-9][0-9]{0,19})"
_FIELD = pattern(
    rb'[ \t\n\r]*"(dtype|shape|data_offsets)"[ \t\n\r]*:[ \t\n\r]*'
    rb'(?:"([A-Z0-9_]{1,16})"|\[([0-9, \t\n\r]*+)\])[ \t\n\r]*'
)
_LIST = pattern(rb"[ \t\n\r]*%b[ \t\n\r]*(?:,[ \t\n\r]*%b[ \t\n\r]*)*+" % (_NUMBER, _NUMBER))
_OF_DTYPES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
_USUAL = 1 << 10  # bytes of a usual entry, at most

Entry = tuple[str, tuple[int, ...], int, int]  # dtype, shape, and the range of bytes after the header


class Header:
    """``tensors`` and ``metadata`` of a header's ``text``, after `parse`. Raises `CorruptCheckpoint` at the byte that breaks the format."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.at = 0
        self.tensors: dict[str, Entry] = {}
        self.metadata: dict[str, str] | None = None
        self.shapes: dict[bytes, tuple[int, ...]] = {}

    def parse(self) -> None:
        if self.text[:1] != b"{":
            raise CorruptCheckpoint(f"safetensors header begins with {self.text[:1]!r}, not with {{")
        self.at = 1
        if not self._closes(b"}"):
            while True:
                if not self._usual():
                    self._entry()
                if self.text.startswith(b',"', self.at):
                    self.at += 1
                elif not self._goes_on():
                    break
        if self.text[self.at :].strip(b" \t\n\r"):
            raise CorruptCheckpoint(f"safetensors header goes on after its end at byte {self.at}")

    def _entry(self) -> None:
        name = self._name()
        if name == "__metadata__":
            if self.metadata is not None:
                raise CorruptCheckpoint("safetensors header has __metadata__ twice")
            self.metadata = self._metadata()
            return
        self._add(name, self._unusual(name))

    def _add(self, name: str, entry: Entry) -> None:
        if name in self.tensors:
            raise CorruptCheckpoint(f"safetensors header has tensor {name!r:.200} twice")
        if len(self.tensors) >= MAX_TENSORS:
            raise LimitExceeded(f"safetensors header with more than {MAX_TENSORS} tensors")
        self.tensors[name] = entry

    def _usual(self) -> bool:
        """Take an entry as every writer in use writes it, compact and in this order; False, and nothing done, where it is anything else."""
        end = self.text.find(b"]}", self.at, self.at + _USUAL)
        name, _, rest = self.text[self.at : end].partition(b'":{"dtype":"')
        dtype, _, rest = rest.partition(b'","shape":[')
        raw, _, rest = rest.partition(b'],"data_offsets":[')
        begin, comma, stop = rest.partition(b",")  # a part that is missing leaves nothing for the others
        if end < 0 or not comma or not (_is_number(begin) and _is_number(stop)):
            return False
        if name.rfind(b'"') != 0 or b"\\" in name or min(name) < 0x20 or not dtype or dtype.translate(None, _OF_DTYPES):
            return False
        shape = self.shapes.get(raw)
        if shape is None:
            if raw and not all(map(_is_number, raw.split(b","))):
                return False
            shape = self._shape(raw)
        try:
            key = str(name[1:], "utf-8")
        except UnicodeDecodeError:  # said by `_text`
            return False
        if key == "__metadata__":
            return False
        self.at = end + 2
        self._add(key, (str(dtype, "ascii"), shape, int(begin), int(stop)))
        return True

    def _unusual(self, name: str) -> Entry:
        """An entry in any order and spacing that JSON allows, of exactly the three fields."""
        text = self.text
        if text[self.at : self.at + 1] != b"{":
            raise self._wrong(name)
        self.at += 1
        fields: dict[bytes, Any] = {}
        for count in range(3):
            found = _FIELD.match(text, self.at)
            if found is None or found[1] in fields or (found[1] == b"dtype") != (found[2] is not None):
                raise self._wrong(name)
            fields[found[1]] = found[2] if found[2] is not None else self._numbers(name, found[3])
            self.at = found.end()
            if text[self.at : self.at + 1] != (b"}" if count == 2 else b","):
                raise self._wrong(name)
            self.at += 1
        offsets = fields[b"data_offsets"]
        if len(offsets) != 2:
            raise self._wrong(name)
        return fields[b"dtype"].decode("ascii"), fields[b"shape"], offsets[0], offsets[1]

    def _numbers(self, name: str, raw: bytes) -> tuple[int, ...]:
        if not raw.strip(b" \t\n\r"):
            return ()
        if _LIST.fullmatch(raw) is None:
            raise self._wrong(name)
        return self._shape(raw)

    def _shape(self, raw: bytes) -> tuple[int, ...]:
        """Shapes repeat: equal texts share one tuple."""
        shape = self.shapes.get(raw)
        if shape is None:
            shape = self.shapes[raw] = tuple(map(int, raw.split(b","))) if raw else ()
        return shape

    def _wrong(self, name: str) -> CorruptCheckpoint:
        return CorruptCheckpoint(
            f"safetensors header, byte {self.at}: tensor {name!r:.200} is not described by a dtype, a shape and two data_offsets"
        )

    def _metadata(self) -> dict[str, str]:
        if self.text[self.at : self.at + 1] != b"{":
            raise CorruptCheckpoint("safetensors __metadata__ is no object of texts")
        self.at += 1
        texts: dict[str, str] = {}
        begin = self.at
        if self._closes(b"}"):
            return texts
        while True:
            key = self._name()
            if key in texts:
                raise CorruptCheckpoint(f"safetensors __metadata__ has key {key!r:.200} twice")
            texts[key] = self._text(f"value of __metadata__ {key!r:.200}")
            if self.at - begin > MAX_METADATA:
                raise LimitExceeded(f"safetensors __metadata__ of more than {MAX_METADATA} bytes")
            if not self._goes_on():
                return texts

    def _name(self) -> str:
        self._skip()
        name = self._text("key")
        if self.text.startswith((b":{", b':"'), self.at):
            self.at += 1
            return name
        found = _COLON.match(self.text, self.at)
        if found is None:
            raise CorruptCheckpoint(f"safetensors header, byte {self.at}: a colon is missing")
        self.at = found.end()
        return name

    def _text(self, what: str) -> str:
        """A JSON string."""
        begin, text = self.at, self.text
        try:
            stop = begin
            while text[begin : begin + 1] == b'"':
                stop = text.find(b'"', stop + 1)
                if stop < 0:
                    break
                slashes = stop
                while text[slashes - 1] == 0x5C:  # a backslash
                    slashes -= 1
                if (stop - slashes) % 2:  # an escaped quote
                    continue
                self.at = stop + 1
                plain = text[begin + 1 : stop]
                if b"\\" not in plain and (not plain or min(plain) >= 0x20):
                    return plain.decode("utf-8")
                if len(plain) > MAX_METADATA:
                    break
                # Decoded first: of bytes, json would guess the encoding, and load a codec of the header's choice.
                value = loads(text[begin : self.at].decode("utf-8"))
                value.encode("utf-8")  # a lone surrogate is no text
                return str(value)
        except ValueError as error:
            raise CorruptCheckpoint(f"safetensors header, byte {begin}: {what} is no JSON text ({error!s:.100})") from error
        raise CorruptCheckpoint(f"safetensors header, byte {begin}: {what} is no JSON text")

    def _skip(self) -> None:
        if self.text[self.at : self.at + 1] not in _SPACES:
            return
        found = _SPACE.match(self.text, self.at)
        assert found is not None
        self.at = found.end()

    def _closes(self, bracket: bytes) -> bool:
        self._skip()
        if self.text[self.at : self.at + 1] == bracket:
            self.at += 1
            return True
        return False

    def _goes_on(self) -> bool:
        """Past a comma: True; past the closing brace: False."""
        self._skip()
        self.at += 1
        mark = self.text[self.at - 1 : self.at]
        if mark not in (b",", b"}"):
            raise CorruptCheckpoint(f"safetensors header, byte {self.at - 1}: a comma or a closing brace is missing")
        return mark == b","


def _is_number(raw: bytes) -> bool:
    """Whether ``raw`` is `_NUMBER`."""
    return raw.isdigit() and len(raw) <= 20 and (raw[0] != 0x30 or len(raw) == 1)
