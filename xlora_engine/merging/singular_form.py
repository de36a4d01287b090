"""An expert's updates by singular vectors and values, as routers without training need them."""

from dataclasses import replace

import torch

from xlora_engine.sources.adapter_weights import Expert, LowRank


def in_singular_form(expert: Expert, *, values_in_down: bool) -> Expert:
    """The same expert, every update as `U Σ Vᵀ`: `A = Σ Vᵀ, B = U`, or `A = Vᵀ, B = U Σ`; its scale in Σ."""
    updates = {path: _decomposed(update, values_in_down) for path, update in expert.updates.items()}
    return replace(expert, updates=updates)


def _decomposed(update: LowRank, values_in_down: bool) -> LowRank:
    (Q_B, R_B), (Q_A, R_A) = (torch.linalg.qr(factor.double()) for factor in (update.B, update.A.T))
    U, S, Vh = torch.linalg.svd(R_B @ R_A.T * update.scale, full_matrices=False)
    A, B = Vh @ Q_A.T, Q_B @ U
    A, B = (S[:, None] * A, B) if values_in_down else (A, B * S)
    return replace(update, A=A.to(update.A.dtype), B=B.to(update.B.dtype), scale=1.0)
