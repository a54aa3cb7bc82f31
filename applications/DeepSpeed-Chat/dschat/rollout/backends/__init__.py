"""Who samples the responses of a generation batch. Importing this loads nothing heavy."""

BACKENDS = ["native", "transformers", "static", "continuous", "vllm"]
"""The names that `dschat.rollout.backends.registry.make_backend` knows."""
