"""`saffron serve`: the model behind an OpenAI-compatible endpoint."""

import logging
import warnings
from pathlib import Path
from typing import Annotated

import typer

from langchain_saffron.cli.console import notice
from langchain_saffron.cli.options import (
    MODELS,
    ChatTemplateFile,
    Device,
    Dtype,
    Model,
    QuantizationOption,
    RewardBase,
    RewardModel,
    load_chat,
)
from langchain_saffron.errors import SettingsError
from langchain_saffron.extras import REPLICAS, SERVER
from langchain_saffron.settings import Effort, Mask, OnExhausted, Verify

SERVING = "Server"
DECODING = "Decoding, where a request does not say"
BUDGET = "Compute budget of an answer, where a request does not say"


def serve(
    model: Model = None,
    reward_model: RewardModel = None,
    reward_base: RewardBase = None,
    process_reward_model: Annotated[
        str | None,
        typer.Option(
            "--prm",
            metavar="PATH|ID",
            help="The process reward model (PRM) that --verify asks, or requests with verify: a guard model or a "
            "classifier. That of embedded models goes by their name, and --verify brings it.",
            rich_help_panel=MODELS,
        ),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    quantization: QuantizationOption = None,
    chat_template: ChatTemplateFile = None,
    host: Annotated[
        str, typer.Option(help="Where to listen; 0.0.0.0 for all addresses.", rich_help_panel=SERVING)
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="0 for any that is free.", rich_help_panel=SERVING)
    ] = 8000,
    replicas: Annotated[
        int,
        typer.Option(
            min=1,
            help="So many processes on this machine, each with its own models, behind one port (extra ray).",
            rich_help_panel=SERVING,
        ),
    ] = 1,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[TENANT:]KEY",
            help="A key that is let in; may be given several times. Each is a tenant of its own, but for those that "
            "name the same one. Without any, everybody is let in. Others can see a command's options: prefer the "
            "variable (keys between spaces) or --api-key-file.",
            rich_help_panel=SERVING,
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A file of such keys, one a line.", rich_help_panel=SERVING),
    ] = None,
    served_model_name: Annotated[
        str | None, typer.Option(help="What clients call the model.", rich_help_panel=SERVING)
    ] = None,
    max_model_len: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of prompt and answer, where the model takes more.", rich_help_panel=SERVING),
    ] = None,
    max_cache_tokens: Annotated[
        int | None,
        typer.Option(min=1, help=r"Slots of each model's KV cache. \[default: 32,768]", rich_help_panel=SERVING),
    ] = None,
    max_running: Annotated[
        int, typer.Option(min=1, help="Requests that search at a time.", rich_help_panel=SERVING)
    ] = 64,
    max_queue: Annotated[
        int, typer.Option(min=0, help="Requests that may wait besides; one more gets a 503.", rich_help_panel=SERVING)
    ] = 256,
    max_body_mib: Annotated[
        float, typer.Option(min=0.001, help="MiB of a request; more gets a 413.", rich_help_panel=SERVING)
    ] = 4.0,
    rate_limit: Annotated[
        int | None,
        typer.Option(min=1, help="Requests a minute and key; more get a 429.", rich_help_panel=SERVING),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Seconds after which a request fails.", rich_help_panel=SERVING)
    ] = None,
    shutdown_timeout: Annotated[
        float,
        typer.Option(
            min=0, help="Seconds that running answers get to end in, once told to stop.", rich_help_panel=SERVING
        ),
    ] = 30.0,
    rules: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="A YAML file of what requests may have, by route, tenant and tool.",
            rich_help_panel=SERVING,
        ),
    ] = None,
    audit_log: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="A file that gets a line about every answer in which the safe decoding stepped in.",
            rich_help_panel=SERVING,
        ),
    ] = None,
    log_prompts: Annotated[
        bool,
        typer.Option(
            "--log-prompts",
            help="Log what is asked and answered, too; answers in the audit log.",
            rich_help_panel=SERVING,
        ),
    ] = False,
    effort: Annotated[
        Effort | None,
        typer.Option(
            metavar="EFFORT", help=r"off, low, medium, high or max. \[default: medium]", rich_help_panel=DECODING
        ),
    ] = None,
    width: Annotated[
        int | None, typer.Option(min=1, help="Beams; overrides what --effort says.", rich_help_panel=DECODING)
    ] = None,
    min_width: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Beams kept at least where the KV cache is full; requests can only raise it.",
            rich_help_panel=DECODING,
        ),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The longest answer.", rich_help_panel=DECODING)] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="Above 0, the search samples.", rich_help_panel=DECODING)
    ] = None,
    refusal_threshold: Annotated[
        float | None,
        typer.Option(
            help="Say nothing whose predicted safety reward lies below this; requests can only raise it.",
            rich_help_panel=DECODING,
        ),
    ] = None,
    mask: Annotated[
        Mask | None,
        typer.Option(metavar="MASK", help=r"strict, soft or off. \[default: auto]", rich_help_panel=DECODING),
    ] = None,
    verify: Annotated[
        Verify | None,
        typer.Option(
            metavar="MODEL",
            help="prm: a process reward model reads every sentence before it is shown, and overrules the reward model; "
            "requests cannot go without.",
            rich_help_panel=DECODING,
        ),
    ] = None,
    max_tflops: Annotated[
        float | None, typer.Option(help="Forward TFLOP of both models.", rich_help_panel=BUDGET)
    ] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Seconds.", rich_help_panel=BUDGET)] = None,
    max_reward_calls: Annotated[
        int | None, typer.Option(min=1, help="Sequences scored by the reward model.", rich_help_panel=BUDGET)
    ] = None,
    on_budget: Annotated[
        OnExhausted | None,
        typer.Option(metavar="ACTION", help=r"narrow, stop or refuse. \[default: narrow]", rich_help_panel=BUDGET),
    ] = None,
) -> None:
    """Serve the model by OpenAI's protocol: /v1/chat/completions, /v1/completions, /v1/models, /health, /metrics.

    Every option can be set by an environment variable instead: SAFFRON_ and its name, such as SAFFRON_API_KEY.
    The first SIGTERM or Ctrl-C lets running answers end, a second one stops at once.

    For example:

    saffron serve

    SAFFRON_API_KEY="alice:sk-one bob:sk-two" saffron serve --host 0.0.0.0 --model my-policy --reward-model my-mrm
    """
    SERVER.require()
    options = {
        "model": model,
        "reward_model": reward_model,
        "reward_base": reward_base,
        "process_reward_model": process_reward_model,
        "device": device,
        "dtype": dtype,
        "quantization": quantization,
        "chat_template": chat_template,
        "max_cache_tokens": max_cache_tokens,
        "effort": effort,
        "width": width,
        "min_width": min_width,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "refusal_threshold": refusal_threshold,
        "mask": mask,
        "verify": verify,
        "max_tflops": max_tflops,
        "max_seconds": max_seconds,
        "max_reward_calls": max_reward_calls,
        "on_budget": on_budget,
        "timeout": timeout,
    }
    if replicas > 1:
        REPLICAS.require()
        if (device or "").startswith("cuda:"):
            raise SettingsError("device: each replica sees a GPU of its own and no other; say 'cuda', or leave it out")
    from langchain_saffron.server.process import check_port
    from langchain_saffron.server.process import serve as serve_app
    from langchain_saffron.server.rules import Rules
    from langchain_saffron.server.settings import MEBIBYTE, ServerSettings
    from langchain_saffron.server.tenants import keys_in

    settings = ServerSettings(
        api_keys=(*(api_key or ()), *(keys_in(api_key_file) if api_key_file else ())),
        served_name=served_model_name,
        max_running=max_running,
        max_queue=max_queue,
        max_body=int(max_body_mib * MEBIBYTE),
        max_model_len=max_model_len,
        rate_limit=rate_limit,
        shutdown_timeout=shutdown_timeout,
        log_prompts=log_prompts,
        rules=Rules() if rules is None else Rules.read(rules),
        audit_log=audit_log,
    )
    check_port(host, port)
    chat_model = load_chat(options, told=True, weights=replicas == 1)
    # it would repeat what requests hold
    warnings.filterwarnings("ignore", message="chat_template_kwargs: ")
    logging.basicConfig(format="%(levelname)s: %(message)s")
    logging.getLogger("langchain_saffron.server").setLevel(logging.INFO)
    if not settings.api_keys:
        notice("no --api-key was given: whoever reaches the port is let in")
    if replicas > 1:
        from langchain_saffron.server.cluster import serve_replicas

        given = {name: getattr(chat_model, name) for name in chat_model.model_fields_set}
        serve_replicas(given, settings, replicas, host, port)
        return
    from langchain_saffron.server.app import create_app

    serve_app(create_app(chat_model, settings), host, port, shutdown_timeout)
