"""Settings of the whole suite."""

import hypothesis
import torch

torch.set_num_threads(1)  # the tensors are small: more threads only wait for one another
hypothesis.settings.register_profile("suite", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("suite")
