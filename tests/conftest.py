"""What all tests share: one thread for torch, since services under test share the machine, and quiet logs."""

from __future__ import annotations

import logging

import structlog
import torch

torch.set_num_threads(1)
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
