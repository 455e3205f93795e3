"""The two sides of the least squares game that matches codes to a prior (eq. 10; Mao et al. 2017).

Eq. 10 is one formula for two players. Its first term, (D(code) - 1)^2, is what the encoder lowers (it stands in the
encoder's objective, eq. 11), so here 1 means "looks like a draw from the prior" and the critic, the encoder's opponent,
learns the opposite for codes: draws to 1, codes to 0. That is LS-GAN's own assignment; the paper prints the labels the
other way round, which names the same game for the critic but would leave the encoder helping it.
"""

import torch
from torch import Tensor


def critic_loss(score_prior: Tensor, score_code: Tensor) -> Tensor:
    """What the critic lowers: scores of draws from the prior go to 1, scores of codes to 0.

    Args:
        score_prior: scores of draws from the prior, any shape.
        score_code: scores of codes, any shape. Detach the codes first, so that only the critic learns from this.

    Returns:
        A scalar; 0 when every score is right, 0.5 when the critic answers one half to all.
    """
    prior, code = _full(score_prior), _full(score_code)
    return (prior - 1).square().mean() + code.square().mean()


def encoder_loss(score_code: Tensor) -> Tensor:
    """What the encoder lowers: scores of its codes go to 1, as if they were drawn from the prior.

    Args:
        score_code: scores of codes, any shape, with the codes attached to the encoder.

    Returns:
        A scalar; 0 when the critic takes every code for a draw from the prior.
    """
    return (_full(score_code) - 1).square().mean()


def _full(score: Tensor) -> Tensor:
    """In float32 at least: a critic under autocast answers in half precision."""
    return score.to(torch.promote_types(score.dtype, torch.float32))
