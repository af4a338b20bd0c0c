"""Compiling a grammar for trial, in a process of its own that can be stopped."""

import re
import subprocess
import sys

from langchain_saffron.errors import GrammarError

SECONDS = 10.0
GIGABYTES = 2
# a number of bytes as vocabulary: what takes long does not depend on the tokens
_CHILD = """
import sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
except (ImportError, ValueError, OSError):
    pass
import llguidance

class Bytes:
    is_tokenizer_wrapper, bos_token_id, eos_token_id, special_token_ids = True, None, 256, []
    tokens = [bytes([i]) for i in range(256)] + [b""]

    def __call__(self, text):
        return list(text.encode())

limits = llguidance.LLParserLimits(verbose_errors=False)
llguidance.LLMatcher(llguidance.LLTokenizer(Bytes()), sys.stdin.buffer.read().decode(), log_level=0, limits=limits)
"""
_TOO_COMPLEX = (
    "takes more than {seconds:g} seconds or {gigabytes} GB to compile: use fewer patterns that have to hold at once, "
    "or shorter repetitions in them"
)


def needs_trial(source: str) -> bool:
    """Whether compiling may take minutes and gigabytes, which no limit of llguidance's bounds.

    That is where a schema asks for the intersection of patterns: whether anything is in it takes exponential time.

    Args:
        source: Lark, with its JSON schemas.
    """
    patterns = len(re.findall(r'"pattern"\s*:', source))
    named = len(re.findall(r'"patternProperties"\s*:', source))
    joined = any(f'"{word}"' in source for word in ("allOf", "$ref", "anyOf", "oneOf", "if"))
    return named > 0 or (patterns > 1 and joined)


def try_out(source: str, seconds: float = SECONDS) -> None:
    """Compile `source` in another process, once and for nothing.

    Args:
        source: Lark, with its JSON schemas.
        seconds: How long that may take.

    Raises:
        GrammarError: It took longer, or more memory than there is for it.
    """
    if not sys.executable:
        return
    command = [sys.executable, "-P", "-c", _CHILD, str(GIGABYTES << 30)]
    try:
        ended = subprocess.run(command, input=source.encode(), capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        pass
    except OSError:
        # no second process here: nothing has been learned
        return
    else:
        # an error of Python's says nothing about the grammar; a signal is the end of memory
        if ended.returncode >= 0:
            return
    raise GrammarError(_TOO_COMPLEX.format(seconds=seconds, gigabytes=GIGABYTES))
