"""A sequence tagger of plain PyTorch, with its nn.LSTM and with a Relational Memory Core in its place.

python examples/drop_in_lstm.py             about ten seconds
python examples/drop_in_lstm.py --quick     a moment, in which little is learned
"""

import sys

import torch
from torch import nn

from rmc_rl import make_core

UPDATES = 5 if "--quick" in sys.argv else 300
SYMBOLS, STEPS, BATCH = 12, 20, 64


class LSTMTagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS, 32)
        self.memory = nn.LSTM(32, 64)
        self.tags = nn.Linear(64, 2)

    def forward(self, symbols):  # [T, B]
        outputs, _ = self.memory(self.embedding(symbols))
        return self.tags(outputs)  # [T, B, 2]


class RMCTagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS, 32)
        self.memory = make_core("rmc", 32, mem_slots=4, head_size=16, num_heads=2)  # changed
        self.tags = nn.Linear(self.memory.output_size, 2)  # changed: the output is that of all slots

    def forward(self, symbols):
        state = self.memory.initial_state(symbols.shape[1])  # new: an RMC does not start from zeros
        starts = torch.zeros_like(symbols, dtype=torch.bool)  # new: True where one sequence follows another
        outputs, _ = self.memory.unroll(self.embedding(symbols), state, starts)  # changed
        return self.tags(outputs)


for tagger in (LSTMTagger, RMCTagger):
    torch.manual_seed(0)
    model = tagger()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for update in range(UPDATES):
        symbols = torch.randint(SYMBOLS, (STEPS, BATCH))
        earlier = torch.ones(STEPS, STEPS, dtype=torch.bool).tril(-1)[..., None]  # [T, T, 1]
        tags = ((symbols[:, None] == symbols) & earlier).any(1).long()  # [T, B]: 1 where a symbol comes again
        loss = nn.functional.cross_entropy(model(symbols).flatten(0, 1), tags.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update % (UPDATES // 5) == 0 or update == UPDATES - 1:
            print(f"{tagger.__name__}: loss {loss.item():.3f} after {update} updates", flush=True)
