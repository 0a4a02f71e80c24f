"""Go templates: what users of docker and podman write, and limits for hostile values."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.cli.format.template import Template
from lamina.cli.format.template_record import NO_LIST, NO_MAP, Record
from lamina.errors import LimitExceeded, UsageError

CONFIG = Record(
    {"Cmd": ["sh", "-c", "x"], "Labels": {"a": "1", "b.c/d-e": "two"}, "ExposedPorts": {"80/tcp": {}, "443/tcp": {}}},
    absent={"Env": NO_LIST, "Volumes": NO_MAP, "User": ""},
)
VALUE = Record(
    {
        "ID": "sha256:0123456789ab",
        "Config": CONFIG,
        "Layers": [{"Size": 5}, {"Size": 1000}],
        "Size": 1005,
        "Names": ["one", "two"],
        "Name": "é",
        "Ratio": 0.5,
        "None": None,
        "Yes": True,
    },
    methods={"Label": lambda name: CONFIG["Labels"].get(name, "")},
)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        # fields
        ("{{.ID}}", "sha256:0123456789ab"),
        ("{{ .Config.Cmd }}", "[sh -c x]"),
        ("{{.Id}} {{.size}}", "sha256:0123456789ab 1005"),
        ("{{json .Config.Env}} {{json .Config.Volumes}}", "null null"),
        ("{{.Config.Env}} {{.Config.Volumes}} ({{.Config.User}})", "[] map[] ()"),
        ("{{.None}} {{.None.Deeper}} {{.Config.Labels.nothing}}", "<no value> <no value> <no value>"),
        ("{{.Config.Labels}}", "map[a:1 b.c/d-e:two]"),
        ('{{.Label "b.c/d-e"}}', "two"),
        ("{{.Yes}} {{.Ratio}} {{.Size}}", "true 0.5 1005"),
        # index, slice, len
        ('{{index .Config.Labels "b.c/d-e"}}', "two"),
        ('{{index .Config.Labels "nothing"}}|{{index .None "x"}}', "|"),
        ("{{index .Config.Cmd 1}} {{(index .Layers 1).Size}}", "-c 1000"),
        ('{{index .Config.ExposedPorts "80/tcp"}}', "map[]"),
        ("{{slice .ID 7 11}} {{slice .Config.Cmd 1}} {{slice .Names 0 1}}", "0123 [-c x] [one]"),
        ("{{len .Names}} {{len .Name}} {{len .Config.Env}} {{len .Config.Labels}}", "2 2 0 2"),
        # comparison and logic
        ('{{eq .Name "é"}} {{eq .Size 1 1005}} {{ne .Size 1}} {{not .None}}', "true true true true"),
        ("{{lt 1 2}} {{le 2 2}} {{gt .Size 2000}} {{ge .Ratio 0.5}}", "true true false true"),
        ("{{and .Name .None}}|{{or .None .Name}}|{{and 1 2}}|{{or 0 0}}", "<no value>|é|2|0"),
        ("{{or .Yes (index .Names 9)}} {{and .None (index .Names 9)}}", "true <no value>"),
        # texts
        (
            '{{printf "%-6s|%6s|%05d|%.2f|%q|%x|%v|%%" "ab" "cd" 42 1.5 "q" 255 .Names}}',
            'ab    |    cd|00042|1.50|"q"|ff|[one two]|%',
        ),
        ('{{printf "%d %s" "x"}} {{printf "a" 1}}', "%!d(string=x) %!s(MISSING) a%!(EXTRA int=1)"),
        ('{{print 1 2 "a" "b" 3}}|{{println "a" 1}}', "1 2a b3|a 1\n".replace("a b", "ab")),
        ('{{join .Names ", "}} {{split "a,b" ","}} {{upper .Name}} {{lower "AB"}}', "one, two [a b] É ab"),
        ('{{title "go on fooBar"}} {{truncate .ID 6}} {{pad "x" 1 2}}|', "Go On FooBar sha256  x  |"),
        (r'{{"a\tb\"\u00e9"}} {{`raw\t`}}', 'a\tb"é raw\\t'),
        (r"{{.Name}}\t{{.Size}}\n", "é\t1005\n"),
        # pipelines and parentheses
        ('{{.Names | len | printf "%03d"}}', "002"),
        ("{{.Config.Labels | json}}", '{"a":"1","b.c/d-e":"two"}'),
        ('{{printf "%s-%s" (index .Names 0) (upper (index .Names 1))}}', "one-TWO"),
        ("{{if and (eq .Size 1005) (not .None)}}yes{{end}}", "yes"),
        ("{{(.Config).Cmd}}", "[sh -c x]"),
        # variables
        ("{{$x := .Size}}{{$x}} {{$x = 3}}{{$x}} {{$.Name}}", "1005 3 é"),
        ("{{$x := 1}}{{if true}}{{$x := 2}}{{$x}}{{end}}{{$x}}", "21"),
        ("{{$x := 1}}{{range .Names}}{{$x = .}}{{end}}{{$x}}", "two"),
        ("{{with $c := .Config}}{{$c.Cmd}}{{end}}", "[sh -c x]"),
        # control
        ("{{range .Names}}{{.}},{{end}}", "one,two,"),
        ("{{range $i, $e := .Names}}{{$i}}={{$e}} {{end}}", "0=one 1=two "),
        ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}} {{$.Size}};{{end}}", "a=1 1005;b.c/d-e=two 1005;"),
        ("{{range $p, $_ := .Config.ExposedPorts}}{{$p}} {{end}}", "443/tcp 80/tcp "),
        ("{{range .Config.Env}}x{{else}}none{{end}}", "none"),
        ('{{range .Names}}{{if eq . "two"}}{{continue}}{{end}}{{.}}{{end}}', "one"),
        ("{{range .Names}}{{.}}{{break}}{{end}}", "one"),
        ("{{range 3}}{{.}}{{end}}", "012"),
        ("{{if .None}}a{{else if .Yes}}b{{else}}c{{end}}", "b"),
        ("{{if .None}}a{{else if false}}b{{else}}c{{end}}d", "cd"),
        ("{{with .None}}a{{else with .Config}}{{.Cmd}}{{end}}", "[sh -c x]"),
        ("{{with .Config}}{{.Cmd}}{{$.Size}}{{end}}", "[sh -c x]1005"),
        # trimming and comments
        ("a  {{- 1 -}}  b", "a1b"),
        ("a{{/* a comment }} */}}b {{- /* another */ -}} c", "abc"),
        ("{{-1}} {{- -1}}", "-1-1"),
        ('{{"}}"}}{{"{{"}}', "}}{{"),
    ],
)
def test_output_is_the_same_as_in_go(template: str, text: str) -> None:
    assert Template(template).render(VALUE) == text


@pytest.mark.parametrize(
    ("template", "why", "place"),
    [
        ("{{.ID", "an action is not closed", "character 1"),
        ("ab {{.ID}} {{", "an action is not closed", "character 12"),
        ("{{end}}", "unexpected {{end}}", "character 3"),
        ("{{if .ID}}x", "if without end", "character 3"),
        ("{{if .ID}}{{else}}{{else}}{{end}}", "a second else", "character 21"),
        ("{{range}}{{end}}", "a value is missing", "character 3"),
        ("{{}}", "a value is missing", "character 3"),
        ("{{.A |}}", "a value is missing", ""),
        ("{{nonsense .ID}}", "'nonsense' is not a field or function", "character 3"),
        ("{{ID}}", "'ID' is not a field or function", "character 3"),
        ("{{(.ID}}", "a parenthesis is not closed", "character 3"),
        ("{{.ID)}}", "unexpected ')'", "character 6"),
        ('{{"abc}}', "a string is not closed", "character 3"),
        (r'{{"\q"}}', "unknown escape", "character 4"),
        ("{{$x}}", "no variable $x", "character 3"),
        ("{{$x = 1}}", "no variable $x", "character 3"),
        ("{{if true}}{{$x := 1}}{{end}}{{$x}}", "no variable $x", "character 32"),
        ("{{.Labels.a-b}}", "unexpected", "character 12"),
        ("{{1 2}}", "'1' takes no arguments", "character 3"),
        ("{{.A | 1}}", "takes no arguments", "character 8"),
        ("{{break}}", "break outside of range", "character 3"),
        ('{{template "x"}}', "{{template}} can't be had here", "character 3"),
        ('{{define "x"}}1{{end}}', "{{define}} can't be had here", "character 3"),
        ('{{block "x" .}}1{{end}}', "{{block}} can't be had here", "character 3"),
        ("{{/* x", "a comment is not closed", "character 1"),
        ("{{'ab'}}", "more than one character", "character 3"),
        ("one\ntwo {{nope}}", "'nope' is not a field or function", "line 2, character 7"),
    ],
)
def test_an_invalid_template_is_an_error_with_the_position(template: str, why: str, place: str) -> None:
    with pytest.raises(UsageError) as said:
        Template(template)
    assert why in said.value.message
    assert f"at {place}" in said.value.message
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{.Nope}}", "no field .Nope, at character 3"),
        ("{{.Config.Nope}}", "no field .Nope"),
        ("{{.Size.Deeper}}", ".Deeper of something that has no fields"),
        ("{{index .Names 7}}", "there is no position 7: the last one is 1"),
        ('{{index .Names "a"}}', "'a' is not a position"),
        ("{{index .Size 1}}", "a number has no parts"),
        ("{{slice .Names 2 1}}", "ends before it begins"),
        ("{{len .Size}}", "a number has no length"),
        ('{{eq .Size "1005"}}', "a number and a text can't be compared"),
        ("{{lt .Names .Names}}", "have no order"),
        ('{{join .ID ","}}', "a text is not a list"),
        ("{{join}}", "join takes 1 to 2 arguments, not 0"),
        ("{{eq .Size}}", "eq takes 2 or more arguments, not 1"),
        ("{{truncate .ID .Name}}", "is not a whole number"),
        ("{{range .Name}}{{end}}", "range over a value that is not a list"),
        ("{{.ID 5}}", ".ID is a field, and takes no arguments"),
        ("{{.Label}}", ".Label takes one argument"),
    ],
)
def test_a_missing_field_is_one_error(template: str, why: str) -> None:
    with pytest.raises(UsageError) as said:
        Template(template).render(VALUE)
    assert why in said.value.message


def test_an_unknown_field_lists_the_known_fields() -> None:
    with pytest.raises(UsageError) as said:
        Template("{{.Config.Nope}}").render(VALUE)
    assert said.value.hint == "known fields: Cmd, Env, ExposedPorts, Labels, User, Volumes"


@pytest.mark.parametrize(
    "template",
    [
        "{{range .Big}}x{{end}}",
        "{{range .Many}}{{range $.Many}}{{range $.Many}}{{end}}{{end}}{{end}}",
        "{{range .Many}}{{$.Long}}{{end}}",
    ],
)
def test_steps_for_a_hostile_value_are_limited(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.cli.format.template._STEPS", 5000)
    value = {"Big": 10**12, "Many": list(range(100)), "Long": "x" * (1 << 20)}
    with pytest.raises(LimitExceeded):
        Template(template).render(value)


@pytest.mark.parametrize(
    "growing",
    [
        "print $x $x",
        'printf "%s%s" $x $x',
        'join (split "abcdefgh" "") $x',
        'printf "' + "%1000000s" * 20 + '" $x $x $x $x $x $x $x $x $x $x $x $x $x $x $x $x $x $x $x $x',
        "upper (print $x $x) | json | json",
    ],
)
def test_doubled_text_is_limited(growing: str) -> None:
    """Doubled forty times, it would be a TiB."""
    template = Template('{{$x := "ab"}}{{range 40}}{{$x = ' + growing + "}}{{end}}{{len $x}}")
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match="a text of more than 16 MiB"):
            template.render({})
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "template",
    ['{{printf "%*d" .Big 1}}', '{{printf "%99999999d" 1}}', '{{pad "x" .Big 0}}', '{{printf "%.*f" .Big 1.5}}'],
)
def test_the_width_from_a_hostile_number_is_limited(template: str) -> None:
    with pytest.raises(UsageError, match="characters"):
        Template(template).render({"Big": 10**12})


def test_the_nesting_of_a_template_is_limited() -> None:
    for template in ("{{" + "(" * 500 + "1" + ")" * 500 + "}}", "{{if 1}}" * 500 + "{{end}}" * 500):
        with pytest.raises(UsageError, match="levels deep"):
            Template(template)


@pytest.mark.parametrize(
    ("template", "heading"),
    [
        ("{{.Repository}}\t{{.Tag}}", "REPOSITORY\tTAG"),
        ("{{.ID}}: {{.CreatedAt}}", "IMAGE ID: CREATED AT"),
        (r"{{.ID}}\t{{upper .Tag}}\t{{json .Tag}}", "IMAGE ID\tTAG\tTAG"),
        ("{{.Config.User}}", "USER"),
        ('{{printf "%-12s" .Tag}}|', "TAG         |"),
        ('{{.Label "x"}}', "LABEL"),
        ("{{if .Tag}}{{.Tag}}{{end}}", "TAG"),
        ("{{.Tag}}\t{{lt .Size 5}}", "TAG\tSIZE"),
        ('{{index .Labels "a"}}', "LABELS"),
    ],
)
def test_headings_of_a_table(template: str, heading: str) -> None:
    headings = {"Repository": "REPOSITORY", "Tag": "TAG", "ID": "IMAGE ID"}
    assert Template(template).heading(headings) == heading


def test_control_characters_are_escaped_as_json() -> None:
    value = {"text": "\x1b[1m\u202e\x9b"}
    told = Template("{{json .}}").render(value)
    assert told.isprintable()
    assert json.loads(told) == value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
PIECES = st.sampled_from(
    [
        "{{",
        "}}",
        "{{-",
        "-}}",
        ".A",
        ".",
        "$x",
        "$",
        ":=",
        "=",
        "|",
        "(",
        ")",
        ",",
        "if ",
        "range ",
        "with ",
        "end",
        "else",
        "eq ",
        "index ",
        "len ",
        "printf ",
        '"%v %5d %q"',
        "`",
        "1",
        "-1.5",
        " ",
        "text",
        "json ",
        "slice ",
        "/*",
        "*/",
        "\n",
    ]
)


@given(st.lists(PIECES, max_size=14).map("".join), JSON)
def test_any_template_gives_text_or_one_error(source: str, value: Any) -> None:
    try:
        assert isinstance(Template(source).render({"A": value}), str)
    except (UsageError, LimitExceeded):
        pass


@given(JSON)
def test_every_value_can_be_shown_and_encoded(value: Any) -> None:
    assert json.loads(Template("{{json .A}}").render({"A": value})) == value
    Template('{{.A}} {{printf "%v %s %d %q" .A .A .A .A}}').render({"A": value})
