"""Tools for chat templates that know none: Jinja that goes before the template and rewrites its messages.

It is part of the template then: what it writes can be control tokens, and what messages and schemas say cannot.
"""

from collections.abc import Iterator

from langchain_saffron.tools.form_preamble import quoted

# The wording of Hermes and Qwen 2.5.
_INTRODUCTION = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_END = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
    "</tool_call>"
)
_PREAMBLE = """
{%- set saffron = namespace(list=[], tools='', text='', parts=false, result=false) -%}
{%- if tools -%}
{%- set saffron.tools = INTRODUCTION -%}
{%- for tool in tools -%}{%- set saffron.tools = saffron.tools + '\\n' + (tool | tojson) -%}{%- endfor -%}
{%- set saffron.tools = saffron.tools + END -%}
{%- endif -%}
{%- if ROLE == 'system' and saffron.tools and messages[0].role != 'system' -%}
{%- set saffron.list = [{'role': 'system', 'content': saffron.tools}] -%}
{%- set saffron.tools = '' -%}
{%- endif -%}
{%- for message in messages -%}
{%- set saffron.parts = message.content is not string -%}
{%- set saffron.text = message.content[0].text if saffron.parts else message.content -%}
{%- for call in message.tool_calls or [] -%}
{%- set saffron.text = saffron.text + ('\\n' if saffron.text else '') + '<tool_call>\\n{"name": '
  + (call.function.name | tojson) + ', "arguments": ' + (call.function.arguments | tojson) + '}\\n</tool_call>' -%}
{%- endfor -%}
{%- if message.role == 'tool' -%}
{%- set saffron.text = '<tool_response>\\n' + saffron.text + '\\n</tool_response>' -%}
{%- endif -%}
{%- set role = 'user' if message.role == 'tool' else message.role -%}
{%- if saffron.tools and role == ROLE -%}
{%- if ROLE == 'system' -%}{%- set saffron.text = saffron.text + '\\n\\n' + saffron.tools -%}
{%- else -%}{%- set saffron.text = saffron.tools + '\\n\\n' + saffron.text -%}{%- endif -%}
{%- set saffron.tools = '' -%}
{%- endif -%}
{%- if saffron.result and role == 'user' and (message.role == 'tool' or JOIN) -%}
{%- set saffron.text = saffron.list[-1].content + ('\\n' if message.role == 'tool' else '\\n\\n') + saffron.text -%}
{%- set saffron.list = saffron.list[:-1] -%}
{%- endif -%}
{%- set saffron.result = message.role == 'tool' -%}
{%- set saffron.list = saffron.list + [{'role': role, 'content': saffron.text}] -%}
{%- endfor -%}
{%- set messages = saffron.list -%}
{%- set tools = none -%}
"""
# what a template takes that wants a list of parts for a text
_PARTS = """
{%- set saffron.list = [] -%}
{%- for message in messages -%}
{%- set saffron.list = saffron.list
  + [{'role': message.role, 'content': [{'type': 'text', 'text': message.content}]}] -%}
{%- endfor -%}
{%- set messages = saffron.list -%}
"""


def with_tools_in_messages(source: str) -> Iterator[str]:
    """`source` with tools written into the system message and, for templates without one, into the user's first.

    Results of tools are the user's. Those that follow each other make one message; where turns have to alternate, so
    does a question that follows them.
    """
    whole = "".join([*_PREAMBLE.strip().splitlines(), "{%- if saffron.parts -%}", *_PARTS.strip().splitlines()])
    for role in ("system", "user"):
        for join in ("false", "true"):
            preamble = whole + "{%- endif -%}"
            for name, text in {"INTRODUCTION": _INTRODUCTION, "END": _END, "ROLE": role}.items():
                preamble = preamble.replace(name, quoted(text))
            # an empty output at the end: without it, blanks that the template begins with would be lost
            yield preamble.replace("JOIN", join) + "{{ '' }}" + source
