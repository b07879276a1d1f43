"""The coarse stage: graphs of short codes that nominate chunks for the exact score to judge.

All of it is derived from the latents: losing it costs time, never an answer.
"""
