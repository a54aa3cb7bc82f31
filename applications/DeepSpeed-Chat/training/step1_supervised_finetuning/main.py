r"""Step 1: fine-tune a causal language model on the chosen responses.

    deepspeed --num_accelerators 2 main.py --data_path openai/summarize_from_feedback \
        --data_split 2,4,4 --model_name_or_path google/gemma-2b --max_seq_len 1024 \
        --per_device_train_batch_size 8 --gradient_accumulation_steps 8 --learning_rate 5e-5 \
        --num_train_epochs 3 --warmup_ratio 0.1 --gradient_checkpointing --zero_stage 2 \
        --deepspeed --output_dir ../../models/summarize/sft

One process without the launcher: python main.py ... A file of settings: main.py config.yaml ...
The output folder is a Hugging Face model folder with config.yaml and metrics.jsonl in it.
"""

from dschat.commands.sft import main

if __name__ == "__main__":
    main(__doc__)
