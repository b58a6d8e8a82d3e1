"""Hyper-parameters of the loss, with the paper's defaults (arXiv 2509.14930, section 4.1)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Objective:
    """total = CE + kl_weight * temperature^2 * D(teacher || student), both softmaxes of D at `temperature`."""

    kl_weight: float = 0.5  # the paper's lambda
    temperature: float = 2.0  # the paper's tau
    divergence: str = "forward_kl"  # a key of DIVERGENCES
    beta: float = 0.5  # the teacher's share of the mixture in the generalized Jensen-Shannon divergence

    @property
    def divergence_weight(self) -> float:
        """Weight of the divergence in the loss."""
        return self.kl_weight * self.temperature**2

    @property
    def divergence_grad_weight(self) -> float:
        """Weight of dD / d(logits / temperature) in the gradient of the logits."""
        return self.divergence_weight / self.temperature


PAPER_DEFAULTS = Objective()
