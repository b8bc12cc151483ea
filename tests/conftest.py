"""Settings of all tests."""

import torch

# small networks: more threads than one cost more than they bring, and results do not depend on the machine's cores
torch.set_num_threads(1)
