"""Chat templates that write tool calls as families of models do, in as few words as possible."""

_FRAME = (
    "{% if tools %}{{ '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}CALLS{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_LOOP = "{% if m.tool_calls %}OPEN{% for c in m.tool_calls %}{% set f = c.function %}ONE{% endfor %}CLOSE{% endif %}"


def _template(one: str, opening: str = "", closing: str = "") -> str:
    loop = _LOOP.replace("OPEN", opening).replace("CLOSE", closing).replace("ONE", one)
    return _FRAME.replace("CALLS", loop)


def _each(one: str) -> str:
    return "{% for k, v in f.arguments.items() %}" + one + "{% endfor %}"


_COMMA = "{% if not loop.last %}, {% endif %}"
_JSON = "{{ f.arguments | tojson }}"
_RAW = "{{ v if v is string else (v | tojson) }}"
_SHOWN = "{{ v if v is string else ((v | tojson) if v is mapping or v is sequence else (v | string)) }}"
_QUOTED = "{{ ([v] | string)[1:-1] }}"

MISTRAL = _template(
    '{"name": "{{ f.name }}", "arguments": ' + _JSON + ', "id": "{{ c.id }}"}' + _COMMA, "[TOOL_CALLS] [", "]"
)
MISTRAL_ARGS = _template("[TOOL_CALLS]{{ f.name }}[CALL_ID]{{ c.id }}[ARGS]" + _JSON)
DEEPSEEK = _template(
    "<|call_begin|>{{ f.name }}<|call_sep|>" + _JSON + "<|call_end|>", "<|calls_begin|>", "<|calls_end|>"
)
KIMI = _template(
    "<|call_begin|>functions.{{ f.name }}:{{ loop.index0 }}<|call_args|>" + _JSON + "<|call_end|>",
    "<|section_begin|>",
    "<|section_end|>",
)
HARMONY = _template(" to=functions.{{ f.name }}<|channel|>commentary json<|message|>" + _JSON + "<|call|>")
XML = _template(
    "{{ '<tool_call>\n<function=' + f.name + '>\n' }}"
    + _each("{{ '<parameter=' + k + '>\n' }}" + _SHOWN + "{{ '\n</parameter>\n' }}")
    + "{{ '</function>\n</tool_call>' }}{% if not loop.last %}{{ '\n' }}{% endif %}"
)
ARG_KEYS = _template(
    "<tool_call>{{ f.name + '\n' }}"
    + _each("<arg_key>{{ k + '</arg_key>\n' }}<arg_value>" + _RAW + "{{ '</arg_value>\n' }}")
    + "</tool_call>"
)
TYPED = _template(
    '<invoke name="{{ f.name }}">'
    + _each("<p name=\"{{ k }}\" string=\"{{ 'true' if v is string else 'false' }}\">" + _RAW + "</p>")
    + "</invoke>",
    "<calls>",
    "</calls>",
)
MARKED = _template(
    '<function name="{{ f.name }}">'
    + _each(
        "<param name=\"{{ k }}\">{% if v is string and ('<' in v or '&' in v or '\n' in v) %}<![CDATA[{{ v }}]]>"
        "{% else %}{{ v }}{% endif %}</param>"
    )
    + "</function>"
)
PYTHONIC = _template(
    "{{ f.name }}(" + _each("{{ k }}=" + _QUOTED + _COMMA) + ")" + _COMMA, "<|calls|>[", "]<|calls_end|>"
)
BARE_PYTHONIC = _template("{{ f.name }}(" + _each("{{ k }}=" + _QUOTED + _COMMA) + ")" + _COMMA, "[", "]")
BARE_LIST = _template('{"name": "{{ f.name }}", "arguments": ' + _JSON + "}" + _COMMA, "[", "]")
OWN = (
    "{% macro w(v) %}{% if v is string %}{{ '<|\"|>' + v + '<|\"|>' }}{% elif v is boolean %}{{ v | tojson }}"
    "{% elif v is mapping %}{{ '{' }}{% for k, x in v | dictsort %}{{ k }}:{{ w(x) }}{% if not loop.last %},{% endif %}"
    "{% endfor %}{{ '}' }}{% elif v is sequence %}[{% for x in v %}{{ w(x) }}{% if not loop.last %},{% endif %}"
    "{% endfor %}]{% else %}{{ v }}{% endif %}{% endmacro %}"
) + _template(
    "<|call>call:{{ f.name }}{{ '{' }}{% for k, v in f.arguments | dictsort %}{{ k }}:{{ w(v) }}"
    "{% if not loop.last %},{% endif %}{% endfor %}{{ '}' }}<call|>"
)
# forgets the quotes of strings
UNQUOTED = _template("{{ f.name }}(" + _each("{{ k }}={{ v }}" + _COMMA) + ")" + _COMMA, "[", "]")
# shows tools, speaks of the form, and leaves calls out
DROPPING = "{# <|tool_call|> #}" + _FRAME.replace("CALLS", "")
# of no form that is known
UNKNOWN = _template("{{ f.name | upper }}: {{ f.arguments | length }}")

FAMILIES = {
    "mistral": MISTRAL,
    "mistral_args": MISTRAL_ARGS,
    "deepseek": DEEPSEEK,
    "kimi": KIMI,
    "harmony": HARMONY,
    "xml": XML,
    "arg_keys": ARG_KEYS,
    "typed": TYPED,
    "marked": MARKED,
    "pythonic": PYTHONIC,
    "bare_pythonic": BARE_PYTHONIC,
    "bare_list": BARE_LIST,
    "own": OWN,
}
MARKERS = (
    "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]", "<|calls_begin|>", "<|calls_end|>", "<|call_begin|>", "<|call_sep|>",
    "<|call_end|>", "<|section_begin|>", "<|section_end|>", "<|call_args|>", "<|channel|>", "<|message|>", "<|calls|>",
    "<|call>", "<call|>", '<|"|>', "<|tool_call|>", "</parameter>",
)  # fmt: skip
