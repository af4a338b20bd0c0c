"""The options that say which models, shared by the subcommands, and the chat model that they make."""

import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langchain_saffron.cli.console import notice, quieten, told_if_slow
from langchain_saffron.errors import SettingsError
from langchain_saffron.settings import Quantization

if TYPE_CHECKING:
    from langchain_saffron.chat_models import ChatSaffron

MODELS = "Models"
LOADING = "loading …"

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="PATH|ID",
        help="The policy: a directory, a GGUF file or a Hugging Face id, or smollm2, a small real model with reward "
        "models of its own. Without it the small embedded kitchen models answer.",
        rich_help_panel=MODELS,
    ),
]
RewardModel = Annotated[
    str | None,
    typer.Option(
        metavar="PATH|ID",
        help="The multifurcation reward model (MRM) that guides the search; needed with --model, "
        "except for --effort off.",
        rich_help_panel=MODELS,
    ),
]
RewardBase = Annotated[
    str | None,
    typer.Option(
        metavar="PATH|ID",
        help="The MRM's base model, where the MRM names none that can be found.",
        rich_help_panel=MODELS,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:1, …; by default the accelerator if there is one.", rich_help_panel=MODELS),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="float32, bfloat16, float16 or auto (the checkpoint's own); by default float32 on a CPU, else auto.",
        rich_help_panel=MODELS,
    ),
]

QuantizationOption = Annotated[
    Quantization | None,
    typer.Option(
        "--quantization",
        metavar="int8",
        help="int8: the weights of policy and reward model in eight bits, for a CPU; layers that lose by it stay.",
        rich_help_panel=MODELS,
    ),
]


ChatTemplateFile = Annotated[
    Path | None,
    typer.Option(
        "--chat-template",
        exists=True,
        dir_okay=False,
        help="A file with a Jinja chat template in place of the model's own.",
        rich_help_panel=MODELS,
    ),
]


def load_chat(options: dict[str, Any], *, told: bool, weights: bool = True) -> "ChatSaffron":
    """A `ChatSaffron` with these fields and its weights.

    What libraries say while they load stays out: what is wrong with a model is an error of our own.

    Args:
        options: Fields; `None` stands for not given. A chat template may be a file.
        told: Whether a line says that a real model is being loaded, and bars show its download on a terminal.
        weights: Whether weights are loaded; without, fields and models are checked, as other processes load them.

    Raises:
        ValidationError: A value is not allowed.
        ModelLoadError: A model cannot be loaded.
    """
    from langchain_saffron.chat_models import ChatSaffron

    warnings.filterwarnings("ignore", message="no model= was given")
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(template := given.get("chat_template"), Path):
        given["chat_template"] = template.read_text(encoding="utf-8")
    if not str(given.get("reward_model", "-")).strip():
        raise SettingsError("reward_model: an empty string names no model")
    chat = ChatSaffron(**given)
    if chat.model is None:
        notice("the small embedded kitchen models answer: a toy world of recipes; --model takes a real one")
    told = told and chat.model is not None
    quieten(keep_progress=False, keep_warnings=False, keep_downloads=told and sys.stderr.isatty())
    if weights:
        with told_if_slow(LOADING) if told else nullcontext():
            chat.load()
    else:
        chat.check_models()
    return chat
