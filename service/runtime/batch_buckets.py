"""Sizes of batches that an engine is prepared for; others are padded to the next one."""


def batch_buckets(max_batch_size: int) -> tuple[int, ...]:
    """1, 2, 4, 8 and so on, and the largest itself: 12 gives 1, 2, 4, 8, 12."""
    sizes: list[int] = []
    size = 1
    while size < max_batch_size:
        sizes.append(size)
        size *= 2
    return (*sizes, max_batch_size)


def smallest_bucket(buckets: tuple[int, ...], count: int) -> int:
    """The first of ascending `buckets` that holds `count` pictures; there must be one."""
    return next(bucket for bucket in buckets if bucket >= count)
