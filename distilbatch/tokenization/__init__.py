"""Text to token ids: the text policy, and the tokenizer of a checkpoint."""

from distilbatch.tokenization.text import read_texts
from distilbatch.tokenization.tokenizer import DocumentTokenizer

__all__ = ["DocumentTokenizer", "read_texts"]
