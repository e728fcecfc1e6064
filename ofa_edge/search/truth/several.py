"""What was measured of several ways to run on one device, held against each other.

In: candidates of the ways; then the verdicts on each group of them. Out: the candidates to measure, group by group; one
order of all verdicts; what a lossy precision loses. Rules kept: pure. Candidates are of one group where their top-1 is
measured alike: all that compute in float, or one lossy precision of one runtime; a measured top-1 is corrected within
its group, since a group shares its predictor's error and its drop; groups are compared by the corrected ones, all
measured on the same images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ofa_edge.search.candidate import Candidate
from ofa_edge.search.truth.posterior import Bools
from ofa_edge.search.truth.shortlist import Checked, Verdict
from ofa_edge.space.arch import Arch


def merged(candidates: Sequence[Candidate], first: Arch, k: int) -> list[Candidate]:
    """At most k of a group's candidates, best first, each subnet once, the fastest way; `first` comes first."""

    def rank(one: Candidate) -> tuple[bool, float, float]:
        return one.arch != first, -one.top1.value, one.upper_ms

    found: dict[Arch, Candidate] = {}
    for one in sorted(candidates, key=rank):
        found.setdefault(one.arch, one)
    return list(found.values())[:k]


def ordered(groups: Sequence[Sequence[Verdict]]) -> list[Verdict]:
    """The verdicts of all groups: those that fit first, best first."""

    def rank(one: Verdict) -> tuple[bool, float, float]:
        best = one.measured.corrected_top1
        upper = Checked(one.candidate, latency_ms=one.measured.latency_ms).upper_ms
        return not one.fits, -(one.candidate.top1.value if best is None else best), upper

    return sorted((one for group in groups for one in group), key=rank)


@dataclass(frozen=True, slots=True)
class Drop:
    """What a lossy precision loses against float, of the same subnets on the same images.

    Attributes:
        share: of top-1, the mean over the subnets; less than 0 where it gained.
        error: standard error of it, of the sampling of images.
        subnets: how many.
    """

    share: float
    error: float
    subnets: int

    def __str__(self) -> str:
        return f"{100 * self.share:.2f} points (+- {196 * self.error:.2f}; {self.subnets} subnets)"


def drop_of(in_float: Mapping[Arch, Bools], run_so: Mapping[Arch, Bools]) -> Drop | None:
    """The drop over the subnets that were evaluated both ways; None where there are none.

    Args:
        in_float, run_so: (n,) which of the images a subnet gets right.
    """
    both = [arch for arch in run_so if arch in in_float]
    if not both:
        return None
    # Image by image, since the same images are right both ways: of (n,) means over the subnets.
    lost = np.mean([in_float[arch].astype(float) - run_so[arch] for arch in both], axis=0)
    return Drop(float(lost.mean()), float(lost.std() / math.sqrt(len(lost))), len(both))
