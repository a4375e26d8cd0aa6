"""What all tests share: one thread a process for torch, since the machine is shared with the services under test."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
