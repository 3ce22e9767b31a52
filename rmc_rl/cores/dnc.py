"""The differentiable neural computer (Graves et al. 2016, "Hybrid computing using a neural network with dynamic
external memory", Nature 538; equations in its Methods)."""

from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .core import Core, State, check_positive
from .deep_lstm import DeepLSTM

Controller = Literal["lstm", "feed_forward"]
NORM_EPSILON = 1e-6
"""Added to squared lengths: an empty row of the memory has no direction, and its gradient must not be infinite."""


class Interface(NamedTuple):
    """What the controller asks of the memory at one step: R read heads, H write heads, words of W numbers."""

    read_keys: Tensor
    """[B, R, W]."""
    read_strengths: Tensor
    """[B, R], at least 1."""
    write_keys: Tensor
    """[B, H, W]."""
    write_strengths: Tensor
    """[B, H], at least 1."""
    erase: Tensor
    """[B, H, W], 0 to 1."""
    write: Tensor
    """[B, H, W]."""
    free_gates: Tensor
    """[B, R], 0 to 1."""
    allocation_gates: Tensor
    """[B, H], 0 to 1."""
    write_gates: Tensor
    """[B, H], 0 to 1."""
    read_modes: Tensor
    """[B, R, H + 1 + H], sums to 1: backward along each head's links, by content, forward along each head's links."""


class Access(NamedTuple):
    """The memory and what is known of its use, N rows of W numbers. All of it starts from zeros."""

    memory: Tensor
    """[B, N, W]."""
    usage: Tensor
    """[B, N]."""
    links: Tensor
    """[B, H, N, N]: how far row i was written right after row j."""
    precedence: Tensor
    """[B, H, N]: how far a row was the last one written."""
    write_weights: Tensor
    """[B, H, N]."""
    read_weights: Tensor
    """[B, R, N]."""
    reads: Tensor
    """[B, R, W]: what was read."""


class DNC(Core):
    """A controller with an external memory, which it reads and writes by content, by age, and by free space.

    With more than one write head, which the paper does not have, each has links of its own, and space is allocated
    to one after the other, as in DeepMind's public code.

    Args:
        input_size: width of the input.
        memory_size: rows of the memory.
        word_size: width of a row.
        num_reads: read heads.
        num_writes: write heads.
        controller: `"lstm"` (a `DeepLSTM`) or `"feed_forward"` (layers with ReLU).
        controller_size: units of each of its layers.
        controller_layers: its layers.
        output_size: width of the output.

    Raises:
        ValueError: a size below 1, or an unknown controller.
    """

    def __init__(
        self,
        input_size: int,
        memory_size: int = 16,
        word_size: int = 16,
        num_reads: int = 1,
        num_writes: int = 1,
        controller: Controller = "lstm",
        controller_size: int = 128,
        controller_layers: int = 1,
        output_size: int = 256,
    ) -> None:
        check_positive(
            input_size=input_size,
            memory_size=memory_size,
            word_size=word_size,
            num_reads=num_reads,
            num_writes=num_writes,
            controller_size=controller_size,
            controller_layers=controller_layers,
            output_size=output_size,
        )
        if controller not in ("lstm", "feed_forward"):
            raise ValueError(f"controller must be 'lstm' or 'feed_forward', got {controller!r}")
        super().__init__(input_size, output_size)
        self.memory_size, self.word_size = memory_size, word_size
        self.num_reads, self.num_writes = num_reads, num_writes
        read_size = num_reads * word_size
        controller_class = DeepLSTM if controller == "lstm" else FeedForward
        self.controller: Core = controller_class(input_size + read_size, controller_size, controller_layers)
        self.interface_sizes = [
            read_size,
            num_reads,
            num_writes * word_size,
            num_writes,
            num_writes * word_size,
            num_writes * word_size,
            num_reads,
            num_writes,
            num_writes,
            num_reads * (1 + 2 * num_writes),
        ]
        self.interface = nn.Linear(self.controller.output_size, sum(self.interface_sizes))
        self.output = nn.Linear(self.controller.output_size + read_size, output_size)

    def initial_state(self, batch_size: int) -> State:
        """Zeros: the leaves of `Access`, then the controller's."""
        rows, words, reads, writes = self.memory_size, self.word_size, self.num_reads, self.num_writes
        zeros = partial(self.interface.weight.new_zeros, batch_size)
        access = Access(
            memory=zeros(rows, words),
            usage=zeros(rows),
            links=zeros(writes, rows, rows),
            precedence=zeros(writes, rows),
            write_weights=zeros(writes, rows),
            read_weights=zeros(reads, rows),
            reads=zeros(reads, words),
        )
        return (*access, *self.controller.initial_state(batch_size))

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        count = len(Access._fields)
        access, controller_state = Access(*state[:count]), state[count:]
        hidden, controller_state = self.controller(torch.cat([x, access.reads.flatten(1)], dim=-1), controller_state)
        access = access_memory(access, self._interface(hidden))
        output = self.output(torch.cat([hidden, access.reads.flatten(1)], dim=-1))
        return output, (*access, *controller_state)

    def _interface(self, hidden: Tensor) -> Interface:
        parts = torch.split(self.interface(hidden), self.interface_sizes, dim=-1)
        reads, writes = (hidden.shape[0], self.num_reads, -1), (hidden.shape[0], self.num_writes, -1)
        return Interface(
            read_keys=parts[0].reshape(reads),
            read_strengths=1 + F.softplus(parts[1]),
            write_keys=parts[2].reshape(writes),
            write_strengths=1 + F.softplus(parts[3]),
            erase=torch.sigmoid(parts[4].reshape(writes)),
            write=parts[5].reshape(writes),
            free_gates=torch.sigmoid(parts[6]),
            allocation_gates=torch.sigmoid(parts[7]),
            write_gates=torch.sigmoid(parts[8]),
            read_modes=torch.softmax(parts[9].reshape(reads), dim=-1),
        )


