"""The models a user loads: ``DistilBertModel`` (encoder.py, on layers.py) and the five heads on it, with their losses.

Every head has ``forward`` for ``(B, S)`` inputs, with the reference's arguments and outputs, and ``forward_packed``.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it
from typing_extensions import override

from distilbatch.errors import ConfigError
from distilbatch.model.activations import make_activation
from distilbatch.model.configuration import DistilBertConfig
from distilbatch.model.encoder import DistilBertModel, PreTrainedModel
from distilbatch.model.layers import LAYER_NORM_EPS
from distilbatch.model.outputs import LogitsOutput, SpanOutput
from distilbatch.model.packed import PackedTokens, Rows
from distilbatch.model.padded import PaddedInputs
from distilbatch.model.resize import resize_decoder

__all__ = [
    "DistilBertForMaskedLM",
    "DistilBertForMultipleChoice",
    "DistilBertForQuestionAnswering",
    "DistilBertForSequenceClassification",
    "DistilBertForTokenClassification",
    "DistilBertModel",
    "PreTrainedModel",
    "sequence_loss",
]

IGNORED_LABEL = -100


class DistilBertForSequenceClassification(PreTrainedModel):
    """The encoder with a classifier or regressor on the first token of each document."""

    def __init__(self, config: DistilBertConfig, *, attn_implementation: str = "sdpa") -> None:
        super().__init__(config)
        self.distilbert = DistilBertModel(config, attn_implementation=attn_implementation)
        self.pre_classifier = nn.Linear(config.dim, config.dim)
        self.classifier = nn.Linear(config.dim, config.num_labels)
        self.dropout = nn.Dropout(config.seq_classif_dropout)
        self.init_weights()

    def head(self, first: Tensor) -> Tensor:
        """Map the states of the first tokens ``(N, H)`` to logits ``(N, C)``."""
        logits: Tensor = self.classifier(self.dropout(F.relu(self.pre_classifier(first))))
        return logits

    def forward_packed(self, packed: PackedTokens) -> Tensor:
        """Map N packed documents to logits ``(N, C)``; the last layer runs for the first tokens only."""
        return self.head(self.distilbert.forward_packed(packed, "first"))

    @override
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> LogitsOutput | tuple[Tensor, ...]:
        """Classify padded documents; the arguments are those of ``DistilBertModel.forward`` and ``labels``.

        These are ``(B,)`` class ids, ``(B,)`` or ``(B, C)`` targets of a regression, or ``(B, C)`` floats for several
        labels at once: see ``sequence_loss``. What the first ones are decides about ``config.problem_type`` where that
        is None, as in the reference.
        """
        encoded = self.distilbert.encode_padded(
            PaddedInputs(input_ids, attention_mask, inputs_embeds, position_ids),
            first_only=True,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        logits = self.head(encoded.states)
        loss = None if labels is None else self._loss(logits, labels)
        return self.reply(LogitsOutput(loss, logits, encoded.hidden_states, encoded.attentions), return_dict)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.config.problem_type is None:  # noted, because it says what makes scores of the logits
            self._set_config(replace(self.config, problem_type=_problem_type(logits, labels)))
        return sequence_loss(logits, labels, problem_type=self.config.problem_type)


class DistilBertForMultipleChoice(PreTrainedModel):
    """The encoder with a score on the first token of each of several choices."""

    def __init__(self, config: DistilBertConfig, *, attn_implementation: str = "sdpa") -> None:
        super().__init__(config)
        self.distilbert = DistilBertModel(config, attn_implementation=attn_implementation)
        self.pre_classifier = nn.Linear(config.dim, config.dim)
        self.classifier = nn.Linear(config.dim, 1)
        self.dropout = nn.Dropout(config.seq_classif_dropout)
        self.init_weights()

    def head(self, first: Tensor, num_choices: int) -> Tensor:
        """Map the states of the first tokens ``(N * choices, H)`` to scores ``(N, choices)``."""
        scores: Tensor = self.classifier(self.dropout(F.relu(self.pre_classifier(first))))
        return scores.view(-1, num_choices)

    def forward_packed(self, packed: PackedTokens, *, num_choices: int) -> Tensor:
        """Map packed documents, the choices of one question in a row, to scores ``(N, choices)``."""
        return self.head(self.distilbert.forward_packed(packed, "first"), num_choices)

    @override
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> LogitsOutput | tuple[Tensor, ...]:
        """Score padded choices: as ``DistilBertModel.forward``, with ``(B, choices, S)`` inputs.

        ``labels`` are the ``(B,)`` right choices. Hidden states and attentions are of ``(B * choices, S)`` documents.
        """
        given = inputs_embeds if input_ids is None else input_ids
        num_choices = 1 if given is None else given.shape[1]
        encoded = self.distilbert.encode_padded(
            PaddedInputs(
                _merge_choices(input_ids, dims=3),
                _merge_choices(attention_mask, dims=3),
                _merge_choices(inputs_embeds, dims=4),
                _merge_choices(position_ids, dims=3),
            ),
            first_only=True,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        logits = self.head(encoded.states, num_choices)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return self.reply(LogitsOutput(loss, logits, encoded.hidden_states, encoded.attentions), return_dict)


class DistilBertForTokenClassification(PreTrainedModel):
    """The encoder with a classifier on every token."""

    def __init__(self, config: DistilBertConfig, *, attn_implementation: str = "sdpa") -> None:
        super().__init__(config)
        self.distilbert = DistilBertModel(config, attn_implementation=attn_implementation)
        self.classifier = nn.Linear(config.dim, config.num_labels)
        self.dropout = nn.Dropout(config.dropout)
        self.init_weights()

    def head(self, states: Tensor) -> Tensor:
        """Map token states ``(Q, H)`` to logits ``(Q, C)``."""
        logits: Tensor = self.classifier(self.dropout(states))
        return logits

    def forward_packed(self, packed: PackedTokens, rows: Rows = None) -> Tensor:
        """Map packed tokens to logits ``(T, C)``, or ``(Q, C)`` of the rows asked for."""
        return self.head(self.distilbert.forward_packed(packed, rows))

    @override
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> LogitsOutput | tuple[Tensor, ...]:
        """Classify the tokens of padded documents; as ``DistilBertModel.forward``.

        ``labels`` are ``(B, S)`` class ids, -100 where there is nothing to learn.
        """
        encoded = self.distilbert.encode_padded(
            PaddedInputs(input_ids, attention_mask, inputs_embeds, position_ids),
            needed=None if labels is None else labels != IGNORED_LABEL,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        logits = encoded.grid.restore(self.head(encoded.states))
        loss = None if labels is None else _token_loss(logits, labels)
        return self.reply(LogitsOutput(loss, logits, encoded.hidden_states, encoded.attentions), return_dict)


class DistilBertForMaskedLM(PreTrainedModel):
    """The encoder with a guess of the word at every token."""

    def __init__(self, config: DistilBertConfig, *, attn_implementation: str = "sdpa") -> None:
        super().__init__(config)
        self.distilbert = DistilBertModel(config, attn_implementation=attn_implementation)
        self.activation = make_activation(config)
        self.vocab_transform = nn.Linear(config.dim, config.dim)
        self.vocab_layer_norm = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)
        self.vocab_projector = nn.Linear(config.dim, config.vocab_size)
        self.init_weights()

    @override
    def tie_weights(self) -> None:
        weight, std = self.get_input_embeddings().weight, self.config.initializer_range
        if self.vocab_projector.out_features != len(weight):  # the vocabulary was resized
            self.vocab_projector = resize_decoder(self.vocab_projector, len(weight), std=std)
        if self.config.tie_word_embeddings:
            self.vocab_projector.weight = weight

    def get_output_embeddings(self) -> nn.Linear:
        """Return the decoder."""
        return self.vocab_projector

    def set_output_embeddings(self, decoder: nn.Linear) -> None:
        """Replace the decoder; its weight is not shared with the word embedding until ``tie_weights``."""
        self.vocab_projector = decoder

    @override
    def saved_config(self) -> DistilBertConfig:
        shared = self.vocab_projector.weight is self.get_input_embeddings().weight
        return replace(self.config, tie_word_embeddings=shared)

    def head(self, states: Tensor) -> Tensor:
        """Map token states ``(Q, H)`` to logits ``(Q, vocab_size)``."""
        logits: Tensor = self.vocab_projector(self.vocab_layer_norm(self.activation(self.vocab_transform(states))))
        return logits

    def forward_packed(self, packed: PackedTokens, rows: Rows = None) -> Tensor:
        """Map packed tokens to logits ``(T, vocab_size)``, or of the rows asked for: of the ``[MASK]`` tokens, say."""
        return self.head(self.distilbert.forward_packed(packed, rows))

    @override
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> LogitsOutput | tuple[Tensor, ...]:
        """Guess the words of padded documents; as ``DistilBertModel.forward``.

        ``labels`` are ``(B, S)`` word ids, -100 where there is nothing to guess.
        """
        encoded = self.distilbert.encode_padded(
            PaddedInputs(input_ids, attention_mask, inputs_embeds, position_ids),
            needed=None if labels is None else labels != IGNORED_LABEL,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        logits = encoded.grid.restore(self.head(encoded.states))
        loss = None if labels is None else _token_loss(logits, labels)
        return self.reply(LogitsOutput(loss, logits, encoded.hidden_states, encoded.attentions), return_dict)


class DistilBertForQuestionAnswering(PreTrainedModel):
    """The encoder with a start and an end score on every token."""

    def __init__(self, config: DistilBertConfig, *, attn_implementation: str = "sdpa") -> None:
        super().__init__(config)
        if config.num_labels != 2:
            raise ConfigError(
                "num_labels of question answering", expected="2, start and end", found=str(config.num_labels)
            )
        self.distilbert = DistilBertModel(config, attn_implementation=attn_implementation)
        self.qa_outputs = nn.Linear(config.dim, config.num_labels)
        self.dropout = nn.Dropout(config.qa_dropout)
        self.init_weights()

    def head(self, states: Tensor) -> Tensor:
        """Map token states ``(Q, H)`` to start and end scores ``(Q, 2)``."""
        scores: Tensor = self.qa_outputs(self.dropout(states))
        return scores

    def forward_packed(self, packed: PackedTokens, rows: Rows = None) -> Tensor:
        """Map packed tokens to start and end scores ``(T, 2)``, or ``(Q, 2)`` of the rows asked for."""
        return self.head(self.distilbert.forward_packed(packed, rows))

    @override
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> SpanOutput | tuple[Tensor, ...]:
        """Score the spans of padded documents; as ``DistilBertModel.forward``.

        ``start_positions`` and ``end_positions`` are ``(B,)`` token places; those outside ``[0, S)`` are brought
        to the nearer end, and S itself is left out of the loss.
        """
        inputs = PaddedInputs(input_ids, attention_mask, inputs_embeds, position_ids)
        with_loss = start_positions is not None and end_positions is not None
        encoded = self.distilbert.encode_padded(
            inputs,
            # The loss is a softmax over all S places, masked ones too.
            needed=torch.ones(inputs.shape, dtype=torch.bool, device=inputs.words.device) if with_loss else None,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        start, end = encoded.grid.restore(self.head(encoded.states)).unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (_place_loss(start, start_positions) + _place_loss(end, end_positions)) / 2
        return self.reply(SpanOutput(loss, start, end, encoded.hidden_states, encoded.attentions), return_dict)


def sequence_loss(logits: Tensor, labels: Tensor, *, problem_type: str | None) -> Tensor:
    """Return the mean loss of ``(B, C)`` logits.

    Args:
        logits: ``(B, C)``.
        labels: As the problem type wants them.
        problem_type: ``regression`` (mean squared error), ``single_label_classification`` (cross entropy, -100
            ignored) or ``multi_label_classification`` (binary cross entropy). None infers it: one class is a
            regression, integer labels are a single-label and float labels a multi-label classification.
    """
    problem_type = problem_type or _problem_type(logits, labels)
    if problem_type == "regression":
        if logits.shape[1] == 1:
            return F.mse_loss(logits.squeeze(), labels.squeeze())
        return F.mse_loss(logits, labels)
    if problem_type == "single_label_classification":
        return F.cross_entropy(logits, labels.flatten())
    return F.binary_cross_entropy_with_logits(logits, labels)


def _problem_type(logits: Tensor, labels: Tensor) -> str:
    if logits.shape[1] == 1:
        return "regression"
    return f"{'multi' if labels.is_floating_point() else 'single'}_label_classification"


def _token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    # (B, S, C) and (B, S) -> mean over the labelled tokens
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED_LABEL)


def _place_loss(scores: Tensor, places: Tensor) -> Tensor:
    # (B, S) and (B,) or (B, 1) -> mean over the documents whose place is not behind the end
    length = scores.shape[1]
    return F.cross_entropy(scores, places.flatten().clamp(0, length), ignore_index=length)


def _merge_choices(x: Tensor | None, *, dims: int) -> Tensor | None:
    # (B, choices, S, ...) -> (B * choices, S, ...); what has no dimension for choices holds for all of them
    return x.flatten(0, 1) if x is not None and x.dim() == dims else x
