"""Prompts: the log-likelihood that a language model assigns to the verbalized labels of examples."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from contextlib import suppress
from string import Formatter
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from synbench_lightning.benchmark.lm_adapter import Forward, Logits
from synbench_lightning.benchmark.tokens import Pieces, Tokenizer, check_tokenizer, longest, pieces
from synbench_lightning.checks import check_choice, check_integer, shown
from synbench_lightning.runtime.sharding import has_shards

Kind = Literal["masked", "causal"]
Normalization = Literal["sum", "tokens", "characters"]

ANSWER = "answer"
"""The template field that is filled with the verbalizer."""

PLACE = "\0"
"""Marks the position of the answer while a template is filled."""

Item = dict[str, Any]
"""A tokenized example: the ids of its distinct ``sequences``; for each of its ``choices`` the (sequence, position, id)
of each token; the divisors of the scores (``lengths``); and the index of the correct choice (``label``)."""


class Prompts:
    r"""Labeled texts as a benchmark for a language model: prompts, verbalizers, and the log-likelihood of answers.

    Each example is inserted into a template, with a verbalizer in place of its label: ``"{text} It was {answer}."``
    with ``["terrible", "great"]``. The score :math:`s_c` of answer c is the sum of the log-probabilities of its tokens.
    A masked model predicts all tokens of the answer at once, each of them replaced by a mask. A causal model predicts
    each token from the preceding ones and does not see the text after the answer. The log-likelihood of the correct
    answer y is normalized over the answers of its example: :math:`s_y - \log \sum_c e^{s_c}`, in nats; it is
    :math:`-\log C` for a model that does not distinguish C answers.

    Source: Vivek et al., Benchmark Hill Climbing, section 3.2; Brown et al., Language Models are Few-Shot Learners
    (2020), section 2.4, for answers of several tokens.

    Args:
        tokenizer: from `tokenizers` or `transformers` (a fast one), or a function from a text to its ids. It supplies
            the mask id, padding id and maximum length, if it has them. A function must not add special tokens; it is
            called separately on the text before an answer, the answer with its leading space, and the text after it.
        kind: ``"masked"`` or ``"causal"``.
        forward: maps ids ``(N, T)`` to logits ``(N, T, vocabulary)`` or an object with such ``logits``. ``None`` for
            the module itself; a dotted attribute of it; or a callable ``(module, ids, attention_mask)``. If the
            ``forward`` takes an ``attention_mask``, one is passed: 1 for tokens and 0 for padding.
        mask_id: id of the mask token, for a masked model whose tokenizer does not define it.
        pad_id: id of a padding token that the module ignores by itself. A masked model without ``attention_mask`` and
            ``pad_id`` gets no padding: its batches contain texts of equal length.
        max_tokens: maximum input length in tokens, including special tokens. Longer texts are truncated at the end
            farther from the answer.
        normalization: of scores for the length of the answer: ``"sum"`` for none, ``"tokens"`` to divide by the number
            of tokens, ``"characters"`` to divide by the number of characters.

    Raises:
        ValueError: for an argument outside its range.

    Example:
        >>> words = {word: place for place, word in enumerate("[mask] [pad] a film it was good bad .".split())}
        >>> def ids(text):
        ...     return [words[word] for word in text.replace(".", " .").split()]
        >>> prompts = Prompts(ids, "masked", mask_id=0)
        >>> task = prompts.task([("a film", 1), ("a bad film", 0)], "{text} . it was {answer}.", ["bad", "good"])
        >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))
        >>> batch = next(iter(task))
        >>> prompts.log_likelihood(model, batch).shape, prompts.scores(model, batch).shape
        (torch.Size([2]), torch.Size([2, 2]))

        In training: ``BenchmarkCallback({"films": task}, log_likelihood=prompts.log_likelihood)``.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        kind: Kind,
        *,
        forward: Forward = None,
        mask_id: int | None = None,
        pad_id: int | None = None,
        max_tokens: int | None = None,
        normalization: Normalization = "sum",
    ) -> None:
        check_tokenizer(tokenizer)
        check_choice("kind", kind, get_args(Kind))
        if forward is not None and (
            isinstance(forward, nn.Module) or not (isinstance(forward, str) or callable(forward))
        ):
            raise ValueError(
                "`forward` must be None, a dotted attribute of the module, or a callable (module, ids, attention_mask) "
                f"-> logits, got {shown(forward)}."
            )
        check_choice("normalization", normalization, get_args(Normalization))
        mask_id = getattr(tokenizer, "mask_token_id", None) if mask_id is None else check_integer("mask_id", mask_id, 0)
        if kind == "masked" and mask_id is None:
            raise ValueError(
                "`mask_id`: a masked model needs the id of its mask token, which the `tokenizer` does not define."
            )
        self.tokenizer, self.kind, self.forward, self.normalization = tokenizer, kind, forward, normalization
        self._mask = mask_id
        self._pads = pad_id is not None
        padding = getattr(tokenizer, "pad_token_id", None) if pad_id is None else check_integer("pad_id", pad_id, 0)
        self._padding = 0 if padding is None else padding
        self.max_tokens = longest(tokenizer) if max_tokens is None else check_integer("max_tokens", max_tokens, 2)

    def task(
        self,
        examples: Sequence[Any],
        template: str,
        verbalizers: Sequence[str] | Mapping[Any, str],
        label: str = "label",
    ) -> DataLoader[Any]:
        """Labeled examples as a task of a benchmark.

        Args:
            examples: mappings of fields, or pairs ``(text, label)`` with the fields ``text`` and ``label``.
            template: a text with fields of the examples in braces, as in :meth:`str.format`, and ``{answer}`` once.
            verbalizers: the answer text for each label from 0, as a sequence; or a mapping from labels to answer texts.
            label: the field of the label.

        Returns:
            A DataLoader, for the ``tasks`` of :class:`BenchmarkCallback` and :func:`select_best`.

        Raises:
            ValueError: for a template without ``{answer}``, an example without a field of the template, a label without
                a verbalizer, or verbalizers with identical tokens.
        """
        answers = dict(verbalizers) if isinstance(verbalizers, Mapping) else dict(enumerate(verbalizers))
        if isinstance(verbalizers, str) or len(answers) < 2 or not all(isinstance(a, str) for a in answers.values()):
            raise ValueError(f"`verbalizers` must be a text for each label, at least two, got {shown(verbalizers)}.")
        _check_template(template)
        if not hasattr(examples, "__len__") or not len(examples):
            raise ValueError(f"`examples` must be a sequence of examples, at least one, got {shown(examples)}.")
        places = {key: place for place, key in enumerate(answers)}
        items = []
        for index in range(len(examples)):
            fields = _fields(examples, index, label)
            right = _place(fields.get(label), places)
            if right is None:
                raise ValueError(
                    f"`label`: `examples[{index}]` has {shown(fields.get(label))} in its field {label!r}, which "
                    f"has no verbalizer; the labels with verbalizers are {', '.join(map(repr, answers))}."
                )
            before, after = _filled(template, fields, index)
            if index == 0:
                self._check_different(before, tuple(answers.values()), after)
            items.append(self.item(before, after, tuple(answers.values()), right))
        return self.collated(items)

    def item(self, before: str, after: str, answers: Sequence[str], label: int) -> Item:
        """Tokenize an example with its answers; :meth:`task` calls this with filled templates."""
        sequences: dict[tuple[int, ...], int] = {}
        choices = []
        for answer in answers:
            found = pieces(self.tokenizer, before, answer, after if self.kind == "masked" else "")
            if self.kind == "causal":  # the last token of the answer and the text after it are not input
                found = found._replace(after=(), closing=())
                found = found.cut(None if self.max_tokens is None else self.max_tokens + 1)
            found = found.cut(self.max_tokens) if self.kind == "masked" else found
            ids, first = self._asked(found)
            place = sequences.setdefault(ids, len(sequences))
            choices.append(tuple((place, first + step, token) for step, token in enumerate(found.answer)))
        lengths = {
            "sum": [1] * len(choices),
            "tokens": [len(choice) for choice in choices],
            "characters": [max(len(answer.strip()), 1) for answer in answers],
        }[self.normalization]
        return {"sequences": tuple(sequences), "choices": tuple(choices), "lengths": tuple(lengths), "label": label}

    def _asked(self, found: Pieces) -> tuple[tuple[int, ...], int]:
        """The input ids, and the position of the logits for the first token of the answer."""
        if self.kind == "masked":
            assert self._mask is not None
            return sum(found._replace(answer=(self._mask,) * len(found.answer)), ()), found.start
        if not found.start:
            raise ValueError(
                "`template`: a causal model needs a token before the answer. Put text before '{answer}', or use a "
                "tokenizer that adds a special token at the start."
            )
        return sum(found._replace(answer=found.answer[:-1]), ()), found.start - 1

    def _check_different(self, before: str, answers: Sequence[str], after: str) -> None:
        """Reject answers with identical tokens (unknown words?), which no model can distinguish."""
        seen: dict[tuple[int, ...], str] = {}
        for answer in answers:
            tokens = pieces(self.tokenizer, before, answer, after).answer
            if tokens in seen:
                raise ValueError(
                    f"`verbalizers`: {seen[tokens]!r} and {answer!r} have identical tokens, {list(tokens)}. Are they "
                    "in the vocabulary of the `tokenizer`?"
                )
            seen[tokens] = answer

    def collated(self, items: Sequence[Item]) -> DataLoader[Any]:
        """Examples of :meth:`item` as a task."""
        size = 64  # mutants: memory and time alone, and a benchmark makes batches of its own
        return DataLoader(items, batch_size=size, collate_fn=self.collate)  # type: ignore[arg-type]

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """Collate examples into a batch: padded ids, and the positions of the answer tokens; all integers."""
        sequences = [torch.tensor(ids) for item in items for ids in item["sequences"]]
        tokens, columns, owners, offset, answer = [], [], [], 0, 0
        for row, item in enumerate(items):
            for column, choice in enumerate(item["choices"]):
                tokens += [(offset + place, position, token, answer) for place, position, token in choice]
                owners.append(row)
                columns.append(column)
                answer += 1
            offset += len(item["sequences"])
        sequence, position, token, answers = torch.tensor(tokens).T
        return {
            "ids": nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=self._padding),
            "length": torch.tensor([len(ids) for ids in sequences]),
            "sequence": sequence, "position": position, "token": token, "answer": answers,
            "example": torch.tensor(owners), "column": torch.tensor(columns),
            "divisor": torch.tensor([length for item in items for length in item["lengths"]]),
            "label": torch.tensor([item["label"] for item in items]),
        }  # fmt: skip

    def log_likelihood(self, module: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Log-likelihood ``(N,)`` of the correct answer, normalized over the answers of its example, in nats."""
        return self.scores(module, batch).log_softmax(1).gather(1, batch["label"][:, None])[:, 0]

    def scores(self, module: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Log-probability ``(N, C)`` of each answer in nats, with ``normalization`` applied; -inf for missing answers.

        The prediction is the argmax of a row; it is correct if it equals ``batch["label"]``.
        """
        found = self._token_log_probabilities(module, batch)
        totals = found.new_zeros(len(batch["example"])).index_add_(0, batch["answer"], found) / batch["divisor"]
        table = found.new_full((len(batch["label"]), int(batch["column"].max()) + 1), -torch.inf)
        table[batch["example"], batch["column"]] = totals
        return table

    def _token_log_probabilities(self, module: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Log-probability ``(R,)`` of each token of each answer, in float32."""
        call = Logits(module, self.forward)
        ids, length, sequence = batch["ids"], batch["length"], batch["sequence"]
        found = torch.empty(len(sequence), device=ids.device)
        together = self._pads or self.kind == "causal" or call.takes_mask
        if not together and isinstance(module, nn.Module) and has_shards(module):
            raise ValueError(
                "`pad_id`: sharded weights need the same number of forwards on every process, and therefore batches "
                "of texts of different length. Give the id of a padding token that the model ignores, or a "
                "`forward` that takes an `attention_mask`."
            )
        for size in [ids.shape[1]] if together else length.unique().tolist():
            chosen = length <= size if together else length == size
            rows = chosen[sequence].nonzero()[:, 0]
            place = (chosen.cumsum(0) - 1)[sequence[rows]]
            read = ids[chosen, :size]
            logits = call(read, (torch.arange(size, device=ids.device) < length[chosen, None]).long())
            asked = logits[place, batch["position"][rows]]
            if int(batch["token"].max()) >= asked.shape[1]:
                raise ValueError(
                    f"`verbalizers`: the id {int(batch['token'].max())} is not among the {asked.shape[1]} logits of "
                    "the model. Does the `tokenizer` belong to the model?"
                )
            log_probabilities = asked.float().log_softmax(1)
            found[rows] = log_probabilities.gather(1, batch["token"][rows, None])[:, 0]
        return found


def _check_template(template: Any) -> None:
    if not isinstance(template, str):
        raise ValueError(f"`template` must be a text with fields in braces, got {shown(template)}.")
    try:
        fields = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(
            f"`template`: {template!r} is invalid: {error}. Write a literal brace as '{{{{' or '}}}}'."
        ) from None
    if [field for _, field, _, _ in fields].count(ANSWER) != 1 or (ANSWER, "", None) not in (one[1:] for one in fields):
        raise ValueError(
            f"`template` must contain the field '{{{ANSWER}}}' exactly once, without a format, got {template!r}."
        )


def _fields(examples: Sequence[Any], index: int, label: str) -> dict[str, Any]:
    try:
        example = examples[index]
    except Exception as error:
        raise ValueError(f"`examples[{index}]` cannot be read. {type(error).__name__}: {error}") from error
    if isinstance(example, Mapping):
        return dict(example)
    if isinstance(example, (tuple, list)) and len(example) == 2 and isinstance(example[0], str):
        return {"text": example[0], label: example[1]}
    raise ValueError(f"`examples[{index}]` must be a mapping of fields or a pair (text, label), got {shown(example)}.")


def _filled(template: str, fields: Mapping[str, Any], index: int) -> tuple[str, str]:
    """The text of an example before and after its answer."""
    try:
        before, _, after = template.format(**{**fields, ANSWER: PLACE}).partition(PLACE)
    except (KeyError, IndexError) as error:
        raise ValueError(
            f"`template` has a field {error}, `examples[{index}]` has {', '.join(map(repr, fields))}."
        ) from None
    return before, after


def _place(label: Any, places: Mapping[Any, int]) -> int | None:
    """The index of a label's verbalizer; tensors and NumPy numbers count as integers."""
    with suppress(TypeError):
        label = operator.index(label)
    return places.get(label)
