"""Orders of the classes in which confused ones stand side by side."""

import numpy as np


def similarity_order(counts: np.ndarray) -> list[int]:
    """Put classes that are confused with each other side by side.

    The most confused pair is joined first, then the next one, and so on; what is joined stays together, turned so that
    the two nearest ends meet. Classes that are never confused follow at the end, as given.

    Args:
        counts: (K, K) integer, rows true, columns predicted.

    Returns:
        The positions of all K classes.
    """
    support = np.maximum(counts.sum(1), 1)
    shares = counts / support[:, None]
    likeness = shares + shares.T
    one, other = np.nonzero(np.triu(likeness, 1))
    chains: dict[int, list[int]] = {index: [index] for index in range(len(counts))}
    chain_of = list(range(len(counts)))
    for pair in np.argsort(-likeness[one, other], kind="stable").tolist():
        first, second = chain_of[one[pair]], chain_of[other[pair]]
        if first == second:
            continue
        joined = join(chains[first], chains.pop(second), likeness)
        chains[first] = joined
        for index in joined:
            chain_of[index] = first
    return [index for chain in sorted(chains.values(), key=lambda chain: (-len(chain), min(chain))) for index in chain]


def join(left: list[int], right: list[int], likeness: np.ndarray) -> list[int]:
    """Two chains as one, each turned so that the ends that meet are as alike as possible."""
    ways = [(left, right), (left, right[::-1]), (left[::-1], right), (left[::-1], right[::-1])]
    before, after = max(ways, key=lambda way: likeness[way[0][-1], way[1][0]])
    return before + after
