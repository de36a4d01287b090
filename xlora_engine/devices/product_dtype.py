"""The dtype in which an expert's factor multiplies its input: its own, or for many tokens the input's."""

from jaxtyping import Float
from torch import Tensor

#: From so many tokens on, casting a factor costs less than a product in its own dtype: measured on a CPU
#: with bfloat16 instructions, even at 48, half the time at 384.
MANY_TOKENS = 64


def factor_for(
    factor: Float[Tensor, "d_out d_in"], x: Float[Tensor, "*tokens layer_d_in"]
) -> Float[Tensor, "d_out d_in"]:
    """A or B of the experts, cast to the dtype of the layer's input where this saves time.

    Experts are kept in float32 on a CPU, whatever the base model computes in. One token's product costs
    its call, which is dearer in bfloat16; a sequence's costs its arithmetic, which is dearer in float32
    wherever a bfloat16 base model is worth having. Their sum with the base layer's output is rounded to
    its dtype anyhow. Factors that are trained stay as they are, as in PEFT.
    """
    if factor.dtype == x.dtype or factor.requires_grad or x.shape[:-1].numel() < MANY_TOKENS:
        return factor
    return factor.to(x.dtype)
