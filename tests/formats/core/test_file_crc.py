"""The CRC-32 of a file from those of its parts, against zlib over all of it."""

from __future__ import annotations

import random
import zlib

import pytest

from formats.core import file_crc
from formats.core.layout import Data, Layout, Literal
from formats.core.storage import BytesStorage


@pytest.mark.parametrize("seed", range(20))
def test_it_is_that_of_all_bytes(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_crc, "EACH", 0)
    choose = random.Random(seed)
    whole, literals, segments = b"", [], []
    for _ in range(choose.randrange(1, 30)):
        content = choose.randbytes(choose.choice([0, 1, 7, 4096, choose.randrange(200_000)]))
        if choose.random() < 0.3:
            literals.append(Literal(len(whole), content))
        else:
            segments.append(Data(len(whole), BytesStorage(content), "t"))
        whole += content
    choose.shuffle(segments)
    layout = Layout(len(whole), literals, segments)
    crcs = [zlib.crc32(b"".join(bytes(piece) for piece in data.storage.chunks(0, data.storage.nbytes))) for data in segments]
    assert file_crc.file_crc(layout, crcs) == zlib.crc32(whole)


def test_it_is_not_made_up() -> None:
    layout = Layout(100_000, [], [Data(0, BytesStorage(bytes(100_000)), "t")])
    assert file_crc.file_crc(layout, [None]) is None
    tiny = Layout(4, [], [Data(0, BytesStorage(bytes(4)), "t")])
    assert file_crc.file_crc(tiny, [0]) is None
