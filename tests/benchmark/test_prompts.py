"""Prompts against a model whose probabilities are known, and against loops without batches or padding."""

import math
import re
from itertools import pairwise

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from synbench_lightning import BenchmarkCallback, Prompts, select_best
from tests.callbacks.runs import trainer
from tests.integration.test_resume import SaveBefore

WORDS = re.findall(r"\S+", "[mask] [pad] a film so slow fine it was good bad very dull indeed .")
IDS = {word: place for place, word in enumerate(WORDS)}
REVIEWS = [("a fine film", 1), ("so slow", 0), ("a slow slow film so dull", 0), ("fine", 1), ("a film", 1)]
TEMPLATE = "{text} . it was {answer} ."
LONG = ["very dull indeed", "good"]


def ids(text):
    return [IDS[word] for word in text.split()]


class Bigrams(LightningModule):
    """A causal model: the probability of a token depends on the one before, by a table."""

    def __init__(self, seed=0):
        super().__init__()
        self.table = nn.Parameter(torch.randn(len(IDS), len(IDS), generator=torch.Generator().manual_seed(seed)))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table[tokens]

    def training_step(self, batch, batch_idx):
        (tokens,) = batch
        assert not tokens.is_floating_point()
        return nn.functional.cross_entropy(self(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.5)

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.arange(len(IDS)).repeat(160, 1)), batch_size=8)


