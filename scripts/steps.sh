# shellcheck shell=bash disable=SC2034,SC2153
# Sourced after a recipe's settings: the commands of steps 1 to 5, which the recipes share. What a
# data set has of its own is in its settings.sh and at the top of its scripts.
MODELS="$OUT/models/$DATASET"
RESULTS="$OUT/results/$DATASET/temperature=$TEMPERATURE"
STEPS=DeepSpeed-Chat/training

# Optimiser steps (1, 2) or iterations (3) between resumable checkpoints: our choice.
DEFAULT_CHECKPOINT_STEPS=25

# sft FLAG...: step 1.
sft() {
  local micro_steps
  micro_steps="$(accumulation "$SFT_BATCH_SIZE" "$SFT_PER_DEVICE_BATCH_SIZE")"
  train "$MODELS/sft" $STEPS/step1_supervised_finetuning/main.py \
    --data_path "$DATA_PATH" --data_split "$DATA_SPLIT" \
    --model_name_or_path "$MODEL" \
    --per_device_train_batch_size "$SFT_PER_DEVICE_BATCH_SIZE" \
    --per_device_eval_batch_size "$SFT_PER_DEVICE_BATCH_SIZE" \
    --max_seq_len "$MAX_SEQ_LEN" \
    --learning_rate "$SFT_LEARNING_RATE" --weight_decay "$SFT_WEIGHT_DECAY" \
    --num_train_epochs "$SFT_EPOCHS" \
    --gradient_accumulation_steps "$micro_steps" \
    --lr_scheduler_type cosine --warmup_ratio "$SFT_WARMUP_RATIO" \
    --seed "$SEED" --gradient_checkpointing --zero_stage 2 --deepspeed \
    --output_dir "$MODELS/sft" "$@"
}

# reward_model FLAG...: step 2.
reward_model() {
  local micro_steps
  micro_steps="$(accumulation "$RM_BATCH_SIZE" "$RM_PER_DEVICE_BATCH_SIZE")"
  train "$MODELS/reward_model" $STEPS/step2_reward_model_finetuning/main.py \
    --data_path "$DATA_PATH" --data_split "$DATA_SPLIT" \
    --model_name_or_path "$MODELS/sft" \
    --per_device_train_batch_size "$RM_PER_DEVICE_BATCH_SIZE" \
    --per_device_eval_batch_size "$RM_PER_DEVICE_BATCH_SIZE" \
    --max_seq_len "$MAX_SEQ_LEN" \
    --learning_rate "$RM_LEARNING_RATE" --weight_decay "$RM_WEIGHT_DECAY" \
    --num_padding_at_beginning 0 --num_train_epochs "$RM_EPOCHS" \
    --gradient_accumulation_steps "$micro_steps" \
    --lr_scheduler_type cosine --warmup_ratio "$RM_WARMUP_RATIO" \
    --seed "$SEED" --gradient_checkpointing --zero_stage 2 --deepspeed \
    --output_dir "$MODELS/reward_model" "$@"
}

# newest_reward_model: the last one that step 2 has saved, or the one that REWARD_MODEL names.
newest_reward_model() {
  if [ -n "${REWARD_MODEL:-}" ]; then
    echo "$REWARD_MODEL"
  else
    last "$MODELS/reward_model" step_
  fi
}

# ppo NAME SCRIPT FLAG...: step 3, to $MODELS/NAME; the environment's NAME comes first, for a second
# run with other settings. With programs there is no reward model.
ppo() {
  local name="${NAME:-$1}" script="$2" micro_steps critic=() memory model
  shift 2
  micro_steps="$(accumulation "$PPO_BATCH_SIZE" "$PPO_PER_DEVICE_BATCH_SIZE")"
  if [[ "$script" != *apps.py ]]; then
    model="$(newest_reward_model)"
    critic=(--critic_model_name_or_path "$model")
  fi
  read -ra memory <<<"$PPO_MEMORY"
  train "$MODELS/$name" "$STEPS/step3_rlhf_finetuning/$script" \
    --data_path "$DATA_PATH" --data_split "$DATA_SPLIT" \
    --actor_model_name_or_path "$MODELS/sft" "${critic[@]}" \
    --num_padding_at_beginning 0 \
    --per_device_generation_batch_size "$PPO_PER_DEVICE_BATCH_SIZE" \
    --per_device_training_batch_size "$PPO_PER_DEVICE_BATCH_SIZE" \
    --generation_batches 1 --ppo_epochs 1 --num_train_epochs 1 \
    --max_answer_seq_len "$MAX_ANSWER_SEQ_LEN" --max_prompt_seq_len "$MAX_PROMPT_SEQ_LEN" \
    --actor_learning_rate "$ACTOR_LEARNING_RATE" \
    --critic_learning_rate "$CRITIC_LEARNING_RATE" \
    --actor_weight_decay 0.1 --critic_weight_decay 0.1 \
    --num_warmup_steps "$PPO_WARMUP_STEPS" --warmup_ratio "$PPO_WARMUP_RATIO" \
    --lr_scheduler_type linear --gradient_accumulation_steps "$micro_steps" \
    --end_of_conversation_token "$END_TOKEN" --actor_dropout 0.0 --deepspeed --seed "$SEED" \
    "${memory[@]}" \
    --kl_ctl "$KL_CTL" --temperature "$TEMPERATURE" --gamma 1.0 --lam 0.95 \
    --termination_condition fixed --ngram "$NGRAM" --value_function equal \
    --output_dir "$MODELS/$name" "$@"
}

