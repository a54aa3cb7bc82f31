"""Policy regularisers: what keeps a policy near its reference. Pure torch.

Every regulariser maps policy logits, reference logits and sampled tokens of N response positions
to a ``Penalty``; see ``PolicyRegularizer`` for the interface.
"""

from dschat.regularization.base import NoPenalty, Penalty, PolicyRegularizer, with_defaults
from dschat.regularization.divergences import FDivergence, KLDivergence
from dschat.regularization.ground.metric import GroundMetric
from dschat.regularization.ground.nearest_table import nearest_tokens
from dschat.regularization.multi_reference import MixtureReference, MultiReference
from dschat.regularization.power_divergences import RenyiDivergence, TsallisDivergence
from dschat.regularization.registry import regularizer_from_config
from dschat.regularization.sampled_kl import SampledKL
from dschat.regularization.semantic.energy_distance import EnergyDistance
from dschat.regularization.semantic.kernel_mmd import KernelMMD
from dschat.regularization.semantic.smoothed_kl import SmoothedKL
from dschat.regularization.sinkhorn import SinkhornDivergence
from dschat.regularization.wasserstein import TruncatedWasserstein

__all__ = [
    "EnergyDistance",
    "FDivergence",
    "GroundMetric",
    "KLDivergence",
    "KernelMMD",
    "MixtureReference",
    "MultiReference",
    "NoPenalty",
    "Penalty",
    "PolicyRegularizer",
    "RenyiDivergence",
    "SampledKL",
    "SinkhornDivergence",
    "SmoothedKL",
    "TruncatedWasserstein",
    "TsallisDivergence",
    "nearest_tokens",
    "regularizer_from_config",
    "with_defaults",
]
