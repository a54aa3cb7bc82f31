"""Where rewards come from. A reward function takes texts and returns one number a response."""

from dschat.rewards.base import RewardFunction, check_rewards, first_raising

__all__ = ["RewardFunction", "check_rewards", "first_raising"]
