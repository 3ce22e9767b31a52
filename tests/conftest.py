"""Settings of the whole suite."""

import hypothesis
import torch

torch.set_num_threads(1)  # the tensors are small: more threads only wait for one another
# The same examples every time; and a busy machine is no failure.
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None)
hypothesis.settings.load_profile("suite")
