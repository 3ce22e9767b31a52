"""V-trace targets and advantages (Espeholt et al. 2018, arXiv 1802.01561, section 4.1)."""

import torch
from torch import Tensor


@torch.no_grad()
def vtrace(
    log_rhos: Tensor,
    discounts: Tensor,
    rewards: Tensor,
    values: Tensor,
    bootstrap_value: Tensor,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
    pg_rho_bar: float = 1.0,
    lam: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Targets for the values and advantages for the policy gradient.

    With rho_t = exp(log_rhos_t) and V_T the bootstrap value,

        delta_t = min(rho_bar, rho_t) (r_t + discount_t V_{t+1} - V_t)
        vs_t = V_t + delta_t + discount_t lam min(c_bar, rho_t) (vs_{t+1} - V_{t+1}),   vs_T = V_T
        advantage_t = min(pg_rho_bar, rho_t) (r_t + discount_t (lam vs_{t+1} + (1 - lam) V_{t+1}) - V_t)

    With lam = 1 these are IMPALA's. On-policy (log_rhos zero) `vs` is the lambda-return and the advantage is GAE(lam)
    (Schulman et al. 2016, arXiv 1506.02438).

    Args:
        log_rhos: [T, B], log of target over behaviour probability of the actions taken.
        discounts: [T, B], zero where an episode ends.
        rewards: [T, B].
        values: [T, B], V_t.
        bootstrap_value: [B], the value after the last step.
        rho_bar: clip of the weight of the temporal differences.
        c_bar: clip of the trace.
        pg_rho_bar: clip of the advantages' weight.
        lam: decay of the trace.

    Returns:
        vs [T, B] and pg_advantages [T, B]; no gradient flows through either.

    Raises:
        ValueError: shapes that do not fit.
    """
    _check_shapes(log_rhos, discounts, rewards, values, bootstrap_value)
    rhos = log_rhos.exp()
    values_tp1 = torch.cat([values[1:], bootstrap_value.unsqueeze(0)])  # [T, B]
    deltas = rhos.clamp(max=rho_bar) * (rewards + discounts * values_tp1 - values)
    decays = discounts * lam * rhos.clamp(max=c_bar)

    correction = torch.zeros_like(bootstrap_value)  # vs_{t+1} - V_{t+1}, [B]
    corrections = torch.empty_like(values)
    for t in range(len(values) - 1, -1, -1):
        correction = torch.addcmul(deltas[t], decays[t], correction)
        corrections[t] = correction
    vs = values + corrections
    vs_tp1 = torch.cat([vs[1:], bootstrap_value.unsqueeze(0)])
    targets = rewards + discounts * (lam * vs_tp1 + (1 - lam) * values_tp1)
    return vs, rhos.clamp(max=pg_rho_bar) * (targets - values)


def _check_shapes(log_rhos: Tensor, discounts: Tensor, rewards: Tensor, values: Tensor, bootstrap: Tensor) -> None:
    named = {"log_rhos": log_rhos, "discounts": discounts, "rewards": rewards, "values": values}
    for name, tensor in named.items():
        if tensor.dim() != 2 or tensor.shape != values.shape:
            raise ValueError(f"{name} must be [T, B] like values {tuple(values.shape)}, got {tuple(tensor.shape)}")
    if bootstrap.shape != values.shape[1:]:
        raise ValueError(f"bootstrap_value must be [B], {tuple(values.shape[1:])}, got {tuple(bootstrap.shape)}")
