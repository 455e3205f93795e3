"""The volumetric contrastive loss that gathers volumes of one style (eq. 1)."""

import torch
from torch import Tensor
from torch.nn import functional


def info_nce(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Pull each query to its key and push it from every code of the queue (eq. 1).

    Computed as a log-sum-exp in float32 at least, under autocast too. A gradient flows to whichever input asks for
    one; in training only the query does.

    Args:
        query: (N, C) unit vectors, style codes of the query encoder.
        key: (N, C) unit vectors, codes of the same scans in another anatomy, from the key encoder.
        queue: (K, C) unit vectors, the negatives, shared by all queries.
        temperature: tau. The paper's text says 0.7; 0.07 was also used.

    Returns:
        A scalar, the mean over the batch; log(1 + K) when nothing is told apart.

    Raises:
        ValueError: the queue is empty, shapes do not match, or the temperature is not positive.
    """
    if not len(queue):
        raise ValueError("the queue is empty: the contrastive loss needs at least one negative code")
    if query.shape != key.shape or query.shape[1:] != queue.shape[1:]:
        shapes = tuple(query.shape), tuple(key.shape), tuple(queue.shape)
        raise ValueError(f"query (N, C), key (N, C) and queue (K, C) do not match: {shapes}")
    if temperature <= 0:
        raise ValueError(f"the temperature must be positive, not {temperature}")
    dtype = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        query, key, queue = query.to(dtype), key.to(dtype), queue.to(dtype)
        alike = (query * key).sum(dim=1, keepdim=True)
        logits = torch.cat((alike, query @ queue.T), dim=1) / temperature
        first = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        return functional.cross_entropy(logits, first)
