"""Texts in a template: as YAML, with Jinja's own characters kept from Jinja."""

import pytest
import yaml

from endpoints.quoting import Expr, Text, emit

PLAIN = [
    "",
    "one",
    "two\nlines",
    "ends\n",
    "\n\n",
    "a\n  b\n",
    " a \n b ",
    'it\'s "quoted"',
    "back\\slash \\n",
    "ünï \x7f\u2028\t",
    "- : #",
]


@pytest.mark.parametrize("text", PLAIN)
def test_a_text_comes_back_from_yaml_as_it_was(text: str) -> None:
    assert yaml.safe_load(emit({"a": {"b": text}})) == {"a": {"b": text}}


@pytest.mark.parametrize("text", ["{{ x }}", "{% if %}", "{# gone #}", "${#array[@]}", "{{{"])
def test_jinja_finds_nothing_of_its_own_in_a_text(text: str) -> None:
    assert text not in emit({"a": text})
    assert emit({"a": text}).replace("{{ '{' }}", "{").strip() == f'a: "{text}"'


def test_a_brace_before_an_expression_does_not_become_part_of_it() -> None:
    assert emit({"a": Text(("{", Expr("x")))}) == "\na: \"{{ '{' }}{{ x }}\""


def test_lists_numbers_and_mappings() -> None:
    value = {"a": [1, "b"], "c": {"d": True, "e": None, "f": 0.5}, "g": []}
    assert yaml.safe_load(emit(value)) == value
