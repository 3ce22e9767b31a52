"""A linear layer on the compiled unrolls' matrix products, where these apply."""

from torch import Tensor, nn


class Linear(nn.Linear):
    """torch's `nn.Linear`, with the same parameters; in float32 on the CPU with products that are compiled here.

    Within `torch.autocast("cpu")` on a processor made for it these have bfloat16 operands; the result is float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in_features] -> [..., out_features]."""
        from .native import path_here  # only now: the compiler behind it takes its time to import

        if path_here(x, self.weight, self.bias) == "loop":
            return super().forward(x)
        from .fused_linear import linear

        return linear(x, self.weight, self.bias)
