"""What a step needs whoever makes it: arithmetic and memory; and how fast products are here."""

from __future__ import annotations

import time

import torch
from step_sizes import Size

SIDE = 2048
BYTES = {"fp32": 4, "bf16": 2}
KEPT_IN_FP32 = {"fp32": 0, "bf16": 4}
"""Bytes of a weight's fp32 master beside the weight itself."""


def parameters(size: Size) -> tuple[int, int, int]:
    """(parameters of a causal LM, those in products with each token, those of the output layer)."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        config = AutoConfig.for_model(size.architecture, **size.model)
        model = AutoModelForCausalLM.from_config(config)
    tables = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    body = [p for p in model.parameters() if p.dim() >= 2 and id(p) not in tables]
    total = sum(p.numel() for p in model.parameters())
    return total, sum(p.numel() for p in body), model.get_output_embeddings().weight.numel()


def operations(size: Size, algorithm: str) -> float:
    """Floating-point operations of a step's products with weights.

    Each distinct prompt once per pass, and nothing twice: sampling, a pass of policy and reference
    for the penalty (under PPO of reward model and critic as well), and a forward and a backward
    pass of what is trained. Attention's own products and what is computed again are not counted.
    """
    _, body, head = parameters(size)
    ppo = algorithm == "ppo"
    responses = size.responses * size.response
    prompts = size.responses // (1 if ppo else size.group) * size.prompt
    passes_of_bodies = 1 + 2 + 3 + (2 + 3 if ppo else 0)
    passes_of_head = 1 + 2 + 3
    tokens = prompts + responses
    return 2.0 * (passes_of_bodies * tokens * body + passes_of_head * responses * head)


def floor_mib(size: Size, algorithm: str) -> float:
    """MiB of weights, gradients, AdamW's two moments and frozen copies."""
    total, body, head = parameters(size)
    weight = BYTES[size.dtype]
    trained = 2 * weight + KEPT_IN_FP32[size.dtype] + 2 * 4
    mine = total * (trained + weight)  # the policy and its reference
    if algorithm == "ppo":
        # A classifier has the body and an embedding: critic and reward model.
        mine += (body + head) * (trained + weight)
    return mine / 2**20


def products_per_second(size: Size) -> float:
    """Floating-point operations per second of a large product in the size's dtype, here and now."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if size.dtype == "bf16" else torch.float32
    a, b = torch.randn(2, SIDE, SIDE, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):
        at = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - at)
    return 2.0 * SIDE**3 / best
