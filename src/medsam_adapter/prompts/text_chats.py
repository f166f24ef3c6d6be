"""The two language models that can be asked for texts: one on this machine, one behind an OpenAI-compatible server.

A chat is a callable: messages [{"role": "system" | "user", "content": text}] -> the answer as text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit, urlunsplit

from ..errors import CheckpointError, PromptError

Messages = list[dict[str, str]]
Chat = Callable[[Messages], str]


def local_chat(model_id: str, *, seed: int = 0, temperature: float = 0.8, max_new_tokens: int = 1024) -> Chat:
    """A chat model of the Hub or of a folder, run by transformers.

    Args:
        seed: the n-th answer is drawn with seed + n, the caller's random numbers stay as they are.
        temperature: 0 takes the most likely word each time, and then the seed does not matter.

    Raises:
        CheckpointError: there is no such model, or it has no chat template.
    """
    import torch
    from transformers import pipeline

    try:
        generator = pipeline("text-generation", model=model_id)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise CheckpointError(
            "cannot be opened as a language model",
            file=model_id,
            expected="a folder or Hub id of a chat model for transformers",
            found=_one_line(error),
            hint="check the name; without a network the model must have been downloaded before",
        ) from error
    if not getattr(generator.tokenizer, "chat_template", None):
        raise CheckpointError(
            "is no chat model",
            file=model_id,
            expected="a tokenizer with a chat template",
            found="none",
            hint="take the version of the model that is made for instructions (-Instruct, -it, -chat)",
        )
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    num_answers = 0

    def chat(messages: Messages) -> str:
        nonlocal num_answers
        with torch.random.fork_rng():
            torch.manual_seed(seed + num_answers)
            num_answers += 1
            answer = generator(messages, max_new_tokens=max_new_tokens, return_full_text=False, **sampling)
        return answer[0]["generated_text"]

    return chat


def endpoint_chat(
    url: str,
    model: str | None = None,
    api_key: str | None = None,
    *,
    seed: int = 0,
    temperature: float = 0.8,
    max_new_tokens: int = 1024,
    timeout_s: float = 120,
) -> Chat:
    """A server that answers POST {url}/v1/chat/completions: OpenAI, vLLM, llama.cpp, an Inference Endpoint.

    Args:
        url: with or without /v1 or /v1/chat/completions.
        model: name of the model, for servers that have several.
        api_key: sent as bearer token and shown in no message. Without it no token is sent, the saved one of
            huggingface_hub neither.
        seed: the n-th answer is asked for with seed + n.

    Raises:
        PromptError: here if the URL is none, and by the chat if the server does not answer or answers in another form.
    """
    from huggingface_hub import InferenceClient
    from huggingface_hub.errors import HTTPError

    shown = _shown(url)
    # None would send the token that huggingface_hub has saved, to whatever server this is.
    client = InferenceClient(base_url=url, api_key=api_key or "none", timeout=timeout_s)
    num_answers = 0

    def chat(messages: Messages) -> str:
        nonlocal num_answers
        try:
            answer = client.chat_completion(
                messages,
                model=model,
                seed=seed + num_answers,
                temperature=temperature,
                max_tokens=max_new_tokens,
            )
            num_answers += 1
        except (HTTPError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise PromptError(
                "the endpoint does not answer as it should",
                file=shown,
                expected="an OpenAI-compatible answer to POST .../v1/chat/completions",
                found=_without_secrets(_one_line(error), api_key, shown),
                hint="check the URL, that the server runs, the model's name and the API key",
            ) from None  # the cause's text may have the key
        choices = getattr(answer, "choices", None)
        content = choices[0].message.content if choices else None
        if not isinstance(content, str) or not content.strip():
            raise PromptError(
                "the endpoint's answer has no text",
                file=shown,
                expected="choices[0].message.content",
                found="an empty answer",
                hint="a model that thinks first may need more tokens than it has",
            )
        return content

    return chat


def _shown(url: str) -> str:
    """The URL without user, password and query, which can be secrets."""
    try:
        parts = urlsplit(url)
        host = parts.hostname and f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname
    except ValueError:
        parts, host = urlsplit(""), None
    if not host or parts.scheme not in ("http", "https"):
        raise PromptError(
            "the endpoint is no URL",
            expected="http://HOST:PORT/v1, for example",
            found=url if "@" not in url and "?" not in url else "(not shown, as it may hold a password)",
        )
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]} ..."


def _without_secrets(text: str, api_key: str | None, shown: str) -> str:
    text = re.sub(r"https?://[^\s'\"]+", shown, text)
    return text.replace(api_key, "***") if api_key else text
