"""Ways to a smaller KV cache: fewer heads, fewer bits, both, the basis that is chosen for the bits, and low rank."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from experiments.frontier.low_rank import LowRank

Kind = Literal["heads", "bits", "both", "low rank"]

ALL = "all heads"
BASIS = ", free basis"
RECIPE: dict[str, Any] = {"method": "neighbour", "refine": "none"}
RECIPE |= {"objectives": ["weight-sharing-error"]}  # never looked at
PLAIN = "16"
BITS = ("8", "k8v4", "4", "k4v3", "3", "2")


@dataclass(frozen=True)
class Way:
    """What is made of a model, and the formats in which its cache is then measured; ``16``: as the model stores it.

    ``changes``: settings of the run that makes it, none for the model as it is. ``low_rank``: in place of a run.
    ``has_basis``: a run for every format, in the basis that is chosen for it. ``seeds``: of the runs; where several,
    rows for each.
    """

    name: str
    formats: tuple[str, ...]
    changes: dict[str, Any] = field(default_factory=dict)
    low_rank: LowRank | None = None
    has_basis: bool = False
    seeds: tuple[int, ...] = (0,)

    def kind(self, bits: str) -> Kind:
        """What of the cache is saved in one of the formats."""
        if self.low_rank is not None:
            return "low rank"
        if self.name.startswith(ALL):
            return "bits"
        return "heads" if bits == PLAIN else "both"


def bits(*formats: str) -> Way:
    """All heads."""
    return Way(ALL, (PLAIN, *formats))


def bits_in_basis(*formats: str, **others: Any) -> Way:
    """All heads, in the basis for each format."""
    return Way(f"{ALL}{BASIS}", formats, {**RECIPE, "merge": "mean", "kv_ratio": 1.0}, has_basis=True, **others)


def bits_in_basis_descended(*formats: str) -> Way:
    """The same, and then the descent in every layer, which no longer is the parent's."""
    changes = {**RECIPE, "merge": "mean", "kv_ratio": 1.0, "refine": "descent", "refine_parameters": {"whole": True}}
    return Way(f"{ALL}{BASIS}, descent", formats, changes, has_basis=True)


def recipe(name: str, ratio: float, merge: str, *formats: str) -> Way:
    """Neighbours, nothing fitted after the merge."""
    return Way(f"{name}, neighbours + {merge}", (PLAIN, *formats), {**RECIPE, "merge": merge, "kv_ratio": ratio})


def ours(name: str, ratio: float, *formats: str, seeds: tuple[int, ...] = (0,), **changes: Any) -> Way:
    """A search with the defaults but for ``changes``."""
    return Way(name, (PLAIN, *formats), {"kv_ratio": ratio, **changes}, seeds=seeds)


def ours_in_basis(way: Way, *formats: str, seeds: tuple[int, ...] = (0,)) -> Way:
    """The same, in the basis for each format."""
    return Way(f"{way.name}{BASIS}", formats, way.changes, has_basis=True, seeds=seeds)


def latents(name: str, share: float, heads: int, *formats: str) -> Way:
    """Low rank in Palu's form, ``heads`` KV heads factored together."""
    return Way(f"{name}, low rank of {heads} heads", (PLAIN, *formats), low_rank=LowRank(share, heads))


SEEDS = (0, 1, 2)
HALF, QUARTER = ours("half", 0.5, *BITS, seeds=SEEDS), ours("a quarter", 0.25, *BITS, seeds=SEEDS)
HALF_OF_3 = ours("half, heads of 3", 0.5, *BITS, join=3, seeds=SEEDS)
HALF_OF_6 = ours("half, heads of 6", 0.5, *BITS, join=6)
QUARTER_OF_3 = ours("a quarter, heads of 3", 0.25, *BITS, join=3, seeds=SEEDS)
HALF_UNEVEN = ours("half, uneven", 0.5, *BITS, uneven=True, seeds=SEEDS)

