from collections.abc import Sequence

def box(
    target: memoryview, into: int, source: memoryview, base: int, item: int, dims: Sequence[tuple[int, int, int]], /
) -> None: ...