def access_memory(before: Access, asked: Interface) -> Access:
    """One step of the memory: free, write, link, read."""
    usage = update_usage(before, asked.free_gates)  # [B, N]
    by_content = content_weights(before.memory, asked.write_keys, asked.write_strengths)  # [B, H, N]
    by_space = allocation_weights(usage, asked.allocation_gates * asked.write_gates)  # [B, H, N]
    write_weights = asked.write_gates.unsqueeze(-1) * torch.lerp(
        by_content, by_space, asked.allocation_gates.unsqueeze(-1)
    )  # [B, H, N]
    kept = (1 - write_weights.unsqueeze(-1) * asked.erase.unsqueeze(-2)).prod(dim=1)  # [B, N, W]
    memory = before.memory * kept + write_weights.transpose(1, 2) @ asked.write  # [B, N, W]
    links = update_links(before.links, before.precedence, write_weights)  # [B, H, N, N]
    precedence = (1 - write_weights.sum(dim=-1, keepdim=True)) * before.precedence + write_weights  # [B, H, N]
    read_weights = read(before.read_weights, memory, links, asked)  # [B, R, N]
    return Access(memory, usage, links, precedence, write_weights, read_weights, read_weights @ memory)


def content_weights(memory: Tensor, keys: Tensor, strengths: Tensor) -> Tensor:
    """Softmax of the cosines between keys [B, K, W] and rows [B, N, W], sharpened by strengths [B, K]: [B, K, N]."""
    lengths = (keys.square().sum(-1) + NORM_EPSILON).sqrt().unsqueeze(-1)  # [B, K, 1]
    row_lengths = (memory.square().sum(-1) + NORM_EPSILON).sqrt().unsqueeze(1)  # [B, 1, N]
    cosines = keys @ memory.transpose(1, 2) / (lengths * row_lengths)  # [B, K, N]
    return torch.softmax(cosines * strengths.unsqueeze(-1), dim=-1)


def update_usage(before: Access, free_gates: Tensor) -> Tensor:
    """How far each row is in use, [B, N]: it was written, and no read head has freed it since."""
    written = 1 - (1 - before.write_weights).prod(dim=1)  # [B, N]
    retained = (1 - free_gates.unsqueeze(-1) * before.read_weights).prod(dim=1)  # [B, N]
    return (before.usage + written - before.usage * written) * retained


def allocation_weights(usage: Tensor, gates: Tensor) -> Tensor:
    """Where each write head finds space, [B, H, N]: the least used row first.

    A head counts what the heads before it take, by their gates [B, H], as used.
    """
    weights = []
    for gate in gates.unbind(dim=1):
        weights.append(_allocate(usage))  # [B, N]
        usage = usage + (1 - usage) * gate.unsqueeze(-1) * weights[-1]
    return torch.stack(weights, dim=1)


def _allocate(usage: Tensor) -> Tensor:
    """Allocation weights [B, N] for usages [B, N]; of equal ones the first row comes first."""
    ascending, order = usage.sort(dim=-1, stable=True)
    less_used = torch.cat([torch.ones_like(ascending[:, :1]), ascending[:, :-1]], dim=-1).cumprod(dim=-1)  # [B, N]
    return ((1 - ascending) * less_used).gather(-1, order.argsort(dim=-1))


def update_links(links: Tensor, precedence: Tensor, write_weights: Tensor) -> Tensor:
    """The order of writing, [B, H, N, N], from what was written last, [B, H, N], and what is written now, [B, H, N]."""
    into, out_of = write_weights.unsqueeze(-1), write_weights.unsqueeze(-2)  # [B, H, N, 1], [B, H, 1, N]
    links = (1 - into - out_of) * links + into * precedence.unsqueeze(-2)
    itself = torch.eye(links.shape[-1], dtype=torch.bool, device=links.device)
    return links.masked_fill(itself, 0)


def read(weights: Tensor, memory: Tensor, links: Tensor, asked: Interface) -> Tensor:
    """New read weights [B, R, N] from the old ones, by content, and along the links in both directions."""
    by_content = content_weights(memory, asked.read_keys, asked.read_strengths).unsqueeze(2)  # [B, R, 1, N]
    old = weights.unsqueeze(1)  # [B, 1, R, N]
    forward = (old @ links.transpose(-1, -2)).transpose(1, 2)  # [B, R, H, N]
    backward = (old @ links).transpose(1, 2)  # [B, R, H, N]
    ways = torch.cat([backward, by_content, forward], dim=2)  # [B, R, H + 1 + H, N]
    return (asked.read_modes.unsqueeze(-1) * ways).sum(dim=2)


class FeedForward(Core):
    """Layers with ReLU and without memory, as a controller."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int) -> None:
        super().__init__(input_size, output_size=hidden_size)
        sizes = [input_size] + [hidden_size] * (num_layers - 1)
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(size, hidden_size), nn.ReLU()) for size in sizes))

    def initial_state(self, batch_size: int) -> State:
        return ()

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return self.layers(x), state
