r"""Step 2: train a reward model on pairs of a chosen and a rejected response.

    deepspeed --num_accelerators 2 main.py --data_path openai/summarize_from_feedback \
        --data_split 2,4,4 --model_name_or_path ../../models/summarize/sft --max_seq_len 1024 \
        --per_device_train_batch_size 8 --learning_rate 1e-5 --weight_decay 0.1 --warmup_ratio 0.1 \
        --gradient_checkpointing --zero_stage 2 --deepspeed \
        --output_dir ../../models/summarize/reward_model

One process without the launcher: python main.py ... A file of settings: main.py config.yaml ...
The reward model after N micro-steps is in output_dir/step_N; it loads with
AutoModelForSequenceClassification.
"""

from dschat.commands.reward import main

if __name__ == "__main__":
    main(__doc__)
