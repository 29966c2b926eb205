"""One rank against transformers' eager step, in one process and one run: a ratio, not a time.

    make bench        (or: python benchmarks/one_rank.py)

Same model (hidden 256, 4 layers, 8 experts top-2, ffn 512, vocabulary 4096, sequence 256, batch 4, fp32),
same initial weights, same batches, AdamW, one thread. Steps alternate, so that a busy machine is busy for
both. Losses are printed: nobody wins by computing something else.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from torch import Tensor
from transformers import MixtralConfig, MixtralForCausalLM

from moec import models
from moec.compiler.pipeline import compile_spec
from moec.dsl import load
from moec.runtime.abi.buffers import pieces
from moec.runtime.executor import Executor
from moec.runtime.state import TrainState, parameter_prefix
from moec.runtime.transport.single import SingleTransport

LR = 1e-3
SETS = [
    "vocab=4096", "width=256", "attention.heads=4", "attention.kv_heads=4", "experts.experts.width=512",
    "experts.balance.aux_loss=none", "train.sequence=256", "train.batch=1024", "train.clip=none",
    f"train.optimizer.lr={LR}", "train.optimizer.betas=(0.9, 0.999)", "train.optimizer.weight_decay=0.0",
]  # fmt: skip


def transformers_model() -> MixtralForCausalLM:
    """The peer, in its eager form."""
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=4096, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, num_local_experts=8, num_experts_per_tok=2, max_position_embeddings=256,
        use_cache=False, rms_norm_eps=1e-5, rope_theta=10_000.0,
    )  # fmt: skip
    model = MixtralForCausalLM._from_config(
        config, dtype=torch.float32, experts_implementation="eager", attn_implementation="sdpa"
    )
    return model.train()


def transformers_step(model: MixtralForCausalLM) -> Callable[[Tensor, Tensor], float]:
    """A training step as one writes it."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0)

    def step(tokens: Tensor, targets: Tensor) -> float:
        logits = model(input_ids=tokens).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def moec_step(weights: dict[str, Tensor]) -> Callable[[Tensor, Tensor], float]:
    """The step program of one rank."""
    compiled = compile_spec(load("tiny", SETS, models.read))
    mesh, device = compiled.plan.mesh, torch.device("cpu")
    state = TrainState(compiled.step.buffers, mesh, 0, torch.float32, device)
    for name, shard in state.parameters.items():
        for piece in pieces(compiled.step.buffers[name], parameter_prefix(name), mesh, 0):
            shard[piece.offset : piece.offset + piece.count] = weights[piece.name].reshape(-1)
    executor = Executor(compiled.programs, SingleTransport().groups(mesh.axes()), device)
    updates = [0]

    def step(tokens: Tensor, targets: Tensor) -> float:
        updates[0] += 1
        batch = [tokens[None], targets[None], torch.tensor([tokens.shape[0]]), torch.tensor([0])]
        arguments = [*batch, LR, torch.tensor(float(updates[0])), math.inf, *state.arguments()]
        with torch.no_grad():
            return float(executor.run("step", arguments)[0][0])

    return step


def moec_weights(model: MixtralForCausalLM) -> dict[str, Tensor]:
    """The peer's weights under moec's names. In memory transformers stacks experts, gate over up."""
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    found = {"embed": "model.embed_tokens.weight", "norm": "model.norm.weight", "logits": "lm_head.weight"}
    renamed = {ours: tensors[theirs] for ours, theirs in found.items()}
    for i in range(model.config.num_hidden_layers):
        theirs = f"model.layers.{i}"
        renamed[f"layers.{i}.attention.norm"] = tensors[f"{theirs}.input_layernorm.weight"]
        renamed[f"layers.{i}.experts.norm"] = tensors[f"{theirs}.post_attention_layernorm.weight"]
        renamed[f"layers.{i}.experts.router"] = tensors[f"{theirs}.mlp.gate.weight"]
        for name in "qkvo":
            renamed[f"layers.{i}.attention.{name}"] = tensors[f"{theirs}.self_attn.{name}_proj.weight"]
        for e in range(model.config.num_local_experts):
            gate, up = tensors[f"{theirs}.mlp.experts.gate_up_proj"][e].chunk(2)
            expert = f"layers.{i}.experts.expert.{e}"
            renamed |= {f"{expert}.gate": gate, f"{expert}.up": up}
            renamed[f"{expert}.down"] = tensors[f"{theirs}.mlp.experts.down_proj"][e]
    return renamed


def main() -> int:
    parser = argparse.ArgumentParser(description="One rank against transformers' eager step.")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warmup", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    peer = transformers_model()
    steps = {"transformers eager": transformers_step(peer), "moec": moec_step(moec_weights(peer))}
    numbers = torch.Generator().manual_seed(1)
    data = torch.randint(0, 4096, (2, 4, 257), generator=numbers)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    losses: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(options.warmup + options.steps):
        batch = data[i % 2]
        for name, step in steps.items():
            start_s = time.perf_counter()
            losses[name].append(step(batch[:, :-1].contiguous(), batch[:, 1:].contiguous()))
            seconds[name].append(time.perf_counter() - start_s)
    timed = {name: all_s[options.warmup :] for name, all_s in seconds.items()}
    for name, all_s in timed.items():
        times = f"median {statistics.median(all_s) * 1e3:7.1f} ms  fastest {min(all_s) * 1e3:7.1f} ms"
        print(f"{name:<20} {times}  loss {losses[name][0]:.5f} -> {losses[name][-1]:.5f}")
    peer_s, ours_s = timed["transformers eager"], timed["moec"]
    ratios = {
        "median": statistics.median(peer_s) / statistics.median(ours_s),
        "fastest": min(peer_s) / min(ours_s),
    }
    print(json.dumps({"speed of moec over transformers eager": {k: round(v, 3) for k, v in ratios.items()}}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
