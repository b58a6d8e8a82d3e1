"""Channels of the rows, by shares: a function of the row, so that every machine assigns alike."""

import hashlib


class ChannelAssigner:
    """Assigns channels by hash of the row, and with a known number of rows to exact counts.

    A row whose kind is complete goes to the next kind that is not.

    Args:
        shares: weight by tuple of channels; empty where the source decides.
        rows: rows in all, for exact counts; None for shares on average.
    """

    def __init__(self, shares: dict[tuple[str, ...], float], seed: int, rows: int | None) -> None:
        total = sum(shares.values())
        self._seed = seed
        self._shares = {kind: share / total for kind, share in shares.items()}
        self._left: dict[tuple[str, ...], int] | None = None
        if rows is not None and shares:
            self._left = apportion(rows, self._shares)

    def assign(self, row_id: str) -> list[str] | None:
        """Return the row's channels; None where the source decides."""
        drawn, edge, chosen = hash_to_unit("channels", self._seed, row_id), 0.0, None
        kinds = list(self._shares)
        for kind in kinds:
            edge += self._shares[kind]
            if drawn < edge or kind == kinds[-1]:
                chosen = kind
                break
        if chosen is not None and self._left is not None:
            chosen = max([chosen, *kinds], key=lambda kind: self._left[kind] > 0)  # type: ignore[index]
            self._left[chosen] -= 1
        return None if chosen is None else list(chosen)


def apportion(rows: int, shares: dict[tuple[str, ...], float]) -> dict[tuple[str, ...], int]:
    """Divide `rows` into integer counts by largest remainder."""
    counts = {kind: int(rows * share) for kind, share in shares.items()}
    by_remainder = sorted(shares, key=lambda kind: counts[kind] - rows * shares[kind])
    for kind in by_remainder[: rows - sum(counts.values())]:
        counts[kind] += 1
    return counts


def hash_to_unit(purpose: str, seed: int, row_id: str) -> float:
    """Return a number in [0, 1) that depends on the row alone."""
    digest = hashlib.sha256(f"{purpose}\0{seed}\0{row_id}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
