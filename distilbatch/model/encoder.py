"""The encoder every head stands on: one forward, on packed tokens, for ``(B, S)`` inputs and ``PackedTokens`` alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import Self, override

from distilbatch.errors import ConfigError
from distilbatch.model import checkpoint, loading, source
from distilbatch.model.attention import ATTENTION
from distilbatch.model.configuration import DistilBertConfig
from distilbatch.model.layers import Embeddings, SelfAttention, Trace, Transformer, draw_weights
from distilbatch.model.outputs import EncoderOutput, ModelOutput
from distilbatch.model.packed import Layout, PackedTokens, Rows
from distilbatch.model.padded import Encoded, PaddedInputs, check_length, lay_out
from distilbatch.model.resize import resize_embedding

Output = TypeVar("Output", bound=ModelOutput)


class PreTrainedModel(nn.Module):
    """What every model has: a config, fresh or loaded weights, and a choice of attention for ``(B, S)`` inputs."""

    base_prefix: ClassVar[str] = "distilbert."
    """Where the encoder is in the state dict; empty for the encoder itself."""

    origin: loading.Origin | None = None
    """What ``from_pretrained`` loaded; None for a model made in memory."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def encoder(self) -> DistilBertModel:
        """The encoder, whichever head is on it."""
        encoder = self if isinstance(self, DistilBertModel) else self.get_submodule("distilbert")
        if not isinstance(encoder, DistilBertModel):
            raise TypeError(f"distilbert: expected a DistilBertModel, found a {type(encoder).__name__}")
        return encoder

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.embeddings.LayerNorm.weight.device

    @classmethod
    def from_pretrained(  # noqa: PLR0913 - the reference's keywords
        cls,
        name: Path | str,
        *,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        attn_implementation: str = "sdpa",
        new_head: bool = False,
        allow_pickle: bool = False,
        local_files_only: bool = False,
    ) -> Self:
        """Load a checkpoint, in evaluation mode; ``origin`` says what came from where, and what is new.

        Args:
            name: A folder with ``config.json`` and weights, in one file or in shards, or a hub id; see ``source``.
            revision: Branch, tag or commit of a hub id; ``main`` without it.
            dtype: Of the weights; float32 without it, whatever the files hold.
            device: Where the weights go; the CPU without it.
            attn_implementation: How ``(B, S)`` inputs run: a key of ``ATTENTION``.
            new_head: Accept a checkpoint without this head's weights and initialise them; leave other heads out.
            allow_pickle: Read ``pytorch_model.bin``, as tensors only, where there are no safetensors.
            local_files_only: Take a hub id from the cache and do not ask the hub.

        Raises:
            CheckpointError: It cannot be had, or is not a complete, finite DistilBERT checkpoint with this head.
            ConfigError: ``attn_implementation`` is unknown, or a folder has no revisions.
        """
        found = source.locate(name, revision=revision, allow_pickle=allow_pickle, local_files_only=local_files_only)
        model, origin = loading.load(
            cls,
            found,
            prefix=cls.base_prefix,
            dtype=dtype or torch.float32,
            device=device or "cpu",
            new_head=new_head,
            allow_pickle=allow_pickle,
        )
        model.origin = origin
        model.tie_weights()
        model.encoder.set_attention(attn_implementation)
        return model.eval()

    def save_pretrained(self, folder: Path | str) -> None:
        """Write ``config.json`` and ``model.safetensors``, which the reference reads back."""
        config = replace(self.saved_config(), architectures=(type(self).__name__,))
        # One tensor under two names, which a file cannot hold.
        shared = {"vocab_projector.weight"} if config.tie_word_embeddings else set()
        checkpoint.save(Path(folder), config, {k: v for k, v in self.state_dict().items() if k not in shared})

    def saved_config(self) -> DistilBertConfig:
        """The config as it is to be written: what the weights have become wins over what was configured."""
        return self.config

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the word embedding."""
        return self.encoder.embeddings.word_embeddings

    def set_input_embeddings(self, embedding: nn.Embedding) -> None:
        """Replace the word embedding, and the vocabulary size with it."""
        self._set_config(replace(self.config, vocab_size=embedding.num_embeddings))
        self.encoder.embeddings.word_embeddings = embedding
        self.tie_weights()

    def resize_token_embeddings(self, vocab_size: int) -> nn.Embedding:
        """Keep the first ``vocab_size`` words, or draw the ones that are missing; return the embedding.

        Raises:
            ConfigError: The size is out of bounds, or the padding word would be lost.
        """
        replace(self.config, vocab_size=vocab_size)  # checks the size before anything of that size is made
        old = self.get_input_embeddings()
        self.set_input_embeddings(resize_embedding(old, vocab_size, std=self.config.initializer_range))
        return self.get_input_embeddings()

    def get_position_embeddings(self) -> nn.Embedding:
        """Return the position embedding."""
        return self.encoder.embeddings.position_embeddings

    def resize_position_embeddings(self, max_position_embeddings: int) -> None:
        """Keep the first positions, or add ones: drawn if positions are learned, computed if they are sinusoidal.

        Raises:
            ConfigError: The number is out of bounds.
        """
        self._set_config(replace(self.config, max_position_embeddings=max_position_embeddings))
        self.encoder.embeddings.resize_positions(self.config)

    def _set_config(self, config: DistilBertConfig) -> None:
        self.config = self.encoder.config = config

    def reply(self, output: Output, return_dict: bool | None) -> Output | tuple[Tensor, ...]:
        """Return ``output``, or the tuple of what is set in it; the config decides where ``return_dict`` is None."""
        as_output = self.config.return_dict if return_dict is None else return_dict
        return output if as_output else output.to_tuple()

    def tie_weights(self) -> None:
        """Share the weights that the config says are one; nothing to do without a masked-LM decoder."""

    def init_weights(self) -> None:
        """Draw fresh weights outside the encoder, which draws its own."""
        drawn = set() if self.encoder is self else set(self.encoder.modules())
        draw_weights((module for module in self.modules() if module not in drawn), std=self.config.initializer_range)
        self.tie_weights()


class DistilBertModel(PreTrainedModel):
    """The encoder without a head."""

    base_prefix = ""

    def __init__(self, config: DistilBertConfig, *, attn_implementation: str = "sdpa") -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.transformer = Transformer(config)
        self.set_attention(attn_implementation)
        self.init_weights()
        self.embeddings.fix_positions(config)

    def set_attention(self, name: str) -> None:
        """Choose how ``(B, S)`` inputs run; see ``ATTENTION``.

        Raises:
            ConfigError: There is none of that name.
        """
        if name not in ATTENTION:
            raise ConfigError("attn_implementation", expected=f"one of {', '.join(ATTENTION)}", found=repr(name))
        self.attn_implementation = name
        for module in self.transformer.modules():
            if isinstance(module, SelfAttention):
                module.attend = ATTENTION[name]

    def encode(
        self, words: Tensor, position_ids: Tensor, layout: Layout, *, rows: Rows = None, trace: Trace | None = None
    ) -> Tensor:
        """Run packed tokens through embeddings and blocks: the one forward of this library.

        Args:
            words: ``(T,)`` word ids or ``(T, H)`` word vectors.
            position_ids: ``(T,)``.
            layout: The N documents.
            rows: Tokens whose last-layer output is needed.
            trace: Collects hidden states and attention weights.

        Returns:
            ``(Q, H)``, Q = T without ``rows``.
        """
        out: Tensor = self.transformer(self.embeddings(words, position_ids), layout, rows=rows, trace=trace)
        return out

    def forward_packed(self, packed: PackedTokens, rows: Rows = None) -> Tensor:
        """Map packed tokens to last-layer states ``(T, H)``, or ``(Q, H)`` of the rows asked for.

        Raises:
            ConfigError: A document is longer than ``max_position_embeddings``.
        """
        check_length(packed.max_length, limit=self.config.max_position_embeddings)
        return self.encode(packed.input_ids, packed.position_ids, packed.layout, rows=rows)

    @override
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> EncoderOutput | tuple[Tensor, ...]:
        """Encode padded documents.

        Args:
            input_ids: ``(B, S)`` int; this or ``inputs_embeds``.
            attention_mask: ``(B, S)``, nonzero for tokens to attend to; all without it. Holes are fine.
            inputs_embeds: ``(B, S, H)`` word vectors.
            position_ids: ``(B, S)`` or ``(1, S)``; 0 to S-1 without it, whatever is masked.
            token_type_ids: Not looked at, as in the reference: DistilBERT has none, but tokenizers of BERT give them.
            output_hidden_states: Also return every block's output.
            output_attentions: Also return the attention weights; with ``eager`` attention only, and without the
                argument only there, whatever the config says.
            return_dict: False for a tuple.

        Returns:
            The last hidden state ``(B, S, H)`` and what else was asked for. With ``packed`` attention, masked
            places are zero.

        Raises:
            ConfigError: The inputs do not fit together or the model.
        """
        encoded = self.encode_padded(
            PaddedInputs(input_ids, attention_mask, inputs_embeds, position_ids),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        last = encoded.grid.restore(encoded.states)
        return self.reply(EncoderOutput(last, encoded.hidden_states, encoded.attentions), return_dict)

    def encode_padded(
        self,
        inputs: PaddedInputs,
        *,
        first_only: bool = False,
        needed: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> Encoded:
        """Lay ``(B, S)`` inputs end to end, encode them, and keep the way back.

        Args:
            inputs: The padded documents.
            first_only: Only the first token's state of each document is needed.
            needed: ``(B, S)`` bool, places whose state is used although they may be masked.
            output_hidden_states: Collect every block's output; the config decides where None.
            output_attentions: Collect the attention weights; the config decides where None, with ``eager`` attention.
        """
        want_hidden = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        eager = self.attn_implementation == "eager"
        want_weights = (self.config.output_attentions and eager) if output_attentions is None else output_attentions
        if want_weights and not eager:
            raise ConfigError(
                "output_attentions",
                expected="attn_implementation eager",
                found=self.attn_implementation,
                remedy="load the model with attn_implementation='eager'",
            )
        if inputs.position_ids is None:
            check_length(inputs.shape[1], limit=self.config.max_position_embeddings)
        if first_only:
            needed = torch.zeros(inputs.shape, dtype=torch.bool, device=inputs.words.device)
            needed[:, 0] = True
        grid, layout = lay_out(inputs, unpad=self.attn_implementation == "packed", needed=needed)
        trace = Trace() if want_hidden or want_weights else None
        rows: Rows = "first" if first_only and trace is None else None
        words, positions = grid.flatten(inputs.words), grid.flatten(inputs.positions())
        states = self.encode(words, positions, layout, rows=rows, trace=trace)
        if first_only and trace is not None:
            states = states[layout.select("first", device=states.device)[0]]
        hidden = tuple(map(grid.restore, trace.hidden_states)) if trace is not None and want_hidden else None
        weights = tuple(trace.attentions) if trace is not None and want_weights else None
        return Encoded(states, grid, hidden, weights)
