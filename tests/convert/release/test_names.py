"""No NAME that is given makes torch.hub look for the hash anywhere but where it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.release import names
from formats.core.errors import UsageError

SHA = "0123abcd" * 8


def test_the_expression_is_torch_hubs_own() -> None:
    from torch import hub

    assert names.HUB_HASH.pattern == hub.HASH_REGEX.pattern


@given(st.one_of(st.text(max_size=60), st.text(alphabet="-.abcdef0123456789", max_size=30)))
def test_a_harmless_name_is_read_rightly(text: str) -> None:
    name = names.harmless(text)
    assert names.check(name) == name
    assert names.harmless(name) == name
    for target in ("safetensors", "pth", "pth.tar"):
        file = names.file_name(name, SHA, target)
        assert names.hub_prefix(file) == SHA[:8]
        assert names.is_name(file)


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("resnet-50.a1", "resnet-50_a1"),
        ("vit-b.16-c.2", "vit-b_16-c_2"),
        ("x-.y", "x-_y"),
        ("a/b", "a_b"),
        ("..", "model"),
        ("", "model"),
    ],
)
def test_names_that_are_refused_come_with_one_that_is_not(name: str, better: str) -> None:
    with pytest.raises(UsageError) as caught:
        names.check(name)
    assert caught.value.hint == f"--name {better}"


@pytest.mark.parametrize("name", ["resnet50.a1", "resnet-50-a1", "model-v1.x", "convnext_tiny.fb_in22k-x"])
def test_names_that_are_taken(name: str) -> None:
    assert names.check(name) == name


@pytest.mark.parametrize("value", ["../x", "a/b", "", None, 3, ".hidden", "x" * 256, "a\nb"])
def test_what_is_no_name_in_a_manifest(value: object) -> None:
    assert not names.is_name(value)
