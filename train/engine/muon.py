"""Muon: momentum whose update of a matrix is made orthogonal, so that all its directions learn at the same speed.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon, with updates of AdamW's size (arXiv:2502.16982). It makes
the updates of `torch.optim.Muon`, with three differences:

* Matrices of one shape are made orthogonal together. A GPU gets a few large products instead of many small ones.
* The products may be in float32. CPUs without instructions for bfloat16 take a hundred times as long in it.
* As with torch's fused optimisers, `grad_scale` and `found_inf` are tensors on the device, and no GPU is waited for.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the polynomial that brings singular values near 1, by Jordan et al.
STEPS = 5
TOGETHER = 1 << 24  # numbers that are made orthogonal at a time, which bounds the memory


class Muon(torch.optim.Optimizer):
    """Updates matrices.

    Args:
        groups: of matrices, each with its `lr` and `weight_decay`.
        dtype: of the products, bfloat16 or float32.

    Attributes:
        grad_scale: one number, by which `step` divides the gradients.
        found_inf: one number; where it is 1, `step` changes nothing.
    """

    grad_scale: torch.Tensor
    found_inf: torch.Tensor

    def __init__(self, groups: list[dict[str, Any]], dtype: torch.dtype) -> None:
        super().__init__(groups, {"lr": 1e-3, "weight_decay": 0.0})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all matrices that have a gradient."""
        for group in self.param_groups:
            for matrices in _of_one_shape(matrix for matrix in group["params"] if matrix.grad is not None):
                self._update(matrices, group["lr"], group["weight_decay"])

    def _update(self, matrices: list[torch.Tensor], lr: float, weight_decay: float) -> None:
        good = 1 - self.found_inf
        directions = []
        for matrix in matrices:
            state = self.state[matrix]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(matrix)
            assert matrix.grad is not None
            gradient = torch.where(good > 0, matrix.grad / self.grad_scale, 0.0)
            state["momentum_buffer"].lerp_(gradient, ((1 - MOMENTUM) * good).to(gradient.dtype))
            directions.append(gradient.lerp_(state["momentum_buffer"], MOMENTUM))  # Nesterov's
        size = lr * 0.2 * max(matrices[0].shape) ** 0.5  # the size of AdamW's updates
        for matrix, update in zip(matrices, orthogonal(torch.stack(directions).to(self.dtype)), strict=True):
            matrix.mul_(1 - lr * weight_decay * good)
            matrix.sub_(update * (size * good))


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Bring the singular values of matrices near 1, between 0.7 and 1.2, by five Newton-Schulz iterations.

    An iteration makes `(a I + b G + c G G) X` of a matrix X with G = X X^T. In float32, the iterations of a matrix that
    is twice as long as wide or more are all made on the small G: X_k = Q_k X_0, so that only the first G and the last
    product have the size of X. That needs half of the work; bfloat16 is too inexact for it.

    Args:
        matrices: (N, R, C).

    Returns:
        The same shape and dtype.
    """
    a, b, c = COEFFICIENTS
    rows, columns = matrices.shape[1:]
    x = matrices.mT if rows > columns else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    if x.dtype == torch.float32 and x.shape[2] >= 2 * x.shape[1]:
        gram = x @ x.mT
        first = torch.diag_embed(gram.new_full(gram.shape[:2], a))
        product = factor = first + torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        for _ in range(STEPS - 1):
            gram = factor @ gram @ factor
            factor = first + torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
            product = factor @ product
        x = product @ x
    else:
        for _ in range(STEPS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if rows > columns else x


def _of_one_shape(matrices: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Group matrices by their shape, in groups of at most `TOGETHER` numbers, or of one matrix."""
    groups: dict[torch.Size, list[torch.Tensor]] = {}
    for matrix in matrices:
        group = groups.setdefault(matrix.shape, [])
        if group and (len(group) + 1) * matrix.numel() > TOGETHER:
            yield group
            group = groups[matrix.shape] = []
        group.append(matrix)
    yield from groups.values()
