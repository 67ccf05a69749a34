"""The configuration: what it accepts, what it refuses, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from conpet.config import (
    RunConfig,
    at_task,
    describe_fields,
    describe_keys,
    diff,
    load_config,
    parse_config,
)
from conpet.config.originals import ORIGINALS
from conpet.config.profiles import PROFILES, profile_values
from conpet.config.schema import flatten
from conpet.errors import ConfigError
from conpet.registry import STREAMS

MINIMAL = "stream: banking77\n"


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, overrides, name="run.yaml")
    return str(caught.value)


# What is accepted


def test_defaults_need_a_stream_alone() -> None:
    config = parse_config(MINIMAL)
    assert config.method.name == "conpet-dynamic"
    assert config.method.options["top_k"] == 1
    assert (config.adapter.rank, config.replay.batch_limit, config.train.lr) == (8, 25, 2e-3)
    assert config.folder() == Path("runs/banking77-conpet-dynamic-1")


def test_a_section_may_be_one_word() -> None:
    config = parse_config(
        "method: sequential\nstream: banking77\nadapter: bottleneck\nreplay: auto"
    )
    assert (config.method.name, config.adapter.kind) == ("sequential", "bottleneck")


def test_yaml_round_trip_is_the_same_configuration() -> None:
    config = load_config(
        None,
        ["method.top_k=all", "train.lr_from={3: 1e-4}", "stream.fields={text: sentence, id: null}"],
        stream="data.jsonl",
        out="somewhere",
    )
    assert parse_config(config.to_yaml()) == config


def test_precedence_is_defaults_profile_file_command_line(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "stream: fewrel\nprofile: conpet-original\ntrain: {batch_size: 16, epochs: 3}\n"
    )
    config = load_config(file, ["train.epochs=2"], seed=7)
    assert config.train.eps == 1e-4  # profile over default
    assert config.train.batch_size == 16  # file over profile
    assert config.train.epochs == 2  # command line over file
    assert config.train.clip == 1.0
    assert config.seed == 7


@pytest.mark.parametrize("text", ["2e-3", "2E-3", "0.002", "+2e-3"])
def test_numbers_are_those_of_yaml_1_2(text: str) -> None:
    assert load_config(None, [f"train.lr={text}"], stream="x").train.lr == 0.002


def test_overrides_may_be_a_mapping() -> None:
    config = load_config(None, {"stream.tasks": ["b", "a"], "adapter.alpha": None}, stream="x")
    assert config.stream.tasks == ("b", "a")


def test_a_short_section_and_a_key_of_it_go_together_in_any_order() -> None:
    words = ["adapter=bottleneck", "adapter.size=16"]
    mapping = {"adapter": "bottleneck", "adapter.size": 16}
    for overrides in (words, words[::-1], mapping, dict(reversed(mapping.items()))):
        config = load_config(None, overrides, stream="x")
        assert (config.adapter.kind, config.adapter.size) == ("bottleneck", 16)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["method.balance=true", "replay=full"], "this run's is full"),
        (["method.start=selector", "method.top_k=all"], "there is none"),
        (["method=per-task", "forward_rows=true"], "only for tasks that it has learned"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_anything_is_learned(
    words: list[str], text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        load_config(None, words, stream="x")


def test_command_line_options_are_left_out_when_none() -> None:
    assert load_config(None, ["stream.name=x"], method=None, seed=None).seed == 1


def test_configurations_are_frozen() -> None:
    with pytest.raises(ValidationError):
        parse_config(MINIMAL).train.lr = 1.0  # type: ignore[misc]


def test_build_method_gives_the_dataclass_of_the_method() -> None:
    method = parse_config("stream: x\nmethod: {name: conpet-dynamic, top_k: 3}").build_method()
    assert type(method).__name__ == "ConpetDynamic"
    assert method.top_k == 3


def test_learning_rate_changes_from_a_task_on() -> None:
    train = load_config(None, ["train.lr_from={3: 1e-4, 5: 1e-5}"], stream="x").train
    assert [train.lr_at(k) for k in range(1, 7)] == [2e-3, 2e-3, 1e-4, 1e-4, 1e-5, 1e-5]


@pytest.mark.parametrize("kind", ["prompt", "full"])
def test_only_adapters_in_layers_lie_in_some_of_them(kind: str) -> None:
    words = [f"adapter.kind={kind}", "adapter.layers=2"]
    with pytest.raises(ConfigError, match=rf"layers is 2, .*kind '{kind}' lie in no layers.*lora"):
        load_config(None, words, method="sequential", stream="x")


# Identity


def test_identity_leaves_out_where_and_how_it_is_computed() -> None:
    base = load_config(None, stream="banking77")
    same = load_config(
        None,
        [
            *("threads=1", "trackers=[tensorboard]", "checkpoint_every=5", "method.top_k=1"),
            *("backbone.keep_trunk=false", "backbone.trunk_gib=0.5"),
        ],
        stream="banking77",
        out="elsewhere",
        data="data",
        device="cpu",
    )
    assert diff(base, same) == []


@pytest.mark.parametrize(
    "setting",
    [
        *("train.lr=1e-3", "seed=2", "precision=bf16", "method.top_k=2", "method=sequential"),
        *("adapter.layers=3", "backbone.trunk_dtype=bf16"),
    ],
)
def test_diff_names_what_makes_another_run(setting: str) -> None:
    key = setting.partition("=")[0]
    other = load_config(None, [setting], stream="banking77")
    found = diff(load_config(None, stream="banking77"), other)
    assert any(line.startswith(key) for line in found), found


def test_a_profile_counts_by_its_values() -> None:
    with_profile = load_config(None, stream="fewrel", profile="conpet-original")
    values = flatten(profile_values("conpet-original", "fewrel", "minilm", "conpet-dynamic"))
    written = load_config(None, values, stream="fewrel")
    assert diff(with_profile, written) == []


# Presets


def test_conpet_static_is_its_base_with_dynamic_replay() -> None:
    text = "stream: x\nmethod: {name: conpet-static, base: crl, temperature: 0.2}\n"
    config = parse_config(text)
    assert (config.method.name, config.replay.kind) == ("crl", "dynamic")
    assert config.build_method().temperature == 0.2
    assert config.label == "conpet-static(crl)"
    assert config.folder() == Path("runs/x-conpet-static-crl-1")
    assert diff(config, parse_config(config.to_yaml())) == []
    assert load_config(None, method="conpet-static", stream="x").method.name == "replay"


def test_a_preset_may_be_named_by_keyword() -> None:
    config = RunConfig(method={"name": "conpet-static", "base": "emr"}, stream="fewrel")  # type: ignore[arg-type]
    assert (config.method.name, config.replay.kind) == ("emr", "dynamic")


def test_keys_of_a_memory_are_no_part_of_a_run_without_one() -> None:
    base = load_config(None, stream="x")
    assert diff(base, load_config(None, ["replay.per_class=3"], stream="x")) == []
    emr = load_config(None, method="emr", stream="x")
    same = ["replay.kind=memory", "replay.per_class=10", "replay.selection=kmeans"]
    assert diff(emr, load_config(None, same[1:], method="emr", stream="x")) == []
    assert len(diff(emr, load_config(None, ["replay.per_class=3"], method="emr", stream="x"))) == 1


def test_only_static_bases_with_dynamic_replay_are_called_static() -> None:
    assert load_config(None, method="emr", stream="x").label == "emr"
    assert load_config(None, method="conpet-dynamic", stream="x").label == "conpet-dynamic"
    assert load_config(None, ["replay=dynamic"], method="emr", stream="x").label == (
        "conpet-static(emr)"
    )


def test_the_choice_of_exemplars_is_the_methods_own_unless_it_is_named() -> None:
    for method, chosen in (("replay", "random"), ("emr", "kmeans"), ("crl", "kmeans")):
        assert load_config(None, method=method, stream="x").selection == chosen
    named = load_config(None, ["replay.selection=herding"], method="emr", stream="x")
    assert named.selection == "herding"


# What is refused


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "train:\n  epoch: 3\n",
            "unknown key 'train.epoch' in run.yaml line 3. Did you mean 'train.epochs'? "
            "All keys: conpet show config",
        ),
        ("trian: {}\n", "unknown key 'trian' in run.yaml line 2. Did you mean 'train'?"),
        (
            "method: {name: conpet-dynamic, topk: 2}\n",
            "unknown key 'method.topk' in run.yaml line 2. Did you mean 'method.top_k'? "
            "All options: conpet show method conpet-dynamic",
        ),
        (
            "method: conpet-dynamc\n",
            "unknown method 'conpet-dynamc'. Did you mean 'conpet-dynamic'?",
        ),
        ("train: {batch-size: 3}\n", "'train.batch-size' in run.yaml line 2. Did you mean"),
        ("method: {name: conpet-dynamic, top_k: some}\n", "is 'some'; it must be a valid integer"),
        ("method: {name: conpet-dynamic, top_k: some}\n", " or 'all'"),
        ("train: {lr: null}\n", "'train.lr' in run.yaml line 2 is None"),
        ("seed: 2001-99-99\n", "run.yaml is no YAML"),
        ("3: 4\n", "unknown key '3' in run.yaml line 2"),
        ("train: &a {x: *a}\n", "run.yaml is no YAML"),
        ("train: {lr: 0}\n", "'train.lr' in run.yaml line 2 is 0; it must be greater than 0"),
        ("train: {lr: .nan}\n", "is nan; it must be a finite number"),
        ("train: {epochs: 0}\n", "it must be at least 1"),
        ("train: {epochs: true}\n", "is True; it must be a valid integer"),
        ("train: {epochs: 2.5}\n", "'train.epochs' in run.yaml line 2 is 2.5"),
        ("adapter: {dropout: 1.0}\n", "it must be less than 1"),
        ("adapter: loro\n", "it must be 'lora', 'bottleneck', 'prompt', 'prefix' or 'full'"),
        ("device: gpu\n", "it must be auto, cpu, mps, cuda or cuda:N"),
        ("trackers: [tensorbord]\n", "it must be 'tensorboard', 'wandb' or 'mlflow'"),
        ("replay: {batch_limit: 1}\n", "it must be at least 2"),
        ("train: 3\n", "it must be a section of 'key: value' lines"),
        ("method: 3\n", "it must be a section of 'key: value' lines"),
        ("method: lda\nreplay: memory\n", "replay.kind is 'memory', which method 'lda' cannot use"),
        (
            "method: ewc\nreplay: dynamic\n",
            "replay.kind is 'dynamic', which method 'ewc' cannot use: it keeps old tasks by "
            "holding weights, and looks at no old example; allowed: auto, none",
        ),
        ("method: lwf\nreplay: dynamic\n", "by their answers to new examples"),
        ("method: seq-star\nreplay: dynamic\n", "what it learned of old tasks is frozen"),
        ("method: latent-replay\nreplay: dynamic\n", "it replays features that it draws"),
        ("method: latent-replay\nadapter: full\n", "it needs features that stay"),
        ("method: ewc\nadapter: prompt\n", "it holds weights that stay the same ones"),
        ("adapter: {kind: prompt, length: 0}\n", "it must be at least 1"),
        (
            "replay: {total: 9, share: 0.1}\n",
            "replay.total and replay.share are given; the memory has one budget",
        ),
        ("replay: {share: 0}\n", "it must be greater than 0"),
        ("replay: {selection: kmean}\n", "it must be 'auto', 'random', 'kmeans' or 'herding'"),
        ("method: crl\nreplay: {features: logits}\n", "has no head that gives logits"),
        (
            "method: {name: conpet-static, base: ear}\n",
            "method.base is 'ear', which conpet-static cannot build on. Did you mean 'emar'?",
        ),
        (
            "method: conpet-static\nreplay: memory\n",
            "replay.kind is 'memory', and conpet-static is a method with dynamic replay; "
            "leave it out, or run the method itself: --method replay",
        ),
        ("method: {name: conpet-static, strength: 3}\n", "unknown key 'method.strength'"),
        ("adapter: full\n", "adapter.kind is 'full', which method 'conpet-dynamic' cannot use"),
        ("stream: other\n", "key 'stream' is written twice: in run.yaml line 1 and line 2"),
        ("train: {\n", "run.yaml line 3 is no YAML"),
        ("profile: conpet-orginal\n", "Did you mean 'conpet-original'?"),
        ("profile: conpet-original\n", "has no values for stream 'banking77'"),
    ],
)
def test_refusals_name_the_line_and_the_way_out(text: str, words: str) -> None:
    assert words in refusal(MINIMAL + text)


def test_a_stream_must_be_named() -> None:
    assert "'stream' is not given" in refusal("")
    assert "'stream.name' is not given" in refusal("stream: {seed: 1}")


def test_a_method_option_out_of_range_is_refused() -> None:
    text = MINIMAL + "method:\n  name: conpet-dynamic\n  selector_epochs: 0\n"
    assert "'method.selector_epochs' in run.yaml line 4 is 0; it must be at least 1" in refusal(
        text
    )


def test_overrides_say_that_they_come_from_the_command_line() -> None:
    assert "on the command line" in refusal(MINIMAL, "train.epoch=3")
    assert "write key=value" in refusal(MINIMAL, "train.epochs")
    assert "write key=value" in refusal(MINIMAL, "train..epochs=3")


def test_a_file_that_is_a_list_is_refused() -> None:
    assert "run.yaml holds a list" in refusal("- stream")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*: No such file"):
        load_config(tmp_path / "none.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"stream: \xff\xfe")
    with pytest.raises(ConfigError, match="is no UTF-8 text"):
        load_config(binary)


def test_an_unknown_keyword_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown argument 'sed'\. Did you mean 'seed'"):
        load_config(None, stream="x", sed=1)


@given(st.text(max_size=40))
def test_any_text_is_a_configuration_or_a_config_error(text: str) -> None:
    try:
        assert isinstance(parse_config(text), RunConfig)
    except ConfigError as error:
        assert str(error)


# Profiles and documentation


@pytest.mark.parametrize("profile", [p for p in PROFILES if p.startswith("conpet")])
@pytest.mark.parametrize("stream", ["fewnerd", "ontonotes", "bbn", "fewrel", "tacred", "ace"])
def test_profiles_are_valid(profile: str, stream: str) -> None:
    config = load_config(None, stream=stream, profile=profile, backbone="tiny-llama")
    assert (config.train.batch_size, config.adapter.rank, config.adapter.alpha) == (8, 4, 1.0)
    assert config.train.epochs in (10, 20)


def test_profile_columns_differ() -> None:
    bert = load_config(None, stream="fewnerd", profile="conpet-original", backbone="minilm").train
    llama = load_config(
        None, stream="fewnerd", profile="conpet-original", backbone="a/llama-7b"
    ).train
    assert (bert.lr, bert.lr_at(3)) == (2e-5, 2e-5)
    assert (llama.lr, llama.lr_at(2), llama.lr_at(3)) == (5e-4, 5e-4, 1e-4)
    with pytest.raises(ConfigError, match="does not tell which"):
        load_config(None, stream="fewrel", profile="conpet-original", backbone="tiny-t5")


# epochs, lr, batch, batches of a step, rank, reflection, tokens of a prompt
SAPT = {
    "sapt-original-t5-superni": (100, 3e-4, 8, 4, 4, 2.0, 512),
    "sapt-original-t5-long": (10, 3e-4, 16, 2, 8, 0.2, 512),
    "sapt-original-llama-superni": (50, 5e-5, 8, 4, 4, 1.0, 1024),
    "sapt-original-llama-long": (20, 5e-5, 8, 4, 4, 2.0, 1024),
}


@pytest.mark.parametrize("profile", SAPT)
def test_a_profile_of_sapt_is_a_whole_run(profile: str) -> None:
    config = load_config(None, profile=profile)
    epochs, lr, batch_size, accumulate, rank, reflection, longest = SAPT[profile]
    train, options = config.train, config.method.options
    assert (train.epochs, train.lr) == (epochs, lr)
    assert (train.batch_size, train.accumulate) == (batch_size, accumulate)
    assert train.batch_size * train.accumulate == 32
    assert (train.schedule, train.weight_decay, train.eps, train.clip) == ("constant", 0, 1e-8, 1)
    assert (config.adapter.rank, config.adapter.alpha, config.adapter.dropout) == (rank, 32, 0)
    assert config.generation.max_prompt_length == longest
    assert config.generation.max_new_tokens == 50
    assert (config.precision, config.backbone.dtype, config.seed) == ("bf16", "bf16", 42)
    assert config.method.name == "sapt" and options["reflection"] == reflection
    assert (options["bottleneck"], options["query"], options["cut"]) == (100, "padded", True)
    assert options["generator_format"] == "markers" and options["generator_steps"] == 5000
    assert config.stream.name == ("superni" if profile.endswith("superni") else "long-sequence")
    assert config.backbone.name == (
        "google-t5/t5-large" if "-t5-" in profile else "meta-llama/Llama-2-7b-hf"
    )
    card = STREAMS.load(config.stream.name)
    first = {"superni": ["samsum", "sst2"], "long-sequence": ["yelp", "amazon"]}[config.stream.name]
    assert next(iter(card.orders.values()))[:2] == first  # the paper's, where none is given


def test_a_profile_of_sapt_validates_on_the_test_and_refers_to_train() -> None:
    profile = "sapt-original-t5-superni"
    config = load_config(None, profile=profile)
    assert config.stream.valid == "test"
    assert config.method.options["reference_from"] == "train"  # or references would be of the test
    honest = load_config(None, ["stream.valid=carve"], profile=profile)
    assert honest.stream.valid == "carve"  # what is given wins


def test_a_profile_of_sapt_with_other_parts() -> None:
    profile = "sapt-original-t5-superni"
    other = load_config(None, profile=profile, method="sequential", backbone="tiny-t5")
    assert (other.method.name, other.backbone.name) == ("sequential", "tiny-t5")
    assert (other.train.epochs, other.adapter.rank) == (100, 4)
    own = load_config(None, ["method.cut=false", "seed=3"], profile=profile, method="sapt")
    assert own.method.options["cut"] is False and own.method.options["query"] == "padded"
    assert own.seed == 3
    with pytest.raises(ConfigError, match="has no values for stream 'fewrel'; allowed: superni"):
        load_config(None, stream="fewrel", profile=profile)
    with pytest.raises(ConfigError, match="Did you mean 'sapt-original-t5-long'"):
        load_config(None, profile="sapt-original-t5-lon")


def test_the_profiles_of_o_lora() -> None:
    """By the tasks of the stream's own order: 0.5 up to sst2 and 5 from dbpedia on."""
    t5 = load_config(None, profile="o-lora-original-t5-long")
    assert (t5.method.name, t5.stream.name) == ("o-lora", "long-sequence")
    assert (t5.adapter.rank, t5.adapter.alpha, t5.adapter.dropout) == (8, 32, 0.1)
    assert (t5.train.epochs, t5.train.lr, t5.train.batch_size * t5.train.accumulate) == (
        1,
        1e-3,
        64,
    )
    names = next(iter(STREAMS.load("long-sequence").orders.values()))
    options = t5.method.options
    by_task = {
        name: (
            at_task(options["orthogonality_from"], place, options["orthogonality"]),
            at_task(options["norm_from"], place, options["norm"]),
        )
        for place, name in enumerate(names, start=1)
    }
    assert {name for name, (first, _) in by_task.items() if first == 0.5} == set(names[:9])
    assert names[8] == "sst2" and by_task["dbpedia"] == (5.0, 0.0)
    assert {n: norm for n, (_, norm) in by_task.items() if norm} == {
        **dict.fromkeys(("copa", "qqp", "sst2", "yahoo", "boolq"), 0.1),
        **dict.fromkeys(("rte", "wic"), 0.3),
    }
    llama = load_config(None, profile="o-lora-original-llama-long")
    assert [llama.train.lr_at(task) for task in (1, 2, 15)] == [1e-3, 1e-4, 1e-4]
    assert llama.method.options["orthogonality"] == 0.5
    other = load_config(None, profile="o-lora-original-t5-long", method="sequential")
    assert other.method.options == {} and other.train.lr == 1e-3


