"""Running generated programs against test cases; `dschat.rewards.code_execution` is the way in."""
