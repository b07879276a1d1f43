"""A model made at home in a corpus: records are made from it, trained on, and the gain measured."""
