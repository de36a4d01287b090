"""The dtype in which an expert's factor multiplies its input: its own, or for many tokens the input's."""

from jaxtyping import Float
from torch import Tensor

#: From this many tokens on, casting a factor costs less than a product in its own dtype: measured on a CPU
#: with bfloat16 instructions, even at 48, half the time at 384.
MANY_TOKENS = 64


def factor_for(
    factor: Float[Tensor, "d_out d_in"], x: Float[Tensor, "*tokens layer_d_in"]
) -> Float[Tensor, "d_out d_in"]:
    """A or B of the experts, cast to the dtype of the layer's input if that saves time.

    Experts are kept in float32 on a CPU, whatever the base model computes in. The cost of one token's
    product is the call, which is slower in bfloat16; that of a sequence's is its arithmetic, slower in
    float32 wherever a bfloat16 base model is worth using. Their sum with the base layer's output is rounded
    to its dtype anyhow. Factors that are trained keep their dtype, as in PEFT.
    """
    if factor.dtype == x.dtype or factor.requires_grad or x.shape[:-1].numel() < MANY_TOKENS:
        return factor
    return factor.to(x.dtype)
