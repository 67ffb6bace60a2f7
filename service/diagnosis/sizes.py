"""Bytes in words."""

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def in_words(num_bytes: int) -> str:
    """A size for people.

    >>> in_words(1536 * 1024)
    '1.5 MiB'
    """
    size = float(num_bytes)
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:
            return f"{size:.1f}".removesuffix(".0") + f" {unit}"
        size /= 1024
    raise AssertionError(num_bytes)