class Bidirectional(nn.Module):
    """A masked model in which every token sees all others, and padding too unless it is told."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(len(IDS), 8)
        self.place = nn.Parameter(torch.randn(20, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.head = nn.Linear(8, len(IDS))

    def logits(self, tokens, padding=None):
        embedded = self.embedding(tokens) + self.place[: tokens.shape[1]]
        return self.head(self.layer(embedded, src_key_padding_mask=padding))

    def forward(self, tokens):
        return self.logits(tokens)


class Told(Bidirectional):
    """The same, as in transformers: an attention mask, an object with logits."""

    def forward(self, input_ids=None, attention_mask=None):
        return {"logits": self.logits(input_ids, attention_mask == 0)}


def one_batch(task):
    return task.collate_fn([task.dataset[index] for index in range(len(task.dataset))])


def chain_rule(model, text, answer):
    """Sum of log-probabilities of the words of an answer, each after the one before."""
    log_probabilities, words = model.table.detach().log_softmax(1), [*f"{text} . it was".split(), *answer.split()]
    last = len(words) - len(answer.split())
    pairs = list(pairwise(words))[last - 1 :]
    return sum(float(log_probabilities[IDS[before], IDS[after]]) for before, after in pairs)


def masked_one_by_one(model, text, answer, template=TEMPLATE):
    """The same for a masked model: one text, one mask for each word, nothing padded."""
    before, after = template.split("{answer}")
    words = answer.split()
    first = len(ids(before.format(text=text)))
    tokens = [*ids(before.format(text=text)), *[0] * len(words), *ids(after.format(text=text))]
    log_probabilities = model.logits(torch.tensor([tokens]))[0].detach().log_softmax(1)
    return sum(float(log_probabilities[first + place, IDS[word]]) for place, word in enumerate(words))


@pytest.mark.parametrize("answers", [["bad", "good"], LONG])
def test_a_causal_model_gives_the_probabilities_of_the_chain_rule(answers):
    model, prompts = Bigrams(), Prompts(ids, "causal")
    batch = one_batch(prompts.task(REVIEWS, TEMPLATE, answers))
    scores = prompts.scores(model, batch)
    expected = torch.tensor([[chain_rule(model, text, answer) for answer in answers] for text, _ in REVIEWS])
    torch.testing.assert_close(scores, expected)
    right = expected.log_softmax(1).gather(1, torch.tensor([label for _, label in REVIEWS])[:, None])[:, 0]
    torch.testing.assert_close(prompts.log_likelihood(model, batch), right)


@pytest.mark.parametrize("template", [TEMPLATE, "it was {answer} . {text}"])
@pytest.mark.parametrize("answers", [["bad", "good"], LONG])
@pytest.mark.parametrize("kind", [Bidirectional, Told])
def test_a_masked_model_gives_what_it_gives_for_one_text_without_padding(kind, answers, template):
    model, prompts = kind().eval(), Prompts(ids, "masked", mask_id=0)
    scores = prompts.scores(model, one_batch(prompts.task(REVIEWS, template, answers)))
    expected = [[masked_one_by_one(model, text, answer, template) for answer in answers] for text, _ in REVIEWS]
    torch.testing.assert_close(scores, torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_a_module_that_leaves_out_its_own_padding_is_given_it():
    model, shapes = Bidirectional().eval(), []

    def forward(module, tokens, attention_mask):
        shapes.append(tokens.shape)
        assert torch.equal(tokens == 1, attention_mask == 0)
        return module.logits(tokens, tokens == 1)

    prompts = Prompts(ids, "masked", mask_id=0, pad_id=1, forward=forward)
    scores = prompts.scores(model, one_batch(prompts.task(REVIEWS, TEMPLATE, LONG)))
    expected = [[masked_one_by_one(model, text, answer) for answer in LONG] for text, _ in REVIEWS]
    torch.testing.assert_close(scores, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    assert len(shapes) == 1


def test_answers_of_one_token_share_one_forward_of_one_text():
    for kind in ("masked", "causal"):
        task = Prompts(ids, kind, mask_id=0).task(REVIEWS, TEMPLATE, ["bad", "good"])
        assert [len(item["sequences"]) for item in task.dataset] == [1] * len(REVIEWS)


def test_scores_are_divided_by_tokens_or_characters_where_asked_for():
    model = Bigrams()
    found = {}
    for normalization in ("sum", "tokens", "characters"):
        prompts = Prompts(ids, "causal", normalization=normalization)
        found[normalization] = prompts.scores(model, one_batch(prompts.task(REVIEWS, TEMPLATE, LONG)))
    torch.testing.assert_close(found["tokens"], found["sum"] / torch.tensor([3, 1]))
    torch.testing.assert_close(found["characters"], found["sum"] / torch.tensor([len(answer) for answer in LONG]))


def test_a_long_text_loses_its_far_end_and_keeps_the_answer():
    masked = Prompts(ids, "masked", mask_id=0, max_tokens=6)
    last = masked.task(REVIEWS, TEMPLATE, ["bad", "good"]).dataset[2]["sequences"][0]
    assert last == (*ids("dull . it was"), 0, *ids("."))
    first = masked.task(REVIEWS, "it was {answer} . {text}", ["bad", "good"]).dataset[2]["sequences"][0]
    assert first == (*ids("it was"), 0, *ids(". a slow"))
    causal = Prompts(ids, "causal", max_tokens=3).task(REVIEWS, TEMPLATE, LONG).dataset[0]
    assert causal["sequences"] == (tuple(ids("was very dull")), tuple(ids(". it was")))


def test_examples_are_mappings_too_and_labels_can_have_names():
    named = [{"text": text, "verdict": ["neg", "pos"][label]} for text, label in REVIEWS]
    prompts = Prompts(ids, "causal")
    found = prompts.task(named, TEMPLATE, {"neg": "bad", "pos": "good"}, label="verdict")
    assert found.dataset == prompts.task(REVIEWS, TEMPLATE, ["bad", "good"]).dataset


def test_a_batch_holds_integers_alone():
    batch = one_batch(Prompts(ids, "causal").task(REVIEWS, TEMPLATE, LONG))
    assert {value.dtype for value in batch.values()} == {torch.long}


def test_a_tokenizer_of_tokenizers_sees_the_whole_text_and_tells_where_the_answer_is():
    tokenizers = pytest.importorskip("tokenizers")
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator(["a fine film . it was very good ."] * 9, vocab_size=300, show_progress=False)
    bpe = bpe._tokenizer
    whole = bpe.encode("a fine film . it was very good .").ids
    (item,) = Prompts(bpe, "causal").task([("a fine film", 0)], TEMPLATE, ["very good", "good"]).dataset
    answer = [token for _, _, token in item["choices"][0]]
    assert bpe.decode(answer) == " very good"
    assert item["sequences"][0] == tuple(whole[: whole.index(answer[0]) + len(answer) - 1])
    bpe.add_special_tokens(["[CLS]", "[SEP]", "[MASK]"])
    cls, sep, mask = (bpe.token_to_id(name) for name in ("[CLS]", "[SEP]", "[MASK]"))
    bpe.post_processor = tokenizers.processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls))
    (item,) = Prompts(bpe, "masked", mask_id=mask).task([("a fine film", 0)], TEMPLATE, ["very good", "good"]).dataset
    start = whole.index(answer[0])
    end = start + len(answer)
    assert item["sequences"][0] == (cls, *whole[:start], *[mask] * len(answer), *whole[end:], sep)


def callback(prompts, **arguments):
    tasks = {
        "last": prompts.task(REVIEWS * 8, TEMPLATE, ["bad", "good"]),
        "long": prompts.task(REVIEWS * 8, "a film {answer}", LONG),
    }
    return BenchmarkCallback(
        tasks, log_likelihood=prompts.log_likelihood, warmup=2, budget=0.2, every_n_train_steps=2, **arguments
    )


def test_it_is_a_benchmark_in_training_on_token_ids_and_goes_on_after_a_resume():
    whole, resumed = callback(Prompts(ids, "causal")), callback(Prompts(ids, "causal"))
    trainer(whole, SaveBefore(5), max_steps=8).fit(model := Bigrams())
    last = [chain_rule(Bigrams(), text, "good") - chain_rule(Bigrams(), text, "bad") for text, _ in REVIEWS]
    odds = [odd if label else -odd for odd, (_, label) in zip(last, REVIEWS, strict=True)]
    expected = -sum(math.log1p(math.exp(-odd)) for odd in odds) / len(odds)
    assert whole.history[0].task_values[0] == pytest.approx(expected, abs=1e-5)
    trainer(plain := callback(Prompts(ids, "causal")), max_steps=8).fit(other := Bigrams())
    assert torch.equal(model.table, other.table)
    assert len(plain.history) == 5
    trainer(resumed, max_steps=8).fit(Bigrams(), ckpt_path="saved.ckpt")
    assert [result.value for result in resumed.history] == [result.value for result in whole.history]


def test_the_best_of_several_language_models_is_found():
    good = Bigrams()
    with torch.no_grad():
        good.table[IDS["was"], IDS["good"]] += 5.0
    prompts = Prompts(ids, "causal")
    task = prompts.task([(text, 1) for text, _ in REVIEWS] * 8, TEMPLATE, ["bad", "good"])
    models = {"first": Bigrams(), "good": good, "third": Bigrams()}
    assert select_best(models, {"films": task}, 0.5, log_likelihood=prompts.log_likelihood).best == "good"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokenizer": 3}, "`tokenizer` must be from `tokenizers` or `transformers`, or a function"),
        ({"kind": "seq2seq"}, "`kind` must be 'masked' or 'causal', got 'seq2seq'"),
        ({"kind": "masked"}, "`mask_id`: a masked model needs the id of its mask"),
        ({"normalization": "mean"}, "`normalization` must be 'sum', 'tokens' or 'characters', got 'mean'"),
        ({"forward": nn.Linear(1, 1)}, "`forward` must be None, a dotted attribute of the module, or a callable"),
        ({"max_tokens": 0}, "`max_tokens` must be an integer of at least 2, got 0"),
        ({"max_tokens": 2}, "`max_tokens`: the answer of 4 tokens does not fit into 3"),
        ({"template": "{text} good"}, "`template` must contain the field '{answer}' exactly once"),
        (
            {"template": "{text} {answer:9}"},
            "`template` must contain the field '{answer}' exactly once, without a format",
        ),
        (
            {"template": "{text} {answer!r}"},
            "`template` must contain the field '{answer}' exactly once, without a format",
        ),
        ({"template": "{answer} {text} {answer}"}, "`template` must contain the field '{answer}' exactly once"),
        ({"template": "{text {answer}"}, "`template`: .* is invalid"),
        ({"template": "{review} {answer}"}, r"`template` has a field 'review', `examples\[0\]` has 'text', 'label'"),
        ({"template": "{answer}"}, "`template`: a causal model needs a token before the answer"),
        ({"verbalizers": "good"}, "`verbalizers` must be a text for each label"),
        ({"verbalizers": ["good", "good"]}, "`verbalizers`: 'good' and 'good' have identical tokens"),
        ({"verbalizers": ["", "good"], "template": "a{answer}"}, "`tokenizer` has no token for the answer ''"),
        ({"examples": []}, "`examples` must be a sequence of examples, at least one"),
        ({"examples": ["a film"]}, r"`examples\[0\]` must be a mapping of fields or a pair \(text, label\)"),
        ({"examples": [("a film", 2)]}, r"`label`: `examples\[0\]` has 2 in its field 'label'"),
        ({"tokenizer": lambda text: text}, "`tokenizer` must return a list of ids, non-negative integers"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, message):
    task = {"examples": REVIEWS, "template": TEMPLATE, "verbalizers": ["bad", "very dull indeed so"]}
    task |= {name: arguments.pop(name) for name in list(arguments) if name in task}
    with pytest.raises(ValueError, match=message):
        Prompts(**{"tokenizer": ids, "kind": "causal", **arguments}).task(**task)


class Headless(LightningModule):
    def __init__(self):
        super().__init__()
        self.model = Bigrams()


@pytest.mark.parametrize(
    ("model", "forward", "message"),
    [
        (Headless(), None, "Headless has no `forward` of its own. In `forward`, name .* Its children are 'model'"),
        (
            Headless(),
            "head",
            "`forward='head'` is not a callable attribute of Headless. Its children are 'model'",
        ),
        (nn.Embedding(3, 2), None, "The language model cannot read ids up to 14"),
        (nn.Embedding(20, 2), None, r"`verbalizers`: the id 10 is not among the 2 logits"),
        (lambda tokens: tokens, None, r"`forward` must return logits \(5, \d+, 'vocabulary'\)"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_by_name(model, forward, message):
    prompts = Prompts(ids, "causal", forward=forward)
    with pytest.raises((ValueError, RuntimeError), match=message):
        prompts.scores(model, one_batch(prompts.task(REVIEWS, TEMPLATE, ["bad", "good"])))


def test_a_part_of_a_module_can_be_the_language_model():
    prompts = Prompts(ids, "causal", forward="model")
    batch, model = one_batch(prompts.task(REVIEWS, TEMPLATE, LONG)), Headless()
    torch.testing.assert_close(prompts.scores(model, batch), Prompts(ids, "causal").scores(model.model, batch))


def test_an_answer_of_one_letter_is_divided_by_one():
    model, found = Bigrams(), {}
    for normalization in ("sum", "characters"):
        prompts = Prompts(ids, "causal", normalization=normalization)
        found[normalization] = prompts.scores(model, one_batch(prompts.task(REVIEWS, TEMPLATE, ["a", "good"])))
    torch.testing.assert_close(found["characters"], found["sum"] / torch.tensor([1, 4]))


def test_ids_and_lengths_come_from_the_tokenizer_unless_they_are_given():
    class Tokenizer:
        mask_token_id, pad_token_id, model_max_length = 0, 1, 9

        def __call__(self, text):
            return ids(text)

    task = Prompts(Tokenizer(), "masked").task([(" ".join(["film"] * 20), 1), ("a", 0)], TEMPLATE, ["bad", "good"])
    long, _ = task.dataset
    assert len(long["sequences"][0]) == 9
    batch = one_batch(task)
    assert batch["ids"][1].tolist() == [*ids("a . it was"), 0, *ids("."), *[1] * 3]
    assert batch["length"].tolist() == [9, 6]
    own = Prompts(Tokenizer(), "masked", mask_id=5, pad_id=7, max_tokens=12)
    other = one_batch(own.task([("film " * 20, 1), ("a", 0)], TEMPLATE, ["bad", "good"]))
    assert other["length"].tolist() == [12, 6]
    assert other["ids"][1].tolist() == [*ids("a . it was"), 5, *ids("."), *[7] * 6]
    plain = one_batch(Prompts(ids, "causal").task([("film " * 3, 1), ("a", 0)], TEMPLATE, ["bad", "good"]))
    assert plain["ids"][1].tolist() == [*ids("a . it was"), 0, 0]


def test_the_last_id_of_the_vocabulary_can_be_asked_for():
    prompts = Prompts(lambda text: [3] if text.strip() == "good" else [0] * bool(text), "causal")
    batch = one_batch(prompts.task(REVIEWS, TEMPLATE, ["bad", "good"]))
    assert prompts.scores(nn.Embedding(4, 4), batch).isfinite().all()
    with pytest.raises(ValueError, match="`verbalizers`: the id 3 is not among the 3 logits"):
        prompts.scores(nn.Embedding(4, 3), batch)


def test_examples_with_fewer_answers_have_none_of_the_others():
    prompts = Prompts(ids, "causal")
    items = [prompts.item("a film", "", ["bad", "good"], 1), prompts.item("so", "", ["bad", "good", "very dull"], 2)]
    scores = prompts.scores(Bigrams(), prompts.collate(items))
    assert scores.isfinite().tolist() == [[True, True, False], [True, True, True]]
    found = prompts.log_likelihood(Bigrams(), prompts.collate(items))
    torch.testing.assert_close(found, torch.stack([scores[0, :2].log_softmax(0)[1], scores[1].log_softmax(0)[2]]))
