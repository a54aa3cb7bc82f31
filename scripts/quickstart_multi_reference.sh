#!/usr/bin/env bash
# Several references on the embedded arithmetic task: two references that each misread one kind of
# story, GRPO near both of them under the reverse and under the forward KL, then a table and a
# picture. No downloads but the Python packages. A second start skips what has finished;
# FRESH=1 starts over.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
SEED="${SEED:-1}"
OUT="${OUT:-$ROOT/runs/quickstart-multi-reference-seed$SEED}"
source "$ROOT/scripts/jobs.sh"
GRPO_STEPS="${GRPO_STEPS:-50}"
STEP1="$ROOT/applications/DeepSpeed-Chat/training/step1_supervised_finetuning/main.py"
GRPO="$ROOT/applications/Multi-Reference/gsm8k_grpo.py"
EXAMPLE="$OUT/example"

echo "== 1/4 arithmetic stories and an untrained model"
start data python -m dschat.example.arithmetic --output_dir "$EXAMPLE" --seed "$SEED" \
  --train_size 16000 --correct_size $((16 * GRPO_STEPS))
finish

echo "== 2/4 step 1, twice: a reference that takes most subtractions for additions, and the reverse"
for name in adder subtractor; do
  start "$name" python "$STEP1" --data_path "$EXAMPLE/$name" --data_split 1,0,0 \
    --model_name_or_path "$EXAMPLE/model" --max_seq_len 96 --completion_only_loss \
    --per_device_train_batch_size 16 --per_device_eval_batch_size 64 --learning_rate 3e-3 \
    --num_train_epochs 1 --warmup_ratio 0.05 --seed "$SEED" --output_dir "$OUT/$name"
done
finish

grpo=(
  --dataset "$EXAMPLE/correct" --ref_a "$OUT/adder" --ref_b "$OUT/subtractor"
  --per_device_train_batch_size 128 --gradient_accumulation_steps 1 --num_generations 8
  --max_steps "$GRPO_STEPS" --learning_rate 5e-4 --lr_scheduler_type constant_with_warmup
  --warmup_steps 5 --max_prompt_length 40 --max_completion_length 32
  --eval_steps 5 --pass_k 0 --seed "$SEED"
)
echo "== 3/4 GRPO near both references: reverse KL and forward KL"
start rkl python "$GRPO" "${grpo[@]}" --kl_type rkl --alpha 0.5 --gamma 0.3 --model_out "$OUT/rkl"
start fkl python "$GRPO" "${grpo[@]}" --kl_type fkl --beta 0.5 --gamma 0.1 --model_out "$OUT/fkl"
finish

echo "== 4/4 test problems"
python "$ROOT/evaluation/compare.py" --models "RKL=$OUT/rkl" "FKL=$OUT/fkl" \
  --reference_models "adder=$OUT/adder" "subtractor=$OUT/subtractor" \
  --runs "$OUT/rkl" "$OUT/fkl" --dataset "$EXAMPLE/correct" \
  --greedy --pass_k 1 4 --kinds "additions=+" "subtractions=-" --batch_size 100 \
  --max_prompt_tokens 40 --max_new_tokens 32 --dtype fp32 --seed "$SEED" --output "$OUT/comparison"
echo "Everything is in $OUT ($((SECONDS - begin)) s)."
