"""How many parameters and how many tokens a budget of FLOPs is best spent on: the scaling law of Hoffmann et al. 2022.

    L(N, D) = E + A / N^alpha + B / D^beta      nats a token, of N parameters trained on D tokens
    C = 6 N D                                   FLOPs

E is what no model learns; the other two are paid for having too few parameters and too few tokens. Under a fixed C the
sum is least where one more FLOP for either saves as much (their section 3.3 and appendix D.3).
"""

from __future__ import annotations

from dataclasses import dataclass

from llmlab.arguments import real, reals, string

FLOPS_A_PAIR = 6  # of a parameter and a token: 2 forward, 4 backward


@dataclass(frozen=True)
class ScalingLaw:
    """One fit of the law, to one corpus and one family of models: elsewhere its constants differ."""

    name: str
    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def __post_init__(self) -> None:
        string("ScalingLaw", "name", self.name)
        for constant in ("E", "A", "B", "alpha", "beta"):
            real("ScalingLaw", constant, getattr(self, constant), above=0)

    def loss(self, n_param: float, tokens: float) -> float:
        """Nats a token that a model of this size reaches after so many tokens."""
        N, D = real("loss", "n_param", n_param, above=0), real("loss", "tokens", tokens, above=0)
        return self.E + self.A / N**self.alpha + self.B / D**self.beta

    def optimum(self, flops: float) -> tuple[float, float]:
        """Parameters and tokens of the least loss for so many FLOPs. Raises ValueError unless `flops` is above 0."""
        pairs = real("optimum", "flops", flops, above=0) / FLOPS_A_PAIR  # N D
        both = self.alpha + self.beta
        g = (self.alpha * self.A / (self.beta * self.B)) ** (1 / both)
        return g * pairs ** (self.beta / both), pairs ** (self.alpha / both) / g


# Their third way of fitting, with the constants as printed.
HOFFMANN = ScalingLaw("Hoffmann et al. 2022", E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
# The same runs read off the paper's figure and fitted again: Besiroglu et al. 2024, arXiv 2404.10102, table 1.
BESIROGLU = ScalingLaw("Besiroglu et al. 2024", E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)


def affordable_flops(gpu_hours: float, peak_flops_per_s: float, mfu: float) -> float:
    """FLOPs of a model that so many GPU-hours compute, at this share of a device's peak."""
    reals("affordable_flops", 0, gpu_hours=gpu_hours, peak_flops_per_s=peak_flops_per_s)
    real("affordable_flops", "mfu", mfu, above=0, most=1)
    return gpu_hours * 3600 * peak_flops_per_s * mfu
