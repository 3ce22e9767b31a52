"""A linear layer on the compiled unrolls' matrix products, where these apply."""

from torch import Tensor, nn


class Linear(nn.Linear):
    """torch's `nn.Linear`, with the same parameters; in float32 on the CPU with products that are compiled here.

    Within `torch.autocast("cpu")` on a processor made for it these have bfloat16 operands; the result is float32.
    Without a bias, and for x of one dimension, it is torch's own.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in_features] -> [..., out_features].

        Raises:
            ValueError: x has another width (RuntimeError where torch computes).
        """
        from .native import path_here  # only now: the compiler behind it takes its time to import

        if self.bias is None or x.dim() < 2 or path_here(x, self.weight, self.bias) == "loop":
            return super().forward(x)
        if x.shape[-1] != self.weight.shape[1]:  # compiled code would read other memory
            raise ValueError(f"x must be [..., in_features], here [..., {self.in_features}], got {list(x.shape)}")
        from .fused_linear import linear

        return linear(x, self.weight, self.bias)
