"""MineDraft as a service: what the drafter, the verifier and the coordinator share."""

__version__ = "0.1.0"
