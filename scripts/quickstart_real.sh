#!/usr/bin/env bash
# GRPO on a pretrained model, SmolLM2-135M-Instruct: it learns to write one sentence that contains a
# given word, near its start under a KL penalty; a check of the text is the reward. Then a table,
# samples and a picture on words that training has not seen. A second start resumes training
# from its last checkpoint; FRESH=1 starts over.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
SEED="${SEED:-1}"
OUT="${OUT:-$ROOT/runs/quickstart-real-seed$SEED}"
MODEL="${DSCHAT_SMOLLM2:-$ROOT/models/smollm2}"
GRPO_STEPS="${GRPO_STEPS:-25}"

echo "== 1/3 the model and the prompts"
[ -e "$MODEL/config.json" ] || bash "$ROOT/scripts/get_model.sh" smollm2 "$MODEL"
source "$ROOT/scripts/jobs.sh"
python -m dschat.example.sentences --output_dir "$OUT/prompts" --seed "$SEED" \
  --train_size $((4 * GRPO_STEPS))

echo "== 2/3 GRPO: $GRPO_STEPS steps of 4 prompts with 8 responses each"
python "$ROOT/applications/Multi-Reference/gsm8k_grpo.py" --refs "$MODEL" --dataset "$OUT/prompts" \
  --reward "$ROOT/applications/DeepSpeed-Chat/dschat/example/sentence_check.py:SentenceReward" \
  --per_device_train_batch_size 16 --gradient_accumulation_steps 2 --num_generations 8 \
  --max_steps "$GRPO_STEPS" --learning_rate 2e-5 --lr_scheduler_type constant --gamma 0.05 \
  --max_prompt_length 64 --max_completion_length 28 --seed "$SEED" \
  --checkpoint_steps 10 --resume_from_checkpoint auto --output_dir "$OUT/grpo"

echo "== 3/3 held-out words"
python "$ROOT/evaluation/compare.py" --models "trained=$OUT/grpo" --reference_models "start=$MODEL" \
  --reward "$ROOT/applications/DeepSpeed-Chat/dschat/example/sentence_check.py:SentenceReward" \
  --dataset "$OUT/prompts" --greedy --max_new_tokens 28 --batch_size 50 \
  --runs "$OUT/grpo" --dtype fp32 --seed "$SEED" --output "$OUT/comparison"
echo "Everything is in $OUT ($((SECONDS - begin)) s)."
