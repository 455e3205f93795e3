"""Arms of Bayesian segmentation: a label prior that a network bends, and Gaussians (Dalca et al. 2019, MICCAI)."""

from typing import TYPE_CHECKING

from simulation.arms.arm import SOURCE, TARGET, Arm, Bench, Lesson, Predict, Predicted
from simulation.arms.segmenters import em_is_on

if TYPE_CHECKING:
    from torch import Tensor

    from sst_models.wire.exchange import Arrays


def _learn(bench: Bench, site: str, lesson: Lesson) -> "Arrays":
    from simulation.baselines.bayesian import learn

    return learn(bench, site, lesson)


def _posterior(bench: Bench, arm: Arm, site: str) -> Predict:
    """Predict what is likeliest by the bent prior and the scan's Gaussians."""
    from simulation.baselines.bayesian import BayesianSegmenter

    own = BayesianSegmenter(bench.learnt(arm, site), bench)

    def predict(image: "Tensor") -> Predicted:
        found, flow = own.posterior(image)
        return _predicted(found, flow)

    return predict


def _refined(bench: Bench, arm: Arm, site: str) -> Predict:
    """Predict by EM on the posterior, as on a U-Net's probabilities, which have seen the scan's intensities, too.

    By Bayes' rule they should count once, and the bent prior be what EM begins with. But its first Gaussians, of two
    passes, are then those of where the flow puts structures, not those that were learnt: of spheres bent at random the
    posterior gave 0.92 Dice and the prior 0.84 after 200 steps, and as much (0.97) where the flow was nearly right.
    """
    from simulation.baselines.bayesian import BayesianSegmenter
    from sst_models.propagation.predict import Prediction, refined

    own, how = BayesianSegmenter(bench.learnt(arm, site), bench), Prediction.of(bench.experiment)

    def predict(image: "Tensor") -> Predicted:
        found, flow = own.posterior(image)
        return _predicted(refined(found, image, how), flow)

    return predict


def _predicted(probabilities: "Tensor", flow: "Tensor") -> Predicted:
    from sst_models.losses.flow import folded_fraction

    return Predicted(probabilities.argmax(dim=0), 100 * float(folded_fraction(flow)))


# Not `flows=True`: what they predict is a scan's posterior, not only the atlas's labels where a flow puts them.
BAYESIAN = Arm(
    "Bayesian",
    "The atlas's labels, softened and bent by a network that makes the scan's intensities likely; then Bayes' rule.",
    _posterior,
    tested=(SOURCE, TARGET),
    learn=_learn,
    scans=TARGET,
)

ARMS = (
    BAYESIAN,
    Arm(
        "Bayesian refined",
        "The same, its labels refined by the scan's own intensities (EM).",
        _refined,
        tested=(SOURCE, TARGET),
        base=BAYESIAN,
        applies=em_is_on,
    ),
)
