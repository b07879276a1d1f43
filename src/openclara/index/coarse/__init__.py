"""The coarse stage: short codes of all latents, which nominate chunks for the exact score to judge.

All of it is derived from the latents: losing it costs time, never an answer.
"""
