"""Tasks in the form of the Language Model Evaluation Harness say what the same prompts by hand do."""

import json

import pytest

from synbench_lightning import Prompts, harness_task

DOCS = [
    {"review": "a fine film", "verdict": 1, "options": ["bad", "good"]},
    {"review": "so dull", "verdict": 0, "options": ["bad", "good"]},
]
YAML = """
task: films
dataset_path: json
dataset_kwargs: {data_files: {test: films.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{review}}. It was"
doc_to_choice: ["bad", "good"]
doc_to_target: verdict
metric_list: [{metric: acc}]
"""
PROMPTS = Prompts(lambda text: [ord(letter) for letter in text], "causal")


def read(text=YAML, **arguments):
    with open("films.jsonl", "w") as lines:
        lines.writelines(json.dumps(doc) + "\n" for doc in DOCS)
    with open("films.yaml", "w") as file:
        file.write(text)
    (task,) = harness_task("films.yaml", PROMPTS, **arguments).values()
    return task.dataset


def by_hand():
    examples = [(doc["review"], doc["verdict"]) for doc in DOCS]
    return PROMPTS.task(examples, "{text}. It was {answer}", ["bad", "good"]).dataset


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ('["bad", "good"]', "options"),
        ('["bad", "good"]', '"{{options}}"'),
        ('["bad", "good"]', "{0: bad, 1: good}"),
        ("doc_to_target: verdict", 'doc_to_target: "{{options[verdict]}}"'),
        ("doc_to_target: verdict", 'doc_to_target: "{{verdict}}"'),
        ('"{{review}}. It was"', '". It was"\ndescription: "{{review}}"'),
        ('It was"', 'It was "\ntarget_delimiter: ""'),
        ("data_files: {test: films.jsonl}", "data_files: films.jsonl"),
        ("data_files: {test: films.jsonl}", "data_files: [films.jsonl]"),
        ("test_split: test", "validation_split: test"),
        ("test_split: test", "test_split: test\nnum_fewshot: 0\nmetadata: {version: 1}\ndescription:"),
        ("test_split: test\noutput_type: multiple_choice", "test_split: test"),
    ],
)
def test_a_task_is_that_of_the_same_prompts_by_hand(old, new):
    assert read(YAML.replace(old, new, 1)) == by_hand()


def test_the_examples_can_be_json_or_csv_and_elsewhere():
    with open("other.csv", "w") as file:
        file.write("review,verdict\na fine film,1\nso dull,0\n")
    with open("other.json", "w") as file:
        json.dump(DOCS, file)
    assert read(data="other.csv") == read(data="other.json") == by_hand()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("test_split: test", "process_docs: !function utils.process", "films.yaml calls Python code in process_docs"),
        ("test_split: test", "filter_list: []", "films.yaml has fields that are not supported: filter_list"),
        ("multiple_choice", "generate_until", "films.yaml has the output_type 'generate_until', not multiple_choice"),
        ("test_split: test", "test_split: test\nnum_fewshot: 5", "films.yaml has num_fewshot 5; only 0 is supported"),
        ("doc_to_target: verdict", "", "films.yaml has no doc_to_target"),
        ("{{review}}", "{{text}}", "example 0 does not match the task. The template .*'text' is undefined"),
        ("doc_to_target: verdict", "doc_to_target: review", "doc_to_target must give one of the choices"),
        (
            "doc_to_target: verdict",
            "doc_to_target: 2",
            r"doc_to_target must give one of the choices \['bad', 'good'\] or",
        ),
        ("doc_to_target: verdict", "doc_to_target: -1", "doc_to_target must give one of the choices .* got -1"),
        ("doc_to_target: verdict", "doc_to_target: 0.5", "doc_to_target must give one of the choices .* got 0.5"),
        ('["bad", "good"]', '["good"]', "doc_to_choice must give a list of at least two choices"),
        ("test: films.jsonl", "train: films.jsonl", "`data`: films.yaml names no local file for the split 'test'"),
        ("films.jsonl", "films.parquet", "`data`: there is no file"),
        ("{test: films.jsonl}", "[films.jsonl, films.jsonl]", "names no local file for the split 'test'"),
        ("dataset_kwargs: {data_files: {test: films.jsonl}}", "", "names no local file for the split 'test'"),
        ('["bad", "good"]', "nothing at all", "doc_to_choice must give a list, got 'nothing at all'"),
        ('["bad", "good"]', "3", "doc_to_choice must give a list of at least two choices, got 3"),
        ("task: films", "task: a/b", "`task` must be a non-empty string without '/'"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(old, new, message):
    with pytest.raises(ValueError, match=message):
        read(YAML.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("d.txt", "{}", "`data` must be a .json, .jsonl or .csv file, got 'd.txt'"),
        ("d.json", "[{]", "`data`: d.json is neither a JSON list nor JSON lines"),
        ("d.json", "[1, 2]", "`data`: d.json must contain one object with fields per example"),
        ("d.jsonl", "\n\n", "films.yaml: its data has no examples"),
    ],
)
def test_data_that_are_no_examples_are_refused(name, text, message):
    with open(name, "w") as file:
        file.write(text)
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        read(data=name)


def test_empty_lines_are_skipped_and_a_task_is_a_mapping():
    with open("d.jsonl", "w") as file:
        file.write("\n".join(["", json.dumps(DOCS[0]), "", json.dumps(DOCS[1]), ""]))
    assert read(data="d.jsonl") == by_hand()
    with pytest.raises(ValueError, match=r"`file`: films\.yaml must be a mapping of fields, got \['a'\]"):
        read("- a")
