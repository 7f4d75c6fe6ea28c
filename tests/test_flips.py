"""A short part of `make flips`: single bits of every container that has checksums, and cut-off files."""

from __future__ import annotations

import pytest

from tests import flips


@pytest.mark.parametrize("name", list(flips.CONTAINERS))
def test_nothing_is_silently_wrong(name: str) -> None:
    counts = flips.trial(name, flips=160, cuts=24)
    assert counts["flip wrong"] == counts["cut wrong"] == counts["cut equal"] == 0
    assert counts["flip refused"] + counts["flip equal"] == 160
    assert counts["cut refused"] == 24
    assert counts["flip refused"] > 40


def test_a_wrong_tensor_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the comparison of checksums, changed bits come through: otherwise the test above would prove nothing."""
    from formats.core import zip as zips

    monkeypatch.setattr(zips.StoredMember, "stored_crc", lambda self: None)
    assert flips.trial("torch.save", flips=400, cuts=1)["flip wrong"] > 0