def test_an_option_by_task_is_one_value() -> None:
    """It survives YAML, where numbers are keys, and differences name it as a whole."""
    config = load_config(
        None, ["method.orthogonality_from={3: 5.0}"], stream="banking77", method="o-lora"
    )
    assert config.method.options["orthogonality_from"] == {3: 5.0}
    assert parse_config(config.to_yaml()) == config
    again = load_config(None, stream="banking77", method="o-lora")
    assert diff(again, config) == ["method.orthogonality_from: {} is now {'3': 5.0}"]
    for wrong in ("{0: 5.0}", "{3: -1.0}"):
        with pytest.raises(ConfigError, match="orthogonality_from"):
            load_config(
                None, [f"method.orthogonality_from={wrong}"], stream="banking77", method="o-lora"
            )


def test_one_order_of_a_stream() -> None:
    config = load_config(None, ["stream.order=mnli-first"], stream="long-sequence")
    assert config.stream.order == "mnli-first"
    with pytest.raises(ConfigError, match=r"stream\.tasks and stream\.order .* are both given"):
        load_config(None, ["stream.order=x", "stream.tasks=[a, b]"], stream="long-sequence")


def test_every_key_is_documented() -> None:
    keys = describe_keys()
    assert all(key.doc for key in keys)
    described = {key.key for key in keys if not key.key.startswith("method.")}
    config = parse_config(MINIMAL).to_dict()
    del config["method"]
    assert described == set(flatten(config))


