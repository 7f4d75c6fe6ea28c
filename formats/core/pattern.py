"""Regular expressions compiled when they are first used: most runs of the program need few of them, and each costs near a millisecond."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from typing import Any, overload


class _Late:
    def __init__(self, source: Any, flags: int) -> None:
        self.source = source
        self.flags = flags

    def __getattr__(self, name: str) -> Any:
        import re

        compiled = re.compile(self.source, self.flags)
        for method in ("search", "match", "fullmatch", "sub", "findall", "finditer", "split"):
            setattr(self, method, getattr(compiled, method))
        return getattr(compiled, name)


if TYPE_CHECKING:

    @overload
    def pattern(source: str, flags: int = 0) -> re.Pattern[str]: ...
    @overload
    def pattern(source: bytes, flags: int = 0) -> re.Pattern[bytes]: ...
    def pattern(source: str | bytes, flags: int = 0) -> re.Pattern[Any]: ...

else:

    def pattern(source: str | bytes, flags: int = 0) -> re.Pattern[Any]:
        """What ``re.compile(source, flags)`` gives, as far as its methods go."""
        return _Late(source, flags)
