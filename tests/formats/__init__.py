import pytest

pytest.register_assert_rewrite("tests.formats.conformance", "tests.torch_reading")
