"""adapter_config.json: what PEFT writes passes, whatever else is in it is refused by the field's name."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig

from formats import patterns
from registry.errors import AdapterConfigInvalid, NotALora
from registry.files.safetensors_file import TensorEntry
from registry.intake.adapter_config import AdapterConfig, parse_config, rebuild_config
from registry.intake.adapter_tensors import pair_modules

PLAIN: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 8,
    "lora_alpha": 16,
    "target_modules": ["q_proj", "v_proj"],
}

#: As peft 0.4.0 wrote it, in 2023.
OLD: dict[str, Any] = {
    "auto_mapping": None,
    "base_model_name_or_path": "huggyllama/llama-7b",
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "layers_pattern": None,
    "layers_to_transform": None,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "modules_to_save": None,
    "peft_type": "LORA",
    "r": 8,
    "revision": None,
    "target_modules": ["q_proj", "v_proj"],
    "task_type": "CAUSAL_LM",
}

#: As peft 0.2.0 did: two fields that are gone since.
OLDEST: dict[str, Any] = {**PLAIN, "enable_lora": None, "merge_weights": False, "bias": "none"}


def parsed(**fields: Any) -> AdapterConfig:
    return parse_config(json.dumps(PLAIN | fields).encode())


def as_peft_saves(folder: Path, **fields: Any) -> dict[str, Any]:
    config = LoraConfig(**({"r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]} | fields))
    config.save_pretrained(str(folder))
    saved: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return saved


def test_everything_that_is_kept_is_read() -> None:
    config = parsed(
        use_rslora=True,
        rank_pattern={"layers.0.q_proj": 4, "^model.layers.1.v_proj": 2},
        alpha_pattern={"q_proj": 8.5},
        lora_dropout=0.05,
        fan_in_fan_out=True,
        init_lora_weights="Gaussian",
        task_type="CAUSAL_LM",
        base_model_name_or_path="owner/name",
        peft_version="0.21.2",
    )
    assert dataclasses.asdict(dataclasses.replace(config, given=b"")) == {
        "rank": 8,
        "alpha": 16.0,
        "use_rslora": True,
        "rank_pattern": {"layers.0.q_proj": 4, "^model.layers.1.v_proj": 2},
        "alpha_pattern": {"q_proj": 8.5},
        "target_modules": ("q_proj", "v_proj"),
        "targets": {
            "modules": ("q_proj", "v_proj"),
            "expression": None,
            "excluded": (),
            "excluded_expression": None,
            "layers": (),
            "layer_lists": (),
        },
        "fan_in_fan_out": True,
        "lora_dropout": 0.05,
        "init_lora_weights": "gaussian",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "owner/name",
        "peft_version": "0.21.2",
        "notes": (),
        "given": b"",
    }


@pytest.mark.parametrize("fields", [OLD, OLDEST], ids=["peft 0.4", "peft 0.2"])
def test_what_older_releases_of_peft_wrote_passes(fields: dict[str, Any]) -> None:
    config = parse_config(json.dumps(fields).encode())
    assert (config.rank, config.alpha, config.target_modules) == (8, 16.0, ("q_proj", "v_proj"))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"use_rslora": True, "rank_pattern": {"q_proj": 4}, "alpha_pattern": {"q_proj": 4}},
        {"target_modules": "all-linear"},
        {"init_lora_weights": "orthogonal"},
        {"init_lora_weights": False},
        {"layers_to_transform": [0, 1], "layers_pattern": "layers"},
        {"exclude_modules": ["lm_head"]},
    ],
)
def test_what_the_installed_peft_saves_passes(tmp_path: Path, fields: dict[str, Any]) -> None:
    saved = as_peft_saves(tmp_path, **fields)
    assert parse_config(json.dumps(saved).encode()).rank == 8


def test_every_field_of_the_installed_peft_is_known(tmp_path: Path) -> None:
    """A field that a newer PEFT adds is refused once it is set; then it belongs in one of the tables."""
    defaults = as_peft_saves(tmp_path)
    for field in defaults.keys() - {"peft_type", "r", "lora_alpha", "target_modules"}:
        odd = object.__repr__(field)
        with pytest.raises(AdapterConfigInvalid) as caught:
            parse_config(json.dumps(defaults | {field: [{odd: odd}]}).encode())
        assert field in str(caught.value)
        assert "unknown" not in str(caught.value)


BAD: dict[str, list[Any]] = {
    "r": [0, -1, 4097, 10**9, 10**400, 1e308, 8.0, True, "8", None, [8], {}],
    "lora_alpha": [0, -1, 1e308, 10**400, True, "16", None],
    "lora_dropout": [1, -0.1, "0.1", True],
    "use_rslora": [1, "true"],
    "fan_in_fan_out": [0],
    "inference_mode": ["yes"],
    "target_modules": [
        ["(a+)+$"],
        "a" * 4097,
        "a\nb",
        [],
        None,
        {"q_proj": 1},
        [1],
        [""],
        ["q_proj."],
        ["q proj"],
        ["ｑ_proj"],
        ["q_proj\n"],
        ["x" * 257],
        ["all-linear", "q_proj"],
        ["q"] * 10_001,
    ],
    "exclude_modules": [["(a+)+$"], "a" * 4097, {"q_proj": 1}],
    "layers_pattern": ["a" * 4097, [1]],
    "layers_to_transform": [-1, [True], "0"],
    "rank_pattern": [{"a" * 4097: 4}, {"q_proj": 0}, {"q_proj": True}, {"q_proj": 4.0}, ["q_proj"], {"": 4}],
    "alpha_pattern": [{"q_proj": -1}, {"a\nb": 4}, {"q_proj": None}],
    "task_type": ["SEQ_CLS", 1, ["CAUSAL_LM"]],
    "base_model_name_or_path": [1, "x" * 1025, "a\x00b", "a\nb"],
    "peft_version": [0.21],
    "revision": [{}],
    "use_dora": [True, "no"],
    "bias": ["all", "lora_only", True],
    "lora_bias": [True],
    "modules_to_save": [["lm_head"]],
    "layer_replication": [[[0, 4], [2, 5]]],
    "trainable_token_indices": [[1], {"embed_tokens": [1]}],
    "target_parameters": [["experts.gate_up_proj"]],
    "ensure_weight_tying": [True],
    "megatron_config": [{"x": 1}],
    "megatron_core": ["evil"],
    "alora_invocation_tokens": [[1, 2]],
    "use_qalora": [True],
    "use_bdlora": [{"nblocks": 2}],
    "arrow_config": [{"top_k": 3}],
    "kasa_config": [{"beta": 1}],
    "monteclora_config": [{"num_samples": 8}],
    "corda_config": [{"cache_file": "/x.pt"}],
    "lora_ga_config": [{"cache_file": "/x.pt"}],
    "loftq_config": [{"loftq_bits": 4}],
    "eva_config": ["x"],
    "runtime_config": [[1]],
    "qalora_group_size": ["x"],
    "init_lora_weights": [
        "pissa",
        "pissa_niter_16",
        "olora",
        "corda",
        "loftq",
        "lora_ga",
        "mica",
        1,
        "whatever",
    ],
    "auto_mapping": [
        {"parent_library": "os", "base_model_class": "system"},
        {"parent_library": "transformers_evil", "base_model_class": "x"},
        {"parent_library": "transformers..x"},
        {"custom": "x"},
        {"base_model_class": "a.b"},
        "os",
    ],
    "tokenizer_kwargs": [{"a": 1}],
    "_attn_implementation_internal": ["evil/kernel"],
    "auto_map": [{"AutoModel": "x--y"}],
    "use_something_new": [True, 1, "x"],
    "enable_lora": [[True, False, True]],
    "lora_nums": [4],
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in BAD.items() for value in values],
    ids=lambda value: repr(value)[:40],
)
def test_a_bad_value_is_refused_by_the_name_of_its_field(field: str, value: Any) -> None:
    data = json.dumps(PLAIN | {field: value}).encode()
    with pytest.raises(AdapterConfigInvalid, match=rf"^adapter_config.json.*\b{field}\b") as caught:
        parse_config(data)
    assert len(str(caught.value)) < 500


PATHS = ("model.layers.0.self_attn.q_proj", "model.layers.11.self_attn.q_proj", "model.layers.1.mlp.up_proj")

EXPRESSIONS = (
    {r"layers\.(0|1)\..*": 2, "q_proj": 4},
    {"q_proj": 4, r".*": 2},
    {r"^model\.layers\.1\.": 2},
    {r"layers.1.*proj": 2, "up_proj": 4},
    {"mlp.up_proj": 2, "nothing": 4},
)


@pytest.mark.processes
@pytest.mark.parametrize("given", EXPRESSIONS)
def test_expressions_are_stored_as_the_ranks_and_alphas_that_peft_finds(given: dict[str, int]) -> None:
    from peft.utils.other import get_pattern_key

    config = parsed(rank_pattern=given, alpha_pattern=given).resolved({path: path for path in PATHS})
    for path in PATHS:
        expected = given.get(get_pattern_key(list(given), path))
        assert config.rank_of(path) == (8 if expected is None else expected)
        assert get_pattern_key(list(config.alpha_pattern), path) in (
            (path,) if expected is None else config.alpha_pattern
        )


@pytest.mark.processes
def test_a_hostile_expression_costs_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "LIMIT_SECONDS", 0.5)
    config = parsed(rank_pattern={r"(\w+\.?)+!": 4})
    began = time.monotonic()
    with pytest.raises(AdapterConfigInvalid, match=r"the regular expression .* takes longer than"):
        config.resolved({path: path for path in PATHS})
    assert time.monotonic() - began < 3


@pytest.mark.processes
@pytest.mark.parametrize("fields", [{"rank_pattern": {"(": 4}}, {"target_modules": "*q_proj"}])
def test_what_is_no_expression_is_refused_with_the_reason(fields: dict[str, Any]) -> None:
    with pytest.raises(AdapterConfigInvalid, match="is no regular expression: "):
        pair_modules(
            [
                TensorEntry(name=f"{PATHS[0]}.lora_{half}.weight", dtype="F32", shape=(4, 4), begin=0, end=0)
                for half in "AB"
            ],
            parsed(**fields),
        )


@pytest.mark.parametrize("value", [None, False, 0, "", [], {}])
def test_an_unknown_field_that_asks_for_nothing_passes(value: Any) -> None:
    assert parsed(something_new=value) == parsed()


@pytest.mark.parametrize("version", [{}, {"peft_version": "0.21.2"}, {"peft_version": "0.4.0"}])
def test_an_unknown_field_that_peft_passes_over_is_a_note(version: dict[str, Any]) -> None:
    config = parsed(trained_by="somebody", training={"epochs": 3}, something_empty=None, **version)
    assert dataclasses.replace(config, notes=()) == parsed(**version)
    (note,) = config.notes
    assert "'trained_by', 'training'" in note
    assert "something_empty" not in note


def test_an_unknown_field_of_a_newer_peft_is_refused_for_it_may_be_its_own() -> None:
    with pytest.raises(AdapterConfigInvalid, match=r"'something_new' = True is unknown.*PEFT '0\.30\.0'"):
        parsed(something_new=True, peft_version="0.30.0")
    assert parsed(something_new=None, peft_version="0.30.0").notes == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"trust_remote_code": False},
        {"eva_config": {"a": [{"trust_remote_code": None}]}},
        {"peft_type": "PROMPT_TUNING", "tokenizer_kwargs": {"trust_remote_code": True}},
    ],
)
def test_trust_remote_code_is_refused_wherever_it_is(fields: dict[str, Any]) -> None:
    with pytest.raises(AdapterConfigInvalid, match="trust_remote_code"):
        parsed(**fields)


@pytest.mark.parametrize(
    "peft_type", ["PROMPT_TUNING", "XLORA", "ADALORA", "LOHA", "lora", None, ["LORA"], 1]
)
def test_another_kind_of_adapter_is_named(peft_type: Any) -> None:
    with pytest.raises(NotALora, match=r"peft_type = .* must be 'LORA'"):
        parsed(peft_type=peft_type)


def test_a_configuration_without_a_type_is_no_lora() -> None:
    with pytest.raises(NotALora, match="peft_type = None"):
        parse_config(b"{}")


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b'{"r": NaN}',
        b'{"r": 8, "r": 9}',
        b"[" * 100_000,
        b"[]",
        b"",
    ],
    ids=["BOM", "UTF-16", "NaN", "duplicate", "deep", "list", "empty"],
)
def test_what_is_not_strict_json_is_refused(data: bytes) -> None:
    with pytest.raises(AdapterConfigInvalid, match=r"^adapter_config.json"):
        parse_config(data)


def test_what_peft_writes_where_the_task_was_left_out_passes() -> None:
    with_mapping = parsed(
        auto_mapping={
            "base_model_class": "LlamaForCausalLM",
            "parent_library": "transformers.models.llama.modeling_llama",
        }
    )
    assert with_mapping == parsed()


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", True),
        ("gpt2", True),
        ("../../etc", False),
        ("/home/somebody/model", False),
        ("file:///etc/passwd", False),
        ("a/b/c", False),
        ("C:\\models\\x", False),
    ],
)
def test_only_a_hub_id_is_stored_as_the_base_model(name: str, kept: bool) -> None:
    config = parsed(base_model_name_or_path=name)
    assert config.base_model_name_or_path == name
    stored = json.loads(rebuild_config(config, modules=["q_proj"]))
    assert stored["base_model_name_or_path"] == (name if kept else None)


@pytest.mark.parametrize(
    ("pattern", "path", "rank"),
    [
        ("q_proj", "model.layers.0.self_attn.q_proj", 2),
        ("self_attn.q_proj", "model.layers.0.self_attn.q_proj", 2),
        ("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.q_proj", 2),
        ("^model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.q_proj", 2),
        ("^q_proj", "model.layers.0.self_attn.q_proj", 8),
        ("proj", "model.layers.0.self_attn.q_proj", 8),
        ("layers.0.self_attn", "model.layers.0.self_attn.q_proj", 8),
        ("k_proj", "model.layers.0.self_attn.q_proj", 8),
        ("q_proj", "q_proj", 2),
    ],
)
def test_rank_patterns_match_as_in_peft(pattern: str, path: str, rank: int) -> None:
    from peft.utils.other import get_pattern_key

    config = parsed(rank_pattern={pattern: 2})
    assert config.rank_of(path) == rank
    assert ({pattern: 2}.get(get_pattern_key([pattern], path), 8)) == rank


def test_the_first_pattern_that_matches_counts() -> None:
    assert parsed(rank_pattern={"q_proj": 2, "self_attn.q_proj": 4}).rank_of("a.self_attn.q_proj") == 2


def test_what_is_stored_reads_as_what_was_given() -> None:
    config = parsed(
        use_rslora=True, rank_pattern={"q_proj": 4}, alpha_pattern={"q_proj": 5.5}, task_type="CAUSAL_LM"
    )
    assert parse_config(rebuild_config(config, modules=["a.q_proj"])) == config


def test_what_is_stored_keeps_the_order_of_patterns_for_the_first_that_fits_holds() -> None:
    patterns = {"layers.0.q_proj": 64, "b_proj": 2, "a_proj": 4}
    config = parsed(rank_pattern=patterns, alpha_pattern=patterns)
    again = parse_config(rebuild_config(config, modules=["a.q_proj"]))
    assert list(again.rank_pattern) == list(again.alpha_pattern) == list(patterns)


def test_what_is_stored_is_what_peft_reads(tmp_path: Path) -> None:
    saved = as_peft_saves(tmp_path, use_rslora=True, rank_pattern={"q_proj": 4}, task_type="CAUSAL_LM")
    config = parse_config(json.dumps(saved).encode())
    (tmp_path / "adapter_config.json").write_bytes(rebuild_config(config, modules=["a.q_proj"]))
    again = LoraConfig.from_pretrained(str(tmp_path))
    assert (again.r, again.lora_alpha, again.use_rslora) == (8, 16, True)
    assert again.rank_pattern == {"q_proj": 4}
    assert again.target_modules == {"q_proj"}


def test_nothing_but_known_fields_is_stored() -> None:
    stored = json.loads(rebuild_config(parsed(revision="x", something_new=""), modules=["q_proj"]))
    assert "revision" not in stored
    assert "something_new" not in stored


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": "all-linear"},
        {"target_modules": "All-Linear"},
        {"target_modules": r".*\.[qv]_proj"},
        {"exclude_modules": ["k_proj"]},
        {"exclude_modules": r".*k_proj"},
        {"layers_to_transform": [1]},
    ],
)
def test_ambiguous_module_names_are_stored_resolved(fields: dict[str, Any]) -> None:
    stored = json.loads(rebuild_config(parsed(**fields), modules=["layers.1.v_proj", "layers.1.q_proj"]))
    assert stored["target_modules"] == ["layers.1.q_proj", "layers.1.v_proj"]
