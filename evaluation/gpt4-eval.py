r"""Let a language model judge which of two models' responses are better.

    OPENAI_API_KEY=... python evaluation/gpt4-eval.py --model_name_a results/A-sampled.jsonl \
        --model_name_b results/B-sampled.jsonl --dataset summarize --output results/A-v.s.-B.jsonl

OPENAI_BASE_URL=http://host:port/v1 names any compatible server.
"""

from dschat.commands.judge import main

if __name__ == "__main__":
    main(__doc__)