# The cheap ones first.
EMBEDDED = (
    bits(*BITS),
    *(recipe(name, ratio, merge) for name, ratio in (("half", 0.5), ("a quarter", 0.25)) for merge in ("mean",)),
    *(recipe(name, ratio, "aligned-renorm") for name, ratio in (("half", 0.5), ("a quarter", 0.25))),
    *(latents(name, share, 4, "8", "4") for name, share in (("half", 0.5), ("a quarter", 0.25))),
    *(latents(name, share, 12, "8", "4", "3") for name, share in (("half", 0.5), ("a quarter", 0.25))),
    latents("an eighth", 0.125, 12, "8"),
    bits_in_basis("4", "3", "2"),
    HALF,
    QUARTER,
    HALF_UNEVEN,
    ours("a quarter, uneven", 0.25, *BITS, uneven=True, seeds=SEEDS),
    ours("a seventh, uneven", 0.14, "8", uneven=True),
    HALF_OF_3,
    QUARTER_OF_3,
    ours_in_basis(HALF_OF_3, "4", "k4v3"),
    ours_in_basis(QUARTER_OF_3, "4"),
    HALF_OF_6,
    ours_in_basis(HALF_OF_6, "4", "3"),
    ours_in_basis(HALF, "4"),
    ours_in_basis(HALF_UNEVEN, "4"),
)

IGLM_HALF = ours("half", 0.5, "8", "4", "k4v3")
IGLM_WIDE = ours("half, heads of 2", 0.5, "8", "4", "k4v3", join=2)
IGLM_WIDEST = ours("half, heads of 4", 0.5, "8", "k8v4", "4", "k4v3", "3", join=4)
IGLM = (
    bits(*BITS),
    IGLM_WIDE,
    ours_in_basis(IGLM_WIDE, "4"),
    IGLM_WIDEST,
    ours_in_basis(IGLM_WIDEST, "4", "3"),
    ours("an eighth", 0.125),
    ours_in_basis(ours("7 of 8, uneven", 0.875, uneven=True), "4"),
    latents("half", 0.5, 8, "4", "3"),
    latents("a quarter", 0.25, 8, "8", "4"),
    ours("a quarter, heads of 2", 0.25, "8", "k8v4", "4", join=2),
    bits_in_basis("k4v3", "4", "3", "2"),
    *(recipe(*one, merge) for one in (("half", 0.5), ("a quarter", 0.25)) for merge in ("mean", "aligned-renorm")),
    latents("an eighth", 0.125, 8),
    *(latents(name, share, 4) for name, share in (("half", 0.5), ("a quarter", 0.25))),
    IGLM_HALF,
    ours("a quarter", 0.25, "8"),
    ours("half, uneven", 0.5, "8", "4", uneven=True),
    ours("a seventh, uneven", 0.16, uneven=True),
    ours("a quarter, uneven", 0.25, "8", uneven=True),
    ours_in_basis(IGLM_HALF, "4"),
)

# Encoders cache nothing: what is fewer here are keys and values that are computed.
MINILM = (
    *(recipe(*one, merge) for one in (("half", 0.5), ("a quarter", 0.25)) for merge in ("mean", "aligned-renorm")),
    *(latents(name, share, 4) for name, share in (("half", 0.5), ("a quarter", 0.25))),
    *(latents(name, share, 12) for name, share in (("half", 0.5), ("a quarter", 0.25))),
    ours("half, heads of 6", 0.5, join=6),
    ours("a quarter, heads of 3", 0.25, join=3),
    ours("half", 0.5),
    ours("a quarter", 0.25),
    ours("half, uneven", 0.5, uneven=True),
    ours("a quarter, uneven", 0.25, uneven=True),
)

SMOLLM2_MOST = ours("8 of 9, uneven", 8 / 9, "8", "4", uneven=True)
SMOLLM2 = (
    bits("4", "q4_0", "8", "3", "k4v3", "2"),
    bits_in_basis("4", "k4v3", "q4_0"),
    bits_in_basis_descended("4"),
    latents("half", 0.5, 3, "8"),
    recipe("two thirds", 2 / 3, "aligned-renorm"),
    recipe("two thirds", 2 / 3, "mean"),
    SMOLLM2_MOST,
    ours("two thirds", 2 / 3, "8", "4"),
    ours("two thirds, heads of 2", 2 / 3, "8", "4", join=2),
    ours_in_basis(SMOLLM2_MOST, "4"),
    latents("a quarter", 0.25, 3, "8"),
)

QWEN = (
    bits("8", "4", "k4v3", "3", "q8_0", "q4_0", "fp8", "int8_per_token_head"),
    latents("half", 0.5, 2, "8"),
    bits_in_basis("4", "8", "k4v3"),
    recipe("half", 0.5, "aligned-renorm"),
    ours("half", 0.5, "8"),
)