def test_options_of_a_method_are_described() -> None:
    method = type(parse_config(MINIMAL).build_method())
    options = {option.key: option for option in describe_fields(method.__pydantic_fields__)}
    assert options["top_k"].default == 1
    assert options["selector_epochs"].type == "int | null (>= 1)"


def test_to_yaml_is_plain_yaml() -> None:
    assert yaml.safe_load(parse_config(MINIMAL).to_yaml())["stream"]["name"] == "banking77"


def test_the_profile_of_a_method_is_its_own() -> None:
    def values(method: str, stream: str) -> RunConfig:
        return load_config(
            None, method=method, stream=stream, profile="conpet-original", backbone="tiny-llama"
        )

    assert [values("crl", "bbn").train.lr_at(k) for k in (3, 4)] == [2e-4, 1e-4]
    assert values("emr", "fewnerd").train.lr == values("conpet-static", "fewnerd").train.lr == 2e-5
    assert (values("crl", "fewrel").replay.epoch, values("crl", "fewrel").replay.frequency) == (
        "data",
        None,
    )
    assert values("conpet-dynamic", "fewnerd").train.lr == 5e-4
    assert values("emr", "fewrel").replay.features == "logits"
    assert values("crl", "fewrel").replay.features == "hidden"
    assert values("emr", "fewrel").replay.frequency == 5


# method, kind of adapter and its length, lr, epochs, batch
BASELINES = {
    "epi-original": ("epi", "prefix", 16, 0.03, 5, 32),
    "progprompt-original": ("progprompt", "prompt", 10, 0.3, 10, 8),
    "l2p-original-text": ("l2p", "prompt", 16, 0.03, 5, 32),
    "l2p-original-vision": ("l2p", "prompt", 5, 0.03, 6, 32),
    "lfpt5-original": ("lfpt5", "prompt", 300, 0.5, 420, 2),
}


@pytest.mark.parametrize("profile", ORIGINALS)
def test_a_profile_of_a_method_is_for_any_stream(profile: str) -> None:
    config = load_config(None, profile=profile, stream="clinc150")
    a, t = config.adapter, config.train
    found = (config.method.name, a.kind, a.length, t.lr, t.epochs, t.batch_size)
    assert found == BASELINES[profile]
    other = load_config(None, profile=profile, stream="clinc150", method="sequential")
    assert (other.method.name, other.adapter.kind, other.train.lr) == ("sequential", "lora", t.lr)
