"""Which point of the noise becomes which point of the shape.

The points of a shape have no order, so any order may be paired with the noise. The one with the least total squared
distance makes the lines from noise to shape cross least, and the flow straight (equivariant optimal transport; Klein,
Kraemer and Noe 2023, Song et al. 2023). Noise stays standard normal and shapes stay the same sets of points.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
from torch import Tensor


def match(noise: Tensor, clouds: Tensor) -> Tensor:
    """Put the points of each cloud in the order that is nearest to its noise.

    Guarantee: every cloud of the result has the same points as before; the sum of squared distances to the noise is
    the least of all orders.

    Args:
        noise: ``(n, points, d)``.
        clouds: ``(n, points, d)``.

    Returns:
        ``(n, points, d)``, on the device of ``clouds``.
    """
    cost = torch.cdist(noise, clouds).square().cpu().numpy()
    # one at a time: the assignment is a fifth of a training step, and no batched solver is as quick for 64 points
    order = [torch.from_numpy(linear_sum_assignment(each)[1]) for each in cost]
    if not order:
        return clouds.clone()
    return clouds.gather(1, torch.stack(order).to(clouds.device)[..., None].expand_as(clouds))


def describe(clouds: Tensor) -> Tensor:
    """Moments of clouds in their plane that do not depend on the order of the points.

    With the points as complex numbers z: the means of ``z^2``, which tells how elongated a cloud is and where to, and
    of ``z |z|^2``, which tells where it is heavy on one side.

    Args:
        clouds: ``(n, points, 3)``.

    Returns:
        ``(n, 4)``.
    """
    flat = torch.complex(clouds[..., 0], clouds[..., 1])
    flat = flat - flat.mean(-1, keepdim=True)
    moments = torch.stack([flat.square().mean(-1), (flat * flat.abs().square()).mean(-1)], -1)
    return torch.view_as_real(moments).flatten(-2)


def pair(noise: Tensor, clouds: Tensor) -> tuple[Tensor, Tensor]:
    """Pair noises with clouds that resemble them, then the points of each pair.

    Which shape a noise becomes is then told by its own moments from the first moment on, and a network need not guess
    half way (multisample flow matching; Pooladian et al. 2023, Tong et al. 2024). Any pairing of independent draws
    leaves the law of the noise and the law of the shapes as they are.

    Args:
        noise: ``(n, points, 3)``, standard normal.
        clouds: ``(n, points, 3)``.

    Returns:
        For each noise the points of one cloud in their order ``(n, points, 3)``, and which cloud that is ``(n,)``.
    """
    if not len(noise):
        return clouds.clone(), torch.zeros(0, dtype=torch.long, device=clouds.device)
    ours, theirs = (_standard(describe(each)) for each in (noise, clouds))
    _, chosen = linear_sum_assignment(torch.cdist(ours, theirs).square().cpu().numpy())
    order = torch.from_numpy(chosen).to(clouds.device)
    return match(noise, clouds[order]), order


def _standard(values: Tensor) -> Tensor:
    return (values - values.mean(0)) / values.std(0, correction=0).clamp_min(1e-6)
