#!/usr/bin/env bash
# The whole pipeline on the embedded example: fine-tuning, reward model, PPO under a KL penalty and
# PPO under the Wasserstein penalty, then a table, sample responses and a picture. No downloads
# but the Python packages. A second start skips what has finished; FRESH=1 starts over.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
SEED="${SEED:-1}"
OUT="${OUT:-$ROOT/runs/quickstart-seed$SEED}"
source "$ROOT/scripts/jobs.sh"
STEPS="$ROOT/applications/DeepSpeed-Chat/training"

data=(
  --data_path "$OUT/example/data" --data_split 4,12,4 --data_output_path "$OUT/cache"
  --seed "$SEED"
)

echo "== 1/5 example data and an untrained model"
run example python -m dschat.example --output_dir "$OUT/example" --seed "$SEED"

echo "== 2/5 step 1: supervised fine-tuning"
run sft python "$STEPS/step1_supervised_finetuning/main.py" "${data[@]}" \
  --model_name_or_path "$OUT/example/model" --max_seq_len 160 --completion_only_loss \
  --per_device_train_batch_size 16 --per_device_eval_batch_size 64 \
  --learning_rate 2e-3 --num_train_epochs 3 --warmup_ratio 0.05 --output_dir "$OUT/sft"

echo "== 3/5 step 2: reward model"
run reward_model python "$STEPS/step2_reward_model_finetuning/main.py" "${data[@]}" \
  --model_name_or_path "$OUT/sft" --max_seq_len 160 \
  --per_device_train_batch_size 16 --per_device_eval_batch_size 64 \
  --learning_rate 5e-4 --num_train_epochs 1 --warmup_ratio 0.05 --output_dir "$OUT/reward_model"
reward_model="$(ls -d "$OUT"/reward_model/step_* | sort -V | tail -n 1)"

ppo=(
  "${data[@]}"
  --actor_model_name_or_path "$OUT/sft" --critic_model_name_or_path "$reward_model"
  --max_prompt_seq_len 120 --max_answer_seq_len 32 --temperature 1.0
  --per_device_generation_batch_size 64 --per_device_training_batch_size 32 --ppo_epochs 2
  --actor_learning_rate 3e-4 --critic_learning_rate 1e-3 --warmup_ratio 0.05 --save_steps 0
  --clip_reward_value 10 --enable_test_mode --test_stop_step "${PPO_STEPS:-50}"
)
echo "== 4/5 step 3, twice at the same time: PPO with a KL penalty and with the Wasserstein penalty"
start ppo_kl python "$STEPS/step3_rlhf_finetuning/main.py" "${ppo[@]}" \
  --kl_ctl 0.1 --output_dir "$OUT/ppo_kl"
start ppo_wpr python "$STEPS/step3_rlhf_finetuning/main_wpr.py" "${ppo[@]}" \
  --kl_ctl 0.3 --epsilon 0.3 --normalize --output_dir "$OUT/ppo_wpr"
finish

last() { ls -d "$OUT/$1"/step-* | sort -V | tail -n 1; }
echo "== 5/5 held-out prompts"
python "$ROOT/evaluation/compare.py" \
  --models "PPO + KL=$(last ppo_kl)/actor" "PPO + WPR=$(last ppo_wpr)/actor" \
  --reference_models "SFT=$OUT/sft" --divergences KL Sinkhorn --epsilon 0.05 \
  --reward_model "$reward_model" \
  --reward "$ROOT/applications/DeepSpeed-Chat/dschat/example/summaries.py:GoldScore" \
  --runs "$OUT/ppo_kl" "$OUT/ppo_wpr" \
  --dataset "$OUT/example/data" --num_samples 256 --max_prompt_tokens 120 --max_new_tokens 32 \
  --dtype fp32 --seed "$SEED" --output "$OUT/comparison"
echo "Everything is in $OUT ($((SECONDS - begin)) s)."
