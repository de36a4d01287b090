"""Low-rank updates `B A` of one module, their scale inside B, and the arithmetic that keeps them low-rank."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from xlora_engine.sources.adapter_weights import LowRank


@dataclass(frozen=True, eq=False)
class Factors:
    """An update `B A` of a module, in float32."""

    A: Float[Tensor, "rank d_in"]
    B: Float[Tensor, "d_out rank"]

    @classmethod
    def of(cls, update: LowRank) -> "Factors":
        """An expert's update, its scale inside B."""
        return cls(A=update.A.float(), B=update.B.float() * update.scale)

    @property
    def rank(self) -> int:
        """The width between A and B."""
        return self.A.shape[0]

    @property
    def norm(self) -> Float[Tensor, ""]:
        """The Frobenius norm of the update, without multiplying it out."""
        inner = (self.B.T.double() @ self.B.double()) * (self.A.double() @ self.A.T.double())
        return inner.sum().clamp(min=0).sqrt()

    def times(self, factor: float | Tensor) -> "Factors":
        """The update times a number."""
        return Factors(A=self.A, B=(self.B * factor).to(self.B.dtype))

    def product(self) -> Float[Tensor, "d_out d_in"]:
        """The update, multiplied out."""
        return self.B @ self.A


def total(updates: Sequence[Factors]) -> Factors:
    """The sum of updates, exactly: its rank is the sum of their ranks."""
    return Factors(
        A=torch.cat([update.A for update in updates], 0), B=torch.cat([update.B for update in updates], 1)
    )


def cut(update: Factors, rank: int) -> Factors:
    """The nearest update of at most this rank (Eckart and Young), found among the directions that it has."""
    if rank >= update.rank:
        return update
    (Q_B, R_B), (Q_A, R_A) = torch.linalg.qr(update.B.double()), torch.linalg.qr(update.A.T.double())
    inner = nearest(R_B @ R_A.T, rank)
    return Factors(A=(inner.A @ Q_A.T).float(), B=(Q_B @ inner.B).float())


def nearest(matrix: Float[Tensor, "d_out d_in"], rank: int) -> Factors:
    """The nearest update of at most this rank to any matrix; both factors get the root of what is kept."""
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    root = S[:rank].sqrt()
    return Factors(A=root[:, None] * Vh[:rank], B=U[:, :rank] * root)
