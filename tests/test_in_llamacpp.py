"""KL of distributions of which only the likeliest tokens are told."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.frontier.in_llamacpp import kl


def test_what_is_not_told_is_one_event() -> None:
    rng = np.random.default_rng(0)
    p, q = (np.log(rng.dirichlet(np.full(50, 0.3))) for _ in range(2))
    whole = float((np.exp(p) * (p - q)).sum())
    exact, other = (dict(enumerate(part.tolist())) for part in (p, q))
    assert kl(exact, other) == pytest.approx(whole)
    assert kl(exact, exact) == pytest.approx(0, abs=1e-12)
    found = []
    for most in (5, 15, 40):
        first, second = (dict(sorted(one.items(), key=lambda told: -told[1])[:most]) for one in (exact, other))
        found.append(kl(first, second))
    both = sorted(set(np.argsort(-p)[:5].tolist()) & set(np.argsort(-q)[:5].tolist()))
    rest = 1 - np.exp(p)[both].sum(), 1 - np.exp(q)[both].sum()
    by_hand = sum(np.exp(p[i]) * (p[i] - q[i]) for i in both) + rest[0] * np.log(rest[0] / rest[1])
    assert found[0] == pytest.approx(by_hand)
    assert found[0] < found[1] < found[2] < whole
