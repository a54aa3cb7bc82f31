"""TRL's GRPOTrainer on the model and prompts of a benchmark size (started by step.py)."""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from datasets import Dataset
from step_sizes import NEVER, SIZES, score_text, words
from step_worker import say, serve, wait
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


class OneByOne(TrainerCallback):
    """Each optimiser step on demand, with its seconds."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if not wait():
            control.should_training_stop = True
            raise KeyboardInterrupt
        self.at, self.cpu = time.perf_counter(), time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        say(seconds=time.perf_counter() - self.at, cpu=time.process_time() - self.cpu)


def main() -> None:
    """Arguments: size, folder with the models, output folder, steps to plan for."""
    name, folder, output, steps = sys.argv[1:]
    size = SIZES[name]
    on_gpu = torch.cuda.is_available()

    def run() -> None:
        tokenizer = AutoTokenizer.from_pretrained(f"{folder}/actor", padding_side="left")
        tokenizer.add_special_tokens({"eos_token": NEVER})
        vocabulary = size.model["vocab_size"]
        prompts = [words(size.prompt, vocabulary, seed) for seed in range(64)]

        def reward(completions: list[str], **_: Any) -> list[float]:
            return score_text(completions, completions)

        config = GRPOConfig(
            output_dir=output,
            use_cpu=not on_gpu,
            # Weights in fp32 and passes in bf16 on a GPU, as DeepSpeed's bf16 engine has it.
            bf16=on_gpu and size.dtype == "bf16",
            model_init_kwargs={"dtype": "float32"},
            per_device_train_batch_size=size.responses,
            num_generations=size.group,
            max_completion_length=size.response,
            gradient_accumulation_steps=1,
            gradient_checkpointing=False,
            temperature=0.8,
            beta=0.05,
            learning_rate=1e-5,
            max_steps=int(steps),
            save_strategy="no",
            report_to="none",
            logging_steps=1,
            disable_tqdm=True,
            seed=1,
        )
        trainer = GRPOTrainer(
            model=f"{folder}/actor",
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": prompts}),
            processing_class=tokenizer,
            callbacks=[OneByOne()],
        )
        try:
            trainer.train()
        except KeyboardInterrupt:
            logged = [e for e in trainer.state.log_history if "completions/mean_length" in e]
            lengths = {e["completions/mean_length"] for e in logged}
            if lengths != {float(size.response)}:
                raise SystemExit(f"responses of {lengths} tokens, not {size.response}") from None

    serve(run)


if __name__ == "__main__":
    main()
