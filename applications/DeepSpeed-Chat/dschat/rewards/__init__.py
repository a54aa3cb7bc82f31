"""Where rewards come from. A reward function takes texts and returns one number a response."""

from dschat.rewards.base import RewardFunction, as_reward, check_rewards, score_responses

__all__ = ["RewardFunction", "as_reward", "check_rewards", "score_responses"]
