"""What an ablation's differences allow to be said, and what they do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .gate import GATE
from .statistics import FEWEST, Paired

Compared = Mapping[tuple[str, str], Mapping[str, Paired]]


def conclusions(compared: Compared, gates: Mapping[str, Sequence[float]], labels: Mapping[str, str]) -> list[str]:
    """Sentences. gates: row -> its discriminator's held-out loss where it joined, seed by seed."""
    said = [_of_gate(labels[row], losses) for row, losses in gates.items()]
    said += [_of_difference(rows, judges, gates, labels) for rows, judges in compared.items()]
    count = sum(len(judges) for judges in compared.values())
    if count:
        said.append(
            f"Of {count} intervals of 95 %, {count * 0.05:.1f} would leave out 0 if no row differed. They are of the "
            "spread over seeds; other photographs, another base or more steps may say otherwise."
        )
    return said


def passes(losses: Sequence[float]) -> bool:
    """Whether a row's discriminator had learned to tell real from restored, in each seed."""
    return all(loss < GATE for loss in losses)


def _of_gate(label: str, losses: Sequence[float]) -> str:
    found = ", ".join(f"{loss:.3f}" for loss in losses)
    if passes(losses):
        return f"{label}: its discriminator had learned when it joined (held-out L_D {found}, below {GATE})."
    return (
        f"{label} does not count: its discriminator had not learned in every seed when it joined (held-out L_D "
        f"{found}; expected below {GATE}, chance is 1.386)."
    )


def _of_difference(
    rows: tuple[str, str],
    judges: Mapping[str, Paired],
    gates: Mapping[str, Sequence[float]],
    labels: Mapping[str, str],
) -> str:
    first, second = (labels[row] for row in rows)
    seeds = max(len(own.differences) for own in judges.values())
    if seeds < FEWEST:
        return f"{first} against {second}: nothing can be concluded; expected {FEWEST} seeds or more, found {seeds}."
    better = [name for name, own in judges.items() if own.is_shown and own.mean < 0]
    worse = [name for name, own in judges.items() if own.is_shown and own.mean > 0]
    rest = [name for name in judges if name not in (*better, *worse)]
    said = [
        f"{word} by {', '.join(names)}"
        for word, names in (("better", better), ("worse", worse), ("no difference shown", rest))
        if names
    ]
    failed = [labels[row] for row in rows if row in gates and not passes(gates[row])]
    doubt = f" It does not count, because of {' and '.join(failed)}." if failed else ""
    return f"{first} against {second}, {seeds} seeds: {'; '.join(said)}.{doubt}"
