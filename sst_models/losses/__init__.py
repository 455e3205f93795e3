"""Every loss of the paper, one term per function; the steps weigh and add them."""

from sst_models.losses.adversarial import critic_loss, encoder_loss
from sst_models.losses.contrastive import info_nce
from sst_models.losses.flow import folded_fraction, gradient_l1
from sst_models.losses.image import ssim_l1
from sst_models.losses.overlap import dice_ce
from sst_models.losses.structural import lncc, ms_ssim

__all__ = [
    "critic_loss",
    "dice_ce",
    "encoder_loss",
    "folded_fraction",
    "gradient_l1",
    "info_nce",
    "lncc",
    "ms_ssim",
    "ssim_l1",
]
