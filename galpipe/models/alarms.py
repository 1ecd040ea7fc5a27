"""What is said of dead and duplicate components: a sentence for each, or one for many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

EACH = 3  # so many are told one by one


def of_dead(worth: Mapping[str, str], components: int) -> list[str]:
    """`worth` has the names of the dead components, and how little each has."""
    if len(worth) <= EACH:
        return [f"{name} is dead: it has {little}" for name, little in worth.items()]
    return [f"{len(worth)} of {components} components are dead: {', '.join(worth)}"]


def of_duplicates(pairs: Sequence[tuple[str, str, float]]) -> list[str]:
    """Pairs of names with their overlap; many pairs are told as groups that hang together."""
    if len(pairs) <= EACH:
        return [f"{a} and {b} are duplicates: they overlap by {value:.2f}" for a, b, value in pairs]
    groups: list[set[str]] = []
    for a, b, _ in pairs:
        joined = {a, b}.union(*(group for group in groups if group & {a, b}))
        groups = [group for group in groups if not group & joined] + [joined]
    said = []
    for group in sorted(groups, key=min):
        least = min(value for a, _, value in pairs if a in group)
        names = sorted(group)
        said.append(
            f"{', '.join(names[:-1])} and {names[-1]} are duplicates: pairs of them overlap by "
            f"{least:.2f} or more"
        )
    return said
