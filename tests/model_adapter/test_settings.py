"""Settings of the model, on their way from flags through the environment to the scheduler."""

import pytest

from serval_sglang.settings import ModelSettings, model_settings, model_variables


def test_model_settings_defaults() -> None:
    assert model_settings({}) == ModelSettings(ngram_tables="device", moe_overlap_tokens=0)


def test_model_settings_read_model_variables() -> None:
    variables = model_variables(ngram_tables="host", moe_overlap_tokens=64, grammar_drafts=False)
    assert model_settings(variables) == ModelSettings(
        ngram_tables="host", moe_overlap_tokens=64, grammar_drafts=False
    )
    assert model_variables(ngram_tables=None, moe_overlap_tokens=None) == {}
    assert model_settings(model_variables(ngram_tables=None, moe_overlap_tokens=0)) == ModelSettings()


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("SERVAL_NGRAM_TABLES", "disk", "must be one of device, host, got 'disk'"),
        ("SERVAL_MOE_OVERLAP_TOKENS", "-1", "number of tokens, 0 for never, got '-1'"),
        ("SERVAL_MOE_OVERLAP_TOKENS", "", "number of tokens"),
        ("SERVAL_GRAMMAR_DRAFTS", "no", "must be True or False, got 'no'"),
    ],
)
def test_model_settings_refuse_invalid_value(variable: str, value: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model_settings({variable: value})