# model_of POLICY: the folder that inference takes.
model_of() {
  if [ "$1" = sft ]; then echo "$MODELS/sft"; else last "$MODELS/$1" step-; fi
}

# results_of POLICY: the file of its responses, without .jsonl.
results_of() {
  local model
  model="$(model_of "$1")"
  if [ "$1" = sft ]; then echo "$RESULTS/sft"; else echo "$RESULTS/$1_$(basename "$model")"; fi
}

# respond POLICY SCRIPT FLAG...: step 4, the responses of one policy.
respond() {
  local policy="$1" script="$2" results model plain=()
  shift 2
  model="$(model_of "$policy")"
  results="$(results_of "$policy")"
  [ "$policy" != sft ] || plain=(--no-actor-folder)
  step "$results.recipe" "${LAUNCH[@]}" "$ROOT/inference/$script" \
    --proj-path "$OUT" --dataset "$INFERENCE_DATA" --model "$model" "${plain[@]}" \
    --temperature "$TEMPERATURE" --batch-size "$INFERENCE_BATCH_SIZE" \
    --num-samples "$NUM_SAMPLES" --max-new-tokens "$MAX_ANSWER_SEQ_LEN" \
    --max-prompt-tokens "${INFERENCE_PROMPT_LEN:-$MAX_PROMPT_SEQ_LEN}" "$@"
}

# respond_with_rewards FLAG...: step 4 of all policies, scored by the reward model.
respond_with_rewards() {
  local policy model
  model="$(newest_reward_model)"
  for policy in sft $POLICIES; do
    respond "$policy" inference_with_rewards.py --reward-model "$model" "$@"
  done
}

# judge KIND FLAG...: step 5. Every policy against the fine-tuned model, and against KL.
# A smoke run asks a server on this machine.
judge() {
  local kind="$1" policy results pair a b file ask=(python)
  shift
  [ "$SMOKE" != 1 ] || {
    export PYTHONPATH="$ROOT/tests"
    ask=(python "$ROOT/scripts/smoke.py" judge)
  }
  for policy in sft $POLICIES; do
    results="$(results_of "$policy")"
    step "$results-sampled.recipe" python "$ROOT/evaluation/tools/sample_from_dataset.py" \
      --filepath "$results.jsonl" --savepath "$results-sampled.jsonl" --dataset "$kind" \
      --num_sample "$JUDGED_PAIRS"
  done
  for pair in $(pairs); do
    a="$(results_of "${pair%:*}")"
    b="$(results_of "${pair#*:}")"
    file="$a-v.s.-$(basename "$b")"
    step "$file.recipe" "${ask[@]}" "$ROOT/evaluation/gpt4-eval.py" \
      --model_name_a "$a-sampled.jsonl" --model_name_b "$b-sampled.jsonl" --dataset "$kind" \
      --output "$file.jsonl" "$@"
  done
}

# pairs: what is judged, as A:B.
pairs() {
  local policy
  for policy in $POLICIES; do echo "$policy:sft"; done
  [[ " $POLICIES " == *" kl "* ]] || return 0
  for policy in $POLICIES; do [ "$policy" = kl ] || echo "$policy:kl"; done
}

# run_steps: all scripts of the recipe in order, with the policies that POLICIES names.
run_steps() {
  local script policy folder="$ROOT/scripts/$RECIPE"
  [ -z "${NAME:-}" ] || fail "NAME=$NAME names one policy. Give it to a 3_ppo_*.sh."
  export OUT POLICIES GPUS # CUDA_VISIBLE_DEVICES, which may have named them, is unset by now
  bash "$folder/1_sft.sh"
  if [ -e "$folder/2_reward_model.sh" ]; then bash "$folder/2_reward_model.sh"; fi
  for policy in $POLICIES; do
    script="$folder/3_ppo_$policy.sh"
    if [ -e "$script" ]; then bash "$script"; else F_DIV="$policy" bash "$folder/3_ppo_fdiv.sh"; fi
  done
  bash "$folder/4_inference.sh"
  script="$folder/5_judge.sh"
  [ -e "$script" ] || return 0
  if [ -n "${OPENAI_API_KEY:-}" ] || [ "$SMOKE" = 1 ] || [ "$DRY_RUN" = 1 ]; then
    bash "$script"
  else
    echo "== not judged: OPENAI_API_KEY is not set. Later: bash scripts/$RECIPE/5_judge.sh"
  fi
}
