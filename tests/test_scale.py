"""The plan for a petabyte says what its simulation prints, and the simulation keeps its books."""

from __future__ import annotations

import math

from benchmarks import scale_simulation as scale


def test_the_page_has_the_tables_of_the_simulation() -> None:
    text = scale.PAGE.read_text(encoding="utf-8")
    assert scale.page(text) == text, "python -m benchmarks.scale_simulation --write"


def test_sizes_are_seeded_bounded_and_sum_up() -> None:
    files = scale.sizes(2_000)
    assert files == scale.sizes(2_000)
    assert math.isclose(sum(files) / len(files), scale.TOTAL / scale.FILES, rel_tol=1e-6)
    assert min(files) > 0
    assert max(files) <= 5e10 * 1.000001


def test_no_schedule_is_faster_than_its_work_or_its_largest_file() -> None:
    files = scale.sizes(500)
    each = [scale.seconds(size, scale.NIC / 4) for size in files]
    for workers in (1, 7, 400):
        found = scale.simulate(files, workers)
        assert found.hours * 3600 >= max(sum(each) / workers, *each) * 0.999999
        assert 0 < found.busy <= 1.000001


def test_what_is_lost_is_done_again() -> None:
    files = scale.sizes(500)
    plain = scale.simulate(files, 4)
    for disturbed in (scale.simulate(files, 4, spot=True), scale.simulate(files, 4, driver_dies=plain.hours * 1800)):
        assert disturbed.again > plain.again
        assert disturbed.hours > plain.hours
