"""Text to token ids: the text policy, and the tokenizer of a checkpoint."""

from distilbatch.tokenization.distilbert import DistilBertTokenizer
from distilbatch.tokenization.documents import DocumentTokenizer
from distilbatch.tokenization.encoding import Encoding
from distilbatch.tokenization.text import read_texts

__all__ = ["DistilBertTokenizer", "DocumentTokenizer", "Encoding", "read_texts"]
