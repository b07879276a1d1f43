"""The routes that clients of OpenAI's API call; `model` is the name of an index."""
